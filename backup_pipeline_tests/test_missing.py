"""Missed days: a week's silence over a month's end and a change of clocks, and what fills it."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO
from zoneinfo import ZoneInfo

import pytest

from backup_pipeline.cli import main
from backup_pipeline.engine.errors import DayUnavailable, StoreUnavailable
from backup_pipeline.plan import load_plan, sourcekinds
from backup_pipeline.plan.cadence import cadence_days, due_day
from backup_pipeline.plan.sourcekind import Option, SourceKind
from backup_pipeline.runner import Runner
from backup_pipeline.sources.base import UNREADABLE, VANISHED, Unreadable
from backup_pipeline.sources.listing import Item, ListedSource

BERLIN = ZoneInfo("Europe/Berlin")
FIRST, SILENT, BACK = date(2026, 10, 1), date(2026, 10, 23), date(2026, 11, 2)
"""The clocks are put back on 25 October, a Sunday; the month ends on a Saturday."""

LAST_READ: list[tuple[str, date | None]] = []


class Diary(ListedSource):
    """One value a day; ``able`` knows what it was on any day since ``since``."""

    kind = "diary"

    def __init__(self, options: Mapping[str, Any], day: date | None = None) -> None:
        self._options = options
        self._day = day
        self.supports_as_of = options["able"]

    def describe(self) -> str:
        return "the diary"

    def _text(self) -> bytes:
        said = self._options.get("said", "")
        return f"{said}as of {self._day or Path(self._options['clock']).read_text()}".encode()

    def items(self) -> Iterator[Item]:
        text = self._text()
        yield Item("value.txt", len(text), etag=text.decode())

    def stream(self, path: str) -> BinaryIO:
        return io.BytesIO(self._text())

    def as_of(self, day: date) -> Diary:
        if day < date.fromisoformat(self._options["since"]):
            raise DayUnavailable(f"the diary begins on {self._options['since']}")
        return Diary(self._options, day)


def open_diary(
    options: Mapping[str, Any], *, exclude: Sequence[str] = (), day: date | None = None
) -> Diary:
    """Opened by name, as every kind is."""
    return Diary(options)


@pytest.fixture(autouse=True)
def diary(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kind of source that only these tests have."""
    options = {"clock": Option(), "able": Option("flag"), "since": Option(), "said": Option()}
    kind = SourceKind("diary", f"{__name__}:open_diary", options)
    monkeypatch.setitem(sourcekinds.BUILT_IN, "diary", kind)  # type: ignore[arg-type]


class Scene:
    """Three tiers of three cadences, and a clock that moves from tick to tick."""

    def __init__(self, root: Path, *, able: bool = True, since: str = "2026-01-01") -> None:
        self.root = root
        self.today_file = root / "today"
        self.document: dict[str, Any] = {
            "start": FIRST.isoformat(),
            "timezone": "Europe/Berlin",
            "encryption": "none",
            "stores": {name: str(root / name) for name in ("local", "cloud", "offsite")},
            "policies": {
                "default": {
                    "tiers": [
                        {
                            "name": "local",
                            "every": "day",
                            "kind": "incremental",
                            "full_every": "2 weeks",
                            "keep": {"daily": 40},
                        },
                        {
                            "name": "cloud",
                            "every": "week",
                            "kind": "incremental",
                            "full_every": "12 weeks",
                            "keep": {"weekly": 12},
                        },
                        {"name": "offsite", "every": "month", "kind": "full"},
                    ]
                }
            },
            "datasets": [
                {
                    "asset": "diary",
                    "source": {
                        "diary": {"clock": str(self.today_file), "able": able, "since": since}
                    },
                }
            ],
        }
        self.now = datetime.combine(FIRST, datetime.min.time(), BERLIN).astimezone(UTC)

    def cloud(self, **rules: Any) -> Scene:
        self.document["policies"]["default"]["tiers"][1].update(rules)
        return self

    def runner(self) -> Runner:
        self.today_file.write_text(self.now.astimezone(BERLIN).date().isoformat())
        return Runner(load_plan(self.document), clock=lambda: self.now)

    def live(self, until: date) -> Scene:
        """Every hour, do what the schedules would ask for."""
        while self.now.astimezone(BERLIN).date() < until:
            local = self.now.astimezone(BERLIN)
            if local.hour == 2 and local.fold == 0:
                with self.runner() as runner:
                    spec = runner.plan.dataset("diary")
                    for rules in spec.tiers.values():
                        day = due_day(rules, self.now, BERLIN)
                        if day is not None and day >= FIRST:
                            runner.backup("diary", rules.name, day=day)
            self.now += timedelta(hours=1)
        return self

    def silent(self, until: date = BACK) -> Scene:
        """Nothing runs; then it is noon."""
        self.now = datetime.combine(until, datetime.min.time(), BERLIN).astimezone(UTC)
        self.now += timedelta(hours=12)
        return self

    def content(self, tier: str, day: date) -> str:
        target = self.root / "out" / f"{tier}-{day}"
        with self.runner() as runner:
            runner.restore("diary", tier=tier, day=day, to=target)
        return (target / "value.txt").read_text()


def days(first: date, last: date) -> list[date]:
    return [first + timedelta(days=age) for age in range((last - first).days + 1)]


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    """A source that can go back, after the silence."""
    return Scene(tmp_path).live(SILENT).silent()


def test_a_week_of_silence_is_filled_exactly_where_the_source_can_go_back(scene: Scene) -> None:
    with scene.runner() as runner:
        found = runner.missing()
        told: list[tuple[str, date]] = []
        report = runner.backfill(tell=lambda one, _: told.append((one.tier, one.day)))
    gone = days(SILENT, BACK - timedelta(days=1))
    sundays, first = [date(2026, 10, 25), date(2026, 11, 1)], [date(2026, 11, 1)]
    assert [one.day for one in found if one.tier == "local"] == gone
    assert [one.day for one in found if one.tier == "cloud"] == sundays
    assert [one.day for one in found if one.tier == "offsite"] == first
    assert Counter(one.way for one in found) == {"source": 10, "copy": 3}
    # Day by day, the tier that the others copy first.
    assert told == sorted(
        told, key=lambda one: (one[1], ["local", "cloud", "offsite"].index(one[0]))
    )
    assert not report.left
    assert {one.snapshot.timing for one in report.filled} == {"exact"}
    for tier, tier_days in (("local", gone), ("cloud", sundays), ("offsite", first)):
        for day in tier_days:
            assert scene.content(tier, day) == f"as of {day}"
    with scene.runner() as runner:
        assert runner.missing() == []
        assert runner.backfill().filled == []
        assert all(not one.late_days for one in runner.status())


def test_what_cannot_be_had_exactly_is_refused_or_late_and_stays_late(tmp_path: Path) -> None:
    scene = Scene(tmp_path, able=False).cloud(if_missed="nearest").live(SILENT).silent()
    with scene.runner() as runner:
        ways = {(one.tier, one.day.isoformat()): one.way for one in runner.missing()}
        assert {way for (tier, _), way in ways.items() if tier == "local"} == {None}
        assert ways["cloud", "2026-10-25"] == ways["cloud", "2026-11-01"] == "nearest"
        assert ways["offsite", "2026-11-01"] == "copy"  # of the stand-in, which says that it is one
        assert not runner.backfill(exact_only=True).filled
        report = runner.backfill()
    assert [one.snapshot.timing for one in report.filled] == ["late"] * 3
    assert [one.day for one in report.left] == days(SILENT, BACK - timedelta(days=1))
    assert all("knows no past states" in one.reason for one in report.left)
    assert scene.content("cloud", date(2026, 10, 25)) == "as of 2026-10-22"

    scene.live(date(2026, 11, 20))
    with scene.runner() as runner:
        [cloud] = runner.status(tier="cloud")
        late = [date(2026, 10, 25), date(2026, 11, 1)]
        assert cloud.late_days == late
        assert {one.day for one in runner.snapshots(tier="cloud") if one.timing == "late"} == {
            *late
        }
        # What is there, late, is not missing; what cannot be had still is.
        assert {one.tier for one in runner.missing()} == {"local"}


def test_an_interrupted_backfill_goes_on_where_it_ended(scene: Scene) -> None:
    tried: list[date] = []

    def stop(one: Any, _: str) -> None:
        tried.append(one.day)
        if len(tried) == 4:
            raise KeyboardInterrupt

    with scene.runner() as runner, pytest.raises(KeyboardInterrupt):
        runner.backfill(tell=stop)
    with scene.runner() as runner:
        report = runner.backfill()
        assert (len(report.filled), report.left) == (13 - 4, [])
        for tier in ("local", "cloud", "offsite"):
            rules = runner.plan.dataset("diary").tier(tier)
            expected = cadence_days(rules, FIRST, BACK - timedelta(days=1))
            assert [one.day for one in runner.snapshots(tier=tier)] == expected


def test_a_source_goes_back_only_so_far_and_the_rest_says_why(tmp_path: Path) -> None:
    scene = Scene(tmp_path, since="2026-10-29").live(SILENT).silent()
    with scene.runner() as runner:
        report = runner.backfill()
        assert {one.missed.day for one in report.filled if one.missed.tier == "local"} == set(
            days(date(2026, 10, 29), date(2026, 11, 1))
        )
        assert {one.reason for one in report.left if one.tier == "local"} == {
            "no other tier holds it, and the diary begins on 2026-10-29"
        }


def test_days_that_retention_would_drop_at_once_are_not_filled(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    for tier in scene.document["policies"]["default"]["tiers"]:
        tier["keep"] = {"daily": 3}
    scene.live(SILENT).silent()
    with scene.runner() as runner:
        runner.backup("diary")  # today, which counts as one of the three days
        found = {(one.tier, one.day): one for one in runner.missing()}
        # Kept here for the sake of the weekly tier, which would keep it and has yet to copy it.
        assert found["local", date(2026, 10, 25)].way == "source"
        assert found["local", date(2026, 10, 24)].reason == "retention would let go of it at once"
        runner.backfill()
        filled = {one.day for one in runner.snapshots(tier="local") if one.day >= SILENT}
    assert filled == {date(2026, 10, 25), date(2026, 10, 31), date(2026, 11, 1), BACK}


def test_a_day_that_another_tier_holds_comes_from_there(scene: Scene) -> None:
    with scene.runner() as runner:
        runner.backfill()
        before = len(runner.snapshots())
    for path in (scene.root / "local").rglob("*"):
        if path.is_file():
            path.unlink()
    scene.document["datasets"][0]["source"]["diary"]["able"] = False
    with scene.runner() as runner:
        report = runner.backfill(until=BACK)
        origins = {one.missed.day: one.missed.origin for one in report.filled}
        sundays = [day for day in days(FIRST, BACK) if day.weekday() == 6]
        assert origins == {FIRST: "offsite", **dict.fromkeys(sundays, "cloud")}
        assert {one.snapshot.timing for one in report.filled} <= {"exact", "on-time"}
        assert len(report.left) == before - 7 - len(report.filled)


def test_a_tier_out_of_reach_is_said_and_the_others_are_filled(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = Runner._repository

    def away(self: Runner, spec: Any, rules: Any) -> Any:
        if rules.name == "cloud":
            raise StoreUnavailable("the cloud does not answer")
        return found(self, spec, rules)

    monkeypatch.setattr(Runner, "_repository", away)
    with scene.runner() as runner:
        report = runner.backfill()
    assert {one.missed.tier for one in report.filled} == {"local", "offsite"}
    assert any("tier cloud cannot be asked" in notice for notice in report.notices)
    assert [(one.dataset, one.tier) for one in report.unasked] == [("diary", "cloud")]


@pytest.mark.parametrize(("state", "again"), [(VANISHED, 0), (UNREADABLE, 1)])
def test_what_has_vanished_from_a_day_is_not_asked_for_again(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, state: str, again: int
) -> None:
    def broken(self: Diary, path: str) -> BinaryIO:
        raise Unreadable(state, "it cannot be had")

    def made() -> int:
        with scene.runner() as runner:
            return sum(one.day == SILENT for one in runner.snapshots(tier="local"))

    span = {"since": SILENT, "until": SILENT}
    with monkeypatch.context() as patch:
        patch.setattr(Diary, "stream", broken)
        for count in (1, 1 + again):
            with scene.runner() as runner:
                [left] = runner.backfill(**span).left
            assert left.incomplete
            assert made() == count
    assert ("what it lacks is gone from" in left.reason) == (state == VANISHED)
    # Where the state is another, there may be more.
    scene.document["datasets"][0]["source"]["diary"]["said"] = "rewritten: "
    with scene.runner() as runner:
        assert len(runner.backfill(**span).filled) == 1
    assert scene.content("local", SILENT) == f"rewritten: as of {SILENT}"


def test_exit_codes_tell_days_that_are_wanted_back_from_tiers_that_cannot_be_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    today = datetime.now(UTC).date()
    (tmp_path / "data").write_text("1")
    plan = tmp_path / "backup.yaml"
    plan.write_text(
        f"start: {today - timedelta(days=6)}\nencryption: none\n"
        f"stores: {{local: {tmp_path}/local, cloud: {tmp_path}/cloud}}\n"
        "policies: {default: {tiers: [{name: local, every: day, kind: full, keep: {last: 1}},"
        " {name: cloud, every: month, kind: full, keep: {last: 1}}]}}\n"
        f"datasets: [{{asset: a, source: {tmp_path}/data}}]\n"
    )
    assert main(["backup", "--tier", "local", "--plan", str(plan)]) == 0
    span = ["--tier", "local", "--until", str(today - timedelta(days=2)), "--plan", str(plan)]
    capsys.readouterr()
    assert main(["missing", "--json", *span]) == 0, "retention wants none of them back"
    document = json.loads(capsys.readouterr().out)
    assert document["missed"]
    assert all(one["expendable"] for one in document["missed"])
    assert main(["backfill", "--missing", *span]) == 0

    def away(self: Runner, spec: Any, rules: Any) -> Any:
        raise StoreUnavailable(f"tier {rules.name} does not answer")

    monkeypatch.setattr(Runner, "_repository", away)
    capsys.readouterr()
    for verb in (["missing"], ["backfill", "--missing"], ["backfill", "--missing", "--dry-run"]):
        assert main([*verb, "--json", *span]) == 3
        [unasked] = json.loads(capsys.readouterr().out)["unasked"]
        assert unasked["tier"] == "local"
        assert "does not answer" in unasked["reason"]


def test_the_command_line_says_what_is_missing_and_fills_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    today = datetime.now(UTC).date()
    folder = tmp_path / "events"
    start = today - timedelta(days=6)
    for day in days(start, today - timedelta(days=3)):
        (folder / f"day={day}").mkdir(parents=True)
        (folder / f"day={day}" / "a.txt").write_text(str(day))
    plan = tmp_path / "backup.yaml"
    plan.write_text(
        f"start: {start}\nencryption: none\nstores: {{local: {tmp_path}/store}}\ndatasets:\n"
        f"  - {{asset: events, source: '{folder}/day={{day}}', holds: slice}}\n"
    )
    assert main(["backup", "--plan", str(plan), "--day", str(start + timedelta(days=2))]) == 0
    capsys.readouterr()
    # Yesterday's run may not be due yet, whenever this runs.
    last = ["--until", str(today - timedelta(days=2)), "--plan", str(plan)]
    assert main(["missing", *last]) == 1
    said = capsys.readouterr().out
    assert f"{start} to {start + timedelta(days=1)}" in said
    assert "the state of that day, from" in said
    assert main(["backfill", "--plan", str(plan)]) == 2
    assert "--missing" in capsys.readouterr().err
    assert main(["backfill", "--missing", *last, "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    filled = [one["day"] for one in document["filled"]]
    assert len(filled) == 3
    assert {one["timing"] for one in document["filled"]} == {"exact"}
    # One day's folder is not there, which is no reason to leave the others.
    [left] = document["left"]
    gone = str(today - timedelta(days=2))
    assert left["day"] == gone
    assert f"day={gone}" in left["reason"]

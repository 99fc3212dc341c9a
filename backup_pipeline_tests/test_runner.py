"""The runner tells each day truly: on real repositories, under a clock that the tests set."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import backup_pipeline.engine.repository as repository_module
from backup_pipeline.engine.errors import (
    DamageError,
    DayUnavailable,
    NotFound,
    SourceError,
    StoreError,
    StoreUnavailable,
    UsageError,
    WrongKey,
)
from backup_pipeline.engine.format.pack import FRAMES_START
from backup_pipeline.engine.keys import Passphrase, new_key_file, parse_key_file
from backup_pipeline.plan import load_plan
from backup_pipeline.runner import Runner, backup, parse_share, parse_time
from backup_pipeline.runner.days import describe_days, nearest_day

KEY = new_key_file()
DATASET = "vision/a"
DAILY = {"every": "day", "kind": "incremental", "full_every": "4 weeks"}
WEEKLY = {"every": "week", "weekday": "sunday", "kind": "incremental", "full_every": "12 weeks"}
AWAY: dict[str, Any] = {
    "stores": {
        "cloud": {
            "url": "s3://backups/x",
            "endpoint": "http://127.0.0.1:9",
            "region": "us-east-1",
            "access_key_id": {"env": "ID"},
            "secret_access_key": {"env": "SECRET"},
        }
    },
    "environ": {"ID": "a", "SECRET": "b"},
}
"""A cloud tier that cannot be reached."""


def day(text: str) -> date:
    return date.fromisoformat(f"2026-{text}")


def moment(text: str) -> datetime:
    return datetime.fromisoformat(f"2026-{text}+00:00")


class Scene:
    """A dataset, stores and a clock; makes runners of plans over them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.source = root / "data"
        self.source.mkdir()
        self.now = moment("11-20T10:00")
        self.write("a.txt", "one")

    def write(self, name: str, text: str) -> None:
        path = self.source / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def plan(self, *tiers: dict[str, Any], **more: Any) -> dict[str, Any]:
        chosen = tiers or (
            {"name": "local", **DAILY},
            {"name": "cloud", **DAILY},
        )
        dataset = {"asset": DATASET, "source": str(self.source), **more.pop("dataset", {})}
        stores = {tier["name"]: str(self.root / "stores" / tier["name"]) for tier in chosen}
        return {
            "start": "2026-11-01",
            "stores": stores | more.pop("stores", {}),
            "keys": {"main": {"key_file": {"env": "TEST_KEY"}}},
            "policies": {"default": {"tiers": list(chosen), **more.pop("policy", {})}},
            "datasets": [dataset],
            **more,
        }

    def runner(self, *tiers: dict[str, Any], **more: Any) -> Runner:
        environ = {"TEST_KEY": KEY, **more.pop("environ", {})}
        plan = load_plan(self.plan(*tiers, **more), environ=environ)
        return Runner(plan, clock=lambda: self.now, environ=environ)

    def lose(self, tier: str) -> None:
        shutil.rmtree(self.root / "stores" / tier)

    def lose_source(self) -> None:
        shutil.rmtree(self.source)


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


# -- the first tier, whole


def test_today_is_read_on_time_and_each_run_of_a_day_makes_a_snapshot(scene: Scene) -> None:
    runner = scene.runner()
    first = runner.backup(DATASET)
    scene.now += timedelta(hours=1)
    scene.write("b.txt", "two")
    second = runner.backup(DATASET)
    assert [one.snapshot.kind for one in (first, second)] == ["full", "incremental"]
    assert {one.snapshot.day for one in (first, second)} == {day("11-20")}
    assert {one.snapshot.timing for one in (first, second)} == {"on-time"}
    assert second.created
    assert second.snapshot.parent == first.snapshot.id
    assert second.snapshot.captured_at == scene.now


def test_a_day_is_the_local_date_of_the_plans_time_zone(scene: Scene) -> None:
    scene.now = moment("11-20T23:30")  # half past midnight in Berlin
    assert scene.runner(timezone="Europe/Berlin").backup(DATASET).snapshot.day == day("11-21")
    assert scene.runner(stores={"local": str(scene.root / "utc")}).backup(
        DATASET
    ).snapshot.day == day("11-20")


def test_a_closed_day_with_a_good_snapshot_is_answered_with_it_and_nothing_is_read(
    scene: Scene,
) -> None:
    runner = scene.runner()
    made = runner.backup(DATASET)
    scene.lose_source()
    scene.now = moment("11-25T10:00")
    again = runner.backup(DATASET, day=day("11-20"))
    assert not again.created
    assert again.snapshot.id == made.snapshot.id
    assert "nothing was read" in again.reason


def test_a_missed_day_is_refused_and_the_days_that_can_be_had_are_listed(scene: Scene) -> None:
    runner = scene.runner()
    runner.backup(DATASET)
    scene.now = moment("11-22T10:00")
    with pytest.raises(DayUnavailable, match="2026-11-20, 2026-11-22") as refused:
        runner.backup(DATASET, day=day("11-21"))
    assert refused.value.available == (day("11-20"), day("11-22"))
    assert "late: accept" in str(refused.value.hint)
    assert len(runner.snapshots()) == 1


def test_where_the_policy_accepts_late_the_snapshot_of_a_missed_day_says_so(scene: Scene) -> None:
    runner = scene.runner(policy={"late": "accept"})
    made = runner.backup(DATASET, day=day("11-18"))
    assert (made.snapshot.timing, made.snapshot.day) == ("late", day("11-18"))
    assert made.snapshot.captured_at == scene.now
    assert not runner.backup(DATASET, day=day("11-18")).created


def test_a_lost_day_comes_back_from_another_tier_as_it_was(scene: Scene) -> None:
    runner = scene.runner(policy={"late": "accept"})
    made = runner.backup(DATASET).snapshot
    scene.now = moment("11-21T10:00")
    runner.backup(DATASET, "cloud")
    scene.lose("local")
    scene.write("a.txt", "changed since")
    back = scene.runner().backup(DATASET, day=day("11-20")).snapshot
    assert back.tier == "local"
    assert (back.timing, back.captured_at) == ("on-time", made.captured_at)
    assert back.origin is not None
    assert back.origin["tier"] == "cloud"
    scene.runner().restore(DATASET, scene.root / "back", tier="local", day=day("11-20"))
    assert (scene.root / "back" / "a.txt").read_text() == "one"


def test_a_late_snapshot_of_another_tier_does_not_get_past_a_policy_that_refuses_late(
    scene: Scene,
) -> None:
    tiers = ({"name": "local", **DAILY}, {"name": "cloud", **WEEKLY, "if_missed": "nearest"})
    scene.runner(*tiers).backup(DATASET)
    scene.now = moment("11-24T10:00")
    late = scene.runner(*tiers).backup(DATASET, "cloud", day=day("11-22"))
    assert late.snapshot.timing == "late"
    with pytest.raises(DayUnavailable):
        scene.runner(*tiers).backup(DATASET, day=day("11-22"))
    accepted = scene.runner(*tiers, policy={"late": "accept"})
    taken = accepted.backup(DATASET, day=day("11-22")).snapshot
    assert (taken.timing, taken.captured_at) == ("late", late.snapshot.captured_at)


def test_a_source_that_knows_the_past_answers_for_it_exactly(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    from backup_pipeline.sources import files

    past = scene.root / "past"
    past.mkdir()
    (past / "a.txt").write_text("as it was")

    def as_of(_: Any, wanted: date) -> files.FilesSource:
        if wanted < day("11-10"):
            raise DayUnavailable("its history begins on 2026-11-10")
        return files.FilesSource(str(past))

    monkeypatch.setattr(files.FilesSource, "supports_as_of", True)
    monkeypatch.setattr(files.FilesSource, "as_of", as_of)
    runner = scene.runner()
    made = runner.backup(DATASET, day=day("11-15")).snapshot
    assert made.timing == "exact"
    runner.restore(DATASET, scene.root / "back", day=day("11-15"))
    assert (scene.root / "back" / "a.txt").read_text() == "as it was"
    with pytest.raises(DayUnavailable, match="its history begins on 2026-11-10"):
        runner.backup(DATASET, day=day("11-05"))


def test_within_the_grace_after_midnight_yesterday_is_on_time_where_it_is_missing(
    scene: Scene,
) -> None:
    scene.now = moment("11-21T00:29")
    runner = scene.runner()
    made = runner.backup(DATASET, day=day("11-20"))
    assert (made.created, made.snapshot.timing) == (True, "on-time")
    assert not runner.backup(DATASET, day=day("11-20")).created
    scene.now = moment("11-21T00:30")
    with pytest.raises(DayUnavailable):
        runner.backup(DATASET, day=day("11-19"))


def test_a_day_in_the_future_is_a_mistake(scene: Scene) -> None:
    with pytest.raises(UsageError, match="in the future"):
        scene.runner().backup(DATASET, day=day("11-21"))


def test_force_reads_no_present_state_into_the_past(scene: Scene) -> None:
    runner = scene.runner()
    runner.backup(DATASET)
    scene.now = moment("11-22T10:00")
    with pytest.raises(DayUnavailable):
        runner.backup(DATASET, day=day("11-20"), force=True)
    runner.backup(DATASET, "cloud", day=day("11-20"))
    again = runner.backup(DATASET, day=day("11-20"), force=True)
    assert again.created
    assert again.snapshot.origin is not None


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs an unreadable entry")
def test_an_incomplete_snapshot_does_not_count_as_having_the_day(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_unreadable(scene, monkeypatch, b"a.txt")
    runner = scene.runner()
    made = runner.backup(DATASET)
    assert (made.snapshot.status, made.snapshot.problem_count) == ("incomplete", 1)
    scene.now = moment("11-21T10:00")
    with pytest.raises(DayUnavailable):
        runner.backup(DATASET, "cloud")
    with pytest.raises(DayUnavailable):
        runner.backup(DATASET, day=day("11-20"))
    with pytest.raises(NotFound, match=made.snapshot.id[:12]):
        runner.find(DATASET, day=day("11-20"))
    with pytest.raises(UsageError, match="incomplete"):
        runner.copy(DATASET, from_tier="local", to_tier="cloud", snapshot=made.snapshot.id)
    report = runner.restore(DATASET, scene.root / "back", snapshot=made.snapshot.id[:8])
    assert any("incomplete" in notice for notice in report.notices)


def make_unreadable(scene: Scene, monkeypatch: pytest.MonkeyPatch, name: bytes) -> None:
    """The tests run as root, who may read all: refuse one entry as the system would."""
    from backup_pipeline.sources.base import Unreadable
    from backup_pipeline.sources.files import FilesSource

    original = FilesSource.open

    def refuse(self: FilesSource, path: bytes, *rest: Any, **more: Any) -> Any:
        if path == name:
            raise Unreadable("unreadable", "Permission denied")
        return original(self, path, *rest, **more)

    def not_whole(*_: Any) -> None:
        """The short way for small files leaves it to ``open``."""

    monkeypatch.setattr(FilesSource, "open", refuse)
    monkeypatch.setattr(FilesSource, "read_whole", not_whole)


# -- later tiers


def test_a_later_tier_copies_a_closed_day_and_reads_no_source(scene: Scene) -> None:
    runner = scene.runner()
    made = runner.backup(DATASET).snapshot
    with pytest.raises(DayUnavailable, match="2026-11-21 00:30"):
        runner.backup(DATASET, "cloud", day=day("11-20"))
    scene.lose_source()
    scene.now = moment("11-21T00:30")
    copied = runner.backup(DATASET, "cloud")
    assert copied.created
    assert (copied.snapshot.day, copied.snapshot.captured_at) == (made.day, made.captured_at)
    assert copied.snapshot.timing == "on-time"
    assert copied.snapshot.origin == {"tier": "local", "snapshot": made.id, "digest": made.digest}
    assert not runner.backup(DATASET, "cloud", day=day("11-20")).created


def test_a_tier_copies_from_any_tier_that_has_the_day(scene: Scene) -> None:
    tiers = [{"name": name, **DAILY} for name in ("local", "cloud", "offsite")]
    scene.runner(*tiers).backup(DATASET)
    scene.now = moment("11-21T10:00")
    scene.runner(*tiers).backup(DATASET, "cloud")
    scene.lose("local")
    copied = scene.runner(*tiers).backup(DATASET, "offsite")
    assert copied.snapshot.origin is not None
    assert copied.snapshot.origin["tier"] == "cloud"


def test_a_damaged_tier_is_passed_over_for_one_that_is_whole(scene: Scene) -> None:
    tiers = [{"name": name, **DAILY} for name in ("local", "cloud", "offsite")]
    runner = scene.runner(*tiers)
    runner.backup(DATASET)
    scene.now = moment("11-21T10:00")
    runner.backup(DATASET, "cloud")
    damage(scene, "local")
    copied = scene.runner(*tiers).backup(DATASET, "offsite")
    assert copied.snapshot.origin is not None
    assert copied.snapshot.origin["tier"] == "cloud"
    assert any("tier local is damaged" in notice for notice in copied.notices)
    damage(scene, "cloud")
    with pytest.raises(DamageError):
        scene.runner(*tiers).backup(DATASET, "offsite", force=True, kind="full")


def damage(scene: Scene, tier: str) -> None:
    """Flip the bits of a byte in the first frame of every pack of a tier."""
    for pack in (scene.root / "stores" / tier).rglob("packs/*/*"):
        content = bytearray(pack.read_bytes())
        content[FRAMES_START + 1] ^= 0xFF
        pack.chmod(0o600)
        pack.write_bytes(content)


def test_no_substitute_is_stored_while_a_tier_that_may_hold_the_day_cannot_be_asked(
    scene: Scene,
) -> None:
    scene.runner({"name": "local", **DAILY}).backup(DATASET)
    runner = scene.runner(policy={"late": "accept"}, **AWAY)
    with pytest.raises(StoreUnavailable, match="may be in tier cloud"):
        runner.backup(DATASET, day=day("11-18"))
    assert runner.backup(DATASET, day=day("11-18"), force=True).snapshot.timing == "late"


def test_a_tier_that_only_some_datasets_have_can_be_listed(scene: Scene) -> None:
    plan = scene.plan()
    plan["datasets"].append(
        {
            "asset": "vision/b",
            "source": str(scene.source),
            "override": {"tiers": {"cloud": False}},
        }
    )
    environ = {"TEST_KEY": KEY}
    runner = Runner(load_plan(plan, environ=environ), clock=lambda: scene.now, environ=environ)
    for dataset in (DATASET, "vision/b"):
        runner.backup(dataset)
    assert [one.dataset for one in runner.snapshots()] == [DATASET, "vision/b"]
    assert runner.snapshots(tier="cloud") == []
    assert [one.dataset for one in runner.status(tier="cloud")] == [DATASET]
    with pytest.raises(UsageError, match="tiers: local, cloud"):
        runner.status(tier="clod")


def test_without_a_day_a_later_tier_takes_the_newest_closed_day_of_its_cadence(
    scene: Scene,
) -> None:
    tiers = ({"name": "local", **DAILY}, {"name": "cloud", **WEEKLY})
    runner = scene.runner(*tiers)
    scene.now = moment("11-22T10:00")  # a Sunday
    runner.backup(DATASET)
    scene.now = moment("11-25T10:00")
    runner.backup(DATASET)
    assert runner.backup(DATASET, "cloud").snapshot.day == day("11-22")


@pytest.mark.parametrize(
    ("there", "wanted", "taken"),
    [(("11-20", "11-24"), "11-22", "11-20"), (("11-19", "11-24"), "11-22", "11-24")],
)
def test_the_nearest_day_stands_in_and_is_marked_late(
    scene: Scene, there: tuple[str, ...], wanted: str, taken: str
) -> None:
    tiers = ({"name": "local", **DAILY}, {"name": "cloud", **WEEKLY, "if_missed": "nearest"})
    runner = scene.runner(*tiers)
    read: dict[str, datetime] = {}
    for text in (*there, "11-26"):
        scene.now = moment(f"{text}T10:00")
        read[text] = runner.backup(DATASET).snapshot.captured_at
    copied = runner.backup(DATASET, "cloud", day=day(wanted))
    assert (copied.snapshot.timing, copied.snapshot.day) == ("late", day(wanted))
    assert copied.snapshot.captured_at == read[taken]
    assert any(f"2026-{taken}" in notice for notice in copied.notices)


def test_the_nearest_day_is_never_one_that_is_still_open(scene: Scene) -> None:
    tiers = ({"name": "local", **DAILY}, {"name": "cloud", **WEEKLY, "if_missed": "nearest"})
    scene.now = moment("11-23T10:00")
    runner = scene.runner(*tiers)
    runner.backup(DATASET)
    with pytest.raises(DayUnavailable, match="2026-11-22"):
        runner.backup(DATASET, "cloud", day=day("11-22"))


def test_a_missed_day_fails_a_later_tier_that_takes_no_other(scene: Scene) -> None:
    runner = scene.runner()
    runner.backup(DATASET)
    scene.now = moment("11-22T10:00")
    with pytest.raises(DayUnavailable, match="if_missed: nearest") as refused:
        runner.backup(DATASET, "cloud", day=day("11-21"))
    assert refused.value.available == (day("11-20"),)


def test_what_was_copied_from_an_open_day_gives_way_to_the_days_last_snapshot(
    scene: Scene,
) -> None:
    runner = scene.runner()
    runner.backup(DATASET)
    early = runner.copy(DATASET, from_tier="local", to_tier="cloud")
    assert not runner.copy(DATASET, from_tier="local", to_tier="cloud").created
    scene.now = moment("11-20T22:00")
    scene.write("b.txt", "two")
    last = runner.backup(DATASET)
    scene.now = moment("11-21T10:00")
    copied = runner.backup(DATASET, "cloud")
    assert copied.created
    assert copied.snapshot.captured_at == last.snapshot.captured_at
    assert copied.snapshot.id != early.snapshot.id
    assert not runner.backup(DATASET, "cloud").created


def test_a_tier_from_the_source_reads_it_and_shares_the_datasets_keys(scene: Scene) -> None:
    tiers = ({"name": "local", **DAILY}, {"name": "cloud", **DAILY, "from": "source"})
    runner = scene.runner(*tiers)
    made = runner.backup(DATASET, "cloud").snapshot
    assert (made.origin, made.timing) == (None, "on-time")
    # Keys begin in the first tier, whichever tier runs first: two that begin at once meet there.
    first = runner.places(DATASET)[0].find()
    assert first is not None
    assert first.snapshots() == []
    runner.backup(DATASET)
    keys = [repository.keys for repository in runner.repositories(DATASET)]
    assert len(keys) == 2
    assert keys[0] == keys[1]


def test_a_tier_is_not_begun_while_a_tier_that_may_hold_the_keys_is_out_of_reach(
    scene: Scene,
) -> None:
    runner = scene.runner(**AWAY)
    with pytest.raises(StoreError, match="tier cloud may hold its keys"):
        runner.backup(DATASET)
    assert not (scene.root / "stores" / "local").exists()


def test_a_store_whose_preparation_was_interrupted_is_prepared_by_the_next_run(
    scene: Scene,
) -> None:
    store = scene.root / "stores" / "local"
    scene.runner().backup(DATASET)
    for left in ("keys", "repositories"):
        shutil.rmtree(store / left)
    runner = scene.runner()
    assert runner.snapshots() == []
    assert runner.backup(DATASET).created
    shutil.rmtree(store / "keys")
    with pytest.raises(DamageError, match="lost its key sets"):
        scene.runner().backup(DATASET)


def test_another_deployment_can_read_and_not_write(scene: Scene) -> None:
    scene.runner(deployment="prod").backup(DATASET)
    staging = scene.runner(deployment="staging")
    assert len(staging.snapshots()) == 1
    with pytest.raises(UsageError, match="deployment prod"):
        staging.backup(DATASET)
    with pytest.raises(UsageError, match="deployment prod"):
        scene.runner().backup(DATASET)


def test_a_store_that_holds_the_dataset_of_another_tier_is_not_written(scene: Scene) -> None:
    shared = {"local": str(scene.root / "one"), "cloud": str(scene.root / "one")}
    scene.runner({"name": "cloud", **DAILY}, stores=shared).backup(DATASET)
    with pytest.raises(UsageError, match="of tier cloud, not local"):
        scene.runner({"name": "local", **DAILY}, stores=shared).backup(DATASET)


# -- slices


def slices(scene: Scene) -> Callable[[], Runner]:
    source = str(scene.source / "day={day}")
    dataset = {"source": source, "holds": "slice", "keep_slices": "forever"}
    return lambda: scene.runner(dataset=dataset)


def test_a_slice_is_read_once_its_day_closed_and_is_exact(scene: Scene) -> None:
    for text in ("18", "19", "20"):
        scene.write(f"day=2026-11-{text}/events", text)
    runner = slices(scene)()
    with pytest.raises(DayUnavailable, match="not over"):
        runner.backup(DATASET, day=day("11-20"))
    newest = runner.backup(DATASET)
    older = runner.backup(DATASET, day=day("11-18"))
    assert [(one.snapshot.day, one.snapshot.timing) for one in (newest, older)] == [
        (day("11-19"), "exact"),
        (day("11-18"), "exact"),
    ]
    assert not runner.backup(DATASET, day=day("11-18")).created
    scene.write("day=2026-11-18/late", "came later")
    again = runner.backup(DATASET, day=day("11-18"), force=True)
    assert again.snapshot.files == 2
    with pytest.raises(SourceError):
        runner.backup(DATASET, day=day("11-17"))


def test_a_slice_that_the_source_dropped_comes_back_from_another_tier(scene: Scene) -> None:
    scene.write("day=2026-11-19/events", "x")
    made = slices(scene)()
    made.backup(DATASET)
    made.backup(DATASET, "cloud")
    scene.lose("local")
    shutil.rmtree(scene.source / "day=2026-11-19")
    back = slices(scene)().backup(DATASET, day=day("11-19"))
    assert back.snapshot.timing == "exact"
    assert back.snapshot.origin is not None


# -- finding


def test_snapshots_are_found_by_day_time_and_id(scene: Scene) -> None:
    runner = scene.runner()
    ids: list[str] = []
    for text in ("11-20T10:00", "11-20T18:00", "11-21T10:00"):
        scene.now = moment(text)
        ids.append(runner.backup(DATASET).snapshot.id)
    runner.copy(DATASET, from_tier="local", to_tier="cloud", snapshot=ids[2])

    def found(**selector: Any) -> tuple[str, str]:
        repository, snapshot = runner.find(DATASET, **selector)
        return repository.tier, snapshot.id

    assert found() == ("local", ids[2])
    assert found(day=day("11-20")) == ("local", ids[1])
    assert found(at=moment("11-20T17:00")) == ("local", ids[0])
    assert found(snapshot=ids[0][:10]) == ("local", ids[0])
    assert found(tier="cloud")[0] == "cloud"
    with pytest.raises(UsageError, match="no tier"):
        found(tier="clod")
    with pytest.raises(UsageError, match="give one of them"):
        found(day=day("11-20"), snapshot=ids[0])
    with pytest.raises(NotFound, match="2026-11-20, 2026-11-21"):
        found(day=day("11-19"))
    with pytest.raises(NotFound):
        found(at=moment("11-19T10:00"))
    with pytest.raises(NotFound):
        found(snapshot="nothing")
    assert runner.select(DATASET, "cloud:latest")[0].tier == "cloud"
    assert runner.select(DATASET, "2026-11-20T17:00Z")[1].id == ids[0]
    assert runner.select(DATASET, "2026-11-20")[1].id == ids[1]
    assert [one.id for one in runner.pair(DATASET)[1::2]] == [ids[1], ids[2]]


def test_a_tier_out_of_reach_is_left_out_with_a_notice_unless_it_was_named(scene: Scene) -> None:
    scene.runner({"name": "local", **DAILY}).backup(DATASET)
    runner = scene.runner(**AWAY)
    assert len(runner.snapshots()) == 1
    assert any("out of reach" in notice for notice in runner.notices)
    with pytest.raises(StoreError):
        runner.find(DATASET, tier="cloud")
    states = {one.tier: one for one in runner.status()}
    assert states["local"].fresh
    assert (states["cloud"].fresh, states["cloud"].error is None) == (False, False)


def test_the_store_alone_lists_and_restores_all_of_it(scene: Scene) -> None:
    scene.runner().backup(DATASET)
    url = str(scene.root / "stores" / "local")
    key = parse_key_file(KEY.encode())
    with Runner.for_store(url, None, [key]) as bare:
        assert bare.datasets() == [DATASET]
        assert [one.dataset for one in bare.snapshots()] == [DATASET]
        assert [entry.path for entry in bare.ls(DATASET)] == [b"a.txt"]
        assert bare.verify(DATASET).ok
        assert bare.restore(DATASET, scene.root / "back").ok
        with pytest.raises(NotFound, match=DATASET):
            bare.find("vision/b")
    with pytest.raises(WrongKey):
        Runner.for_store(url, None, [Passphrase(b"no")]).datasets()


def test_globs_that_match_nothing_are_told_before_anything_is_written(scene: Scene) -> None:
    runner = scene.runner()
    runner.backup(DATASET)
    with pytest.raises(NotFound, match=r"\*\.csv"):
        runner.restore(DATASET, scene.root / "back", include=["*.csv"])
    assert not (scene.root / "back").exists()


def test_a_drill_restores_to_the_plans_scratch_and_leaves_nothing(scene: Scene) -> None:
    scratch = scene.root / "scratch"
    runner = scene.runner(scratch={"url": f"file://{scratch}", "max": "1 KiB"})
    runner.backup(DATASET)
    report = runner.drill(DATASET, "local", sample="all")
    assert (report.ok, report.files) == (True, 1)
    assert list(scratch.iterdir()) == []
    scene.write("large", "x" * 5000)
    runner.backup(DATASET)
    with pytest.raises(UsageError, match="scratch"):
        runner.drill(DATASET, sample="all")


# -- standing


def test_status_tells_age_missing_and_late_days(scene: Scene) -> None:
    tiers = ({"name": "local", **DAILY}, {"name": "cloud", **WEEKLY, "if_missed": "nearest"})
    runner = scene.runner(*tiers, start="2026-11-19", policy={"rpo": "26 hours"})
    scene.now = moment("11-19T10:00")
    assert all(one.fresh and one.newest is None for one in runner.status())
    made = runner.backup(DATASET).snapshot
    scene.now = moment("11-23T10:00")
    runner.backup(DATASET, "cloud", day=day("11-22"))
    local, cloud = runner.status()
    assert local.newest is not None
    assert local.newest.id == made.id
    assert local.age_s == timedelta(days=4).total_seconds()
    assert not local.fresh
    assert local.missing_days == [day("11-20"), day("11-21"), day("11-22")]
    assert (cloud.missing_days, cloud.late_days) == ([], [day("11-22")])
    # The cloud's newest day is young, what it holds is not: age is that of the read.
    assert cloud.age_s == local.age_s
    assert local.to_json()["missing_days"][0] == "2026-11-20"


def test_a_fingerprint_changes_with_the_dataset_and_only_then(scene: Scene) -> None:
    runner = scene.runner()
    before = runner.fingerprint(DATASET)
    assert runner.backup(DATASET).snapshot.fingerprint == before
    assert runner.fingerprint(DATASET) == before
    scene.write("a.txt", "changed")
    assert runner.fingerprint(DATASET) != before


def test_a_store_is_unlocked_once_for_all_verbs_of_a_runner(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.runner().backup(DATASET)
    opened: list[str] = []
    original = repository_module.unlock_store

    def count(store: Any, *rest: Any, **more: Any) -> Any:
        opened.append(store.url)
        return original(store, *rest, **more)

    monkeypatch.setattr(repository_module, "unlock_store", count)
    runner = scene.runner({"name": "local", **DAILY})
    runner.backup(DATASET)
    runner.verify(DATASET)
    runner.status()
    assert len(opened) == 1


def test_what_another_writer_committed_is_seen_by_a_runner_that_is_open(scene: Scene) -> None:
    first, second = scene.runner(), scene.runner()
    first.backup(DATASET)
    assert len(second.snapshots()) == 1
    first.backup(DATASET)
    assert len(second.snapshots()) == 2


# -- the five-line door


def test_one_call_makes_a_real_snapshot(scene: Scene) -> None:
    settings = {"source": scene.source, "destination": scene.root / "out", "keep_days": 7}
    made = backup({**settings, "frequency": "daily"}, environ={"BACKUP_PASSPHRASE": "words"})
    assert (made.dataset, made.status, made.kind) == ("data", "complete", "full")
    again = backup(
        {**settings, "passphrase_env": "OTHER", "frequency": "hourly", "dataset": "data"},
        environ={"OTHER": "words"},
    )
    assert again.parent == made.id
    with Runner.for_store(str(scene.root / "out"), "data", [Passphrase(b"words")]) as bare:
        assert len(bare.snapshots()) == 2


def test_without_encryption_the_door_needs_no_passphrase(scene: Scene) -> None:
    made = backup(
        {
            "source": str(scene.source),
            "destination": str(scene.root / "out"),
            "encryption": "none",
            "frequency": "monthly",
        },
        environ={},
    )
    assert made.status == "complete"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"sorce": "x"}, "did you mean source"),
        ({"source": ""}, "needs source"),
        ({"destination": None}, "needs destination"),
        ({"frequency": "yearly"}, "hourly, daily, weekly, monthly"),
        ({"keep_days": 0}, "1 at least"),
        ({"keep_days": True}, "1 at least"),
        ({"encryption": "rot13"}, "encryption"),
    ],
)
def test_a_mistake_in_the_settings_is_explained(
    tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    settings = {"source": str(tmp_path), "destination": str(tmp_path / "out")}
    with pytest.raises(UsageError, match=said):
        backup(settings | change, environ={})
    assert not (tmp_path / "out").exists()


# -- small decisions


@pytest.mark.parametrize(
    ("text", "share"), [("all", 1.0), ("5%", 0.05), ("0%", 0.0), ("12.5 %", 0.125), (0.3, 0.3)]
)
def test_shares_are_read(text: str | float, share: float) -> None:
    assert parse_share(text) == share


@pytest.mark.parametrize("text", ["", "some", "5", "101%", "-1%", 7.0])
def test_what_is_no_share_is_refused(text: str | float) -> None:
    with pytest.raises(UsageError):
        parse_share(text)


def test_a_time_without_an_offset_is_taken_in_the_given_zone() -> None:
    from zoneinfo import ZoneInfo

    berlin = ZoneInfo("Europe/Berlin")
    assert parse_time("2026-11-20T12:00", berlin) == moment("11-20T11:00")
    assert parse_time("2026-11-20T12:00Z", berlin) == moment("11-20T12:00")
    with pytest.raises(UsageError):
        parse_time("noon", UTC)


def test_of_two_days_equally_near_the_earlier_is_taken() -> None:
    assert nearest_day(day("11-20"), [day("11-22"), day("11-18")]) == day("11-18")
    assert nearest_day(day("11-20"), []) is None


def test_many_days_are_listed_near_the_one_that_was_asked_for() -> None:
    days = [day("11-01") + timedelta(days=n) for n in range(30)]
    assert describe_days(days, day("11-10")).startswith("2026-11-06, 2026-11-07")
    assert describe_days(days).endswith("and 22 more")
    assert describe_days([]) == "none"


@pytest.mark.parametrize("solid", [True, False])
def test_the_plan_says_whether_small_files_share_frames(scene: Scene, solid: bool) -> None:
    scene.write("b.txt", "two")
    runner = scene.runner(dataset={"solid": solid})
    runner.backup(DATASET)
    repository, snapshot = runner.find(DATASET, tier="local")
    column = repository.manifest(snapshot).table.column("chunks").to_pylist()
    frames = {(chunk["pack"], chunk["ordinal"]) for chunks in column for chunk in chunks or ()}
    assert len(frames) == (1 if solid else 2)

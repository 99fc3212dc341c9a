"""Days in paths, and slices that were written again after they were backed up."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import boto3
import pytest

from backup_pipeline.cli import main
from backup_pipeline.plan import load_plan
from backup_pipeline.plan.dayform import day_problem, fill_day
from backup_pipeline.runner import Runner
from backup_pipeline.s3_server import S3Server
from backup_pipeline_tests.clock import set_clock

DAY = date(2026, 3, 5)
Write = Callable[[date, str, bytes], None]


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("/lake/day={day}/", "/lake/day=2026-03-05/"),
        ("/lake/{day:%Y/%m/%d}", "/lake/2026/03/05"),
        ("y={day:%Y}/m={day:%-m}/d={day:%-d}", "y=2026/m=3/d=5"),
        ("{day:%Y}/{day:%j}", "2026/064"),
        ("{day:%Y%m%d}/{day}/100%", "20260305/2026-03-05/100%"),
        ("{day:%Y-%m-%d%%}", "2026-03-05%"),
    ],
)
def test_a_day_is_written_as_the_path_says(text: str, filled: str) -> None:
    assert day_problem(text) is None
    assert fill_day(text, DAY) == filled


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("/lake/{day:%Y/%m}", "does not tell one day from another"),
        ("/lake/{day:%m-%d}", "does not tell one day from another"),
        ("/lake/{day:%Y/%m/%d/%H}", "%H is no part of a day"),
        ("/lake/{day:%F}", "'%F' is not known"),
        ("/lake/{day:%Y-%m-%d%}", "'%' is not known"),
        ("/lake/{day:}", "writes no day"),
        ("/lake/{day:daily}", "writes no day"),
    ],
)
def test_a_path_that_would_mix_days_up_is_refused(text: str, problem: str) -> None:
    found = day_problem(text)
    assert found is not None
    assert problem in found[0]


def test_no_two_days_are_ever_written_alike() -> None:
    texts = ["{day}", "{day:%Y/%m/%d}", "y={day:%Y}/m={day:%-m}/d={day:%-d}", "{day:%Y/%-j}"]
    days = [date(2023, 12, 1) + timedelta(days=age) for age in range(800)]
    for text in texts:
        assert day_problem(text) is None
        assert len({fill_day(text, day) for day in days}) == len(days)


class Clock:
    """Tells the time that a test sets."""

    def __init__(self, now: str) -> None:
        self.now = datetime.fromisoformat(now).replace(tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture(params=["path", pytest.param("s3", marks=pytest.mark.services)])
def lake(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Path, Write]:
    """A plan over slices by day, on disk or on S3, and what writes a slice."""
    if request.param == "path":
        place = str(tmp_path / "lake")

        def write(day: date, name: str, content: bytes) -> None:
            path = tmp_path / "lake" / f"year={day.year}/month={day.month}/day={day.day:02d}" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    else:
        server: S3Server = request.getfixturevalue("s3_server")
        prefix = secrets.token_hex(6)
        place = f"s3://lake/{prefix}"
        for name, value in server.environ().items():
            monkeypatch.setenv(name, value)
        client = server.client()
        request.addfinalizer(client.close)

        def write(day: date, name: str, content: bytes) -> None:
            key = f"{prefix}/year={day.year}/month={day.month}/day={day.day:02d}/{name}"
            client.put_object(Bucket="lake", Key=key, Body=content)  # type: ignore[attr-defined]

    stores = {name: str(tmp_path / "stores" / name) for name in ("local", "cloud")}
    plan = tmp_path / "backup.json"
    plan.write_text(
        json.dumps(
            {
                "start": "2026-03-01",
                "encryption": "none",
                "stores": stores,
                "policies": {
                    "default": {"tiers": [{"name": "local"}, {"name": "cloud", "every": "day"}]}
                },
                "datasets": [
                    {
                        "asset": "lake/events",
                        "source": place + "/year={day:%Y}/month={day:%-m}/day={day:%d}",
                        "holds": "slice",
                        "slices_checked": "3 days",
                    }
                ],
            }
        )
    )
    return plan, write


def test_a_slice_that_is_written_again_is_a_new_version_of_its_day(
    lake: tuple[Path, Write], tmp_path: Path
) -> None:
    plan, write = lake
    days = [date(2026, 3, day) for day in range(1, 6)]
    for day in days:
        write(day, "hour=00/events.json", b"events of %d" % day.day)
        write(day, "hour=01/events.json", b"more of %d" % day.day)
    clock = Clock("2026-03-06T03:00:00")
    with Runner(load_plan(plan), clock=clock) as runner:
        for day in days:
            assert runner.backup("lake/events", day=day).snapshot.timing == "exact"
            assert runner.backup("lake/events", "cloud", day=day).created
        assert runner.rewritten("lake/events") == []
        assert not runner.backup("lake/events", day=DAY).created

        # The day before yesterday gets late events; so does one that is too old to be looked at.
        clock.now += timedelta(hours=1)
        for old in (days[2], days[0]):
            write(old, "hour=00/events.json", b"events and late ones of %d" % old.day)
        assert runner.rewritten("lake/events") == [days[2]]
        again = runner.backup("lake/events", day=days[2])
        assert (again.created, again.snapshot.timing) == (True, "exact")
        assert runner.rewritten("lake/events") == []
        assert not runner.backup("lake/events", day=days[2]).created
        copied = runner.backup("lake/events", "cloud", day=days[2])
        assert copied.created
        assert not runner.backup("lake/events", "cloud", day=days[2]).created
        assert runner.backup("lake/events", day=days[0]).created, (
            "whoever names a day has it looked at"
        )

        for tier in ("local", "cloud"):
            versions = [one for one in runner.snapshots("lake/events", tier) if one.day == days[2]]
            assert len(versions) == 2
            out = tmp_path / "out" / tier
            runner.restore("lake/events", out, tier=tier, day=days[2])
            assert (out / "hour=00/events.json").read_bytes() == b"events and late ones of 3"
            assert (out / "hour=01/events.json").read_bytes() == b"more of 3"
            runner.restore("lake/events", out / "first", snapshot=versions[0].id, tier=tier)
            assert (out / "first/hour=00/events.json").read_bytes() == b"events of 3"


def test_a_slice_that_is_gone_from_the_lake_stays_as_it_was_backed_up(
    lake: tuple[Path, Write], tmp_path: Path
) -> None:
    plan, write = lake
    write(DAY, "hour=00/a", b"1")
    with Runner(load_plan(plan), clock=Clock("2026-03-06T03:00:00")) as runner:
        first = runner.backup("lake/events", day=DAY).snapshot
        folder = tmp_path / "lake" / "year=2026/month=3/day=05"
        if folder.is_dir():
            (folder / "hour=00/a").unlink()
            (folder / "hour=00").rmdir()
            kept = runner.backup("lake/events", day=DAY)
            assert (kept.created, kept.snapshot.id) == (False, first.id)
            assert any("is empty now" in text for text in kept.notices)
            folder.rmdir()
        else:
            url = str(runner.plan.dataset("lake/events").source.options["url"])
            prefix = url.removeprefix("s3://lake/").partition("/")[0]
            key = f"{prefix}/year=2026/month=3/day=05/hour=00/a"
            boto3.client("s3").delete_object(Bucket="lake", Key=key)
        kept = runner.backup("lake/events", day=DAY)
        assert (kept.created, kept.snapshot.id) == (False, first.id)
        assert any("cannot be looked at, and is kept" in text for text in kept.notices)


def test_the_command_line_takes_rewritten_slices_along(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    set_clock(monkeypatch, date(2026, 11, 4))
    earlier, rewritten, newest = (date(2026, 11, day) for day in (1, 2, 3))
    folder = tmp_path / "lake"
    for day in (earlier, rewritten, newest):
        (folder / f"{day}").mkdir(parents=True)
        (folder / f"{day}" / "a").write_bytes(b"1")
    plan = tmp_path / "backup.yaml"
    plan.write_text(
        f"start: {earlier}\nencryption: none\n"
        f"stores: {{local: {tmp_path / 'store'}}}\n"
        f"datasets: [{{asset: a, source: '{folder}/{{day}}', holds: slice}}]\n"
    )
    assert main(["backup", "a", "--day", str(rewritten), "--plan", str(plan)]) == 0
    (folder / str(rewritten) / "a").write_bytes(b"written again")
    capsys.readouterr()
    assert main(["backup", "a", "--json", "--plan", str(plan)]) == 0
    said = json.loads(capsys.readouterr().out)
    assert [one["snapshot"]["day"] for one in said["rewritten"]] == [str(rewritten)]
    assert main(["backup", "a", "--json", "--plan", str(plan)]) == 0
    assert "rewritten" not in json.loads(capsys.readouterr().out)

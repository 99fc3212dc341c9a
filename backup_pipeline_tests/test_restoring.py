"""Restores by plan: in place, before a change, from the fastest tier, and how long they take."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from backup_pipeline.engine.errors import NotFound, UsageError
from backup_pipeline.engine.folders import SIDE_FOLDER
from backup_pipeline.engine.operations import in_place
from backup_pipeline.engine.progress import Progress
from backup_pipeline.plan import load_plan
from backup_pipeline.runner import Runner
from backup_pipeline.runner.rates import rate_of, remember

START = datetime(2026, 11, 20, 2, tzinfo=UTC)
DATASET = "vision/a"
ENVIRON = {"BACKUP_PASSPHRASE": "tests keep no secrets"}
PLAN = """\
start: 2026-11-20
encryption: none
stores: {{cloud: {root}/cloud, local: {root}/local}}
policies:
  default:
    tiers:
      - {{name: cloud, every: day, kind: incremental, full_every: 4 weeks, keep: {{daily: 7}}}}
      - {{name: local, every: day, kind: incremental, full_every: 4 weeks, keep: {{daily: 7}}}}
datasets: [{{asset: vision/a, source: {root}/data}}, {{asset: one/file, source: {root}/model.pt}}]
"""


class Days:
    """A plan with a clock that is set by hand."""

    def __init__(self, root: Path) -> None:
        self.root, self.data, self.now = root, root / "data", START
        self.data.mkdir()
        (root / "backup.yaml").write_text(PLAN.format(root=root))
        self.runner = Runner(load_plan(root / "backup.yaml"), clock=self.clock, environ=os.environ)

    def clock(self) -> datetime:
        self.now += timedelta(milliseconds=1)
        return self.now

    def next_day(self, dataset: str = DATASET, **texts: str | None) -> str:
        """Change files, back up, and let the day pass; the snapshot's id."""
        for name, text in texts.items():
            path = self.data / name
            path.unlink(missing_ok=True) if text is None else path.write_text(text)
        snapshot = self.runner.backup(dataset, "cloud").snapshot
        self.now += timedelta(days=1)
        return snapshot.id


@pytest.fixture
def days(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Days]:
    monkeypatch.setattr(in_place, "settle", lambda: None)
    made = Days(tmp_path)
    yield made
    made.runner.close()


def test_the_last_good_one_before_a_change(days: Days) -> None:
    first = days.next_day(table="one", other="a")
    second = days.next_day(other="b")
    os.utime(days.data / "table")  # a new time is no change
    third = days.next_day()
    fourth = days.next_day(table="broken")
    days.next_day(table="broken", other="c")
    to = days.root / "back"

    def chosen(*globs: str, **more: Any) -> str:
        return days.runner.restore(DATASET, to, changed=globs, dry_run=True, **more).snapshot

    assert chosen("table") == third
    assert chosen("other") == fourth
    assert chosen("table", "other") == fourth
    at = days.now - timedelta(days=2)  # before the fourth
    assert chosen("other", at=at - timedelta(hours=1)) == first
    assert days.runner.snapshots(DATASET)[1].id == second
    report = days.runner.restore(DATASET, to, changed=["tab*"])
    assert (to / "table").read_text() == "one"
    assert any(third[:12] in one and fourth[:12] in one for one in report.notices)
    days.next_day(table=None)
    assert chosen("table") != fourth and (to / "table").exists()
    with pytest.raises(NotFound, match="anything that matches"):
        chosen("nowhere/*")
    with pytest.raises(NotFound, match="the same in all"):
        chosen("table", at=at - timedelta(hours=1))
    with pytest.raises(UsageError, match="each select"):
        chosen("table", snapshot=first)


def test_a_dataset_is_restored_where_it_lives_and_goes_on_with_the_same_snapshot(
    days: Days, monkeypatch: pytest.MonkeyPatch
) -> None:
    days.next_day(table="one")
    (days.data / "table").write_text("spoilt")

    def power_cut() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(in_place, "settle", power_cut)
    with pytest.raises(KeyboardInterrupt):
        days.runner.restore_in_place(DATASET)
    monkeypatch.setattr(in_place, "settle", lambda: None)
    newer = days.next_day(table="newer")  # a backup comes between
    report = days.runner.restore_in_place(DATASET)
    assert report.verified and report.snapshot != newer and report.target == str(days.data)
    assert (days.data / "table").read_text() == "one"
    assert (days.data / SIDE_FOLDER / "old" / "table").read_text() == "newer"


def test_a_backup_of_a_half_restored_folder_says_so(
    days: Days, monkeypatch: pytest.MonkeyPatch
) -> None:
    days.next_day(table="one")
    (days.data / "table").write_text("spoilt")

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(in_place.Moves, "do", killed)
        days.runner.restore_in_place(DATASET)
    notices = days.runner.backup(DATASET, "cloud", force=True).notices
    assert any("both states" in one for one in notices)
    assert days.runner.restore_in_place(DATASET).verified
    notices = days.runner.backup(DATASET, "cloud", force=True).notices
    assert not any("both states" in one for one in notices)


def test_progress_tells_the_time_that_is_left(days: Days) -> None:
    (days.data / "large").write_bytes(random.Random(1).randbytes(5 << 20))
    days.next_day(table="one")
    told: list[Progress] = []
    days.runner._report = told.append
    days.runner.restore(DATASET, days.root / "back")
    assert told[-1].total_bytes == (5 << 20) + 3 == told[-1].done_bytes
    told.clear()
    (days.data / "large").write_bytes(b"small")
    days.runner.restore_in_place(DATASET)
    assert {5 << 20} == {one.total_bytes for one in told if one.total_bytes}
    assert any(one.remaining_s == 0 for one in told)
    assert [one.phase for one in told][-1] == "reading back"


def test_a_dataset_that_is_one_file_comes_back_beside_what_is_not_its_own(days: Days) -> None:
    model = days.root / "model.pt"
    model.write_bytes(b"weights")
    days.next_day("one/file")
    beside = sorted(path.name for path in days.root.iterdir())
    for spoil in (lambda: model.write_bytes(b"other"), model.unlink):
        spoil()
        report = days.runner.restore_in_place("one/file")
        assert (report.verified, report.written_files, report.extra_files) == (True, 1, 0)
        assert model.read_bytes() == b"weights"
        shutil.rmtree(days.root / SIDE_FOLDER)
    assert sorted(path.name for path in days.root.iterdir()) == beside
    model.write_bytes(b"other")
    with pytest.raises(UsageError, match="one file"):
        days.runner.restore_in_place("one/file", delete=True)


def test_the_same_state_is_taken_from_the_tier_that_was_fastest(days: Days) -> None:
    (days.data / "large").write_bytes(random.Random(1).randbytes(9 << 20))
    days.next_day()
    days.runner.copy(DATASET, from_tier="cloud", to_tier="local")
    to = days.root / "back"
    told = days.runner.restore(DATASET, to, dry_run=True)
    assert told.tier == "cloud" and told.estimate["rate"]["said_by"] == "assumed"
    stores = {place.tier: place.store for place in days.runner.places(DATASET)}
    remember(stores["local"], DATASET, 1 << 30, 2.0, START)
    told = days.runner.restore(DATASET, to, dry_run=True)
    assert told.tier == "local" and told.estimate["then"] == ["cloud"]
    assert told.estimate["seconds"] == pytest.approx(told.written_bytes / (1 << 29))
    done = days.runner.restore(DATASET, to, tier="cloud")
    assert done.fetched_bytes == told.fetched_bytes > 9 << 20
    assert rate_of(stores["cloud"], DATASET).said_by == "measured"


def test_rates_are_of_the_dataset_then_of_the_store_then_assumed() -> None:
    assert rate_of("s3://lake/x", "a").to_json()["said_by"] == "assumed"
    remember("s3://lake/x", "a", 100 << 20, 10, START)
    remember("s3://lake/x", "b", 100 << 20, 5, START)
    remember("s3://lake/x", "c", 1, 5, START)  # too little to say anything
    assert [round(rate_of("s3://lake/x", one).bytes_per_s / (10 << 20)) for one in "abc"] == [
        1,
        2,
        2,
    ]

"""The demo runs from the first backup to the proof, and says what is true."""

from __future__ import annotations

import os
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest

from backup_pipeline.demo import run_demo
from backup_pipeline.demo.datasets import DATASETS
from backup_pipeline.demo.days import SUNDAY, SimulatedClock, calendar
from backup_pipeline.demo.history import History, seed
from backup_pipeline.demo.proof import witness
from backup_pipeline.engine.errors import UsageError
from backup_pipeline.plan import load_plan
from backup_pipeline.runner import Runner

ONE_DAY = timedelta(days=1)


def test_the_simulated_days_hold_every_cadence_and_lie_in_the_past() -> None:
    for offset in range(800):
        today = date(2026, 1, 1) + timedelta(days=offset)
        days = calendar(today)
        assert days.days[-1] < today
        assert days.first in days.days[1:] and days.first.day == 1
        assert days.sunday.weekday() == SUNDAY
        assert days.sunday + ONE_DAY in days.days, "a Sunday is copied once it has closed"
        assert days.missed not in (days.first, days.sunday, days.days[0], days.days[-1])
        assert days.missed - ONE_DAY in days.days


def test_a_simulated_clock_stands_still_until_it_is_set() -> None:
    clock = SimulatedClock(datetime(2026, 11, 1, tzinfo=UTC))
    assert clock() == clock()
    clock.set(date(2026, 11, 2), 2)
    assert clock() == datetime(2026, 11, 2, 2, tzinfo=UTC)


def test_the_witness_sees_bytes_names_modes_times_and_links(tmp_path: Path) -> None:
    file = tmp_path / "tree" / "file"
    file.parent.mkdir()
    file.write_bytes(b"one")
    (tmp_path / "tree" / "link").symlink_to("file")
    seen = {witness(tmp_path / "tree")}

    facts = file.stat()
    file.write_bytes(b"two")
    os.utime(file, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    seen.add(witness(tmp_path / "tree"))
    os.utime(file, ns=(facts.st_atime_ns, facts.st_mtime_ns + 1))
    seen.add(witness(tmp_path / "tree"))
    file.chmod(0o600)
    seen.add(witness(tmp_path / "tree"))
    file.rename(tmp_path / "tree" / "other")
    seen.add(witness(tmp_path / "tree"))
    (tmp_path / "tree" / "link").unlink()
    (tmp_path / "tree" / "link").symlink_to("other")
    seen.add(witness(tmp_path / "tree"))
    assert len(seen) == 6


def test_the_demo_leaves_a_directory_alone_that_no_demo_wrote(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("ten years of work")
    with pytest.raises(UsageError, match="no demo wrote"):
        run_demo(tmp_path)
    assert (tmp_path / "thesis.tex").exists()


@pytest.mark.slow
@pytest.mark.services
@pytest.mark.xdist_group("demo")
def test_the_demo_backs_up_loses_and_restores_everything(tmp_path: Path) -> None:
    said: list[str] = []
    code = run_demo(tmp_path / "demo", keep=True, say=said.append)
    report = "\n".join(said)
    assert code == 0, report
    assert "exact, from that day's folder" in report
    assert "refused" in report
    assert "is red" in report and "green again" in report
    assert report.count(", equal") == 7
    assert not (tmp_path / "demo" / "datasets").exists()
    assert not (tmp_path / "demo" / "dagster_home").exists()
    assert (
        tmp_path / "demo" / "restored" / "offsite" / "demo" / "model" / "digits.joblib"
    ).exists()


@pytest.mark.slow
def test_the_seeded_history_has_missing_failed_late_and_damaged_days(tmp_path: Path) -> None:
    history = History(
        days=15, missed=(2, 3), missed_sunday=1, refused=(3,), damaged=5, checked=(5, 6)
    )
    seed(tmp_path, None, None, history=history, say=lambda line: None)

    start = datetime.now(UTC).date() - timedelta(days=history.days)
    missed = history.missed_days(start)
    home = str(tmp_path / "dagster_home")
    with dg.DagsterInstance.local_temp(home) as instance:
        key = dg.AssetKey(["backup", "local", "demo", "model"])
        there = instance.fetch_materializations(key, limit=100).records
        assert {record.partition_key for record in there} == {
            str(day) for day in history.all_days(start) if day not in missed
        }
        failed = instance.get_run_records(dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE]))
        refused = {record.dagster_run.tags.get("dagster/partition") for record in failed}
        assert str(start + timedelta(days=3)) in refused

    with Runner(load_plan(tmp_path / "backup.yaml")) as runner:
        assert [one for one in runner.snapshots(DATASETS[0], "cloud") if one.timing == "late"]
        damaged = start + timedelta(days=5)
        assert not runner.verify("demo/model", tier="local", day=damaged).ok
        assert runner.verify("demo/model", tier="local", day=damaged + ONE_DAY).ok

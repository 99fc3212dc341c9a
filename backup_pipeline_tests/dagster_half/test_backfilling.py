"""Missed days in Dagster: the UI and the stores agree on them, and a job fills them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, datetime, timedelta
from typing import Any

import dagster as dg
import pytest

from backup_pipeline.sources.base import UNREADABLE, Unreadable
from backup_pipeline.sources.files import FilesSource
from backup_pipeline_tests.dagster_half.project import Project, backup_key, first_failure

Make = Callable[..., Project]
TIERS: list[dict[str, Any]] = [
    {"name": "local", "every": "day", "kind": "full", "keep": {"daily": 40}},
    {"name": "cloud", "every": "week", "weekday": "sunday", "kind": "full", "if_missed": "nearest"},
    {"name": "offsite", "every": "month", "kind": "full"},
]
SILENT, BACK = date(2026, 10, 23), datetime(2026, 11, 2, 12)


@pytest.fixture
def silent(project: Make) -> Project:
    """Slices of twelve days, of which two were backed up before a week's silence."""
    one = project(tiers=TIERS, policy={"backfill": True}, now="2026-10-23T10:00:00")
    one.document["start"] = "2026-10-21"
    one.document["timezone"] = "Europe/Berlin"
    root = one.root / "events"
    one.document["datasets"] = [
        {"asset": "vision/a", "source": f"{root}/day={{day}}", "holds": "slice"}
    ]
    for age in range(12):
        folder = root / f"day={date(2026, 10, 21) + timedelta(days=age)}"
        folder.mkdir(parents=True)
        (folder / "rows.csv").write_text(folder.name)
    for day in ("2026-10-21", "2026-10-22"):
        result = one.back_up("local", day)
        assert result.success, first_failure(result)
    one.now = BACK.replace(tzinfo=one.now.tzinfo)
    return one


def not_materialized(project: Project, tier: str) -> set[str]:
    """The days that the UI shows as missing."""
    asset = next(one for one in project.defs.assets or () if one.key == backup_key(tier))
    assert isinstance(asset, dg.AssetsDefinition)
    assert asset.partitions_def
    keys = set(asset.partitions_def.get_partition_keys(current_time=project.now))
    return keys - project.instance.get_materialized_partitions(backup_key(tier))


def missed(project: Project, tier: str) -> set[str]:
    return {one.day.isoformat() for one in project.runner.missing(tier=tier)}


def test_the_ui_and_the_command_line_agree_on_what_was_missed(silent: Project) -> None:
    for tier in ("local", "cloud", "offsite"):
        assert missed(silent, tier) == not_materialized(silent, tier) != set()


def test_they_differ_by_incomplete_days_and_those_not_due_and_until_a_sync(
    project: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = project(tiers=TIERS, now="2026-10-24T10:00:00")
    one.document["start"] = "2026-10-24"
    assert one.back_up("local", "2026-10-24").success

    def broken(*_: Any, **__: Any) -> Any:
        raise Unreadable(UNREADABLE, "it cannot be read")

    one.at("2026-10-25T10:00:00")
    one.write("vision/a", "new.bin", b"new")
    with monkeypatch.context() as patch:
        patch.setattr(FilesSource, "read_whole", lambda *_, **__: None)
        patch.setattr(FilesSource, "open", broken)
        one.back_up("local", "2026-10-25")
    one.at("2026-10-28T00:20:00")  # before the night's run
    incomplete, ahead = {"2026-10-25"}, {"2026-10-27", "2026-10-28"}
    assert missed(one, "local") == {"2026-10-25", "2026-10-26"}
    assert not_materialized(one, "local") == (missed(one, "local") - incomplete) | ahead
    with one.runner as runner:  # as the command line does, which tells Dagster nothing
        runner.backup("vision/a", "local", day=date(2026, 10, 28))
    assert "2026-10-28" in not_materialized(one, "local")
    assert one.run_job("sync").success
    assert "2026-10-28" not in not_materialized(one, "local")


def test_the_job_fills_what_can_be_had_and_tells_each_partition(silent: Project) -> None:
    # Of one day nothing is left anywhere.
    (silent.root / "events/day=2026-10-24/rows.csv").unlink()
    (silent.root / "events/day=2026-10-24").rmdir()
    result = silent.run_job("backfill")
    # It could have been had, as far as anyone knew: that is a failure, and stays one day's.
    assert not result.success
    assert "2026-10-24 stays missing" in str(first_failure(result))
    assert not_materialized(silent, "local") == missed(silent, "local") == {"2026-10-24"}
    assert not_materialized(silent, "cloud") == not_materialized(silent, "offsite") == set()
    said = silent.said("cloud", "2026-10-25")
    assert (said["timing"], said["late"], said["copied_from"][:5]) == ("exact", False, "local")
    again = silent.run_job("backfill", until="2026-10-23")
    assert again.success, first_failure(again)


def test_a_day_filled_late_says_so_in_its_check_for_ever(project: Make) -> None:
    one = project(tiers=TIERS, now="2026-10-24T10:00:00")
    one.document["start"] = "2026-10-24"
    result = one.back_up("local", "2026-10-24")
    assert result.success, first_failure(result)
    one.at("2026-10-27T12:00:00")
    result = one.run_job("backfill")
    assert result.success, first_failure(result)  # what nothing gives back is no failure
    assert missed(one, "local") == {"2026-10-25", "2026-10-26"}
    said = one.said("cloud", "2026-10-25")
    assert (said["timing"], said["late"]) == ("late", True)
    for _ in range(2):  # also when it is asked again much later
        [found] = [
            evaluation
            for evaluation in result.get_asset_check_evaluations()
            if evaluation.asset_key == backup_key("cloud")
        ]
        assert found.passed
        assert "late: the state is not that of 2026-10-25" in (found.description or "")
        one.pass_time(days=30)
        result = one.back_up("cloud", "2026-10-25")


def test_its_schedule_is_there_where_a_policy_turns_it_on(silent: Project, project: Make) -> None:
    names = [one.name for one in silent.defs.schedules or ()]
    assert "backup_backfill_schedule" in names
    assert "backup_backfill_schedule" not in [
        one.name for one in project(tiers=TIERS).defs.schedules or ()
    ]
    schedule = silent.defs.resolve_schedule_def("backup_backfill_schedule")
    context = dg.build_schedule_context(
        instance=silent.instance, scheduled_execution_time=silent.now
    )
    asked = schedule.evaluate_tick(context).run_requests or []
    [config] = [one.run_config["ops"]["backup_backfill_days"]["config"] for one in asked]
    assert config == {"datasets": ["vision/a"]}

"""Restore and drill from Dagster: typed configuration, honest answers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from backup_pipeline_tests.dagster_half.project import (
    SUNDAY_THE_FIRST,
    Project,
    backup_key,
    first_failure,
)

Make = Callable[..., Project]


def content(folder: Path) -> dict[str, bytes]:
    """What a directory holds."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("own_process", [True, False])
def test_the_restore_job_brings_a_day_back(
    project: Make, tmp_path: Path, own_process: bool
) -> None:
    one = project(own_process=own_process)
    one.back_up("local", SUNDAY_THE_FIRST)
    before = content(tmp_path / "datasets/vision/a")
    one.pass_time(days=1)
    one.write("vision/a", "later.txt", b"later")
    one.back_up("local", "2026-11-02")
    back = tmp_path / "back"
    result = one.run_job("restore", dataset="vision/a", day=SUNDAY_THE_FIRST, to=str(back))
    assert result.success, first_failure(result)
    assert content(back) == before


def test_a_restore_takes_a_time_a_tier_a_snapshot_and_globs(project: Make, tmp_path: Path) -> None:
    one = project()
    one.write("vision/a", "labels/one.csv", b"1")
    one.back_up("local", SUNDAY_THE_FIRST)
    one.pass_time(days=1)
    one.back_up("cloud", SUNDAY_THE_FIRST)
    snapshot = one.said("cloud", SUNDAY_THE_FIRST)["snapshot"]
    assert one.run_job(
        "restore",
        dataset="vision/a",
        tier="cloud",
        snapshot=snapshot[:10],
        include=["labels/*.csv"],
        to=str(tmp_path / "some"),
    ).success
    assert content(tmp_path / "some") == {"labels/one.csv": b"1"}
    assert one.run_job(
        "restore", dataset="vision/a", at=f"{SUNDAY_THE_FIRST}T11:00:00Z", to=str(tmp_path / "at")
    ).success
    assert len(content(tmp_path / "at")) == 2


def test_a_restore_without_a_target_goes_to_the_plans_scratch(project: Make) -> None:
    one = project()
    one.back_up("local", SUNDAY_THE_FIRST)
    assert one.run_job("restore", dataset="vision/a").success
    (folder,) = (one.root / "scratch" / "vision-a").iterdir()
    assert content(folder) == content(one.root / "datasets/vision/a")


def test_a_dry_run_writes_nothing(project: Make, tmp_path: Path) -> None:
    one = project()
    one.back_up("local", SUNDAY_THE_FIRST)
    result = one.run_job("restore", dataset="vision/a", to=str(tmp_path / "back"), dry_run=True)
    assert result.success
    assert not (tmp_path / "back").exists() or not content(tmp_path / "back")


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"dataset": "vision/aa"}, "vision/a"),
        ({"dataset": "vision/a", "day": "2026-10-05"}, SUNDAY_THE_FIRST),
        ({"dataset": "vision/a", "tier": "clowd"}, "cloud"),
        ({"dataset": "vision/a", "day": "last tuesday"}, "2026-11-22"),
        ({"dataset": "vision/a", "at": "noonish"}, "noonish"),
    ],
)
def test_a_restore_that_cannot_be_done_says_what_can(
    project: Make, config: dict[str, str], words: str
) -> None:
    one = project()
    one.back_up("local", SUNDAY_THE_FIRST)
    reason = first_failure(one.run_job("restore", **config))
    assert words in reason.description


def test_a_restore_of_damaged_bytes_fails(project: Make, tmp_path: Path) -> None:
    one = project()
    one.back_up("local", SUNDAY_THE_FIRST)
    one.flip_byte("local")
    assert not one.run_job("restore", dataset="vision/a", to=str(tmp_path / "back")).success
    assert "first.bin" not in content(tmp_path / "back")


def test_restores_go_ahead_of_backups_and_the_launchpad_knows_their_fields(project: Make) -> None:
    job = project().defs.resolve_job_def("backup_restore")
    assert job.tags["dagster/priority"] == "100"
    schema = job.get_node_named("backup_restore_snapshot").definition.config_schema
    assert schema is not None
    fields = set(schema.config_type.fields)  # pyright: ignore[reportAttributeAccessIssue, reportOptionalMemberAccess]
    ways = {"in_place", "delete", "checksum", "before_change"}
    assert fields == {
        *("dataset", "tier", "day", "at", "snapshot", "to", "include", "dry_run"),
        *ways,
    }


def test_the_restore_job_offers_the_days_that_there_are(project: Make) -> None:
    one = project()
    for _ in range(3):
        day = one.now.date().isoformat()
        assert one.back_up("local", day).success
        one.pass_time(days=1)
    days = "backup_restorable_days"
    found = one.instance.get_dynamic_partitions(days)
    assert len(found) == 3
    job = one.defs.resolve_job_def("backup_restore")
    result = job.execute_in_process(instance=one.instance, partition_key=found[1])
    said = _restored(result)
    assert said["day"] == found[1] and said["verified"] and said["tier"] == "local"
    assert said["target"].startswith(str(one.root / "scratch" / "vision-a"))
    for day in found:
        one.instance.delete_dynamic_partition(days, day)
    one.instance.add_dynamic_partitions(days, ["2020-01-01"])
    assert one.run_job("sync").success
    assert one.instance.get_dynamic_partitions(days) == found


def test_a_restore_in_place_says_how_it_ends(project: Make) -> None:
    one = project()
    one.back_up("local", SUNDAY_THE_FIRST)
    home = one.root / "datasets/vision/a"
    before = content(home)
    one.write("vision/a", "first.bin", b"spoilt")
    refused = one.run_job("restore", dataset="vision/a", delete=True)
    assert "in_place" in first_failure(refused).description
    assert one.run_job("restore", dataset="vision/a", in_place=True, dry_run=True).success
    assert content(home) != before
    said = _restored(
        one.run_job("restore", dataset="vision/a", in_place=True, day=SUNDAY_THE_FIRST)
    )
    assert (said["written_files"], said["kept_files"], said["verified"]) == (1, 1, True)
    assert f"--to {home} --undo" in said["end_it"]
    assert {path: text for path, text in content(home).items() if path in before} == before


def _restored(result: dg.ExecuteInProcessResult) -> dict[str, Any]:
    """What a restore said of itself."""
    assert result.success, first_failure(result)
    (event,) = [one for one in result.all_events if one.event_type_value == "STEP_OUTPUT"]
    return {
        name.removeprefix("backup/"): value.value
        for name, value in event.step_output_data.metadata.items()
    }


def test_a_drill_reports_to_the_day_that_it_restored(project: Make) -> None:
    one = project(policy={"drill": {"sample": "100%"}})
    one.back_up("local", SUNDAY_THE_FIRST)
    one.pass_time(days=2)
    result = one.run_job("drill")
    assert result.success, "tiers without a snapshot are no failure"
    record = one.instance.get_latest_asset_check_evaluation_record(
        dg.AssetCheckKey(backup_key("local"), "restores")
    )
    assert record and record.event
    evaluation = record.event.asset_check_evaluation
    assert evaluation and evaluation.passed and evaluation.partition == SUNDAY_THE_FIRST
    one.flip_byte("local")
    failed = one.run_job("drill", datasets=["vision/a"], tier="local", sample="100%")
    assert not failed.success
    record = one.instance.get_latest_asset_check_evaluation_record(
        dg.AssetCheckKey(backup_key("local"), "restores")
    )
    assert record and record.event and record.event.asset_check_evaluation
    assert not record.event.asset_check_evaluation.passed

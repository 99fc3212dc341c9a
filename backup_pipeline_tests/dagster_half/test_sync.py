"""The stores' snapshots, told to the event log: a lost Dagster home costs nothing."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import dagster as dg

from backup_pipeline_tests.dagster_half.project import (
    SUNDAY_THE_FIRST,
    Project,
    backup_key,
    first_failure,
)
from backup_pipeline_tests.dagster_half.test_overview import look

Make = Callable[..., Project]

TIERS = [{"name": "local"}, {"name": "cloud", "every": "day"}]


def totals(result: dg.ExecuteInProcessResult) -> dict[str, int]:
    """What a sync run said of itself."""
    assert result.success, first_failure(result)
    (event,) = [event for event in result.all_events if event.is_successful_output]
    said = event.step_output_data.metadata
    return {name.removeprefix("backup/"): int(str(value.value)) for name, value in said.items()}


def test_after_the_dagster_home_was_lost_sync_tells_a_new_one_all_days(
    project: Make, tmp_path: Path
) -> None:
    one = project(tiers=TIERS)
    for day in ("2026-11-01", "2026-11-02"):
        one.at(f"{day}T10:00:00")
        one.write("vision/a", day, day.encode())
        one.back_up("local", day)
    one.at("2026-11-03T02:00:00")
    one.back_up("cloud", "2026-11-02")
    before = one.said("local", "2026-11-02")
    fingerprint = (one.materialization("local", "2026-11-02").tags or {})["backup/fingerprint"]
    shutil.rmtree(tmp_path / "dagster_home", ignore_errors=True)
    home = tmp_path / "new_home"
    home.mkdir()
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    with dg.DagsterInstance.from_config(str(home)) as empty:
        one.instance = empty
        assert totals(one.run_job("sync")) == {"reported": 3, "known": 0, "expired": 0}
        assert empty.get_materialized_partitions(backup_key("local")) == {
            "2026-11-01",
            "2026-11-02",
        }
        assert empty.get_materialized_partitions(backup_key("cloud")) == {"2026-11-02"}
        after = one.said("local", "2026-11-02")
        for name in ("snapshot", "digest", "kind", "files", "stored_bytes", "captured_at"):
            assert after[name] == before[name]
        tags = one.materialization("local", "2026-11-02").tags or {}
        assert tags["backup/fingerprint"] == fingerprint
        assert tags["dagster/data_version"] == before["digest"]
        check = empty.get_latest_asset_check_evaluation_record(
            dg.AssetCheckKey(backup_key("local"), "complete")
        )
        assert check is not None
        assert totals(one.run_job("sync")) == {"reported": 0, "known": 3, "expired": 0}


def test_snapshots_made_without_dagster_are_reported(project: Make) -> None:
    one = project(tiers=TIERS)
    one.back_up("local", SUNDAY_THE_FIRST)
    one.pass_time(days=1)
    one.write("vision/a", "new.txt", b"new")
    made = one.runner.backup("vision/a").snapshot
    assert totals(one.run_job("sync")) == {"reported": 1, "known": 1, "expired": 0}
    assert one.said("local", "2026-11-02")["snapshot"] == made.id


def test_a_days_best_snapshot_is_what_its_partition_shows(project: Make) -> None:
    one = project(tiers=TIERS)
    for hour in (8, 12, 16):
        one.at(f"{SUNDAY_THE_FIRST}T{hour:02}:00:00")
        one.write("vision/a", f"{hour}", b"x")
        newest = one.runner.backup("vision/a").snapshot
    assert totals(one.run_job("sync"))["reported"] == 3
    assert one.said("local", SUNDAY_THE_FIRST)["snapshot"] == newest.id


def test_a_day_that_the_store_no_longer_has_is_said_to_be_expired_once(project: Make) -> None:
    one = project(tiers=TIERS)
    one.back_up("local", SUNDAY_THE_FIRST)
    one.pass_time(days=1)
    one.back_up("cloud", SUNDAY_THE_FIRST)
    shutil.rmtree(one.root / "stores" / "local")
    one.back_up("local", "2026-11-02")
    assert totals(one.run_job("sync"))["expired"] == 1
    assert one.said("local", SUNDAY_THE_FIRST)["status"] == "expired"
    assert one.said("cloud", SUNDAY_THE_FIRST)["status"] == "complete"
    assert totals(one.run_job("sync"))["expired"] == 0
    assert one.back_up("local", SUNDAY_THE_FIRST).success
    assert one.said("local", SUNDAY_THE_FIRST)["status"] == "complete"
    assert totals(one.run_job("sync"))["expired"] == 0


def test_a_store_that_is_not_there_expires_nothing(project: Make) -> None:
    one = project(tiers=TIERS)
    one.back_up("local", SUNDAY_THE_FIRST)
    one.pass_time(days=1)
    one.back_up("cloud", SUNDAY_THE_FIRST)
    shutil.rmtree(one.root / "stores" / "local")
    result = one.run_job("sync")
    assert "is it mounted" in first_failure(result).description
    assert one.said("local", SUNDAY_THE_FIRST)["status"] == "complete"


def test_an_incomplete_snapshot_is_reported_with_its_failed_check(project: Make) -> None:
    from backup_pipeline.metadata import complete_evaluation

    one = project(tiers=TIERS)
    good = one.runner.backup("vision/a").snapshot.to_json()
    bad = good | {"status": "incomplete", "good_entries": 0, "integrity": 0.0, "problem_count": 1}
    assert complete_evaluation(backup_key("local"), good).passed
    evaluation = complete_evaluation(backup_key("local"), bad)
    assert (evaluation.passed, evaluation.partition) == (False, SUNDAY_THE_FIRST)


def test_a_store_that_was_set_back_is_found_out_by_the_event_log(project: Make) -> None:
    """Genuine records of an earlier day, put in the place of all that came since."""
    one = project(tiers=[{"name": "local", "kind": "full"}], start="2026-11-01")
    store, aside = one.root / "stores/local", one.root / "aside"
    days = ["2026-11-01", "2026-11-02", "2026-11-03"]
    for day in days:
        one.at(f"{day}T10:00:00")
        one.back_up("local", day)
        if day == days[0]:
            shutil.copytree(store, aside)
    assert look(one)[1].passed
    shutil.rmtree(store)
    aside.rename(store)
    said, check = look(one)
    assert not check.passed
    assert [row["kind"] for row in said["conditions"]].count("failed") == 1
    assert "set back: the event log tells of 2 snapshots" in str(check.description)
    failed = one.run_job("sync")
    assert "the event log tells of 2 snapshots" in first_failure(failed).description
    assert one.said("local", days[1])["status"] == "complete", "nothing expired"
    # The next backup begins behind what is left: that hides nothing.
    one.at("2026-11-04T10:00:00")
    assert one.back_up("local", "2026-11-04").success
    assert "set back" in str(look(one)[1].description)
    assert totals(one.run_job("sync", lost=True))["expired"] == 2
    assert one.said("local", days[1])["status"] == "expired"
    assert totals(one.run_job("sync"))["expired"] == 0
    assert "set back" not in str(look(one)[1].description)

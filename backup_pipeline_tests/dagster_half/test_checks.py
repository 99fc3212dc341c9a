"""The four checks and the hours: what turns each red, and what each leaves alone."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest

from backup_pipeline.checks import hours_verdict
from backup_pipeline_tests.dagster_half.project import (
    SUNDAY_THE_FIRST,
    Project,
    backup_key,
    first_failure,
)

Make = Callable[..., Project]


def test_matches_passes_on_what_was_stored_and_tells_its_coverage(project: Make) -> None:
    one = project()
    one.back_up("local", SUNDAY_THE_FIRST)
    check = one.check("matches", "local", SUNDAY_THE_FIRST)
    assert check.passed and check.partition == SUNDAY_THE_FIRST
    assert check.metadata["backup/coverage"].value == 1.0
    assert check.metadata["backup/integrity"].value == 1.0


def test_matches_fails_on_one_flipped_byte_for_its_own_day_and_tier_only(project: Make) -> None:
    one = project(tiers=[{"name": "local", "kind": "full"}, {"name": "cloud", "every": "day"}])
    one.back_up("local", SUNDAY_THE_FIRST)
    one.pass_time(days=1)
    one.back_up("cloud", SUNDAY_THE_FIRST)
    damaged = one.flip_byte("local")
    one.write("vision/a", "first.bin", b"other " * 4000)
    one.back_up("local", "2026-11-02")
    red = one.check("matches", "local", SUNDAY_THE_FIRST)
    assert not red.passed and red.severity == dg.AssetCheckSeverity.ERROR
    table = red.metadata["backup/damage"]
    assert isinstance(table, dg.TableMetadataValue)
    assert damaged.name in str(table.records[0].data["name"])
    assert float(str(red.metadata["backup/integrity"].value)) < 1
    assert one.check("matches", "local", "2026-11-02").passed
    assert one.check("matches", "cloud", SUNDAY_THE_FIRST).passed


def test_a_copy_is_not_promoted_from_a_damaged_tier(project: Make) -> None:
    one = project(tiers=[{"name": "local"}, {"name": "cloud", "every": "day"}])
    one.back_up("local", SUNDAY_THE_FIRST)
    one.flip_byte("local")
    one.pass_time(days=1)
    result = one.back_up("cloud", SUNDAY_THE_FIRST)
    assert not result.success
    assert not one.runner.snapshots("vision/a", "cloud")


def test_restores_really_restores_and_leaves_nothing_behind(project: Make) -> None:
    one = project(policy={"drill": {"sample": "100%"}, "rto": "1 hour"})
    one.back_up("local", SUNDAY_THE_FIRST)
    check = one.check("restores", "local", SUNDAY_THE_FIRST)
    assert check.passed and check.partition == SUNDAY_THE_FIRST
    assert check.metadata["backup/files"].value == 1
    assert check.metadata["backup/rto_s"].value == 3600.0
    assert not list((one.root / "scratch").iterdir())


def test_restores_fails_on_damage(project: Make) -> None:
    one = project(policy={"drill": {"sample": "100%"}})
    one.back_up("local", SUNDAY_THE_FIRST)
    one.flip_byte("local")
    check = one.check("restores", "local", SUNDAY_THE_FIRST)
    assert not check.passed
    assert "damaged" in (check.description or "") or "mismatch" in str(check.metadata)


@pytest.mark.parametrize("name", ["matches", "restores"])
def test_a_day_without_a_snapshot_fails_the_check_rather_than_passing_it(
    project: Make, name: str
) -> None:
    one = project()
    one.back_up("local", SUNDAY_THE_FIRST)
    result = one.run_check(name, "local", "2026-10-20")
    assert not result.success and not result.get_asset_check_evaluations()
    assert "2026-10-20" in first_failure(result).description


def test_a_check_of_a_day_asks_for_the_day(project: Make) -> None:
    one = project()
    one.back_up("local", SUNDAY_THE_FIRST)
    result = one.run_check("matches", "local", None)
    assert not result.success
    assert "dagster/partition" in first_failure(result).description


def test_fresh_goes_by_when_the_source_was_read_not_by_what_ran_last(project: Make) -> None:
    one = project(
        tiers=[{"name": "local"}, {"name": "cloud", "every": "day"}],
        policy={"rpo": {"local": "26 hours", "cloud": "50 hours"}},
    )
    one.back_up("local", SUNDAY_THE_FIRST)
    one.pass_time(hours=20)
    assert one.check("fresh", "local", None).passed
    one.pass_time(days=2)
    assert one.back_up("cloud", SUNDAY_THE_FIRST).success
    stale = one.check("fresh", "cloud", None)
    assert not stale.passed, "materialized this minute, but what it holds was read 68 hours ago"
    assert stale.metadata["backup/age_s"].value == pytest.approx(68 * 3600, abs=60)
    assert not one.check("fresh", "local", None).passed
    one.back_up("local", "2026-11-04")
    assert one.check("fresh", "local", None).passed


def test_fresh_fails_where_nothing_ever_ran_and_where_the_store_is_gone(project: Make) -> None:
    one = project(policy={"rpo": "26 hours"})
    one.at("2026-10-01T12:00:00")
    assert one.check("fresh", "local", None).passed, "the plan has just begun"
    one.at("2026-10-05T12:00:00")
    assert not one.check("fresh", "local", None).passed


def test_one_run_asks_freshness_of_all_tiers(project: Make) -> None:
    one = project()
    one.document["datasets"].append({"asset": "vision/b", "source": str(one.root / "elsewhere")})
    result = one.defs.resolve_job_def("backup_fresh").execute_in_process(
        instance=one.instance, raise_on_error=False
    )
    assert len(result.get_asset_check_evaluations()) == 6
    assert len(result.get_step_success_events()) == 1


HOURS = [datetime(2026, 11, 1, hour, tzinfo=UTC) for hour in range(24)]


@pytest.mark.parametrize(
    ("missed", "passed"),
    [
        (set[int](), True),
        ({7}, True),
        ({7, 8}, True),
        ({7, 8, 9}, False),
        (set(range(1, 24)), False),
    ],
)
def test_hours_covered_forgives_a_failed_hour_and_not_a_lost_day(
    missed: set[int], passed: bool
) -> None:
    captured = [HOURS[0] - timedelta(days=1)]
    captured += [hour + timedelta(minutes=3) for hour in HOURS if hour.hour not in missed]
    verdict, sentence, said = hours_verdict(captured, HOURS[0], HOURS[0] + timedelta(days=1))
    assert verdict is passed
    assert sentence == f"{24 - len(missed)} of 24 hours have a good snapshot"
    assert said["backup/hours_covered"] == 24 - len(missed)


def test_hours_before_the_first_snapshot_of_all_were_not_missed() -> None:
    captured = [HOURS[20] + timedelta(minutes=5), HOURS[21], HOURS[22], HOURS[23]]
    passed, sentence, _ = hours_verdict(captured, HOURS[0], HOURS[0] + timedelta(days=1))
    assert passed and sentence == "4 of 4 hours have a good snapshot"


def test_hours_covered_is_asked_per_day_of_an_hourly_tier(project: Make) -> None:
    one = project(tiers=[{"name": "local", "every": "hour"}])
    for hour in (5, 6, 7, 20):
        one.at(f"{SUNDAY_THE_FIRST}T{hour:02}:00:10")
        one.back_up("local", SUNDAY_THE_FIRST)
    one.pass_time(days=1)
    job = one.defs.resolve_job_def("backup_hours_covered")
    result = job.execute_in_process(
        instance=one.instance, tags={"dagster/partition": SUNDAY_THE_FIRST}
    )
    (check,) = result.get_asset_check_evaluations()
    assert (check.passed, check.partition) == (False, SUNDAY_THE_FIRST)
    assert check.description == "4 of 19 hours have a good snapshot"


def test_expensive_checks_stay_out_of_the_tiers_job(project: Make) -> None:
    one = project()
    for tier in ("local", "cloud", "offsite"):
        job = one.defs.resolve_job_def(f"backup_{tier}")
        assert {node.name for node in job.nodes} == {f"backup__{tier}__vision__a"}
        checks = {key.name for key in job.asset_layer.asset_graph.asset_check_keys}
        assert "complete" in checks
    spec = next(iter(one.defs.resolve_assets_def(backup_key("local")).check_specs))
    assert (spec.name, spec.blocking) == ("complete", True)
    assert spec.partitions_def == one.defs.resolve_assets_def(backup_key("local")).partitions_def


def test_what_was_restored_is_tested_as_the_plan_says_and_answers_by_itself(
    project: Make,
) -> None:
    functions = "backup_pipeline_tests.drilling.drill_functions"
    tests = [{"check": f"{functions}:sees"}]
    one = project(policy={"drill": {"every": "week", "sample": "50%", "tests": tests}})
    one.back_up("local", SUNDAY_THE_FIRST)
    result = one.run_check("restores", "local", SUNDAY_THE_FIRST, also="makes_sense")
    found = {check.check_name: check for check in result.get_asset_check_evaluations()}
    assert found["restores"].passed and found["makes_sense"].passed
    sense = found["makes_sense"]
    assert sense.partition == SUNDAY_THE_FIRST
    assert sense.metadata["backup/test_1_count"].value == 1
    assert sense.metadata["backup/coverage"].value == 1.0
    assert found["restores"].metadata["backup/verified_share"].value == 1.0
    assert one.check("restores", "local", SUNDAY_THE_FIRST).passed, "also alone"
    assert one.check("makes_sense", "local", SUNDAY_THE_FIRST).passed
    one = project(policy={"drill": {"tests": [*tests, {"check": f"{functions}:says_no"}]}})
    one.back_up("local", SUNDAY_THE_FIRST)
    assert not one.run_job("drill").success
    for name, passed in (("restores", True), ("makes_sense", False)):
        record = one.instance.get_latest_asset_check_evaluation_record(
            dg.AssetCheckKey(backup_key("local"), name)
        )
        assert record and record.event and record.event.asset_check_evaluation
        assert record.event.asset_check_evaluation.passed == passed


def test_complete_holds_the_manifest_against_what_the_plan_expects(project: Make) -> None:
    one = project(policy={"completeness": {"shrink": "10%"}, "anomaly": False})
    one.write("vision/a", "second.bin", b"bytes" * 4000)
    one.back_up("local", SUNDAY_THE_FIRST)
    one.write("vision/a", "second.bin", b"")
    one.pass_time(days=1)
    result = one.back_up("local", "2026-11-02")
    [check] = [e for e in result.get_asset_check_evaluations() if e.check_name == "complete"]
    assert not check.passed and "second.bin" in (check.description or "")
    assert check.metadata["backup/unmet_expectations"].value == 2
    assert len(one.runner.snapshots("vision/a", "local")) == 2, "it is kept all the same"

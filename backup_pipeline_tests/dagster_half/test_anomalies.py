"""The anomaly gate in Dagster: the check, what upstream explains, and the clear job."""

from __future__ import annotations

import os
import random
from collections.abc import Callable

import dagster as dg
import pytest

from backup_pipeline.anomalies import ANOMALY
from backup_pipeline_tests.dagster_half.project import (
    QUIET,
    SUNDAY_THE_FIRST,
    Project,
    first_failure,
)

Make = Callable[..., Project]
MONDAY, TUESDAY = "2026-11-02", "2026-11-03"


def live(one: Project) -> None:
    """A folder of tables, backed up on Sunday; then it is Monday."""
    for number in range(20):
        one.write("vision/a", f"{number}.csv", b"".join(b"%d;row\n" % i for i in range(300)))
    assert one.back_up("local", SUNDAY_THE_FIRST).success
    one.pass_time(days=1)


def delete_all_but(one: Project, kept: int) -> None:
    for number in range(kept, 20):
        (one.root / "datasets" / "vision" / "a" / f"{number}.csv").unlink(missing_ok=True)


def evaluation(result: dg.ExecuteInProcessResult) -> dg.AssetCheckEvaluation:
    """What the run said of the check, without having been asked."""
    return next(one for one in result.get_asset_check_evaluations() if one.check_name == ANOMALY)


def materialize_dataset(one: Project) -> None:
    @dg.asset(key=["vision", "a"])
    def write() -> None: ...

    assert dg.materialize([write], instance=one.instance, run_config=QUIET).success


@pytest.mark.parametrize("severity", ["warn", "error"])
def test_what_is_suspicious_fails_the_check_blocks_nothing_and_is_cleared_by_a_job(
    project: Make, severity: str
) -> None:
    one = project(policy={"anomaly": {"severity": severity}})
    live(one)
    delete_all_but(one, 12)
    result = one.back_up("local", MONDAY)
    assert result.success
    red = evaluation(result)
    assert not red.passed and red.partition == MONDAY and red.severity.value == severity.upper()
    assert "8 of 21 files are gone" in (red.description or "")
    assert red.metadata["backup/deleted_share"].value == pytest.approx(8 / 21, abs=1e-4)
    assert not one.check(ANOMALY, "local", MONDAY).passed
    refused = one.run_job("clear", dataset="vision/a", snapshot="0000", reason="x")
    assert not refused.success and "suspicious" in first_failure(refused).description
    flagged = str(red.metadata["backup/snapshot"].value)
    done = one.run_job("clear", dataset="vision/a", snapshot=flagged[:12], reason="known")
    assert done.success and evaluation(done).passed and evaluation(done).partition == MONDAY
    green = one.check(ANOMALY, "local", MONDAY)
    assert green.passed and "known" in (green.description or "")


def test_a_materialization_since_the_last_backup_explains_once(project: Make) -> None:
    one = project()
    live(one)
    materialize_dataset(one)
    delete_all_but(one, 12)
    explained = evaluation(one.back_up("local", MONDAY))
    assert explained.passed and "vision/a" in str(explained.metadata["backup/explained"].value)
    one.pass_time(days=1)
    delete_all_but(one, 6)  # nobody materialized it again
    assert not evaluation(one.back_up("local", TUESDAY)).passed


def test_a_materialization_does_not_explain_ciphertext(project: Make) -> None:
    one = project()
    live(one)
    materialize_dataset(one)
    for number in range(4):
        one.write("vision/a", f"{number}.csv", random.Random(number).randbytes(2000))
    red = evaluation(one.back_up("local", MONDAY))
    assert not red.passed and "their names say" in (red.description or "")


def test_a_person_explains_in_the_launchpad_and_the_plan_switches_it_off(project: Make) -> None:
    one = project()
    live(one)
    delete_all_but(one, 12)
    said = one.back_up("local", MONDAY, config={"explained": "cleaned up"})
    assert evaluation(said).passed
    off = project(policy={"anomaly": False})
    live(off)
    delete_all_but(off, 12)
    result = off.back_up("local", MONDAY)
    assert result.success
    assert {c.check_name for c in result.get_asset_check_evaluations()} == {"complete"}
    assert os.path.isdir(off.root)

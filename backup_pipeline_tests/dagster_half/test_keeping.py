"""Expire and prune from Dagster: off until the plan says so, with reasons, and told to the log."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import dagster as dg
import pytest

from backup_pipeline.engine.store.local import LocalStore
from backup_pipeline_tests.dagster_half.project import Project, first_failure

Make = Callable[..., Project]
TIERS = [
    {"name": "local", "kind": "full", "keep": {"daily": 2}},
    {"name": "cloud", "every": "week", "weekday": "sunday", "kind": "full"},
]


@pytest.fixture
def kept(project: Make, monkeypatch: pytest.MonkeyPatch) -> Project:
    """Four days of backups, in a store that keeps time by the project's clock."""
    one = project(tiers=TIERS, policy={"expire": True, "prune": {"every": "month"}})
    for day in ("2026-11-02", "2026-11-03", "2026-11-04", "2026-11-05"):
        one.at(f"{day}T10:00:00")
        one.write("vision/a", "first.bin", day.encode() * 1000)
        result = one.back_up("local", day)
        assert result.success, first_failure(result)
    monkeypatch.setattr(LocalStore, "now", lambda _: one.now)
    return one


def said(result: dg.ExecuteInProcessResult) -> dict[str, Any]:
    """What the job's op said of itself."""
    assert result.success, first_failure(result)
    (event,) = [event for event in result.all_events if event.is_successful_output]
    found = event.step_output_data.metadata
    return {name.removeprefix("backup/"): value.value for name, value in found.items()}


def test_what_goes_and_what_stays_is_a_table_and_nothing_happens_without_apply(
    kept: Project,
) -> None:
    found = said(kept.run_job("expire_local"))
    assert (found["kept"], found["expired"], found["applied"]) == (2, 2, False)
    rows = [dict(record.data) for record in found["snapshots"].records]  # type: ignore[union-attr]
    assert [(row["verdict"], row["day"]) for row in rows] == [
        ("expire", "2026-11-02"),
        ("expire", "2026-11-03"),
        ("keep", "2026-11-04"),
        ("keep", "2026-11-05"),
    ]
    assert rows[0]["why"] == "beyond keep: daily 2"
    assert len(kept.runner.snapshots("vision/a")) == 4


def test_a_day_that_expired_says_so_and_is_not_missing(kept: Project) -> None:
    assert said(kept.run_job("expire_local", apply=True))["expired"] == 2
    day = kept.said("local", "2026-11-02")
    assert (day["status"], day["reason"]) == ("expired", "beyond keep: daily 2")
    assert kept.said("local", "2026-11-05")["status"] == "complete"
    with kept.runner as runner:
        assert [f"{one.day}" for one in runner.snapshots("vision/a")] == [
            "2026-11-04",
            "2026-11-05",
        ]
        (local, _) = runner.status("vision/a")
        assert not {"2026-11-02", "2026-11-03"} & {f"{day}" for day in local.missing_days}


def test_prune_deletes_after_the_grace_what_expired(
    kept: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    said(kept.run_job("expire_local", apply=True))
    assert said(kept.run_job("prune_local"))["condemned_objects"] == 4
    assert said(kept.run_job("prune_local", apply=True))["condemned_objects"] == 4
    kept.pass_time(days=4)
    assert said(kept.run_job("prune_local", apply=True))["deleted_objects"] == 4
    with kept.runner as runner:
        assert runner.verify("vision/a", tier="local").ok


def test_a_legal_hold_keeps_all_and_refuses_to_delete(
    project: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = project(tiers=TIERS)
    one.document["datasets"][0]["legal_hold"] = "case 7"
    for day in ("2026-11-02", "2026-11-03", "2026-11-04"):
        one.at(f"{day}T10:00:00")
        assert one.back_up("local", day).success
    monkeypatch.setattr(LocalStore, "now", lambda _: one.now)
    assert said(one.run_job("expire_local", apply=True))["expired"] == 0
    failed = one.run_job("prune_local", apply=True)
    assert not failed.success and "case 7" in first_failure(failed).description


def test_repair_puts_a_tier_right_from_another_and_fails_while_something_stays_lost(
    project: Make,
) -> None:
    one = project(tiers=[{"name": "local", "kind": "full"}, {"name": "cloud", "kind": "full"}])
    assert one.back_up("local", "2026-11-01").success
    one.at("2026-11-02T10:00:00")
    assert one.back_up("cloud", "2026-11-01").success
    one.flip_byte("local")
    planned = said(one.run_job("repair_local"))
    assert (planned["damaged"], planned["mended_count"], planned["applied"]) == (1, 1, False)
    with one.runner as runner:
        assert not runner.verify("vision/a", tier="local").ok
    (row,) = said(one.run_job("repair_local", apply=True))["mended"].records
    assert row.data["dataset"] == "vision/a" and "another tier" in row.data["how"]
    with one.runner as runner:
        assert runner.verify("vision/a", tier="local").ok
    one.write("vision/a", "first.bin", b"the source has changed")
    for tier in ("local", "cloud"):
        one.flip_byte(tier)
    failed = one.run_job("repair_local", apply=True)
    assert not failed.success and "1 files lost" in first_failure(failed).description


def test_schedules_are_there_where_the_plan_turns_retention_on(project: Make) -> None:
    off = project(tiers=TIERS).build()
    names = {one.name for one in off.schedules or ()}
    assert not {name for name in names if "expire" in name or "prune" in name}

    one = project(tiers=TIERS, policy={"expire": True, "prune": {"every": "month"}})
    schedules = {found.name: found for found in one.build().schedules or ()}
    assert {"backup_expire_local_schedule", "backup_prune_cloud_schedule"} <= schedules.keys()

    def tick(name: str, day: str) -> Any:
        moment = datetime.fromisoformat(f"{day}T05:10:00").replace(tzinfo=UTC)
        with dg.build_schedule_context(scheduled_execution_time=moment) as context:
            return schedules[name].evaluate_tick(context)

    due = tick("backup_expire_local_schedule", "2026-11-05").run_requests
    assert due[0].run_config["ops"]["backup_expire_local_op"]["config"] == {
        "datasets": ["vision/a"],
        "apply": True,
    }
    assert not tick("backup_prune_local_schedule", "2026-11-05").run_requests
    assert tick("backup_prune_local_schedule", "2026-12-01").run_requests

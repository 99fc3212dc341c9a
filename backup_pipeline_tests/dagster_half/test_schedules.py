"""Which day a tick is for, across cadences, zones and clock changes."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import dagster as dg
import pytest

from backup_pipeline_tests.dagster_half.project import Project, backup_key

Make = Callable[..., Project]


def tick(one: Project, schedule: str, local: str, zone: str = "UTC") -> dg.ScheduleExecutionData:
    """One evaluation of a schedule at a local time."""
    moment = datetime.fromisoformat(local).replace(tzinfo=ZoneInfo(zone))
    context = dg.build_schedule_context(
        instance=one.instance,
        scheduled_execution_time=moment,
        repository_def=one.defs.get_repository_def(),
    )
    return one.defs.resolve_schedule_def(schedule).evaluate_tick(context)


def days(answer: Any) -> list[str]:
    """The partition of each requested run."""
    return [request.partition_key for request in answer.run_requests or ()]


def existing(one: Project, tier: str, local: str, zone: str = "UTC") -> list[str]:
    """The partitions that a tier has at a local time."""
    partitions = one.defs.resolve_assets_def(backup_key(tier)).partitions_def
    assert partitions is not None
    moment = datetime.fromisoformat(local).replace(tzinfo=ZoneInfo(zone))
    return list(partitions.get_partition_keys(current_time=moment))


def test_the_same_tick_writes_today_in_the_first_tier_and_yesterday_in_a_copy(
    project: Make,
) -> None:
    one = project(tiers=[{"name": "local"}, {"name": "cloud", "every": "day"}])
    moment = "2026-10-20T02:00:00"
    assert days(tick(one, "backup_local_schedule", moment)) == ["2026-10-20"]
    assert days(tick(one, "backup_cloud_schedule", moment)) == ["2026-10-19"]
    assert existing(one, "local", moment)[-1] == "2026-10-20"
    assert existing(one, "cloud", moment)[-1] == "2026-10-19"


def test_a_weekly_copy_asks_for_sunday_on_monday_and_its_partitions_are_sundays(
    project: Make,
) -> None:
    one = project()
    assert days(tick(one, "backup_cloud_schedule", "2026-10-19T02:00:00")) == ["2026-10-18"]
    assert existing(one, "cloud", "2026-10-19T02:00:00") == [
        "2026-10-04",
        "2026-10-11",
        "2026-10-18",
    ]
    schedule = one.defs.resolve_schedule_def("backup_cloud_schedule")
    assert schedule.cron_schedule == "0 2 * * 1"


def test_a_monthly_copy_asks_for_the_first_on_the_second(project: Make) -> None:
    one = project()
    assert days(tick(one, "backup_offsite_schedule", "2026-11-02T02:00:00")) == ["2026-11-01"]
    assert existing(one, "offsite", "2026-11-02T02:00:00") == ["2026-10-01", "2026-11-01"]


def test_days_before_the_plans_start_are_not_asked_for(project: Make) -> None:
    one = project(tiers=[{"name": "local"}, {"name": "cloud", "every": "day"}])
    answer = tick(one, "backup_cloud_schedule", "2026-10-01T02:00:00")
    assert days(answer) == [] and answer.skip_message


@pytest.mark.parametrize("morning", ["2026-03-29T03:00:00", "2026-10-25T02:00:00"])
def test_a_clock_change_neither_loses_nor_doubles_a_day(project: Make, morning: str) -> None:
    # Dagster moves a tick at 02:00, which the spring morning lacks, to 03:00.
    one = project(
        timezone="Europe/Berlin",
        start="2026-03-01",
        tiers=[{"name": "local"}, {"name": "cloud", "every": "day"}],
    )
    today = morning[:10]
    yesterday = (datetime.fromisoformat(today) - timedelta(days=1)).date().isoformat()
    assert days(tick(one, "backup_local_schedule", morning, "Europe/Berlin")) == [today]
    assert days(tick(one, "backup_cloud_schedule", morning, "Europe/Berlin")) == [yesterday]
    assert existing(one, "local", morning, "Europe/Berlin")[-2:] == [yesterday, today]


def test_the_local_date_counts_where_utc_has_another(project: Make) -> None:
    one = project(timezone="Pacific/Auckland", tiers=[{"name": "local"}])
    answer = tick(one, "backup_local_schedule", "2026-10-20T02:00:00", "Pacific/Auckland")
    assert days(answer) == ["2026-10-20"], "in UTC it is still the 19th"


def test_an_hourly_tier_asks_for_today_every_hour_and_each_hour_once(project: Make) -> None:
    one = project(tiers=[{"name": "local", "every": "hour"}])
    keys: set[str | None] = set()
    for hour in (0, 9, 23):
        answer = tick(one, "backup_local_schedule", f"2026-10-20T{hour:02}:00:00")
        assert days(answer) == ["2026-10-20"]
        keys |= {request.run_key for request in answer.run_requests or ()}
    assert len(keys) == 3


def test_a_slice_is_asked_for_after_its_day_closed(project: Make) -> None:
    one = project(tiers=[{"name": "local"}])
    place = str(one.root / "slices/{day}")
    one.document["datasets"] = [
        {"asset": "vision/a", "source": {"day_paths": place}, "holds": "slice"}
    ]
    assert days(tick(one, "backup_local_schedule", "2026-10-20T02:00:00")) == ["2026-10-19"]
    assert existing(one, "local", "2026-10-20T02:00:00")[-1] == "2026-10-19"


def test_a_weekly_first_tier_reads_its_source_on_its_own_day(project: Make) -> None:
    one = project(tiers=[{"name": "local", "every": "week", "weekday": "sunday"}])
    assert days(tick(one, "backup_local_schedule", "2026-10-18T02:00:00")) == ["2026-10-18"]
    assert "2026-10-18" in existing(one, "local", "2026-10-18T02:00:00")


def test_one_schedule_per_tier_serves_all_datasets_each_with_a_run_of_its_own(
    project: Make,
) -> None:
    one = project()
    one.document["datasets"] = [
        {
            "assets": [f"vision/{name}" for name in "abcd"],
            "source": str(one.root / "datasets/{asset}"),
        },
        {
            "asset": "vision/e",
            "source": str(one.root / "elsewhere"),
            "override": {"tiers": {"local": {"every": "hour"}}, "on_change": False},
        },
    ]
    names = {schedule.name for schedule in one.defs.schedules or ()}
    assert names == {
        "backup_local_schedule",
        "backup_local_hourly_00_schedule",
        "backup_cloud_schedule",
        "backup_offsite_schedule",
        "backup_fresh_schedule",
        "backup_hours_covered_schedule",
        "backup_drill_schedule",
        "backup_posture_schedule",
    }
    answer = tick(one, "backup_local_schedule", "2026-10-20T02:00:00")
    requests = answer.run_requests or []
    assert [request.asset_selection for request in requests] == [
        [backup_key("local", f"vision/{name}")] for name in "abcd"
    ]
    assert len({request.tags["backup/repository"] for request in requests}) == 4
    assert all(
        request.asset_check_keys == [dg.AssetCheckKey(request.asset_selection[0], "complete")]
        for request in requests
        if request.asset_selection
    ), "expensive checks stay out of scheduled runs"


@pytest.mark.parametrize(("on_overlap", "requested"), [("skip", []), ("queue", ["2026-10-20"])])
def test_a_run_that_is_still_active_is_not_overlapped_unless_the_plan_says_queue(
    project: Make, on_overlap: str, requested: list[str]
) -> None:
    one = project(policy={"run": {"on_overlap": on_overlap, "tags": {"team": "storage"}}})
    job = one.defs.resolve_job_def("backup_local")
    one.instance.create_run_for_job(
        job, status=dg.DagsterRunStatus.STARTED, asset_selection=frozenset({backup_key("local")})
    )
    answer = tick(one, "backup_local_schedule", "2026-10-20T02:00:00")
    assert days(answer) == requested
    if requested:
        assert (answer.run_requests or [])[0].tags["team"] == "storage"
    else:
        assert "vision/a" in (answer.skip_message or "")


def test_datasets_whose_override_has_other_days_get_a_job_of_their_own(project: Make) -> None:
    one = project()
    one.document["datasets"].append(
        {
            "asset": "vision/b",
            "source": str(one.root / "elsewhere"),
            "override": {"tiers": {"cloud": {"weekday": "friday"}}},
        }
    )
    dg.Definitions.validate_loadable(one.defs)
    assert days(tick(one, "backup_cloud_friday_schedule", "2026-10-17T02:00:00")) == ["2026-10-16"]


@pytest.mark.parametrize("automation", [True, False])
def test_automation_runs_only_where_the_plan_says_so(project: Make, automation: bool) -> None:
    one = project(automation=automation)
    word = "RUNNING" if automation else "STOPPED"
    assert {s.default_status.name for s in one.defs.schedules or ()} == {word}  # pyright: ignore[reportAttributeAccessIssue]
    assert {s.default_status.name for s in one.defs.sensors or ()} == {word}


def test_drills_come_around_as_the_policy_says(project: Make) -> None:
    one = project(policy={"drill": {"every": "week", "sample": "5%"}})
    saturday = tick(one, "backup_drill_schedule", "2026-10-17T04:30:00")
    (request,) = saturday.run_requests or []
    assert request.run_config == {
        "ops": {"backup_drill_tiers": {"config": {"datasets": ["vision/a"]}}}
    }
    assert not days(tick(one, "backup_drill_schedule", "2026-10-18T04:30:00"))

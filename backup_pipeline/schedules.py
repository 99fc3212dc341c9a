"""Schedules: one per tier for all datasets, and the clocks of the checks that nothing else asks."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

import dagster as dg

from backup_pipeline.checks import FRESH, HOURS_COVERED
from backup_pipeline.jobs import Job, drills_due
from backup_pipeline.plan.cadence import due_day
from backup_pipeline.resources import Wiring
from backup_pipeline.runs import TierJob, busy_repositories, companions, run_tags, step_checks
from backup_pipeline.translator import TierAsset

__all__ = [
    "build_check_schedules",
    "build_drill_schedule",
    "build_tier_schedules",
    "daily_schedule",
    "default_status",
    "tier_requests",
]

FRESH_CRON = "20 * * * *"
"""Age is asked every hour: an RPO is missed within the hour, and the run costs seconds."""

HOURS_COVERED_CRON = "45 0 * * *"
"""After the day closed at half past midnight."""

DRILL_CRON = "30 4 * * *"

PARTITION_TAG = "dagster/partition"


def build_tier_schedules(jobs: Sequence[TierJob], wiring: Wiring) -> list[dg.ScheduleDefinition]:
    """One schedule per tier; datasets whose override runs at another time get one of their own."""
    schedules: list[dg.ScheduleDefinition] = []
    for job in jobs:
        groups: dict[str, list[TierAsset]] = {}
        for asset in job.assets:
            groups.setdefault(asset.due, []).append(asset)
        for number, (cron, assets) in enumerate(groups.items()):
            name = job.name if number == 0 else f"{job.name}_{_time_word(assets[0])}"
            schedules.append(_tier_schedule(f"{name}_schedule", cron, job, assets, wiring))
    return schedules


def _time_word(asset: TierAsset) -> str:
    at = asset.tier.at
    return f"hourly_{at:%M}" if asset.tier.every == "hour" else f"{asset.tier.every}_at_{at:%H%M}"


def _tier_schedule(
    name: str, cron: str, job: TierJob, assets: Sequence[TierAsset], wiring: Wiring
) -> dg.ScheduleDefinition:
    @dg.schedule(
        name=name,
        job=job.job,
        cron_schedule=cron,
        execution_timezone=wiring.plan.timezone,
        default_status=default_status(wiring),
        description=f"Backs up {len(assets)} datasets in tier {assets[0].tier.name}.",
    )
    def tick(
        context: dg.ScheduleEvaluationContext,
    ) -> Iterator[dg.RunRequest | dg.SkipReason]:
        moment = context.scheduled_execution_time
        yield from tier_requests(moment, job, assets, wiring, context.instance)

    return tick


def tier_requests(
    moment: datetime,
    job: TierJob,
    assets: Sequence[TierAsset],
    wiring: Wiring,
    instance: dg.DagsterInstance,
) -> Iterator[dg.RunRequest | dg.SkipReason]:
    """What a tick of a tier's schedule asks for: one run per dataset that is due.

    A run of its own for each dataset keeps them apart: one that fails or is slow is retried,
    limited and shown alone.

    Args:
        moment: When the schedule ticked.
        job: The tier's job.
        assets: Those of its assets that run at this time.
        wiring: The plan.
        instance: Knows what is queued or running.
    """
    busy: set[str] | None = None
    skipped: list[str] = []
    requested = 0
    for asset in assets:
        if companions(asset, assets)[0] is not asset:
            continue  # its set was looked at with its first member
        dataset = asset.dataset
        day = due_day(asset.tier, moment, wiring.plan.zone, dataset.holds)
        if day is None or day < wiring.plan.start:
            continue
        if dataset.run.on_overlap == "skip":
            busy = busy_repositories(instance, [job]) if busy is None else busy
            if asset.repository in busy:
                skipped.append(dataset.key)
                continue
        requested += 1
        step = companions(asset, assets)
        yield dg.RunRequest(
            run_key=f"{asset.repository}:{moment.astimezone(UTC).isoformat(timespec='minutes')}",
            partition_key=day.isoformat(),
            asset_selection=[one.asset_key for one in step],
            # Left out, Dagster adds every check of the asset, the expensive ones too.
            asset_check_keys=[check for one in step for check in step_checks(one)],
            tags=run_tags(asset),
        )
    if skipped:
        names = ", ".join(skipped[:5]) + (f" and {len(skipped) - 5} more" if skipped[5:] else "")
        reason = f"a run is queued or active for {names}"
    else:
        reason = "no dataset of this tier is due on this day"
    if not requested:
        yield dg.SkipReason(reason)


def build_check_schedules(jobs: Mapping[str, Any], wiring: Wiring) -> list[dg.ScheduleDefinition]:
    """The clocks of ``fresh`` and ``hours_covered``: they have to speak when nothing runs."""
    schedules = [
        dg.ScheduleDefinition(
            name=wiring.named(f"{FRESH}_schedule"),
            job=jobs[FRESH],
            cron_schedule=FRESH_CRON,
            execution_timezone=wiring.plan.timezone,
            default_status=default_status(wiring),
            description="Asks every hour whether each tier's newest good snapshot is young enough.",
        )
    ]
    if HOURS_COVERED in jobs:
        schedules.append(_hours_schedule(jobs[HOURS_COVERED], wiring))
    return schedules


def _hours_schedule(job: Any, wiring: Wiring) -> dg.ScheduleDefinition:
    @dg.schedule(
        name=wiring.named(f"{HOURS_COVERED}_schedule"),
        job=job,
        cron_schedule=HOURS_COVERED_CRON,
        execution_timezone=wiring.plan.timezone,
        default_status=default_status(wiring),
        description="Asks after each day how many of its hours have a good snapshot.",
    )
    def tick(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        day = _day_before(context.scheduled_execution_time, wiring)
        if day < wiring.plan.start:
            return dg.SkipReason("the plan's first day is not over")
        # A job of checks alone drops its partition; the tag keeps it.
        return dg.RunRequest(run_key=day.isoformat(), tags={PARTITION_TAG: day.isoformat()})

    return tick


def build_drill_schedule(
    assets: Sequence[TierAsset], job: Job, wiring: Wiring
) -> dg.ScheduleDefinition:
    """Runs the drills that are due on a day, in one run."""
    return daily_schedule(
        "drill",
        job,
        wiring,
        cron=DRILL_CRON,
        op="drill_tiers",
        due=lambda day: drills_due(assets, day),
        description="Restores samples to scratch as often as the policies say.",
    )


def daily_schedule(
    what: str,
    job: Job,
    wiring: Wiring,
    *,
    cron: str,
    op: str,
    due: Callable[[date], Sequence[Any]],
    description: str,
) -> dg.ScheduleDefinition:
    """Runs a job once a day where something is due, and tells its op what.

    Args:
        what: The schedule's name, without prefix and ending.
        job: The job.
        wiring: The plan.
        cron: When, in the plan's time zone.
        op: The job's op, which takes ``datasets``.
        due: What is due on a day.
        description: For the UI.
    """

    @dg.schedule(
        name=wiring.named(f"{what}_schedule"),
        job=job,
        cron_schedule=cron,
        execution_timezone=wiring.plan.timezone,
        default_status=default_status(wiring),
        description=description,
    )
    def tick(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        day = context.scheduled_execution_time.astimezone(wiring.plan.zone).date()
        chosen = due(day)
        if not chosen:
            return dg.SkipReason(f"no {what} is due on this day")
        config = {"ops": {wiring.named(op): {"config": {"datasets": chosen}}}}
        return dg.RunRequest(run_key=day.isoformat(), run_config=config)

    return tick


def _day_before(moment: datetime, wiring: Wiring) -> date:
    return moment.astimezone(wiring.plan.zone).date() - timedelta(days=1)


def default_status(wiring: Wiring) -> dg.DefaultScheduleStatus:
    """Whether schedules run from the start: as the plan's ``automation`` says."""
    running = wiring.plan.automation
    return dg.DefaultScheduleStatus.RUNNING if running else dg.DefaultScheduleStatus.STOPPED

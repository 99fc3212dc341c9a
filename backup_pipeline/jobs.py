"""Jobs: a tier's backups, drill, sync, and the two that only evaluate checks."""

from collections.abc import Sequence
from datetime import date
from typing import Any

import dagster as dg
from pydantic import Field

from backup_pipeline.checks import (
    FRESH,
    HOURS_COVERED,
    covers_hours,
)
from backup_pipeline.drillchecks import drill_verdicts
from backup_pipeline.engine.errors import BackupError, NotFound, UsageError
from backup_pipeline.metadata import key
from backup_pipeline.resources import Wiring, failure
from backup_pipeline.restore_job import RestorableDays, day_of
from backup_pipeline.runs import TierJob, recorder, step_checks
from backup_pipeline.sync import Stored, list_stored, sync_tiers
from backup_pipeline.translator import TierAsset

__all__ = [
    "DrillConfig",
    "SyncConfig",
    "build_check_jobs",
    "build_drill_job",
    "build_sync_job",
    "group_by_tier",
]

Job = dg.JobDefinition


def group_by_tier(assets: Sequence[TierAsset], wiring: Wiring) -> list[TierJob]:
    """One job per tier; where a dataset's override gives it other days, those get one of their own.

    A job's assets have to share their partitions. The first cadence that the plan gives a tier has
    the plain name, so that a dataset added below does not rename it.
    """
    groups: dict[tuple[str, str], list[TierAsset]] = {}
    for asset in assets:
        groups.setdefault((asset.tier.name, repr(asset.partitions)), []).append(asset)
    jobs: list[TierJob] = []
    taken: set[str] = set()
    for (tier, _), members in groups.items():
        name = wiring.named(tier)
        if name in taken:
            name = f"{name}_{_cadence_word(members[0])}"
        number = 2
        while name in taken:
            name, number = f"{name}_{number}", number + 1
        taken.add(name)
        jobs.append(TierJob(name, tuple(members), _tier_job(name, members)))
    return jobs


def _cadence_word(asset: TierAsset) -> str:
    tier = asset.tier
    return {"week": tier.weekday, "month": f"day_{tier.day_of_month}"}.get(tier.every) or (
        f"every_{tier.every}" if asset.today else "closed_days"
    )


def _tier_job(name: str, assets: Sequence[TierAsset]) -> Any:
    """Backups and their ``complete`` check; the expensive checks stay out of scheduled runs."""
    keys = [asset.asset_key for asset in assets]
    checks = [check for asset in assets for check in step_checks(asset)]
    selection = dg.AssetSelection.assets(*keys).without_checks() | dg.AssetSelection.checks(*checks)
    return dg.define_asset_job(
        name,
        selection,
        description=f"Back up a day in tier `{assets[0].tier.name}`.",
        # A scheduled run holds one dataset; a step process of its own would add seconds to it.
        executor_def=dg.in_process_executor,
    )


def build_check_jobs(assets: Sequence[TierAsset], wiring: Wiring) -> dict[str, Any]:
    """Jobs that only evaluate checks, by the check's name."""
    fresh = [asset.check_key(FRESH) for asset in assets]
    jobs: dict[str, Any] = {
        FRESH: dg.define_asset_job(
            wiring.named(FRESH),
            dg.AssetSelection.checks(*fresh),
            description="Is every tier's newest good snapshot within its RPO?",
            executor_def=dg.in_process_executor,
        )
    }
    hourly = [asset.check_key(HOURS_COVERED) for asset in assets if covers_hours(asset)]
    if hourly:
        jobs[HOURS_COVERED] = dg.define_asset_job(
            wiring.named(HOURS_COVERED),
            dg.AssetSelection.checks(*hourly),
            description="Has the day of every hourly tier enough good hours? Give it a partition.",
            executor_def=dg.in_process_executor,
        )
    return jobs


# -- drill


class DrillConfig(dg.Config):
    """What to drill; empty means all, at their newest good snapshots."""

    datasets: list[str] = Field(default=[], description="Keys of datasets; empty takes all.")
    tier: str | None = Field(default=None, description="One tier only.")
    day: str | None = Field(default=None, description="A day; else the newest good snapshot.")
    sample: str | None = Field(default=None, description="Such as 5%; else as the policy says.")


def build_drill_job(assets: Sequence[TierAsset], wiring: Wiring) -> Job:
    """The drill job: restores samples to scratch and reports ``restores`` for their days."""

    @dg.op(name=wiring.named("drill_tiers"), required_resource_keys={wiring.resource})
    def drill_tiers(context: dg.OpExecutionContext, config: DrillConfig) -> None:
        backups = wiring.resource_of(context)
        failed: list[str] = []
        done = 0
        try:
            chosen = _drilled(assets, config, wiring)
        except UsageError as error:
            raise failure(error) from None
        for asset in chosen:
            place = f"{asset.dataset.key} in tier {asset.tier.name}"
            try:
                sentence, passed = _drill_one(context, backups, asset, config, wiring)
            except NotFound as error:
                context.log.info(f"{place}: nothing to drill: {error.message}")
                continue
            except BackupError as error:
                sentence, passed = str(error), False
            done += 1
            context.log.log("INFO" if passed else "ERROR", f"{place}: {sentence}")
            if not passed:
                failed.append(f"{place}: {sentence}")
        context.add_output_metadata({key("drills"): done, key("failed_drills"): len(failed)})
        if failed:
            raise dg.Failure("\n".join(failed), allow_retries=False)

    @dg.job(
        name=wiring.named("drill"),
        description="Restore samples to scratch, compare them with the manifest, and time it.",
        executor_def=dg.in_process_executor,
    )
    def drill() -> None:
        drill_tiers()

    return drill


def _drilled(assets: Sequence[TierAsset], config: DrillConfig, wiring: Wiring) -> list[TierAsset]:
    for dataset in config.datasets:
        wiring.plan.dataset(dataset)
    return [
        asset
        for asset in assets
        if (not config.datasets or asset.dataset.key in config.datasets)
        and (config.tier is None or asset.tier.name == config.tier)
    ]


def _drill_one(
    context: dg.OpExecutionContext,
    backups: Any,
    asset: TierAsset,
    config: DrillConfig,
    wiring: Wiring,
) -> tuple[str, bool]:
    """Drill what is due of a tier, or the day that was asked for; report on its checks."""
    day = day_of(config.day) if config.day else None
    place = asset.dataset.key, asset.tier.name
    with backups.runner(now=wiring.now) as runner:
        if day is not None:
            chosen, share = [runner.find(place[0], tier=place[1], day=day)[1]], config.sample
        else:
            chosen = runner.to_drill(*place, sample=config.sample)
            share = runner.share_of_each(place[0], config.sample)
    sentences: list[str] = []
    good = True
    for snapshot in chosen:
        arguments = {"dataset": place[0], "tier": place[1], "snapshot": snapshot.id}
        for name, verdict in drill_verdicts(
            asset,
            lambda wanted={**arguments, "sample": share}: backups.run(
                "drill", wanted, now=wiring.now, log=context.log.info
            ),
        ):
            passed, sentence, said = verdict
            recorder(context)(
                dg.AssetCheckEvaluation(
                    asset_key=asset.asset_key,
                    check_name=name,
                    passed=passed,
                    description=sentence,
                    metadata=said,
                    partition=snapshot.day.isoformat(),
                )
            )
            good = good and passed
            sentences.append(sentence if passed else f"{name} of {snapshot.day}: {sentence}")
    return "; ".join(sentences), good


def drills_due(assets: Sequence[TierAsset], day: date) -> list[str]:
    """Keys of the datasets whose drills fall on a day: daily, on Saturdays, or on the first.

    Each dataset's drill comes around on the cadence that its policy gives.
    """
    saturday, first = day.weekday() == 5, day.day == 1
    on_this_day = {"day": True, "week": saturday, "month": first}
    due = {
        asset.dataset.key
        for asset in assets
        if asset.dataset.drill and on_this_day[asset.dataset.drill.every]
    }
    return [key for key in dict.fromkeys(asset.dataset.key for asset in assets) if key in due]


# -- sync


class SyncConfig(dg.Config):
    """What to look at; empty means all."""

    datasets: list[str] = Field(default=[], description="Keys of datasets; empty takes all.")
    expired: bool = Field(
        default=True, description="Report days that the log has and the store no longer has."
    )
    lost: bool = Field(
        default=False,
        description="Also those of which the store's own log has never heard, after a store was set"
        " back: once you know why, and nothing can bring them back.",
    )


def build_sync_job(assets: Sequence[TierAsset], wiring: Wiring) -> Job:
    """The sync job: the stores' snapshots, told to the event log."""

    @dg.op(name=wiring.named("sync_log"), required_resource_keys={wiring.resource})
    def sync_log(context: dg.OpExecutionContext, config: SyncConfig) -> None:
        chosen = [
            one for one in assets if not config.datasets or one.dataset.key in config.datasets
        ]
        days = RestorableDays()

        def listing(asset: TierAsset) -> Stored | None:
            stored = list_stored(runner, asset)
            days.of(stored.snapshots if stored is not None else ())
            return stored

        with wiring.resource_of(context).runner(now=wiring.now) as runner:
            report = sync_tiers(
                context.instance,
                recorder(context),
                chosen,
                listing,
                expired=config.expired,
                lost=config.lost,
            )
        days.offer(context, wiring, whole=len(chosen) == len(assets) and not report.errors)
        context.log.info(report.sentence())
        context.add_output_metadata(
            {
                key("reported"): report.reported,
                key("known"): report.known,
                key("expired"): report.expired,
            }
        )
        if report.errors:
            raise dg.Failure("\n".join(report.errors))

    @dg.job(
        name=wiring.named("sync"),
        description=(
            "Tell the event log what the stores hold: snapshots made by the command line, or all of"
            " them after Dagster's database was lost."
        ),
        executor_def=dg.in_process_executor,
    )
    def sync() -> None:
        sync_log()

    return sync

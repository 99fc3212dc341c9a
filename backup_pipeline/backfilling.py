"""The job that fills missed days, and its clock where a policy turns it on."""

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

import dagster as dg
from pydantic import Field

from backup_pipeline.engine.errors import BackupError, UsageError
from backup_pipeline.metadata import key
from backup_pipeline.resources import Wiring, failure
from backup_pipeline.runs import companions, recorder
from backup_pipeline.schedules import daily_schedule
from backup_pipeline.sync import list_stored, sync_tiers
from backup_pipeline.translator import TierAsset

__all__ = ["BackfillConfig", "build_backfill_job", "build_backfill_schedule"]

BACKFILL_CRON = "30 5 * * *"
"""After the night's backups and expiry: what they left is missed."""

MOST_ROWS = 500

Report = Mapping[str, Any]


class BackfillConfig(dg.Config):
    """Which days to fill; empty means all that were missed."""

    datasets: list[str] = Field(default=[], description="Keys of datasets; empty takes all.")
    tier: str | None = Field(default=None, description="One tier only.")
    since: str | None = Field(default=None, description="The first day: YYYY-MM-DD.")
    until: str | None = Field(default=None, description="The last day: YYYY-MM-DD.")
    exact_only: bool = Field(
        default=False, description="Leave the days that could only be had late."
    )


def build_backfill_job(assets: Sequence[TierAsset], wiring: Wiring) -> dg.JobDefinition:
    """The backfill job: fills what can be had, and reports each day to its partition.

    A day that nothing can give back is listed and is no failure: it would be one on every day from
    then on. One that could be had, and failed, is; so is a tier that cannot be asked.
    """

    @dg.op(name=wiring.named("backfill_days"), required_resource_keys={wiring.resource})
    def backfill_days(context: dg.OpExecutionContext, config: BackfillConfig) -> None:
        try:
            keys = _keys(assets, config, wiring)
            arguments = _arguments(config)
        except BackupError as error:
            raise failure(error) from None
        backups = wiring.resource_of(context)
        reports: list[Report] = []
        errors: list[str] = []
        for dataset in keys:
            try:
                report = backups.run(
                    "backfill",
                    {"dataset": dataset, **arguments},
                    now=wiring.now,
                    log=context.log.info,
                )
            except BackupError as error:
                errors.append(f"{dataset}: {error}")
                continue
            reports.append(report)
            errors += [_unasked_sentence(one) for one in report["unasked"]]
            for one in report["left"]:
                context.log.warning(_left_sentence(one))
                if one["way"] is not None and not (config.exact_only and one["late"]):
                    errors.append(_left_sentence(one))
        context.add_output_metadata(_said(reports))
        touched = {(one["dataset"], one["tier"]) for each in reports for one in each["filled"]}
        # What fills one member of a set fills the others.
        chosen = [
            one
            for one in assets
            if any(
                (each.dataset.key, each.tier.name) in touched for each in companions(one, assets)
            )
        ]
        with backups.runner(now=wiring.now) as runner:
            told = sync_tiers(
                context.instance,
                recorder(context),
                chosen,
                lambda one: list_stored(runner, one),
                expired=False,
            )
        context.log.info(told.sentence())
        if errors:
            raise dg.Failure("\n".join(errors), allow_retries=False)

    @dg.job(
        name=wiring.named("backfill"),
        description="Fill the days that were missed, in the order in which they depend.",
        executor_def=dg.in_process_executor,
    )
    def backfill() -> None:
        backfill_days()

    return backfill


def _keys(assets: Sequence[TierAsset], config: BackfillConfig, wiring: Wiring) -> list[str]:
    for dataset in config.datasets:
        wiring.plan.dataset(dataset)
    keys = dict.fromkeys(
        asset.dataset.key
        for asset in assets
        if (not config.datasets or asset.dataset.key in config.datasets)
        and config.tier in (None, asset.tier.name)
    )
    if not keys:
        raise UsageError(f"no dataset has a tier {config.tier!r}", "look at the plan's tiers")
    return list(keys)


def _arguments(config: BackfillConfig) -> dict[str, Any]:
    days = {"since": config.since, "until": config.until}
    for name, words in days.items():
        try:
            date.fromisoformat(words or "2000-01-01")
        except ValueError:
            raise UsageError(f"{name}: {words!r} is no day", "write it as 2026-11-22") from None
    return {"tier": config.tier, "exact_only": config.exact_only, **days}


def _left_sentence(one: Mapping[str, Any]) -> str:
    return f"{one['dataset']} in tier {one['tier']}: {one['day']} stays missing: {one['reason']}"


def _unasked_sentence(one: Mapping[str, Any]) -> str:
    return f"{one['dataset']} in tier {one['tier']} cannot be asked: {one['reason']}"


def _said(reports: Sequence[Report]) -> dict[str, Any]:
    filled = [one for report in reports for one in report["filled"]]
    left = [one for report in reports for one in report["left"]]
    said: dict[str, Any] = {
        key("filled_days"): len(filled),
        key("late_days"): sum(one["timing"] == "late" for one in filled),
        key("left_days"): len(left),
    }
    rows = {
        "filled": [_row(one, one["timing"], one["way"]) for one in filled],
        "left": [_row(one, "", one["reason"]) for one in left],
    }
    for name, records in rows.items():
        if records:
            said[key(name)] = dg.MetadataValue.table(records[:MOST_ROWS])
    return said


def _row(one: Mapping[str, Any], timing: str, how: str) -> dg.TableRecord:
    place = {name: one[name] for name in ("dataset", "tier", "day")}
    return dg.TableRecord({**place, "timing": timing, "how": how})


def build_backfill_schedule(
    assets: Sequence[TierAsset], job: dg.JobDefinition, wiring: Wiring
) -> list[dg.ScheduleDefinition]:
    """The schedule of the datasets whose policy turns it on; none where none does."""
    every = {one.dataset.key: one.dataset.backfill for one in assets if one.dataset.backfill}
    if not every:
        return []

    def due(day: date) -> list[str]:
        sunday = day.weekday() == 6
        return [name for name, often in every.items() if often == "day" or sunday]

    return [
        daily_schedule(
            "backfill",
            job,
            wiring,
            cron=BACKFILL_CRON,
            op="backfill_days",
            due=due,
            description="Fills missed days as often as the policies say.",
        )
    ]

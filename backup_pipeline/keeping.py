"""Retention in Dagster: the expire and prune jobs of each tier, and their clocks."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import dagster as dg
from pydantic import Field

from backup_pipeline.engine.errors import BackupError, NotFound
from backup_pipeline.engine.progress import human_bytes
from backup_pipeline.metadata import key
from backup_pipeline.resources import Wiring
from backup_pipeline.runs import recorder
from backup_pipeline.schedules import default_status
from backup_pipeline.sync import list_stored, sync_tiers
from backup_pipeline.translator import TierAsset

__all__ = ["KeepingConfig", "build_keeping_jobs", "build_keeping_schedules"]

EXPIRE_CRON = "10 5 * * *"
PRUNE_CRON = "40 5 * * *"
"""After the night's backups and drills, and expire before prune."""

MOST_ROWS = 500


class KeepingConfig(dg.Config):
    """What to look at, and whether to do it."""

    datasets: list[str] = Field(default=[], description="Keys of datasets; empty takes all.")
    apply: bool = Field(default=False, description="Do it; else only say what would be done.")


@dataclass(frozen=True)
class KeepingJob:
    """One tier's job of one verb.

    Attributes:
        verb: ``expire`` or ``prune``.
        tier: The tier's name.
        assets: Its assets.
        op: Its op's name, under which its config stands.
        job: The job.
    """

    verb: str
    tier: str
    assets: Sequence[TierAsset]
    op: str
    job: dg.JobDefinition


def build_keeping_jobs(assets: Sequence[TierAsset], wiring: Wiring) -> list[KeepingJob]:
    """An expire and a prune job for each tier; without ``apply`` they only say what would be."""
    tiers: dict[str, list[TierAsset]] = {}
    for asset in assets:
        tiers.setdefault(asset.tier.name, []).append(asset)
    return [
        build(tier, members, wiring)
        for tier, members in tiers.items()
        for build in (_expire_job, _prune_job)
    ]


Do = Callable[[dg.OpExecutionContext, TierAsset, KeepingConfig], Mapping[str, Any]]


def _expire_job(tier: str, assets: Sequence[TierAsset], wiring: Wiring) -> KeepingJob:
    def finish(
        context: dg.OpExecutionContext,
        chosen: Sequence[TierAsset],
        reports: Sequence[Mapping[str, Any]],
    ) -> dict[str, Any]:
        context.add_output_metadata(_expiry_said(reports))
        if not any(report["applied"] and report["expired"] for report in reports):
            return {}
        with wiring.resource_of(context).runner(now=wiring.now) as runner:
            report = sync_tiers(
                context.instance,
                recorder(context),
                chosen,
                lambda one: list_stored(runner, one),
                reasons={
                    (report["dataset"], one["day"]): one["reasons"][0]
                    for report in reports
                    for one in report["snapshots"]
                    if not one["kept"]
                },
            )
        context.log.info(report.sentence())
        return {}

    return _job(
        "expire",
        tier,
        assets,
        wiring,
        description=f"Which snapshots tier `{tier}` lets go, which it keeps, and why.",
        finish=finish,
    )


def _prune_job(tier: str, assets: Sequence[TierAsset], wiring: Wiring) -> KeepingJob:
    def finish(
        context: dg.OpExecutionContext,
        chosen: Sequence[TierAsset],
        reports: Sequence[Mapping[str, Any]],
    ) -> dict[str, Any]:
        context.add_output_metadata(_prune_said(reports))
        return {}

    return _job(
        "prune",
        tier,
        assets,
        wiring,
        description=(
            f"Deletes from tier `{tier}` what no snapshot needs: condemned first, gone after"
            " the grace."
        ),
        finish=finish,
    )


def _job(
    verb: str,
    tier: str,
    assets: Sequence[TierAsset],
    wiring: Wiring,
    *,
    description: str,
    finish: Callable[..., Any],
) -> KeepingJob:
    op_name = wiring.named(f"{verb}_{tier}_op")

    @dg.op(name=op_name, required_resource_keys={wiring.resource})
    def keep(context: dg.OpExecutionContext, config: KeepingConfig) -> None:
        for dataset in config.datasets:
            wiring.plan.dataset(dataset)
        chosen = [
            one for one in assets if not config.datasets or one.dataset.key in config.datasets
        ]
        reports: list[Mapping[str, Any]] = []
        errors: list[str] = []
        for asset in chosen:
            place = f"{asset.dataset.key} in tier {tier}"
            arguments = {"dataset": asset.dataset.key, "tier": tier, "apply": config.apply}
            try:
                report = wiring.resource_of(context).run(
                    verb, arguments, now=wiring.now, log=context.log.info
                )
            except NotFound as error:
                context.log.info(f"{place}: {error.message}")
                continue
            except BackupError as error:
                errors.append(f"{place}: {error}")
                context.log.error(errors[-1])
                continue
            reports.append(report)
            context.log.info(f"{place}: {_SENTENCES[verb](report)}")
        finish(context, chosen, reports)
        if errors:
            raise dg.Failure("\n".join(errors), allow_retries=False)

    @dg.job(
        name=wiring.named(f"{verb}_{tier}"),
        description=description,
        executor_def=dg.in_process_executor,
    )
    def job() -> None:
        keep()

    return KeepingJob(verb, tier, assets, op_name, job)


def _expiry_sentence(report: Mapping[str, Any]) -> str:
    did = "expired" if report["applied"] else "would expire"
    return f"{report['kept']} snapshots kept, {report['expired']} {did}"


def _prune_sentence(report: Mapping[str, Any]) -> str:
    deleted, condemned = report["deleted_objects"], report["condemned_objects"]
    would = "" if report["applied"] else "would be "
    return (
        f"{deleted} objects, {human_bytes(report['deleted_bytes'])}, {would}deleted; {condemned},"
        f" {human_bytes(report['condemned_bytes'])}, {would}condemned; {report['waiting_objects']}"
        f" wait; {report['unknown_count']} unknown, not touched"
    )


_SENTENCES = {"expire": _expiry_sentence, "prune": _prune_sentence}


def _expiry_said(reports: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What goes first, then what stays, each with its reasons."""
    rows = [
        dg.TableRecord(
            {
                "verdict": "keep" if one["kept"] else "expire",
                "dataset": report["dataset"],
                "day": one["day"],
                "snapshot": one["id"][:12],
                "kind": one["kind"],
                "stored": human_bytes(one["stored_bytes"]),
                "why": "; ".join(one["reasons"]),
            }
        )
        for report in reports
        for one in report["snapshots"]
    ]
    rows.sort(key=lambda row: row.data["verdict"] == "keep")
    said: dict[str, Any] = {
        key("applied"): any(report["applied"] for report in reports),
        key("expired"): sum(report["expired"] for report in reports),
        key("kept"): sum(report["kept"] for report in reports),
    }
    if rows:
        said[key("snapshots")] = dg.MetadataValue.table(rows[:MOST_ROWS])
    return said


_COUNTS = ("deleted", "condemned", "waiting", "needed", "running")


def _prune_said(reports: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    said: dict[str, Any] = {key("applied"): any(report["applied"] for report in reports)}
    for count in _COUNTS:
        for what in ("objects", "bytes"):
            said[key(f"{count}_{what}")] = sum(report[f"{count}_{what}"] for report in reports)
    said[key("unknown_objects")] = sum(report["unknown_count"] for report in reports)
    listed = {
        "refused": [text for report in reports for text in report["refused"]],
        "unknown": [text for report in reports for text in report["unknown"]],
    }
    for name, texts in listed.items():
        if texts:
            said[key(name)] = dg.MetadataValue.json(texts[:MOST_ROWS])
    return said


# -- their clocks


def build_keeping_schedules(
    jobs: Sequence[KeepingJob], wiring: Wiring
) -> list[dg.ScheduleDefinition]:
    """Schedules of the tiers whose policies turn retention on."""
    return [
        _schedule(job, wiring)
        for job in jobs
        if any(_every(job.verb, asset) for asset in job.assets)
    ]


def _schedule(job: KeepingJob, wiring: Wiring) -> dg.ScheduleDefinition:
    @dg.schedule(
        name=wiring.named(f"{job.verb}_{job.tier}_schedule"),
        job=job.job,
        cron_schedule=EXPIRE_CRON if job.verb == "expire" else PRUNE_CRON,
        execution_timezone=wiring.plan.timezone,
        default_status=default_status(wiring),
        description=f"Runs {job.verb} in tier {job.tier} as often as the policies say.",
    )
    def tick(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        day = context.scheduled_execution_time.astimezone(wiring.plan.zone).date()
        due = [one.dataset.key for one in job.assets if _is_due(_every(job.verb, one), day)]
        if not due:
            return dg.SkipReason(f"{job.verb} is not due on this day")
        config = {"datasets": due, "apply": True}
        return dg.RunRequest(
            run_key=day.isoformat(), run_config={"ops": {job.op: {"config": config}}}
        )

    return tick


def _every(verb: str, asset: TierAsset) -> str | None:
    return asset.dataset.expire if verb == "expire" else asset.dataset.prune


def _is_due(every: str | None, day: date) -> bool:
    """Daily, on Sundays, or on the first of the month."""
    return {"day": True, "week": day.weekday() == 6, "month": day.day == 1}.get(every or "", False)

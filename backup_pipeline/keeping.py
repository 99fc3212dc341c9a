"""Each tier's jobs to expire, prune and repair in Dagster, and the clocks of retention."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import dagster as dg
from pydantic import Field

from backup_pipeline.engine.errors import BackupError, NotFound
from backup_pipeline.engine.progress import human_bytes
from backup_pipeline.metadata import key
from backup_pipeline.resources import Wiring, failure
from backup_pipeline.restore_job import RestorableDays
from backup_pipeline.runner import Runner
from backup_pipeline.runs import recorder
from backup_pipeline.schedules import default_status
from backup_pipeline.sync import list_stored, sync_tiers
from backup_pipeline.translator import TierAsset

__all__ = ["KeepingConfig", "build_keeping_jobs", "build_keeping_schedules"]

EXPIRE_CRON = "10 5 * * *"
PRUNE_CRON = "40 5 * * *"
"""After the night's backups and drills, and expire before prune."""

MOST_ROWS = 500

Report = Mapping[str, Any]


class KeepingConfig(dg.Config):
    """What to look at, and whether to do it."""

    datasets: list[str] = Field(default=[], description="Keys of datasets; empty takes all.")
    apply: bool = Field(default=False, description="Do it; else only say what would be done.")


@dataclass(frozen=True)
class KeepingJob:
    """One tier's job of one verb.

    Attributes:
        verb: ``expire``, ``prune`` or ``repair``.
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


@dataclass(frozen=True)
class _Verb:
    """One of the verbs: what it says of itself, and when it has failed.

    Attributes:
        name: A method of the runner.
        about: Describes the job, about tier ``{tier}``.
        sentence: One report as a line of the log.
        said: All reports as the output's metadata.
        failed: Why a report is a failure; None where it is none.
    """

    name: str
    about: str
    sentence: Callable[[Report], str]
    said: Callable[[Sequence[Report]], dict[str, Any]]
    failed: Callable[[Report], str | None] = lambda _: None


def build_keeping_jobs(assets: Sequence[TierAsset], wiring: Wiring) -> list[KeepingJob]:
    """Jobs for each tier that expire, prune and repair; without ``apply`` they only say what
    would be."""
    tiers: dict[str, list[TierAsset]] = {}
    for asset in assets:
        tiers.setdefault(asset.tier.name, []).append(asset)
    return [_job(verb, tier, members, wiring) for tier, members in tiers.items() for verb in _VERBS]


def _job(verb: _Verb, tier: str, assets: Sequence[TierAsset], wiring: Wiring) -> KeepingJob:
    op_name = wiring.named(f"{verb.name}_{tier}_op")

    @dg.op(name=op_name, required_resource_keys={wiring.resource})
    def keep(context: dg.OpExecutionContext, config: KeepingConfig) -> None:
        try:
            for dataset in config.datasets:
                wiring.plan.dataset(dataset)
        except BackupError as error:
            raise failure(error) from None
        chosen = [
            one for one in assets if not config.datasets or one.dataset.key in config.datasets
        ]
        reports, errors = _run_each(context, verb, chosen, config, wiring)
        context.add_output_metadata(verb.said(reports))
        if any(report["applied"] and report.get("expired") for report in reports):
            _tell_expired(context, chosen, reports, wiring)
        if errors:
            raise dg.Failure("\n".join(errors), allow_retries=False)

    @dg.job(
        name=wiring.named(f"{verb.name}_{tier}"),
        description=verb.about.format(tier=tier),
        executor_def=dg.in_process_executor,
    )
    def job() -> None:
        keep()

    return KeepingJob(verb.name, tier, assets, op_name, job)


def _run_each(
    context: dg.OpExecutionContext,
    verb: _Verb,
    assets: Sequence[TierAsset],
    config: KeepingConfig,
    wiring: Wiring,
) -> tuple[list[Report], list[str]]:
    """One dataset after the other; one that fails does not stop the rest."""
    reports: list[Report] = []
    errors: list[str] = []
    for asset in assets:
        place = f"{asset.dataset.key} in tier {asset.tier.name}"
        try:
            report = wiring.resource_of(context).run(
                verb.name,
                {"dataset": asset.dataset.key, "tier": asset.tier.name, "apply": config.apply},
                now=wiring.now,
                log=context.log.info,
            )
        except NotFound as error:
            context.log.info(f"{place}: {error.message}")
            continue
        except BackupError as error:
            errors.append(f"{place}: {error}")
            context.log.error(errors[-1])
            continue
        reports.append(report)
        context.log.info(f"{place}: {verb.sentence(report)}")
        reason = verb.failed(report)
        if reason is not None:
            errors.append(f"{place}: {reason}")
    return reports, errors


def _tell_expired(
    context: dg.OpExecutionContext,
    assets: Sequence[TierAsset],
    reports: Sequence[Report],
    wiring: Wiring,
) -> None:
    """Days that expired say so in the event log, with the reason."""
    reasons = {
        (report["dataset"], one["day"]): one["reasons"][0]
        for report in reports
        for one in report["snapshots"]
        if not one["kept"]
    }
    with wiring.resource_of(context).runner(now=wiring.now) as runner:
        report = sync_tiers(
            context.instance,
            recorder(context),
            assets,
            lambda one: list_stored(runner, one),
            reasons=reasons,
        )
        _offer_what_is_left(context, runner, wiring)
    context.log.info(report.sentence())


def _offer_what_is_left(context: dg.OpExecutionContext, runner: Runner, wiring: Wiring) -> None:
    """The restore job offers days that expired in every tier no more."""
    runner.notices.clear()
    days = RestorableDays()
    try:
        days.of(runner.snapshots())
    except BackupError as error:
        context.log.info(f"the restore job's days stay as they are: {error.message}")
        return
    days.offer(context, wiring, whole=not runner.notices)  # a tier out of reach has days too


def _expiry_sentence(report: Report) -> str:
    did = "expired" if report["applied"] else "would expire"
    return f"{report['kept']} snapshots kept, {report['expired']} {did}"


def _prune_sentence(report: Report) -> str:
    deleted, condemned = report["deleted_objects"], report["condemned_objects"]
    would = "" if report["applied"] else "would be "
    return (
        f"{deleted} objects, {human_bytes(report['deleted_bytes'])}, {would}deleted; {condemned},"
        f" {human_bytes(report['condemned_bytes'])}, {would}condemned; {report['waiting_objects']}"
        f" wait; {report['unknown_count']} unknown, not touched"
    )


def _expiry_said(reports: Sequence[Report]) -> dict[str, Any]:
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


def _prune_said(reports: Sequence[Report]) -> dict[str, Any]:
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


def _repair_sentence(report: Report) -> str:
    if not report["damage_count"]:
        return "nothing is damaged"
    did = "put right" if report["applied"] else "can be put right"
    return (
        f"{report['damage_count']} things damaged, {report['mended_count']} {did},"
        f" {report['left_count']} stay damaged, {report['lost_count']} files lost"
    )


def _repair_failed(report: Report) -> str | None:
    lost = report["left_count"] or report["lost_count"] or report["lost_snapshots"]
    return _repair_sentence(report) if lost or (report["applied"] and not report["ok"]) else None


_REPAIR_COLUMNS = {
    "mended": ("name", "how"),
    "left": ("name", "why"),
    "lost": ("path", "bytes", "snapshots"),
}


def _repair_said(reports: Sequence[Report]) -> dict[str, Any]:
    """What was put right, what stays damaged, and which files nobody has any more."""
    said: dict[str, Any] = {
        key("applied"): any(report["applied"] for report in reports),
        key("damaged"): sum(report["damage_count"] for report in reports),
    }
    for name, columns in _REPAIR_COLUMNS.items():
        rows = [
            dg.TableRecord(
                {"dataset": report["dataset"], **{word: _cell(one[word]) for word in columns}}
            )
            for report in reports
            for one in report[name]
        ]
        said[key(f"{name}_count")] = sum(report[f"{name}_count"] for report in reports)
        if rows:
            said[key(name)] = dg.MetadataValue.table(rows[:MOST_ROWS])
    return said


def _cell(value: Any) -> str:
    return ", ".join(one[:12] for one in value) if isinstance(value, list) else str(value)


_VERBS = (
    _Verb(
        "expire",
        "Which snapshots tier `{tier}` lets go, which it keeps, and why.",
        _expiry_sentence,
        _expiry_said,
    ),
    _Verb(
        "prune",
        "Deletes from tier `{tier}` what no snapshot needs: announced first, gone after the grace.",
        _prune_sentence,
        _prune_said,
    ),
    _Verb(
        "repair",
        "Puts right what is damaged in tier `{tier}`, from whatever still has it.",
        _repair_sentence,
        _repair_said,
        _repair_failed,
    ),
)


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
    return {"expire": asset.dataset.expire, "prune": asset.dataset.prune}.get(verb)


def _is_due(every: str | None, day: date) -> bool:
    """Daily, on Sundays, or on the first of the month."""
    return {"day": True, "week": day.weekday() == 6, "month": day.day == 1}.get(every or "", False)

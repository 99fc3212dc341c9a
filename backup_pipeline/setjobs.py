"""The job that restores a whole cut of a consistent set, each member to a folder of its own."""

from datetime import date
from typing import Any

import dagster as dg
from pydantic import Field

from backup_pipeline.engine.errors import BackupError, UsageError
from backup_pipeline.metadata import key
from backup_pipeline.resources import Wiring, failure
from backup_pipeline.restore_job import RESTORE_PRIORITY
from backup_pipeline.runner import parse_time

__all__ = ["RestoreSetConfig", "build_restore_set_job"]


class RestoreSetConfig(dg.Config):
    """Which cut to restore, and where to. Day and time each select; neither takes the newest."""

    name: str = Field(description="The set's name.")
    tier: str | None = Field(default=None, description="Take every member from this tier.")
    day: str | None = Field(default=None, description="The best whole cut of a day: YYYY-MM-DD.")
    at: str | None = Field(
        default=None, description="The newest whole cut read by then: 2026-11-22T14:30:00Z."
    )
    to: str | None = Field(
        default=None,
        description="Directory on the machine of the run; a new one below the plan's scratch.",
    )
    dry_run: bool = Field(default=False, description="Only say what would be written.")


def build_restore_set_job(wiring: Wiring) -> dg.JobDefinition:
    """The job for a plan with sets: all members of one cut, or an error that says what lacks."""

    @dg.op(name=wiring.named("restore_cut"), required_resource_keys={wiring.resource})
    def restore_cut(context: dg.OpExecutionContext, config: RestoreSetConfig) -> None:
        try:
            arguments = _arguments(wiring, config, context.run_id)
            report = wiring.resource_of(context).run(
                "restore_set", arguments, now=wiring.now, log=context.log.info
            )
        except BackupError as error:
            raise failure(error) from None
        context.add_output_metadata(
            {
                key("set"): report["set"],
                key("cut"): report["cut"],
                key("day"): report["day"],
                key("target"): dg.MetadataValue.path(report["target"]),
                key("members"): dg.MetadataValue.json(report["members"]),
                key("dry_run"): report["dry_run"],
            }
        )
        if not report["ok"]:
            bad = [name for name, one in report["members"].items() if not one["ok"]]
            said = [*report["errors"].values(), *(f"{name} is not whole" for name in bad)]
            raise dg.Failure("\n".join(said), allow_retries=False)
        verb = "would be restored" if config.dry_run else "is restored"
        names = ", ".join(report["members"])
        context.log.info(f"cut {report['cut'][:12]} of {names} {verb} to {report['target']}")

    @dg.job(
        name=wiring.named("restore_set"),
        description="Restore a whole cut of a consistent set; fill in the Launchpad's form.",
        tags={"dagster/priority": str(RESTORE_PRIORITY)},
        executor_def=dg.in_process_executor,
    )
    def restore_set() -> None:
        restore_cut()

    return restore_set


def _arguments(wiring: Wiring, config: RestoreSetConfig, run_id: str) -> dict[str, Any]:
    """The config as the runner takes it; what nobody could mean is refused before anything runs."""
    wiring.plan.consistent_set(config.name)
    arguments = config.model_dump()
    if config.day is not None:
        try:
            date.fromisoformat(config.day)
        except ValueError:
            raise UsageError(f"{config.day!r} is no day", "write it as 2026-11-22") from None
    if config.at is not None:
        arguments["at"] = parse_time(config.at, wiring.plan.zone).isoformat()
    if config.to is None:
        scratch = wiring.plan.scratch
        if scratch is None:
            raise UsageError(
                "the restore names no directory and the plan has no scratch",
                "give `to` in the run's config, or `scratch: file:///path` in the plan",
            )
        arguments["to"] = str(scratch.path() / f"set-{config.name}" / run_id[:8])
    return arguments

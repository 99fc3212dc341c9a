"""The restore job: its partitions are the days that can be restored, its config says the rest."""

from collections.abc import Iterable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import Field

from backup_pipeline.engine.errors import BackupError, UsageError
from backup_pipeline.engine.format.record import Snapshot
from backup_pipeline.engine.progress import human_bytes, human_seconds
from backup_pipeline.metadata import key
from backup_pipeline.resources import Wiring, failure
from backup_pipeline.runner import parse_time
from backup_pipeline.runner.days import is_good

__all__ = ["RestorableDays", "RestoreConfig", "build_restore_job", "day_of"]

RESTORE_PRIORITY = 100
"""Somebody waits for a restore; backups have priority 0."""

Job = dg.JobDefinition


class RestoreConfig(dg.Config):
    """What to restore, and where to. Day, time and snapshot each select; none takes the newest."""

    dataset: str = Field(description="The dataset's key, such as vision/train_images.")
    tier: str | None = Field(default=None, description="Look in this tier only.")
    day: str | None = Field(
        default=None, description="The best snapshot of a day: YYYY-MM-DD; the partition's, if any."
    )
    at: str | None = Field(
        default=None, description="The newest snapshot read by then: 2026-11-22T14:30:00Z."
    )
    snapshot: str | None = Field(default=None, description="Id, or the beginning of it.")
    before_change: list[str] = Field(
        default=[], description="Globs: the newest snapshot from before their newest change."
    )
    to: str | None = Field(
        default=None,
        description="Directory on the machine of the run; a new one below the plan's scratch.",
    )
    include: list[str] = Field(default=[], description="Globs over paths; empty takes all.")
    in_place: bool = Field(
        default=False,
        description=(
            "Make where the dataset lives (or `to`) equal to the snapshot, moving only what"
            " differs. What was there is kept until `backup-pipeline restore --accept` or --undo."
        ),
    )
    delete: bool = Field(
        default=False, description="In place: move aside what the snapshot does not have, too."
    )
    checksum: bool = Field(
        default=False, description="In place: read every file to know if it differs."
    )
    dry_run: bool = Field(default=False, description="Only say what would be written.")


def days_name(wiring: Wiring) -> str:
    """The name of the partitions of the restore job."""
    return wiring.named("restorable_days")


class RestorableDays:
    """Days that have a good snapshot, gathered to be offered as the restore job's partitions."""

    def __init__(self, days: Iterable[str] = ()) -> None:
        self._days = set(days)

    def of(self, found: Sequence[Snapshot]) -> None:
        """Take in the snapshots of a tier."""
        self._days |= {one.day.isoformat() for one in found if is_good(one)}

    def offer(self, context: Any, wiring: Wiring, *, whole: bool = False) -> None:
        """Let the job offer them.

        Args:
            context: Of the op or asset that knows of them.
            wiring: The plan's.
            whole: Whether these are all there are; others are then offered no more.
        """
        name, instance = days_name(wiring), context.instance
        known = set(instance.get_dynamic_partitions(name))
        if self._days - known:
            instance.add_dynamic_partitions(name, sorted(self._days - known))
        for day in known - self._days if whole else ():
            instance.delete_dynamic_partition(name, day)


def build_restore_job(wiring: Wiring) -> Job:
    """The restore job: typed configuration for the Launchpad, ahead of backups in the queue."""
    op_name = wiring.named("restore_snapshot")

    @dg.op(name=op_name, required_resource_keys={wiring.resource})
    def restore_snapshot(context: dg.OpExecutionContext, config: RestoreConfig) -> None:
        day = context.partition_key if context.has_partition_key else None
        try:
            arguments = _arguments(wiring, config, context.run_id, day)
            verb = "restore_in_place" if config.in_place else "restore"
            report = wiring.resource_of(context).run(
                verb, arguments, now=wiring.now, log=context.log.info
            )
        except BackupError as error:
            raise failure(error) from None
        context.log.info(_sentence(config, report))
        for notice in report.get("notices") or ():
            context.log.warning(notice)
        context.add_output_metadata(_said(config, report))
        if not report["ok"]:
            wrong = [*report["damage"], *report.get("mismatches", ())]
            raise dg.Failure(
                f"{len(wrong)} entries of {config.dataset} could not be restored",
                metadata={key("damage"): dg.MetadataValue.json(wrong)},
                allow_retries=False,
            )

    first = next(iter(wiring.plan.datasets), "")

    def filled_in(day: str) -> dict[str, Any]:
        return {"ops": {op_name: {"config": {"dataset": first, "day": day}}}}

    @dg.job(
        name=wiring.named("restore"),
        description=(
            "Restore a snapshot, or some files of it, to scratch: choose a day that there is,"
            " and fill in the Launchpad's form."
        ),
        tags={"dagster/priority": str(RESTORE_PRIORITY)},
        config=dg.PartitionedConfig(
            dg.DynamicPartitionsDefinition(name=days_name(wiring)),
            run_config_for_partition_key_fn=filled_in,
        ),
        executor_def=dg.in_process_executor,
    )
    def restore() -> None:
        restore_snapshot()

    return restore


def _arguments(
    wiring: Wiring, config: RestoreConfig, run_id: str, partition: str | None
) -> dict[str, Any]:
    """The config as the runner takes it; what nobody could mean is refused before anything runs."""
    wiring.plan.dataset(config.dataset)
    arguments = config.model_dump()
    in_place = arguments.pop("in_place")
    arguments["changed"] = arguments.pop("before_change")
    if not in_place:
        arguments.pop("delete")
        arguments.pop("checksum")
        if config.delete or config.checksum:
            raise UsageError("delete and checksum belong to in_place", "set `in_place: true` too")
    if partition is not None and config.day not in (None, partition):
        raise UsageError(
            f"the partition is {partition} and the config's day is {config.day}",
            "choose the day as partition, or launch without one",
        )
    others = config.at or config.snapshot or config.before_change
    if config.day in (None, partition):
        # The Launchpad writes the partition's day into the config, where another choice may follow.
        arguments["day"] = None if others else partition
    if arguments["day"] is not None:
        arguments["day"] = day_of(arguments["day"]).isoformat()
    if config.at is not None:
        arguments["at"] = parse_time(config.at, wiring.plan.zone).isoformat()
    if config.to is None and not in_place:
        arguments["to"] = str(_scratch_target(wiring, config, run_id))
    return arguments


def day_of(words: str) -> date:
    """A day as a person writes it.

    Raises:
        UsageError: It is none.
    """
    try:
        return date.fromisoformat(words)
    except ValueError:
        raise UsageError(f"{words!r} is no day", "write it as 2026-11-22") from None


def _scratch_target(wiring: Wiring, config: RestoreConfig, run_id: str) -> Path:
    scratch = wiring.plan.scratch
    if scratch is None:
        raise UsageError(
            "the restore names no directory and the plan has no scratch",
            "give `to` in the run's config, or `scratch: file:///path` in the plan",
        )
    return scratch.path() / config.dataset.replace("/", "-") / run_id[:8]


_SAID = (
    "day",
    "tier",
    "files",
    "bytes",
    "duration_s",
    "snapshot",
    "entries",
    "written_files",
    "written_bytes",
    "fetched_bytes",
    "copied_bytes",
    "skipped_files",
    "same_files",
    "kept_files",
    "kept_bytes",
    "removed_files",
    "extra_files",
    "damaged_packs",
    "speed_bytes_per_s",
    "dry_run",
)


def _said(config: RestoreConfig, report: dict[str, Any]) -> dict[str, Any]:
    """What the run leaves: numbers to plot, where it is, and how to end it."""
    said: dict[str, Any] = {
        key("target"): dg.MetadataValue.path(report["target"]),
        # A plain restore writes no byte that is not the digest's; one in place is read back, too.
        key("verified"): report.get("verified", report["ok"]) and not config.dry_run,
        key("dataset"): config.dataset,
    }
    said |= {key(name): report[name] for name in _SAID if report.get(name) is not None}
    if report["elsewhere"]:
        said[key("from_other_tiers")] = dg.MetadataValue.json(report["elsewhere"])
    estimate = report.get("estimate")
    if estimate:
        said[key("estimated_s")] = estimate["seconds"]
        said[key("rate")] = dg.MetadataValue.json(estimate["rate"])
    if report.get("kept"):
        command = f"backup-pipeline restore {config.dataset} --to {report['target']}"
        said[key("aside")] = dg.MetadataValue.path(report["aside"])
        said[key("end_it")] = dg.MetadataValue.md(f"`{command} --undo` or `{command} --accept`")
    return said


def _sentence(config: RestoreConfig, report: dict[str, Any]) -> str:
    verb = "would restore" if config.dry_run else "restored"
    how = " in place" if config.in_place else ""
    return (
        f"{verb}{how} {report['files']} files, {human_bytes(report['bytes'])}, of {config.dataset}"
        f" to {report['target']} in {human_seconds(report['duration_s'])}"
    )

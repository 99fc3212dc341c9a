"""Runs: which datasets have one queued or active, its tags, and what it tells the event log."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dagster as dg

from backup_pipeline.checks import COMPLETE, CONSISTENT
from backup_pipeline.metadata import REPOSITORY_TAG
from backup_pipeline.translator import TierAsset

__all__ = [
    "ACTIVE",
    "Record",
    "TierJob",
    "busy_repositories",
    "companions",
    "recorder",
    "run_tags",
    "step_checks",
]

Record = Callable[[dg.AssetMaterialization | dg.AssetCheckEvaluation], None]

ACTIVE = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]

MOST_ACTIVE_RUNS = 5000
"""How many queued or active runs are looked at; a backfill of years may queue more."""


@dataclass(frozen=True)
class TierJob:
    """The job of a tier: one run backs up one dataset's day, or several datasets' same day.

    Attributes:
        name: The job's name.
        assets: All datasets' assets of the tier that have the same days.
        job: What schedules and the change sensor launch.
    """

    name: str
    assets: Sequence[TierAsset]
    job: Any


def companions(asset: TierAsset, assets: Sequence[TierAsset]) -> list[TierAsset]:
    """All that one step captures with an asset, itself included, in the plan's order."""
    if asset.together is None:
        return [asset]
    return [one for one in assets if one.together == asset.together]


def step_checks(asset: TierAsset) -> list[dg.AssetCheckKey]:
    """The checks that a backup's own step evaluates."""
    checks = [asset.check_key(COMPLETE)]
    return [*checks, asset.check_key(CONSISTENT)] if asset.together is not None else checks


def run_tags(asset: TierAsset, more: Mapping[str, str] | None = None) -> dict[str, str]:
    """The tags of a run for one dataset in one tier.

    The instance limits runs with one value of ``backup/repository`` to one at a time. Tag values
    take no ``/``, so the value is a digest; the dataset's key stands in the metadata.
    """
    return {**asset.dataset.run.tags, REPOSITORY_TAG: asset.repository, **(more or {})}


def busy_repositories(instance: dg.DagsterInstance, jobs: Sequence[TierJob]) -> set[str]:
    """Repositories for which a backup is queued or active, whoever launched it.

    Runs that a person or a backfill launched carry no tag of ours; their selection tells, or their
    job where they took all of it.
    """
    by_key = {asset.asset_key: asset.repository for job in jobs for asset in job.assets}
    by_job = {job.name: {asset.repository for asset in job.assets} for job in jobs}
    busy: set[str] = set()
    for run in instance.get_runs(dg.RunsFilter(statuses=ACTIVE), limit=MOST_ACTIVE_RUNS):
        if REPOSITORY_TAG in run.tags:
            busy.add(run.tags[REPOSITORY_TAG])
        elif run.asset_selection is not None:
            busy |= {by_key[key] for key in run.asset_selection if key in by_key}
        else:
            busy |= by_job.get(run.job_name, set())
    return busy


def recorder(context: dg.OpExecutionContext) -> Record:
    """Writes events to the event log as this run's.

    Outside any run, Dagster takes one evaluation of a check for a day, ever: a second one breaks
    its unique index. Within runs, each may say it again.
    """

    def record(event: dg.AssetMaterialization | dg.AssetCheckEvaluation) -> None:
        # It takes evaluations too, though its annotation does not say so.
        context.log_event(event)  # pyright: ignore[reportArgumentType]

    return record

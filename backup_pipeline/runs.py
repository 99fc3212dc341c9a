"""Which datasets have runs queued or active, and what tags a run of theirs carries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import dagster as dg

from backup_pipeline.jobs import TierJob
from backup_pipeline.metadata import REPOSITORY_TAG
from backup_pipeline.translator import TierAsset

__all__ = ["ACTIVE", "busy_repositories", "run_tags"]

ACTIVE = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]

MOST_ACTIVE_RUNS = 5000
"""How many queued or active runs are looked at; a backfill of years may queue more."""


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

"""``build_backup_defs``: a plan as Dagster definitions."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

import dagster as dg

from backup_pipeline.alerting import build_alert_sensor
from backup_pipeline.anomalies import build_anomaly_checks, build_clear_job
from backup_pipeline.assets import build_backup_asset
from backup_pipeline.backfilling import build_backfill_job, build_backfill_schedule
from backup_pipeline.change_sensor import ChangeWatch
from backup_pipeline.checks import build_checks
from backup_pipeline.engine.errors import UsageError
from backup_pipeline.jobs import (
    build_check_jobs,
    build_drill_job,
    build_sync_job,
    group_by_tier,
)
from backup_pipeline.keeping import build_keeping_jobs, build_keeping_schedules
from backup_pipeline.metadata import NAMESPACE
from backup_pipeline.overview import build_overview
from backup_pipeline.plan import Plan, load_plan
from backup_pipeline.resources import Wiring, backup_resource
from backup_pipeline.restore_job import build_restore_job
from backup_pipeline.schedules import (
    build_check_schedules,
    build_drill_schedule,
    build_tier_schedules,
)
from backup_pipeline.setassets import build_set_assets, build_set_checks
from backup_pipeline.setjobs import build_restore_set_job
from backup_pipeline.slice_sensor import SliceWatch
from backup_pipeline.translator import BackupTranslator, Upstream, dataset_key, lay_out
from backup_pipeline.watching import build_sensor

if TYPE_CHECKING:
    from dagster_aws.s3 import S3Resource

__all__ = ["build_backup_defs"]

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*\Z")


def build_backup_defs(
    plan: Plan | str | os.PathLike[str] | Mapping[str, Any],
    *,
    name: str = NAMESPACE,
    translator: BackupTranslator | None = None,
    upstream: Upstream | dg.Definitions = (),
    external_assets: bool | Collection[str] = False,
    s3: Mapping[str, S3Resource] | None = None,
    clock: Callable[[], datetime] | None = None,
    own_process: bool = True,
    executor: dg.ExecutorDefinition | None = None,
) -> dg.Definitions:
    """Everything that Dagster needs to keep a plan: assets, checks, jobs, schedules, a sensor.

    The datasets themselves are only referred to by their keys, so they may be defined in this code
    location, in another, or nowhere. A code location of the plan's own is best: a job over all
    assets (``define_asset_job("all", "*")``) cannot load beside partitions of two cadences.

    Args:
        plan: The plan, its file, or its content.
        name: Prefix of the names of jobs, schedules, sensors, pools and resources: letters, digits
            and underscores. Two plans in one code location need two names.
        translator: Says how a dataset's tier appears.
        upstream: The datasets' own assets, or definitions that hold them, where they are at hand.
            They are not defined again: it is only that where a dataset of slices has days (or
            hours) in the plan's time zone, its days are then mapped one to one.
        external_assets: Datasets that nobody defines as an asset, such as a directory that a
            person fills: their keys, or True for all. Each becomes an external asset. Left out, a
            key that nobody defines still shows in the graph, without a description; while a key
            that is defined twice in one code location does not load. So the default is False.
        s3: dagster-aws resources by the name of the store whose region, endpoint and credentials
            they give, in place of the plan's.
        clock: Tells the time (UTC, aware), for demonstrations and tests.
        own_process: Whether the engine runs in a process of its own; without, it is slower on
            large datasets and quicker to start.
        executor: Of runs that no job of ours launches, such as the UI's backfills. In a code
            location of the plan's own, ``dg.in_process_executor`` saves some seconds per run;
            beside assets of yours it would be theirs too, so it is None by default.

    Raises:
        PlanError: The plan has mistakes; all are listed.
        UsageError: An argument does not fit the plan.
    """
    if not isinstance(plan, Plan):
        plan = load_plan(plan)
    if not _NAME.match(name):
        raise UsageError(f"{name!r} cannot be a prefix of names", "use letters, digits and _")
    wiring = Wiring(plan, name, clock)
    given = upstream.assets or () if isinstance(upstream, dg.Definitions) else upstream
    known = _with_specs(given)
    assets = lay_out(plan, name=name, translator=translator, upstream=known)
    tier_jobs = group_by_tier(assets, wiring)
    check_jobs = build_check_jobs(assets, wiring)
    drill = build_drill_job(assets, wiring)
    keeping = build_keeping_jobs(assets, wiring)
    backfill = build_backfill_job(assets, wiring)
    overview = build_overview(assets, known, wiring)
    jobs = [
        *(tier.job for tier in tier_jobs),
        *check_jobs.values(),
        build_restore_job(wiring),
        *([build_restore_set_job(wiring)] if plan.sets else []),
        build_sync_job(assets, wiring),
        build_clear_job(assets, wiring),
        drill,
        backfill,
        *(one.job for one in keeping),
        overview.job,
    ]
    sensors = [
        build_sensor(ChangeWatch, tier_jobs, wiring),
        build_sensor(SliceWatch, tier_jobs, wiring),
        build_alert_sensor(assets, [job.name for job in jobs], wiring),
    ]
    return dg.Definitions(
        assets=[
            *(build_backup_asset(asset, wiring) for asset in assets if asset.together is None),
            *build_set_assets(assets, wiring),
            *_external_specs(plan, external_assets),
            overview.asset,
        ],
        asset_checks=[
            *build_checks(assets, wiring),
            *build_anomaly_checks(assets, wiring),
            *build_set_checks(assets, wiring),
        ],
        jobs=jobs,
        schedules=[
            *build_tier_schedules(tier_jobs, wiring),
            *build_check_schedules(check_jobs, wiring),
            build_drill_schedule(assets, drill, wiring),
            *build_keeping_schedules(keeping, wiring),
            overview.schedule,
            *build_backfill_schedule(assets, backfill, wiring),
        ],
        sensors=[one for one in sensors if one is not None],
        resources={wiring.resource: backup_resource(plan, s3=s3, own_process=own_process)},
        executor=executor,
    )


def _with_specs(assets: Any) -> list[dg.AssetsDefinition | dg.AssetSpec]:
    """Of what definitions may hold, what has specs to look at."""
    return [one for one in assets if isinstance(one, dg.AssetsDefinition | dg.AssetSpec)]


def _external_specs(plan: Plan, wanted: bool | Collection[str]) -> list[dg.AssetSpec]:
    """Specs of the datasets that nobody defines."""
    if isinstance(wanted, bool):
        keys = list(plan.datasets) if wanted else []
    else:
        keys = [plan.dataset(key).key for key in wanted]
    return [
        dg.AssetSpec(
            dataset_key(plan.datasets[key]),
            description=f"Protected by the backup plan, from {plan.datasets[key].source.place}.",
            group_name=plan.datasets[key].group,
            kinds={plan.datasets[key].source.kind},
        )
        for key in keys
    ]

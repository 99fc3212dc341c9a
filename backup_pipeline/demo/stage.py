"""The demo's stage: a plan's definitions, run in this process against a Dagster home."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from backup_pipeline.definitions import build_backup_defs
from backup_pipeline.demo.datasets import Scene, dataset_assets
from backup_pipeline.plan import Plan, load_plan
from backup_pipeline.runner import Runner

if TYPE_CHECKING:
    from backup_pipeline.demo.days import SimulatedClock

# What a run logs goes to its own event log; a refused backfill would else print its traceback.
_QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
PARTITION_TAG = "dagster/partition"
_SETTINGS = Path(__file__).parents[2] / "dagster.yaml"


@dataclass(frozen=True, slots=True)
class Run:
    """What a Dagster run came to.

    Attributes:
        ok: Whether every step succeeded.
        materializations: What each materialized asset said, by asset key.
        checks: What each evaluated check said.
        error: Why it failed.
        duration_s: How long it took.
    """

    ok: bool
    materializations: dict[str, dict[str, Any]]
    checks: list[dg.AssetCheckEvaluation]
    error: str
    duration_s: float

    def total(self, name: str) -> int:
        """Sum of one figure over the run's materializations."""
        return sum(int(said.get(name) or 0) for said in self.materializations.values())

    @property
    def failed_checks(self) -> list[dg.AssetCheckEvaluation]:
        """The checks that said no."""
        return [check for check in self.checks if not check.passed]


def open_instance(home: Path) -> dg.DagsterInstance:
    """Make a Dagster home, with the settings that the repository recommends where it is at hand.

    Args:
        home: Its directory.
    """
    home.mkdir(parents=True)
    if _SETTINGS.exists():
        shutil.copy(_SETTINGS, home / "dagster.yaml")
    return dg.DagsterInstance.local_temp(
        str(home), overrides={"telemetry": {"enabled": False}, "nux": {"enabled": False}}
    )


class Stage:
    """Runs the demo's assets and checks with Dagster.

    Args:
        scene: Where the datasets lie.
        plan_file: The plan.
        clock: The simulated clock; the plan's runs are told the time by it.
        instance: The Dagster instance that records the runs.
    """

    def __init__(
        self, scene: Scene, plan_file: Path, clock: SimulatedClock, instance: dg.DagsterInstance
    ) -> None:
        self.scene = scene
        self.plan: Plan = load_plan(plan_file)
        self.clock = clock
        self.instance = instance
        self.runner = Runner(self.plan, clock=clock)
        datasets = dataset_assets(scene)
        self._defs = dg.Definitions.merge(
            dg.Definitions(assets=datasets),
            build_backup_defs(self.plan, clock=clock),
        )

    def write_datasets(self, day: date) -> Run:
        """Materialize the datasets as they are on the clock's day."""
        whole = ["demo/training_data", "demo/model", "demo/python_tree"]
        run = self._run(_assets(whole), None)
        if run.ok:
            run = self._run(_assets(["demo/measurements"]), day)
        return run

    def back_up(self, tier: str, datasets: Iterable[str], day: date) -> Run:
        """Materialize one day of some datasets in one tier, with the check that always runs."""
        keys = [_backup_key(tier, dataset) for dataset in datasets]
        complete = dg.AssetSelection.checks(*[dg.AssetCheckKey(key, "complete") for key in keys])
        return self._run(dg.AssetSelection.assets(*keys).without_checks() | complete, day)

    def check(self, name: str, tier: str, datasets: Iterable[str], day: date | None) -> Run:
        """Evaluate one check for some datasets in one tier.

        Args:
            name: ``matches``, ``restores`` or ``fresh``.
            tier: The tier.
            datasets: Keys of datasets.
            day: The partition; None for a check of the whole tier.
        """
        keys = [dg.AssetCheckKey(_backup_key(tier, dataset), name) for dataset in datasets]
        tags = {PARTITION_TAG: day.isoformat()} if day else None
        return self._run(dg.AssetSelection.checks(*keys), None, tags=tags)

    def sync(self) -> None:
        """Report to Dagster what the stores hold, as the plan's ``sync`` job does."""
        job = self._defs.get_job_def("backup_sync")
        job.execute_in_process(instance=self.instance, run_config=_QUIET)

    def _run(
        self, selection: dg.AssetSelection, day: date | None, tags: dict[str, str] | None = None
    ) -> Run:
        started_s = time.perf_counter()
        result = dg.materialize(
            [*(self._defs.assets or ()), *(self._defs.asset_checks or ())],  # pyright: ignore[reportArgumentType]
            selection=selection,
            partition_key=day.isoformat() if day else None,
            resources=self._defs.resources,
            instance=self.instance,
            run_config=_QUIET,
            raise_on_error=False,
            tags=tags,
        )
        return Run(
            ok=result.success,
            materializations=_materializations(result),
            checks=list(result.get_asset_check_evaluations()),
            error=_first_error(result),
            duration_s=time.perf_counter() - started_s,
        )


def _assets(names: Sequence[str]) -> dg.AssetSelection:
    return dg.AssetSelection.assets(*[name.split("/") for name in names])


def _backup_key(tier: str, dataset: str) -> dg.AssetKey:
    return dg.AssetKey(["backup", tier, *dataset.split("/")])


def _materializations(result: dg.ExecuteInProcessResult) -> dict[str, dict[str, Any]]:
    said: dict[str, dict[str, Any]] = {}
    for event in result.get_asset_materialization_events():
        materialization = event.step_materialization_data.materialization
        said[materialization.asset_key.to_user_string()] = {
            name: getattr(value, "value", None) for name, value in materialization.metadata.items()
        }
    return said


def _first_error(result: dg.ExecuteInProcessResult) -> str:
    for event in result.get_step_failure_events():
        said = event.step_failure_data.user_failure_data
        if said and said.description:
            return said.description
        error = event.step_failure_data.error
        while error and error.cause:
            error = error.cause
        if error:
            return error.message.strip()
    return ""

"""A small project under test: datasets on disk, stores on disk, a clock that is set by hand."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg

from backup_pipeline.definitions import build_backup_defs
from backup_pipeline.runner import Runner

SUNDAY_THE_FIRST = "2026-11-01"
"""A day on which a daily, a weekly and a monthly tier all have a partition."""

THREE_TIERS: list[dict[str, Any]] = [
    {"name": "local", "every": "day", "kind": "incremental", "full_every": "4 weeks"},
    {"name": "cloud", "every": "week", "weekday": "sunday", "kind": "full"},
    {"name": "offsite", "every": "month", "kind": "full"},
]

QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
"""Run config that keeps what runs log out of the test's output; it is in the event log."""


class Project:
    """Datasets, a plan, a clock, and Dagster's event log.

    Args:
        root: Everything is written below it.
        instance: The Dagster instance.
        now: What the clock shows first.
        own_process: Whether the engine runs in a process of its own.
        more: Further keys of the plan, or others in place of the usual ones.
    """

    def __init__(
        self,
        root: Path,
        instance: dg.DagsterInstance,
        *,
        now: str = f"{SUNDAY_THE_FIRST}T10:00:00",
        tiers: Sequence[Mapping[str, Any]] = THREE_TIERS,
        policy: Mapping[str, Any] | None = None,
        own_process: bool = False,
        **more: Any,
    ) -> None:
        self.root = root
        self.instance = instance
        self.now = datetime.fromisoformat(now).replace(tzinfo=UTC)
        self.own_process = own_process
        self.document: dict[str, Any] = {
            "start": "2026-10-01",
            "automation": False,
            "encryption": "none",
            "stores": {str(tier["name"]): f"file://{root}/stores/{tier['name']}" for tier in tiers},
            "scratch": f"file://{root}/scratch",
            "policies": {"default": {"tiers": list(tiers), **(policy or {})}},
            "datasets": [{"asset": "vision/a", "source": str(root / "datasets/vision/a")}],
            **more,
        }
        self._defs: dg.Definitions | None = None
        # Does not compress, so that a pack is the largest stored object.
        self.write("vision/a", "first.bin", random.Random(7).randbytes(40_000))

    def clock(self) -> datetime:
        """The time that has been set."""
        return self.now

    def at(self, moment: str) -> None:
        """Set the clock (UTC)."""
        self.now = datetime.fromisoformat(moment).replace(tzinfo=UTC)

    def pass_time(self, **duration: float) -> None:
        """Move the clock on."""
        self.now += timedelta(**duration)

    def write(self, dataset: str, name: str, content: bytes) -> Path:
        """Write a file of a dataset."""
        path = self.root / "datasets" / dataset / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    def build(self, **arguments: Any) -> dg.Definitions:
        """The plan's definitions, kept for the runs that follow."""
        arguments = {"clock": self.clock, "own_process": self.own_process} | arguments
        self._defs = build_backup_defs(self.document, **arguments)
        return self._defs

    @property
    def defs(self) -> dg.Definitions:
        """The definitions, built if they have not been."""
        return self._defs or self.build()

    @property
    def runner(self) -> Runner:
        """The plan's verbs without Dagster, by the same clock."""
        from backup_pipeline.plan import load_plan

        return Runner(load_plan(self.document), clock=self.clock)

    def back_up(
        self,
        tier: str,
        day: str,
        dataset: str = "vision/a",
        *,
        tags: Mapping[str, str] | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> dg.ExecuteInProcessResult:
        """Run one day of one dataset with the check that always runs, as the schedule does."""
        asset_key = backup_key(tier, dataset)
        complete = dg.AssetSelection.checks(dg.AssetCheckKey(asset_key, "complete"))
        op = "__".join(part.replace("-", "_") for part in asset_key.path)
        return self._materialize(
            dg.AssetSelection.assets(asset_key).without_checks() | complete,
            partition_key=day,
            run_config={"ops": {op: {"config": dict(config)}}} if config else {},
            tags=tags,
        )

    def _materialize(
        self, selection: dg.AssetSelection, *, run_config: Mapping[str, Any] = QUIET, **run: Any
    ) -> dg.ExecuteInProcessResult:
        return dg.materialize(
            [*(self.defs.assets or ()), *(self.defs.asset_checks or ())],  # pyright: ignore[reportArgumentType]
            selection=selection,
            resources=self.defs.resources,
            instance=self.instance,
            raise_on_error=False,
            run_config={**QUIET, **run_config},
            **run,
        )

    def check(
        self,
        name: str,
        tier: str,
        day: str | None,
        dataset: str = "vision/a",
        *,
        tags: Mapping[str, str] | None = None,
    ) -> dg.AssetCheckEvaluation:
        """Evaluate one check alone, as the UI does."""
        result = self.run_check(name, tier, day, dataset, tags=tags)
        evaluations = result.get_asset_check_evaluations()
        assert len(evaluations) == 1, [first_failure(result), evaluations]
        return evaluations[0]

    def run_check(
        self,
        name: str,
        tier: str,
        day: str | None,
        dataset: str = "vision/a",
        *,
        also: str = "",
        tags: Mapping[str, str] | None = None,
    ) -> dg.ExecuteInProcessResult:
        """The run that evaluates one check alone, or another one with it."""
        names = [name, also] if also else [name]
        asset_key = backup_key(tier, dataset)
        return self._materialize(
            dg.AssetSelection.checks(*(dg.AssetCheckKey(asset_key, one) for one in names)),
            tags={**(tags or {}), **({"dagster/partition": day} if day else {})},
        )

    def run_job(self, name: str, **config: Any) -> dg.ExecuteInProcessResult:
        """Run the restore, drill, sync, expire, prune or repair job with its op's config."""
        ops = {
            "restore": "restore_snapshot",
            "drill": "drill_tiers",
            "sync": "sync_log",
            "backfill": "backfill_days",
        }
        op = ops.get(name, f"{name}_op")
        return self.defs.resolve_job_def(f"backup_{name}").execute_in_process(
            instance=self.instance,
            run_config=QUIET | ({"ops": {f"backup_{op}": {"config": config}}} if config else {}),
            raise_on_error=False,
        )

    def said(self, tier: str, day: str, dataset: str = "vision/a") -> dict[str, Any]:
        """The plain metadata of a day's latest materialization, names without their prefix."""
        found = self.materialization(tier, day, dataset)
        return {
            name.removeprefix("backup/"): getattr(value, "value", value)
            for name, value in found.metadata.items()
        }

    def materialization(
        self, tier: str, day: str, dataset: str = "vision/a"
    ) -> dg.AssetMaterialization:
        """A day's latest materialization."""
        records = self.instance.fetch_materializations(
            dg.AssetRecordsFilter(asset_key=backup_key(tier, dataset), asset_partitions=[day]),
            limit=1,
        ).records
        assert records, f"nothing of {day} in {tier}"
        found = records[0].asset_materialization
        assert found
        return found

    def flip_byte(self, tier: str) -> Path:
        """Flip one byte in the middle of the largest stored object of a tier."""
        packs = [path for path in (self.root / "stores" / tier).rglob("*") if path.is_file()]
        largest = max(packs, key=lambda path: path.stat().st_size)
        largest.chmod(0o600)
        content = bytearray(largest.read_bytes())
        content[len(content) // 2] ^= 1
        largest.write_bytes(content)
        return largest


def backup_key(tier: str, dataset: str = "vision/a") -> dg.AssetKey:
    """The key of a dataset's backups in a tier."""
    return dg.AssetKey(["backup", tier, *dataset.split("/")])


def first_failure(result: dg.ExecuteInProcessResult) -> Any:
    """What the first failed step of a run gave as its reason; None where none failed."""
    for event in result.get_step_failure_events():
        data = event.step_failure_data
        return data.user_failure_data or data.error
    return None

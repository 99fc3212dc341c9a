"""The demo as a code location, for ``dagster dev``: its datasets and their backups.

``BACKUP_DEMO`` names the demo's directory. One that has no plan yet gets one whose three stores are
directories, so that ``dagster dev`` alone is enough to look around.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg

from backup_pipeline.definitions import build_backup_defs
from backup_pipeline.demo.datasets import Scene, dataset_assets
from backup_pipeline.demo.declaration import PLAN_FILE, write_plan
from backup_pipeline.plan import load_plan

DIRECTORY_VARIABLE = "BACKUP_DEMO"
DEFAULT_DIRECTORY = Path(".demo") / "dev"
DAYS_BACK = 14
SMALL_TREE_BYTES = 6 * 1024 * 1024


def _now() -> datetime:
    return datetime.now(UTC)


def build_demo_defs(directory: Path) -> dg.Definitions:
    """The definitions of the demo in a directory.

    Args:
        directory: Where its plan, datasets and stores lie; made if missing.
    """
    plan_file = directory / PLAN_FILE
    if not plan_file.exists():
        directory.mkdir(parents=True, exist_ok=True)
        write_plan(directory, _now().date() - timedelta(days=DAYS_BACK))
    plan = load_plan(plan_file)
    scene = Scene(directory, plan.start, _now, SMALL_TREE_BYTES)
    datasets = dataset_assets(scene)
    return dg.Definitions.merge(dg.Definitions(assets=datasets), build_backup_defs(plan))


defs = build_demo_defs(Path(os.environ.get(DIRECTORY_VARIABLE) or DEFAULT_DIRECTORY).absolute())

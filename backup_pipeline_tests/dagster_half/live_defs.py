"""The code location of the live tests: a user's asset and the backups of three datasets."""

import os
from pathlib import Path

import dagster as dg

from backup_pipeline import build_backup_defs


@dg.asset(key=["vision", "a"])
def pictures() -> None:
    """The user's own asset, in the same code location."""


defs = dg.Definitions.merge(
    dg.Definitions(assets=[pictures]),
    build_backup_defs(Path(os.environ["BACKUP_TEST_PLAN"]), executor=dg.in_process_executor),
)

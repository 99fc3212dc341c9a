"""What a plan's verbs do, with no Dagster; every front end goes through here."""

from __future__ import annotations

from backup_pipeline.runner.bare import StoreReader
from backup_pipeline.runner.days import describe_days
from backup_pipeline.runner.door import backup
from backup_pipeline.runner.finding import parse_time, utc_now
from backup_pipeline.runner.reading import Reader, parse_share
from backup_pipeline.runner.results import Result, TierStatus
from backup_pipeline.runner.runner import Runner

__all__ = [
    "Reader",
    "Result",
    "Runner",
    "StoreReader",
    "TierStatus",
    "backup",
    "describe_days",
    "parse_share",
    "parse_time",
    "utc_now",
]

"""What a plan's verbs do, with no Dagster; every front end goes through here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backup_pipeline.lazy import lazy_names

if TYPE_CHECKING:
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

__getattr__ = lazy_names(
    __name__,
    {
        "Reader": "backup_pipeline.runner.reading",
        "Result": "backup_pipeline.runner.results",
        "Runner": "backup_pipeline.runner.runner",
        "StoreReader": "backup_pipeline.runner.bare",
        "TierStatus": "backup_pipeline.runner.results",
        "backup": "backup_pipeline.runner.door",
        "describe_days": "backup_pipeline.runner.days",
        "parse_share": "backup_pipeline.runner.reading",
        "parse_time": "backup_pipeline.runner.finding",
        "utc_now": "backup_pipeline.runner.finding",
    },
)

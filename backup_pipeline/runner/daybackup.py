"""The verb that others are made of: a tier's snapshot of one day of one dataset."""

from __future__ import annotations

from abc import abstractmethod
from datetime import date

from backup_pipeline.runner.planned import PlanReader
from backup_pipeline.runner.results import Result

__all__ = ["DayBackup"]


class DayBackup(PlanReader):
    """All that ``PlanReader`` can do, and ``backup``, which the runner gives."""

    @abstractmethod
    def backup(
        self,
        dataset: str,
        tier: str | None = None,
        *,
        day: date | None = None,
        kind: str | None = None,
        force: bool = False,
    ) -> Result:
        """Make sure that a tier has its snapshot of a day."""

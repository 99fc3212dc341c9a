"""Slices that were written again after they were backed up."""

from __future__ import annotations

from contextlib import closing
from datetime import date
from typing import TYPE_CHECKING

from backup_pipeline.engine.errors import BackupError
from backup_pipeline.runner.planned import ONE_DAY, PlanReader

if TYPE_CHECKING:
    from backup_pipeline.engine.format.record import Snapshot
    from backup_pipeline.plan import Dataset

__all__ = ["SliceWatcher"]


class SliceWatcher(PlanReader):
    """Looks whether past slices are still as they were backed up."""

    def rewritten(self, dataset: str) -> list[date]:
        """Closed days whose slice is not as its snapshot says, as far back as the plan looks.

        Only what the first tier holds is looked at: a day that it lacks was missed. No content is
        read. What cannot be looked at is a notice.

        Args:
            dataset: The dataset's key; nothing is found where it does not hold slices.
        """
        spec = self.plan.dataset(dataset)
        if spec.holds != "slice":
            return []
        repository = self._repository(spec, spec.first_tier)
        if repository is None:
            return []
        found: list[date] = []
        day = self.last_closed_day()
        oldest = max(self.plan.start, day + ONE_DAY - spec.slices_checked)
        while day >= oldest:
            present = repository.best_for(day)
            if present is not None and self._is_rewritten(spec, present):
                found.append(day)
            day -= ONE_DAY
        return sorted(found)

    def _is_rewritten(self, spec: Dataset, present: Snapshot) -> bool:
        """Whether a day's slice differs from its snapshot, and has something to back up."""
        day = present.day
        try:
            with closing(self._source(spec, day)) as source:
                if source.fingerprint() == present.fingerprint:
                    return False
                there = any(len(batch) for batch in source.scan())
        except BackupError as error:
            self._notice(f"the slice of {day} cannot be looked at, and is kept: {error.message}")
            return False
        if not there and present.entries:
            self._notice(f"the slice of {day} is empty now; its snapshot is kept")
            return False
        return True

"""The verb that proves a restore: which part of which snapshot is due, drilled, and recorded."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Sequence
from contextlib import closing
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from backup_pipeline.engine.errors import BackupError, UsageError
from backup_pipeline.engine.scratch import ScratchFolder
from backup_pipeline.runner.days import is_good
from backup_pipeline.runner.finding import Finder
from backup_pipeline.runner.shares import parse_share

if TYPE_CHECKING:
    from backup_pipeline.drilling import PlanTests
    from backup_pipeline.engine.format.record import Snapshot
    from backup_pipeline.engine.operations.drill import DrillReport
    from backup_pipeline.engine.repository import Repository
    from backup_pipeline.plan import Drill
    from backup_pipeline.plan.drilltests import DrillTest

__all__ = ["Driller"]

DEFAULT_SAMPLE = 0.05
"""What a drill restores where no plan says how much."""


def _plan_tests(tests: Sequence[DrillTest], folders: Sequence[str]) -> PlanTests | None:
    if not tests:
        return None
    sys.path.extend(folder for folder in folders if folder not in sys.path)
    from backup_pipeline.drilling import PlanTests

    return PlanTests(tests)


class Driller(Finder):
    """The verbs that drill snapshots."""

    def drill(
        self,
        dataset: str,
        tier: str | None = None,
        *,
        day: date | None = None,
        snapshot: str | None = None,
        sample: str | float | None = None,
        tests: bool = True,
    ) -> DrillReport:
        """Restore a part of a snapshot to scratch, compare it, time it, test it, and remove it.

        Drills of the newest snapshot take turns: each begins where the one before it ended, by
        the record that it leaves in the tier's log.

        Args:
            dataset: The dataset's key.
            tier: As ``find`` takes it, as are ``day`` and ``snapshot``.
            sample: ``all``, or the share to restore; default: as the plan says, else 5 %.
            tests: Whether to do the plan's tests of the restored copy.

        Raises:
            NotFound: There is no such snapshot.
            UsageError: The sample does not fit the plan's scratch.
        """
        self.notices.clear()
        rules = self._drill_rules(dataset)
        share = self._drill_share(dataset, sample)
        repository, found = self.find(dataset, tier=tier, day=day, snapshot=snapshot)
        from backup_pipeline.engine.operations.drill import drill, record, tell_coverage
        from backup_pipeline.engine.operations.rotation import RING, drills_to_cover

        declared = rules.tests if rules and tests else ()
        refusal, slices = self._unrecordable(repository), self._holds_slices(dataset)
        with closing(ScratchFolder(self._scratch())) as scratch:
            report = drill(
                repository,
                found,
                scratch.path,
                sample=share,
                # Drills that leave no record would take the same part over and over.
                start=None if refusal is None else secrets.randbelow(RING),
                slices=slices,
                tests=_plan_tests(declared, self._module_folders()),
                rto_s=self._rto_s(dataset),
                room=self._require_room,
                report=self._report,
            )
        if rules is not None and rules.sample:
            report.covers_in_s = drills_to_cover(rules.sample) * rules.interval.total_seconds()
        try:
            if refusal is not None:
                raise UsageError(refusal)
            record(repository, found, report, slices=slices, clock=self._clock)
        except BackupError as error:
            self._notice(f"this drill is not recorded: {error.message}")
            tell_coverage(repository, found, report, slices=slices)
        return report

    def to_drill(
        self, dataset: str, tier: str | None = None, *, sample: str | float | None = None
    ) -> list[Snapshot]:
        """Which snapshots a drill takes next: the newest good one.

        Where each day's is the only copy of its day, those that were looked at longest ago; each
        of them is to be drilled whole.

        Args:
            dataset: The dataset's key.
            tier: As ``find`` takes it.
            sample: As for ``drill``.

        Raises:
            NotFound: There is none.
        """
        repository, newest = self.find(dataset, tier=tier)
        if not self._holds_slices(dataset):
            return [newest]
        from backup_pipeline.engine.operations.rotation import slices_due
        from backup_pipeline.engine.state import best_of

        good = [one for one in repository.snapshots() if is_good(one)]
        best = {day: best_of(good, day) for day in {one.day for one in good}}
        found = {one.id: one for one in best.values() if one is not None}
        captured = {key: one.captured_at for key, one in found.items()}
        share = self._drill_share(dataset, sample)
        return [found[key] for key in slices_due(captured, repository.state.drills, share)]

    def share_of_each(self, dataset: str, sample: str | float | None = None) -> float:
        """How much of each of ``to_drill``'s snapshots is to be drilled."""
        return 1.0 if self._holds_slices(dataset) else self._drill_share(dataset, sample)

    def _drill_share(self, dataset: str, sample: str | float | None) -> float:
        if sample is not None:
            return parse_share(sample)
        rules = self._drill_rules(dataset)
        return rules.sample if rules else DEFAULT_SAMPLE

    def _holds_slices(self, dataset: str) -> bool:
        """Whether each day's snapshot is the only copy of its day."""
        return False

    def _drill_rules(self, dataset: str) -> Drill | None:
        """How the dataset is drilled; None where nothing says so."""
        return None

    def _module_folders(self) -> list[str]:
        """Where the modules of functions that are named in the plan may lie, besides Python's."""
        return []

    def _unrecordable(self, repository: Repository) -> str | None:
        """Why drills cannot be recorded there; None where they can."""
        return "a store that is read without a plan is not written to"

    def _scratch(self) -> Path | None:
        """The directory for drills; None for the system's own."""
        return None

    def _require_room(self, size_bytes: int) -> None:
        """Refuse a drill that is larger than the plan's scratch may get."""

    def _rto_s(self, dataset: str) -> float | None:
        """The time in which a restore of the dataset should be done."""
        return None

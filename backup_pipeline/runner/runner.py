"""The runner: a plan's backups and copies, each day told truly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from datetime import date
from typing import TYPE_CHECKING, Any

from backup_pipeline.engine.errors import (
    DayUnavailable,
    UsageError,
)
from backup_pipeline.plan.cadence import is_cadence_day
from backup_pipeline.runner.bare import StoreReader
from backup_pipeline.runner.copying import Copier, Task
from backup_pipeline.runner.costing import Accountant
from backup_pipeline.runner.days import describe_days
from backup_pipeline.runner.judging import gate_of, said_of
from backup_pipeline.runner.keeping import Keeper
from backup_pipeline.runner.missing import Backfiller
from backup_pipeline.runner.overseeing import Overseer
from backup_pipeline.runner.planned import ONE_DAY
from backup_pipeline.runner.repairing import Repairer
from backup_pipeline.runner.restoring import notice_unfinished
from backup_pipeline.runner.results import Result
from backup_pipeline.runner.slices import SliceWatcher

if TYPE_CHECKING:
    from backup_pipeline.engine.format.record import Snapshot
    from backup_pipeline.engine.keys import Secret
    from backup_pipeline.engine.operations.work import Prepared
    from backup_pipeline.engine.progress import Report
    from backup_pipeline.plan import Dataset, Tier
    from backup_pipeline.sources.base import Source

__all__ = ["Runner"]

LONGEST_CADENCE_DAYS = 31
_LATE_HINT = "`late: accept` in the policy stores the present state for a past day, marked late"


class Runner(SliceWatcher, Copier, Overseer, Keeper, Repairer, Accountant, Backfiller):
    """A plan's verbs without Dagster: back up, copy, and all that its parents can do."""

    @staticmethod
    def for_store(
        url: str | Mapping[str, Any],
        dataset: str | None,
        secrets: Sequence[Secret],
        *,
        report: Report | None = None,
    ) -> StoreReader:
        """The verbs that read, over one store and with no plan; see ``StoreReader``."""
        return StoreReader(url, dataset, secrets, report=report)

    # -- which day

    def _day(self, spec: Dataset, rules: Tier, day: date | None) -> date:
        """The day to back up: today for a first tier of a whole dataset, else a closed day."""
        today = self.today()
        if day is not None:
            if day > today:
                raise UsageError(
                    f"{day} is in the future: today is {today} in {self.plan.timezone}",
                    "choose today or a past day",
                )
            return day
        if spec.holds == "whole" and rules.reads_source:
            return today
        newest = self.last_closed_day()
        return next(
            (
                newest - age * ONE_DAY
                for age in range(LONGEST_CADENCE_DAYS)
                if is_cadence_day(rules, newest - age * ONE_DAY)
            ),
            newest,
        )

    # -- backup

    def backup(
        self,
        dataset: str,
        tier: str | None = None,
        *,
        day: date | None = None,
        kind: str | None = None,
        force: bool = False,
        explained: str | None = None,
        upstream: str | None = None,
    ) -> Result:
        """Make sure that a tier has its snapshot of a day.

        A first tier reads the source; a later tier copies a closed day. A closed day that has a
        good snapshot is answered with it, and nothing is read.

        Args:
            dataset: The dataset's key.
            tier: The tier; default: the first.
            day: The local day; default: today where the tier reads a whole dataset, else the
                newest closed day of the tier's cadence.
            kind: ``full``, ``incremental`` or ``differential``; default: as the tier's rules say.
            force: Make another snapshot although the day has one.
            explained: Why much may have changed, in a person's words: it is then not suspicious.
            upstream: Which materialization of the dataset's own asset may have changed much.

        Raises:
            DayUnavailable: A past day that cannot be had honestly; it lists those that can.
            UsageError: A future day, an unknown dataset or tier, another deployment's repository.
            SourceError: The source cannot be read.
        """
        self.notices.clear()
        self._out_of_reach.clear()
        spec = self.plan.dataset(dataset)
        rules = spec.first_tier if tier is None else spec.tier(tier)
        chosen = self._day(spec, rules, day)
        gate = gate_of(
            spec.anomaly,
            slices=spec.holds == "slice",
            explained=explained or self.explained,
            upstream=upstream,
        )
        task = Task(spec, rules, chosen, kind, force, gate)
        if rules.reads_source:
            self._require_alone(spec)
            return self._from_source(task)
        return self._from_tier(task)

    def _require_alone(self, spec: Dataset) -> None:
        """A member of a set is read with the others or not at all."""
        one = self.plan.set_of(spec.key)
        if one is not None:
            raise UsageError(
                f"{spec.key} is a member of set {one.name}, which is captured as one",
                f"`backup-pipeline backup --set {one.name}`",
            )

    def _from_source(self, task: Task) -> Result:
        spec, closed = task.dataset, self.is_closed(task.day)
        if spec.holds == "slice" and not closed:
            raise self._open_day(task)
        if task.day != self.today() and not task.force:
            present = self._present(task)
            if present is not None:
                if spec.holds == "whole" or not self._is_rewritten(spec, present):
                    return self._kept(present)
                self._notice(f"the slice of {task.day} was written again: a new version of the day")
                return self._read(task, None, "exact")
        if spec.holds == "slice":
            donors = [] if task.force else self._donors(task, timings=("exact", "on-time"))
            return self._copy(task, donors) if donors else self._read(task, None, "exact")
        if not closed:
            return self._read(task, None, "on-time")
        return self._past(task)

    def _past(self, task: Task) -> Result:
        """A closed day of a whole dataset: another tier's, the source's as of then, or late."""
        donors = self._donors(task, timings=("exact", "on-time"))
        if donors:
            return self._copy(task, donors)
        source = self._source(task.dataset, task.day)
        reason = f"{source.describe()} knows no past states"
        known: Sequence[date] = ()
        with closing(source):
            if source.supports_as_of:
                try:
                    return self._read(task, source.as_of(task.day), "exact")
                except DayUnavailable as error:
                    reason, known = error.message, error.available
        if task.dataset.late == "accept":
            self._require_reach(task)
            donors = self._donors(task, timings=("late",))
            return self._copy(task, donors) if donors else self._read(task, None, "late")
        days = sorted({*self._days_there(task.dataset), *known, self.today()})
        raise DayUnavailable(
            f"{task.dataset.key} of {task.day} cannot be had in tier {task.rules.name}: no other"
            f" tier holds a good snapshot of that day, and {reason};"
            f" days that can be had: {describe_days(days, task.day)}",
            _LATE_HINT,
            available=days,
        )

    def _prepare_member(
        self, spec: Dataset, day: date, kind: str | None, timing: str, source: Source
    ) -> tuple[Prepared, str]:
        """Read a member of a set, up to the record that commits it; with why it has its kind."""
        gate = gate_of(
            spec.anomaly,
            slices=False,
            explained=self.explained,
            upstream=self.upstream.get(spec.key),
        )
        task = Task(spec, spec.first_tier, day, kind, False, gate)
        repository = self._writable(spec, task.rules)
        from backup_pipeline.engine.operations.backup import prepare

        def read(kind: str, parent: Snapshot | None, base: Snapshot | None) -> Prepared:
            return prepare(
                repository,
                source,
                day=day,
                kind=kind,
                parent=parent,
                base=base,
                timing=timing,
                gate=task.gate,
                clock=self._clock,
                report=self._report,
                notice=self._notice,
            )

        return self._make(task, repository, read)

    def _read(self, task: Task, source: Source | None, timing: str) -> Result:
        source = source or self._source(task.dataset, task.day)
        repository = self._writable(task.dataset, task.rules)
        # Imported last, for pyarrow is loaded while the store's key is derived.
        from backup_pipeline.engine.operations.backup import backup

        def read(kind: str, parent: Snapshot | None, base: Snapshot | None) -> Snapshot:
            return backup(
                repository,
                source,
                day=task.day,
                kind=kind,
                parent=parent,
                base=base,
                timing=timing,
                gate=task.gate,
                clock=self._clock,
                report=self._report,
                notice=self._notice,
            )

        with closing(source):
            snapshot, reason = self._make(task, repository, read)
        notice_unfinished(source, self._notice)
        before = repository.snapshots()[:-1]
        if before and before[-1].files and not snapshot.files:
            self._notice(
                f"all {before[-1].files} files of the last snapshot are gone from"
                f" {source.describe()}; is it mounted?"
            )
        for text in said_of(snapshot):
            self._notice(text)
        return Result(snapshot, True, reason, tuple(self.notices))

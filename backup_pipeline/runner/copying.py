"""What backups and copies share: one task, the snapshot that is due, and copies between tiers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from backup_pipeline.engine.errors import (
    Conflict,
    DamageError,
    DayUnavailable,
    StoreError,
    StoreUnavailable,
    UnsoundParent,
    UsageError,
)
from backup_pipeline.plan.cadence import day_closes_at
from backup_pipeline.plan.kinds import choose_kind
from backup_pipeline.runner.days import best_by_day, describe_days, is_good, nearest_day, rank
from backup_pipeline.runner.judging import bring_clearances
from backup_pipeline.runner.results import Result
from backup_pipeline.runner.setbackup import SetBackup

if TYPE_CHECKING:
    from backup_pipeline.engine.format.record import Snapshot
    from backup_pipeline.engine.judgement import Gate
    from backup_pipeline.engine.repository import Repository
    from backup_pipeline.plan import Dataset, Tier
    from backup_pipeline.runner.cuts import Cut

__all__ = ["Copier", "Task"]

T = TypeVar("T")
_Make: TypeAlias = "Callable[[str, Snapshot | None, Snapshot | None], T]"


@dataclass(frozen=True, slots=True)
class Task:
    """What one backup is about."""

    dataset: Dataset
    rules: Tier
    day: date
    kind: str | None
    force: bool
    gate: Gate | None = None


@dataclass(frozen=True, slots=True)
class _Donor:
    """A good snapshot of another tier."""

    repository: Repository
    snapshot: Snapshot


class Copier(SetBackup):
    """All that ``SetBackup`` can do, and copies from tier to tier."""

    def _open_day(self, task: Task) -> DayUnavailable:
        closes = day_closes_at(task.day, self.plan.zone).astimezone(self.plan.zone)
        what = "a slice is read" if task.rules.reads_source else "later tiers copy a day"
        return DayUnavailable(
            f"{task.dataset.key}: {task.day} is not over; {what} once it closes, at"
            f" {closes:%Y-%m-%d %H:%M} {self.plan.timezone}",
            "`backup-pipeline copy` copies a snapshot of an open day"
            if not task.rules.reads_source
            else "choose an earlier day, or wait",
            available=self._days_there(task.dataset),
        )

    def _days_there(self, spec: Dataset) -> list[date]:
        """Days with a good snapshot in any tier that can be asked."""
        return sorted(
            {
                snapshot.day
                for repository in self._reachable(spec)
                for snapshot in repository.snapshots()
                if is_good(snapshot)
            }
        )

    def _present(self, task: Task) -> Snapshot | None:
        """The good snapshot that the tier has of the day."""
        repository = self._stores.repository(task.rules.store, task.dataset.key)
        found = repository.best_for(task.day) if repository else None
        return found if found is not None and is_good(found) else None

    def _kept(self, snapshot: Snapshot) -> Result:
        reason = f"{snapshot.day} has its {snapshot.timing} snapshot; nothing was read"
        return Result(snapshot, False, reason, tuple(self.notices))

    def _make(self, task: Task, repository: Repository, make: _Make[T]) -> tuple[T, str]:
        """A snapshot of the kind that is due, and why; a full where nothing sound is built on."""
        try:
            return self._make_once(task, repository, make)
        except Conflict as error:
            # A prune came between: what it condemned is stored anew, under another name.
            self._notice(f"begun anew: {error.message}")
            return self._make_once(task, repository, make)

    def _make_once(self, task: Task, repository: Repository, make: _Make[T]) -> tuple[T, str]:
        history = repository.snapshots()
        choice = choose_kind(task.rules, history, task.day, task.kind)
        parent, base = _by_id(history, choice.parent_id), _by_id(history, choice.base_id)
        try:
            return make(choice.kind, parent, base), choice.reason
        except UnsoundParent as error:
            if task.kind is not None:
                raise
            self._notice(f"a new chain begins: {error.message}")
            return make("full", None, None), "what it would have built on is damaged"

    # -- copy

    def _from_tier(self, task: Task) -> Result:
        if not self.is_closed(task.day):
            raise self._open_day(task)
        one = self.plan.set_of(task.dataset.key)
        cut = self._cut_of(one.name, task.day) if one is not None else None
        if cut is not None and task.dataset.key in cut.found:
            # Its siblings take the same one, so that the tier has a whole cut.
            return self._of_cut(task, cut)
        present = None if task.force else self._present(task)
        whole = task.dataset.holds == "whole"  # a slice may be written again, long after its day
        closed_at = day_closes_at(task.day, self.plan.zone)
        if present is not None and whole and present.finished_at >= closed_at:
            return self._kept(present)
        donors = self._donors(task)
        if present is not None and (not donors or rank(donors[0].snapshot) <= rank(present)):
            # Copied while the day was open, and nothing better came after.
            return self._kept(present)
        if donors:
            return self._copy(task, donors)
        return self._substitute(task)

    def _copy_member(self, spec: Dataset, rules: Tier, cut: Cut, kind: str | None) -> Result:
        """Make sure that a tier has a member's snapshot of a cut."""
        return self._of_cut(Task(spec, rules, cut.day, kind, False), cut)

    def _of_cut(self, task: Task, cut: Cut) -> Result:
        """The snapshot of a cut, copied from whichever tier has it."""
        spec, rules = task.dataset, task.rules
        own = self._stores.repository(rules.store, spec.key)
        present = self._cut_in(own, cut, spec.key) if own is not None else None
        if present is not None and not task.force:
            return self._kept(present)
        donors = [
            _Donor(repository, snapshot)
            for repository in self._reachable(spec, but=rules.name)
            if (snapshot := self._cut_in(repository, cut, spec.key)) is not None
        ]
        donors.sort(key=lambda one: one.repository.tier != rules.from_)
        if present is not None and not donors:
            return self._kept(present)
        return self._copy(task, donors)

    def _substitute(self, task: Task) -> Result:
        """The nearest good snapshot of another day, marked late, where the tier allows it."""
        spec, rules = task.dataset, task.rules
        donors: dict[date, _Donor] = {}
        for repository in self._reachable(spec, but=rules.name):
            for day, snapshot in best_by_day(repository.snapshots()).items():
                if day not in donors or rank(snapshot) > rank(donors[day].snapshot):
                    donors[day] = _Donor(repository, snapshot)
        # A stand-in holds another day's state: the day that it names is not near to anything.
        true = {day: one for day, one in donors.items() if one.snapshot.timing != "late"}
        donors = true or donors
        days = sorted(day for day in donors if self.is_closed(day))
        nearest = nearest_day(task.day, days)
        if rules.if_missed == "nearest" and spec.holds == "whole" and nearest is not None:
            self._require_reach(task)
            self._notice(
                f"no tier holds {task.day}; the nearest, {nearest}, stands in, marked late"
            )
            return self._copy(task, [donors[nearest]], timing="late")
        first = spec.first_tier
        if nearest is None and donors:
            hint = "no day is over yet; `backup-pipeline copy` copies a snapshot of an open day"
        elif nearest is None:
            hint = f"back it up first: `backup-pipeline backup {spec.key} --tier {first.name}`"
        else:
            hint = f"`if_missed: nearest` in tier {rules.name} takes the nearest day, marked late"
        raise DayUnavailable(
            f"{spec.key} of {task.day} cannot be copied into tier {rules.name}: no other tier holds"
            f" a good snapshot of that day; days that can be had: {describe_days(days, task.day)}",
            hint,
            available=days,
        )

    def _reachable(self, spec: Dataset, *, but: str | None = None) -> list[Repository]:
        """The dataset's repositories that can be asked; others are noted."""
        found: list[Repository] = []
        for rules in spec.tiers.values():
            if rules.name == but:
                continue
            try:
                repository = self._stores.repository(rules.store, spec.key)
            except (StoreError, UsageError) as error:
                self._out_of_reach.add(rules.name)
                self._notice(f"tier {rules.name} was left out: {error.message}")
                continue
            if repository is not None:
                found.append(repository)
        return found

    def _require_reach(self, task: Task) -> None:
        """Store no substitute for a day while a tier that may hold the day cannot be asked."""
        if self._out_of_reach and not task.force:
            raise StoreUnavailable(
                f"{task.dataset.key} of {task.day} may be in tier"
                f" {', '.join(sorted(self._out_of_reach))}, which cannot be asked now",
                "try again once it is in reach; --force stores a substitute, marked late",
            )

    def _donors(
        self, task: Task, timings: Sequence[str] = ("exact", "on-time", "late")
    ) -> list[_Donor]:
        """Good snapshots of the day in other tiers, the best first.

        Of equals, the tier's own ``from`` comes first, then the plan's order.
        """
        repositories = self._reachable(task.dataset, but=task.rules.name)
        repositories.sort(key=lambda one: one.tier != task.rules.from_)
        donors = [
            _Donor(repository, snapshot)
            for repository in repositories
            if (snapshot := repository.best_for(task.day)) is not None
            and is_good(snapshot)
            and snapshot.timing in timings
        ]
        return sorted(donors, key=lambda donor: rank(donor.snapshot), reverse=True)

    def _copy(self, task: Task, donors: Sequence[_Donor], *, timing: str | None = None) -> Result:
        """Copy from the first donor whose bytes are sound."""
        for number, donor in enumerate(donors, 1):
            try:
                return self._copy_from(task, donor, timing or donor.snapshot.timing)
            except DamageError as error:
                if number == len(donors):
                    raise
                self._notice(f"tier {donor.repository.tier} is damaged: {error.message}")
        raise AssertionError("no donors")

    def _copy_from(self, task: Task, donor: _Donor, timing: str) -> Result:
        from backup_pipeline.engine.operations.copy import copy

        target = self._writable(task.dataset, task.rules)

        def bring(kind: str, parent: Snapshot | None, base: Snapshot | None) -> Snapshot:
            return copy(
                donor.repository,
                donor.snapshot,
                target,
                kind=kind,
                parent=parent,
                base=base,
                day=task.day,
                timing=timing,
                clock=self._clock,
                report=self._report,
            )

        snapshot, why = self._make(task, target, bring)
        bring_clearances(donor.repository, target, self._clock)
        reason = f"copied from tier {donor.repository.tier}; {why}"
        return Result(snapshot, True, reason, tuple(self.notices))

    def copy(
        self,
        dataset: str,
        *,
        from_tier: str,
        to_tier: str,
        day: date | None = None,
        snapshot: str | None = None,
        kind: str | None = None,
        force: bool = False,
    ) -> Result:
        """Copy one snapshot from tier to tier, an open day's too.

        Args:
            dataset: The dataset's key.
            from_tier: The tier that holds it.
            to_tier: The tier that will hold it.
            day: The day whose best good snapshot is copied; default: the newest good one.
            snapshot: Its id, instead of a day.
            kind: As ``backup`` takes it; a new snapshot is then made in any case.
            force: Copy although the tier has an equally good snapshot of the day, or although the
                snapshot is incomplete.

        Raises:
            NotFound: There is no such snapshot.
            UsageError: One tier named twice, or an incomplete snapshot.
        """
        self.notices.clear()
        spec = self.plan.dataset(dataset)
        if from_tier == to_tier:
            raise UsageError(f"tier {to_tier} cannot be copied from itself", "name another tier")
        rules = spec.tier(to_tier)
        repository, found = self.find(dataset, tier=from_tier, day=day, snapshot=snapshot)
        if not is_good(found) and not force:
            raise UsageError(
                f"snapshot {found.id[:12]} of {dataset} is incomplete and not worth a second place",
                "back the day up again, or copy it all the same with --force",
            )
        task = Task(spec, rules, found.day, kind, force)
        # Who asks for a kind asks for a new snapshot: it puts a damaged one right.
        present = None if force or kind else self._present(task)
        if present is not None and rank(present) >= rank(found):
            return self._kept(present)
        return self._copy(task, [_Donor(repository, found)])


def _by_id(snapshots: Sequence[Snapshot], wanted: str | None) -> Snapshot | None:
    return next((one for one in snapshots if one.id == wanted), None) if wanted else None

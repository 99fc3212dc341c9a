"""Missed days: which there are, where each could still come from, and how they are filled."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import closing, nullcontext
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from typing import TYPE_CHECKING, Any, Literal

from backup_pipeline.engine.errors import BackupError, DamageError, DayUnavailable, StoreError
from backup_pipeline.plan.retention import worth
from backup_pipeline.runner.daybackup import DayBackup
from backup_pipeline.runner.days import best_by_day, is_good
from backup_pipeline.runner.planned import ONE_DAY
from backup_pipeline.runner.standing import missed_days
from backup_pipeline.sources.base import VANISHED

if TYPE_CHECKING:
    from backup_pipeline.engine.format.record import Snapshot
    from backup_pipeline.plan import Dataset, Tier
    from backup_pipeline.runner.results import Result
    from backup_pipeline.runner.setbackup import SetResult
    from backup_pipeline.sources.base import Source

__all__ = ["BackfillReport", "Backfiller", "Filled", "Missed", "Unasked", "by_run"]

Way = Literal["copy", "source", "nearest", "late"]


@dataclass(frozen=True, slots=True)
class Missed:
    """A cadence day that is over and that a tier has no good snapshot of.

    Attributes:
        dataset: The dataset's key.
        tier: The tier that lacks the day.
        day: The day.
        incomplete: Whether there is a snapshot of it that lacks entries.
        expendable: Whether retention would let go of it at once, so that it is not wanted back.
        way: How it can be had: ``copy`` from another tier, from the ``source`` as of that day,
            the ``nearest`` day in its place, or the source's present state, ``late``; None where
            it cannot.
        late: Whether what fills it would be marked late.
        origin: The tier or source that it would come from.
        reason: Why it cannot be had.
    """

    dataset: str
    tier: str
    day: date
    incomplete: bool = False
    expendable: bool = False
    way: Way | None = None
    late: bool = False
    origin: str = ""
    reason: str = ""

    def to_json(self) -> dict[str, Any]:
        """Fields by name."""
        return {
            "dataset": self.dataset,
            "tier": self.tier,
            "day": self.day.isoformat(),
            "incomplete": self.incomplete,
            "expendable": self.expendable,
            "way": self.way,
            "late": self.late,
            "origin": self.origin,
            "reason": self.reason,
        }


@dataclass(frozen=True, slots=True)
class Filled:
    """A missed day that now has its snapshot.

    Attributes:
        missed: What was missed.
        snapshot: What fills it.
    """

    missed: Missed
    snapshot: Snapshot

    def to_json(self) -> dict[str, Any]:
        """Fields by name."""
        return {
            **{name: self.missed.to_json()[name] for name in ("dataset", "tier", "day", "way")},
            "timing": self.snapshot.timing,
            "snapshot": self.snapshot.id,
        }


@dataclass(frozen=True, slots=True)
class Unasked:
    """A tier that could not be asked what it holds, so that nobody knows what it lacks.

    Attributes:
        dataset: The dataset's key.
        tier: The tier.
        reason: Why not.
    """

    dataset: str
    tier: str
    reason: str

    def to_json(self) -> dict[str, str]:
        """Fields by name."""
        return {"dataset": self.dataset, "tier": self.tier, "reason": self.reason}


@dataclass
class BackfillReport:
    """What became of the missed days.

    Attributes:
        filled: Those that have their snapshot now, in the order in which they were filled.
        left: Those that could not be filled; each says why.
        unasked: Tiers of which nobody knows what they lack.
        notices: What the user should know beside it.
    """

    filled: list[Filled] = field(default_factory=list[Filled])
    left: list[Missed] = field(default_factory=list[Missed])
    unasked: list[Unasked] = field(default_factory=list[Unasked])
    notices: list[str] = field(default_factory=list[str])

    def to_json(self) -> dict[str, Any]:
        """Fields by name."""
        return {
            "filled": [one.to_json() for one in self.filled],
            "left": [one.to_json() for one in self.left],
            "unasked": [one.to_json() for one in self.unasked],
            "notices": list(self.notices),
        }


@dataclass(frozen=True, slots=True)
class _Held:
    """What a tier holds, and the days that it held until they expired."""

    snapshots: Sequence[Snapshot] = ()
    expired: Set[date] = frozenset()


class Backfiller(DayBackup):
    """Finds and fills the days that were missed.

    Attributes:
        unasked: Tiers that could not be asked when missed days were last looked for.
    """

    unasked: Sequence[Unasked] = ()

    @abstractmethod
    def backup_set(
        self, name: str, tier: str | None = None, *, day: date | None = None
    ) -> SetResult:
        """Make sure that a tier has a whole cut of a set for a day."""

    def missing(
        self,
        dataset: str | None = None,
        tier: str | None = None,
        *,
        since: date | None = None,
        until: date | None = None,
    ) -> list[Missed]:
        """The days that were missed, by dataset, day and tier, each with how it could be had.

        Missed is a cadence day that is over, whose run was due, and of which the tier has no good
        snapshot and never expired one. In the UI these are partitions that are not materialized.

        Args:
            dataset: One dataset; default: all.
            tier: One tier; default: all.
            since: The first day to look at; default: the plan's first.
            until: The last day to look at; default: the newest that is over.

        Raises:
            UsageError: The dataset or tier is not known.
        """
        self.notices.clear()
        keys = dict.fromkeys(place.dataset for place in self.all_places(dataset, tier))
        found: list[Missed] = []
        unasked: list[Unasked] = []
        for key in keys:
            spec = self.plan.dataset(key)
            finder = _Finder(self, spec, self._held(spec, unasked), self._clock())
            found += finder.missed(since or self.plan.start, until)
        self.unasked = [one for one in unasked if tier in (None, one.tier)]
        return [one for one in found if tier in (None, one.tier)]

    def backfill(
        self,
        dataset: str | None = None,
        tier: str | None = None,
        *,
        since: date | None = None,
        until: date | None = None,
        exact_only: bool = False,
        tell: Callable[[Missed, str], None] | None = None,
    ) -> BackfillReport:
        """Fill the missed days that can be filled, in the order in which they depend.

        First what can be had exactly, day by day and from the first tier on, so that later tiers
        copy what the first has just got and an incremental builds on the day before; then what
        can only be had late. What was filled stays, whatever happens after: run it again and it
        goes on.

        Args:
            dataset: One dataset; default: all.
            tier: One tier; default: all.
            since: As for ``missing``.
            until: As for ``missing``.
            exact_only: Whether to leave the days that could only be had late.
            tell: Is told of each day once it was tried, with what became of it.

        Raises:
            UsageError: The dataset or tier is not known.
        """
        report = BackfillReport()
        missed = self.missing(dataset, tier, since=since, until=until)
        report.notices += self.notices
        report.unasked += self.unasked
        for one in sorted(missed, key=lambda one: one.late):
            if one.way is None or (exact_only and one.late):
                reason = one.reason or "it could only be had late"
                report.left.append(replace(one, reason=reason))
                continue
            try:
                result = self._fill(one)
            except BackupError as error:
                report.left.append(replace(one, reason=error.message))
                told = f"failed: {error.message}"
            else:
                report.notices += result.notices
                told = self._note(report, one, result.snapshot)
            if tell is not None:
                tell(one, told)
        report.notices = list(dict.fromkeys(report.notices))
        return report

    def _fill(self, one: Missed) -> Result:
        """The snapshot of a day; a member of a consistent set gets it together with the others."""
        of = self.plan.set_of(one.dataset)
        if of is None or one.tier != self.plan.dataset(one.dataset).first_tier.name:
            return self.backup(one.dataset, one.tier, day=one.day)
        made = self.backup_set(of.name, day=one.day)
        if one.dataset in made.errors:
            raise made.errors[one.dataset]
        said = () if made.cut is not None else (made.reason,)
        return replace(made.results[one.dataset], notices=(*made.notices, *said))

    def _note(self, report: BackfillReport, one: Missed, snapshot: Snapshot) -> str:
        if is_good(snapshot):
            report.filled.append(Filled(one, snapshot))
            return f"{snapshot.timing} snapshot {snapshot.id[:12]}"
        count = snapshot.problem_count
        reason = f"{count} entries could not be read: {snapshot.id[:12]} is incomplete"
        report.left.append(replace(one, incomplete=True, reason=reason))
        return reason

    def _held(self, spec: Dataset, unasked: list[Unasked]) -> dict[str, _Held | None]:
        """What each tier holds; None where it cannot be asked, which is noted."""
        found: dict[str, _Held | None] = {}
        for rules in spec.tiers.values():
            try:
                repository = self._repository(spec, rules)
            except (StoreError, DamageError) as error:
                self._notice(f"tier {rules.name} cannot be asked: {error.message}")
                unasked.append(Unasked(spec.key, rules.name, error.message))
                found[rules.name] = None
                continue
            found[rules.name] = _Held()
            if repository is not None:
                found[rules.name] = _Held(repository.snapshots(), repository.state.days_expired())
        return found


class _Finder:
    """The missed days of one dataset."""

    def __init__(
        self,
        runner: Backfiller,
        spec: Dataset,
        held: Mapping[str, _Held | None],
        now: datetime,
    ) -> None:
        self.runner = runner
        self.spec = spec
        self.held = held
        self.now = now
        # Timing of the best that any tier has, or will have once earlier days are filled.
        self.have: dict[date, dict[str, str]] = {}
        for name, one in held.items():
            for day, best in best_by_day(one.snapshots if one else ()).items():
                self.have.setdefault(day, {})[name] = best.timing

    def missed(self, since: date, until: date | None) -> Iterator[Missed]:
        """All of them, by day and tier."""
        lacking = {name: self._lacking(rules) for name, rules in self.spec.tiers.items()}
        kept = {name: self._kept(rules, lacking[name]) for name, rules in self.spec.tiers.items()}
        # A later tier copies what the first has: that is worth a day there too.
        kept[self.spec.first_tier.name].update(*kept.values())
        for day in sorted(set().union(*lacking.values())):
            if day < since or (until is not None and day > until):
                continue
            for name, rules in self.spec.tiers.items():
                if day in lacking[name]:
                    yield self._find(rules, day, day in kept[name])

    def _lacking(self, rules: Tier) -> list[date]:
        held = self.held[rules.name]
        if held is None:
            return []
        had = {one.day for one in held.snapshots if is_good(one)} | held.expired
        return missed_days(self.runner.plan, self.spec, rules, had, self.now)

    def _kept(self, rules: Tier, days: Sequence[date]) -> set[date]:
        """Those of some days of which retention would keep a snapshot."""
        if self.spec.holds == "slice":
            span = self.spec.keep_slices
            oldest = None if span is None else self.runner.today() - span
            return {day for day in days if oldest is None or day >= oldest}
        return worth(days, self._snapshots(rules), rules.keep, zone=self.runner.plan.zone)

    def _snapshots(self, rules: Tier) -> Sequence[Snapshot]:
        held = self.held[rules.name]
        return held.snapshots if held else ()

    def _find(self, rules: Tier, day: date, kept: bool) -> Missed:
        incomplete = any(one.day == day for one in self._snapshots(rules))
        blank = Missed(self.spec.key, rules.name, day, incomplete)
        if not kept:
            reason = "retention would let go of it at once"
            return replace(blank, expendable=True, reason=reason)
        found = self._from_source(blank) if rules.reads_source else self._from_tier(blank)
        if found.way is not None:
            timing = "late" if found.late else "exact"
            self.have.setdefault(day, {})[rules.name] = timing
        return found

    def _from_source(self, blank: Missed) -> Missed:
        others = self._others(blank)
        exact = [name for name, timing in others.items() if timing != "late"]
        if exact:
            return replace(blank, way="copy", origin=exact[0])
        try:
            with closing(self.runner.source(self.spec.key, blank.day)) as source:
                origin, reason = source.describe(), f"{source.describe()} knows no past states"
                sliced = self.spec.holds == "slice"
                if sliced or source.supports_as_of:
                    past = nullcontext(source) if sliced else closing(source.as_of(blank.day))
                    with past as state:
                        gone = self._gone(blank, state)
                    if gone is not None:
                        return replace(blank, reason=f"{gone} {origin}")
                    return replace(
                        blank, way="source", origin=self.spec.source.place if sliced else origin
                    )
        except DayUnavailable as error:
            reason = error.message
        except BackupError as error:
            return replace(blank, reason=f"no other tier holds it, and {error.message}")
        if self.spec.late == "accept":
            if others:
                return replace(blank, way="copy", late=True, origin=next(iter(others)))
            return replace(blank, way="late", late=True, origin=origin)
        return replace(blank, reason=f"no other tier holds it, and {reason}")

    def _gone(self, blank: Missed, past: Source) -> str | None:
        """Why reading a day again would give no more than its snapshot has; None where it may.

        What could not be read may be readable by now. What had vanished from a state that is still
        the same is gone for good.
        """
        made = [one for one in self._snapshots(self.spec.tier(blank.tier)) if one.day == blank.day]
        if not made:
            return None
        last, vanished = made[-1], f"{VANISHED}: "
        known = len(last.problems) == last.problem_count
        if not known or not all(one["reason"].startswith(vanished) for one in last.problems):
            return None
        if past.fingerprint() != last.fingerprint:
            return None
        return f"{last.id[:12]} of that day is incomplete, and what it lacks is gone from"

    def _from_tier(self, blank: Missed) -> Missed:
        others = self._others(blank)
        if others:
            exact = [name for name, timing in others.items() if timing != "late"]
            origin = (exact or list(others))[0]
            return replace(blank, way="copy", late=not exact, origin=origin)
        rules = self.spec.tier(blank.tier)
        if rules.if_missed == "nearest" and self.spec.holds == "whole":
            near = [day for day in self.have if self.runner.is_closed(day)]
            if near:
                return replace(blank, way="nearest", late=True, origin="the nearest day")
        return replace(blank, reason="no other tier holds it, nor will")

    def _others(self, blank: Missed) -> dict[str, str]:
        there = self.have.get(blank.day, {})
        names = [name for name in self.spec.tiers if name in there and name != blank.tier]
        return {name: there[name] for name in names}


def by_run(missed: Sequence[Missed]) -> list[list[Missed]]:
    """Days that lie one behind the other and are alike, taken together for a message."""
    groups: list[list[Missed]] = []
    for one in sorted(missed, key=lambda one: (one.dataset, one.tier, one.day)):
        last = groups[-1][-1] if groups else None
        if last is not None and one.day - last.day == ONE_DAY and _alike(one, last):
            groups[-1].append(one)
        else:
            groups.append([one])
    return groups


def _alike(one: Missed, other: Missed) -> bool:
    same = replace(one, day=other.day, reason=one.reason.replace(str(one.day), str(other.day)))
    return same == other

"""Backs up consistent sets: prepared together, proved, and then committed as one cut.

Order of work, safe when stopped at any point: all members are read and stored; the cut is proved;
then one record after the other is appended, each naming the cut and all of its members. The cut
counts once the last of them is there. What was committed before that is an ordinary snapshot.
"""

from __future__ import annotations

import secrets
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import date
from typing import TYPE_CHECKING, Any

from backup_pipeline.engine.errors import BackupError, Conflict, DayUnavailable
from backup_pipeline.runner.cuts import Cut, best_cuts
from backup_pipeline.runner.daybackup import DayBackup
from backup_pipeline.runner.days import describe_days
from backup_pipeline.runner.judging import said_of
from backup_pipeline.runner.results import Result

if TYPE_CHECKING:
    from backup_pipeline.engine.format.record import Snapshot
    from backup_pipeline.engine.operations.work import Prepared
    from backup_pipeline.plan import ConsistentSet, Dataset, Tier
    from backup_pipeline.runner.capture import Captured, Subject
    from backup_pipeline.sources.base import Source

__all__ = ["SetBackup", "SetResult"]


@dataclass(frozen=True, slots=True)
class SetResult:
    """Answer of a backup of a set.

    Attributes:
        set: The set's name.
        tier: The tier's name.
        day: The day.
        cut: The whole cut that the tier has of the day now; None where it has none.
        results: Each member's snapshot, those that are in no cut too.
        errors: Why a member has none.
        reason: How the cut was proved, or why there is none.
        thaw_error: What the thaw hook failed with; what it was to thaw may be frozen still.
        notices: What the user should know beside it.
    """

    set: str
    tier: str
    day: date
    cut: Cut | None
    results: Mapping[str, Result]
    errors: Mapping[str, BackupError]
    reason: str
    thaw_error: BackupError | None = None
    notices: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether the day has its cut and nothing is left frozen."""
        return self.cut is not None and self.thaw_error is None

    @property
    def exit_code(self) -> int:
        """0 for a whole cut; 1 where members are stored but are none; else the worst error's."""
        failed = [*self.errors.values(), *filter(None, [self.thaw_error])]
        return max([int(self.cut is None), *(one.exit_code for one in failed)])

    def to_json(self) -> dict[str, Any]:
        """Fields by name; each member's snapshot below ``members``."""
        return {
            "ok": self.ok,
            "set": self.set,
            "tier": self.tier,
            "day": self.day.isoformat(),
            "cut": self.cut.to_json() if self.cut else None,
            "reason": self.reason,
            "members": {key: one.to_json() for key, one in self.results.items()},
            "errors": {
                key: {"message": one.message, "hint": one.hint, "exit_code": one.exit_code}
                for key, one in self.errors.items()
            },
            "thaw_error": str(self.thaw_error) if self.thaw_error else None,
            "notices": list(self.notices),
        }


@dataclass(slots=True)
class _Work:
    """What one backup of a set is about."""

    one: ConsistentSet
    rules: Mapping[str, Tier]
    day: date
    kind: str | None
    force: bool
    results: dict[str, Result] = field(default_factory=dict[str, Result])
    errors: dict[str, BackupError] = field(default_factory=dict[str, BackupError])


class SetBackup(DayBackup):
    """All that ``DayBackup`` can do, and backups of consistent sets."""

    # -- what the runner does for one dataset

    @abstractmethod
    def _day(self, spec: Dataset, rules: Tier, day: date | None) -> date: ...

    @abstractmethod
    def _prepare_member(
        self, spec: Dataset, day: date, kind: str | None, timing: str, source: Source
    ) -> tuple[Prepared, str]: ...

    @abstractmethod
    def _copy_member(self, spec: Dataset, rules: Tier, cut: Cut, kind: str | None) -> Result: ...

    @abstractmethod
    def _is_rewritten(self, spec: Dataset, present: Snapshot) -> bool: ...

    # -- the verb

    def backup_set(
        self,
        name: str,
        tier: str | None = None,
        *,
        day: date | None = None,
        kind: str | None = None,
        force: bool = False,
        explained: str | None = None,
        upstream: Mapping[str, str] | None = None,
    ) -> SetResult:
        """Make sure that a tier has a whole cut of a set for a day.

        The first tier reads the members; a later tier copies them. Where no cut could be proved,
        the members' snapshots are stored all the same, as ordinary ones.

        Args:
            name: The set's.
            tier: The tier; default: the first.
            day: As ``backup`` takes it, as are ``kind``, ``force`` and ``explained``.
            upstream: Which materializations may have changed much, by member.

        Raises:
            UsageError: There is no such set or tier, or the day is in the future.
            DayUnavailable: A past day of which no tier has a whole cut.
        """
        self.notices.clear()
        self._out_of_reach.clear()
        self.explained, self.upstream = explained or self.explained, upstream or {}
        one = self.plan.consistent_set(name)
        specs = [self.plan.dataset(key) for key in one.members]
        first = specs[0].first_tier
        chosen = first.name if tier is None else tier
        rules = {spec.key: spec.tier(chosen) for spec in specs}
        work = _Work(one, rules, self._day(specs[0], rules[specs[0].key], day), kind, force)
        if chosen == first.name:
            return self._first(work, specs)
        return self._later(work, chosen)

    def _first(self, work: _Work, specs: Sequence[Dataset]) -> SetResult:
        day, name, tier = work.day, work.one.name, specs[0].first_tier.name
        closed = self.is_closed(day)
        if specs[0].holds == "slice" and not closed:
            raise DayUnavailable(
                f"set {name}: {day} is not over; slices are read once it closes",
                "choose an earlier day, or wait",
                available=sorted(best_cuts(self.cuts(name))),
            )
        whole = None if day == self.today() or work.force else self._cut_of(name, day)
        if whole is not None and set(work.one.members) <= set(whole.members):
            slices = [spec for spec in specs if spec.holds == "slice"]
            if not any(self._is_rewritten(spec, whole.found[spec.key]) for spec in slices):
                return self._bring(work, tier, whole)
        timing = "on-time"
        if specs[0].holds == "slice" or (closed and self._knows_past(specs, day)):
            timing = "exact"
        elif closed:
            timing = "late"
            self._require_late(name, day, specs)
        return self._capture(work, specs, timing)

    def _knows_past(self, specs: Sequence[Dataset], day: date) -> bool:
        """Whether every member's source can say how it was when that day ended: one moment."""
        try:
            for spec in specs:
                with closing(self._source(spec, day)) as source, closing(source.as_of(day)):
                    pass
        except DayUnavailable:
            return False
        return True

    def _require_late(self, name: str, day: date, specs: Sequence[Dataset]) -> None:
        """A past day that no tier has: present state stands for it only where all members allow."""
        refusing = [spec.key for spec in specs if spec.late != "accept"]
        if refusing:
            days = sorted({*best_cuts(self.cuts(name)), self.today()})
            raise DayUnavailable(
                f"set {name} of {day} cannot be had: no tier holds a whole cut of that day, and not"
                f" all members' sources know that past state; days that can be had:"
                f" {describe_days(days, day)}",
                f"`late: accept` for every member ({', '.join(refusing)} refuses) stores the"
                " present state for a past day, marked late",
                available=days,
            )

    def _cut_of(self, name: str, day: date, tier: str | None = None) -> Cut | None:
        """The day's best whole cut."""
        return best_cuts(self.cuts(name, tier, day=day)).get(day)

    # -- copying

    def _bring(self, work: _Work, tier: str, cut: Cut) -> SetResult:
        """Copy the members of a whole cut that a tier lacks."""
        for key, rules in work.rules.items():
            spec = self.plan.dataset(key)
            try:
                work.results[key] = self._copy_member(spec, rules, cut, work.kind)
            except BackupError as error:
                work.errors[key] = error
        made = any(one.created for one in work.results.values())
        reason = "copied from other tiers" if made else f"{work.day} has its cut; nothing was read"
        return self._answer(work, tier, reason)

    def _later(self, work: _Work, tier: str) -> SetResult:
        for key in work.one.members:
            try:
                work.results[key] = self.backup(
                    key, tier, day=work.day, kind=work.kind, force=work.force
                )
            except BackupError as error:
                work.errors[key] = error
        made = any(one.created for one in work.results.values())
        return self._answer(work, tier, "copied" if made else "nothing had to be copied")

    # -- capturing

    def _capture(self, work: _Work, specs: Sequence[Dataset], timing: str) -> SetResult:
        # Imported here, for pyarrow is loaded while the store's key is derived.
        from backup_pipeline.runner.capture import capture
        from backup_pipeline.runner.hooks import Bracket

        one = work.one
        told = {"BACKUP_DAY": work.day.isoformat(), "BACKUP_TIER": specs[0].first_tier.name}
        subjects = [self._subject(spec, work, timing) for spec in specs]
        attempts = 0
        while True:
            captured = capture(
                one,
                subjects,
                lambda: Bracket(one, self._hook_environ(), told),
                self._notice,
                attempts,
            )
            attempts = captured.attempts
            try:
                cut_id = self._commit(work, captured)
            except Conflict as error:
                # A prune came between: what it condemned is stored anew, under another name.
                if attempts > one.retries + 1 or captured.thaw_error is not None:
                    raise
                self._notice(f"begun anew: {error.message}")
                continue
            reason = _reason(one, captured)
            result = self._answer(work, specs[0].first_tier.name, reason, cut_id)
            return replace(result, thaw_error=captured.thaw_error)

    def _subject(self, spec: Dataset, work: _Work, timing: str) -> Subject:
        from backup_pipeline.runner.capture import Subject

        def open_source() -> Source:
            source = self._source(spec, work.day)
            past = timing == "exact" and spec.holds == "whole"
            return source.as_of(work.day) if past else source

        def prepare() -> tuple[Prepared, str]:
            with closing(open_source()) as source:
                return self._prepare_member(spec, work.day, work.kind, timing, source)

        return Subject(spec.key, open_source, prepare)

    def _hook_environ(self) -> dict[str, str]:
        """This process's environment without the plan's keys: a hook has no business with them."""
        keys = {key.reference.env for key in self.plan.keys.values()}
        return {name: text for name, text in self._environ.items() if name not in keys}

    def _commit(self, work: _Work, captured: Captured) -> str:
        """Append every member's record; one that fails does not keep the others back.

        Returns:
            The id of the cut that they name; empty where none was proved.

        Raises:
            Conflict: A member has to be read again, and with it all that names this cut.
        """
        cut = None
        if captured.proof is not None:
            cut = {
                "id": secrets.token_hex(16),
                "set": work.one.name,
                "members": sorted(work.one.members),
                "proof": captured.proof,
            }
        work.results.clear()
        work.errors.clear()
        work.errors.update(captured.errors)
        for key, (prepared, reason) in captured.prepared.items():
            try:
                snapshot = prepared.commit(cut)
                work.results[key] = Result(snapshot, True, reason)
                for text in said_of(snapshot):
                    self._notice(text)
            except Conflict:
                raise
            except BackupError as error:
                work.errors[key] = error
        return "" if cut is None else str(cut["id"])

    def _answer(self, work: _Work, tier: str, reason: str, cut_id: str | None = None) -> SetResult:
        """What the tier has of the day, as its repositories say: no cut is told from memory.

        Args:
            work: What was done.
            tier: Where.
            reason: Why it came to this.
            cut_id: The cut that was asked for; by default any whole one of the day.
        """
        notices = tuple(self.notices)
        cuts = self.cuts(work.one.name, tier, day=work.day) if work.results else []
        members = set(work.one.members)
        cuts = [one for one in cuts if cut_id in (None, one.id) and members <= set(one.members)]
        cut = best_cuts(cuts).get(work.day)
        return SetResult(
            set=work.one.name,
            tier=tier,
            day=work.day,
            cut=cut,
            results=dict(work.results),
            errors=dict(work.errors),
            reason=reason,
            notices=notices,
        )


def _reason(one: ConsistentSet, captured: Captured) -> str:
    """How the cut was proved, or why there is none."""
    if captured.proof is not None:
        times = f" at attempt {captured.attempts}" if captured.attempts > 1 else ""
        frozen = "frozen by its hooks, and " if one.freeze else ""
        return (
            f"{frozen}every member's fingerprint was the same before and after all were read{times}"
        )
    said: list[str] = []
    if captured.freeze_error is not None:
        said.append(captured.freeze_error.message)
    if captured.errors:
        said.append(f"could not be read: {', '.join(captured.errors)}")
    if captured.incomplete:
        said.append(f"could not be read whole: {', '.join(captured.incomplete)}")
    changing = {key: sum(key in names for names in captured.changed) for key in one.members}
    if any(changing.values()):
        names = [f"{key} (in {count})" for key, count in changing.items() if count]
        tries = "1 attempt" if captured.attempts == 1 else f"{captured.attempts} attempts"
        said.append(f"changed while the set was read, of {tries}: {', '.join(names)}")
    return "no cut was proved: " + "; ".join(said)

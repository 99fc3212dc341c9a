"""Cuts: which snapshots of several datasets were proved to be of one moment, and are all there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backup_pipeline.engine.errors import BackupError, NotFound, UsageError
from backup_pipeline.runner.days import describe_days, is_good, rank
from backup_pipeline.runner.reading import Reader
from backup_pipeline.runner.results import iso

if TYPE_CHECKING:
    from backup_pipeline.engine.format.record import Snapshot
    from backup_pipeline.engine.operations.restore import RestoreReport
    from backup_pipeline.engine.repository import Repository

__all__ = ["Cut", "SetReader", "SetRestoreReport", "best_cuts", "gather_cuts"]


@dataclass(frozen=True, slots=True)
class Cut:
    """Snapshots of a set's members that name the same cut.

    It counts only where every member that its records name is there: what a crash between two
    members' commits leaves is no cut.

    Attributes:
        id: 32 hex digits.
        set: The set's name.
        day: The day that its snapshots stand for.
        proof: ``fingerprints`` or ``hooks``.
        members: Keys of all its members, as its records say.
        found: The members that are there, each with its best snapshot: of the first tier asked.
    """

    id: str
    set: str
    day: date
    proof: str
    members: tuple[str, ...]
    found: Mapping[str, Snapshot]

    @property
    def missing(self) -> tuple[str, ...]:
        """Members that are not there."""
        return tuple(key for key in self.members if key not in self.found)

    @property
    def whole(self) -> bool:
        """Whether every member is there."""
        return not self.missing

    @property
    def captured_at(self) -> datetime:
        """When the last of its members began to be read."""
        return max(one.captured_at for one in self.found.values())

    @property
    def timing(self) -> str:
        """The worst of its members'."""
        return min(self.found.values(), key=rank).timing

    def to_json(self) -> dict[str, Any]:
        """Fields by name; of the members where they are."""
        return {
            "cut": self.id,
            "set": self.set,
            "day": self.day.isoformat(),
            "proof": self.proof,
            "timing": self.timing,
            "captured_at": iso(self.captured_at),
            "whole": self.whole,
            "members": list(self.members),
            "missing": list(self.missing),
            "snapshots": {key: {"id": one.id, "tier": one.tier} for key, one in self.found.items()},
        }


def gather_cuts(name: str, snapshots: Iterable[Snapshot]) -> list[Cut]:
    """All cuts of a set that good snapshots tell of, whole or not, by day and time.

    Args:
        name: The set's.
        snapshots: Of all its members; where two are alike, the first counts.
    """
    found: dict[tuple[str, date, tuple[str, ...]], dict[str, Snapshot]] = {}
    proofs: dict[str, str] = {}
    for one in snapshots:
        cut = one.cut
        if cut is None or cut["set"] != name or not is_good(one):
            continue
        members = tuple(cut["members"])
        if one.dataset in members:
            # A copy may stand for another day than its origin, where the plan allows it.
            found.setdefault((cut["id"], one.day, members), {}).setdefault(one.dataset, one)
            proofs[cut["id"]] = cut["proof"]
    cuts = [
        Cut(id, name, day, proofs[id], members, there)
        for (id, day, members), there in found.items()
    ]
    return sorted(cuts, key=lambda one: (one.day, one.captured_at, one.id))


def best_cuts(cuts: Iterable[Cut]) -> dict[date, Cut]:
    """The best whole cut of each day: on time before late, then the newest captured."""
    best: dict[date, Cut] = {}
    for one in cuts:
        if one.whole and (one.day not in best or _order(one) > _order(best[one.day])):
            best[one.day] = one
    return best


def _order(cut: Cut) -> tuple[Any, ...]:
    worst = min(cut.found.values(), key=rank)
    return rank(worst)[:2], cut.captured_at, cut.id


@dataclass(frozen=True, slots=True)
class SetRestoreReport:
    """What a restore of a set did.

    Attributes:
        cut: What was restored.
        target: The directory; each member is in a folder of its own there.
        members: Each member's own report, of those that were begun.
        errors: Why a member could not be restored.
        dry_run: Whether it was only said.
    """

    cut: Cut
    target: str
    members: Mapping[str, RestoreReport]
    errors: Mapping[str, BackupError]
    dry_run: bool

    @property
    def ok(self) -> bool:
        """Whether every member is there, whole."""
        return not self.errors and all(
            key in self.members and self.members[key].ok for key in self.cut.members
        )

    def to_json(self) -> dict[str, Any]:
        """Fields by name, each member's report below ``members``."""
        return {
            "ok": self.ok,
            **{key: self.cut.to_json()[key] for key in ("set", "cut", "day", "proof", "timing")},
            "target": self.target,
            "dry_run": self.dry_run,
            "members": {key: one.to_json() for key, one in self.members.items()},
            "errors": {key: str(error) for key, error in self.errors.items()},
        }


class SetReader(Reader):
    """All that ``Reader`` can do, and what there is to read of consistent sets."""

    def _members(self, name: str) -> Sequence[str] | None:
        """The datasets that a set is declared to have; None where nothing is declared."""
        return None

    def sets(self) -> list[str]:
        """Names of the sets that the snapshots tell of."""
        names = {one.cut["set"] for one in self.snapshots() if one.cut is not None}
        return sorted(names)

    def cuts(self, name: str, tier: str | None = None, *, day: date | None = None) -> list[Cut]:
        """The cuts of a set, whole or not, by day and time.

        Without a tier, a member may lie in any tier: its snapshots of one cut are alike in all.

        Args:
            name: The set's.
            tier: Look in this tier alone.
            day: Of this day alone.

        Raises:
            UsageError: There is no such set.
            NotFound, WrongKey: There is nothing to look into.
        """
        declared = self._members(name)
        keys = list(declared if declared is not None else self.datasets())
        snapshots = [one for key in keys for one in self._seen(key, tier)]
        cuts = gather_cuts(name, snapshots)
        # A cut that was taken when the set had other members is whole with those.
        others = {key for one in cuts for key in one.members} - set(keys)
        known = others.intersection(self.datasets()) if others else set[str]()
        if known:
            snapshots += [one for key in sorted(known) for one in self._seen(key, tier)]
            cuts = gather_cuts(name, snapshots)
        if declared is None and not cuts:
            named = sorted({one.cut["set"] for one in snapshots if one.cut is not None})
            raise UsageError(
                f"there is no set {name!r}", f"sets: {', '.join(named) or 'none was captured'}"
            )
        return [one for one in cuts if day in (None, one.day)]

    def _seen(self, dataset: str, tier: str | None) -> list[Snapshot]:
        """A dataset's snapshots as far as its tiers can be asked; the rest is a notice."""
        try:
            found = self.repositories(dataset, tier)
        except UsageError:
            raise
        except BackupError as error:
            self._notice(f"{dataset} could not be asked: {error.message}")
            return []
        return [one for repository in found for one in repository.snapshots()]

    def find_cut(
        self,
        name: str,
        *,
        tier: str | None = None,
        day: date | None = None,
        at: datetime | None = None,
    ) -> Cut:
        """The best whole cut of a day, or the newest that was taken by a time, or of all.

        Raises:
            NotFound: There is none; the error says which members are missing.
            UsageError: There is no such set, or a day and a time are both given.
        """
        if day is not None and at is not None:
            raise UsageError("day and time each select a cut", "give one of them")
        cuts = self.cuts(name, tier)
        chosen = [
            one
            for one in cuts
            if (day is None or one.day == day) and (at is None or one.captured_at <= at)
        ]
        whole = list(best_cuts(chosen).values()) if day else [one for one in chosen if one.whole]
        if whole:
            return max(whole, key=lambda one: (one.captured_at, one.id))
        raise self._no_cut(name, tier, day, at, cuts, chosen)

    def _no_cut(
        self,
        name: str,
        tier: str | None,
        day: date | None,
        at: datetime | None,
        cuts: Sequence[Cut],
        chosen: Sequence[Cut],
    ) -> NotFound:
        where = f"set {name} in tier {tier}" if tier else f"set {name}"
        which = f" of {day}" if day else f" read at or before {at.isoformat()}" if at else ""
        days = sorted(best_cuts(cuts))
        there = f"days with a whole cut: {describe_days(days, day)}"
        if chosen:
            newest = max(chosen, key=lambda one: (len(one.found), one.captured_at))
            lacks = ", ".join(newest.missing)
            return NotFound(f"{where} has no whole cut{which}: {lacks} is missing from it", there)
        return NotFound(f"{where} has no cut{which}", there)

    def restore_set(
        self,
        name: str,
        to: str | Path,
        *,
        tier: str | None = None,
        day: date | None = None,
        at: datetime | None = None,
        dry_run: bool = False,
    ) -> SetRestoreReport:
        """Restore all members of one whole cut, each into a folder of its own below a directory.

        What is damaged in a member's tier is had from its other tiers. One member that fails does
        not keep the others back; the report is then not ``ok``.

        Args:
            name: The set's.
            to: The directory; ``<to>/<dataset>`` is made for each member.
            tier: Take every member from this tier.
            day: As ``find_cut`` takes it, as is ``at``.
            dry_run: Only say what would be written.

        Raises:
            NotFound: There is no whole cut; nothing was written.
        """
        cut = self.find_cut(name, tier=tier, day=day, at=at)
        reports: dict[str, RestoreReport] = {}
        errors: dict[str, BackupError] = {}
        for key in cut.members:
            one = cut.found[key]
            try:
                reports[key] = self.restore(
                    key, Path(to) / key, tier=one.tier, snapshot=one.id, dry_run=dry_run
                )
            except BackupError as error:
                errors[key] = error
        return SetRestoreReport(cut, str(to), reports, errors, dry_run)

    def _cut_in(self, repository: Repository, cut: Cut, dataset: str) -> Snapshot | None:
        """A member's good snapshot of a cut in one repository."""
        return next(
            (
                one
                for one in reversed(repository.snapshots())
                if one.cut is not None
                and (one.cut["id"], one.day, one.dataset) == (cut.id, cut.day, dataset)
                and is_good(one)
            ),
            None,
        )

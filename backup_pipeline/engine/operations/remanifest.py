"""Writes manifests anew that are lost here and whole in a sibling's snapshot of the same.

What a lost segment said follows from what it must add to the segments that are left, so that each
snapshot lists exactly the sibling's entries. A segment is replaced only if that is shown for every
live snapshot that lists it: one that nobody can vouch for stays refused, and never restores less
than it stood for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from backup_pipeline.engine.errors import DamageError, StoreError
from backup_pipeline.engine.format.manifest import check_rows, manifest_schema, merge
from backup_pipeline.engine.format.record import Segment, Snapshot
from backup_pipeline.engine.operations.committing import deleted_rows, paths_and_sizes
from backup_pipeline.engine.operations.compare import lacking, same_rows
from backup_pipeline.engine.operations.donors import Donors
from backup_pipeline.engine.repository import Repository

__all__ = ["Recovery", "recover_segments"]

MOST_ROUNDS = 20


@dataclass(slots=True)
class Recovery:
    """What came of the search for lost segments.

    Attributes:
        rows: Rows that stand for a segment, by its name; chunks where the sibling has them.
        tiers: Where they are from, by name.
        failed: Why a segment stays lost, by name.
        lost: Live snapshots that neither this tier nor any other can list any more.
    """

    rows: dict[str, pa.Table] = field(default_factory=dict[str, pa.Table])
    tiers: dict[str, str] = field(default_factory=dict[str, str])
    failed: dict[str, str] = field(default_factory=dict[str, str])
    lost: list[Snapshot] = field(default_factory=list[Snapshot])


@dataclass(slots=True)
class _Affected:
    """A live snapshot that lists a lost segment.

    Attributes:
        wanted: A sibling's entries of the same snapshot; None where no sibling has it.
        tier: That sibling's.
    """

    snapshot: Snapshot
    wanted: pa.Table | None
    tier: str


def recover_segments(repository: Repository, donors: Donors, names: Sequence[str]) -> Recovery:
    """Find rows that stand for lost segments.

    Args:
        repository: Where they are lost.
        donors: Who may have snapshots of the same.
        names: SHA-256 (hex) of the segments as snapshots list them.
    """
    return _Search(repository, donors, set(names)).run()


class _Search:
    def __init__(self, repository: Repository, donors: Donors, names: set[str]) -> None:
        self.repository = repository
        self.donors = donors
        self.names = names
        self.listed: dict[str, Segment] = {}
        self.read: dict[str, pa.Table] = {}
        self.found = Recovery()
        self.mixed: set[str] = set()  # whose rows may be another lost segment's

    def run(self) -> Recovery:
        affected: list[_Affected] = []
        for snapshot in self.repository.snapshots():
            mine = [one for one in snapshot.segments if one.name in self.names]
            self.listed.update({one.name: one for one in mine})
            if mine:
                affected.append(_Affected(snapshot, *self._wanted(snapshot)))
        self.found.lost = [one.snapshot for one in affected if one.wanted is None]
        self.found.rows = {name: manifest_schema().empty_table() for name in self.names}
        for _ in range(MOST_ROUNDS):
            added = [self._add_what_lacks(one) for one in affected if one.wanted is not None]
            if not any(added):
                break
        self._refuse_unproved(affected)
        return self.found

    def _wanted(self, snapshot: Snapshot) -> tuple[pa.Table | None, str]:
        for sibling, other in self.donors.counterparts(snapshot):
            try:
                return sibling.manifest(other).table, sibling.tier
            except (DamageError, StoreError) as error:
                self.donors.note(f"tier {sibling.tier} could not help: {error.message}")
        return None, ""

    def _merged(self, snapshot: Snapshot) -> pa.Table:
        """A snapshot's entries as its readable segments and the rows found so far make them."""
        return merge([self._rows(segment) for segment in snapshot.segments])

    def _rows(self, segment: Segment) -> pa.Table:
        if segment.name in self.names:
            return self.found.rows[segment.name]
        if segment.name not in self.read:
            self.read[segment.name] = self.repository.segment(segment)
        return self.read[segment.name]

    def _add_what_lacks(self, one: _Affected) -> bool:
        """Add to the newest lost segment of a snapshot what its entries lack; whether anything."""
        assert one.wanted is not None
        merged = self._merged(one.snapshot)
        same, _ = same_rows(one.wanted, merged)
        wrong = one.wanted.filter(pa.array(~same))
        extra = list(paths_and_sizes(lacking(merged, one.wanted)))
        if not len(wrong) and not extra:
            return False
        lost = [segment.name for segment in one.snapshot.segments if segment.name in self.names]
        name = lost[-1]
        if len(lost) > 1:
            self.mixed.add(name)
        rows = merge([wrong, deleted_rows(extra)], keep_deleted=True)
        self.found.rows[name] = merge([self.found.rows[name], rows], keep_deleted=True)
        self.found.tiers[name] = one.tier
        return True

    def _refuse_unproved(self, affected: Sequence[_Affected]) -> None:
        """Keep rows of segments alone that are right for every snapshot that lists them."""
        for one in affected:
            mine = [segment for segment in one.snapshot.segments if segment.name in self.names]
            what = f"snapshot {one.snapshot.id[:12]} of {one.snapshot.day}"
            if one.wanted is None:
                why = None if self._is_whole(mine) else f"no other tier can list {what}"
            else:
                merged = self._merged(one.snapshot)
                same, known = same_rows(one.wanted, merged)
                right = same.all() and known.all() and len(merged) == len(one.wanted)
                why = None if right else f"{what} would not be as tier {one.tier} has it"
            if why is not None:
                self.found.failed.update({segment.name: why for segment in mine})
            elif one.wanted is None:
                self.found.lost = [s for s in self.found.lost if s is not one.snapshot]
        # What shares a snapshot with a segment that stays lost helps nobody yet, and harms none.
        for name in self.names - self.found.failed.keys():
            try:
                check_rows(self.found.rows[name], name)
            except DamageError as error:
                self.found.failed[name] = error.message
        for name in self.found.failed:
            self.found.rows.pop(name, None)
        for name in [name for name in self.found.rows if name not in self.listed]:
            del self.found.rows[name]

    def _is_whole(self, segments: Sequence[Segment]) -> bool:
        """Whether the one lost segment of a snapshot was found row for row.

        A row that was found is one that the segment must have had; if they are as many as it had,
        they are all of it.
        """
        [first, *more] = segments
        found = self.found.rows[first.name]
        return not more and first.name not in self.mixed and len(found) == first.rows

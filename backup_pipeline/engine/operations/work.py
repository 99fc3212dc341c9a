"""A run that writes a snapshot: what it is fixed to at its beginning, and its end."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from typing import Any

import pyarrow as pa

from backup_pipeline import __version__
from backup_pipeline.engine.format.manifest import manifest_schema
from backup_pipeline.engine.format.record import Snapshot
from backup_pipeline.engine.operations.committing import Changes, NewRows, begin_run, commit
from backup_pipeline.engine.repository import Repository

__all__ = ["Prepared", "Work"]


class Work:
    """One run of ``backup`` or ``copy``.

    Args:
        repository: Where to.
        operation: ``backup`` or ``copy``.
        kind: ``full``, ``incremental`` or ``differential``.
        parent: What an incremental refers to.
        base: The full that the chain began with.
        day: The day that the snapshot stands for.
        timing: ``exact``, ``on-time`` or ``late``.
        clock: Gives the times that the snapshot says.

    Attributes:
        repository: Where to.
        day: The day that the snapshot stands for.
        reference: What the snapshot inherits from; None for a full.
        run: What the run is fixed to.
        changes: What changed, as far as rows were kept.
    """

    def __init__(
        self,
        repository: Repository,
        operation: str,
        kind: str,
        parent: Snapshot | None,
        base: Snapshot | None,
        day: date,
        timing: str,
        clock: Callable[[], datetime],
    ) -> None:
        self.repository = repository
        self.reference = {"incremental": parent, "differential": base}.get(kind)
        self.changes = Changes()
        self._kind = kind
        self._parent = parent
        self._base = base
        self.day = day
        self._timing = timing
        self._clock = clock
        self._started_at = clock()
        # Counted as the caller saw them who chose parent and base, then brought up to date.
        self._known_condemnation = repository.state.newest_condemnation
        repository.refresh()
        self.run = begin_run(
            repository,
            operation=operation,
            kind=kind,
            parent=parent,
            base=base,
            day=day,
            now=self._started_at,
        )
        self._new = NewRows(repository, whole=self.reference is None)

    def keep(self, rows: pa.Table, older: pa.Table | None) -> Any:
        """Count what changed, and keep the rows that the snapshot does not inherit.

        Args:
            rows: The next ones in order of path.
            older: What the snapshot before has of them.

        Returns:
            The mask of the rows that are as they were.
        """
        if older is None:
            older = manifest_schema().empty_table()
        same = self.changes.note_rows(rows, older)
        self._new.add(rows if self.reference is None else rows.filter(pa.array(~same)))
        return same

    def commit(
        self,
        deleted: Sequence[tuple[bytes, int]],
        *,
        wrote_packs: bool,
        stored_bytes: int,
        **said: Any,
    ) -> Snapshot:
        """Store the rows and commit the snapshot; it is restorable from then on.

        Args:
            deleted: As ``prepare`` takes it, and all else.
        """
        prepared = self.prepare(deleted, wrote_packs=wrote_packs, stored_bytes=stored_bytes, **said)
        return prepared.commit()

    def prepare(
        self,
        deleted: Sequence[tuple[bytes, int]],
        *,
        wrote_packs: bool,
        stored_bytes: int,
        anomaly: Callable[[str], Mapping[str, Any] | None],
        **said: Any,
    ) -> Prepared:
        """Store the rows; all but the record that commits the snapshot is durable from then on.

        Args:
            deleted: Path and bytes of entries that are there no more.
            wrote_packs: Whether packs of this run are in the store.
            stored_bytes: Of these packs.
            anomaly: What the record says of anomalies, given the snapshot's id.
            said: All else that the snapshot says.
        """
        self.changes.note("deleted", deleted)
        if self.reference is not None:
            segments, segment_bytes = self._new.store(self.reference.segments, deleted)
        else:
            segments, segment_bytes = self._new.store(())
        repository = self.repository
        identity = secrets.token_hex(16)
        snapshot = Snapshot(
            id=identity,
            dataset=repository.dataset,
            tier=repository.tier,
            day=self.day,
            kind=self._kind,
            chain=self.run.chain,
            parent=self._parent.id if self._parent else None,
            base=self._base.id if self._base else None,
            run=self.run.id.hex() if wrote_packs or self.run.taken_up else "",
            started_at=self._started_at,
            finished_at=self._clock(),
            timing=self._timing,
            stored_bytes=stored_bytes + segment_bytes,
            segments=segments,
            changes=self.changes.to_json(),
            deployment=repository.deployment,
            writer=__version__,
            anomaly=anomaly(identity),
            **said,
        )
        return Prepared(repository, snapshot, self._known_condemnation, self._clock)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A snapshot of which everything is stored but the record that commits it.

    Given up, it costs nothing: the next run of the same work takes its packs up again.

    Attributes:
        repository: Where.
        snapshot: As it would be; it is none before ``commit``.
    """

    repository: Repository
    snapshot: Snapshot
    _known_condemnation: int
    _clock: Callable[[], datetime]

    def commit(self, cut: Mapping[str, Any] | None = None) -> Snapshot:
        """Append the record; the snapshot is restorable from then on.

        Args:
            cut: What the record says of the consistent set that it is a member of.

        Raises:
            Conflict: A prune condemned what this snapshot refers to.
        """
        snapshot = self.snapshot
        if cut is not None:
            snapshot = replace(snapshot, cut=cut, finished_at=self._clock())
        return commit(self.repository, snapshot, self._known_condemnation)

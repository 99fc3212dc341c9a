"""The end of a run that writes: segments, totals, and the record that commits the snapshot."""

from __future__ import annotations

import heapq
import secrets
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from backup_pipeline.engine.chunk_index import ChunkIndex
from backup_pipeline.engine.errors import Conflict, DamageError
from backup_pipeline.engine.format.manifest import (
    DELETED,
    SegmentEncoder,
    SegmentFile,
    check_rows,
    manifest_schema,
    merge_batches,
    segments_to_merge,
)
from backup_pipeline.engine.format.pack import (
    RUN_BYTES,
)
from backup_pipeline.engine.format.record import (
    DIGEST_BYTES,
    Segment,
    Snapshot,
    is_hex,
    to_iso,
)
from backup_pipeline.engine.manifest import printable
from backup_pipeline.engine.operations.compare import same_rows
from backup_pipeline.engine.repository import Repository

__all__ = [
    "MOST_PROBLEMS",
    "Changes",
    "NewRows",
    "Run",
    "begin_run",
    "commit",
    "deleted_rows",
    "newest_entries",
    "paths_and_sizes",
    "take_up_packs",
]

MOST_PROBLEMS = 100
LARGEST_CHANGES = 10


@dataclass(slots=True)
class Changes:
    """Counts of what changed, and the largest of it."""

    added: int = 0
    changed: int = 0
    deleted: int = 0
    _largest: list[tuple[int, bytes, str]] = field(default_factory=list[tuple[int, bytes, str]])

    def note(self, change: str, entries: Iterable[tuple[bytes, int]]) -> None:
        """Count entries (path, bytes) as ``added``, ``changed`` or ``deleted``."""
        count = 0
        for path, size in entries:
            count += 1
            item = (size, path, change)
            if len(self._largest) < LARGEST_CHANGES:
                heapq.heappush(self._largest, item)
            elif item > self._largest[0]:
                heapq.heapreplace(self._largest, item)
        setattr(self, change, getattr(self, change) + count)

    def note_rows(self, rows: pa.Table, old: pa.Table) -> Any:
        """Count what older rows have not, or have otherwise; the mask of those that are alike."""
        same, known = same_rows(rows, old)
        places = rows.select(["path", "size"])
        self._note_all("added", places.filter(pa.array(~known)))
        self._note_all("changed", places.filter(pa.array(known & ~same)))
        return same

    def _note_all(self, change: str, places: pa.Table) -> None:
        """As ``note``, for what may be a million entries."""
        order = [("size", "descending"), ("path", "descending")]
        largest = places.take(pc.select_k_unstable(places, LARGEST_CHANGES, order))
        self.note(change, paths_and_sizes(largest))
        setattr(self, change, getattr(self, change) + len(places) - len(largest))

    def to_json(self) -> dict[str, Any]:
        """Counts, and the largest changes first."""
        return {
            "added": self.added,
            "changed": self.changed,
            "deleted": self.deleted,
            "largest": [
                {"path": printable(path), "change": change, "bytes": size}
                for size, path, change in sorted(self._largest, reverse=True)
            ],
        }


def paths_and_sizes(rows: pa.Table) -> Iterable[tuple[bytes, int]]:
    """Each row's path and logical bytes."""
    return zip(rows.column("path").to_pylist(), rows.column("size").to_pylist(), strict=True)


def newest_entries(repository: Repository) -> Iterator[pa.Table]:
    """Entries of the snapshot committed last, in batches, to tell what a full changed.

    They end early where its manifest is damaged: a full depends on no other snapshot, and must be
    possible then above all.
    """
    snapshots = repository.snapshots()
    if snapshots:
        with suppress(DamageError):
            yield from repository.segments.entries(snapshots[-1]).batches()


@dataclass(slots=True)
class Run:
    """What a run is fixed to before it stores anything.

    Attributes:
        id: 16 bytes.
        content_key: Seals its packs.
        chain: The chain it belongs to (hex).
        body: Its record.
        taken_up: Whether an interrupted run of the same work is continued.
    """

    id: bytes
    content_key: bytes
    chain: str
    body: dict[str, Any]
    taken_up: bool


def begin_run(
    repository: Repository,
    *,
    operation: str,
    kind: str,
    parent: Snapshot | None,
    base: Snapshot | None,
    day: date,
    now: datetime,
) -> Run:
    """Fix run, chain and key; an interrupted run of the same work is taken up again.

    Nothing is written yet: ``announce_run`` does that before the first pack.
    """
    chain = base.chain if base is not None else None
    if kind == "incremental" and parent is not None:
        chain = parent.chain
    old = repository.state.unfinished_run(
        kind=kind,
        chain=chain,
        parent=parent.id if parent else None,
        base=base.id if base else None,
        operation=operation,
    )
    if old is not None:
        run = bytes.fromhex(old["run"])
        return Run(run, repository.run_key(run), old["chain"], old, True)
    run, key = secrets.token_bytes(RUN_BYTES), secrets.token_bytes(32)
    chain = chain or run.hex()
    body: dict[str, Any] = {
        "type": "run",
        "run": run.hex(),
        "operation": operation,
        "kind": kind,
        "chain": chain,
        "parent": parent.id if parent else None,
        "base": base.id if base else None,
        "day": day.isoformat(),
        "started_at": to_iso(now),
        "wraps": repository.keys.wrap_run_key(run, key),
    }
    return Run(run, key, chain, body, False)


def take_up_packs(repository: Repository, run: Run, index: ChunkIndex) -> None:
    """Enter the packs that the interrupted run left.

    A pack that cannot be read is passed over: its content is written again.
    """
    for name in pack_names_of_run(repository, run.id):
        with suppress(DamageError):
            index.take_up(name, repository.pack_index(name))


def pack_names_of_run(repository: Repository, run: bytes) -> list[bytes]:
    """Packs in the store under a run's folder."""
    names = repository.store.list_names(f"{repository.prefix}packs/{run.hex()}/")
    return [run + bytes.fromhex(name) for name in names if is_hex(name, DIGEST_BYTES)]


def deleted_rows(entries: Sequence[tuple[bytes, int]]) -> pa.Table:
    """Rows that remove entries (path, bytes) of earlier segments."""
    schema, count = manifest_schema(), len(entries)
    columns: dict[str, Any] = {
        "path": pa.array(sorted(path for path, _ in entries), pa.binary()),
        "type": pa.array([DELETED] * count, pa.string()),
        "state": pa.array(["good"] * count, pa.string()),
        "size": pa.array([0] * count, pa.int64()),
    }
    return pa.Table.from_arrays(
        [columns.get(f.name, pa.nulls(count, f.type)) for f in schema], schema=schema
    )


class NewRows:
    """What a run adds to what its snapshot inherits, encoded as it comes, in order of path.

    Args:
        repository: Where it goes.
        whole: Whether it inherits nothing; it is then sealed as it comes, too.
    """

    def __init__(self, repository: Repository, *, whole: bool = False) -> None:
        self._repository = repository
        self._sink = repository.segments.sink() if whole else None
        self._encoder = SegmentEncoder(self._sink)

    def add(self, rows: pa.Table) -> None:
        """Take in the next rows.

        Raises:
            DamageError: They are rows that a reader would refuse.
        """
        check_rows(rows, "of this run")
        self._encoder.add(rows)

    def store(
        self, older: Sequence[Segment], deleted: Sequence[tuple[bytes, int]] = ()
    ) -> tuple[list[Segment], int]:
        """Put them behind older segments, merging small ones.

        Args:
            older: The segments that the snapshot inherits.
            deleted: Path and bytes of entries that it does not keep of these.

        Returns:
            The snapshot's segments, and the bytes written.
        """
        count = self._encoder.rows + len(deleted)
        if not count:
            return list(older), 0
        merging = segments_to_merge([*(segment.rows for segment in older), count]) - 1
        kept, merged = list(older[: len(older) - merging]), older[len(older) - merging :]
        segment = self._store(merged, deleted, keep_deleted=bool(kept))
        return ([*kept, segment], segment.stored) if segment is not None else (kept, 0)

    def _store(
        self, older: Sequence[Segment], deleted: Sequence[tuple[bytes, int]], *, keep_deleted: bool
    ) -> Segment | None:
        segments, file, rows = self._repository.segments, self._encoder.finish(), self._encoder.rows
        if self._sink is not None:
            assert not older and not deleted, "it inherits nothing"
            return segments.store(self._sink, rows)
        assert file is not None, "it went into memory"
        if older or deleted:
            file, rows = self._merge(older, file, deleted, keep_deleted=keep_deleted)
        return segments.put(file, rows) if rows else None

    def _merge(
        self,
        older: Sequence[Segment],
        file: pa.Buffer,
        deleted: Sequence[tuple[bytes, int]],
        *,
        keep_deleted: bool,
    ) -> tuple[pa.Buffer, int]:
        streams = [self._repository.segments.rows(segment).batches(None) for segment in older]
        streams.append(SegmentFile(file, "of this run").batches())
        streams.append(iter([deleted_rows(deleted)] if deleted else []))
        encoder = SegmentEncoder()
        for rows in merge_batches(streams, keep_deleted=keep_deleted):
            encoder.add(rows)
        merged = encoder.finish()
        assert merged is not None, "it went into memory"
        return merged, encoder.rows


def commit(repository: Repository, snapshot: Snapshot, known_condemnation: int) -> Snapshot:
    """Append the snapshot's record; it is restorable from then on.

    Args:
        repository: Where.
        snapshot: What; sequence and digest are filled in.
        known_condemnation: Which condemnation was the newest when the run began.

    Raises:
        Conflict: A prune condemned what this snapshot refers to.
    """

    def recheck() -> None:
        state = repository.state
        if state.newest_condemnation == known_condemnation:
            return
        needs = repository.segments.needs(snapshot.segments)
        lost = sorted(name for name in needs if state.is_condemned(name))
        if lost:
            raise Conflict(
                f"a prune condemned {lost[0]} while {snapshot.dataset} was backed up",
                "run the backup again; it stores that content under a new name",
            )

    repository.refresh()
    recheck()
    record = repository.log.append(snapshot.record_body(), recheck)
    return repository.state.snapshot(record.body["id"])

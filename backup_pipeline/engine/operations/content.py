"""Reading straight out of a snapshot: its folders, its entries, and any range of a file's bytes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from backup_pipeline.engine.errors import DamageError, NotFound
from backup_pipeline.engine.format.record import Snapshot
from backup_pipeline.engine.manifest import printable
from backup_pipeline.engine.operations.assembly import extents
from backup_pipeline.engine.operations.donors import Donors
from backup_pipeline.engine.operations.fallback import Fallback, readable
from backup_pipeline.engine.operations.frames import Fetcher, FramePlan, Loss
from backup_pipeline.engine.operations.rows import COLUMNS, Row, rows_of
from backup_pipeline.engine.repository import Repository

__all__ = ["EntryContent", "SnapshotContent"]

DIRECTORY = "directory"
MOST_HOPS = 40
"""Symbolic links that are followed to one entry, as Linux does."""

_WITH_BYTES = ("file", "object")


class SnapshotContent:
    """What one snapshot holds, to be looked into without restoring it.

    A manifest that cannot be read is had from a sibling's snapshot of the same, and so is a chunk.

    Args:
        repository: Where it is.
        snapshot: Which.
        donors: Who may hold what is lost here.

    Raises:
        DamageError: Its manifest is lost.
    """

    def __init__(
        self, repository: Repository, snapshot: Snapshot, donors: Donors | None = None
    ) -> None:
        found = readable(repository, snapshot, donors)
        self.repository, self.snapshot, self._entries, self._donors, notice = found
        self.notices = [notice] if notice else []
        self._lock = threading.Lock()
        self._fetcher: Fetcher | None = None

    def close(self) -> None:
        """Let go of the threads that fetch."""
        with self._lock:
            fetcher, self._fetcher = self._fetcher, None
        if fetcher is not None:
            fetcher.close()

    def find(self, path: bytes) -> Row:
        """One entry; for a folder that nothing but the paths below it tells of, one made up.

        Raises:
            NotFound: There is none of this path.
        """
        rows = self._rows_at(path)
        if rows is not None:
            return rows_of(rows)[0]
        if next(self._below(path), None) is not None:
            return _made_up(path)
        raise self._not_found(path)

    def follow(self, path: bytes) -> bytes:
        """Where symbolic links lead to, the last part's included, within the snapshot.

        Raises:
            NotFound: They lead out of it, to nothing, or in a circle.
        """
        for _ in range(MOST_HOPS):
            parts = path.split(b"/")
            for count in range(1, len(parts) + 1):
                head = b"/".join(parts[:count])
                row = self._row_or_none(head)
                if row is not None and row.type == "symlink":
                    target = _joined(head, row.link_target or b"")
                    if target is None:
                        raise NotFound(
                            f"{printable(head)} links to {printable(row.link_target or b'')},"
                            " which is not in the snapshot",
                            "restore the snapshot, and read the link there",
                        )
                    path = b"/".join([target, *parts[count:]]).strip(b"/")
                    break
            else:
                return path
        raise NotFound(
            f"{printable(path)} is reached by too many links", "do they lead in circles?"
        )

    def children(self, folder: bytes) -> list[Row]:
        """The entries right below a folder (empty: the root), in order of path."""
        found: dict[bytes, Row] = {}
        start = len(folder) + 1 if folder else 0
        for row in self._below(folder):
            name, slash, _ = row.path[start:].partition(b"/")
            path = row.path[:start] + name
            if not slash:
                found[path] = row
            elif path not in found:
                found[path] = _made_up(path)
        return [found[path] for path in sorted(found)]

    def open(self, path: bytes) -> EntryContent:
        """The content of a file or an object.

        Raises:
            NotFound: There is none of this path, or its bytes were not backed up.
        """
        rows = self._rows_at(path)
        if rows is None:
            raise self._not_found(path)
        [row] = rows_of(rows)
        if row.type not in _WITH_BYTES:
            raise NotFound(f"{printable(path)} is a {row.type} and has no bytes", "name a file")
        if row.state != "good":
            raise NotFound(
                f"{printable(path)} could not be backed up: {row.reason or row.state}",
                "another day's snapshot may have it",
            )
        return EntryContent(self, row, rows)

    def fetcher(self) -> Fetcher:
        """Who fetches; one for all entries."""
        with self._lock:
            if self._fetcher is None:
                self._fetcher = Fetcher(self.repository, tolerant=self._donors is not None)
            return self._fetcher

    def elsewhere(self, lost: list[Loss], row: Row) -> Iterator[tuple[int, Any]]:
        """Place in an entry's content, and bytes, of what was lost here.

        Raises:
            DamageError, StoreError: Nobody else has all of it.
        """
        left = {(loss.piece.at, loss.piece.id) for loss in lost}
        if self._donors is not None:
            # One row is all there is: its pieces are those of row 0.
            fallback = Fallback(self._donors, self.snapshot, self.notices.append)
            ids = {(loss.piece.at): loss.piece.id for loss in lost}
            with self._lock:
                for _, at, content in fallback.pieces(lost, [row]):
                    left.discard((at, ids[at]))
                    yield at, content
        if left:
            first = lost[0].error
            raise DamageError(
                f"{printable(row.path)} cannot be read: {first.message}",
                f"`backup-pipeline repair {self.snapshot.dataset} --tier {self.repository.tier}`"
                " says what can be had elsewhere",
            )

    # -- rows

    def _row_or_none(self, path: bytes) -> Row | None:
        rows = self._rows_at(path)
        return None if rows is None else rows_of(rows)[0]

    def _rows_at(self, path: bytes) -> pa.Table | None:
        wanted = pa.array([path], pa.binary())
        for rows in self._entries.batches(COLUMNS, first=path, last=path):
            found = rows.filter(pc.is_in(rows.column("path"), value_set=wanted))
            if len(found):
                return found
        return None

    def _below(self, folder: bytes) -> Iterator[Row]:
        """All entries below a folder; all there are for the root."""
        first = folder + b"/" if folder else b""
        last = folder + b"0" if folder else None  # the byte behind the slash
        for rows in self._entries.batches(Row._fields, first=first, last=last):
            yield from (row for row in rows_of(rows) if row.path.startswith(first))

    def _not_found(self, path: bytes) -> NotFound:
        return NotFound(
            f"snapshot {self.snapshot.id[:12]} of {self.snapshot.dataset} has no {printable(path)}",
            "`backup-pipeline ls` lists what it has",
        )


class EntryContent:
    """The bytes of one entry, read by ranges; each chunk is compared with its id.

    Attributes:
        size: All of them.
    """

    def __init__(self, snapshot: SnapshotContent, row: Row, rows: pa.Table) -> None:
        self._snapshot = snapshot
        self._row = row
        self.size = row.size
        self._chunks: Any = rows.column("chunks").combine_chunks().flatten()
        sizes = self._chunks.field("size").to_numpy(zero_copy_only=False)
        self._upto = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])

    def read(self, start: int, end: int) -> bytes:
        """Bytes from ``start`` up to ``end`` or the entry's end.

        Raises:
            DamageError: They are damaged, and nobody else has them.
        """
        start, end = max(0, start), min(end, self.size)
        out = bytearray(max(0, end - start))
        for offset, at, length in extents(self._row.holes, 0, int(self._upto[-1])):
            low, high = max(start, offset), min(end, offset + length)
            if low < high:
                place = memoryview(out)[low - start : high - start]
                self._copy(at + low - offset, at + high - offset, place)
        return bytes(out)

    def _copy(self, start: int, end: int, out: memoryview) -> None:
        """Copy a range of the content, which is the entry without its holes."""
        first = int(np.searchsorted(self._upto, start, "right")) - 1
        last = int(np.searchsorted(self._upto, end, "left"))
        shift = int(self._upto[first]) - start

        def put(at: int, content: Any) -> None:
            view = memoryview(content)
            low, high = max(0, at + shift), min(len(out), at + shift + len(view))
            if low < high:
                out[low:high] = view[low - at - shift : high - at - shift]

        part = self._chunks.slice(first, last - first)
        offsets = pa.array([0, len(part)], pa.int32())
        plan = FramePlan(
            pa.Table.from_arrays([pa.ListArray.from_arrays(offsets, part)], ["chunks"])
        )
        lost: list[Loss] = []
        for content in self._snapshot.fetcher().contents(plan):
            for _, at, piece in content.pieces:
                put(at, piece)
            lost += content.lost
        if lost:
            for at, piece in self._snapshot.elsewhere(lost, self._row):
                put(at, piece)


def _made_up(path: bytes) -> Row:
    """A folder that only the paths below it tell of, as below an S3 prefix."""
    rest = [None] * (len(Row._fields) - 5)
    return Row._make([path, DIRECTORY, "good", None, 0, *rest])


def _joined(link: bytes, target: bytes) -> bytes | None:
    """Where a link leads to, as a path of the snapshot; None if that is outside of it."""
    if target.startswith(b"/"):
        return None
    parts = link.split(b"/")[:-1]
    for part in target.split(b"/"):
        if part == b"..":
            if not parts:
                return None
            parts.pop()
        elif part not in (b"", b"."):
            parts.append(part)
    return b"/".join(parts)

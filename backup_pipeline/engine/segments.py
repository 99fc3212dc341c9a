"""A repository's segments: stored once, checked against their names, read whole or in batches."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol, TypeVar

import pyarrow as pa

from backup_pipeline.engine.crypto import sha256_hex
from backup_pipeline.engine.errors import DamageError, ObjectMissing
from backup_pipeline.engine.format.manifest import (
    BATCH_ROWS,
    SegmentFile,
    check_paths,
    check_rows,
    encode_segment,
    merge,
    merge_batches,
)
from backup_pipeline.engine.format.record import Segment, pack_name, pack_name_text
from backup_pipeline.engine.format.sealed import Seal, Sink, Unsealed, open_sealed
from backup_pipeline.engine.replacements import Places, places_in, resolve

if TYPE_CHECKING:
    from backup_pipeline.engine.format.record import Snapshot
    from backup_pipeline.engine.repository import Repository

__all__ = ["CHECKED_COLUMNS", "Entries", "SegmentRows", "Segments", "ahead"]

CHECKED_COLUMNS = ("path", "type", "state", "size", "holes", "chunks")
"""Where all of these are read, all that rows say is held against one another."""

_PACKS_COLUMNS = ("path", "type", "chunks")

T = TypeVar("T")


class Segments:
    """Reads and writes the segments of one repository, with what was replaced put right."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._held: dict[bytes, Places] = {}

    def write(self, rows: pa.Table, origin: str | None = None) -> Segment:
        """Store rows as a new segment; durable on return."""
        return self.put(encode_segment(rows), len(rows), origin)

    def put(self, file: pa.Buffer, rows: int, origin: str | None = None) -> Segment:
        """Store the file of a new segment, of so many rows; durable on return."""
        sink = self.sink()
        sink.write(memoryview(file).cast("B"))
        return self.store(sink, rows, origin)

    def sink(self) -> Sink:
        """Where the file of a new segment can be written to, for ``store``."""
        keys = self._repository.keys
        return Seal(keys) if keys.encrypted else Unsealed()

    def store(self, sink: Sink, rows: int, origin: str | None = None) -> Segment:
        """Store what was written to a sink, of so many rows; durable on return."""
        stored = sink.finish()
        name = sha256_hex(*stored)
        self._repository.store.put(self._repository.segment_path(name), stored)
        size_bytes = sum(map(len, stored))
        return Segment(name, sink.size_bytes, size_bytes, rows, None, origin)

    def open(self, segment: Segment) -> SegmentFile:
        """The file of a segment, after all of its bytes were held against its name.

        Raises:
            DamageError: It is missing or damaged.
        """
        repository = self._repository
        path = repository.segment_path(segment.name)
        try:
            stored = repository.store.get(path)
        except ObjectMissing:
            raise DamageError(f"{path} is missing", "copy the snapshot from another tier") from None
        if sha256_hex(stored) != segment.name:
            raise DamageError(f"{path} does not match its name", "copy it from another tier")
        if repository.keys.encrypted:
            stored = memoryview(open_sealed(repository.keys, stored, path))[: segment.length]
        file = SegmentFile(stored, path)
        if file.rows != segment.rows:
            raise DamageError(f"{path} holds {file.rows} rows, not {segment.rows}")
        return file

    def read(self, segment: Segment, *, seen: Set[str] = frozenset()) -> pa.Table:
        """All rows of a segment; chunks where they lie now."""
        standing = self._standing(segment)
        if standing and segment.name not in seen:
            seen = {*seen, segment.name}
            return merge([self.read(one, seen=seen) for one in standing], keep_deleted=True)
        rows = self.open(segment).read()
        check_rows(rows, self._repository.segment_path(segment.name))
        return resolve(rows, self._replaced(), self._places) if self._replaced() else rows

    def entries(self, snapshot: Snapshot) -> Entries:
        """A snapshot's entries, to be read a batch at a time.

        Raises:
            DamageError: A segment is missing, or its bytes are not those that its name tells.
        """
        return Entries([self.rows(segment) for segment in snapshot.segments])

    def rows(self, segment: Segment) -> SegmentRows:
        """A segment's rows, to be read a batch at a time; chunks where they lie now.

        Raises:
            DamageError: It is missing, or its bytes are not those that its name tells.
        """
        if self._standing(segment) or self._replaced():
            return _HeldRows(self.read(segment))
        return _CheckedRows(self.open(segment), self._repository.segment_path(segment.name))

    def needs(self, segments: Iterable[Segment]) -> set[str]:
        """Names, below the prefix, of all that reading some segments and their bytes may take.

        What was replaced is named beside its replacements: some chunk may be left in it alone.

        Raises:
            DamageError: One of them cannot be read, and nothing stands for it.
        """
        names: set[str] = set()
        waiting = list(segments)
        while waiting:
            segment = waiting.pop()
            if f"manifests/{segment.name}" in names:
                continue
            names.add(f"manifests/{segment.name}")
            standing = self._standing(segment)
            waiting += standing
            if not standing:
                for rows in self.open(segment).batches(_PACKS_COLUMNS):
                    chunks = rows.column("chunks").combine_chunks().flatten()
                    packs = chunks.field("pack").unique().to_pylist()
                    names.update(pack_name_text(name) for name in packs)
        return names | self.standing_packs(names)

    def standing_packs(self, names: Set[str]) -> set[str]:
        """The packs that stand for some of these now, by name; replacements of replacements too."""
        replaced = self._repository.state.replacements
        found: set[str] = set()
        waiting = [name for name in names if name.startswith("packs/") and name in replaced]
        while waiting:
            for name in replaced[waiting.pop()]:
                if name not in found:
                    found.add(name)
                    waiting += [name] if name in replaced else []
        return found

    def read_for(self, segment: Segment, seen: Set[str] = frozenset()) -> list[Segment]:
        """The segments that are read for this one: itself, or those that stand for it now."""
        standing = self._standing(segment)
        if not standing or segment.name in seen:
            return [segment]
        seen = {*seen, segment.name}
        return [leaf for one in standing for leaf in self.read_for(one, seen)]

    def _standing(self, segment: Segment) -> list[Segment]:
        """The segments that stand for this one now; none where it stands for itself."""
        found = self._repository.state.replacements.get(f"manifests/{segment.name}", ())
        return [Segment.from_json(one) for one in found]

    def _replaced(self) -> dict[bytes, list[bytes]]:
        return {
            pack_name(name): [pack_name(other) for other in others]
            for name, others in self._repository.state.replacements.items()
            if name.startswith("packs/")
        }

    def _places(self, name: bytes) -> Places:
        """What a pack holds, by its index; nothing where that cannot be read."""
        if name not in self._held:
            self._held[name] = {}
            with suppress(DamageError):
                self._held[name] = places_in(self._repository.pack_index(name))
        return self._held[name]


class SegmentRows(Protocol):
    """The rows of one segment in order of path."""

    def batches(
        self, columns: Sequence[str] | None, first: bytes = b"", last: bytes | None = None
    ) -> Iterator[pa.Table]:
        """All of them, a batch at a time; at least those with paths from first to last."""
        ...


class _HeldRows:
    """Rows that had to be put right as a whole."""

    def __init__(self, rows: pa.Table) -> None:
        self._rows = rows

    def batches(
        self, columns: Sequence[str] | None, first: bytes = b"", last: bytes | None = None
    ) -> Iterator[pa.Table]:
        rows = self._rows if columns is None else self._rows.select(list(columns))
        return (rows.slice(at, BATCH_ROWS) for at in range(0, len(rows), BATCH_ROWS))


class _CheckedRows:
    """Rows of a file, refused where no writer of this format makes them."""

    def __init__(self, file: SegmentFile, name: str) -> None:
        self._file = file
        self._name = name

    def batches(
        self, columns: Sequence[str] | None, first: bytes = b"", last: bytes | None = None
    ) -> Iterator[pa.Table]:
        before = b""
        check = (
            check_rows if columns is None or set(columns) >= set(CHECKED_COLUMNS) else check_paths
        )
        for rows in self._file.batches(columns, first, last):
            check(rows, self._name)
            paths = rows.column("path")
            if len(paths):
                if paths[0].as_py() <= before:
                    raise DamageError(f"segment {self._name} is not sorted by path")
                before = paths[-1].as_py()
            yield rows


class Entries:
    """The entries of one snapshot, read as often as needed; its files alone are in memory."""

    def __init__(self, segments: Sequence[SegmentRows]) -> None:
        self._segments = segments

    def batches(
        self,
        columns: Sequence[str] | None = None,
        *,
        first: bytes = b"",
        last: bytes | None = None,
    ) -> Iterator[pa.Table]:
        """The entries in order of path, a batch at a time.

        Args:
            columns: Those that are wanted; ``path`` and ``type`` must be among them.
            first: Entries before this path may be left out.
            last: So may those behind this one.

        Raises:
            DamageError: A segment holds what no writer of this format writes.
        """
        return merge_batches([one.batches(columns, first, last) for one in self._segments])


def ahead(items: Iterator[T]) -> Generator[T]:
    """The same items, each made in a thread while the one before is used."""
    with ThreadPoolExecutor(1, "ahead") as pool:
        coming = pool.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = pool.submit(next, items, None)
            yield item

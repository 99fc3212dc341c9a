"""A repository's segments: stored once, checked against their names, read whole or in batches."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

import pyarrow as pa

from backup_pipeline.engine.crypto import Buffer, sha256_hex
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
from backup_pipeline.engine.format.record import Segment, pack_name
from backup_pipeline.engine.format.sealed import open_sealed, seal
from backup_pipeline.engine.replacements import Places, places_in, resolve

if TYPE_CHECKING:
    from backup_pipeline.engine.format.record import Snapshot
    from backup_pipeline.engine.repository import Repository

__all__ = ["Segments", "ahead"]

T = TypeVar("T")


class Segments:
    """Reads and writes the segments of one repository, with what was replaced put right."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._held: dict[bytes, Places] = {}

    def write(self, rows: pa.Table, origin: str | None = None) -> Segment:
        """Store rows as a new segment; durable on return."""
        repository = self._repository
        content = memoryview(encode_segment(rows)).cast("B")
        encrypted = repository.keys.encrypted
        stored: Buffer = seal(repository.keys, content) if encrypted else content
        name = sha256_hex(stored)
        repository.store.put(repository.segment_path(name), stored)
        return Segment(name, len(content), len(stored), len(rows), None, origin)

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

    def entries(
        self, snapshot: Snapshot, columns: Sequence[str] | None = None
    ) -> Iterator[pa.Table]:
        """A snapshot's entries in order of path, a batch at a time; little of it is in memory.

        Args:
            snapshot: Which.
            columns: Those that are wanted; ``path`` and ``type`` must be among them.

        Raises:
            DamageError: A segment is missing or damaged: before the first batch, as far as its
                name tells.
        """
        return merge_batches([self.batches(segment, columns) for segment in snapshot.segments])

    def batches(self, segment: Segment, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """The rows of a segment in order, a batch at a time; raises as ``entries`` does."""
        if self._standing(segment) or self._replaced():
            rows = self.read(segment)
            rows = rows if columns is None else rows.select(list(columns))
            return _pieces(rows)
        name = self._repository.segment_path(segment.name)
        return _checked(self.open(segment).batches(columns), name, whole=columns is None)

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


def _pieces(rows: pa.Table) -> Iterator[pa.Table]:
    return (rows.slice(at, BATCH_ROWS) for at in range(0, len(rows), BATCH_ROWS))


def _checked(batches: Iterator[pa.Table], name: str, *, whole: bool) -> Iterator[pa.Table]:
    """The same batches, refused where no writer of this format makes them."""
    last = b""
    for rows in batches:
        (check_rows if whole else check_paths)(rows, name)
        paths = rows.column("path")
        if len(paths):
            if paths[0].as_py() <= last:
                raise DamageError(f"segment {name} is not sorted by path")
            last = paths[-1].as_py()
        yield rows


def ahead(items: Iterator[T]) -> Generator[T]:
    """The same items, each made in a thread while the one before is used."""
    with ThreadPoolExecutor(1, "ahead") as pool:
        coming = pool.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = pool.submit(next, items, None)
            yield item

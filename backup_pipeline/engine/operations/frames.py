"""Which frames of which packs hold the chunks of some rows, and fetching them in few requests."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import zstandard

from backup_pipeline.engine.chunker import decompress
from backup_pipeline.engine.crypto import Buffer, Sealer
from backup_pipeline.engine.errors import DamageError, ObjectMissing
from backup_pipeline.engine.format.pack import FRAMES_START, MOST_FRAME_BYTES, frame_binding
from backup_pipeline.engine.repository import Repository

__all__ = ["Fetch", "FetchedFrame", "FramePlan", "Piece", "open_frame"]

FETCH_BYTES = 8 * 1024 * 1024  # at most so much is read in one request
SLICE_PIECES = 16384
GAP_BYTES = 64 * 1024  # frames this near to each other are read in one request


class Piece(NamedTuple):
    """One chunk's place in one entry.

    Attributes:
        row: The entry, by its row.
        at: Where it lies in the entry's content, in bytes (holes not counted).
        inner: Where it lies in the raw frame.
        size: Its bytes.
        id: What it must hash to.
    """

    row: int
    at: int
    inner: int
    size: int
    id: bytes


class FetchedFrame(NamedTuple):
    """A frame that is wanted, with the pieces wanted of it."""

    ordinal: int
    offset: int
    stored: int
    raw: int
    pieces: tuple[Piece, ...]


@dataclass(frozen=True, slots=True)
class Fetch:
    """One request: neighbouring frames of one pack, ascending by offset."""

    pack: bytes
    offset: int
    length: int
    frames: tuple[FetchedFrame, ...]


class FramePlan:
    """The frames that hold the chunks of a manifest's rows.

    Args:
        rows: Manifest rows; ``chunks`` is all that is looked at.
    """

    def __init__(self, rows: pa.Table) -> None:
        lists = rows.column("chunks").combine_chunks()
        self._flat: Any = lists.flatten()
        counts = lists.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
        self._row = np.repeat(np.arange(len(lists)), counts)
        names = self._flat.field("pack").dictionary_encode()
        self.packs: list[bytes] = names.dictionary.to_pylist()
        self._pack = names.indices.to_numpy(zero_copy_only=False)

        def numbers(name: str) -> Any:
            return self._flat.field(name).to_numpy(zero_copy_only=False)

        self._ordinal, self._offset = numbers("ordinal"), numbers("offset")
        self._stored, self._raw = numbers("stored"), numbers("raw")
        self._inner, self._size = numbers("inner"), numbers("size")
        ends = np.cumsum(self._size, dtype=np.int64)
        firsts = np.concatenate([[0], np.cumsum(counts)[:-1]]) if len(counts) else counts
        before = np.concatenate([[0], ends])[firsts] if len(counts) else ends
        self._at = ends - self._size - np.repeat(before, counts)
        self._order = np.lexsort((self._inner, self._ordinal, self._pack))
        self.content_bytes = int(self._size.sum())
        self._ids: Any = self._flat.field("id")

    def __len__(self) -> int:
        return len(self._row)

    def stored_bytes(self) -> int:
        """Sealed bytes of all wanted frames, each counted once."""
        if not len(self._row):
            return 0
        key = self._pack.astype(np.int64) << 32 | self._ordinal
        _, first = np.unique(key, return_index=True)
        return int(self._stored[first].sum())

    def frames(self) -> Iterator[tuple[bytes, FetchedFrame]]:
        """Wanted frames in order of pack and offset.

        Raises:
            DamageError: A row's chunk lies outside of its frame.
        """
        pieces: list[Piece] = []
        current: tuple[int, int, int, int, int] | None = None
        for pack, ordinal, offset, stored, raw, row, at, inner, size, identity in self._pieces():
            frame = (pack, ordinal, offset, stored, raw)
            if frame != current:
                if current is not None:
                    yield self.packs[current[0]], FetchedFrame(*current[1:], tuple(pieces))
                current, pieces = frame, []
                if raw > MOST_FRAME_BYTES or offset < FRAMES_START:
                    raise DamageError(f"the manifest names an impossible frame at {offset}")
            if inner + size > raw:
                raise DamageError("the manifest names a chunk outside of its frame")
            pieces.append(Piece(row, at, inner, size, identity))
        if current is not None:
            yield self.packs[current[0]], FetchedFrame(*current[1:], tuple(pieces))

    def _pieces(self) -> Iterator[tuple[Any, ...]]:
        """All columns of every piece in order, made into Python's numbers slice by slice."""
        columns = (
            self._pack,
            self._ordinal,
            self._offset,
            self._stored,
            self._raw,
            self._row,
            self._at,
            self._inner,
            self._size,
        )
        for start in range(0, len(self._order), SLICE_PIECES):
            order = self._order[start : start + SLICE_PIECES]
            ids = self._ids.take(pa.array(order)).to_pylist()
            yield from zip(*(column[order].tolist() for column in columns), ids, strict=True)

    def fetches(self) -> Iterator[Fetch]:
        """The same, gathered into requests."""
        pack: bytes | None = None
        batch: list[FetchedFrame] = []
        for name, frame in self.frames():
            if batch and (
                name != pack
                or frame.offset > batch[-1].offset + batch[-1].stored + GAP_BYTES
                or frame.offset + frame.stored - batch[0].offset > FETCH_BYTES
            ):
                assert pack is not None
                yield _fetch(pack, batch)
                batch = []
            pack = name
            batch.append(frame)
        if batch and pack is not None:
            yield _fetch(pack, batch)


def _fetch(pack: bytes, frames: list[FetchedFrame]) -> Fetch:
    start = frames[0].offset
    end = max(frame.offset + frame.stored for frame in frames)
    return Fetch(pack, start, end - start, tuple(frames))


def fetch_bytes(repository: Repository, fetch: Fetch) -> memoryview:
    """The sealed bytes of a request.

    Raises:
        DamageError: The pack is missing or too short.
    """
    path = repository.pack_path(fetch.pack)
    try:
        return memoryview(repository.store.get(path, fetch.offset, fetch.length))
    except ObjectMissing:
        raise DamageError(f"{path} is missing") from None


def open_frame(
    repository: Repository,
    sealer: Sealer,
    pack: bytes,
    sealed: Buffer,
    ordinal: int,
    raw: int,
    decompressor: zstandard.ZstdDecompressor,
) -> Buffer:
    """The raw content of one frame.

    Raises:
        DamageError: It is not what was sealed.
    """
    bound = frame_binding(repository.keys.dataset_id, ordinal)
    try:
        packed = sealer.open(ordinal, sealed, bound)
        return decompress(packed, raw, decompressor)
    except DamageError as error:
        raise DamageError(
            f"frame {ordinal} of {repository.pack_path(pack)}: {error.message}"
        ) from None

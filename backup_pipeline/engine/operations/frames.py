"""Which frames of which packs hold the chunks of some rows, and fetching them in few requests."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Set
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from operator import itemgetter
from typing import Any, NamedTuple, Self

import numpy as np
import pyarrow as pa
import zstandard
from blake3 import blake3

from backup_pipeline.engine.chunker import decompress
from backup_pipeline.engine.crypto import Buffer, Sealer
from backup_pipeline.engine.errors import (
    BackupError,
    DamageError,
    ObjectMissing,
    StoreError,
    StoreUnavailable,
)
from backup_pipeline.engine.format.pack import (
    FRAMES_START,
    ID_BYTES,
    MOST_FRAME_BYTES,
    frame_binding,
)
from backup_pipeline.engine.operations.packing import thread_count
from backup_pipeline.engine.repository import Repository

__all__ = [
    "Content",
    "Fetch",
    "FetchedFrame",
    "Fetcher",
    "FramePlan",
    "Loss",
    "Piece",
    "open_frame",
]

FETCH_BYTES = 8 * 1024 * 1024  # at most so much is read in one request
UNFOLDED_BYTES = 4 * 1024 * 1024  # of more than one frame in a request
FAR_UNFOLDED_BYTES = 8 * 1024 * 1024  # the same, where each request has far to go
_PLACE = itemgetter(0, 1)
GAP_BYTES = 64 * 1024  # frames this near to each other are read in one request
MOST_FAILURES = 3  # of requests one after another; the store is not asked any more then


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

    Attributes:
        packs: Names of the packs.
        row_bytes: Bytes of content of each row.
        content_bytes: Bytes of content of all of them.
    """

    def __init__(self, rows: pa.Table) -> None:
        lists = rows.column("chunks").combine_chunks()
        flat: Any = lists.flatten()
        counts = lists.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
        names = flat.field("pack").dictionary_encode()
        self.packs: list[bytes] = names.dictionary.to_pylist()
        pack = names.indices.to_numpy(zero_copy_only=False)

        def numbers(name: str) -> Any:
            return flat.field(name).to_numpy(zero_copy_only=False)

        ordinal, inner, size = numbers("ordinal"), numbers("inner"), numbers("size")
        upto = np.concatenate([[0], np.cumsum(size, dtype=np.int64)])
        last = np.cumsum(counts)
        before = upto[last - counts]
        self.row_bytes: list[int] = (upto[last] - before).tolist()
        self.content_bytes = int(upto[-1])
        order = np.lexsort((inner, ordinal, pack))
        at = upto[:-1] - np.repeat(before, counts)
        row = np.repeat(np.arange(len(lists)), counts)
        self._pieces = tuple(column[order] for column in (row, at, inner, size))
        self._ids = _joined(flat.field("id").take(pa.array(order)))
        frame = (pack, ordinal, numbers("offset"), numbers("stored"), numbers("raw"))
        self._frames = tuple(column[order] for column in frame)
        self._starts = _starts(self._frames)

    def __len__(self) -> int:
        return len(self._pieces[0])

    def leave_out(self, had: Set[tuple[int, int]]) -> None:
        """Want some chunks no more: pairs of a row and where the chunk lies in its content."""
        row, at, _, _ = self._pieces
        pairs = zip(row.tolist(), at.tolist(), strict=True)
        keep = np.flatnonzero([pair not in had for pair in pairs])
        self._pieces = tuple(column[keep] for column in self._pieces)
        self._ids = b"".join(self._ids[n * ID_BYTES : (n + 1) * ID_BYTES] for n in keep.tolist())
        self._frames = tuple(column[keep] for column in self._frames)
        self._starts = _starts(self._frames)

    def stored_bytes(self) -> int:
        """Sealed bytes of all wanted frames, each counted once."""
        return int(self._frames[3][self._starts].sum())

    def frames(self) -> Iterator[tuple[bytes, FetchedFrame]]:
        """Wanted frames in order of pack and offset.

        Raises:
            DamageError: A row's chunk lies outside of its frame.
        """
        self._refuse_impossible()
        for start, end in pairwise([*self._starts.tolist(), len(self)]):
            pack, ordinal, offset, stored, raw = (int(column[start]) for column in self._frames)
            columns = (column[start:end].tolist() for column in self._pieces)
            ids = (self._ids[i * ID_BYTES : (i + 1) * ID_BYTES] for i in range(start, end))
            pieces = tuple(map(Piece, *columns, ids))
            yield self.packs[pack], FetchedFrame(ordinal, offset, stored, raw, pieces)

    def _refuse_impossible(self) -> None:
        _, _, offset, _, raw = self._frames
        if ((raw > MOST_FRAME_BYTES) | (offset < FRAMES_START)).any():
            raise DamageError("the manifest names an impossible frame")
        _, _, inner, size = self._pieces
        if (inner.astype(np.int64) + size > raw).any():
            raise DamageError("the manifest names a chunk outside of its frame")

    def fetches(self, unfolded_bytes: int) -> Iterator[Fetch]:
        """The same, gathered into requests.

        Args:
            unfolded_bytes: How long the raw frames of one are at most, if there are several.
        """
        pack = b""
        batch: list[FetchedFrame] = []
        raw = 0
        for name, frame in self.frames():
            if batch and (
                name != pack
                or frame.offset > batch[-1].offset + batch[-1].stored + GAP_BYTES
                or frame.offset + frame.stored - batch[0].offset > FETCH_BYTES
                or raw + frame.raw > unfolded_bytes
            ):
                yield _fetch(pack, batch)
                batch, raw = [], 0
            pack = name
            batch.append(frame)
            raw += frame.raw
        if batch:
            yield _fetch(pack, batch)


def _starts(columns: tuple[Any, ...]) -> Any:
    """Where in columns of equal length there is another combination of values than before."""
    changes = np.zeros(len(columns[0]), np.bool_)
    changes[:1] = True
    for column in columns:
        changes[1:] |= column[1:] != column[:-1]
    return np.flatnonzero(changes)


def _joined(ids: Any) -> bytes:
    """Values of one width, one behind the other."""
    begin = ids.offset * ID_BYTES
    return bytes(memoryview(ids.buffers()[1])[begin : begin + len(ids) * ID_BYTES])


def _fetch(pack: bytes, frames: list[FetchedFrame]) -> Fetch:
    start = frames[0].offset
    end = max(frame.offset + frame.stored for frame in frames)
    return Fetch(pack, start, end - start, tuple(frames))


class Loss(NamedTuple):
    """A piece that could not be had.

    Attributes:
        row: The entry, by its row.
        piece: The piece.
        frame: The frame that should hold it.
        pack: The pack that should hold the frame.
        error: Why it could not be had.
    """

    row: int
    piece: Piece
    frame: FetchedFrame
    pack: bytes
    error: BackupError


class Content(NamedTuple):
    """What came of a request.

    Attributes:
        pieces: Row, place in the row's content, and the bytes, which are those of the chunk's id;
            in this order, for neighbours are written at once.
        lost: Pieces that this repository does not have any more.
    """

    pieces: list[tuple[int, int, Buffer]]
    lost: list[Loss]


class Fetcher:
    """Fetches, opens and checks what is wanted, some requests ahead of who uses it.

    Args:
        repository: Where it is.
        tolerant: Whether a store that fails is noted as damage is, and not raised.
    """

    def __init__(self, repository: Repository, *, tolerant: bool = False) -> None:
        self._repository = repository
        self._tolerated = (DamageError, StoreError) if tolerant else (DamageError,)
        self._failures = 0
        self._identity_key = repository.keys.identity
        self._local = threading.local()
        self._far = repository.store.readers > 1
        self._threads = max(thread_count(), repository.store.readers)
        self._pool = ThreadPoolExecutor(self._threads, "fetch")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End its threads."""
        self._pool.shutdown(cancel_futures=True)

    def contents(self, plan: FramePlan) -> Iterator[Content]:
        """What came of each request, in their order; damage is noted, and not raised."""
        coming: deque[Future[Content]] = deque()
        for fetch in plan.fetches(FAR_UNFOLDED_BYTES if self._far else UNFOLDED_BYTES):
            coming.append(self._pool.submit(self._content, fetch))
            if len(coming) > self._threads + 1:
                yield coming.popleft().result()
        while coming:
            yield coming.popleft().result()

    def _content(self, fetch: Fetch) -> Content:
        content = Content([], [])
        self._open(fetch, content)
        content.pieces.sort(key=_PLACE)
        return content

    def _open(self, fetch: Fetch, content: Content) -> None:
        try:
            sealed = self._sealed(fetch)
            sealer = self._repository.pack_sealer(fetch.pack)
        except self._tolerated as error:
            if len(fetch.frames) == 1 or isinstance(error, StoreError):
                for frame in fetch.frames:
                    _lose(content, fetch.pack, frame, error)
                return
            for frame in fetch.frames:  # of a pack that was cut short, some may still be had
                self._open(Fetch(fetch.pack, frame.offset, frame.stored, (frame,)), content)
            return
        for frame in fetch.frames:
            start = frame.offset - fetch.offset
            part = sealed[start : start + frame.stored]
            try:
                raw = self._frame(sealer, fetch.pack, part, frame)
            except DamageError as error:
                _lose(content, fetch.pack, frame, error)
                continue
            self._check(fetch.pack, frame, memoryview(raw), content)

    def _sealed(self, fetch: Fetch) -> memoryview:
        if self._failures >= MOST_FAILURES:
            raise StoreUnavailable(f"{self._repository.store.url} failed {MOST_FAILURES} times")
        try:
            sealed = self._read(fetch)
        except DamageError:
            self._failures = 0
            raise
        except StoreError:
            self._failures += 1
            raise
        self._failures = 0
        return sealed

    def _read(self, fetch: Fetch) -> memoryview:
        path = self._repository.pack_path(fetch.pack)
        try:
            if self._far or fetch.length > FETCH_BYTES:  # only files are read into a buffer
                return memoryview(self._repository.store.get(path, fetch.offset, fetch.length))
            buffer: bytearray | None = getattr(self._local, "buffer", None)
            if buffer is None:
                buffer = self._local.buffer = bytearray(FETCH_BYTES)
            sealed = memoryview(buffer)[: fetch.length]
            self._repository.store.get_into(path, fetch.offset, sealed)
            return sealed
        except ObjectMissing:
            raise DamageError(f"{path} is missing") from None

    def _frame(self, sealer: Sealer, pack: bytes, sealed: Buffer, frame: FetchedFrame) -> Buffer:
        zstd = getattr(self._local, "zstd", None)
        if zstd is None:
            zstd = self._local.zstd = zstandard.ZstdDecompressor()
        return open_frame(self._repository, sealer, pack, sealed, frame.ordinal, frame.raw, zstd)

    def _check(self, pack: bytes, frame: FetchedFrame, raw: memoryview, content: Content) -> None:
        """Compare what a frame holds with what its pieces must hash to."""
        key = self._identity_key
        place, part, digest = (-1, -1), raw, b""
        for piece in frame.pieces:
            row, at, inner, size, identity = piece
            if place != (inner, size):  # the same piece of several entries is hashed once
                place, part = (inner, size), raw[inner : inner + size]
                digest = blake3(part, key=key).digest()
            if digest == identity:
                content.pieces.append((row, at, part))
            else:
                error = DamageError(f"a chunk in frame {frame.ordinal} has another id")
                content.lost.append(Loss(row, piece, frame, pack, error))


def _lose(content: Content, pack: bytes, frame: FetchedFrame, error: BackupError) -> None:
    content.lost.extend(Loss(piece.row, piece, frame, pack, error) for piece in frame.pieces)


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

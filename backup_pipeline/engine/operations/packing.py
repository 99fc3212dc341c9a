"""The writing half of a run: threads that hash, compress and seal content into packs.

Order that must hold: the run's record is in the log before its first pack is in the store, and a
pack is durable before anything that names it is written.
"""

from __future__ import annotations

import hashlib
import os
import queue
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress

from blake3 import blake3

from backup_pipeline.engine.chunk_index import ChunkIndex
from backup_pipeline.engine.chunker import (
    CHUNK_MOST_BYTES,
    SOLID_TARGET_BYTES,
    Compressor,
)
from backup_pipeline.engine.crypto import TAG_BYTES, Buffer, Sealer, new_salt
from backup_pipeline.engine.format.pack import (
    FRAMES_START,
    Frame,
    content_sealer,
    frame_binding,
    pack_header,
    seal_index,
)
from backup_pipeline.engine.looks import looks_of
from backup_pipeline.engine.parity import store_pack
from backup_pipeline.engine.repository import Repository
from backup_pipeline.engine.store.direct import aligned_buffer

__all__ = ["READ_BUFFER_BYTES", "Member", "Packer", "thread_count"]

PACK_TARGET_BYTES = 16 * 1024 * 1024
READ_BUFFER_BYTES = 2 * 1024 * 1024
NICENESS = 5
_END = None

Member = tuple[int, bytes]
"""Size and id of a chunk in a frame."""


def thread_count() -> int:
    """How many threads do the work that leaves Python's lock."""
    return max(2, min(8, os.cpu_count() or 2))


def _yield_to_readers() -> None:
    """Let whoever reads the source go first where there are fewer processors than threads: there
    is one reader, and all others wait for it."""
    if hasattr(os, "setpriority") and sys.platform == "linux":  # elsewhere it is for a process
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), os.nice(0) + NICENESS)


class _Buffers:
    """Buffers that are used again, the last one first: it is still in the processor's cache, and
    those that are never needed take no memory.

    Args:
        count: How many there are at most.
        size_bytes: The size of each.
        check: Raises while waiting, where waiting is in vain.
    """

    def __init__(self, count: int, size_bytes: int, check: Callable[[], None]) -> None:
        self._size_bytes = size_bytes
        self._check = check
        self._free: queue.LifoQueue[memoryview | None] = queue.LifoQueue()
        for _ in range(count):
            self._free.put(None)

    def take(self) -> memoryview:
        """A buffer; waits for one to be free."""
        while True:
            self._check()
            try:
                buffer = self._free.get(timeout=0.5)
                break
            except queue.Empty:
                continue
        return aligned_buffer(self._size_bytes) if buffer is None else buffer

    def give_back(self, buffer: memoryview) -> None:
        """Let others have it."""
        self._free.put(buffer)


class _OpenPack:
    """A pack being filled: space is reserved in order and sealed into by any thread."""

    def __init__(self, number: int, view: memoryview, start: bytes, sealer: Sealer) -> None:
        self.number = number
        self.view = view
        self.view[:FRAMES_START] = start
        self.start = start
        self.sealer = sealer
        self.end = FRAMES_START
        self.frames: list[Frame] = []
        self._lock = threading.Lock()
        self._pending = 1  # one for the packer itself, until the pack is closed

    def fits(self, stored: int) -> bool:
        return self.end + stored <= len(self.view)

    def reserve(self, stored: int, raw: int, members: Sequence[tuple[int, bytes]]) -> Frame:
        frame = Frame(len(self.frames), self.end, stored, raw, tuple(members))
        self.frames.append(frame)
        self.end += stored
        with self._lock:
            self._pending += 1
        return frame

    def release(self) -> bool:
        """Count one holder less; True for the last, who sends the pack off."""
        with self._lock:
            self._pending -= 1
            return self._pending == 0


class Packer:
    """Takes content in, gives packs out.

    Args:
        repository: Where packs go.
        run: The run's id.
        content_key: The run's content key.
        index: What is stored already; places of new chunks are entered.
        before_first: Called once before the first pack is written.
        looked_at: How many of a segment's small files are looked at; default: all.
    """

    def __init__(
        self,
        repository: Repository,
        run: bytes,
        content_key: bytes,
        index: ChunkIndex,
        before_first: Callable[[], None],
        *,
        looked_at: int | None = None,
    ) -> None:
        self._repository = repository
        self._keys = repository.keys
        self._dataset_id = repository.keys.dataset_id
        self.identity_key = repository.keys.identity
        self._run = run
        self._content_key = content_key
        self._index = index
        self._looked_at = looked_at
        self._before_first: Callable[[], None] | None = before_first
        self._first_lock = threading.Lock()
        self._pack_lock = threading.Lock()
        # Not the lock above: its holder may be waiting for a buffer that an upload will free.
        self._count_lock = threading.Lock()
        self._open: _OpenPack | None = None
        self.stored_bytes = 0
        self.new_raw_bytes = 0
        self.packs = 0
        self._failure: BaseException | None = None
        threads = thread_count()
        self._tasks: queue.Queue[tuple[int, Callable[[Compressor], None]] | None] = queue.Queue(
            threads * 2
        )
        self.buffers = _Buffers(threads + 3, READ_BUFFER_BYTES, self._check)
        pack_bytes = PACK_TARGET_BYTES + CHUNK_MOST_BYTES + SOLID_TARGET_BYTES
        writers = repository.store.writers
        self._pack_buffers = _Buffers(writers + 1, pack_bytes, self._check)
        self._uploader = ThreadPoolExecutor(writers, "upload")
        self._uploads: set[Future[None]] = set()
        self._done_lock = threading.Condition()
        self._submitted = 0
        self._done_ahead: set[int] = set()
        self._done_through = 0
        self._threads = [
            threading.Thread(target=self._work, name=f"pack-{i}", daemon=True)
            for i in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    # What the reading thread calls.

    @property
    def submitted(self) -> int:
        """The number of the task submitted last, from 1; 0 before any was."""
        return self._submitted

    def finished_through(self) -> int:
        """All tasks up to this number are done; raises what went wrong in any."""
        self._check()
        return self._done_through

    def wait_through(self, task: int) -> None:
        """Wait until all tasks up to this number are done."""
        with self._done_lock:
            while self._done_through < task and self._failure is None:
                self._done_lock.wait(0.5)
        self._check()

    def solid(self, buffer: memoryview, members: Sequence[Member], rows: Sequence[int]) -> None:
        """Store small files, one behind the other from a buffer's start, in one frame.

        Args:
            buffer: Holds them; given back when done.
            members: Size and id of each; all were claimed.
            rows: Their rows in the chunk index.
        """
        self._submit(lambda compressor: self._do_solid(compressor, buffer, members, rows))

    def chunks(
        self, buffer: memoryview, content: list[int], pieces: Sequence[tuple[int, int]]
    ) -> None:
        """Store chunks of one large file that stand in a buffer; gives it back when done.

        Args:
            buffer: Holds them.
            content: The file's chunks, as rows of the chunk index; these are added to it.
            pieces: (start, size) of each chunk.
        """
        first = len(content)
        content.extend([0] * len(pieces))
        self._submit(lambda compressor: self._do_chunks(compressor, buffer, content, first, pieces))

    def frame(self, members: Sequence[Member], packed: Buffer, raw: int) -> None:
        """Store a frame that is compressed already, as a copy from another tier does."""
        self._check()
        rows = [self._index.claim(identity)[0] for _, identity in members]
        self._store_frame(packed, raw, members, rows)

    def close(self) -> None:
        """Finish all tasks and packs; all is durable on return."""
        self.wait_through(self._submitted)
        with self._pack_lock:
            last, self._open = self._open, None
        if last is not None:
            self._release(last)
        for upload in list(self._uploads):
            upload.result()
        self._check()
        self._stop()

    def abandon(self) -> None:
        """Stop without finishing; what was uploaded stays for the next run."""
        self._failure = self._failure or RuntimeError("abandoned")
        self._stop()

    def _stop(self) -> None:
        while True:  # free the threads that wait for a place or a task
            try:
                self._tasks.get_nowait()
            except queue.Empty:
                break
        for _ in self._threads:
            self._tasks.put(_END)
        for thread in self._threads:
            thread.join()
        self._uploader.shutdown(wait=True, cancel_futures=True)

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _submit(self, task: Callable[[Compressor], None]) -> None:
        self._submitted += 1
        while True:
            self._check()
            try:
                self._tasks.put((self._submitted, task), timeout=0.5)
                return
            except queue.Full:
                continue

    # What the packing threads do.

    def _work(self) -> None:
        compressor = Compressor()
        _yield_to_readers()
        while (item := self._tasks.get()) is not None:
            number, task = item
            try:
                if self._failure is None:
                    task(compressor)
            except BaseException as error:
                self._failure = self._failure or error
            with self._done_lock:
                self._done_ahead.add(number)
                while self._done_through + 1 in self._done_ahead:
                    self._done_through += 1
                    self._done_ahead.discard(self._done_through)
                self._done_lock.notify_all()

    def _do_solid(
        self,
        compressor: Compressor,
        buffer: memoryview,
        members: Sequence[Member],
        rows: Sequence[int],
    ) -> None:
        raw = buffer[: sum(size for size, _ in members)]
        looks = looks_of(raw, [size for size, _ in members], most=self._looked_at)
        self._index.note_looks(rows, looks)
        if self._repository.solid:
            self._store_frame(compressor.compress(raw, solid=True), len(raw), members, rows)
        else:
            start = 0
            for member, row in zip(members, rows, strict=True):
                alone = raw[start : start + member[0]]
                self._store_frame(compressor.compress(alone), len(alone), [member], [row])
                start += len(alone)
        self.buffers.give_back(buffer)

    def _do_chunks(
        self,
        compressor: Compressor,
        buffer: memoryview,
        content: list[int],
        first: int,
        pieces: Sequence[tuple[int, int]],
    ) -> None:
        key = self.identity_key
        for number, (start, size) in enumerate(pieces, first):
            raw = buffer[start : start + size]
            identity = blake3(raw, key=key).digest()
            row, fresh = self._index.claim(identity)
            content[number] = row
            if fresh:
                if number == 0:  # what a file begins with
                    self._index.note_looks([row], looks_of(raw, [size]))
                self._store_frame(compressor.compress(raw), size, [(size, identity)], [row])
        self.buffers.give_back(buffer)

    def _store_frame(
        self, packed: Buffer, raw: int, members: Sequence[Member], rows: Sequence[int]
    ) -> None:
        stored = len(packed) + TAG_BYTES
        full: _OpenPack | None = None
        with self._pack_lock:
            pack = self._open
            if pack is None or not pack.fits(stored):
                full = pack
                pack = self._open = self._new_pack()
            frame = pack.reserve(stored, raw, members)
            self.new_raw_bytes += raw
        if full is not None:
            self._release(full)
        pack.sealer.seal_into(
            frame.ordinal,
            packed,
            frame_binding(self._dataset_id, frame.ordinal),
            pack.view[frame.offset : frame.offset + stored],
        )
        self._index.settle(pack.number, frame, rows)
        self._release(pack)

    def _new_pack(self) -> _OpenPack:
        buffer = self._pack_buffers.take()
        start = pack_header(self._run, new_salt())
        sealer = content_sealer(self._keys, self._content_key, start)
        return _OpenPack(self._index.new_pack(), buffer, start, sealer)

    def _release(self, pack: _OpenPack) -> None:
        if pack.release():
            upload = self._uploader.submit(self._upload, pack)
            self._uploads.add(upload)
            upload.add_done_callback(self._uploads.discard)

    def _upload(self, pack: _OpenPack) -> None:
        try:
            self.announce()
            tail = seal_index(self._keys, pack.start, pack.frames)
            content = pack.view[: pack.end]
            digest = hashlib.sha256(content)
            digest.update(tail)
            name = self._run + digest.digest()
            stored = store_pack(self._repository, name, [content, tail])
            self._index.name_pack(pack.number, name)
            with self._count_lock:
                self.stored_bytes += stored
                self.packs += 1
            self._pack_buffers.give_back(pack.view)
        except BaseException as error:
            self._failure = self._failure or error
            raise

    def announce(self) -> None:
        """Put the run's record into the log, once, before anything of it is stored."""
        with self._first_lock:
            if self._before_first is not None:
                self._before_first()
                self._before_first = None

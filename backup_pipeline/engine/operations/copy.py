"""Copy: a snapshot from one tier into another, verified on the way, without reading the source.

A pack of which every frame is needed is stored as it is, byte for byte, under the same SHA-256;
of other packs only the missing frames are sealed anew, still compressed as they were. Every chunk
is opened and compared with its id before anything refers to it.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import date, datetime
from itertools import groupby
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import zstandard
from blake3 import blake3

from backup_pipeline.engine.chunk_index import ChunkIndex
from backup_pipeline.engine.chunker import Compressor
from backup_pipeline.engine.errors import DamageError, ObjectMissing, UsageError
from backup_pipeline.engine.format.manifest import manifest_schema
from backup_pipeline.engine.format.pack import (
    FRAMES_START,
    RUN_BYTES,
    decode_index,
    frame_binding,
    index_range,
)
from backup_pipeline.engine.format.record import Snapshot
from backup_pipeline.engine.operations.committing import (
    Run,
    newest_entries,
    paths_and_sizes,
    take_up_packs,
)
from backup_pipeline.engine.operations.compare import lacking, same_rows
from backup_pipeline.engine.operations.foundation import foundation_rows
from backup_pipeline.engine.operations.frames import FetchedFrame, FramePlan, open_frame
from backup_pipeline.engine.operations.judging import carried
from backup_pipeline.engine.operations.packing import Packer, thread_count
from backup_pipeline.engine.operations.reading import with_places
from backup_pipeline.engine.operations.work import Work
from backup_pipeline.engine.parity import store_pack
from backup_pipeline.engine.progress import Meter, Report
from backup_pipeline.engine.repository import Repository, utc_now

__all__ = ["copy"]


def copy(
    source: Repository,
    snapshot: Snapshot,
    target: Repository,
    *,
    kind: str,
    parent: Snapshot | None = None,
    base: Snapshot | None = None,
    day: date | None = None,
    timing: str | None = None,
    clock: Callable[[], datetime] = utc_now,
    report: Report | None = None,
) -> Snapshot:
    """Copy a snapshot into another tier's repository of the same dataset.

    Args:
        source: Where it is.
        snapshot: Which.
        target: Where to.
        kind: ``full`` brings everything anew; ``incremental`` refers to ``parent`` in the target,
            ``differential`` to ``base`` there.
        parent: A snapshot of the target.
        base: The full of the target's chain.
        day: The day that the copy stands for; the snapshot's own by default.
        timing: What the copy says of its timing; the snapshot's own by default.
        clock: Gives the times of the run.
        report: Is told the progress.

    Raises:
        DamageError: The source tier's bytes are not what was stored; nothing was committed.
        UsageError: The repositories have different keys.
        UnsoundParent: ``parent`` or ``base`` is damaged; nothing was written.
    """
    if source.keys.index != target.keys.index:
        raise UsageError(
            f"{source.dataset} has different keys in {source.tier} and {target.tier}",
            "the copy would not be readable with one key; begin this tier anew in an empty prefix",
        )
    said = (day or snapshot.day, timing or snapshot.timing)
    work = Work(target, "copy", kind, parent, base, *said, clock)
    return _Copy(source, snapshot, work, report).run()


class _Copy:
    """One run of the verb."""

    def __init__(
        self, source: Repository, snapshot: Snapshot, work: Work, report: Report | None
    ) -> None:
        self.source = source
        self.snapshot = snapshot
        self.work = work
        self.target = target = work.repository
        self.meter = Meter(
            f"copy {target.dataset} from {source.tier} to {target.tier}",
            report,
            total_bytes=snapshot.bytes,
        )
        self.local = threading.local()
        self.lock = threading.Lock()
        self.verbatim_bytes = 0
        self.verbatim_raw = 0
        self.read_bytes = 0

    def run(self) -> Snapshot:
        """Read, verify, store and commit."""
        work, run, origin = self.work, self.work.run, self.snapshot
        self.meter.enter("comparing")
        rows = self.source.manifest(origin).table
        previous = self._previous()
        changed = self._changed(rows, previous)
        index = ChunkIndex(None if work.reference is None else lambda: [previous.column("chunks")])
        if run.taken_up:
            take_up_packs(self.target, run, index)
        packer = Packer(self.target, run.id, run.content_key, index, self._announce)
        try:
            self.meter.enter("copying")
            self._transfer(changed, index, packer, run)
            packer.close()
        except BaseException:
            packer.abandon()
            raise
        self.meter.enter("committing")
        work.keep(with_places(changed, index), previous)
        return work.commit(
            list(paths_and_sizes(lacking(previous, rows))),
            wrote_packs=packer.packs > 0 or self.verbatim_bytes > 0,
            stored_bytes=packer.stored_bytes + self.verbatim_bytes,
            anomaly=carried(self.source, origin),
            captured_at=origin.captured_at,
            status=origin.status,
            entries=origin.entries,
            good_entries=origin.good_entries,
            files=origin.files,
            bytes=origin.bytes,
            read_bytes=self.read_bytes,
            deduplicated_bytes=max(0, origin.bytes - packer.new_raw_bytes - self.verbatim_raw),
            problems=origin.problems,
            problem_count=origin.problem_count,
            fingerprint=origin.fingerprint,
            scan_started_ns=origin.scan_started_ns,
            origin={"tier": origin.tier, "snapshot": origin.id, "digest": origin.digest},
            synthetic=work.reference is None,
            cut=origin.cut,
        )

    def _previous(self) -> pa.Table:
        """What the target has: of the reference, or for a full of the snapshot before it."""
        if self.work.reference is not None:
            return foundation_rows(self.target, self.work.reference)
        return pa.concat_tables([manifest_schema().empty_table(), *newest_entries(self.target)])

    def _changed(self, rows: pa.Table, previous: pa.Table) -> pa.Table:
        """The rows that the target lacks; a full brings all."""
        if self.work.reference is None:
            return rows
        same, _ = same_rows(rows, previous)
        quiet = rows.filter(pa.array(same)).column("size")
        self.meter.add(pc.sum(quiet).as_py() or 0, int(same.sum()))
        return rows.filter(pa.array(~same))

    def _announce(self) -> None:
        """The run's record, with the wraps of the runs whose packs are stored as they are."""
        run = self.work.run
        known = self.target.state.runs
        foreign = {
            name: body["wraps"]
            for name, body in self.source.state.runs.items()
            if name not in known
        }
        if foreign or not run.taken_up:
            self.target.log.append({**run.body, "foreign": foreign})

    def _transfer(self, rows: pa.Table, index: ChunkIndex, packer: Packer, run: Run) -> None:
        """Bring every chunk of these rows that the target lacks."""
        plan = FramePlan(rows)
        slots = threading.Semaphore(thread_count() * 2)
        failures: list[BaseException] = []

        def work(pack: bytes, frames: Sequence[FetchedFrame]) -> None:
            try:
                if not failures:
                    self._pack(pack, frames, index, packer, run)
            except BaseException as error:
                failures.append(error)
            finally:
                slots.release()

        with ThreadPoolExecutor(thread_count()) as pool:
            for pack, group in groupby(plan.frames(), key=lambda item: item[0]):
                needed = [frame for _, frame in group if self._is_missing(frame, index)]
                if not needed or failures:
                    continue
                slots.acquire()
                pool.submit(work, pack, needed)
        if failures:
            raise failures[0]

    def _is_missing(self, frame: FetchedFrame, index: ChunkIndex) -> bool:
        wanted = False
        for piece in frame.pieces:
            wanted |= index.claim(piece.id)[1]
        if not wanted:
            self.meter.add(sum(piece.size for piece in frame.pieces), len(frame.pieces))
        return wanted

    def _pack(
        self,
        pack: bytes,
        frames: Sequence[FetchedFrame],
        index: ChunkIndex,
        packer: Packer,
        run: Run,
    ) -> None:
        path = self.source.pack_path(pack)
        size = self.source.store.stat(path).size_bytes if _exists(self.source, path) else 0
        if not size:
            raise DamageError(f"{path} is missing in tier {self.source.tier}")
        needed = sum(frame.stored for frame in frames)
        if needed * 2 >= size:
            content = memoryview(self.source.store.get(path))
            if hashlib.sha256(content).digest() != pack[RUN_BYTES:]:
                raise DamageError(f"{path} in tier {self.source.tier} does not match its name")
            if self._verbatim(pack, content, frames, index, packer, run, path):
                return
            opened = [
                (frame, content[frame.offset : frame.offset + frame.stored]) for frame in frames
            ]
            sealer = self.source.pack_sealer(pack, content[:FRAMES_START])
        else:
            sealer = self.source.pack_sealer(pack)
            opened = [
                (frame, memoryview(self.source.store.get(path, frame.offset, frame.stored)))
                for frame in frames
            ]
        for frame, sealed in opened:
            self._reseal(pack, frame, sealer, sealed, packer)
        with self.lock:
            self.read_bytes += needed

    def _verbatim(
        self,
        pack: bytes,
        content: memoryview,
        frames: Sequence[FetchedFrame],
        index: ChunkIndex,
        packer: Packer,
        run: Run,
        path: str,
    ) -> bool:
        """Store the pack as it is, if all of its frames are needed."""
        start = content[:FRAMES_START]
        offset, length = index_range(self.source.keys, start, content, len(content), path)
        listed = decode_index(
            self.source.keys, start, content[offset : offset + length], offset, path
        )
        if len(listed.frames) != len(frames):
            return False
        sealer = self.source.pack_sealer(pack, start)
        for frame in listed.frames:
            sealed = content[frame.offset : frame.offset + frame.stored]
            self._check(pack, frame.ordinal, frame.raw, frame.members, sealer, sealed)
        packer.announce()
        name = run.id + pack[RUN_BYTES:]
        stored = store_pack(self.target, name, [content])
        index.take_up(name, listed)
        with self.lock:
            self.verbatim_bytes += stored
            self.verbatim_raw += sum(frame.raw for frame in listed.frames)
            self.read_bytes += len(content)
        return True

    def _reseal(
        self, pack: bytes, frame: FetchedFrame, sealer: Any, sealed: memoryview, packer: Packer
    ) -> None:
        """Bring one frame: opened, checked, and sealed under the target run's key."""
        pieces = {(piece.inner, piece.size): piece.id for piece in frame.pieces}
        members = [(size, identity) for (_, size), identity in sorted(pieces.items())]
        raw = self._open(pack, frame.ordinal, frame.raw, sealer, sealed)
        view, key = memoryview(raw), self.source.keys.identity
        for (inner, size), identity in pieces.items():
            if blake3(view[inner : inner + size], key=key).digest() != identity:
                raise DamageError(
                    f"frame {frame.ordinal} of {self.source.pack_path(pack)} "
                    "holds a chunk with another id"
                )
        self.meter.add(sum(piece.size for piece in frame.pieces), len(frame.pieces))
        whole = sum(size for size, _ in members) == frame.raw
        if whole:
            bound = frame_binding(self.source.keys.dataset_id, frame.ordinal)
            packed = sealer.open(frame.ordinal, sealed, bound)
            packer.frame(members, packed, frame.raw)
            return
        content = b"".join(view[inner : inner + size] for inner, size in sorted(pieces))
        packer.frame(members, self._compressor().compress(memoryview(content)), len(content))

    def _check(
        self,
        pack: bytes,
        ordinal: int,
        raw_bytes: int,
        members: Sequence[tuple[int, bytes]],
        sealer: Any,
        sealed: memoryview,
    ) -> None:
        view = memoryview(self._open(pack, ordinal, raw_bytes, sealer, sealed))
        key, inner = self.source.keys.identity, 0
        for size, identity in members:
            if blake3(view[inner : inner + size], key=key).digest() != identity:
                raise DamageError(
                    f"frame {ordinal} of {self.source.pack_path(pack)} "
                    "holds a chunk with another id"
                )
            inner += size
        self.meter.add(raw_bytes, len(members))

    def _open(self, pack: bytes, ordinal: int, raw: int, sealer: Any, sealed: memoryview) -> Any:
        decompressor = getattr(self.local, "zstd", None)
        if decompressor is None:
            decompressor = self.local.zstd = zstandard.ZstdDecompressor()
        return open_frame(self.source, sealer, pack, sealed, ordinal, raw, decompressor)

    def _compressor(self) -> Any:
        found = getattr(self.local, "compressor", None)
        if found is None:
            found = self.local.compressor = Compressor()
        return found


def _exists(repository: Repository, path: str) -> bool:
    try:
        repository.store.stat(path)
    except ObjectMissing:
        return False
    return True

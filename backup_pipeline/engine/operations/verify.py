"""Verify: stored bytes match their names, their seals and the ids that snapshots refer to."""

from __future__ import annotations

import hashlib
import random
import threading
from collections.abc import Callable, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, TypeAlias

import zstandard
from blake3 import blake3

from backup_pipeline.engine.crypto import sha256_hex
from backup_pipeline.engine.errors import DamageError, ObjectMissing
from backup_pipeline.engine.format.pack import (
    FRAMES_START,
    MOST_PACK_BYTES,
    RUN_BYTES,
    Frame,
    decode_index,
    index_range,
)
from backup_pipeline.engine.format.record import (
    Segment,
    Snapshot,
    pack_name,
    pack_name_text,
)
from backup_pipeline.engine.operations.frames import open_frame
from backup_pipeline.engine.operations.packing import thread_count
from backup_pipeline.engine.operations.references import Numbers, References, holds
from backup_pipeline.engine.parity import check_parity, parity_path
from backup_pipeline.engine.progress import Meter, Report
from backup_pipeline.engine.repository import Repository
from backup_pipeline.engine.segments import CHECKED_COLUMNS
from backup_pipeline.engine.store.direct import aligned_buffer

__all__ = ["VerifyReport", "verify"]

MOST_DAMAGE = 200
Found: TypeAlias = Callable[[str, str, Sequence[str]], None]
BUFFER_BYTES = 18 << 20  # of a pack as this version writes it; what is not touched costs nothing


@dataclass(slots=True)
class VerifyReport:
    """What a verification found.

    Attributes:
        ok: Nothing that was looked at is damaged.
        snapshots: How many snapshots it was about.
        records: Log records read, each with its twin.
        segments: Manifest segments read.
        packs_total: Packs that the snapshots need; all were looked for.
        packs_checked: Packs whose every byte was read.
        bytes_total: Stored bytes of those packs.
        bytes_checked: Stored bytes read.
        coverage: bytes_checked / bytes_total; 1 where there is nothing to read.
        integrity: I = N_good / N_total over the objects looked at.
        without_parity: Packs that lack a sidecar in a tier that is to have them.
        damage: What is wrong: name, what, and the snapshots that need it.
        duration_s: Seconds it took.
    """

    dataset: str
    tier: str
    ok: bool = True
    snapshots: int = 0
    records: int = 0
    segments: int = 0
    packs_total: int = 0
    packs_checked: int = 0
    bytes_total: int = 0
    bytes_checked: int = 0
    coverage: float = 1.0
    integrity: float = 1.0
    without_parity: int = 0
    damage: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    damage_count: int = 0
    duration_s: float = 0.0
    speed_bytes_per_s: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Fields by name."""
        return asdict(self)


def verify(
    repository: Repository,
    *,
    snapshots: Sequence[Snapshot] | None = None,
    read_data: float = 1.0,
    seed: int | None = None,
    only: Set[bytes] | None = None,
    found: Found | None = None,
    bare: Callable[[bytes], None] | None = None,
    report: Report | None = None,
) -> VerifyReport:
    """Check what is stored.

    Args:
        repository: Where.
        snapshots: Only what these need; None checks all snapshots and the whole log.
        read_data: Share of the packs whose bytes are read, from 0 to 1; the presence and size of
            all are checked in any case.
        seed: Makes the choice of packs repeatable.
        only: Read the bytes of these packs alone.
        found: Called with name, what and snapshots for each thing that is damaged; the report
            lists no more than people still read.
        bare: Called with the name of each pack that lacks a sidecar where it is to have one.
        report: Is told the progress.
    """
    return _Verify(repository, snapshots, read_data, seed, only, found, bare, report).run()


@dataclass(slots=True)
class _Pack:
    """A pack that is needed, and what is needed of it.

    Attributes:
        name: Its name.
        end: Where the last frame that is needed ends.
        references: What manifests place in it.
        snapshots: Who needs it.
        size: Its bytes, once they are known.
    """

    name: bytes
    end: int
    references: Callable[[], dict[str, Numbers]]
    snapshots: list[str]
    size: int = 0


class _Verify:
    """One run of the verb."""

    def __init__(
        self,
        repository: Repository,
        snapshots: Sequence[Snapshot] | None,
        read_data: float,
        seed: int | None,
        only: Set[bytes] | None,
        found: Found | None,
        bare: Callable[[bytes], None] | None,
        report: Report | None,
    ) -> None:
        self.repository = repository
        self.only = only
        self.found = found
        self.bare = bare
        self.sidecars: set[str] = set()
        self.whole = snapshots is None
        self.snapshots = list(repository.snapshots() if snapshots is None else snapshots)
        self.read_data = read_data
        self.random = random.Random(seed)
        self.result = VerifyReport(repository.dataset, repository.tier)
        self.meter = Meter(f"verify {repository.dataset} in {repository.tier}", report)
        self.lock = threading.Lock()
        self.bad_names: set[str] = set()
        self.local = threading.local()

    def run(self) -> VerifyReport:
        """Do it."""
        result = self.result
        result.snapshots = len(self.snapshots)
        self.meter.enter("log")
        self._log()
        self.meter.enter("manifests")
        packs = self._manifests()
        self.meter.enter("looking for packs")
        present = self._look_for(packs)
        result.packs_total = len(packs)
        # Of a pack that is missing or cut short, what is known to be needed counts.
        result.bytes_total = sum(pack.size or pack.end for pack in packs)
        chosen = self._choose(present)
        self.meter.total_bytes = sum(pack.size for pack in chosen)
        self.meter.enter("reading packs")
        with ThreadPoolExecutor(thread_count() + 1) as pool:  # one of them waits for the medium
            for _ in pool.map(self._read, chosen):
                pass
        result.packs_checked = len(chosen)
        result.bytes_checked = sum(pack.size for pack in chosen)
        if result.bytes_total:
            result.coverage = result.bytes_checked / result.bytes_total
        total = 2 * result.records + result.segments + len(packs)
        if total:
            result.integrity = max(0.0, 1 - len(self.bad_names) / total)
        result.duration_s = self.meter.elapsed_s
        if result.duration_s:
            result.speed_bytes_per_s = result.bytes_checked / result.duration_s
        self.meter.show(now=True)
        return result

    def _damage(self, name: str, what: str, snapshots: Sequence[str]) -> None:
        what = what.removeprefix(f"{name} ")
        with self.lock:
            result = self.result
            result.ok = False
            result.damage_count += 1
            self.bad_names.add(name)
            if self.found is not None:
                self.found(name, what, snapshots)
            if len(result.damage) < MOST_DAMAGE:
                result.damage.append({"name": name, "what": what, "snapshots": list(snapshots)})

    def _log(self) -> None:
        log = self.repository.log
        everyone = [snapshot.id for snapshot in self.snapshots]
        if self.whole:
            for name, what in self.repository.check_documents():
                self._damage(name, what, everyone)
            self.result.records = log.verify(lambda name, what: self._damage(name, what, everyone))
            return
        for snapshot in self.snapshots:
            self.result.records += 1
            for name, what in log.verify_one(snapshot.sequence):
                self._damage(name, what, [snapshot.id])

    def _manifests(self) -> list[_Pack]:
        """Read every segment; the packs that they need."""
        needing: dict[str, list[str]] = {}
        segments: dict[str, Segment] = {}
        for snapshot in self.snapshots:
            for segment in snapshot.segments:
                segments[segment.name] = segment
                needing.setdefault(segment.name, []).append(snapshot.id)
        self.result.segments = len(segments)
        references = References()
        for name, segment in segments.items():
            try:
                references.add(self._chunks(segment), needing[name])
            except DamageError as error:
                for damaged, what in self._damaged_segments(segment, error):
                    self._damage(self.repository.segment_path(damaged), what, needing[name])
        return [
            _Pack(name, end, partial(references.of, number), snapshots)
            for number, (name, end, snapshots) in enumerate(references.packs())
        ]

    def _damaged_segments(self, segment: Segment, error: DamageError) -> list[tuple[str, str]]:
        """Which of those that are read for a segment are damaged, and what is wrong with each."""
        found: list[tuple[str, str]] = []
        for one in self.repository.segments.read_for(segment):
            try:
                self.repository.segments.open(one)
            except DamageError as its_own:
                found.append((one.name, its_own.message))
        return found or [(segment.name, error.message)]

    def _chunks(self, segment: Segment) -> list[Any]:
        """All chunks of a segment, which is read and checked."""
        batches = self.repository.segments.rows(segment).batches(CHECKED_COLUMNS)
        return [rows.column("chunks").combine_chunks().flatten() for rows in batches]

    def _look_for(self, packs: Sequence[_Pack]) -> list[_Pack]:
        """Presence and size of all packs, by listing each run's folder once."""
        sizes: dict[str, int] = {}
        prefix, store = self.repository.prefix, self.repository.store
        for run in {pack.name[:RUN_BYTES].hex() for pack in packs}:
            for found in store.list(f"{prefix}packs/{run}/"):
                sizes[found.name] = found.size_bytes
        if packs and "parity" in store.list_names(prefix):
            self.sidecars = {found.name for found in store.list(f"{prefix}parity/")}
        present: list[_Pack] = []
        listed = {self.repository.pack_path(pack.name) for pack in packs}
        for pack in packs:
            path = self.repository.pack_path(pack.name)
            size = sizes.get(path)
            if size is None:
                self._damage(path, "missing", pack.snapshots)
                for name, what in self._damaged_standing(pack, listed):
                    self._damage(name, what, pack.snapshots)
            elif size > MOST_PACK_BYTES:
                self._damage(path, f"too large for a pack: {size} bytes", pack.snapshots)
            elif size < pack.end:
                self._damage(path, f"cut short to {size} bytes", pack.snapshots)
            else:
                pack.size = size
                present.append(pack)
                self._look_for_sidecar(pack)
        return present

    def _look_for_sidecar(self, pack: _Pack) -> None:
        if self.repository.parity and parity_path(self.repository, pack.name) not in self.sidecars:
            self.result.without_parity += 1
            if self.bare is not None:
                self.bare(pack.name)

    def _damaged_standing(self, pack: _Pack, listed: Set[str]) -> list[tuple[str, str]]:
        """Of the packs that should stand for one that is gone, those that cannot tell what they
        hold and that therefore nothing refers to.
        """
        found: list[tuple[str, str]] = []
        for text in self.repository.segments.standing_packs({pack_name_text(pack.name)}):
            path = self.repository.prefix + text
            if path in listed:
                continue
            try:
                digest = sha256_hex(self.repository.store.get(path))
                if digest != pack_name(text)[RUN_BYTES:].hex():
                    found.append((path, "its bytes do not match its name"))
            except ObjectMissing:
                found.append((path, "missing"))
        return found

    def _choose(self, packs: list[_Pack]) -> list[_Pack]:
        if self.only is not None:
            return [pack for pack in packs if pack.name in self.only]
        if self.read_data >= 1:
            return packs
        if self.read_data <= 0:
            return []
        wanted = self.read_data * sum(pack.size for pack in packs)
        shuffled = sorted(packs, key=lambda pack: pack.name)
        self.random.shuffle(shuffled)
        chosen: list[_Pack] = []
        total = 0
        for pack in shuffled:
            if total >= wanted:
                break
            chosen.append(pack)
            total += pack.size
        return chosen

    def _read(self, pack: _Pack) -> None:
        path = self.repository.pack_path(pack.name)
        try:
            self._read_pack(pack, path)
        except ObjectMissing:
            self._damage(path, "missing", pack.snapshots)
        except DamageError as error:
            self._damage(path, error.message, pack.snapshots)
        self._check_sidecar(pack)
        self.meter.add(pack.size, 1)

    def _check_sidecar(self, pack: _Pack) -> None:
        path = parity_path(self.repository, pack.name)
        if path in self.sidecars:
            try:
                check_parity(self.repository.store.get(path), pack.name, path)
            except ObjectMissing:
                return  # it went meanwhile
            except DamageError as error:
                self._damage(path, error.message, pack.snapshots)

    def _read_pack(self, pack: _Pack, path: str) -> None:
        content = self._content(path, pack.size)
        if hashlib.sha256(content).digest() != pack.name[RUN_BYTES:]:
            raise DamageError("its bytes do not match its name")
        start = content[:FRAMES_START]
        offset, length = index_range(self.repository.keys, start, content, len(content), path)
        index = decode_index(
            self.repository.keys, start, content[offset : offset + length], offset, path
        )
        sealer = self.repository.pack_sealer(pack.name, start)
        for frame in index.frames:
            sealed = content[frame.offset : frame.offset + frame.stored]
            raw = open_frame(
                self.repository,
                sealer,
                pack.name,
                sealed,
                frame.ordinal,
                frame.raw,
                self._decompressor(),
            )
            self._check_members(frame, memoryview(raw))
        if not holds(index, pack.references()):
            raise DamageError(f"{path} lacks a chunk that a snapshot places there")

    def _content(self, path: str, size: int) -> memoryview:
        """All of a pack, in memory that is this thread's and used again."""
        buffer: memoryview | None = getattr(self.local, "buffer", None)
        if buffer is None or len(buffer) < size:
            buffer = self.local.buffer = aligned_buffer(max(size, BUFFER_BYTES))
        self.repository.store.get_into(path, 0, buffer[:size])
        return buffer[:size]

    def _decompressor(self) -> zstandard.ZstdDecompressor:
        found = getattr(self.local, "zstd", None)
        if found is None:
            found = self.local.zstd = zstandard.ZstdDecompressor()
        return found

    def _check_members(self, frame: Frame, raw: memoryview) -> None:
        key = self.repository.keys.identity
        inner = 0
        for size, identity in frame.members:
            end = inner + size
            if blake3(raw[inner:end], key=key).digest() != identity:
                raise DamageError(f"frame {frame.ordinal} holds a chunk with another id")
            inner = end

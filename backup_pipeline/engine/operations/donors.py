"""Where content can be had elsewhere: the same dataset's other tiers, and this one's other packs.

Every byte that is handed out was opened and compared with its chunk's id, or with its pack's name.
A sibling that cannot be reached, or is damaged itself, is passed over and noted, and never stops
what asked. Nothing is opened or read before something is asked for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from backup_pipeline.engine.crypto import Buffer
from backup_pipeline.engine.errors import BackupError, DamageError, StoreError, StoreUnavailable
from backup_pipeline.engine.format.manifest import CHUNK_TYPE, manifest_schema
from backup_pipeline.engine.format.pack import RUN_BYTES
from backup_pipeline.engine.format.record import Segment, Snapshot, is_hex
from backup_pipeline.engine.operations.frames import Fetcher, FramePlan
from backup_pipeline.engine.parity import from_parity
from backup_pipeline.engine.repository import Repository
from backup_pipeline.engine.store import Store
from backup_pipeline.engine.store.wrappers import WrappedStore

__all__ = ["Chunk", "Donors", "Found", "stand_for_the_same"]

_COLUMNS = ("path", "type", "chunks")
_DIGEST_HEX = 64
MOST_NOTES = 100


class Chunk(NamedTuple):
    """A chunk and its place, as a manifest says it."""

    pack: bytes
    ordinal: int
    offset: int
    stored: int
    raw: int
    inner: int
    size: int
    id: bytes


class Found(NamedTuple):
    """A chunk that was had elsewhere.

    Attributes:
        id: Its id, which the content was compared with.
        content: Its bytes.
        tier: Whose they are.
    """

    id: bytes
    content: Buffer
    tier: str


def stand_for_the_same(one: Snapshot, other: Snapshot) -> bool:
    """Whether two tiers' snapshots hold the same entries: one is the other's copy, or both are
    copies of a third."""
    return bool(_stands_for(one) & _stands_for(other))


def _stands_for(snapshot: Snapshot) -> set[tuple[str, str]]:
    """The snapshot and its origin, each by id and digest."""
    found = {(snapshot.id, snapshot.digest)}
    if snapshot.origin is not None:
        found.add((snapshot.origin.get("snapshot", ""), snapshot.origin.get("digest", "")))
    return found


class Donors:
    """The repositories that may hold what one of them lost.

    Args:
        repository: The one that lost something; its other packs may hold the same content.
        find: Gives its siblings, the first asked first; called once, when first needed.

    Attributes:
        bytes_from: Bytes of content handed out, by tier.
        notes: What was passed over, and why.
        needed: Whether anything was asked for.
    """

    def __init__(
        self, repository: Repository, find: Callable[[], Iterable[Repository]] = tuple
    ) -> None:
        self.repository = repository
        self._find = find
        self._siblings: list[Repository] | None = None
        self._packs: dict[int, dict[bytes, bytes]] = {}
        self._bad: dict[int, set[tuple[bytes, int]]] = {}
        self._out: set[int] = set()  # stores that failed; they are not asked again
        self.bytes_from: dict[str, int] = {}
        self.notes: list[str] = []

    @property
    def needed(self) -> bool:
        """Whether anything was asked for yet."""
        return self._siblings is not None

    def siblings(self) -> list[Repository]:
        """The siblings that have the same keys; opened at the first call."""
        if self._siblings is None:
            self._siblings = []
            for one in self._find():
                if one.keys.index == self.repository.keys.index:
                    self._siblings.append(one)
                else:
                    self.note(f"tier {one.tier} has other keys and was left out")
        return self._siblings

    def note(self, text: str) -> None:
        """Note what was passed over."""
        if text not in self.notes and len(self.notes) < MOST_NOTES:
            self.notes.append(text)

    # -- whole snapshots

    def counterparts(self, snapshot: Snapshot) -> Iterator[tuple[Repository, Snapshot]]:
        """Snapshots of siblings that hold the same entries."""
        for sibling in self.siblings():
            with suppress(DamageError):
                for other in reversed(sibling.snapshots()):
                    if stand_for_the_same(snapshot, other):
                        yield sibling, other

    # -- whole packs

    def same_pack(self, name: bytes) -> Iterator[bytes | memoryview]:
        """The bytes of a pack, from siblings that hold it under the same SHA-256."""
        digest = name[RUN_BYTES:]
        for sibling in self.siblings():
            if id(sibling) in self._out:
                continue
            other = self._held(sibling).get(digest)
            if other is None:
                continue
            path = sibling.pack_path(other)
            try:
                content = sibling.store.get(path)
            except (StoreError, DamageError) as error:
                self._pass_over(sibling, error)
                continue
            if hashlib.sha256(content).digest() == digest:
                self._count(sibling, len(content))
                yield content
            else:
                self.note(f"tier {sibling.tier} is damaged as well: {path} does not match its name")

    def _held(self, sibling: Repository) -> Mapping[bytes, bytes]:
        """Names of a sibling's packs by their SHA-256."""
        found = self._packs.get(id(sibling))
        if found is None:
            found = self._packs[id(sibling)] = {}
            folder = f"{sibling.prefix}packs/"
            try:
                for one in sibling.store.list(folder):
                    run, _, digest = one.name[len(folder) :].partition("/")
                    if is_hex(run, RUN_BYTES) and is_hex(digest, _DIGEST_HEX // 2):
                        found[bytes.fromhex(digest)] = bytes.fromhex(run + digest)
            except StoreError as error:
                self._pass_over(sibling, error)
        return found

    # -- chunks

    def refuse(self, pack: bytes, ordinal: int) -> None:
        """Tell that a frame of the repository itself is damaged, and is no place to look."""
        self._bad.setdefault(id(self.repository), set()).add((pack, ordinal))

    def own(self, chunks: Sequence[Chunk]) -> Iterator[Found]:
        """Chunks that the repository still gives in the places where they should be.

        Raises:
            StoreError: Its store fails.
        """
        missing = {chunk.id: chunk for chunk in chunks}
        places = list(missing.values())
        yield from self._take(self.repository, places, missing, tolerant=False)

    def require(self) -> None:
        """Return if the repository's own store could be asked whenever it was.

        Raises:
            StoreUnavailable: It could not, and what nobody else has may be there.
        """
        if id(self.repository) in self._out:
            raise StoreUnavailable(
                f"{self.repository.store.url} failed in the middle", "try again once it is in reach"
            )

    def give_up(self) -> None:
        """Tell that the repository's own store fails, and is no place to look."""
        self._out.add(id(self.repository))

    def chunks(
        self,
        chunks: Iterable[Chunk],
        *,
        snapshot: Snapshot | None = None,
        paths: tuple[bytes, bytes] | None = None,
    ) -> Iterator[Found]:
        """Content of chunks, each once, in no order; what nobody has is left out.

        Args:
            chunks: Which, with the places where they were lost.
            snapshot: Whose they are; a sibling's snapshot of the same is asked first.
            paths: The first and the last path that need them there.
        """
        missing = {chunk.id: chunk for chunk in chunks}
        yield from self._by_parity(missing)
        # The repository itself comes last: whatever harmed it may have harmed more of it.
        for donor in (*self.siblings(), self.repository):
            if id(donor) in self._out:
                continue
            if missing and donor is not self.repository:
                yield from self._take(donor, self._same_places(donor, missing), missing)
            while missing and id(donor) not in self._out:
                places = self._places(donor, missing, snapshot, paths)
                if not places:
                    break
                yield from self._take(donor, places, missing)
            if not missing:
                return

    def _by_parity(self, missing: dict[bytes, Chunk]) -> Iterator[Found]:
        """Chunks of the repository's own packs that their sidecars can heal."""
        own = self.repository
        if id(own) in self._out:
            return
        for pack in sorted({chunk.pack for chunk in missing.values()}):
            try:
                healed = from_parity(own, pack)
            except StoreError as error:
                self._pass_over(own, error)
                return
            if healed is not None:
                sought = [chunk for chunk in missing.values() if chunk.pack == pack]
                one = _with_healed(own, pack, healed)
                yield from self._take(one, sought, missing)
                self._bad.pop(id(one), None)

    def _same_places(self, donor: Repository, missing: Mapping[bytes, Chunk]) -> list[Chunk]:
        """The same places in packs that a sibling holds byte for byte."""
        held, bad = self._held(donor), self._bad.get(id(donor), set())
        found: list[Chunk] = []
        for chunk in missing.values():
            name = held.get(chunk.pack[RUN_BYTES:])
            if name is not None and (name, chunk.ordinal) not in bad:
                found.append(chunk._replace(pack=name))
        return found

    def _places(
        self,
        donor: Repository,
        missing: Mapping[bytes, Chunk],
        snapshot: Snapshot | None,
        paths: tuple[bytes, bytes] | None,
    ) -> list[Chunk]:
        """Where a repository's manifests place chunks; places known to be bad left out."""
        wanted = pa.array(list(missing), CHUNK_TYPE.field("id").type)
        bad, found = self._bad.get(id(donor), set()), dict[bytes, Chunk]()
        for segment, reach in self._segments(donor, snapshot, paths):
            first, last = reach or (b"", None)
            try:
                rows = donor.segments.rows(segment).batches(_COLUMNS, first, last)
                for batch in rows:
                    flat: Any = batch.column("chunks").combine_chunks().flatten()
                    hits = flat.filter(pc.is_in(flat.field("id"), value_set=wanted))
                    for values in hits.to_pylist():
                        chunk = Chunk(**values)
                        if (chunk.pack, chunk.ordinal) not in bad:
                            found.setdefault(chunk.id, chunk)
                    if len(found) == len(missing):
                        return list(found.values())
            except (StoreError, DamageError) as error:
                self._pass_over(donor, error)
                if id(donor) in self._out:
                    break
        return list(found.values())

    def _segments(
        self, donor: Repository, snapshot: Snapshot | None, paths: tuple[bytes, bytes] | None
    ) -> Iterator[tuple[Segment, tuple[bytes, bytes] | None]]:
        """Segments of a repository's live snapshots, the likeliest first, each once.

        Those of a snapshot of the same come first with the paths that are asked for alone.
        """
        live = list(reversed(_live(donor)))
        if snapshot is not None:
            live.sort(
                key=lambda one: (not stand_for_the_same(snapshot, one), one.day != snapshot.day)
            )
            if live and paths is not None and stand_for_the_same(snapshot, live[0]):
                yield from ((segment, paths) for segment in reversed(live[0].segments))
        unique = {segment.name: segment for one in live for segment in reversed(one.segments)}
        yield from ((segment, None) for segment in unique.values())

    def _take(
        self,
        donor: Repository,
        places: Sequence[Chunk],
        missing: dict[bytes, Chunk],
        *,
        tolerant: bool = True,
    ) -> Iterator[Found]:
        """Fetch, open and compare; what is found is missing no more."""
        if not places:
            return
        bad = self._bad.setdefault(id(donor), set())
        with Fetcher(donor, tolerant=tolerant) as fetcher:
            for content in fetcher.contents(FramePlan(_as_rows(places))):
                for number, _, piece in content.pieces:
                    identity = places[number].id
                    if missing.pop(identity, None) is not None:
                        self._count(donor, len(piece))
                        yield Found(identity, piece, donor.tier)
                for loss in content.lost:
                    chunk = places[loss.row]
                    bad.add((chunk.pack, chunk.ordinal))
                    self._pass_over(donor, loss.error)

    def _count(self, donor: Repository, size_bytes: int) -> None:
        self.bytes_from[donor.tier] = self.bytes_from.get(donor.tier, 0) + size_bytes

    def _pass_over(self, donor: Repository, error: BackupError) -> None:
        if isinstance(error, StoreUnavailable):
            self._out.add(id(donor))
        if donor is not self.repository:
            self.note(f"tier {donor.tier} could not help: {error.message}")


class _Healed(WrappedStore):
    """A store as it would be with one object healed."""

    def __init__(self, inner: Store, name: str, content: bytes) -> None:
        super().__init__(inner)
        self._name = name
        self._content = content

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes | memoryview:
        if name != self._name:
            return super().get(name, offset, length)
        end = len(self._content) if length is None else offset + length
        return memoryview(self._content)[offset:end]

    def get_into(self, name: str, offset: int, buffer: bytearray | memoryview) -> None:
        view = memoryview(buffer).cast("B")
        view[:] = self.get(name, offset, len(view))


def _with_healed(repository: Repository, pack: bytes, content: bytes) -> Repository:
    """The repository as it would be with one pack healed."""
    store = _Healed(repository.store, repository.pack_path(pack), content)
    healed = Repository(store, repository.prefix, repository.keys)
    healed.state = repository.state
    return healed


def _live(repository: Repository) -> list[Snapshot]:
    try:
        return repository.snapshots()
    except DamageError:
        return []


def _as_rows(places: Sequence[Chunk]) -> pa.Table:
    """Rows of one chunk each, as a frame plan takes them."""
    columns = list(zip(*places, strict=True))
    fields = [
        pa.array(values, field.type) for values, field in zip(columns, CHUNK_TYPE, strict=True)
    ]
    packed = pa.StructArray.from_arrays(fields, fields=list(CHUNK_TYPE))
    offsets = pa.array(range(len(places) + 1), pa.int32())
    lists = pa.ListArray.from_arrays(offsets, packed, type=manifest_schema().field("chunks").type)
    return pa.Table.from_arrays([lists], names=["chunks"])

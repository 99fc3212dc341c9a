"""Repair: what is damaged or missing in one tier is put right from whatever still holds it.

In this order: copies of documents and records from their twins; manifests, from a sibling's
snapshot of the same; packs, from a sibling that has the same bytes, else their chunks anew from
frames that still open, from siblings, from other packs of this tier, and from the source.

Safe when stopped at any point: what is healed in place gets the bytes that its name tells, new
packs and segments are durable before the one record that refers to them, and what cannot be put
right is left as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from backup_pipeline.engine.chunk_index import ChunkIndex
from backup_pipeline.engine.crypto import Buffer
from backup_pipeline.engine.errors import Conflict, DamageError, StoreError
from backup_pipeline.engine.format.manifest import CHUNK_TYPE
from backup_pipeline.engine.format.pack import RUN_BYTES
from backup_pipeline.engine.format.record import Snapshot, is_hex, pack_name, pack_name_text, to_iso
from backup_pipeline.engine.operations.donors import Chunk, Donors
from backup_pipeline.engine.operations.reading import with_places
from backup_pipeline.engine.operations.remanifest import Recovery, recover_segments
from backup_pipeline.engine.operations.repair_report import RepairReport
from backup_pipeline.engine.operations.stash import Stash
from backup_pipeline.engine.operations.still_there import chunks_of_source
from backup_pipeline.engine.operations.twins import Healed, heal_documents, heal_records
from backup_pipeline.engine.operations.verify import verify
from backup_pipeline.engine.progress import Meter, Report
from backup_pipeline.engine.repository import Repository, utc_now
from backup_pipeline.sources.base import Source

__all__ = ["RepairReport", "repair"]

_COLUMNS = ("path", "type", "size", "chunks")
_UNWRITABLE = "it is to be had, but the log is damaged and cannot be written to"


def repair(
    repository: Repository,
    *,
    donors: Donors | None = None,
    source: Callable[[], Source] | None = None,
    read_data: float = 1.0,
    apply: bool = False,
    clock: Callable[[], datetime] = utc_now,
    report: Report | None = None,
) -> RepairReport:
    """Put right what is damaged or missing.

    Args:
        repository: Where.
        donors: Who may hold what is lost here; without them, what else this tier holds.
        source: Opens the dataset's source, which may hold it still; called if need be.
        read_data: Share of the packs that are read to find damage, from 0 to 1.
        apply: Whether to write; if not, only what would be done is told.
        clock: Tells the times that the records say.
        report: Is told the progress.

    Returns:
        What was found, what was done about it, and what stays lost.

    Raises:
        StoreError: The repository's own store fails.
        Conflict: Others changed what the repair was about; run it again.
    """
    one = _Repair(repository, donors or Donors(repository), source, apply, clock, report)
    return one.run(read_data)


class _Repair:
    """One run of the verb."""

    def __init__(
        self,
        repository: Repository,
        donors: Donors,
        source: Callable[[], Source] | None,
        apply: bool,
        clock: Callable[[], datetime],
        report: Report | None,
    ) -> None:
        self.repository = repository
        self.donors = donors
        self.source = source
        self.apply = apply
        self.clock = clock
        self.report = report
        self.meter = Meter(f"repair {repository.dataset} in {repository.tier}", report)
        self.result = RepairReport(repository.dataset, repository.tier, apply)
        self.lost: dict[bytes, set[bytes]] = {}  # ids that no one has, by pack
        self.touched: set[bytes] = set()

    @property
    def writes(self) -> bool:
        """Whether anything new can be referred to."""
        return self.apply and not self.repository.log.lost

    def run(self, read_data: float) -> RepairReport:
        """Do it."""
        result, repository = self.result, self.repository
        repository.refresh()
        found = self._look(None, read_data=0)
        self._twins(found)
        self._manifests(found)
        found = self._look(repository.snapshots(), read_data=read_data)
        packs = {
            pack_name(name.removeprefix(repository.prefix)): needed
            for name, needed in found.items()
            if name.startswith(f"{repository.prefix}packs/")
        }
        self._packs(packs)
        result.leave_rest()
        self.meter.enter("telling what stays lost")
        self._tell_lost()
        result.ok = result.damage_count == 0
        if self.apply and result.damage_count:
            repository.forget()
            result.ok = verify(repository, only=self.touched, report=self.report).ok
        result.notes = list(self.donors.notes)
        result.elsewhere = dict(self.donors.bytes_from)
        result.duration_s = self.meter.elapsed_s
        return result

    def _look(
        self, snapshots: Sequence[Snapshot] | None, *, read_data: float
    ) -> dict[str, list[str]]:
        """Verify; the names of what is damaged, each with the snapshots that need it."""
        found: dict[str, list[str]] = {}

        def note(name: str, what: str, needed: Sequence[str]) -> None:
            found.setdefault(name, []).extend(needed)
            self.result.find(name, what)

        verify(
            self.repository,
            snapshots=snapshots,
            read_data=read_data,
            found=note,
            report=self.report,
        )
        return found

    # -- what is kept twice

    def _twins(self, found: Mapping[str, object]) -> None:
        prefix = self.repository.prefix
        folders = (f"{prefix}log/", f"{prefix}twin/")
        records = [name for name in found if name.startswith(folders)]
        documents = [
            name for name in found if name.startswith(("store", "keys/", f"{prefix}keys/"))
        ]
        healed = heal_documents(self.repository, documents, apply=self.apply)
        sequences = [int(name[-8:]) for name in records]
        healed += heal_records(self.repository, sequences, apply=self.apply)
        self._note_healed(healed)

    def _note_healed(self, healed: Sequence[Healed]) -> None:
        for name, why in healed:
            if why is None:
                self.result.mend(name, "healed from its other copy")
            else:
                self.result.leave(name, why)

    # -- manifests

    def _manifests(self, found: Mapping[str, object]) -> None:
        folder = f"{self.repository.prefix}manifests/"
        names = [name[len(folder) :] for name in found if name.startswith(folder)]
        if not names:
            return
        self.meter.enter("finding manifests elsewhere")
        recovery = recover_segments(self.repository, self.donors, names)
        for name, why in recovery.failed.items():
            self.result.leave(folder + name, why)
        for snapshot in recovery.lost:
            self.result.lose_snapshot(snapshot)
        if recovery.rows and self.writes:
            self._replace_segments(recovery)
        elif self.apply:
            for name in recovery.rows:
                self.result.leave(folder + name, _UNWRITABLE)
            return
        for name in recovery.rows:
            self.result.mend(folder + name, f"written anew from tier {recovery.tiers.get(name)}")

    def _replace_segments(self, recovery: Recovery) -> None:
        """Bring what chunks are missing, store the segments, and say what they stand for."""
        repository = self.repository
        names = list(recovery.rows)
        chains = {
            segment.name: snapshot.chain
            for snapshot in repository.snapshots()
            for segment in snapshot.segments
        }
        replaced: dict[str, list[Any]] = {}
        refers: set[str] = set()
        for chain in sorted({chains[name] for name in names}):
            mine = {name: recovery.rows[name] for name in names if chains[name] == chain}
            index = self._index_for(chain, mine.values())
            for name, rows in mine.items():
                placed = _placed(rows, index)
                segment = repository.put_segment(placed)
                replaced[f"manifests/{name}"] = [segment.to_json()]
                packs = placed.column("chunks").combine_chunks().flatten().field("pack").unique()
                refers |= {f"manifests/{segment.name}"}
                refers |= {pack_name_text(pack) for pack in packs.to_pylist()}
        self._record(replaced, refers, "manifests were damaged")

    def _index_for(self, chain: str, tables: Any) -> ChunkIndex:
        """Where this chain has the chunks of some rows; what it lacks is brought."""
        index = ChunkIndex()
        missing: dict[bytes, Chunk] = {}
        for rows in tables:
            for values in rows.column("chunks").combine_chunks().flatten().to_pylist():
                missing[values["id"]] = Chunk(**values)
        here = {chunk.pack[RUN_BYTES:] for chunk in missing.values()}
        # Packs that were copied as they are come first: they are likely to hold what is sought.
        for pack in sorted(self._packs_of(chain), key=lambda one: one[RUN_BYTES:] not in here):
            if not missing:
                return index
            try:
                listed = self.repository.pack_index(pack)
            except DamageError:
                continue
            held = {identity for frame in listed.frames for _, identity in frame.members}
            if held & missing.keys():
                index.take_up(pack, listed)
                for identity in held & missing.keys():
                    del missing[identity]
        stash = Stash(self.repository, chain, index, self.clock)
        self._bring(list(missing.values()), stash.add)
        self.result.stored_bytes += stash.close()
        return index

    def _packs_of(self, chain: str) -> Iterator[bytes]:
        """Packs in the store of a chain's runs, but for those that are condemned."""
        state = self.repository.state
        for run, body in state.runs.items():
            if body.get("chain") != chain or f"packs/{run}" in state.condemned:
                continue
            folder = f"{self.repository.prefix}packs/{run}/"
            for digest in self.repository.store.list_names(folder):
                if is_hex(digest, 32) and f"packs/{run}/{digest}" not in state.condemned:
                    yield bytes.fromhex(run + digest)

    # -- packs

    def _packs(self, packs: Mapping[bytes, Sequence[str]]) -> None:
        """Heal packs in place where their bytes are to be had; store the chunks of others anew."""
        self.meter.enter("healing packs")
        chains: dict[str, list[bytes]] = {}
        for name, snapshots in packs.items():
            self.touched.add(name)
            if not self._heal_pack(name):
                chain = self.repository.state.snapshot(snapshots[0]).chain
                chains.setdefault(chain, []).append(name)
        if not chains:
            return
        self.meter.enter("storing chunks anew")
        needed = self._needed({name for names in chains.values() for name in names})
        replaced: dict[str, list[Any]] = {}
        for chain, names in sorted(chains.items()):
            replaced |= self._rebuild(chain, {name: needed[name] for name in names})
        if replaced:
            refers = {other for others in replaced.values() for other in others}
            self._record(replaced, refers, "packs were damaged")

    def _heal_pack(self, name: bytes) -> bool:
        """Put a pack's own bytes in its place, if a sibling has them."""
        path = self.repository.pack_path(name)
        if name[:RUN_BYTES].hex() not in self.repository.state.runs:
            return False  # what it holds could not be opened
        for content in self.donors.same_pack(name):
            if self.apply:
                self.repository.refresh()
                if self._is_condemned(pack_name_text(name)):
                    return False
                self.repository.store.heal(path, content)
            self.result.mend(path, "healed with the same bytes of another tier")
            return True
        return False

    def _is_condemned(self, name: str) -> bool:
        """Whether a thing, or all of its run, will be deleted."""
        condemned = self.repository.state.condemned
        return name in condemned or name.rpartition("/")[0] in condemned

    def _needed(self, packs: set[bytes]) -> dict[bytes, dict[bytes, Chunk]]:
        """What live manifests place in some packs, by pack and id."""
        found: dict[bytes, dict[bytes, Chunk]] = {name: {} for name in packs}
        names = pa.array(sorted(packs), CHUNK_TYPE.field("pack").type)
        for rows in self._live_rows(("path", "type", "chunks")):
            flat: Any = rows.column("chunks").combine_chunks().flatten()
            for values in flat.filter(pc.is_in(flat.field("pack"), value_set=names)).to_pylist():
                chunk = Chunk(**values)
                found[chunk.pack].setdefault(chunk.id, chunk)
        return found

    def _live_rows(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """Rows of all segments of live snapshots, each once; of those that can be read."""
        unique = {
            segment.name: segment
            for snapshot in self.repository.snapshots()
            for segment in snapshot.segments
        }
        for segment in unique.values():
            try:
                rows = self.repository.segments.rows(segment)
            except DamageError:
                continue
            yield from rows.batches(columns)

    def _rebuild(
        self, chain: str, needed: Mapping[bytes, Mapping[bytes, Chunk]]
    ) -> dict[str, list[str]]:
        """Store the chunks of some damaged packs of a chain anew.

        Returns:
            What is to be read instead of each, by name.
        """
        index = ChunkIndex()
        wanted = {identity: chunk for held in needed.values() for identity, chunk in held.items()}
        stash = Stash(self.repository, chain, index, self.clock) if self.writes else None
        try:
            opened, brought = self._find(needed, wanted, stash.add if stash else _nowhere)
        except BaseException:
            if stash is not None:
                stash.abandon()
            raise
        if stash is not None:
            self.result.stored_bytes += stash.close()
        replaced: dict[str, list[str]] = {}
        for name, held in needed.items():
            lost = held.keys() - opened - brought
            if lost:
                self.lost[name] = set(lost)
            path = self.repository.pack_path(name)
            if lost and not held.keys() & brought:
                self.result.leave(path, f"{len(lost)} of its chunks are nowhere else")
                continue
            how = "its chunks stored anew"
            if self.apply and stash is None:
                self.result.leave(path, _UNWRITABLE)
            elif lost:
                self.result.leave(path, f"{how} but for {len(lost)}, which are nowhere else")
            else:
                self.result.mend(path, how)
            if stash is not None:
                text = pack_name_text(name)
                others = self.repository.state.replacements.get(text, [])
                new = _packs_with(index, held.keys() & (opened | brought))
                replaced[text] = [*others, *(one for one in new if one not in others)]
                self.touched |= {pack_name(one) for one in replaced[text]}
        return replaced

    def _find(
        self,
        needed: Mapping[bytes, Mapping[bytes, Chunk]],
        wanted: Mapping[bytes, Chunk],
        add: Callable[[bytes, Buffer], None],
    ) -> tuple[set[bytes], set[bytes]]:
        """Chunks that the damaged packs still give, and chunks that were had elsewhere."""
        opened: set[bytes] = set()
        for held in needed.values():
            for found in self.donors.own([one for one in held.values() if one.id not in opened]):
                opened.add(found.id)
                add(found.id, found.content)
                self.meter.add(len(found.content), 0)
        rest = [chunk for identity, chunk in wanted.items() if identity not in opened]
        return opened, self._bring(rest, add)

    def _bring(self, chunks: Sequence[Chunk], add: Callable[[bytes, Buffer], None]) -> set[bytes]:
        """Have chunks from siblings, from this tier's other packs, or from the source."""
        brought: set[bytes] = set()
        if not chunks:
            return brought
        newest = next(iter(reversed(self.repository.snapshots())), None)
        for found in self.donors.chunks(chunks, snapshot=newest):
            brought.add(found.id)
            add(found.id, found.content)
            self.meter.add(len(found.content), 0)
        self.donors.require()
        rest = {chunk.id for chunk in chunks} - brought
        if rest and self.source is not None:
            rows = self._live_rows(("path", "type", "size", "etag", "chunks"))
            for identity, content in chunks_of_source(
                self.source, rows, rest, self.repository.keys.identity, self.donors.note
            ):
                brought.add(identity)
                add(identity, content)
                self.result.from_source_bytes += len(content)
        return brought

    # -- the record

    def _record(self, replaced: Mapping[str, list[Any]], refers: set[str], reason: str) -> None:
        """Say what is to be read instead; from then on it is."""
        repository = self.repository
        before = {name: repository.state.replacements.get(name) for name in replaced}

        def recheck() -> None:
            state = repository.state
            gone = sorted(name for name in {*refers, *replaced} if self._is_condemned(name))
            changed = [name for name in before if state.replacements.get(name) != before[name]]
            if gone or changed:
                what = f"condemned {gone[0]}" if gone else f"repaired {changed[0]}"
                raise Conflict(
                    f"another process {what} while {repository.dataset} was repaired",
                    "run the repair again",
                )

        repository.refresh()
        recheck()
        body = {
            "type": "replacement",
            "replacements": dict(replaced),
            "reason": reason,
            "at": to_iso(self.clock()),
        }
        repository.log.append(body, recheck)
        repository.forget()

    # -- what stays lost

    def _tell_lost(self) -> None:
        """Name the files of live snapshots that need a chunk that nobody has."""
        if not self.lost:
            return
        packs = pa.array(sorted(self.lost), CHUNK_TYPE.field("pack").type)
        ids = {(pack, identity) for pack, found in self.lost.items() for identity in found}
        for snapshot in self.repository.snapshots():
            try:
                entries = self.repository.segments.entries(snapshot)
            except (DamageError, StoreError):
                continue
            for rows in entries.batches(_COLUMNS):
                flat: Any = rows.column("chunks").combine_chunks().flatten()
                if not pc.any(pc.is_in(flat.field("pack"), value_set=packs)).as_py():
                    continue
                for row in rows.to_pylist():
                    chunks = row["chunks"] or ()
                    if any((one["pack"], one["id"]) in ids for one in chunks):
                        self.result.lose(row["path"], row["size"], snapshot)


def _nowhere(identity: bytes, content: Buffer) -> None:
    """Where chunks go under a dry run."""


def _packs_with(index: ChunkIndex, ids: Any) -> list[str]:
    """Names of the packs that hold some chunks, as records say them."""
    rows = [index.claim(identity)[0] for identity in ids]
    places = index.places(rows)
    assert places is not None, "the stash is closed"
    names = index.names_of(sorted({int(number) for number in places[:, 0]}))
    assert names is not None, "the stash is closed"
    return [pack_name_text(name) for name in names]


def _placed(rows: pa.Table, index: ChunkIndex) -> pa.Table:
    """Rows with chunks where an index has them; rows of which one is nowhere as they are."""
    lists = rows.column("chunks").combine_chunks()
    here = [
        all(_is_held(index, chunk["id"]) for chunk in chunks or ()) for chunks in lists.to_pylist()
    ]
    mask = pa.array(here, pa.bool_())
    placed, rest = with_places(rows.filter(mask), index), rows.filter(pc.invert(mask))
    if not len(rest):
        return placed
    both = pa.concat_tables([placed, rest])
    return both.take(pc.sort_indices(both, sort_keys=[("path", "ascending")]))


def _is_held(index: ChunkIndex, identity: bytes) -> bool:
    return index.places([index.claim(identity)[0]]) is not None

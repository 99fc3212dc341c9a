"""Repair: what is damaged or missing in one tier is put right from whatever still holds it.

In this order: copies of documents and records from their twins; manifests, from a sibling's
snapshot of the same; packs, from a sibling that has the same bytes, else their chunks anew from
frames that still open, from siblings, from other packs of this tier, and from the source. Packs
that are older than their tier's parity get theirs.

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
from backup_pipeline.engine.errors import DamageError, StoreError
from backup_pipeline.engine.format.manifest import CHUNK_TYPE
from backup_pipeline.engine.format.pack import RUN_BYTES
from backup_pipeline.engine.format.record import Snapshot, is_hex, pack_name, pack_name_text
from backup_pipeline.engine.operations.donors import Chunk, Donors
from backup_pipeline.engine.operations.mending import UNWRITABLE, Mending
from backup_pipeline.engine.operations.reading import with_places
from backup_pipeline.engine.operations.remanifest import Recovery, recover_segments
from backup_pipeline.engine.operations.repair_packs import PackRepair
from backup_pipeline.engine.operations.repair_report import RepairReport
from backup_pipeline.engine.operations.stash import Stash
from backup_pipeline.engine.operations.twins import Healed, heal_documents, heal_records
from backup_pipeline.engine.operations.verify import verify
from backup_pipeline.engine.progress import Meter, Report
from backup_pipeline.engine.repository import Repository, utc_now
from backup_pipeline.sources.base import Source

__all__ = ["RepairReport", "repair"]

_COLUMNS = ("path", "type", "size", "chunks")


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
        self.report = report
        self.meter = Meter(f"repair {repository.dataset} in {repository.tier}", report)
        self.result = RepairReport(repository.dataset, repository.tier, apply)
        self.mending = Mending(repository, donors, source, apply, clock, self.meter, self.result)
        self.packs = PackRepair(self.mending)
        self.bare: list[bytes] = []

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
        self.packs.run(packs)
        folder = f"{repository.prefix}parity/"
        sidecars = [name.removeprefix(folder) for name in found if name.startswith(folder)]
        self.packs.heal_sidecars([pack_name(f"packs/{name}") for name in sidecars])
        self.packs.add_sidecars(self.bare)
        result.leave_rest()
        self.meter.enter("telling what stays lost")
        self._tell_lost()
        result.ok = result.damage_count == 0
        if self.mending.apply and result.damage_count:
            repository.forget()
            result.ok = verify(repository, only=self.packs.touched, report=self.report).ok
        result.notes = list(self.donors.notes)
        result.elsewhere = dict(self.donors.bytes_from)
        result.duration_s = self.meter.elapsed_s
        return result

    def _look(
        self, snapshots: Sequence[Snapshot] | None, *, read_data: float
    ) -> dict[str, list[str]]:
        """Verify; the names of what is damaged, each with the snapshots that need it."""
        found: dict[str, list[str]] = {}
        self.bare.clear()

        def note(name: str, what: str, needed: Sequence[str]) -> None:
            found.setdefault(name, []).extend(needed)
            self.result.find(name, what)

        verify(
            self.repository,
            snapshots=snapshots,
            read_data=read_data,
            found=note,
            bare=self.bare.append,
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
        healed = heal_documents(self.repository, documents, apply=self.mending.apply)
        sequences = [int(name[-8:]) for name in records]
        healed += heal_records(self.repository, sequences, apply=self.mending.apply)
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
        listed = {name: self._listed_for(name) for name in names}
        recovery = recover_segments(self.repository, self.donors, sorted({*listed.values()}))
        for name in names:
            if listed[name] in recovery.failed:
                self.result.leave(folder + name, recovery.failed[listed[name]])
        for snapshot in recovery.lost:
            self.result.lose_snapshot(snapshot)
        to_be_had = [name for name in names if listed[name] in recovery.rows]
        if to_be_had and self.mending.writes:
            self._replace_segments(recovery)
        elif self.mending.apply:
            for name in to_be_had:
                self.result.leave(folder + name, UNWRITABLE)
            return
        for name in to_be_had:
            tier = recovery.tiers.get(listed[name])
            self.result.mend(folder + name, f"written anew from tier {tier}")

    def _listed_for(self, name: str) -> str:
        """The segment that snapshots list and that this one is read for, or itself."""
        read_for = {
            segment["name"]: old.partition("/")[2]
            for old, standing in self.repository.state.replacements.items()
            if old.startswith("manifests/")
            for segment in standing
        }
        seen: set[str] = set()
        while name in read_for and name not in seen:
            seen.add(name)
            name = read_for[name]
        return name

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
        self.mending.record(replaced, refers, "manifests were damaged")

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
        with Stash(self.repository, chain, index, self.mending.clock) as stash:
            self.mending.bring(list(missing.values()), stash.add)
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

    # -- what stays lost

    def _tell_lost(self) -> None:
        """Name the files of live snapshots that need a chunk that nobody has."""
        lost = self.packs.lost
        if not lost:
            return
        packs = pa.array(sorted(lost), CHUNK_TYPE.field("pack").type)
        ids = {(pack, identity) for pack, found in lost.items() for identity in found}
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

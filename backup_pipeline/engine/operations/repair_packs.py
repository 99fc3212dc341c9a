"""The packs of a repair: healed in place where their bytes are to be had, else stored anew."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from backup_pipeline.engine.chunk_index import ChunkIndex
from backup_pipeline.engine.crypto import Buffer
from backup_pipeline.engine.errors import ObjectMissing
from backup_pipeline.engine.format.manifest import CHUNK_TYPE
from backup_pipeline.engine.format.pack import RUN_BYTES
from backup_pipeline.engine.format.record import pack_name, pack_name_text
from backup_pipeline.engine.operations.donors import Chunk
from backup_pipeline.engine.operations.mending import UNWRITABLE, Mending
from backup_pipeline.engine.operations.stash import Stash
from backup_pipeline.engine.parity import from_parity, make_parity, parity_path, share_of

__all__ = ["PackRepair"]


class PackRepair:
    """Puts damaged packs of one repository right.

    Args:
        mending: The repair's means.

    Attributes:
        lost: Ids of chunks that nobody has, by the pack that should hold them.
        touched: Packs that were damaged, and those that stand for them.
    """

    def __init__(self, mending: Mending) -> None:
        self.mending = mending
        self.repository = mending.repository
        self.donors = mending.donors
        self.meter = mending.meter
        self.result = mending.result
        self.lost: dict[bytes, set[bytes]] = {}
        self.touched: set[bytes] = set()

    def run(self, packs: Mapping[bytes, Sequence[str]]) -> None:
        """Heal packs in place where their bytes are to be had; store the chunks of others anew."""
        self.meter.enter("healing packs")
        # Known before anything is read anew: by then a snapshot may have expired and be forgotten.
        chain_of = {
            name: self.repository.state.snapshot(snapshots[0]).chain
            for name, snapshots in packs.items()
        }
        self.touched |= chain_of.keys()
        left = {name for name in chain_of if not self._heal_pack(name)}
        if not left:
            return
        self.meter.enter("storing chunks anew")
        chains: dict[str, dict[bytes, dict[bytes, Chunk]]] = {}
        for name, held in self._needed(left).items():
            if held:
                chains.setdefault(chain_of[name], {})[name] = held
            else:
                self.result.mend(self.repository.pack_path(name), "no snapshot needs it any more")
        replaced: dict[str, list[Any]] = {}
        for chain, needed in sorted(chains.items()):
            replaced |= self._rebuild(chain, needed)
        if replaced:
            refers = {other for others in replaced.values() for other in others}
            self.mending.record(replaced, refers, "packs were damaged")

    def _heal_pack(self, name: bytes) -> bool:
        """Put a pack's own bytes in its place, if they are to be had."""
        path = self.repository.pack_path(name)
        if name[:RUN_BYTES].hex() not in self.repository.state.runs:
            return False  # what it holds could not be opened
        for content, how in self._same_bytes(name):
            if self.mending.apply:
                self.repository.refresh()
                if self.mending.is_condemned(pack_name_text(name)):
                    return False
                self.repository.store.heal(path, content)
            self.result.mend(path, how)
            return True
        return False

    def _same_bytes(self, name: bytes) -> Iterator[tuple[bytes | memoryview, str]]:
        healed = from_parity(self.repository, name)
        if healed is not None:
            yield healed, "healed by its parity"
        for content in self.donors.same_pack(name):
            yield content, "healed with the same bytes of another tier"

    def heal_sidecars(self, names: Sequence[bytes]) -> None:
        """Make sidecars anew of packs that are whole."""
        for name in names:
            path = parity_path(self.repository, name)
            self.touched.add(name)
            if self._put_sidecar(name):
                self.result.mend(path, "made anew from its pack")
            else:
                self.result.leave(path, "its pack is damaged as well")

    def add_sidecars(self, names: Sequence[bytes]) -> None:
        """Give packs the sidecars that they were to have and lack."""
        self.meter.enter("adding parity")
        for name in names:
            if not self.mending.is_condemned(pack_name_text(name)):
                self.result.parity_added += self._put_sidecar(name)

    def _put_sidecar(self, name: bytes) -> bool:
        """Store the sidecar of a pack; whether the pack is whole, and it could be made."""
        try:
            content = self.repository.store.get(self.repository.pack_path(name))
        except ObjectMissing:
            return False
        if hashlib.sha256(content).digest() != name[RUN_BYTES:]:
            return False
        if self.mending.apply:
            share = self.repository.parity or share_of(self.repository, name)
            sidecar = make_parity(name, content, share)
            self.repository.store.heal(parity_path(self.repository, name), sidecar)
            self.result.stored_bytes += sum(map(len, sidecar))
        return True

    def _needed(self, packs: set[bytes]) -> dict[bytes, dict[bytes, Chunk]]:
        """What live manifests place in some packs, by pack and id."""
        found: dict[bytes, dict[bytes, Chunk]] = {name: {} for name in packs}
        names = pa.array(sorted(packs), CHUNK_TYPE.field("pack").type)
        for rows in self.mending.live_rows(("path", "type", "chunks")):
            flat: Any = rows.column("chunks").combine_chunks().flatten()
            for values in flat.filter(pc.is_in(flat.field("pack"), value_set=names)).to_pylist():
                chunk = Chunk(**values)
                found[chunk.pack].setdefault(chunk.id, chunk)
        return found

    def _rebuild(
        self, chain: str, needed: Mapping[bytes, Mapping[bytes, Chunk]]
    ) -> dict[str, list[str]]:
        """Store the chunks of some damaged packs of a chain anew.

        Returns:
            What is to be read instead of each, by name.
        """
        index = ChunkIndex()
        wanted = {identity: chunk for held in needed.values() for identity, chunk in held.items()}
        writes = self.mending.writes
        if writes:
            with Stash(self.repository, chain, index, self.mending.clock) as stash:
                opened, brought = self._find(needed, wanted, stash.add)
                self.result.stored_bytes += stash.close()
        else:
            opened, brought = self._find(needed, wanted, _nowhere)
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
            if self.mending.apply and not writes:
                self.result.leave(path, UNWRITABLE)
            elif lost:
                self.result.leave(path, f"{how} but for {len(lost)}, which are nowhere else")
            else:
                self.result.mend(path, how)
            if writes:
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
        return opened, self.mending.bring(rest, add)


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

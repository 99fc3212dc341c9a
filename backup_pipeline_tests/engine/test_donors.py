"""What one tier lost is had from the others, checked byte by byte, and from nowhere else."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from blake3 import blake3

from backup_pipeline.engine.errors import DamageError, StoreUnavailable
from backup_pipeline.engine.format.record import Snapshot
from backup_pipeline.engine.operations.donors import Chunk, Donors, stand_for_the_same
from backup_pipeline.engine.operations.restore import RestoreReport, restore
from backup_pipeline.engine.repository import Repository
from backup_pipeline.engine.store.memory import MemoryStore
from backup_pipeline.engine.store.wrappers import CountingStore
from backup_pipeline_tests.engine.repositories import (
    back_up,
    copy_over,
    make_repository,
    open_repository,
)
from backup_pipeline_tests.engine.trees import state_of


class Unreachable(CountingStore):
    """A store that works until it is switched off."""

    off = False

    def _begin(self, verb: str, name: str, written_bytes: int = 0) -> None:
        super()._begin(verb, name, written_bytes)
        if self.off:
            raise StoreUnavailable(f"{self.url} is off")


class Tiers:
    """A dataset of three tiers: the first reads the source, the others have copies."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.source = root / "source"
        self.source.mkdir()
        chance = random.Random(7)
        (self.source / "large").write_bytes(chance.randbytes(3_000_000))
        for number in range(40):
            (self.source / f"small {number:02}").write_bytes(chance.randbytes(9_000))
        self.stores = [Unreachable(MemoryStore(name)) for name in ("one", "two", "three")]
        first = make_repository(self.stores[0], tier="one")
        back_up(first, self.source)
        (self.source / "small 07").write_bytes(chance.randbytes(700_000))
        snapshot = back_up(first, self.source)
        for store, kind in ((self.stores[1], "incremental"), (self.stores[2], "full")):
            copy_over(first, snapshot, make_repository(store, tier=store.url[9:], like=first), kind)

    def open(self) -> list[Repository]:
        return [open_repository(store) for store in self.stores]

    def names(self, tier: int, what: str) -> list[str]:
        prefix = self.open()[tier].prefix
        return [one.name for one in self.stores[tier].list(prefix + what)]

    def flip(self, tier: int, name: str, at: int | None = None) -> None:
        content = bytearray(self.stores[tier].get(name))
        content[len(content) // 2 if at is None else at] ^= 4
        self.stores[tier].heal(name, bytes(content))

    def restore(self, *siblings: int) -> RestoreReport:
        repositories = self.open()
        first = repositories[0]
        donors = Donors(first, lambda: [repositories[number] for number in siblings])
        for store in self.stores:
            store.reset()
        target = self.root / f"out {random.random()}"
        report = restore(first, first.snapshots()[-1], target, donors=donors)
        if report.ok:
            assert state_of(target) == state_of(self.source)
        return report


@pytest.fixture
def tiers(tmp_path: Path) -> Tiers:
    return Tiers(tmp_path)


def test_a_sound_tier_is_restored_without_a_look_at_the_others(tiers: Tiers) -> None:
    report = tiers.restore(1, 2)
    assert report.ok and not report.elsewhere and not report.notices
    assert not tiers.stores[1].calls and not tiers.stores[2].calls


@pytest.mark.parametrize("harm", ["missing", "empty", "flipped"])
def test_damaged_packs_are_had_from_the_siblings_and_told(tiers: Tiers, harm: str) -> None:
    packs = tiers.names(0, "packs/")
    for name in packs:
        if harm == "missing":
            tiers.stores[0].delete(name)
        elif harm == "empty":
            tiers.stores[0].heal(name, b"")
        else:
            tiers.flip(0, name, 2000)
    assert not tiers.restore().ok
    report = tiers.restore(1, 2)
    assert report.ok and report.damaged_packs == len(packs)
    assert list(report.elsewhere) == ["two"] and report.elsewhere["two"] > 0
    assert sum("sought elsewhere" in notice for notice in report.notices) == len(packs)
    # What the second lost as well, the third has.
    for name in tiers.names(1, "packs/"):
        tiers.flip(1, name, 2000)
    report = tiers.restore(1, 2)
    assert report.ok and report.elsewhere["three"] > 0
    assert any("tier two could not help" in notice for notice in report.notices)


def test_what_no_tier_has_is_named_and_all_else_is_restored(tiers: Tiers) -> None:
    for tier in range(3):
        for name in tiers.names(tier, "packs/"):
            tiers.stores[tier].heal(name, bytes(tiers.stores[tier].get(name))[: 1 << 20])
    report = tiers.restore(1, 2)
    assert not report.ok
    lost = {one["path"] for one in report.damage}
    assert 0 < report.damage_count == len(lost) < report.files
    assert report.written_files == report.files - len(lost)


def test_a_store_that_fails_in_the_middle_is_replaced_by_a_sibling(tiers: Tiers) -> None:
    repositories = tiers.open()
    first = repositories[0]
    entries = first.segments.entries

    def then_off(snapshot: Snapshot) -> object:
        found = entries(snapshot)
        tiers.stores[0].off = True
        return found

    first.segments.entries = then_off  # type: ignore[method-assign,assignment]
    snapshot = first.snapshots()[-1]
    with pytest.raises(StoreUnavailable):
        restore(first, snapshot, tiers.root / "none", donors=Donors(first))
    tiers.stores[0].off = False
    donors = Donors(first, lambda: repositories[1:])
    report = restore(first, snapshot, tiers.root / "out", donors=donors)
    assert report.ok and state_of(tiers.root / "out") == state_of(tiers.source)
    assert tiers.stores[0].off and sum(report.elsewhere.values()) > 3_000_000


def test_a_lost_manifest_is_that_of_the_same_snapshot_in_a_sibling(tiers: Tiers) -> None:
    for name in tiers.names(0, "manifests/"):
        tiers.flip(0, name)
    with pytest.raises(DamageError):
        tiers.restore()
    report = tiers.restore(1, 2)
    assert report.ok and report.tier == "two"
    assert "the manifest in tier one cannot be read" in report.notices[0]
    # The sibling's own damage is healed by what is left of the first, and the other way round.
    for name in tiers.names(1, "packs/"):
        tiers.stores[1].delete(name)
    report = tiers.restore(1)
    assert report.ok and report.elsewhere == {"one": report.elsewhere["one"]}
    tiers.flip(1, tiers.names(1, "manifests/")[0])
    assert tiers.restore(1, 2).tier == "three"


def test_another_days_snapshot_does_not_stand_for_a_lost_manifest(tiers: Tiers) -> None:
    first, second, third = tiers.open()
    assert stand_for_the_same(first.snapshots()[-1], second.snapshots()[-1])
    assert stand_for_the_same(second.snapshots()[-1], third.snapshots()[-1])
    older = first.snapshots()[0]
    for name in {segment.name for segment in older.segments}:
        tiers.flip(0, first.segment_path(name))
    donors = Donors(first, lambda: [second, third])
    assert list(donors.counterparts(older)) == []
    with pytest.raises(DamageError):
        restore(first, older, tiers.root / "out", donors=donors)


def test_another_chain_of_the_same_tier_helps_where_no_sibling_can(tiers: Tiers) -> None:
    first = tiers.open()[0]
    lost = tiers.names(0, "packs/")
    full = back_up(first, tiers.source, "full")
    for name in lost:
        tiers.flip(0, name, 2000)
    first = tiers.open()[0]
    snapshot = next(one for one in reversed(first.snapshots()) if one.chain != full.chain)
    report = restore(first, snapshot, tiers.root / "out", donors=Donors(first))
    assert report.ok and state_of(tiers.root / "out") == state_of(tiers.source)
    assert list(report.elsewhere) == ["one"]


def test_siblings_that_are_off_or_have_other_keys_are_passed_over(tiers: Tiers) -> None:
    stranger = make_repository(MemoryStore("stranger"), tier="stranger")
    repositories = tiers.open()
    for name in tiers.names(0, "packs/"):
        tiers.stores[0].delete(name)
    tiers.stores[1].off = True
    first = repositories[0]
    donors = Donors(first, lambda: [stranger, *repositories[1:]])
    assert restore(first, first.snapshots()[-1], tiers.root / "out", donors=donors).ok
    assert any("other keys" in note for note in donors.notes)
    assert any("two could not help: memory://two is off" in note for note in donors.notes)


def test_chunks_are_compared_with_their_ids_before_they_are_handed_out(tiers: Tiers) -> None:
    first, second, third = tiers.open()
    flat = first.manifest(first.snapshots()[-1]).table.column("chunks").combine_chunks().flatten()
    chunks = [Chunk(**one) for one in flat.to_pylist()]
    strangers = [chunk._replace(id=bytes(32)) for chunk in chunks[:1]]
    donors = Donors(first, lambda: [second, third])
    found = {one.id: bytes(one.content) for one in donors.chunks([*chunks, *strangers])}
    assert set(found) == {chunk.id for chunk in chunks}
    for identity, content in found.items():
        assert blake3(content, key=first.keys.identity).digest() == identity
    name = chunks[0].pack
    for pack in donors.same_pack(name):
        assert bytes(pack) == bytes(tiers.stores[0].get(first.pack_path(name)))

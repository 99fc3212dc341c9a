"""Rot up to the share heals by itself; one block more does not, and is told."""

from __future__ import annotations

import random
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backup_pipeline.engine.errors import DamageError, UsageError
from backup_pipeline.engine.format.parity import decode_parity, encode_parity
from backup_pipeline.engine.galois import parity_of, recover
from backup_pipeline.engine.operations.donors import Donors
from backup_pipeline.engine.operations.repair import repair
from backup_pipeline.engine.operations.restore import restore
from backup_pipeline.engine.operations.verify import verify
from backup_pipeline.engine.parity import check_parity, from_parity, make_parity, parity_path
from backup_pipeline.engine.repository import Repository
from backup_pipeline.engine.store.memory import MemoryStore
from backup_pipeline_tests.engine.repositories import (
    back_up,
    copy_over,
    make_repository,
    open_repository,
)
from backup_pipeline_tests.engine.trees import state_of
from backup_pipeline_tests.promises import Cases


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 130), st.integers(1, 65), st.integers(1, 40), st.randoms())
def test_as_many_lost_blocks_come_back_as_there_are_parity_blocks(
    count: int, spare: int, size: int, chance: random.Random
) -> None:
    data = np.frombuffer(chance.randbytes(count * size), np.uint8).reshape(count, size)
    parity = parity_of(data, spare)
    kept = chance.sample(range(spare), chance.randint(1, spare))
    lost = chance.sample(range(count), min(count, len(kept)))
    rotten = data.copy()
    rotten[lost] ^= 0x55
    recover(rotten, lost, {number: parity[number] for number in kept})
    assert (rotten == data).all()


def test_the_code_is_the_one_that_is_described() -> None:
    """Products as docs/format-v1.md says them, worked out bit by bit."""

    def multiply(one: int, other: int) -> int:
        product = 0
        for bit in range(8):
            if other >> bit & 1:
                product ^= one << bit
        for bit in range(14, 7, -1):
            if product >> bit & 1:
                product ^= 0x11D << bit - 8
        return product

    data = np.arange(1, 7, dtype=np.uint8).reshape(3, 2)
    parity = parity_of(data, 2)
    for number, place in product(range(2), range(2)):
        wanted = 0
        for row in range(3):
            inverse = next(v for v in range(256) if multiply((3 + number) ^ row, v) == 1)
            wanted ^= multiply(inverse, int(data[row, place]))
        assert parity[number, place] == wanted


class Scene:
    """One store with parity of a tenth."""

    def __init__(self, root: Path) -> None:
        self.source = root / "source"
        self.source.mkdir()
        (self.source / "large").write_bytes(random.Random(3).randbytes(3_000_000))
        (self.source / "small").write_bytes(b"small")
        self.store = MemoryStore("one")
        repository = make_repository(self.store, tier="one")
        repository.parity = 0.1
        back_up(repository, self.source)
        [self.pack] = [one.name for one in self.store.list(f"{repository.prefix}packs/")]
        [self.sidecar] = [one.name for one in self.store.list(f"{repository.prefix}parity/")]
        self.whole = bytes(self.store.get(self.pack))
        table, _ = decode_parity(self.store.get(self.sidecar), "the sidecar")
        self.block, self.spare = table.block, len(table.parity)
        self.blocks = len(table.checksums)

    def open(self) -> Repository:
        return open_repository(self.store)

    def rot(self, blocks: list[int], chance: random.Random) -> None:
        content = bytearray(self.whole)
        for block in blocks:
            end = min(len(content), (block + 1) * self.block)
            for _ in range(chance.randint(1, 9)):
                content[chance.randrange(block * self.block, end)] ^= 1 << chance.randrange(8)
        self.store.heal(self.pack, bytes(content))


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


@pytest.mark.promise("repair")
def test_rot_up_to_the_share_heals_by_itself_and_no_more(
    scene: Scene, tmp_path: Path, cases: Cases
) -> None:
    chance = random.Random(cases.seed)
    assert scene.spare == -(-scene.blocks // 10) and scene.sidecar.endswith(scene.pack[-64:])
    for number in range(cases.scaled(6)):
        cases.add()
        count = scene.spare if number % 2 else chance.randint(1, scene.spare)
        scene.rot(chance.sample(range(scene.blocks), count), chance)
        assert not verify(scene.open()).ok
        repository = scene.open()
        report = restore(
            repository,
            repository.snapshots()[-1],
            tmp_path / f"out {number}",
            donors=Donors(repository),
        )
        assert report.ok and state_of(tmp_path / f"out {number}") == state_of(scene.source)
        done = repair(scene.open(), apply=True)
        assert done.ok and "healed by its parity" in done.mended[0]["how"]
        assert bytes(scene.store.get(scene.pack)) == scene.whole
    scene.rot(chance.sample(range(scene.blocks), scene.spare + 1), chance)
    before = bytes(scene.store.get(scene.pack))
    report = repair(scene.open(), apply=True)
    assert not report.ok and [one["path"] for one in report.lost] == ["large"]
    assert bytes(scene.store.get(scene.pack)) == before


def test_a_pack_that_was_cut_short_heals_as_far_as_the_share_goes(scene: Scene) -> None:
    cut = scene.block * (scene.blocks - scene.spare)
    scene.store.heal(scene.pack, scene.whole[:cut])
    assert repair(scene.open(), apply=True).ok
    scene.store.heal(scene.pack, scene.whole[: cut - 1])
    assert not repair(scene.open(), apply=True).ok


def test_a_sidecar_that_rots_is_told_survived_and_made_anew(scene: Scene) -> None:
    sidecar = bytes(scene.store.get(scene.sidecar))
    table = sidecar.rindex(sidecar[:16])
    assert sidecar[:16] == sidecar[table : table + 16] and len(sidecar) < len(scene.whole) * 0.12
    # The first table, one parity block and a block of the pack: the second table knows.
    rotten = bytearray(sidecar)
    rotten[3] ^= 1
    rotten[len(sidecar) - table + 5] ^= 1
    scene.store.heal(scene.sidecar, bytes(rotten))
    scene.rot(list(range(scene.spare - 1)), random.Random(1))
    assert {one["name"] for one in verify(scene.open()).damage} == {scene.pack, scene.sidecar}
    report = repair(scene.open(), apply=True)
    assert report.ok and report.mended_count == 2
    assert bytes(scene.store.get(scene.sidecar)) == sidecar
    # Both tables: the sidecar is no help, and harms nothing.
    rotten[table + 20] ^= 1
    scene.store.heal(scene.sidecar, bytes(rotten))
    assert verify(scene.open()).damage_count == 1
    repository = scene.open()
    repository.parity = 0.1
    assert repair(repository, apply=True).ok
    assert bytes(scene.store.get(scene.sidecar)) == sidecar


def test_packs_that_are_older_than_their_parity_get_theirs_by_repair(scene: Scene) -> None:
    sidecar = bytes(scene.store.get(scene.sidecar))
    scene.store.delete(scene.sidecar)
    assert not verify(scene.open()).without_parity  # nobody asked for any
    repository = scene.open()
    repository.parity = 0.1
    found = verify(repository)
    assert found.ok and found.without_parity == 1
    for apply in (False, True):
        report = repair(repository, apply=apply)
        assert report.ok and report.parity_added == 1 and not report.damage_count
        assert bool(list(scene.store.list(scene.sidecar.rpartition("/")[0]))) == apply
    assert bytes(scene.store.get(scene.sidecar)) == sidecar
    assert not verify(repository).without_parity and not repair(repository).parity_added


def test_a_sidecar_of_another_pack_or_a_later_version_is_no_help(scene: Scene) -> None:
    repository = scene.open()
    name = bytes.fromhex("".join(scene.pack.split("/")[-2:]))
    assert parity_path(repository, name) == scene.sidecar
    other = name[:16] + bytes(32)
    strange = b"".join(make_parity(other, scene.whole, 0.1))
    with pytest.raises(DamageError):
        check_parity(strange, name, "it")
    scene.rot([0], random.Random(1))
    scene.store.heal(scene.sidecar, strange)
    assert from_parity(repository, name) is None
    later = bytearray(b"".join(make_parity(name, scene.whole, 0.1)))
    later[8] = 1  # a feature that a reader must know
    from backup_pipeline.engine.format.header import PARITY, header

    later[:16] = header(PARITY, read=1)
    later[later.rindex(header(PARITY)) :] = later[:16]
    with pytest.raises(UsageError):
        decode_parity(bytes(later), "it")


def test_copies_have_sidecars_too_and_tables_say_what_they_were_made_of(scene: Scene) -> None:
    first = scene.open()
    second = make_repository(MemoryStore("two"), tier="two", like=first)
    second.parity = 0.25
    copy_over(first, first.snapshots()[-1], second)
    packs = [one.name for one in second.store.list(f"{second.prefix}packs/")]
    sidecars = [one.name for one in second.store.list(f"{second.prefix}parity/")]
    assert [name.replace("/packs/", "/parity/") for name in packs] == sidecars
    table, blocks = decode_parity(second.store.get(sidecars[0]), "it")
    assert len(table.parity) == -(-len(table.checksums) // 4)
    assert b"".join(encode_parity(table, [one for one in blocks if one is not None])) == bytes(
        second.store.get(sidecars[0])
    )
    assert verify(second).ok

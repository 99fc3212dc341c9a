"""Copy: verified on the way, byte for byte where it can be, on to any number of tiers."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from backup_pipeline.engine.errors import DamageError, UsageError
from backup_pipeline.engine.operations.copy import copy
from backup_pipeline.engine.operations.restore import restore
from backup_pipeline.engine.operations.verify import verify
from backup_pipeline.engine.repository import Repository
from backup_pipeline.engine.store.memory import MemoryStore
from backup_pipeline_tests.engine.repositories import (
    back_up,
    copy_over,
    make_repository,
    open_repository,
)
from backup_pipeline_tests.engine.trees import state_of

MIB = 1 << 20


@pytest.fixture
def source(tmp_path: Path) -> Path:
    root = tmp_path / "source"
    root.mkdir()
    for number in range(30):
        (root / f"{number:02d}").write_bytes(random.Random(number).randbytes(MIB))
    return root


@pytest.fixture
def tiers() -> list[Repository]:
    first = make_repository(MemoryStore("local"))
    others = [make_repository(MemoryStore(n), tier=n, like=first) for n in ("cloud", "offsite")]
    return [first, *others]


def pack_names(repository: Repository) -> list[str]:
    return [one.name for one in repository.store.list(f"{repository.prefix}packs/")]


def digests(repository: Repository) -> set[str]:
    return {name.rpartition("/")[2] for name in pack_names(repository)}


def damage(repository: Repository, name: str) -> None:
    content = bytearray(repository.store.get(name))
    content[len(content) // 2] ^= 1
    repository.store.heal(name, content)


def test_packs_go_from_tier_to_tier_under_the_same_digests(
    source: Path, tmp_path: Path, tiers: list[Repository]
) -> None:
    local, cloud, offsite = tiers
    for number in range(6):
        (source / f"new {number}").write_bytes(random.Random(100 + number).randbytes(50_000))
        snapshot = back_up(local, source)
        there = copy_over(local, snapshot, cloud)
        copy_over(cloud, there, offsite)
    assert digests(local) == digests(cloud) == digests(offsite)
    again = open_repository(offsite.store)
    newest = again.snapshots()[-1]
    assert newest.origin == {"tier": "cloud", "snapshot": there.id, "digest": there.digest}
    assert (newest.captured_at, newest.fingerprint) == (snapshot.captured_at, snapshot.fingerprint)
    assert verify(again).ok and restore(again, newest, tmp_path / "back").ok
    assert state_of(tmp_path / "back") == state_of(source)


def test_the_log_of_a_copying_tier_grows_with_the_copies_and_not_with_their_square(
    tmp_path: Path, tiers: list[Repository]
) -> None:
    local, cloud, _ = tiers
    (tmp_path / "source").mkdir()
    for number in range(24):
        (tmp_path / "source" / "file").write_bytes(random.Random(number).randbytes(100))
        copy_over(local, back_up(local, tmp_path / "source"), cloud)
    sizes = [one.size_bytes for one in cloud.store.list(f"{cloud.prefix}log/")]
    assert max(sizes[-8:]) <= max(sizes[:8]) + 1024
    assert set(local.state.runs) <= set(open_repository(cloud.store).state.runs)


@pytest.mark.parametrize("kind", ["full", "incremental"])
def test_damage_is_noticed_on_the_way_and_nothing_is_committed(
    source: Path, tiers: list[Repository], kind: str
) -> None:
    local, cloud, offsite = tiers
    first = copy_over(local, back_up(local, source), cloud)
    old = pack_names(local)
    (source / "new").write_bytes(random.Random(99).randbytes(2 * MIB))
    second = back_up(local, source)
    damage(local, next(name for name in pack_names(local) if name not in old))
    with pytest.raises(DamageError):
        copy_over(local, second, cloud, kind)
    assert [one.id for one in open_repository(cloud.store).snapshots()] == [first.id]
    assert verify(open_repository(cloud.store)).ok
    with pytest.raises(DamageError):
        copy_over(local, second, offsite)


def test_damage_in_what_the_target_has_already_is_not_in_the_way(
    source: Path, tmp_path: Path, tiers: list[Repository]
) -> None:
    local, cloud, _ = tiers
    copy_over(local, back_up(local, source), cloud)
    for name in pack_names(local):
        damage(local, name)
    (source / "new").write_bytes(b"new")
    second = copy_over(local, back_up(local, source), cloud)
    assert restore(cloud, second, tmp_path / "back").ok
    assert state_of(tmp_path / "back") == state_of(source)


def test_a_tier_with_other_keys_is_refused(source: Path, tiers: list[Repository]) -> None:
    stranger = make_repository(MemoryStore("stranger"), tier="stranger")
    snapshot = back_up(tiers[0], source)
    with pytest.raises(UsageError, match="different keys"):
        copy(tiers[0], snapshot, stranger, kind="full")


def test_a_full_is_made_even_where_the_last_snapshot_is_damaged(
    source: Path, tmp_path: Path, tiers: list[Repository]
) -> None:
    local, cloud, _ = tiers
    copy_over(local, back_up(local, source), cloud)
    for repository in (local, cloud):
        for one in repository.store.list(f"{repository.prefix}manifests/"):
            damage(repository, one.name)
    full = back_up(local, source, "full")
    copied = copy_over(local, full, cloud, "full")
    for repository, snapshot in ((local, full), (cloud, copied)):
        assert verify(repository, snapshots=[snapshot]).ok
        assert restore(repository, snapshot, tmp_path / repository.tier).ok

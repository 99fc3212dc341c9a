"""Interrupted at any request: what was committed stays whole, and the next run takes work up."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import pytest

from backup_pipeline.engine.errors import StoreUnavailable
from backup_pipeline.engine.format.record import Snapshot
from backup_pipeline.engine.operations import packing
from backup_pipeline.engine.operations.restore import restore
from backup_pipeline.engine.operations.verify import verify
from backup_pipeline.engine.repository import Repository
from backup_pipeline.engine.store import Store
from backup_pipeline.engine.store.local import LocalStore
from backup_pipeline.engine.store.memory import MemoryStore
from backup_pipeline.engine.store.wrappers import Fault, FaultyStore
from backup_pipeline_tests.engine.repositories import (
    back_up,
    copy_over,
    make_repository,
    open_repository,
)
from backup_pipeline_tests.engine.trees import State, state_of

MIB = 1 << 20
When = Literal["before", "after"]


@pytest.fixture(autouse=True)
def _small_packs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several packs from little content."""
    monkeypatch.setattr(packing, "PACK_TARGET_BYTES", 256 * 1024)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    root = tmp_path / "source"
    root.mkdir()
    (root / "first").write_bytes(random.Random(1).randbytes(5 * MIB))
    (root / "small").write_bytes(b"few bytes")
    return root


def grow(source: Path) -> None:
    (source / "first").unlink()
    (source / "small").write_bytes(b"other bytes")
    (source / "second").write_bytes(random.Random(2).randbytes(8 * MIB))


def clone(store: MemoryStore) -> MemoryStore:
    other = MemoryStore("clone")
    for one in store.list():
        other.put(one.name, store.get(one.name))
    return other


def pack_bytes(store: Store) -> int:
    return sum(one.size_bytes for one in store.list("repositories/") if "/packs/" in one.name)


def packs(store: Store) -> set[str]:
    """The digests that packs are named by."""
    return {
        one.name.rpartition("/")[2] for one in store.list("repositories/") if "/packs/" in one.name
    }


def expect(repository: Repository, snapshot: Snapshot, state: State, place: Path) -> None:
    assert restore(repository, repository.snapshot(snapshot.id), place).ok
    found = state_of(place)
    assert {path: (one.digest, one.mtime_ns) for path, one in found.items()} == {
        path: (one.digest, one.mtime_ns) for path, one in state.items()
    }


def expect_whole(store: Store) -> None:
    """Nothing refers to what is not there; at most the newest record waits for its twin."""
    repository = open_repository(store)
    report = verify(repository)
    newest = repository.log.name(repository.log.next_sequence - 1, twin=True)
    assert [one for one in report.damage if one["name"] != newest] == []


def faults(verb: Literal["write", "get", "list"]) -> Iterator[tuple[int, When]]:
    for number in range(1, 100):
        yield number, "before"
        if verb == "write":  # of a reading, a lost answer is as good as none
            yield number, "after"


@pytest.mark.promise("committed")
@pytest.mark.parametrize("verb", ["write", "get", "list"])
@pytest.mark.parametrize("way", ["full", "incremental", "copy", "resealing copy"])
def test_a_store_that_dies_at_any_request_loses_nothing_that_was_committed(
    source: Path, tmp_path: Path, way: str, verb: Literal["write", "get", "list"]
) -> None:
    origin, base = MemoryStore("origin"), MemoryStore("base")
    first_tier = make_repository(origin)
    other_tier = make_repository(base, tier="cloud", like=first_tier)
    first = back_up(first_tier, source)
    earlier = copy_over(first_tier, first, other_tier)
    old_state = state_of(source)
    grow(source)
    if way == "resealing copy":  # the target has some of the frames of each pack already
        patchwork = bytearray(random.Random(1).randbytes(5 * MIB))
        for place in (0, len(patchwork) // 2):  # what stays between them holds whole chunks
            patchwork[place : place + MIB // 2] = random.Random(place).randbytes(MIB // 2)
        (source / "first").write_bytes(patchwork)
        second = back_up(first_tier, source, "full")
    else:
        second = back_up(first_tier, source)
    new_state = state_of(source)
    before = pack_bytes(base)

    def go(store: Store) -> Snapshot:
        repository = open_repository(store)
        if way in {"full", "incremental"}:
            return back_up(repository, source, way)
        return copy_over(first_tier, second, repository, "incremental")

    whole = clone(base)
    go(whole)
    clean_bytes = pack_bytes(whole) - before
    new = packs(whole) - packs(base)
    as_they_were = new & packs(origin)
    assert {"copy": as_they_were == new, "resealing copy": as_they_were != new}.get(
        way, not as_they_were
    )
    reused = 0
    for number, when in faults(verb):
        store = clone(base)
        # Opening comes first, and is not what is tried here.
        dying = FaultyStore(store, [Fault(verb, number, when, prefix="repositories/", stays=True)])
        try:
            go(dying)
        except StoreUnavailable:
            pass
        else:
            break
        expect_whole(store)
        repository = open_repository(store)
        assert earlier.id in {one.id for one in repository.snapshots()}
        left = pack_bytes(store) - before
        committed = len(repository.snapshots()) > 1  # only the answer to the last write was lost
        snapshot = go(store)
        added = pack_bytes(store) - before - left
        if not committed or way == "incremental":
            # Sizes of packs are padded, and small files may be packed with other neighbours.
            assert added <= max(0, clean_bytes - left) + MIB
        reused = max(reused, left)
        assert verify(open_repository(store)).ok
        if number % 4 == 0:
            repository.refresh()
            expect(repository, snapshot, new_state, tmp_path / f"new-{number}-{when}")
            expect(repository, earlier, old_state, tmp_path / f"old-{number}-{when}")
    else:
        pytest.fail("it never came to an end")
    assert number > 1
    assert verb != "write" or reused >= clean_bytes * 0.8


CHILD = textwrap.dedent(
    """
    import sys
    from pathlib import Path
    from backup_pipeline.engine.operations import packing
    packing.PACK_TARGET_BYTES = 256 * 1024
    from backup_pipeline.engine.store.local import LocalStore
    from backup_pipeline_tests.engine.repositories import back_up, copy_over, open_repository
    store, source = LocalStore(sys.argv[1]), Path(sys.argv[2])
    if sys.argv[3:]:
        origin = open_repository(LocalStore(sys.argv[3]))
        copy_over(origin, origin.snapshots()[-1], open_repository(store))
    else:
        back_up(open_repository(store), source)
    """
)


def kill_when(ready: Callable[[], bool], *arguments: Path) -> bool:
    """Start a run in a process of its own and kill it once ``ready``; whether it came to that."""
    child = subprocess.Popen([sys.executable, "-c", CHILD, *map(os.fspath, arguments)])
    try:
        while child.poll() is None:
            if ready():
                child.send_signal(signal.SIGKILL)
                break
            time.sleep(0.001)
        return child.wait() == -signal.SIGKILL
    finally:
        child.kill()
        child.wait()


@pytest.mark.promise("committed")
@pytest.mark.parametrize("way", ["backup", "copy"])
def test_a_process_that_is_killed_costs_only_what_it_had_not_finished(
    source: Path, tmp_path: Path, way: str
) -> None:
    first_tier = make_repository(LocalStore(tmp_path / "local"))
    first, old_state = back_up(first_tier, source), state_of(source)
    place = tmp_path / "local"
    if way == "copy":
        place = tmp_path / "cloud"
        cloud = make_repository(LocalStore(place), tier="cloud", like=first_tier)
        first = copy_over(first_tier, first, cloud)
    (source / "second").write_bytes(random.Random(2).randbytes(30 * MIB))
    new_state = state_of(source)
    if way == "copy":
        back_up(first_tier, source)
    store = LocalStore(place)
    origin = [tmp_path / "local"] if way == "copy" else []
    before, killed = pack_bytes(store), 0
    for share in (0.1, 0.35, 0.6, 0.9):
        enough = before + share * 30 * MIB
        killed += kill_when(lambda at=enough: pack_bytes(store) > at, place, source, *origin)
        expect_whole(store)
        expect(open_repository(store), first, old_state, tmp_path / f"old-{share}")
    assert killed > 1
    left = pack_bytes(store)
    repository = open_repository(store)
    if way == "copy":
        snapshot = copy_over(first_tier, first_tier.snapshots()[-1], repository)
    else:
        snapshot = back_up(repository, source)
    assert snapshot.deduplicated_bytes >= left - before
    assert pack_bytes(store) < before + 34 * MIB
    assert verify(open_repository(store)).ok
    expect(repository, snapshot, new_state, tmp_path / "new")

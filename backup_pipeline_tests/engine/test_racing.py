"""Racing processes: whoever comes second waits for nobody, loses nothing and harms nothing."""

from __future__ import annotations

import random
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from backup_pipeline.engine.operations.restore import restore
from backup_pipeline.engine.operations.verify import verify
from backup_pipeline.engine.repository import unlock_store
from backup_pipeline.engine.store.local import LocalStore
from backup_pipeline_tests.engine.repositories import (
    DATASET,
    KEY,
    back_up,
    make_repository,
    open_repository,
)
from backup_pipeline_tests.engine.trees import state_of

# Each waits for a line on its standard input, so that all begin at once.
CHILD = textwrap.dedent(
    """
    import sys
    from pathlib import Path
    from backup_pipeline.engine.operations import packing
    packing.PACK_TARGET_BYTES = 256 * 1024
    from backup_pipeline.engine.store.local import LocalStore
    from backup_pipeline_tests.engine.repositories import *
    verb, store, *rest = sys.argv[1:]
    store = LocalStore(store)
    print("ready", flush=True)
    sys.stdin.readline()
    if verb == "begin":
        make_repository(store)
    if verb == "back_up":
        for _ in range(int(rest[1])):
            back_up(open_repository(store), Path(rest[0]), rest[2])
    if verb == "copy":
        origin = open_repository(LocalStore(rest[0]))
        copied = set()
        while len(copied) < int(rest[1]):
            origin.refresh()
            for snapshot in origin.snapshots():
                if snapshot.id not in copied:
                    copied.add(snapshot.id)
                    copy_over(origin, snapshot, open_repository(store))
    """
)


def race(*runs: tuple[object, ...]) -> None:
    """Run these at once, each in a process of its own; all must succeed."""
    children = [
        subprocess.Popen(
            [sys.executable, "-c", CHILD, *map(str, run)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for run in runs
    ]
    try:
        for child in children:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
        for child in children:
            assert child.stdin is not None
            child.stdin.write("go\n")
            child.stdin.flush()
        for child in children:
            child.communicate(timeout=60)
        assert [child.returncode for child in children] == [0] * len(runs)
    finally:
        for child in children:
            child.kill()
            child.communicate()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    root = tmp_path / "source"
    root.mkdir()
    for number in range(3):
        (root / f"{number}").write_bytes(random.Random(number).randbytes(2 << 20))
    (root / "small").write_text("few bytes")
    return root


def test_one_repository_comes_of_many_that_begin_it_at_once(tmp_path: Path) -> None:
    race(*[("begin", tmp_path / "store")] * 3)
    unlocked = unlock_store(LocalStore(tmp_path / "store"), [KEY])
    assert [one.dataset for one in unlocked.repositories()] == [DATASET]
    assert verify(unlocked.repository(DATASET)).ok


@pytest.mark.parametrize("kind", ["full", "incremental", "differential"])
def test_backups_of_one_dataset_at_once_are_all_kept(
    source: Path, tmp_path: Path, kind: str
) -> None:
    store = LocalStore(tmp_path / "store")
    first = make_repository(store)
    before = 0
    if kind != "full":
        back_up(first, source)
        (source / "more").write_bytes(random.Random(9).randbytes(3 << 20))
        before = 1
    race(*[("back_up", tmp_path / "store", source, 3, kind)] * 3)
    repository = open_repository(store)
    made = repository.snapshots()[before:]
    assert len({one.id for one in made}) == len(made) == 9
    assert verify(repository).ok  # also that each record follows the one before it
    for number, snapshot in enumerate(made):
        assert restore(repository, snapshot, tmp_path / f"{number}").ok
        assert state_of(tmp_path / f"{number}") == state_of(source)


def test_two_tiers_are_filled_while_their_source_tier_is_written(
    source: Path, tmp_path: Path
) -> None:
    local = LocalStore(tmp_path / "local")
    first = make_repository(local)
    back_up(first, source)
    for tier in ("cloud", "offsite"):
        make_repository(LocalStore(tmp_path / tier), tier=tier, like=first)
    (source / "more").write_bytes(random.Random(9).randbytes(3 << 20))
    race(
        ("back_up", tmp_path / "local", source, 3, "incremental"),
        ("back_up", tmp_path / "local", source, 2, "full"),
        ("copy", tmp_path / "cloud", tmp_path / "local", 6),
        ("copy", tmp_path / "cloud", tmp_path / "local", 6),
        ("copy", tmp_path / "offsite", tmp_path / "local", 6),
    )
    origin = open_repository(local)
    ids = [one.id for one in origin.snapshots()]
    assert len(ids) == 6
    for tier, times in (("cloud", 2), ("offsite", 1)):
        repository = open_repository(LocalStore(tmp_path / tier))
        copied = [one.origin["snapshot"] for one in repository.snapshots() if one.origin]
        assert sorted(copied) == sorted(ids * times)
        assert verify(repository).ok
        newest = repository.snapshots()[-1]
        assert restore(repository, newest, tmp_path / f"back-{tier}").ok
        assert (tmp_path / f"back-{tier}" / "2").read_bytes() == (source / "2").read_bytes()

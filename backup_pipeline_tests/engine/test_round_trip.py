"""Whatever a tree holds and however it changes, every snapshot ever made restores to its state."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from backup_pipeline.engine.format.record import Snapshot
from backup_pipeline.engine.operations.diff import diff
from backup_pipeline.engine.operations.drill import drill
from backup_pipeline.engine.operations.restore import restore
from backup_pipeline.engine.operations.verify import verify
from backup_pipeline.engine.repository import Repository
from backup_pipeline.engine.store.local import LocalStore
from backup_pipeline.engine.store.memory import MemoryStore
from backup_pipeline.sources import files
from backup_pipeline_tests.engine.repositories import (
    back_up,
    copy_over,
    make_repository,
    open_repository,
)
from backup_pipeline_tests.engine.trees import EDITING, MAKING, Entry, State, Step, Tree, state_of

NUMBER = st.integers(0, 999)
KINDS = st.sampled_from(["full", "incremental", "incremental", "differential"])


def steps(names: tuple[str, ...], most: int) -> st.SearchStrategy[list[Step]]:
    return st.lists(st.tuples(st.sampled_from(names), NUMBER, NUMBER, NUMBER), max_size=most)


def comparable(state: State) -> State:
    """Whether a file was written with holes is the file system's to decide; that it has some at
    all where the source had, ``holes`` tells."""
    return {path: replace(entry, holes=False) for path, entry in state.items()}


def expect(repository: Repository, snapshot: Snapshot, state: State, place: Path) -> None:
    report = restore(repository, snapshot, place)
    found = state_of(place)
    assert comparable(found) == comparable(state)
    assert report.ok and report.written_files == report.files
    assert all(found[path].holes for path, entry in state.items() if entry.holes)


def content_of(entry: Entry) -> tuple[object, ...]:
    return entry.type, entry.size, entry.digest, entry.link_target


def expect_diff(repository: Repository, old: Snapshot, new: Snapshot, a: State, b: State) -> None:
    told = {one.path: one.change for one in diff(repository, old, repository, new)}
    for path in a.keys() | b.keys():
        before, after = a.get(path), b.get(path)
        if before is None or after is None:
            # A fifo that was there before, or is now, is no part of a state.
            assert told[path] in {"added" if before is None else "deleted", "changed"}
        elif content_of(before) != content_of(after):
            assert told[path] == "changed"
        elif replace(before, group=b"", holes=False) != replace(after, group=b"", holes=False):
            assert told[path] in {"changed", "metadata"}
        elif before == after:
            assert path not in told


@settings(
    max_examples=25,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(
    making=steps(MAKING, 12),
    rounds=st.lists(st.tuples(KINDS, KINDS, steps(EDITING, 6)), min_size=1, max_size=4),
    encrypted=st.booleans(),
    on_disk=st.booleans(),
    batch_rows=st.sampled_from([1, 3, 8192]),
)
@example(
    making=[],
    rounds=[("full", "full", []), ("incremental", "incremental", [("file", 0, 0, 3)])],
    encrypted=True,
    on_disk=False,
    batch_rows=8192,
)
@example(
    making=[("file", 0, name, size) for name, size in enumerate(range(15))],
    rounds=[
        ("full", "full", []),
        ("incremental", "incremental", [("insert", n, 10, 3) for n in range(15)]),
        ("incremental", "differential", [("rewrite", n, n + 3, n) for n in range(15)]),
    ],
    encrypted=True,
    on_disk=True,
    batch_rows=3,
)
def test_every_snapshot_of_every_tier_restores_to_the_state_it_was_made_of(
    making: list[Step],
    rounds: list[tuple[str, str, list[Step]]],
    encrypted: bool,
    on_disk: bool,
    batch_rows: int,
) -> None:
    with tempfile.TemporaryDirectory() as scratch, pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "BATCH_ROWS", batch_rows)
        top = Path(scratch)
        (top / "source").mkdir()
        tree = Tree(top / "source")
        stores = [LocalStore(top / n) if on_disk else MemoryStore(n) for n in ("local", "cloud")]
        local = make_repository(stores[0], encrypted=encrypted)
        cloud = make_repository(stores[1], tier="cloud", encrypted=encrypted, like=local)
        kept: list[tuple[Snapshot, Snapshot, State]] = []
        for step in making:
            tree.apply(step)
        for kind, copy_kind, edits in rounds:
            for step in edits:
                tree.apply(step)
            snapshot = back_up(local, tree.root, kind)
            assert snapshot.status == "complete" and snapshot.integrity == 1.0
            kept.append(
                (snapshot, copy_over(local, snapshot, cloud, copy_kind), state_of(tree.root))
            )
        fresh = [open_repository(store, encrypted=encrypted) for store in stores]
        for number, (first, second, state) in enumerate(kept):
            for repository, snapshot in zip(fresh, (first, second), strict=True):
                again = repository.snapshot(snapshot.id)
                expect(repository, again, state, top / f"{repository.tier}-{number}")
                assert not list(diff(local, first, cloud, second))
            if number:
                before, _, old_state = kept[number - 1]
                expect_diff(local, before, first, old_state, state)
        for repository in fresh:
            report = verify(repository)
            assert report.ok and report.coverage == report.integrity == 1.0
            newest = repository.snapshots()[-1]
            assert drill(repository, newest, top / "scratch", sample=1.0).ok
            assert drill(repository, newest, top / "scratch", sample=0.1, seed=1).ok
        assert not any((top / "scratch").iterdir())

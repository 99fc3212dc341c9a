"""Whatever a tree holds and however it changes, every snapshot ever made restores to its state."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from backup_pipeline.engine.errors import BackupError, StoreUnavailable
from backup_pipeline.engine.format import manifest as format_manifest
from backup_pipeline.engine.format.record import Snapshot
from backup_pipeline.engine.operations.diff import diff
from backup_pipeline.engine.operations.drill import drill
from backup_pipeline.engine.operations.restore import RestoreReport, restore
from backup_pipeline.engine.operations.verify import verify
from backup_pipeline.engine.repository import Repository
from backup_pipeline.engine.store import Store
from backup_pipeline.engine.store.local import LocalStore
from backup_pipeline.engine.store.memory import MemoryStore
from backup_pipeline.engine.store.wrappers import Fault, FaultyStore
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


def expect_over(repository: Repository, snapshot: Snapshot, state: State, place: Path) -> None:
    """Restored over another state, all of the snapshot is there; what it has not stays."""
    before = state_of(place) if place.exists() else State()
    clash = any(
        (before[path].type == "directory") != (state[path].type == "directory")
        for path in before.keys() & state.keys()
    ) or any(
        before.get(path[: at.start()], entry).type != "directory"
        for path, entry in state.items()
        for at in re.finditer(b"/", path)
        if path[: at.start()] in before
    )
    told = restore_or_refusal(repository, snapshot, place, dry_run=True)
    assert (told is None) == clash
    assert comparable(state_of(place) if place.exists() else State()) == comparable(before)
    if told is None:
        shutil.rmtree(place)
    done = restore_or_refusal(repository, snapshot, place)
    assert done is not None and done.ok
    if told is not None:
        assert (told.written_files, told.skipped_files) == (done.written_files, done.skipped_files)
        assert told.replaced_files == done.replaced_files
    found, firsts = state_of(place), dict[bytes, bytes]()
    for path in sorted(state):
        first = firsts.setdefault(found[path].group, path) if found[path].group else b""
        assert replace(found[path], holes=False, group=first) == replace(state[path], holes=False)
    again = restore(repository, snapshot, place, dry_run=True)
    assert again.written_files == 0


def restore_or_refusal(
    repository: Repository, snapshot: Snapshot, place: Path, *, dry_run: bool = False
) -> RestoreReport | None:
    try:
        return restore(repository, snapshot, place, dry_run=dry_run)
    except BackupError as error:
        assert "in the way" in error.message
        return None


def interrupt(store: Store, encrypted: bool, at: int, run: Callable[[Repository], object]) -> None:
    """Begin a run that dies at one of its writes, or not at all."""
    when = "after" if at % 2 else "before"
    fault = Fault("write", at // 2 + 1, when, prefix="repositories/", stays=True)
    with suppress(StoreUnavailable):
        run(open_repository(FaultyStore(store, [fault]), encrypted=encrypted))


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
    max_examples=16,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(
    making=steps(MAKING, 12),
    rounds=st.lists(
        st.tuples(KINDS, KINDS, steps(EDITING, 6), st.none() | st.integers(0, 13)),
        min_size=1,
        max_size=4,
    ),
    encrypted=st.booleans(),
    on_disk=st.booleans(),
    batch_rows=st.sampled_from([1, 3, 8192]),
)
@example(
    making=[],
    rounds=[
        ("full", "full", [], None),
        ("incremental", "incremental", [("file", 0, 0, 3)], None),
    ],
    encrypted=True,
    on_disk=False,
    batch_rows=8192,
)
@example(
    making=[("file", 0, name, size) for name, size in enumerate(range(15))],
    rounds=[
        ("full", "full", [], 5),
        ("incremental", "incremental", [("insert", n, 10, 3) for n in range(15)], None),
        ("incremental", "differential", [("rewrite", n, n + 3, n) for n in range(15)], 7),
    ],
    encrypted=True,
    on_disk=True,
    batch_rows=3,
)
@example(
    making=[("file", 0, 1, 3), ("hard_link", 0, 0, 0)],
    rounds=[("full", "full", [("chmod", 0, 3, 0)], None)],
    encrypted=True,
    on_disk=False,
    batch_rows=1,
)
def test_every_snapshot_of_every_tier_restores_to_the_state_it_was_made_of(
    making: list[Step],
    rounds: list[tuple[str, str, list[Step], int | None]],
    encrypted: bool,
    on_disk: bool,
    batch_rows: int,
) -> None:
    with tempfile.TemporaryDirectory() as scratch, pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "BATCH_ROWS", batch_rows)
        patch.setattr(format_manifest, "BATCH_ROWS", batch_rows)
        top = Path(scratch)
        (top / "source").mkdir()
        tree = Tree(top / "source")
        stores = [LocalStore(top / n) if on_disk else MemoryStore(n) for n in ("local", "cloud")]
        local = make_repository(stores[0], encrypted=encrypted)
        cloud = make_repository(stores[1], tier="cloud", encrypted=encrypted, like=local)
        kept: list[tuple[Snapshot, Snapshot, State]] = []
        for step in making:
            tree.apply(step)
        for kind, copy_kind, edits, dies_at in rounds:
            if dies_at is not None:
                interrupt(stores[0], encrypted, dies_at, lambda r, k=kind: back_up(r, tree.root, k))
            for step in edits:
                tree.apply(step)
            snapshot = back_up(local, tree.root, kind)
            if dies_at is not None:
                again = partial(copy_over, local, snapshot, kind=copy_kind)
                interrupt(stores[1], encrypted, dies_at, again)
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
            expect_over(fresh[1], second, state, top / "over")
            if number:
                before, _, old_state = kept[number - 1]
                expect_diff(local, before, first, old_state, state)
        for repository in fresh:
            report = verify(repository)
            assert report.ok and report.coverage == report.integrity == 1.0
            newest = repository.snapshots()[-1]
            assert drill(repository, newest, top / "scratch", sample=1.0).ok
            assert drill(repository, newest, top / "scratch", sample=0.1, start=1).ok
        assert not any((top / "scratch").iterdir())

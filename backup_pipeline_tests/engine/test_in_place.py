"""Restore in place: equal to a fresh restore, moving what differs, and undone without a trace."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from backup_pipeline.engine.errors import BackupError, NotFound, UsageError
from backup_pipeline.engine.folders import SIDE_FOLDER
from backup_pipeline.engine.format.header import MAGIC, STORE
from backup_pipeline.engine.operations import in_place
from backup_pipeline.engine.operations.donors import Donors
from backup_pipeline.engine.operations.in_place import restore_in_place
from backup_pipeline.engine.operations.in_place_report import InPlaceReport
from backup_pipeline.engine.operations.restore import restore
from backup_pipeline.engine.operations.undo import accept, undo
from backup_pipeline.engine.repository import Repository
from backup_pipeline.engine.store.memory import MemoryStore
from backup_pipeline.sources.files import FilesSource
from backup_pipeline_tests.engine.repositories import back_up, copy_over, make_repository
from backup_pipeline_tests.engine.trees import (
    EDITING,
    MAKING,
    State,
    Step,
    Tree,
    no_privileges,
    place_of_nobody,
    state_of,
)

MIB = 1 << 20


@pytest.fixture(autouse=True)
def no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Power does not fail here, and the machine's other disks are no concern of these tests."""
    monkeypatch.setattr(in_place, "settle", lambda: None)


@pytest.fixture
def repository() -> Repository:
    return make_repository(MemoryStore())


def plain(state: State) -> State:
    """A state without what a restore may choose: where the holes are."""
    return {path: replace(entry, holes=False) for path, entry in state.items()}


def steps_of(names: tuple[str, ...], most: int) -> st.SearchStrategy[list[Step]]:
    number = st.integers(0, 1 << 16)
    return st.lists(st.tuples(st.sampled_from(names), number, number, number), max_size=most)


@example(making=[("file", 0, 0, 0)], editing=[("hard_link", 0, 1, 0)], delete=True)
@given(making=steps_of(MAKING, 14), editing=steps_of(EDITING, 10), delete=st.booleans())
@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
def test_in_place_is_as_a_fresh_restore_and_undone_as_before(
    making: list[Step], editing: list[Step], delete: bool
) -> None:
    with place_of_nobody() as top:
        (top / "tree").mkdir()
        tree = Tree(top / "tree")
        for step in making:
            tree.apply(step)
        repository = make_repository(MemoryStore())
        snapshot = back_up(repository, tree.root)
        for step in editing:
            tree.apply(step)
        before = state_of(tree.root)
        restore(repository, snapshot, top / "fresh")
        wanted = plain(state_of(top / "fresh"))

        told = restore_in_place(
            repository, snapshot, tree.root, delete=delete, checksum=True, dry_run=True
        )
        assert state_of(tree.root) == before
        done = restore_in_place(repository, snapshot, tree.root, delete=delete, checksum=True)
        assert done.ok and done.verified, (done.damage, done.mismatches)
        assert figures(told) == figures(done)
        found = plain(without_side(state_of(tree.root)))
        if delete:  # what was moved aside may be a further name of a file that stayed
            assert found.keys() == wanted.keys()
            assert regrouped(wanted, found) == wanted
        else:  # what is extra stays, and its folder's time with it
            assert regrouped(wanted, found) == wanted
        again = restore_in_place(repository, snapshot, tree.root, delete=delete, checksum=True)
        assert again.ok and not again.written_files and not again.retouched
        if (tree.root / SIDE_FOLDER).exists():
            undo(tree.root)
        assert not (tree.root / SIDE_FOLDER).exists()
        assert state_of(tree.root) == before


def regrouped(wanted: State, found: State) -> State:
    """What is found of the wanted paths, where an extra may be the first name of a file."""
    firsts: dict[bytes, bytes] = {}
    kept = {path: found[path] for path in sorted(wanted)}
    return {
        path: replace(entry, group=firsts.setdefault(entry.group, path)) if entry.group else entry
        for path, entry in kept.items()
    }


def without_side(state: State) -> State:
    side = os.fsencode(SIDE_FOLDER)
    return {
        path: e
        for path, e in state.items()
        if path != side and path[: len(side) + 1] != side + b"/"
    }


def figures(report: InPlaceReport) -> dict[str, Any]:
    told = report.to_json()
    for name in ("dry_run", "duration_s", "speed_bytes_per_s", "kept", "verified"):
        del told[name]
    return told


# -- by hand


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A folder with files of all sorts, as it was backed up."""
    root = tmp_path / "tree"
    (root / "data" / "deep").mkdir(parents=True)
    (root / "data" / "deep" / "small").write_text("small")
    (root / "data" / "large").write_bytes(random.Random(1).randbytes(4 * MIB))
    (root / "same").write_text("same")
    (root / "moody").write_text("moody")
    (root / "was file").write_text("file")
    (root / "was folder").mkdir()
    (root / "was folder" / "inside").write_text("inside")
    (root / "gone").write_text("gone")
    (root / "one").write_text("two names")
    os.link(root / "one", root / "two")
    (root / "link").symlink_to("data/large")
    os.utime(root / "data", ns=(10**18, 10**18))
    return root


def spoil(root: Path) -> None:
    """Every sort of change."""
    with (root / "data" / "large").open("r+b") as file:
        text = file.read()
        file.seek(0)
        file.write(text[:MIB] + b"some bytes more" + text[MIB:])
    (root / "data" / "deep" / "small").write_text("other")
    (root / "moody").chmod(0o600)
    (root / "was file").unlink()
    (root / "was file").mkdir()
    (root / "was file" / "new inside").write_text("mine")
    shutil.rmtree(root / "was folder")
    (root / "was folder").write_text("a file now")
    (root / "gone").unlink()
    (root / "two").unlink()
    (root / "two").write_text("apart")
    (root / "link").unlink()
    (root / "link").symlink_to("elsewhere")
    (root / "extra").mkdir()
    (root / "extra" / "mine").write_text("not in the snapshot")


def test_of_a_large_file_only_the_changed_part_is_fetched(
    tree: Path, repository: Repository
) -> None:
    snapshot = back_up(repository, tree)
    wanted = plain(state_of(tree))
    spoil(tree)
    before, root_time = state_of(tree), tree.stat().st_mtime_ns
    done = restore_in_place(repository, snapshot, tree, delete=True)
    assert done.ok and done.verified and done.kept
    assert plain(without_side(state_of(tree))) == wanted
    assert done.copied_bytes > 2 * MIB and done.fetched_bytes < 2 * MIB
    assert (done.same_files, done.retouched) == (2, 1)
    assert done.removed_files == 1 and done.kept_files == 7
    assert undo(tree).files == 7
    assert state_of(tree) == before and tree.stat().st_mtime_ns == root_time
    with pytest.raises(NotFound):
        undo(tree)


def test_extras_stay_and_are_counted_and_a_source_does_not_see_what_is_kept(
    tree: Path, repository: Repository
) -> None:
    snapshot = back_up(repository, tree)
    spoil(tree)
    done = restore_in_place(repository, snapshot, tree)
    assert (done.extra_files, done.removed_files, done.extras) == (1, 0, ["extra"])
    assert (tree / "extra" / "mine").read_text() == "not in the snapshot"
    assert (tree / SIDE_FOLDER / "old" / "was file" / "new inside").read_text() == "mine"
    paths = [
        path for batch in FilesSource(tree).scan() for path in batch.column("path").to_pylist()
    ]
    assert not any(path.startswith(os.fsencode(SIDE_FOLDER)) for path in paths)
    accept(tree)
    assert not (tree / SIDE_FOLDER).exists() and (tree / "gone").exists()


def test_what_is_changed_after_the_restore_survives_its_undoing(
    tree: Path, repository: Repository
) -> None:
    snapshot = back_up(repository, tree)
    spoil(tree)
    before = state_of(tree)
    restore_in_place(repository, snapshot, tree)
    (tree / "gone").write_text("edited after the restore")
    (tree / "was folder" / "late").write_text("made after the restore")
    (tree / "data" / "deep" / "small").unlink()
    report = undo(tree)
    since = tree / SIDE_FOLDER / "since"
    assert report.since == str(since) and len(report.notices) == 2
    assert (since / "gone").read_text() == "edited after the restore"
    assert (since / "was folder" / "late").read_text() == "made after the restore"
    assert without_side(state_of(tree)) == before
    with pytest.raises(UsageError, match="undone"):
        restore_in_place(repository, snapshot, tree)
    accept(tree)
    assert state_of(tree) == before


def test_another_restore_is_refused_until_the_first_has_ended(
    tree: Path, repository: Repository
) -> None:
    first = back_up(repository, tree)
    (tree / "same").write_text("second")
    second = back_up(repository, tree)
    restore_in_place(repository, first, tree)
    assert restore_in_place(repository, first, tree).kept_files == 1  # the same again: all is well
    with pytest.raises(UsageError, match="is kept"):
        restore_in_place(repository, second, tree)
    (tree / "same").write_text("and changed again")
    with pytest.raises(UsageError, match="changed since"):
        restore_in_place(repository, first, tree)
    accept(tree)
    assert restore_in_place(repository, second, tree).verified


def test_what_came_while_it_ran_is_kept_aside(
    tree: Path, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = back_up(repository, tree)
    spoil(tree)

    def meanwhile() -> None:
        (tree / "gone").write_text("came between plan and step")
        (tree / "same").write_text("not concerned")

    monkeypatch.setattr(in_place, "settle", meanwhile)
    restore_in_place(repository, snapshot, tree)
    assert (tree / SIDE_FOLDER / "old" / "gone").read_text() == "came between plan and step"


def test_places_that_are_no_target_are_refused(
    tree: Path, repository: Repository, tmp_path: Path
) -> None:
    snapshot = back_up(repository, tree)
    (tmp_path / "link").symlink_to(tree)
    with pytest.raises(UsageError, match="symbolic link"):
        restore_in_place(repository, snapshot, tmp_path / "link")
    store = tree / "backups"
    store.mkdir()
    (store / "store").write_bytes(MAGIC + STORE + b"...")
    with pytest.raises(UsageError, match="store of backups"):
        restore_in_place(repository, snapshot, tree, delete=True)
    with pytest.raises(UsageError, match="store of backups"):
        restore_in_place(repository, snapshot, store / "below")
    with pytest.raises(UsageError, match="the system"):
        restore_in_place(repository, snapshot, Path("/"), delete=True)
    assert not (tree / SIDE_FOLDER).exists()


def test_a_folder_that_is_gone_comes_back_and_goes_again(
    tree: Path, repository: Repository
) -> None:
    snapshot = back_up(repository, tree)
    wanted = plain(state_of(tree))
    shutil.rmtree(tree)
    assert restore_in_place(repository, snapshot, tree).verified
    assert plain(without_side(state_of(tree))) == wanted
    undo(tree)
    assert not tree.exists()


def test_who_is_not_root_changes_folders_that_are_closed(repository: Repository) -> None:
    with place_of_nobody() as top, no_privileges():
        root = top / "tree"
        (root / "closed" / "below").mkdir(parents=True)
        (root / "closed" / "file").write_text("one")
        (root / "closed" / "below" / "file").write_text("two")
        (root / "closed").chmod(0o500)
        snapshot = back_up(repository, root)
        wanted = plain(state_of(root))
        (root / "closed").chmod(0o700)
        (root / "closed" / "file").write_text("changed")
        shutil.rmtree(root / "closed" / "below")
        (root / "shut").mkdir()
        (root / "shut" / "mine").write_text("mine")
        (root / "shut").chmod(0o500)
        (root / "closed").chmod(0o500)
        before = state_of(root)
        done = restore_in_place(repository, snapshot, root, delete=True)
        assert done.ok, done.mismatches
        assert plain(without_side(state_of(root))) == wanted
        undo(root)
        assert state_of(root) == before
        restore_in_place(repository, snapshot, root, delete=True)
        accept(root)
        assert plain(state_of(root)) == wanted


# -- killed


class Killed(BaseException):
    """The process is gone; what it would do on its way out it does not."""


class Fuse:
    """Ends the process, so to speak, at the n-th call that changes a file system."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left, self.calls = -1, 0
        for name in ("rename", "replace", "link", "symlink", "unlink", "mkdir", "rmdir", "utime"):
            monkeypatch.setattr(os, name, self._wrap(getattr(os, name)))
        for name in ("chmod", "ftruncate", "pwrite"):
            monkeypatch.setattr(os, name, self._wrap(getattr(os, name)))
        monkeypatch.setattr(os, "open", self._wrap(os.open, only_if=_creates))

    def _wrap(self, call: Callable[..., Any], only_if: Callable[..., bool] | None = None) -> Any:
        def wrapped(*args: Any, **options: Any) -> Any:
            if only_if is None or only_if(*args):
                self.calls += 1
                if self.left == 0:
                    raise Killed
                self.left -= 1
            return call(*args, **options)

        return wrapped

    def burn(self, calls: int, act: Callable[[], Any]) -> bool:
        """Do something for so many calls; whether it came to its end."""
        self.left = calls
        try:
            act()
        except Killed:
            return False
        finally:
            self.left = -1
        return True


def _creates(path: Any, flags: int, *rest: Any) -> bool:
    return bool(flags & os.O_CREAT)


def test_killed_at_any_step_it_goes_on_or_goes_back(
    tree: Path, repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = back_up(repository, tree)
    wanted = plain(state_of(tree))
    spoil(tree)
    (tree / "data" / "large").write_text("no longer large")
    before = state_of(tree)
    kept = tmp_path / "kept"
    tree.rename(kept)
    root = tmp_path / "root"
    fuse = Fuse(monkeypatch)
    step = 0
    ended = False

    def act() -> None:
        assert restore_in_place(repository, snapshot, root, delete=True).ok

    while not ended:
        _copy(kept, root)
        ended = fuse.burn(step, act)
        if step % 2:  # back at once, and that is killed too
            back = 0
            while in_place.begun_in(root) and not fuse.burn(back, lambda: undo(root)):
                back = back * 2 + 1
            assert without_side(state_of(root)) == before, step
        act()
        assert plain(without_side(state_of(root))) == wanted, step
        if step % 3 == 0:
            undo(root)
            assert state_of(root) == before, step
        step += 1
    assert step > 60


def _copy(tree: Path, root: Path) -> None:
    shutil.rmtree(root, ignore_errors=True)
    subprocess.run(["cp", "-a", tree, root], check=True)


def test_undo_killed_at_any_step_is_gone_on_with(
    tree: Path, repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = back_up(repository, tree)
    spoil(tree)
    (tree / "data" / "large").write_text("no longer large")
    before = state_of(tree)
    kept = tmp_path / "kept"
    restore_in_place(repository, snapshot, tree, delete=True)
    tree.rename(kept)
    root = tmp_path / "root"
    fuse, step, ended = Fuse(monkeypatch), 0, False
    while not ended:
        shutil.rmtree(root, ignore_errors=True)
        kept.rename(root)
        ended = fuse.burn(step, lambda: undo(root))
        if in_place.begun_in(root) is not None:
            undo(root)
        assert without_side(state_of(root)) == before, step
        with suppress(NotFound):
            accept(root)
        assert state_of(root) == before
        assert restore_in_place(repository, snapshot, root, delete=True).ok
        root.rename(kept)
        step += 1
    assert step > 30


def test_a_full_disk_leaves_what_was(
    tree: Path, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = back_up(repository, tree)
    spoil(tree)
    before = state_of(tree)
    usage = shutil.disk_usage(tree)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(BackupError, match="are free there; nothing was changed"):
        restore_in_place(repository, snapshot, tree)
    assert state_of(tree) == before


def test_damage_is_had_elsewhere_or_costs_only_the_files_that_it_meets(
    tree: Path, repository: Repository
) -> None:
    snapshot = back_up(repository, tree)
    other = make_repository(MemoryStore(), tier="cloud", like=repository)
    copy_over(repository, snapshot, other)
    wanted = plain(state_of(tree))
    shutil.rmtree(tree / "data")
    (tree / "same").write_text("changed")
    for found in list(repository.store.list("")):
        if "packs/" in found.name:
            content = bytearray(repository.store.get(found.name))
            content[len(content) // 2] ^= 1
            repository.store.heal(found.name, bytes(content))
    alone = restore_in_place(repository, snapshot, tree)
    assert (not alone.ok and not alone.kept) or alone.damage, alone
    assert (tree / "same").read_text() in {"same", "changed"}
    if alone.kept:
        undo(tree)
    helped = restore_in_place(
        repository, snapshot, tree, donors=Donors(repository, lambda: [other])
    )
    assert helped.ok and helped.verified and helped.elsewhere
    assert plain(without_side(state_of(tree))) == wanted

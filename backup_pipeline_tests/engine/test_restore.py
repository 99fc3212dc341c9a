"""Restore: resumes, tells beforehand, refuses in time, and never leaves its target."""

from __future__ import annotations

import errno
import os
import random
import resource
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from backup_pipeline.engine.errors import BackupError, UsageError
from backup_pipeline.engine.format import manifest as format_manifest
from backup_pipeline.engine.format.record import Snapshot
from backup_pipeline.engine.operations import assembly
from backup_pipeline.engine.operations.drill import drill
from backup_pipeline.engine.operations.restore import RestoreReport, restore
from backup_pipeline.engine.repository import Repository
from backup_pipeline.engine.store.memory import MemoryStore
from backup_pipeline.engine.store.wrappers import CountingStore
from backup_pipeline_tests.engine.repositories import back_up, make_repository
from backup_pipeline_tests.engine.trees import (
    State,
    no_privileges,
    place_of_nobody,
    state_of,
)

MIB = 1 << 20


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Folders, small and large files, links of both sorts."""
    root = tmp_path / "source"
    (root / "data" / "deep" / "er").mkdir(parents=True)
    (root / "data" / "deep" / "er" / "small.csv").write_text("a,b\n1,2\n")
    (root / "data" / "large.bin").write_bytes(random.Random(1).randbytes(3 * MIB))
    (root / "data" / "large.bin").chmod(0o640)
    (root / "readme").write_text("read me")
    (root / "empty").touch()
    os.link(root / "readme", root / "data" / "same readme")
    (root / "link").symlink_to("data/large.bin")
    os.utime(root / "data", ns=(10**18, 10**18))
    return root


@pytest.fixture
def repository() -> Repository:
    return make_repository(MemoryStore())


def figures(report: RestoreReport) -> dict[str, Any]:
    """What a dry run and the run itself must agree in."""
    told = report.to_json()
    for name in ("dry_run", "duration_s", "speed_bytes_per_s", "target"):
        del told[name]
    return told


def told_and_done(repository: Repository, snapshot: Snapshot, target: Path) -> RestoreReport:
    before = state_of(target)
    told = restore(repository, snapshot, target, dry_run=True)
    assert state_of(target) == before
    done = restore(repository, snapshot, target)
    assert figures(told) == figures(done)
    return done


def groups(state: State) -> State:
    return {path: replace(entry, holes=False) for path, entry in state.items()}


def test_a_second_restore_writes_only_what_is_not_right(
    source: Path, repository: Repository, tmp_path: Path
) -> None:
    snapshot, target = back_up(repository, source), tmp_path / "target"
    first = restore(repository, snapshot, target)
    assert (first.written_files, first.skipped_files) == (5, 0)
    again = told_and_done(repository, snapshot, target)
    assert (again.written_files, again.written_bytes, again.skipped_files) == (0, 0, 5)

    with (target / "data" / "large.bin").open("r+b") as file:  # one byte, the time put back
        before = os.fstat(file.fileno())
        file.seek(2 * MIB)
        file.write(b"!")
    os.utime(target / "data" / "large.bin", ns=(before.st_atime_ns, before.st_mtime_ns))
    (target / "readme").chmod(0o777)
    (target / "empty").unlink()
    (target / "link").unlink()
    (target / "link").symlink_to("elsewhere")
    (target / "mine").write_text("not in the snapshot")
    mended = told_and_done(repository, snapshot, target)
    assert (mended.written_files, mended.skipped_files, mended.replaced_files) == (2, 3, 2)
    found = state_of(target)
    assert found.pop(b"mine").size == 19
    assert groups(found) == groups(state_of(source))


def test_names_of_one_file_become_so_again_and_a_stranger_to_it_stays_one(
    source: Path, repository: Repository, tmp_path: Path
) -> None:
    snapshot, target = back_up(repository, source), tmp_path / "target"
    restore(repository, snapshot, target)
    outside = tmp_path / "outside"
    os.link(target / "empty", outside)  # as `cp -al` leaves trees: not ours to change
    outside.chmod(0o600)
    (target / "data" / "same readme").unlink()
    (target / "data" / "same readme").write_text("read me")
    report = told_and_done(repository, snapshot, target)
    assert (report.written_files, report.skipped_files) == (2, 3)
    assert groups(state_of(target)) == groups(state_of(source))
    assert outside.stat().st_mode & 0o777 == 0o600 and outside.stat().st_nlink == 1


def test_what_a_stopped_restore_left_is_found_and_finished(
    source: Path, repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot, target = back_up(repository, source), tmp_path / "target"
    target.mkdir()
    (target / "data").mkdir()
    (target / "data" / "large.bin").write_text("an older one")

    def stop(*_: Any, **__: Any) -> None:
        os._exit(9)

    child = os.fork()
    if child == 0:
        monkeypatch.setattr(assembly, "set_metadata", stop)
        restore(repository, snapshot, target)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert told_and_done(repository, snapshot, target).ok
    assert groups(state_of(target)) == groups(state_of(source))


def test_globs_bring_the_folders_above_with_their_metadata_and_nothing_else(
    source: Path, repository: Repository, tmp_path: Path
) -> None:
    odd = os.fsencode(source) + b"/data/\xff\n.csv"
    with open(odd, "wb") as file:
        file.write(b"odd")
    os.utime(source / "data", ns=(10**18, 10**18))
    snapshot = back_up(repository, source)
    restore(repository, snapshot, tmp_path / "a", include=["**/*.csv"])
    found = state_of(tmp_path / "a")
    wanted = {b"data", b"data/deep", b"data/deep/er", b"data/deep/er/small.csv", b"data/\xff\n.csv"}
    assert found == {path: one for path, one in state_of(source).items() if path in wanted}
    restore(repository, snapshot, tmp_path / "b", include=["data/\udcff*"])
    assert set(state_of(tmp_path / "b")) == {b"data", b"data/\xff\n.csv"}
    restore(repository, snapshot, tmp_path / "c", include=["data/deep", "readme"])
    assert len(state_of(tmp_path / "c")) == 5
    for bad, error in (("nothing like it", BackupError), ("[z-a]", UsageError)):
        with pytest.raises(error, match=r"matches|pattern"):
            restore(repository, snapshot, tmp_path / "d", include=[bad])


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_a_manifest_of_many_batches_restores_as_one_of_one(
    source: Path,
    repository: Repository,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    rows: int,
) -> None:
    (source / "many").mkdir()
    for number in range(30):
        (source / "many" / f"{number}").write_text(f"{number}")
    back_up(repository, source)
    (source / "data" / "deep" / "er" / "small.csv").unlink()
    (source / "readme").write_text("read me again")
    (source / "zoo").write_text("new")
    os.link(source / "data" / "large.bin", source / "data" / "z also large.bin")
    snapshot = back_up(repository, source)
    assert len(snapshot.segments) > 1
    monkeypatch.setattr(format_manifest, "BATCH_ROWS", rows)
    wanted = groups(state_of(source))
    (tmp_path / "target").mkdir()
    for written in (36, 0):
        report = told_and_done(repository, snapshot, tmp_path / "target")
        assert (report.written_files, report.files, report.entries) == (written, 36, 41)
        assert groups(state_of(tmp_path / "target")) == wanted
    (tmp_path / "target" / "zoo").unlink()
    (tmp_path / "target" / "zoo").mkdir()  # in the way, in the last batch
    (tmp_path / "target" / "empty").unlink()
    before = state_of(tmp_path / "target")
    with pytest.raises(BackupError, match="in the way"):
        restore(repository, snapshot, tmp_path / "target")
    assert state_of(tmp_path / "target") == before
    restore(repository, snapshot, tmp_path / "some", include=["data/z*", "zoo"])
    assert set(state_of(tmp_path / "some")) == {b"data", b"data/z also large.bin", b"zoo"}


def in_the_way(target: Path, case: str) -> None:
    match case:
        case "a file where a folder belongs":
            (target / "data").write_text("mine")
        case "a link where a folder belongs":
            (target / "data").symlink_to(target)
        case "a folder where a file belongs":
            (target / "readme").mkdir()
        case "a folder where a link belongs":
            (target / "link").mkdir()
        case _:
            (target / "data").mkdir()
            (target / "data" / "deep").symlink_to("/etc")


@pytest.mark.parametrize(
    "case",
    [
        "a file where a folder belongs",
        "a link where a folder belongs",
        "a folder where a file belongs",
        "a folder where a link belongs",
        "a link deeper down",
    ],
)
def test_obstacles_are_refused_before_anything_changes(
    source: Path, repository: Repository, tmp_path: Path, case: str
) -> None:
    snapshot, target = back_up(repository, source), tmp_path / "target"
    target.mkdir()
    (target / "empty").touch(mode=0o600)  # right, but for its time and mode
    in_the_way(target, case)
    before = state_of(target)
    for dry_run in (True, False):
        with pytest.raises(BackupError, match=r"in the way .*nothing was changed") as refused:
            restore(repository, snapshot, target, dry_run=dry_run)
        assert refused.value.hint
        assert state_of(target) == before


def test_other_things_in_the_place_of_a_file_are_replaced_and_never_followed(
    source: Path, repository: Repository, tmp_path: Path
) -> None:
    snapshot, target, outside = back_up(repository, source), tmp_path / "t", tmp_path / "outside"
    target.mkdir()
    outside.write_text("stays")
    (target / "readme").symlink_to(outside)
    os.mkfifo(target / "empty")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.fspath(target / "link"))
    assert told_and_done(repository, snapshot, target).replaced_files == 3
    assert groups(state_of(target)) == groups(state_of(source))
    assert outside.read_text() == "stays"


def test_a_dry_run_to_a_place_that_is_not_there_does_not_make_it(
    source: Path, repository: Repository, tmp_path: Path
) -> None:
    report = restore(repository, back_up(repository, source), tmp_path / "a" / "b", dry_run=True)
    assert report.written_files == 5 and not (tmp_path / "a").exists()


def test_a_sparse_file_over_4_gib_stays_sparse(repository: Repository, tmp_path: Path) -> None:
    source, size = tmp_path / "source", 5 << 30
    source.mkdir()
    with (source / "sparse").open("wb") as file:
        for offset in (4096, (4 << 30) + 4096):
            file.seek(offset)
            file.write(random.Random(offset).randbytes(2 * MIB))
        file.truncate(size)
    snapshot = back_up(repository, source)
    assert snapshot.bytes == size and snapshot.read_bytes <= 4 * MIB + 3 * 4096
    assert snapshot.stored_bytes < 6 * MIB
    for _ in range(2):
        restore(repository, snapshot, tmp_path / "target")
    found = tmp_path / "target" / "sparse"
    assert found.stat().st_size == size and found.stat().st_blocks * 512 < 8 * MIB
    with (source / "sparse").open("rb") as one, found.open("rb") as other:
        for offset in (0, 2 * MIB, (4 << 30), (4 << 30) + 2 * MIB, size - 4096):
            one.seek(offset)
            other.seek(offset)
            assert one.read(MIB) == other.read(MIB)
    assert drill(repository, snapshot, tmp_path / "scratch", sample=1.0).ok
    with found.open("r+b") as other:  # in a hole, the time put back
        times = os.fstat(other.fileno())
        other.seek(3 << 30)
        other.write(b"!")
        other.flush()
        os.utime(found, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert restore(repository, snapshot, tmp_path / "target").written_files == 1
    assert found.stat().st_blocks * 512 < 8 * MIB


@pytest.fixture
def few_descriptors(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Ten files may be open at once, and the system allows few more."""
    monkeypatch.setattr(assembly, "MOST_OPEN_FILES", 10)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = max(int(name) for name in os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 40, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def alike(source: Path, count: int) -> None:
    """Files that begin with the same chunks, which come from one frame each."""
    source.mkdir()
    shared = random.Random(0).randbytes(2 * MIB)
    for number in range(count):
        (source / f"{number:04d}").write_bytes(shared + random.Random(number).randbytes(64))


@pytest.mark.usefixtures("few_descriptors")
def test_more_unfinished_files_than_may_be_open_at_once(
    repository: Repository, tmp_path: Path
) -> None:
    alike(tmp_path / "source", 100)
    snapshot = back_up(repository, tmp_path / "source")
    assert restore(repository, snapshot, tmp_path / "target").ok
    assert groups(state_of(tmp_path / "target")) == groups(state_of(tmp_path / "source"))


@pytest.mark.usefixtures("few_descriptors")
def test_damaged_files_are_named_taken_away_and_cost_no_descriptors(
    repository: Repository, tmp_path: Path
) -> None:
    source, count = tmp_path / "source", 100
    alike(source, count)
    os.link(source / "0001", source / "another name")
    os.chmod(source / "0002", 0o400)
    snapshot = back_up(repository, source)
    rows = repository.manifest(snapshot).table.select(["path", "chunks"]).to_pylist()
    for row in rows[1:count:2]:
        place = repository.pack_path(row["chunks"][-1]["pack"])
        content = bytearray(repository.store.get(place))
        content[row["chunks"][-1]["offset"]] ^= 1
        repository.store.heal(place, content)
    report = restore(repository, snapshot, tmp_path / "target")
    assert not report.ok and report.damage_count == count // 2 + 1
    assert {"0001", "another name"} <= {one["path"] for one in report.damage}
    kept = groups(state_of(source))
    found = state_of(tmp_path / "target")
    assert len(found) == count + 1 - report.damage_count
    assert report.written_files == len(found)
    assert all(kept[path].digest == entry.digest for path, entry in found.items())


def test_of_a_pack_that_was_cut_short_all_before_the_cut_is_restored(
    repository: Repository, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for number in range(12):
        (source / f"{number:02d}").write_bytes(random.Random(number).randbytes(MIB))
    snapshot = back_up(repository, source)
    (pack,) = [one.name for one in repository.store.list(f"{repository.prefix}packs/")]
    content = bytes(repository.store.get(pack))
    repository.store.heal(pack, content[: len(content) // 2])
    report = restore(repository, snapshot, tmp_path / "target")
    assert 5 <= report.damage_count <= 7 and report.written_files == 12 - report.damage_count
    assert groups(state_of(tmp_path / "target")).items() <= groups(state_of(source)).items()


def test_a_target_that_is_closed_is_named(source: Path, repository: Repository) -> None:
    snapshot = back_up(repository, source)
    restore(repository, snapshot, source.parent / "warm")  # all modules are loaded by now
    with place_of_nobody() as top, no_privileges():
        closed = top / "closed"
        closed.mkdir(mode=0o000)
        with pytest.raises(UsageError, match="closed: Permission denied"):
            restore(repository, snapshot, closed)
        with pytest.raises(UsageError, match="below: Permission denied"):
            restore(repository, snapshot, closed / "below")
        target = top / "target"
        (target / "data").mkdir(parents=True)
        (target / "data" / "deep").mkdir(mode=0o000)
        with pytest.raises(BackupError, match=r"data/deep/er could not be .*: Permission denied"):
            restore(repository, snapshot, target)
        (target / "data" / "deep").chmod(0o700)


def test_a_user_without_privileges_restores_closed_folders_and_may_do_so_again(
    repository: Repository, tmp_path: Path
) -> None:
    restore(repository, back_up(repository, tmp_path), tmp_path / "warm")
    with place_of_nobody() as top, no_privileges():
        source, target = top / "source", top / "target"
        (source / "closed" / "inner").mkdir(parents=True)
        (source / "closed" / "inner" / "file").write_text("kept")
        os.setxattr(source / "closed" / "inner" / "file", "user.why", b"read-only has it too")
        (source / "closed" / "inner" / "file").chmod(0o400)
        (source / "closed" / "inner").chmod(0o555)
        (source / "closed").chmod(0o555)
        snapshot = back_up(repository, source, "full")
        assert restore(repository, snapshot, target).notices == []
        wanted = groups(state_of(source))
        assert groups(state_of(target)) == wanted
        (target / "closed" / "inner").chmod(0o755)
        (target / "closed" / "inner" / "file").unlink()
        (target / "closed" / "inner").chmod(0o555)
        assert restore(repository, snapshot, target).written_files == 1
        assert groups(state_of(target)) == wanted
        assert drill(repository, snapshot, top / "scratch", sample=1.0).ok
        assert not any((top / "scratch").iterdir())


@pytest.mark.skipif(os.geteuid() != 0, reason="a file system of its own needs root")
def test_a_full_disk_is_told_and_what_was_restored_stays(
    repository: Repository, tmp_path: Path
) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    for number in range(12):
        (source / f"{number}").write_bytes(random.Random(number).randbytes(MIB))
    snapshot = back_up(repository, source)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "none", target], check=True)
    try:
        with pytest.raises(BackupError, match="No space left") as refused:
            restore(repository, snapshot, target)
        assert "free some space" in (refused.value.hint or "")
        left = state_of(target)
        assert left and groups(left).items() <= groups(state_of(source)).items()
        subprocess.run(["mount", "-o", "remount,size=32m", target], check=True)
        report = restore(repository, snapshot, target)
        assert report.skipped_files == len(left) and report.ok
    finally:
        subprocess.run(["umount", target], check=True)


def test_what_the_target_cannot_hold_is_named_and_the_rest_is_restored(
    source: Path, repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on FAT: no links of any sort, no large files."""

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    snapshot = back_up(repository, source)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 * MIB, limits[1]))
    try:
        monkeypatch.setattr(os, "link", refuse)
        monkeypatch.setattr(os, "symlink", refuse)
        report = restore(repository, snapshot, tmp_path / "target")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    lost = {one["path"]: one["reason"] for one in report.damage}
    assert not report.ok and lost.keys() == {"data/large.bin", "link", "readme"}
    assert all(reason.startswith("the target cannot hold it: ") for reason in lost.values())
    assert (report.written_files, report.written_bytes) == (3, 8 + 7)
    found = state_of(tmp_path / "target")
    kept = {path: one for path, one in state_of(source).items() if path.decode() not in lost}
    assert found == kept


@pytest.mark.slow
def test_a_store_far_away_is_asked_for_twice_as_much_at_a_time(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "large.bin").write_bytes(random.Random(1).randbytes(48 * MIB))
    asked: dict[int, int] = {}
    for readers in (1, 6):
        store = CountingStore(MemoryStore())
        store.readers = readers
        repository = make_repository(store)
        snapshot = back_up(repository, source)
        store.reset()
        restore(repository, snapshot, tmp_path / f"by {readers}")
        asked[readers] = store.calls["get"]
        assert state_of(tmp_path / f"by {readers}") == state_of(source)
    assert asked[6] < 0.7 * asked[1]


def test_100_000_entries_go_there_and_back(repository: Repository, tmp_path: Path) -> None:
    source = tmp_path / "source"
    for folder in range(100):
        (source / f"{folder:02d}").mkdir(parents=True)
        for number in range(999):
            (source / f"{folder:02d}" / f"{number:03d}").write_bytes(b"%d" % (number * folder))
    snapshot = back_up(repository, source)
    assert snapshot.entries == 100_000 and snapshot.files == 99_900
    report = restore(repository, snapshot, tmp_path / "target")
    assert report.ok and report.written_files == 99_900
    assert groups(state_of(tmp_path / "target")) == groups(state_of(source))

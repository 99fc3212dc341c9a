"""A tree of files as a source: all of it is listed, and what changes meanwhile is told."""

from __future__ import annotations

import os
import random
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from backup_pipeline.engine import folders
from backup_pipeline.engine.chunker import SOLID_LIMIT_BYTES
from backup_pipeline.engine.errors import DayUnavailable, SourceError
from backup_pipeline.engine.format.record import Snapshot
from backup_pipeline.engine.operations.backup import backup
from backup_pipeline.engine.operations.compare import Comparison
from backup_pipeline.engine.operations.restore import restore
from backup_pipeline.engine.repository import Repository
from backup_pipeline.engine.store.memory import MemoryStore
from backup_pipeline.sources import files
from backup_pipeline.sources.base import scan_schema
from backup_pipeline.sources.file_reader import FileReader
from backup_pipeline.sources.files import FilesSource
from backup_pipeline_tests.engine.repositories import DAY, back_up, chain_of, make_repository
from backup_pipeline_tests.engine.trees import (
    MAKING,
    Tree,
    no_privileges,
    paths_below,
    place_of_nobody,
    state_of,
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    found = tmp_path / "source"
    found.mkdir()
    return found


@pytest.fixture
def repository() -> Repository:
    return make_repository(MemoryStore())


def rows_of(source: FilesSource) -> dict[bytes, dict[str, Any]]:
    rows = [row for batch in source.scan() for row in batch.to_pylist()]
    assert [row["path"] for row in rows] == sorted({row["path"] for row in rows})
    return {row["path"]: row for row in rows}


# What is listed.


@pytest.mark.parametrize("batch_rows", [1, 7, 8192])
def test_every_entry_is_listed_once_in_the_order_of_bytes(
    root: Path, monkeypatch: pytest.MonkeyPatch, batch_rows: int
) -> None:
    monkeypatch.setattr(files, "BATCH_ROWS", batch_rows)
    tree, chance = Tree(root), random.Random(4)
    for _ in range(150):
        tree.apply((chance.choice((*MAKING, "directory")), *chance.choices(range(1000), k=3)))
    found = rows_of(FilesSource(root))
    assert found.keys() == set(paths_below(os.fsencode(root))) and len(found) > 60
    for path, row in found.items():
        one = os.lstat(os.path.join(os.fsencode(root), path))
        assert (row["inode"], row["mtime_ns"], row["mode"]) == (
            one.st_ino,
            one.st_mtime_ns,
            one.st_mode & 0o7777,
        )
        assert row["state"] == ("skipped" if row["type"] in {"fifo", "socket"} else "good")


def deep(root: Path, name: bytes, depth: int) -> None:
    """A file below so many folders of this name."""
    fd = os.open(root, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir(name, dir_fd=fd)
        below = os.open(name, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    with open(os.open("end", os.O_WRONLY | os.O_CREAT, dir_fd=fd), "w") as file:
        file.write("down here")
    os.link("end", "same", src_dir_fd=fd, dst_dir_fd=fd)
    os.symlink("end", "link", dir_fd=fd)
    os.close(fd)


@pytest.mark.parametrize(("name", "depth"), [(b"n" * 250, 40), (b"n", 1200)])
def test_paths_longer_and_deeper_than_a_call_may_name_go_there_and_back(
    tmp_path: Path, root: Path, repository: Repository, name: bytes, depth: int
) -> None:
    deep(root, name, depth)
    try:
        snapshot = back_up(repository, root)
        assert snapshot.status == "complete" and snapshot.entries == depth + 3
        assert restore(repository, snapshot, tmp_path / "back").ok
        again = restore(repository, snapshot, tmp_path / "back")
        assert (again.written_files, again.skipped_files) == (0, 2)
        twice = back_up(repository, tmp_path / "back", "full")
        assert (twice.status, twice.entries, twice.bytes) == ("complete", depth + 3, snapshot.bytes)
    finally:
        subprocess.run(["rm", "-rf", root, tmp_path / "back"], check=True)


def test_a_dataset_may_be_one_file_or_lie_behind_a_link(
    tmp_path: Path, repository: Repository
) -> None:
    (tmp_path / "v2").mkdir()
    (tmp_path / "v2" / "model.bin").write_bytes(b"weights")
    (tmp_path / "current").symlink_to("v2")
    (tmp_path / "model").symlink_to("current/model.bin")
    for place, name in (
        ("v2/model.bin", "model.bin"),
        ("current/model.bin", "model.bin"),
        ("model", "model"),
        ("current", "model.bin"),
    ):
        snapshot = back_up(repository, tmp_path / place, "full")
        assert (snapshot.entries, snapshot.bytes, snapshot.status) == (1, 7, "complete")
        target = tmp_path / f"back {place.replace('/', ' ')}"
        restore(repository, snapshot, target)
        assert (target / name).read_bytes() == b"weights"


def test_a_root_that_is_not_there_is_an_error_and_an_empty_one_is_not(
    tmp_path: Path, root: Path, repository: Repository
) -> None:
    with pytest.raises(SourceError, match="cannot be read: No such file"):
        list(FilesSource(tmp_path / "nowhere").scan())
    snapshot = back_up(repository, root)
    assert (snapshot.entries, snapshot.status, snapshot.integrity) == (0, "complete", 1.0)
    assert restore(repository, snapshot, tmp_path / "back").ok
    with pytest.raises(DayUnavailable):
        FilesSource(root).as_of(DAY)


def test_what_is_excluded_is_not_even_looked_at(root: Path) -> None:
    for path in ("keep/a.tmp/x", "keep/b", "cache/x", "deep/cache/x", "c.tmp", "c.tmp\n", "d"):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    (root / os.fsdecode(b"\xff.bak")).touch()
    (root / "cache").chmod(0o000)
    source = FilesSource(root, exclude=["**/*.tmp", "cache", "\udcff*"])
    assert set(rows_of(source)) == {b"c.tmp\n", b"d", b"deep", b"deep/cache", b"deep/cache/x"} | {
        b"keep",
        b"keep/b",
    }


def test_the_fingerprint_changes_with_any_change_and_reading_is_none(
    root: Path, repository: Repository
) -> None:
    (root / "folder").mkdir()
    (root / "folder" / "file").write_bytes(b"1234")
    (root / "link").symlink_to("folder")
    times = os.lstat(root / "folder" / "file")
    os.utime(root / "folder" / "file", ns=(1, times.st_mtime_ns))
    source = FilesSource(root)
    seen = [source.fingerprint()]
    assert back_up(repository, root).fingerprint == seen[0] == source.fingerprint()
    assert os.lstat(root / "folder" / "file").st_atime_ns == 1

    def rewritten() -> None:
        (root / "folder" / "file").write_bytes(b"abcd")
        os.utime(root / "folder" / "file", ns=(1, times.st_mtime_ns))

    def pointed_elsewhere() -> None:
        (root / "link").unlink()
        (root / "link").symlink_to("foldes")

    changes: list[Callable[[], object]] = [
        rewritten,
        pointed_elsewhere,
        lambda: (root / "folder" / "file").chmod(0o600),
        lambda: os.setxattr(root / "folder", "user.a", b"1"),
        lambda: (root / "folder" / "new").touch(),
        lambda: (root / "folder").rename(root / "other"),
        lambda: (root / "other" / "new").unlink(),
    ]
    for change in changes:
        time.sleep(0.02)
        change()
        seen.append(source.fingerprint())
    assert len(set(seen)) == len(changes) + 1


# What is read again.


@pytest.mark.parametrize("type", ["file", "directory", "symlink"])
def test_marks_are_trusted_only_once_the_clock_has_moved_on(type: str) -> None:
    blank = dict.fromkeys(scan_schema().names)
    row = {
        **blank,
        "path": b"a",
        "type": type,
        "state": "good",
        "size": 3,
        "mtime_ns": 100,
        "ctime_ns": 100,
        "inode": 7,
    }
    batch = pa.RecordBatch.from_pylist([row], schema=scan_schema())
    rows = pa.Table.from_batches([batch])
    for scan_started_ns, granularity_ns, trusted in (
        (100, 10, False),
        (110, 10, False),
        (111, 10, True),
        (50, 10, False),  # a time in the future
        (None, 10, True),
    ):
        comparison = Comparison([rows], scan_started_ns, granularity_ns)
        assert comparison.match(batch).unchanged.all() == trusted
    for name in ("size", "mtime_ns", "ctime_ns", "inode"):
        changed = pa.RecordBatch.from_pylist([{**row, name: 5}], schema=scan_schema())
        assert not Comparison([rows], None, 10).match(changed).unchanged.any()


def test_what_is_read_again_but_did_not_change_costs_and_counts_nothing(
    root: Path, repository: Repository
) -> None:
    for number in range(50):
        (root / f"{number}").write_bytes(random.Random(number).randbytes(20_000))
    (root / "large").write_bytes(random.Random(99).randbytes(2_000_000))
    first = back_up(repository, root)
    second = back_up(repository, root)  # within two seconds: no mark is old enough
    assert second.read_bytes == first.bytes
    assert second.stored_bytes == 0 and second.segments == first.segments
    assert {name: second.changes[name] for name in ("added", "changed", "deleted")} == {
        "added": 0,
        "changed": 0,
        "deleted": 0,
    }
    (root / "7").write_bytes(b"changed")
    (root / "8").unlink()
    (root / "new").touch()
    third = back_up(repository, root)
    assert [third.changes[name] for name in ("added", "changed", "deleted")] == [1, 1, 1]


def test_a_file_with_several_names_is_read_once(root: Path, repository: Repository) -> None:
    (root / "a").write_bytes(random.Random(1).randbytes(1_000_000))
    for name in ("b", "c", "d"):
        os.link(root / "a", root / name)
    snapshot = back_up(repository, root)
    assert (snapshot.bytes, snapshot.read_bytes) == (4_000_000, 1_000_000)
    assert snapshot.stored_bytes < 1_100_000


# What changes while it is read.


class Meddled(FilesSource):
    """Calls ``meddle`` with the path and the try, before and after an entry is opened."""

    def __init__(self, root: Path, meddle: Callable[[bytes, int, str], None]) -> None:
        super().__init__(root)
        self._meddle = meddle
        self._tries: dict[bytes, int] = {}

    def read_whole(self, path: bytes, *_: object) -> None:
        """Leaves all to ``open``."""

    def open(self, path: bytes, type: str, *, etag: str | None = None) -> FileReader:
        self._tries[path] = self._tries.get(path, 0) + 1
        self._meddle(path, self._tries[path], "before")
        reader = super().open(path, type, etag=etag)
        self._meddle(path, self._tries[path], "opened")
        return reader


def meddled(
    repository: Repository, root: Path, when: str, change: Callable[[int], object], path: bytes
) -> Snapshot:
    """A backup during which something happens to one path, at the moment it is opened."""

    def meddle(at: bytes, attempt: int, now: str) -> None:
        if at == path and now == when:
            change(attempt)

    return backup(repository, Meddled(root, meddle), day=DAY, **chain_of(repository, "full"))


def expect_healed(repository: Repository, root: Path, scratch: Path) -> None:
    """The next run sees all as it is."""
    snapshot = back_up(repository, root)
    assert (snapshot.status, snapshot.problem_count) == ("complete", 0)
    assert snapshot.good_entries == snapshot.entries
    restore(repository, snapshot, scratch)
    assert state_of(scratch) == state_of(root)


@pytest.fixture
def three(root: Path) -> Path:
    """A small file between two others, one of them in a folder."""
    (root / "a").write_bytes(b"a" * 1000)
    (root / "b").write_bytes(b"b" * 1000)
    (root / "c").mkdir()
    (root / "c" / "d").write_bytes(b"d" * 1000)
    return root


def replace_by(path: Path, kind: str, outside: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        path.rename(outside / "moved away")
    else:
        path.unlink()
    match kind:
        case "fifo":
            os.mkfifo(path)
        case "socket":
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(os.fspath(path))
        case "folder":
            path.mkdir()
        case "link":
            path.symlink_to(outside)
        case "link to a file":
            path.symlink_to(outside / "secret")
        case "file":
            path.write_bytes(b"a file now")
        case _:
            pass


@pytest.mark.parametrize(
    ("path", "kind", "named"),
    [
        ("b", "nothing", {"b": "vanished: No such file"}),
        ("b", "fifo", {"b": "vanished: it is no longer a file"}),
        ("b", "socket", {"b": "No such device"}),
        ("b", "folder", {"b": "vanished: it is no longer a file"}),
        ("b", "link to a file", {"b": "vanished: something else took its place"}),
        # The folder is open by then, and what was listed in it is still to be had.
        ("c", "nothing", {"c": "vanished: No such file"}),
        ("c", "file", {"c": "vanished: something else took its place"}),
        ("c", "link", {"c": "vanished: something else took its place"}),
        ("e", "nothing", {"e": "vanished: No such file"}),
        ("e", "file", {"e": "vanished: it is no longer a symlink"}),
    ],
)
def test_what_is_replaced_between_listing_and_reading_is_named_and_not_followed(
    tmp_path: Path,
    three: Path,
    repository: Repository,
    path: str,
    kind: str,
    named: dict[str, str],
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"d" * 1000)
    (outside / "d").write_bytes(b"not of this dataset")
    (three / "e").symlink_to("a")
    at = three / path
    snapshot = meddled(
        repository, three, "before", lambda _: replace_by(at, kind, outside), path.encode()
    )
    assert snapshot.status == "incomplete"
    problems = {one["path"]: one["reason"] for one in snapshot.problems}
    assert problems.keys() == named.keys()
    assert all(named[name] in reason for name, reason in problems.items())
    assert (snapshot.entries, snapshot.good_entries) == (5, 5 - len(named))
    report = restore(repository, snapshot, tmp_path / "back")
    assert not report.ok and {one["path"] for one in report.damage} == set(named)
    whole = sorted(one for one in "abe" if one not in named)
    assert [one for one in "abe" if os.path.lexists(tmp_path / "back" / one)] == whole
    assert (tmp_path / "back" / "c" / "d").read_bytes() == b"d" * 1000
    expect_healed(repository, three, tmp_path / "healed")


def test_a_folder_that_became_a_link_is_not_read_through(
    tmp_path: Path, three: Path, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "MOST_OPEN_FOLDERS", 1)
    (three / "c" / "e" / "f").mkdir(parents=True)  # "c" is opened again for what is in it
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "d").write_bytes(b"not of this dataset")

    def replace_c(_: int) -> None:
        (three / "c").rename(tmp_path / "moved away")
        (three / "c").symlink_to(outside)

    snapshot = meddled(repository, three, "before", replace_c, b"c")
    problems = {one["path"]: one["reason"] for one in snapshot.problems}
    assert set(problems) >= {"c", "c/d"}
    assert set(problems.values()) == {"vanished: something else took its place"}
    report = restore(repository, snapshot, tmp_path / "back")
    assert not report.ok and not (tmp_path / "back" / "c" / "d").exists()


LARGE = SOLID_LIMIT_BYTES * 3


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (1000, 400),
        (1000, 0),
        (0, 1000),
        (1000, 2000),
        (1000, LARGE),
        (LARGE, 1000),
        (LARGE, 0),
        (LARGE, 2 * LARGE),
        (LARGE, LARGE),
        (SOLID_LIMIT_BYTES - 1, 5 * LARGE),
    ],
)
@pytest.mark.parametrize("tries", [1, 2, 99])
def test_a_file_that_changes_while_it_is_read_is_read_again_or_called_torn(
    tmp_path: Path, three: Path, repository: Repository, before: int, after: int, tries: int
) -> None:
    (three / "b").write_bytes(random.Random(1).randbytes(before))

    def change(attempt: int) -> None:
        if attempt <= tries:
            size = after if attempt % 2 else before
            (three / "b").write_bytes(random.Random(attempt).randbytes(size))

    snapshot = meddled(repository, three, "opened", change, b"b")
    restore(repository, snapshot, tmp_path / "back")
    if tries < 3:
        assert snapshot.status == "complete"
        assert state_of(tmp_path / "back") == state_of(three)
        assert snapshot.bytes == sum(one.size for one in state_of(three).values())
    else:
        assert snapshot.status == "incomplete"
        assert (snapshot.problem_count, snapshot.good_entries) == (1, snapshot.entries - 1)
        assert snapshot.problems[0]["reason"].startswith("torn: ")
        assert (tmp_path / "back" / "a").read_bytes() == b"a" * 1000
    expect_healed(repository, three, tmp_path / "healed")


def test_a_file_that_grows_each_time_it_is_read_comes_to_an_end(
    tmp_path: Path, three: Path, repository: Repository
) -> None:
    def grow(_: int) -> None:
        with (three / "b").open("ab") as file:
            file.write(bytes(SOLID_LIMIT_BYTES * 4))

    snapshot = meddled(repository, three, "opened", grow, b"b")
    assert snapshot.problems[0]["reason"].startswith("torn: ")
    expect_healed(repository, three, tmp_path / "healed")


def test_a_sparse_file_that_gains_a_hole_between_listing_and_reading_is_good(
    tmp_path: Path, three: Path, repository: Repository
) -> None:
    (three / "b").write_bytes(b"b" * 4096)

    def extend(attempt: int) -> None:
        if attempt == 1:  # its first piece is now as long as the whole file was listed
            with (three / "b").open("r+b") as file:
                file.seek(1 << 20)
                file.write(b"e" * 4096)

    snapshot = meddled(repository, three, "before", extend, b"b")
    assert snapshot.status == "complete"
    restore(repository, snapshot, tmp_path / "back")
    assert state_of(tmp_path / "back") == state_of(three)


def test_a_good_entry_is_as_its_file_was_at_one_moment(
    tmp_path: Path, root: Path, repository: Repository
) -> None:
    """Each write raises all bytes by one, from first to last: a moment shows at most one step, and
    that a step down; what was read in parts at several moments shows steps up."""
    size = 12_000_000
    (root / "restless").write_bytes(bytes(size))
    stop = threading.Event()

    def write() -> None:
        fd, value, piece = os.open(root / "restless", os.O_WRONLY), 0, 1 << 16
        while not stop.is_set():
            value = (value + 1) % 256
            for at in range(0, size, piece):  # one that takes long keeps the time of its start
                os.pwrite(fd, bytes([value]) * min(piece, size - at), at)
            if value % 4 == 0:
                time.sleep(random.random() * 0.05)
        os.close(fd)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for number in range(6):
            snapshot = back_up(repository, root, "full")
            restore(repository, snapshot, tmp_path / f"{number}")
            content = (tmp_path / f"{number}" / "restless").read_bytes()
            if snapshot.status == "complete":
                step = size - len(content.lstrip(content[:1]))
                assert content[step:] == bytes([(content[0] - 1) % 256]) * (size - step)
            else:
                assert snapshot.problems[0]["path"] == "restless"
    finally:
        stop.set()
        thread.join()
    expect_healed(repository, root, tmp_path / "healed")


# What cannot be read.


@pytest.fixture
def of_nobody(repository: Repository, three: Path) -> Iterator[Path]:
    """Where a user without privileges has a tree, and whose rights count."""
    back_up(repository, three)  # every module is loaded as who may read it
    with place_of_nobody() as top, no_privileges():
        (top / "source" / "folder" / "inner").mkdir(parents=True)
        (top / "source" / "folder" / "inner" / "file").write_bytes(b"below")
        (top / "source" / "file").write_bytes(b"12345")
        yield top


def test_what_may_not_be_read_is_named_and_read_once_it_may(
    of_nobody: Path, repository: Repository
) -> None:
    source = of_nobody / "source"
    whole = back_up(repository, source, "full")
    (source / "file").chmod(0o000)
    (source / "folder" / "inner").chmod(0o000)
    snapshot = back_up(repository, source)
    assert snapshot.status == "incomplete" and snapshot.parent == whole.id
    assert {one["path"]: one["reason"] for one in snapshot.problems} == {
        "file": "unreadable: Permission denied",
        "folder/inner": "unreadable: Permission denied",
    }
    assert (snapshot.entries, snapshot.good_entries, snapshot.integrity) == (3, 1, 1 / 3)
    report = restore(repository, snapshot, of_nobody / "back")
    assert {one["path"] for one in report.damage} == {"file", "folder/inner"}
    (source / "file").chmod(0o600)
    (source / "folder" / "inner").chmod(0o700)
    expect_healed(repository, source, of_nobody / "healed")
    with pytest.raises(SourceError, match="Permission denied"):
        (source).chmod(0o000)
        back_up(repository, source)
    source.chmod(0o700)


# The short way for small files.


def _listed(source: FilesSource, path: bytes) -> tuple[int, int, int, int]:
    """A file's times, inode and size, as a scan lists them."""
    for batch in source.scan():
        for row in batch.to_pylist():
            if row["path"] == path:
                return row["mtime_ns"], row["ctime_ns"], row["inode"], row["size"]
    raise AssertionError(f"{path!r} is not listed")


def _swap_for_link(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(path.read_bytes())
    path.unlink()
    path.symlink_to(other)


def _punch(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(0)
        file.truncate(9000)


MEDDLING: dict[str, Callable[[Path], object]] = {
    "written anew": lambda path: path.write_bytes(b"n" * 9000),
    "grown": lambda path: path.write_bytes(b"o" * 9001),
    "cut": lambda path: os.truncate(path, 100),
    "chmod": lambda path: path.chmod(0o600),
    "replaced": lambda path: (path.unlink(), path.write_bytes(b"n" * 9000)),
    "gone": lambda path: path.unlink(),
    "now a link": _swap_for_link,
    "now a folder": lambda path: (path.unlink(), path.mkdir()),
    "full of holes": _punch,
}


@pytest.mark.parametrize("change", [None, *MEDDLING])
def test_the_short_way_reads_only_what_is_as_listed(root: Path, change: str | None) -> None:
    path = root / "folder" / "small"
    path.parent.mkdir()
    path.write_bytes(b"o" * 9000)
    time.sleep(0.06)  # a file that was just written may still change within its times
    source = FilesSource(root)
    mtime_ns, ctime_ns, inode, size = _listed(source, b"folder/small")
    if change is not None:
        times = os.stat(path).st_atime_ns, os.stat(path).st_mtime_ns
        MEDDLING[change](path)
        if path.is_file() and not path.is_symlink():
            os.utime(path, ns=times)  # as who hides a change would
        time.sleep(0.06)
    buffer = memoryview(bytearray(size))
    found = source.read_whole(b"folder/small", mtime_ns, ctime_ns, inode, buffer)
    if change is None:
        assert found is not None and (list(found), bytes(buffer)) == ([], b"o" * 9000)
    else:
        assert found is None


def test_the_short_way_leaves_fresh_files_and_holes_and_tells_attributes(root: Path) -> None:
    (root / "marked").write_bytes(b"m" * 10)
    os.setxattr(root / "marked", "user.note", b"kept")
    holes = root / "holes"
    holes.write_bytes(b"")
    os.truncate(holes, 100_000)
    time.sleep(0.06)
    (root / "fresh").write_bytes(b"f")
    source = FilesSource(root)
    found: dict[str, Any] = {}
    for name in ("marked", "holes", "fresh"):
        mtime_ns, ctime_ns, inode, size = _listed(source, name.encode())
        view = memoryview(bytearray(size))
        found[name] = source.read_whole(name.encode(), mtime_ns, ctime_ns, inode, view)
    assert found == {"marked": [(b"user.note", b"kept")], "holes": None, "fresh": None}

"""Reading ahead begins where reads are slow, stays near the reader, and ends with it."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from backup_pipeline.sources import read_ahead
from backup_pipeline.sources.read_ahead import (
    FILES_AHEAD,
    WATCHED_FILES,
    WATCHED_READS,
    ReadAhead,
)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many blocks were read from the disk so far."""
    blocks = [0]
    monkeypatch.setattr(read_ahead, "_disk_reads", lambda: blocks[0])
    return blocks


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that the kernel was asked for, in order."""
    names: list[str] = []

    def advise(fd: int, offset: int, length: int, advice: int) -> None:
        assert (offset, length, advice) == (0, 0, os.POSIX_FADV_WILLNEED)
        names.append(os.path.basename(os.readlink(f"/proc/self/fd/{fd}")))

    monkeypatch.setattr(os, "posix_fadvise", advise)
    return names


@pytest.fixture
def ahead(tmp_path: Path) -> Iterator[ReadAhead]:
    root = os.open(tmp_path, os.O_RDONLY)
    one = ReadAhead(root)
    yield one
    one.close()
    os.close(root)


def make_files(root: Path, count: int) -> list[tuple[bytes, int, str | None]]:
    folder = root / "folder"
    folder.mkdir()
    names = [f"{number:05}" for number in range(count)]
    for name in names:
        (folder / name).write_bytes(b"x")
    return [(b"folder/" + name.encode(), 1, None) for name in names]


def wait_for(asked: list[str], count: int) -> None:
    until = time.monotonic() + 10
    while len(asked) < count and time.monotonic() < until:
        time.sleep(0.002)
    time.sleep(0.02)  # it must not go further
    assert len(asked) == count


def test_files_are_asked_for_near_the_reader_once_it_is_slow(
    tmp_path: Path, ahead: ReadAhead, asked: list[str], disk: list[int]
) -> None:
    count = WATCHED_FILES + 2 * FILES_AHEAD + 100
    files = make_files(tmp_path, count)
    ahead.expect(files)
    disk[0] += WATCHED_READS
    for _ in range(WATCHED_FILES - 1):
        ahead.note()
    assert asked == []
    ahead.note()
    wait_for(asked, FILES_AHEAD + 1)
    assert asked[0] == f"{WATCHED_FILES:05}"
    for _ in range(50):
        ahead.note()
    wait_for(asked, FILES_AHEAD + 51)
    for _ in range(count):
        ahead.note()
    wait_for(asked, count - WATCHED_FILES)
    ahead.expect(files[:10])  # a disk that was slow is slow from the next batch's first file on
    wait_for(asked, count - WATCHED_FILES + 10)


def test_a_reader_that_does_not_wait_is_left_alone(
    tmp_path: Path, ahead: ReadAhead, asked: list[str], disk: list[int]
) -> None:
    ahead.expect(make_files(tmp_path, 3 * WATCHED_FILES))
    disk[0] += WATCHED_READS - 1
    for _ in range(3 * WATCHED_FILES):
        ahead.note()
    assert asked == [] and not threads_ahead()


def test_what_cannot_be_opened_is_passed_over_and_links_are_not_followed(
    tmp_path: Path, ahead: ReadAhead, asked: list[str], disk: list[int]
) -> None:
    files = make_files(tmp_path, WATCHED_FILES + 20)
    ahead.expect(files)
    first, second, last = (tmp_path / os.fsdecode(files[at][0]) for at in (-20, -19, -1))
    first.unlink()
    second.unlink()
    second.symlink_to(last)
    disk[0] += WATCHED_READS
    for _ in range(WATCHED_FILES):
        ahead.note()
    wait_for(asked, 18)
    assert asked[0] == os.fsdecode(files[-18][0]).removeprefix("folder/")


def test_a_reader_that_stops_is_not_waited_for(
    tmp_path: Path,
    ahead: ReadAhead,
    asked: list[str],
    disk: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(read_ahead, "_GIVE_UP_S", 0.1)
    ahead.expect(make_files(tmp_path, WATCHED_FILES + 2 * FILES_AHEAD))
    disk[0] += WATCHED_READS
    for _ in range(WATCHED_FILES):
        ahead.note()
    wait_for(asked, FILES_AHEAD + 1)
    time.sleep(0.3)
    assert not threads_ahead()


def threads_ahead() -> list[str]:
    return [one.name for one in threading.enumerate() if one.name == "read ahead"]


def test_reads_from_the_disk_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "cold"
    path.write_bytes(os.urandom(1 << 20))
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        before = read_ahead._disk_reads()
        os.pread(fd, 1 << 20, 0)
        if read_ahead._disk_reads() == before:
            pytest.skip("this file system is none of a disk")
        before = read_ahead._disk_reads()
        os.pread(fd, 1 << 20, 0)
        assert read_ahead._disk_reads() == before
    finally:
        os.close(fd)

"""What is special about a store in a local directory."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backup_pipeline.engine.errors import (
    ObjectExists,
    ObjectMissing,
    StoreError,
    StoreUnavailable,
)
from backup_pipeline.engine.store.local import TEMPORARY_PREFIX, LocalStore
from backup_pipeline.engine.store.memory import MemoryStore


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """What is done to the file system from here on, in order; temporary names shown as "tmp"."""
    seen: list[tuple[str, str]] = []
    real_fsync, real_link, real_unlink = os.fsync, os.link, os.unlink
    real_mkdir, real_replace, real_writev = os.mkdir, os.replace, os.writev

    def shown(path: Any) -> str:
        name = Path(path).name
        return "tmp" if name.startswith(TEMPORARY_PREFIX) else name

    def of(fd: int) -> str:
        return shown(Path(f"/proc/self/fd/{fd}").readlink())

    def record(verb: str, what: str, act: Any, *args: Any, **kwargs: Any) -> Any:
        result = act(*args, **kwargs)
        seen.append((verb, what))
        return result

    monkeypatch.setattr(os, "fsync", lambda fd: record("fsync", of(fd), real_fsync, fd))
    monkeypatch.setattr(os, "writev", lambda fd, v: record("write", of(fd), real_writev, fd, v))
    monkeypatch.setattr(os, "link", lambda a, b: record("link", shown(b), real_link, a, b))
    monkeypatch.setattr(os, "replace", lambda a, b: record("replace", shown(b), real_replace, a, b))
    monkeypatch.setattr(os, "unlink", lambda p: record("unlink", shown(p), real_unlink, p))
    monkeypatch.setattr(
        os, "mkdir", lambda p, *a, **k: record("mkdir", shown(p), real_mkdir, p, *a, **k)
    )
    return seen


def files_below(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def test_bytes_are_durable_before_their_name_and_the_name_before_put_returns(
    root: Path, steps: list[tuple[str, str]]
) -> None:
    LocalStore(root).put("packs/ab/one", [b"some ", b"bytes"])
    assert steps == [
        ("mkdir", "store"),
        ("fsync", root.parent.name),
        ("mkdir", "packs"),
        ("fsync", "store"),
        ("mkdir", "ab"),
        ("fsync", "packs"),
        ("write", "tmp"),
        ("fsync", "tmp"),
        ("link", "one"),
        ("unlink", "tmp"),
        ("fsync", "ab"),
    ]


def test_folders_that_others_made_are_synced_once(root: Path, steps: list[tuple[str, str]]) -> None:
    LocalStore(root).put("packs/ab/one", b"1")
    store = LocalStore(root)
    steps.clear()
    store.put("packs/ab/two", b"2")
    assert [step for step in steps if step[0] == "fsync"] == [
        ("fsync", root.parent.name),
        ("fsync", "store"),
        ("fsync", "packs"),
        ("fsync", "tmp"),
        ("fsync", "ab"),
    ]
    steps.clear()
    store.put("packs/ab/three", b"3")
    assert steps == [
        ("write", "tmp"),
        ("fsync", "tmp"),
        ("link", "three"),
        ("unlink", "tmp"),
        ("fsync", "ab"),
    ]


def test_finding_the_same_bytes_there_is_made_durable_too(
    root: Path, steps: list[tuple[str, str]]
) -> None:
    LocalStore(root).put("log/0", b"1")
    store = LocalStore(root)
    steps.clear()
    store.put("log/0", b"1")
    assert steps[-1] == ("fsync", "log")
    assert not any(verb in ("write", "link") for verb, _ in steps)


def test_losing_a_race_for_the_same_bytes_is_made_durable_too(
    root: Path, monkeypatch: pytest.MonkeyPatch, steps: list[tuple[str, str]]
) -> None:
    store, rival = LocalStore(root), LocalStore(root)
    store.put("log/0", b"0")
    recording_link = os.link

    def beaten(source: Any, target: Any) -> None:
        monkeypatch.setattr(os, "link", recording_link)
        rival.put("log/1", b"theirs")
        steps.clear()
        recording_link(source, target)

    monkeypatch.setattr(os, "link", beaten)
    store.put("log/1", b"theirs")
    assert steps == [("unlink", "tmp"), ("fsync", "log")]
    monkeypatch.setattr(os, "link", beaten)
    with pytest.raises(ObjectExists):
        rival_bytes_differ(store, monkeypatch, rival, recording_link)
    assert files_below(root) == ["log/0", "log/1", "log/2"]


def rival_bytes_differ(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch, rival: LocalStore, link: Any
) -> None:
    def beaten(source: Any, target: Any) -> None:
        monkeypatch.setattr(os, "link", link)
        rival.put("log/2", b"theirs")
        link(source, target)

    monkeypatch.setattr(os, "link", beaten)
    store.put("log/2", b"ours")


def test_healing_and_deleting_are_durable(root: Path, steps: list[tuple[str, str]]) -> None:
    store = LocalStore(root)
    store.put("packs/one", b"bad")
    steps.clear()
    store.heal("packs/one", b"good")
    assert steps == [
        ("write", "tmp"),
        ("fsync", "tmp"),
        ("replace", "one"),
        ("fsync", "packs"),
    ]
    steps.clear()
    store.delete("packs/one")
    assert steps == [("unlink", "one"), ("fsync", "packs")]


def test_what_a_crash_left_behind_is_not_listed_and_in_nobodys_way(root: Path) -> None:
    store = LocalStore(root)
    store.put("packs/ab/one", b"1")
    left = root / "packs" / "ab" / f"{TEMPORARY_PREFIX}0123456789abcdef"
    left.write_bytes(b"half a pa")
    (root / f"{TEMPORARY_PREFIX}ffff").write_bytes(b"")
    (root / "packs" / "cd").mkdir()
    (root / "packs" / "cd" / f"{TEMPORARY_PREFIX}0").write_bytes(b"")
    os.utime(left, (0, 0))
    (root / "lost+found").mkdir()
    assert [stored.name for stored in store.list()] == ["packs/ab/one"]
    assert store.list_names("") == ["packs"]
    assert store.list_names("packs/") == ["ab"]
    assert store.list_names("packs/ab/") == ["one"]
    store.put("packs/cd/two", b"2")
    assert store.list_names("packs/") == ["ab", "cd"]


def test_links_and_fifos_are_not_what_was_stored(root: Path, tmp_path: Path) -> None:
    store = LocalStore(root)
    store.put("a/one", b"1")
    (tmp_path / "outside").write_bytes(b"outside")
    (root / "a" / "linked").symlink_to(tmp_path / "outside")
    (root / "b").symlink_to(root / "a")
    (root / "a" / "broken").symlink_to("nowhere")
    os.mkfifo(root / "a" / "fifo")
    assert [stored.name for stored in store.list()] == ["a/one"]
    assert store.list_names("a/") == ["one"]
    assert store.list_names("") == ["a"]
    for name in ["a/linked", "a/fifo", "a/broken"]:
        assert not store.exists(name)
        with pytest.raises((ObjectMissing, StoreError)):
            store.get(name)
    with pytest.raises(StoreError):
        store.put("a/linked", b"other")
    assert (tmp_path / "outside").read_bytes() == b"outside"


def test_stored_files_are_private(root: Path) -> None:
    old = os.umask(0)
    try:
        LocalStore(root).put("packs/one", b"1")
    finally:
        os.umask(old)
    for path, mode in [(root, 0o700), (root / "packs", 0o700), (root / "packs" / "one", 0o600)]:
        assert stat.S_IMODE(path.stat().st_mode) == mode


def test_a_full_disk_is_said_and_leaves_nothing(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = LocalStore(root)
    store.put("packs/one", b"1")

    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "writev", full)
    for write in (store.put, store.heal):
        with pytest.raises(StoreError, match=r"packs/two could not be written: No space left"):
            write("packs/two", b"2")
    assert files_below(root) == ["packs/one"]


def test_a_failed_fsync_is_no_success(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = LocalStore(root)
    store.put("packs/one", b"1")

    def failing(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(StoreUnavailable, match=r"packs/two could not be reached: Input/output"):
        store.put("packs/two", b"2")
    assert files_below(root) == ["packs/one"]


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK])
def test_a_file_system_without_links_is_refused(
    root: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", refuse)
    for act in (LocalStore(root).probe, lambda: LocalStore(root).put("a", b"")):
        with pytest.raises(StoreError, match="makes no hard links") as caught:
            act()
        assert "ext4" in (caught.value.hint or "")
    assert files_below(root) == []


def test_partial_writes_and_reads_are_continued(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_writev, real_pread, real_preadv = os.writev, os.pread, os.preadv

    def little(fd: int, views: list[memoryview]) -> int:
        return real_writev(fd, [views[0][:7]])

    monkeypatch.setattr(os, "writev", little)
    monkeypatch.setattr(os, "pread", lambda fd, n, at: real_pread(fd, min(n, 5), at))
    monkeypatch.setattr(os, "preadv", lambda fd, v, at: real_preadv(fd, [v[0][:5]], at))
    store = LocalStore(root)
    content = bytes(range(200))
    store.put("a", [content[:50], content[50:57], content[57:]])
    assert (root / "a").read_bytes() == content
    assert bytes(store.get("a")) == content
    buffer = bytearray(100)
    store.get_into("a", 50, buffer)
    assert buffer == content[50:150]


def test_a_folder_that_was_taken_away_is_made_again(root: Path) -> None:
    store = LocalStore(root)
    store.put("packs/ab/one", b"1")
    store.delete("packs/ab/one")
    (root / "packs" / "ab").rmdir()
    (root / "packs").rmdir()
    store.put("packs/ab/two", b"2")
    store.put("packs/three", b"3")
    assert files_below(root) == ["packs/ab/two", "packs/three"]


def test_a_missing_directory_is_an_empty_store(root: Path) -> None:
    store = LocalStore(root)
    assert list(store.list()) == []
    assert store.list_names("") == []
    store.delete("a/b")
    assert not root.exists()


def test_a_root_that_is_a_file_is_said(root: Path) -> None:
    root.write_bytes(b"")
    with pytest.raises(StoreError, match=r"store"):
        LocalStore(root).put("a", b"")


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.EIO, errno.ESTALE])
def test_a_directory_that_cannot_be_used_is_said(
    root: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    LocalStore(root).put("a", b"1")

    def refuse(path: Any, *_: Any) -> int:
        raise OSError(number, os.strerror(number), path)

    monkeypatch.setattr(os, "open", refuse)
    monkeypatch.setattr(os, "scandir", refuse)
    for act in (
        lambda: LocalStore(root).put("b", b"2"),
        lambda: LocalStore(root).get("a"),
        lambda: list(LocalStore(root).list()),
        lambda: LocalStore(root).list_names(""),
    ):
        with pytest.raises(StoreUnavailable, match="could not be reached") as caught:
            act()
        assert os.strerror(number) in caught.value.message
        assert "mounted" in (caught.value.hint or "")


def test_reading_and_writing_leave_no_descriptors_open(root: Path) -> None:
    store = LocalStore(root)
    before = len(os.listdir("/proc/self/fd"))
    for number in range(20):
        store.put(f"a/{number}", b"some bytes")
        store.get(f"a/{number}")
        with pytest.raises(ObjectExists):
            store.put(f"a/{number}", b"others")
        list(store.list())
    listing: Iterator[Any] = store.list()
    next(listing)
    assert len(os.listdir("/proc/self/fd")) == before


segments = st.text("abz019.-_", min_size=1, max_size=4).filter(lambda text: text[0] not in ".-_")
names = st.lists(segments, min_size=1, max_size=3).map("/".join)


@settings(max_examples=60, deadline=None)
@given(chosen=st.sets(names, max_size=12), prefix=names, cut=st.integers(0, 9), after=names)
def test_lists_as_memory_does(
    tmp_path_factory: pytest.TempPathFactory, chosen: set[str], prefix: str, cut: int, after: str
) -> None:
    local, memory = LocalStore(tmp_path_factory.mktemp("store")), MemoryStore()
    for name in sorted(chosen):
        if not any(other.startswith(f"{name}/") for other in chosen):
            local.put(name, b"")
            memory.put(name, b"")
    for beginning in (prefix[:cut], ""):
        for start in (after, None):
            expected = [stored.name for stored in memory.list(beginning, after=start)]
            assert [stored.name for stored in local.list(beginning, after=start)] == expected
    assert local.list_names("") == memory.list_names("")

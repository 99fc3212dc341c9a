"""Diff: what changed and how, between snapshots of one tier or of two."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from backup_pipeline.engine.errors import UsageError
from backup_pipeline.engine.operations.diff import Change, diff
from backup_pipeline.engine.operations.restore import restore
from backup_pipeline.engine.store.memory import MemoryStore
from backup_pipeline_tests.engine.repositories import back_up, copy_over, make_repository
from backup_pipeline_tests.engine.trees import state_of

MIB = 1 << 20


def holed(path: Path, at: int) -> None:
    """A MiB of noise somewhere in three MiB of nothing."""
    with path.open("wb") as file:
        file.seek(at)
        file.write(random.Random(1).randbytes(MIB))
        file.truncate(4 * MIB)


def to_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def relink(path: Path) -> None:
    path.unlink()
    path.symlink_to("elsewhere")


CHANGES: list[tuple[str, Callable[[Path], object], str, int | None, int | None]] = [
    ("kept", lambda path: None, "", None, None),
    ("rewritten", lambda path: path.write_bytes(b"54321"), "changed", 5, 5),
    ("grown", lambda path: path.write_bytes(b"1234567"), "changed", 5, 7),
    ("gone", Path.unlink, "deleted", 5, None),
    ("new", lambda path: path.write_bytes(b"new"), "added", None, 3),
    ("closed", lambda path: path.chmod(0o600), "metadata", 5, 5),
    ("touched", lambda path: os.utime(path, ns=(1, 1)), "metadata", 5, 5),
    ("marked", lambda path: os.setxattr(path, "user.a", b"1"), "metadata", 5, 5),
    ("replaced", to_folder, "changed", 5, 0),
    ("link", relink, "changed", 0, 0),
    ("holed", lambda path: holed(path, 2 * MIB), "changed", 4 * MIB, 4 * MIB),
]


def test_each_change_is_told_as_what_it_is(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name, *_ in CHANGES:
        if name not in {"new", "link", "holed"}:
            (source / name).write_bytes(b"12345")
            (source / name).chmod(0o644)
    (source / "link").symlink_to("somewhere")
    holed(source / "holed", 0)
    local = make_repository(MemoryStore())
    cloud = make_repository(MemoryStore(), tier="cloud", like=local)
    first = back_up(local, source)
    copied = copy_over(local, first, cloud)
    times = {one.name: one.lstat().st_mtime_ns for one in source.iterdir()}
    for name, change, *_ in CHANGES:
        change(source / name)
        if name in {"rewritten", "link", "holed"}:  # as if it had been written at the same time
            os.utime(source / name, ns=(0, times[name]), follow_symlinks=False)
    second = back_up(local, source)
    expected = [
        Change(name.encode(), change, old, new)
        for name, _, change, old, new in sorted(CHANGES)
        if change
    ]
    assert list(diff(local, first, local, second)) == expected
    assert list(diff(cloud, copied, local, second)) == expected
    assert not list(diff(local, second, local, second))
    copied_again = copy_over(local, second, cloud)
    assert list(diff(cloud, copied, cloud, copied_again)) == expected
    assert restore(cloud, copied_again, tmp_path / "back").ok
    assert state_of(tmp_path / "back") == state_of(source)


def test_snapshots_with_different_keys_cannot_be_compared(tmp_path: Path) -> None:
    one, other = make_repository(MemoryStore()), make_repository(MemoryStore())
    snapshots = back_up(one, tmp_path), back_up(other, tmp_path)
    with pytest.raises(UsageError, match="different keys"):
        list(diff(one, snapshots[0], other, snapshots[1]))

"""Snapshots that no backup makes, sealed as a holder of the key could, and targets to watch."""

from __future__ import annotations

import os
import subprocess
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from backup_pipeline.engine.format.manifest import manifest_schema
from backup_pipeline.engine.format.record import Snapshot
from backup_pipeline.engine.operations.committing import deleted_rows
from backup_pipeline.engine.repository import Repository
from backup_pipeline.engine.store.memory import MemoryStore
from backup_pipeline_tests.engine.repositories import back_up, make_repository
from backup_pipeline_tests.engine.trees import State, state_of

FOLDINGS: dict[str, Callable[[str], str]] = {
    "cases": str.casefold,
    "forms": lambda text: unicodedata.normalize("NFD", text),
    "both": lambda text: unicodedata.normalize("NFD", text).casefold(),
}
# What makes a file system that takes names of other cases for the same, and how to mount it.
REAL_FOLDINGS = {
    "ext4": ("8M", ("mkfs.ext4", "-q", "-O", "casefold", "-E", "encoding=utf8"), "chattr +F"),
    "xfs": ("320M", ("mkfs.xfs", "-q", "-n", "version=ci"), ""),
    "vfat": ("8M", ("mkfs.vfat",), ""),
}


class Forge:
    """A repository of one real snapshot, to make others of.

    Args:
        place: An empty folder; what is made below it stays out of everybody's way.
    """

    def __init__(self, place: Path) -> None:
        self.place = place
        root = place / "source"
        root.mkdir()
        self.repository: Repository = make_repository(MemoryStore())
        self.contents = [b"%d, and what follows " % number * 9 for number in range(6)]
        for number, content in enumerate(self.contents):
            (root / str(number)).write_bytes(content)
        self.snapshot: Snapshot = back_up(self.repository, root)
        self._blank = deleted_rows([(b"a", 0)]).to_pylist()[0]
        self._files = self.repository.manifest(self.snapshot).table.to_pylist()

    def row(self, path: bytes, kind: str = "file", number: int = 0, **said: Any) -> dict[str, Any]:
        """A manifest's row; a file has the content of that number."""
        row = {**self._blank, "type": kind, "mode": 0o700 if kind == "directory" else 0o600}
        if kind == "file":
            row = dict(self._files[number % len(self._files)])
        if kind == "symlink":
            row["link_target"] = b"nowhere"
        return {**row, "path": path, **said}

    def snapshot_of(self, rows: Sequence[dict[str, Any]]) -> Snapshot:
        """A snapshot with these rows."""
        table = pa.Table.from_pylist(
            sorted(rows, key=lambda row: row["path"]), schema=manifest_schema()
        )
        return replace(self.snapshot, segments=[self.repository.put_segment(table)])

    def content(self, row: dict[str, Any]) -> bytes:
        """What a file's row stands for."""
        ids = [one["chunks"] for one in self._files]
        return self.contents[ids.index(row["chunks"])]

    def names(self) -> dict[str, bytes]:
        """Everything that the repository's store holds."""
        store = self.repository.store
        return {one.name: bytes(store.get(one.name)) for one in store.list()}

    def check_contents(self, target: Path) -> None:
        """That every file below a target holds contents that were backed up, holes between."""
        for path in target.rglob("*"):
            if path.is_file() and not path.is_symlink() and path.stat().st_size < 1 << 20:
                left = path.read_bytes()
                for content in self.contents:
                    left = left.replace(content, b"")
                assert not left.strip(b"\0"), path


@contextmanager
def surroundings_unchanged(yard: Path, target: Path) -> Iterator[None]:
    """Within it nothing below a folder may change but what is below the target."""

    def around() -> State:
        inside = os.fsencode(target.relative_to(yard)) + b"/"
        return {path: one for path, one in state_of(yard).items() if not path.startswith(inside)}

    before = around()
    yield
    after = around()
    before.pop(os.fsencode(target.relative_to(yard)))
    after.pop(os.fsencode(target.relative_to(yard)))
    assert after == before


@contextmanager
def taking_names_for_the_same(fold: Callable[[str], str]) -> Iterator[None]:
    """Within it, folders that are reached by descriptors keep names and do not tell them apart.

    As on the file systems of Windows and macOS: a name is kept as it was first written, and found
    under every spelling of it.
    """

    def key(name: bytes | str) -> str:
        return fold(os.fsencode(name).decode("utf-8", "surrogateescape"))

    def kept(name: Any, folder: int | None) -> Any:
        if folder is None or os.fsencode(name).startswith(b"/"):
            return name
        names = map(os.fsencode, listdir(folder))
        return next((one for one in names if key(one) == key(name)), name)

    def by(name: str) -> Callable[..., Any]:
        original = getattr(os, name)

        def call(path: Any, *rest: Any, **said: Any) -> Any:
            return original(kept(path, said.get("dir_fd")), *rest, **said)

        return call

    def of_two(name: str) -> Callable[..., Any]:
        original = getattr(os, name)

        def call(first: Any, second: Any, **said: Any) -> Any:
            first = kept(first, said.get("src_dir_fd"))
            return original(first, kept(second, said.get("dst_dir_fd")), **said)

        return call

    def symlink(target: Any, name: Any, **said: Any) -> None:
        make_symlink(target, kept(name, said.get("dir_fd")), **said)

    listdir, make_symlink = os.listdir, os.symlink
    with pytest.MonkeyPatch.context() as patch:
        for name in ("open", "mkdir", "stat", "unlink", "readlink", "chown", "utime"):
            patch.setattr(os, name, by(name))
        for name in ("link", "rename"):
            patch.setattr(os, name, of_two(name))
        patch.setattr(os, "symlink", symlink)
        yield


@contextmanager
def mounted(kind: str, place: Path) -> Iterator[Path]:
    """A file system of its own that takes names for the same, below a folder; or a skipped test."""
    if os.geteuid() != 0:
        pytest.skip("a file system of its own needs root")
    size, make, mark = REAL_FOLDINGS[kind]
    image, root = place / f"{kind}.image", place / kind
    root.mkdir()
    with image.open("wb") as file:
        file.truncate(int(size.removesuffix("M")) << 20)
    try:
        subprocess.run([*make, image], check=True, capture_output=True)
        subprocess.run(["mount", "-o", "loop", image, root], check=True, capture_output=True)
    except OSError as error:
        pytest.skip(f"no {kind} that folds names can be made here: {error}")
    except subprocess.CalledProcessError:
        pytest.skip(f"this kernel mounts no {kind} that folds names")
    try:
        (root / "target").mkdir()
        if mark:
            subprocess.run([*mark.split(), root / "target"], check=True)
        yield root
    finally:
        subprocess.run(["umount", root], check=True)

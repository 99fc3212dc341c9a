"""Files below a local path: everything a faithful restore of a file tree needs."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from backup_pipeline.engine.errors import DayUnavailable, SourceError
from backup_pipeline.engine.folders import Folders, split
from backup_pipeline.sources.base import (
    GOOD,
    SKIPPED,
    Fingerprint,
    Source,
    Unreadable,
    scan_schema,
)
from backup_pipeline.sources.file_reader import FileReader, lost, read_whole, type_of

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["FilesSource"]

BATCH_ROWS = 8192
_KEPT = frozenset({"file", "directory", "symlink"})

Row = tuple[bytes, str, str, str | None, int, int, int, int, int, int, int, int, int]


def _row(path: bytes, found: os.stat_result) -> Row:
    mode = found.st_mode
    type = type_of(mode)
    kept = type in _KEPT
    return (
        path,
        type,
        GOOD if kept else SKIPPED,
        None if kept else f"a {type} has no bytes to keep",
        found.st_size if type == "file" else 0,
        found.st_mtime_ns,
        found.st_ctime_ns,
        found.st_ino,
        found.st_dev,
        found.st_nlink,
        stat.S_IMODE(mode),
        found.st_uid,
        found.st_gid,
    )


def _lost_row(path: bytes, error: OSError) -> Row:
    return (path, "unknown", *lost(error), 0, 0, 0, 0, 0, 0, 0, 0, 0)


class FilesSource(Source):
    """A directory tree, or a single file, on a mounted file system.

    Consistency: each file by itself, as far as its times tell what happens to it (writes through a
    memory map show late); for one moment of the whole tree, read a snapshot of the file system.
    Symbolic links are kept as links and never followed.

    Args:
        root: The directory or file.
        exclude: Globs over paths relative to the root; what they match, and all below it, is left
            out.
    """

    kind = "files"
    supports_as_of = False
    clock_granularity_ns = 2_000_000_000  # FAT counts two seconds; ext4 and XFS far less

    def __init__(self, root: str | Path, *, exclude: Sequence[str] = ()) -> None:
        self.root = Path(root).absolute()
        self._exclude = _excluder(exclude)
        self._root = os.fsencode(self.root)
        self._name: bytes | None = None  # of a dataset that is one file
        self._tree: _Tree | None = None

    def describe(self) -> str:
        """The root as a URL."""
        return f"file://{self.root}"

    def prefetch(self, entries: Sequence[tuple[bytes, int, str | None]]) -> None:
        """Local files are as near as they get."""

    def as_of(self, day: date) -> Source:
        """A plain directory does not remember."""
        raise DayUnavailable(
            f"{self.describe()} only has its present state, not that of {day}",
            "back it up on the day itself, or say `late: accept` to store its present state, late",
        )

    def fingerprint(self) -> str:
        """Over names, sizes, times and inodes; reads no file."""
        fingerprint = Fingerprint()
        for batch in self.scan():
            fingerprint.update(batch)
        return fingerprint.hexdigest()

    def scan(self) -> Iterator[pa.RecordBatch]:
        """Every entry below the root, in ascending order of path.

        Raises:
            SourceError: The root itself cannot be listed.
        """
        rows: list[Row] = []
        for row in self._rows():
            rows.append(row)
            if len(rows) >= BATCH_ROWS:
                yield _batch(rows)
                rows = []
        if rows:
            yield _batch(rows)

    def _rows(self) -> Iterator[Row]:
        try:
            found = os.stat(self._root)
            # A root may be a link, to a folder or to a file; nothing below it may.
            folder, name = os.path.split(os.path.realpath(self._root))
            single = not stat.S_ISDIR(found.st_mode)
            self._name = name if single else None
            self._tree = tree = _Tree(folder if single else self._root)
            first = [] if single else _listing(tree.folders, b"", self._exclude)
        except OSError as error:
            raise SourceError(
                f"{self.describe()} cannot be read: {error.strerror}",
                "check the path in the plan and that this user may read it",
            ) from None
        if single:
            yield _row(os.path.basename(self._root), found)
        stack = [iter(first)]
        # A folder is listed when its row comes, so that the row can say if that failed; its
        # contents come later, for "a.b" sorts between "a" and "a/c".
        listed: dict[bytes, list[Row | bytes]] = {}
        while stack:
            item = next(stack[-1], None)
            if item is None:
                stack.pop()
            elif isinstance(item, bytes):
                below = listed.pop(item, None)
                if below is not None:
                    stack.append(iter(below))
            elif item[1] == "directory":
                try:
                    listed[item[0]] = _listing(tree.folders, item[0], self._exclude)
                    yield item
                except OSError as error:
                    yield (item[0], "directory", *lost(error), *item[4:])
            else:
                yield item

    def read_whole(
        self, path: bytes, mtime_ns: int, ctime_ns: int, inode: int, buffer: memoryview
    ) -> Sequence[tuple[bytes, bytes]] | None:
        """Fill the buffer with a file that is still as listed; None where it must be opened."""
        assert self._tree is not None, "entries are read after a scan"
        folder, _, name = path.rpartition(b"/")
        try:
            descriptor = self._tree.folders.descriptor(folder)
        except OSError:
            return None
        return read_whole(descriptor, self._name or name, mtime_ns, ctime_ns, inode, buffer)

    def open(self, path: bytes, type: str, *, etag: str | None = None) -> FileReader:
        """Open one entry; never through a symbolic link at its end.

        Raises:
            Unreadable: It cannot be opened, or is gone.
        """
        folder, name = split(path)
        assert self._tree is not None, "entries are opened after a scan"
        try:
            return FileReader(self._tree.folders.descriptor(folder), self._name or name, type)
        except OSError as error:
            raise Unreadable(*lost(error)) from None


class _Tree:
    """The folders of one scan, open as long as anyone reads from it."""

    def __init__(self, root: bytes) -> None:
        self._root = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self.folders = Folders(self._root)

    def __del__(self) -> None:
        if hasattr(self, "folders"):
            self.folders.close()
            os.close(self._root)


def _listing(
    folders: Folders, folder: bytes, excluded: Callable[[bytes], bool] | None
) -> list[Row | bytes]:
    """A folder's rows, and the paths of its folders where their contents belong, in order."""
    prefix = folder + b"/" if folder else b""
    items: list[tuple[bytes, Row | bytes]] = []
    with os.scandir(folders.descriptor(folder)) as entries:
        for entry in entries:
            name = os.fsencode(entry.name)
            path = prefix + name
            if excluded is not None and excluded(path):
                continue
            try:
                row = _row(path, entry.stat(follow_symlinks=False))
            except OSError as error:
                row = _lost_row(path, error)
            items.append((name, row))
            if row[1] == "directory":
                items.append((name + b"/", path))
    items.sort(key=_first)
    return [item for _, item in items]


def _first(item: tuple[bytes, Row | bytes]) -> bytes:
    return item[0]


def _batch(rows: list[Row]) -> pa.RecordBatch:
    import pyarrow as pa

    schema = scan_schema()
    columns = [
        pa.array(values, schema.field(i).type) for i, values in enumerate(zip(*rows, strict=True))
    ]
    empty = pa.nulls(len(rows), pa.string())
    return pa.RecordBatch.from_arrays([*columns, empty, empty], schema=schema)


def _excluder(globs: Sequence[str]) -> Callable[[bytes], bool] | None:
    if not globs:
        return None
    from backup_pipeline.engine.manifest import glob_pattern

    patterns = [re.compile(os.fsencode(glob_pattern(glob))) for glob in globs]
    return lambda path: any(pattern.fullmatch(path) for pattern in patterns)

"""Files below a local path: everything a faithful restore of a file tree needs."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from backup_pipeline.engine.errors import DayUnavailable, SourceError
from backup_pipeline.sources.base import (
    GOOD,
    SKIPPED,
    UNREADABLE,
    VANISHED,
    Details,
    Fingerprint,
    Source,
    Unreadable,
    scan_schema,
)

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["FilesSource"]

BATCH_ROWS = 8192
_TYPES = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symlink",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "character device",
    stat.S_IFBLK: "block device",
}
_KEPT = frozenset({"file", "directory", "symlink"})
_OPEN_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

Row = tuple[bytes, str, str, str | None, int, int, int, int, int, int, int, int, int]


def _reason(error: OSError) -> str:
    return error.strerror or str(error)


def _row(path: bytes, found: os.stat_result) -> Row:
    mode = found.st_mode
    type = _TYPES.get(stat.S_IFMT(mode), "unknown")
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
    state = VANISHED if error.errno == errno.ENOENT else UNREADABLE
    return (path, "unknown", state, _reason(error), 0, 0, 0, 0, 0, 0, 0, 0, 0)


class FilesSource(Source):
    """A directory tree, or a single file, on a mounted file system.

    Consistency: each file by itself; for one moment of the whole tree, read a snapshot of the
    file system. Symbolic links are kept as links and never followed.

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
        self._single = False

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
            self._single = not stat.S_ISDIR(found.st_mode)
            first = [] if self._single else _listing(self._root, b"", self._exclude)
        except OSError as error:
            raise SourceError(
                f"{self.describe()} cannot be read: {_reason(error)}",
                "check the path in the plan and that this user may read it",
            ) from None
        if self._single:
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
                path = item[0]
                try:
                    listed[path] = _listing(self._root + b"/" + path, path + b"/", self._exclude)
                    yield item
                except OSError as error:
                    yield (path, "directory", UNREADABLE, _reason(error), *item[4:])
            else:
                yield item

    def open(self, path: bytes, type: str, *, etag: str | None = None) -> FileReader:
        """Open one entry; never through a symbolic link at its end.

        Raises:
            Unreadable: It cannot be opened, or is gone.
        """
        whole = self._root if self._single else self._root + b"/" + path
        try:
            return FileReader(whole, type)
        except OSError as error:
            state = VANISHED if error.errno == errno.ENOENT else UNREADABLE
            raise Unreadable(state, _reason(error)) from None


def _listing(
    folder: bytes, prefix: bytes, excluded: Callable[[bytes], bool] | None
) -> list[Row | bytes]:
    """A folder's rows, and the names of its folders where their contents belong, in order."""
    items: list[tuple[bytes, Row | bytes]] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            path = prefix + entry.name
            if excluded is not None and excluded(path):
                continue
            try:
                row = _row(path, entry.stat(follow_symlinks=False))
            except OSError as error:
                row = _lost_row(path, error)
            items.append((entry.name, row))
            if row[1] == "directory":
                items.append((entry.name + b"/", path))
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

    patterns = [re.compile(glob_pattern(glob).encode()) for glob in globs]
    return lambda path: any(pattern.search(path) for pattern in patterns)


class FileReader:
    """Reads one file, its holes left out, and tells whether it changed meanwhile."""

    __slots__ = ("_at", "_before", "_extents", "_fd", "_holes", "_path", "_read", "_type")

    def __init__(self, path: bytes, type: str) -> None:
        self._path = path
        self._type = type
        self._read = 0
        self._fd = -1
        self._extents: list[tuple[int, int]] | None = None
        self._holes: list[tuple[int, int]] = []
        self._at = 0
        if type != "file":
            self._before = os.lstat(path)
            return
        try:
            self._fd = os.open(path, _OPEN_FLAGS | os.O_NOATIME)
        except PermissionError:  # only a file's owner may leave its access time alone
            self._fd = os.open(path, _OPEN_FLAGS)
        try:
            self._before = found = os.fstat(self._fd)
            if not stat.S_ISREG(found.st_mode):
                raise OSError(errno.ESTALE, "is no longer a regular file")
            if found.st_blocks * 512 < found.st_size:
                self._find_holes(found.st_size)
        except OSError:
            os.close(self._fd)
            raise

    def _find_holes(self, size: int) -> None:
        extents: list[tuple[int, int]] = []
        end = 0
        while end < size:
            try:
                start = os.lseek(self._fd, end, os.SEEK_DATA)
            except OSError as error:
                if error.errno != errno.ENXIO:
                    return  # this file system cannot tell; zeros are then read as zeros
                start = size
            if start > end:
                self._holes.append((end, start - end))
            if start >= size:
                break
            end = min(size, os.lseek(self._fd, start, os.SEEK_HOLE))
            extents.append((start, end - start))
        if self._holes:
            self._extents = extents
        os.lseek(self._fd, 0, os.SEEK_SET)

    def read_into(self, buffer: memoryview) -> int:
        """Fill the buffer; 0 at the end. OSError becomes Unreadable."""
        if self._fd < 0:
            return 0
        try:
            if self._extents is None:
                count = os.readv(self._fd, [buffer])
            else:
                count = self._read_extent(buffer)
        except OSError as error:
            raise Unreadable(UNREADABLE, _reason(error)) from None
        self._read += count
        return count

    def _read_extent(self, buffer: memoryview) -> int:
        assert self._extents is not None
        while self._extents:
            start, length = self._extents[0]
            if self._at >= length:
                self._extents.pop(0)
                self._at = 0
                continue
            count = os.preadv(self._fd, [buffer[: length - self._at]], start + self._at)
            self._at += count
            if count == 0:
                self._extents.clear()  # cut short meanwhile: finish() will notice
            return count
        return 0

    def finish(self) -> Details:
        """Close, and tell what was read."""
        before = self._before
        try:
            if self._fd >= 0:
                after = os.fstat(self._fd)
                xattrs = _xattrs(self._fd)
            else:
                after = os.lstat(self._path)
                xattrs = _xattrs(self._path)
            target = os.readlink(self._path) if self._type == "symlink" else None
        except OSError as error:
            state = VANISHED if error.errno == errno.ENOENT else UNREADABLE
            raise Unreadable(state, _reason(error)) from None
        finally:
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1
        is_file = self._type == "file"
        hole_bytes = sum(length for _, length in self._holes)
        steady = (
            before.st_mtime_ns == after.st_mtime_ns
            and before.st_ctime_ns == after.st_ctime_ns
            and before.st_mode == after.st_mode
            and (not is_file or before.st_size == after.st_size == self._read + hole_bytes)
        )
        return Details(
            steady=steady,
            size=self._read + hole_bytes if is_file else 0,
            mark={
                "mtime_ns": before.st_mtime_ns,
                "ctime_ns": before.st_ctime_ns,
                "inode": before.st_ino,
                "mode": stat.S_IMODE(before.st_mode),
                "uid": before.st_uid,
                "gid": before.st_gid,
            },
            holes=self._holes,
            xattrs=xattrs,
            link_target=target,
        )


def _xattrs(place: int | bytes) -> Sequence[tuple[bytes, bytes]]:
    follow = isinstance(place, int)
    try:
        names = os.listxattr(place, follow_symlinks=follow) if not follow else os.listxattr(place)
        return [
            (
                os.fsencode(name),
                os.getxattr(place, name)
                if follow
                else os.getxattr(place, name, follow_symlinks=False),
            )
            for name in names
        ]
    except OSError as error:
        if error.errno in {errno.ENOTSUP, errno.EPERM, errno.ENODATA, errno.EACCES}:
            return ()
        raise

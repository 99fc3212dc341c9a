"""Files below a local path: everything a faithful restore of a file tree needs."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backup_pipeline.engine.errors import DayUnavailable, SourceError
from backup_pipeline.engine.folders import Folders, split
from backup_pipeline.sources.base import Fingerprint, Source, Unreadable
from backup_pipeline.sources.file_reader import FileReader, lost, read_whole
from backup_pipeline.sources.file_scan import Folder, Rows, Run, list_tree
from backup_pipeline.sources.read_ahead import ReadAhead

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["FilesSource", "open_files"]

BATCH_ROWS = 8192


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
        """Ask the disk for small files before they are read, if it is slow."""
        if self._tree is not None and self._name is None:
            self._tree.coming.expect(entries)

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
        try:
            found = os.stat(self._root)
            # A root may be a link, to a folder or to a file; nothing below it may.
            folder, name = os.path.split(os.path.realpath(self._root))
            single = not stat.S_ISDIR(found.st_mode)
            self._name = name if single else None
            self._tree = tree = _Tree(folder if single else self._root)
            top = None if single else Folder(tree.folders, b"", self._exclude)
        except OSError as error:
            raise SourceError(
                f"{self.describe()} cannot be read: {error.strerror}",
                "check the path in the plan and that this user may read it",
            ) from None
        if top is not None:
            yield from list_tree(top, BATCH_ROWS)
        else:
            rows = Rows()
            rows.add(Run([os.path.basename(self._root)], [found]))
            yield rows.batch()

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
        self._tree.coming.note()
        return read_whole(descriptor, self._name or name, mtime_ns, ctime_ns, inode, buffer)

    def open(self, path: bytes, type: str, *, etag: str | None = None) -> FileReader:
        """Open one entry; never through a symbolic link at its end.

        Raises:
            Unreadable: It cannot be opened, or is gone.
        """
        folder, name = split(path)
        assert self._tree is not None, "entries are opened after a scan"
        if type == "file":
            self._tree.coming.note()
        try:
            return FileReader(self._tree.folders.descriptor(folder), self._name or name, type)
        except OSError as error:
            raise Unreadable(*lost(error)) from None


def open_files(
    options: Mapping[str, Any], *, exclude: Sequence[str] = (), day: date | None = None
) -> FilesSource:
    """Open the directory or file that a plan names."""
    return FilesSource(options["path"], exclude=exclude)


class _Tree:
    """The folders of one scan, open as long as anyone reads from it."""

    def __init__(self, root: bytes) -> None:
        self._root = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self.folders = Folders(self._root)
        self.coming = ReadAhead(self._root)

    def __del__(self) -> None:
        if hasattr(self, "coming"):
            self.coming.close()
            self.folders.close()
            os.close(self._root)


def _excluder(globs: Sequence[str]) -> Callable[[bytes], bool] | None:
    if not globs:
        return None
    from backup_pipeline.engine.manifest import glob_pattern

    patterns = [re.compile(os.fsencode(glob_pattern(glob))) for glob in globs]
    return lambda path: any(pattern.fullmatch(path) for pattern in patterns)

"""Files put together from pieces that arrive in any order, from any thread.

A file is seen under its name only once it is whole where something else is there already; else
it is written in place, and is taken away again if it cannot be finished.
"""

from __future__ import annotations

import errno
import os
import threading
from array import array
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Self

from backup_pipeline.engine.errors import BackupError
from backup_pipeline.engine.operations.metadata import set_metadata
from backup_pipeline.engine.operations.rows import Row
from backup_pipeline.engine.operations.target import Target

__all__ = ["CANNOT_HOLD", "Assembly", "Refusals", "extents"]

MOST_OPEN_FILES = 200
# What one entry meets and others need not: a file too large for FAT, a link where there are none.
CANNOT_HOLD = frozenset(
    {
        *(errno.EFBIG, errno.EINVAL, errno.EILSEQ, errno.ENAMETOOLONG, errno.ENOTSUP),
        *(errno.EPERM, errno.EMLINK, errno.EXDEV),
    }
)


def extents(holes: Any, at: int, size: int) -> Iterator[tuple[int, int, int]]:
    """Where a piece of a file's content lies in the file; content is without the holes.

    Args:
        holes: The file's (``offset`` and ``length``), ascending; or None.
        at: Where the piece begins in the content.
        size: Its bytes.

    Yields:
        Offset in the file, offset in the piece, length.
    """
    shift, done = 0, 0
    for hole in [*(holes or ()), None]:
        start = hole["offset"] if hole else 1 << 62
        while done < size and at + done + shift < start:
            length = min(size - done, start - (at + done + shift))
            yield at + done + shift, done, length
            done += length
        if done >= size:
            return
        shift += hole["length"] if hole else 0


class Refusals:
    """Within it, what the system refuses to write is an error of ours that says where.

    Args:
        target: What is restored into.
        path: The entry that is written; may be replaced on the way.
    """

    __slots__ = ("path", "target")

    def __init__(self, target: Target, path: bytes) -> None:
        self.target = target
        self.path = path

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if isinstance(error, OSError):
            full = error.errno in {errno.ENOSPC, errno.EDQUOT}
            raise BackupError(
                f"{self.target.shown(self.path)} could not be restored: {error.strerror or error}",
                "free some space there and restore again: what is right is kept"
                if full
                else "restore to a directory of yours, or as a user who may write there",
            ) from error


class _File:
    """A file on its way into the target."""

    __slots__ = ("beside", "failed", "fd", "lock", "name", "remaining", "row")

    def __init__(self, row: Row, remaining: int, beside: bool) -> None:
        self.row = row
        self.remaining = remaining
        self.beside = beside
        self.fd = -1
        self.name: bytes | None = None
        self.failed = False
        self.lock = threading.Lock()


class Assembly:
    """The files that one restore writes.

    Args:
        target: Where to.
        owners: Whether to set owners.
        done: Called with a row, and with what could not be set, for each file that is whole.
        lost: Called with a row and the reason for each file that is given up.

    Attributes:
        failed: Paths of the files that were given up.
    """

    def __init__(
        self,
        target: Target,
        *,
        owners: bool,
        done: Callable[[Row, list[str]], None],
        lost: Callable[[Row, str], None],
    ) -> None:
        self._target = target
        self._owners = owners
        self._done = done
        self._lost = lost
        self._us = (os.geteuid(), os.getegid())
        self._rows: list[Row] = []
        self._pieces = array("Q")
        self._beside: set[int] = set()
        self._files: dict[int, _File] = {}  # those begun and not whole, and the failed
        self.failed: set[bytes] = set()
        self._open = 0
        self._lock = threading.Lock()

    def add(self, row: Row, pieces: int, *, beside: bool) -> None:
        """Begin the next file; without pieces it is whole at once.

        Args:
            row: Its manifest row.
            pieces: How many pieces will come.
            beside: Whether something is there that stays until the file is whole.
        """
        number = len(self._rows)
        self._rows.append(row)
        self._pieces.append(pieces)
        if beside:
            self._beside.add(number)
        if pieces == 0:
            file = self._file(number)
            with Refusals(self._target, row.path):
                try:
                    self._finish(number, file)
                except OSError as error:
                    self._cannot(file, error)

    def put(self, number: int, at: int, content: memoryview) -> None:
        """Write a piece of the file that was added with this number, counted from 0."""
        file = self._file(number)
        with file.lock, Refusals(self._target, file.row.path):
            file.remaining -= 1
            if file.failed:
                return
            try:
                self._ensure_open(file)
                for offset, start, length in extents(file.row.holes, at, len(content)):
                    _pwrite(file.fd, content[start : start + length], offset)
                if file.remaining == 0:
                    self._finish(number, file)
                elif self._open > MOST_OPEN_FILES:
                    self._close(file)
            except OSError as error:
                self._cannot(file, error)

    def fail(self, number: int, reason: str) -> None:
        """Give a file up."""
        file = self._file(number)
        with file.lock, Refusals(self._target, file.row.path):
            self._fail(file, reason)

    def _cannot(self, file: _File, error: OSError) -> None:
        if error.errno not in CANNOT_HOLD:
            raise error
        self._fail(file, f"the target cannot hold it: {error.strerror}")

    def _fail(self, file: _File, reason: str) -> None:
        if not file.failed:
            file.failed = True
            self.failed.add(file.row.path)
            self._discard(file)
            self._lost(file.row, reason)

    def abandon(self) -> None:
        """Take away what was begun and is not whole."""
        for file in self._files.values():
            with Refusals(self._target, file.row.path):
                self._discard(file)

    def _file(self, number: int) -> _File:
        with self._lock:
            file = self._files.get(number)
            if file is None:
                beside = number in self._beside
                file = _File(self._rows[number], self._pieces[number], beside)
                self._files[number] = file
            return file

    def _ensure_open(self, file: _File) -> None:
        if file.fd >= 0:
            return
        row = file.row
        if file.name is None:
            mode = 0o600 if file.remaining else self._first_mode(row)
            file.fd, file.name = self._target.create(row.path, beside=file.beside, mode=mode)
            if row.holes or file.remaining > 0:
                os.ftruncate(file.fd, row.size)
        else:
            file.fd = self._target.reopen(row.path, file.name)
        with self._lock:
            self._open += 1

    def _first_mode(self, row: Row) -> int:
        """The mode that a file made whole at once will have, where nothing forbids it so early:
        another owner to come, or attributes, which a file closed to writing does not take."""
        strange = self._owners and (row.uid, row.gid) != self._us
        return 0o600 if strange or row.xattrs or row.mode is None else row.mode & 0o777

    def _close(self, file: _File) -> None:
        if file.fd >= 0:
            os.close(file.fd)
            file.fd = -1
            with self._lock:
                self._open -= 1

    def _finish(self, number: int, file: _File) -> None:
        """All is written: metadata, and into its place."""
        self._ensure_open(file)
        notices = set_metadata(file.fd, file.row, owners=self._owners, fresh=True)
        self._close(file)
        assert file.name is not None
        self._target.move_in(file.row.path, file.name)
        file.name = None
        with self._lock:
            del self._files[number]
        self._done(file.row, notices)

    def _discard(self, file: _File) -> None:
        self._close(file)
        if file.name is not None:
            self._target.remove(file.row.path, file.name)
            file.name = None


def _pwrite(fd: int, content: memoryview, offset: int) -> None:
    done = 0
    while done < len(content):
        done += os.pwrite(fd, content[done:], offset + done)

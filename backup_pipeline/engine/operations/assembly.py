"""Files put together from pieces that arrive in any order.

A file is seen under its name only once it is whole where something else is there already; else
it is written in place, and is taken away again if it cannot be finished.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence, Set
from typing import Any

from backup_pipeline.engine.crypto import Buffer
from backup_pipeline.engine.folders import split
from backup_pipeline.engine.operations.metadata import Found, found_of, set_metadata
from backup_pipeline.engine.operations.refusals import Refusals, refusal
from backup_pipeline.engine.operations.rows import Row
from backup_pipeline.engine.operations.target import Target
from backup_pipeline.engine.operations.window import Window, pwrite_all

__all__ = ["Assembly", "extents"]

MOST_OPEN_FILES = 200
WINDOW_LEAST_BYTES = 16 << 20  # files from this size on are written past the page cache


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


class _File:
    """A file on its way into the target.

    Attributes:
        remaining: Bytes of content that are still to come.
        beside: Whether something is there that stays until the file is whole.
        fd: Its descriptor while it is open, else -1.
        name: What it is called for now; None while it is not begun, and once it is done with.
    """

    __slots__ = ("beside", "failed", "fd", "name", "remaining", "row")

    def __init__(self, row: Row, remaining: int, beside: bool) -> None:
        self.row = row
        self.remaining = remaining
        self.beside = beside
        self.fd = -1
        self.name: bytes | None = None
        self.failed = False


class Assembly:
    """The files that one restore writes; for one thread.

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
        self._rows: Sequence[Row] = ()
        self._sizes: Sequence[int] = ()
        self._beside: Set[int] = frozenset()
        self._files: dict[int, _File] = {}  # those begun and not whole, and the failed
        self._window = Window()
        self._windowed: _File | None = None
        self._open = 0
        self._made_in = b""
        self._made: dict[int, Found] = {}
        self.failed: set[bytes] = set()

    def begin(self, rows: Sequence[Row], sizes: Sequence[int], beside: Set[int]) -> None:
        """Begin the next files, after those before are done; those without content are whole.

        Args:
            rows: Their manifest rows.
            sizes: How many bytes of content each has, holes not counted.
            beside: Numbers of those where something is that stays until the file is whole.
        """
        assert all(file.failed for file in self._files.values())
        self._files = {}
        self._rows, self._sizes, self._beside = rows, sizes, beside
        with Refusals(self._target, b"") as at:
            for number, size in enumerate(sizes):
                if size == 0:
                    at.path = rows[number].path
                    self._put(number, 0, memoryview(b""))

    def put(self, pieces: Sequence[tuple[int, int, Buffer]]) -> None:
        """Write pieces of the files.

        Args:
            pieces: The file's number among those that were begun, where the piece lies in its
                content, and the piece.
        """
        rows, sizes, beside = self._rows, self._sizes, self._beside
        with Refusals(self._target, b"") as at:
            for number, place, content in pieces:
                row = rows[number]
                at.path = row.path
                if len(content) == sizes[number] == row.size and number not in beside:
                    self._put_whole(number, row, content)
                else:
                    self._put(number, place, content)

    def fail(self, number: int, reason: str) -> None:
        """Give a file up."""
        file = self._file(number)
        with Refusals(self._target, file.row.path):
            self._fail(file, reason)

    def abandon(self) -> None:
        """Take away what was begun and is not whole."""
        for file in self._files.values():
            with Refusals(self._target, file.row.path):
                self._discard(file)

    def _file(self, number: int) -> _File:
        file = self._files.get(number)
        if file is None:
            file = _File(self._rows[number], self._sizes[number], number in self._beside)
            self._files[number] = file
        return file

    def _put(self, number: int, at: int, content: Buffer) -> None:
        file = self._file(number)
        file.remaining -= len(content)
        if file.failed:
            return
        try:
            self._ensure_open(file)
            self._write(file, at, content)
            if file.remaining == 0:
                self._finish(number, file)
            elif self._open > MOST_OPEN_FILES:
                self._close(file)
        except OSError as error:
            self._cannot(file, error)

    def _put_whole(self, number: int, row: Row, content: Buffer) -> None:
        """Make a file that is whole at once, where nothing is: most are, and time tells."""
        mode = self._first_mode(row)
        try:
            fd, name = self._target.create(row.path, beside=False, mode=mode)
            try:
                pwrite_all(fd, content, 0)
                found = self._as_made(fd, row.path, mode)
                notices = set_metadata(fd, row, found, owners=self._owners, fresh=True)
            except BaseException:
                self._target.remove(row.path, name)
                raise
            finally:
                os.close(fd)
        except OSError as error:
            self._cannot(self._file(number), error)
        else:
            self._done(row, notices)

    def _as_made(self, fd: int, path: bytes, mode: int) -> Found:
        """Owner and mode of a file that was just made: as those of the one before, which was made
        likewise in the same folder."""
        folder, _ = split(path)
        if folder != self._made_in:
            self._made_in = folder
            self._made.clear()
        found = self._made.get(mode)
        if found is None:
            found = self._made[mode] = found_of(fd)
        return found

    def _write(self, file: _File, at: int, content: Buffer) -> None:
        row = file.row
        if row.holes:
            view = memoryview(content)
            for offset, start, length in extents(row.holes, at, len(content)):
                pwrite_all(file.fd, view[start : start + length], offset)
        elif row.size < WINDOW_LEAST_BYTES:
            pwrite_all(file.fd, content, at)
        else:
            if self._windowed is not file:
                self._flush()
                self._windowed = file
            self._window.put(file.fd, memoryview(content), at)

    def _flush(self) -> None:
        """Write what the window holds, whosever it is."""
        file, self._windowed = self._windowed, None
        if file is None:
            return
        with Refusals(self._target, file.row.path):
            try:
                self._window.flush(file.fd)
            except OSError as error:
                self._cannot(file, error)

    def _ensure_open(self, file: _File) -> None:
        if file.fd >= 0:
            return
        row = file.row
        if file.name is None:
            mode = 0o600 if file.remaining else self._first_mode(row)
            file.fd, file.name = self._target.create(row.path, beside=file.beside, mode=mode)
            self._open += 1
            if row.holes or file.remaining > 0:
                os.ftruncate(file.fd, row.size)
        else:
            file.fd = self._target.reopen(row.path, file.name)
            self._open += 1

    def _first_mode(self, row: Row) -> int:
        """The mode that a file made whole at once will have, where nothing forbids it so early:
        another owner to come, or attributes, which a file closed to writing does not take."""
        strange = self._owners and (row.uid, row.gid) != self._us
        return 0o600 if strange or row.xattrs or row.mode is None else row.mode & 0o777

    def _close(self, file: _File) -> None:
        if file.fd >= 0:
            if self._windowed is file:
                self._flush()
            os.close(file.fd)
            file.fd = -1
            self._open -= 1

    def _finish(self, number: int, file: _File) -> None:
        """All is written: metadata, and into its place."""
        if self._windowed is file:
            self._windowed = None
            self._window.flush(file.fd)
        notices = set_metadata(
            file.fd, file.row, found_of(file.fd), owners=self._owners, fresh=True
        )
        self._close(file)
        assert file.name is not None
        self._target.move_in(file.row.path, file.name)
        file.name = None
        del self._files[number]
        self._done(file.row, notices)

    def _cannot(self, file: _File, error: OSError) -> None:
        reason = refusal(error)
        if reason is None:
            raise error
        self._fail(file, reason)

    def _fail(self, file: _File, reason: str) -> None:
        if not file.failed:
            file.failed = True
            self.failed.add(file.row.path)
            self._discard(file)
            self._lost(file.row, reason)

    def _discard(self, file: _File) -> None:
        if self._windowed is file:
            self._windowed = None
            self._window.forget()
        self._close(file)
        if file.name is not None:
            self._target.remove(file.row.path, file.name)
            file.name = None

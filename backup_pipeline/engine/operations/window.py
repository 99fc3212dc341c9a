"""Writing a large file past the page cache: what comes in order is gathered and written in blocks.

Memory for the page cache is what restoring large files would wait for, and what is restored is
rarely read at once; what cannot be written in whole blocks goes through the cache.
"""

from __future__ import annotations

import errno
import fcntl
import os
from typing import Final

from backup_pipeline.engine.crypto import Buffer
from backup_pipeline.engine.store.direct import ALIGNMENT_BYTES, LEAST_BYTES, aligned_buffer

__all__ = ["Window", "pwrite_all"]

WINDOW_BYTES: Final = 4 << 20
_DIRECT: Final = getattr(os, "O_DIRECT", 0)
_NOT_DIRECT = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP})


class Window:
    """A stretch of one file that is gathered before it is written; for one thread.

    Errors of the system leave it empty: the file they concern cannot be finished.
    """

    def __init__(self) -> None:
        self._buffer: memoryview | None = None
        self._base = 0  # where in the file the buffer begins: at a whole block
        self._begin = self._end = 0  # what of the file it holds
        self._direct = bool(_DIRECT)

    def put(self, fd: int, content: memoryview, at: int) -> None:
        """Take in a piece of the file, and write what fills the window, or does not go on in it.

        Raises:
            OSError: The file could not be written.
        """
        if self._buffer is None:
            self._buffer = aligned_buffer(WINDOW_BYTES)
        if at != self._end:
            self.flush(fd)
        if self._begin == self._end:
            self._base = at - at % ALIGNMENT_BYTES
            self._begin = self._end = at
        while len(content):
            start = self._end - self._base
            part = content[: WINDOW_BYTES - start]
            self._buffer[start : start + len(part)] = part
            self._end += len(part)
            content = content[len(part) :]
            if self._end == self._base + WINDOW_BYTES:
                self.flush(fd)
                self._base = self._begin = self._end

    def flush(self, fd: int) -> None:
        """Write what the window holds.

        Raises:
            OSError: The file could not be written.
        """
        begin, end = self._begin, self._end
        self._begin = self._end
        if self._buffer is None or begin == end:
            return
        held = self._buffer[begin - self._base : end - self._base]
        first = -(-begin // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
        last = end - end % ALIGNMENT_BYTES
        if self._direct and last - first >= LEAST_BYTES:
            done = self._write_direct(fd, held[first - begin : last - begin], first)
            pwrite_all(fd, held[: first - begin], begin)
            begin, held = first + done, held[first - begin + done :]
        pwrite_all(fd, held, begin)

    def forget(self) -> None:
        """Let go of what it holds: the file is given up."""
        self._begin = self._end

    def _write_direct(self, fd: int, blocks: memoryview, at: int) -> int:
        """Write whole blocks past the cache; how many bytes that did."""
        flags = fcntl.fcntl(fd, fcntl.F_GETFL)
        done = 0
        try:
            fcntl.fcntl(fd, fcntl.F_SETFL, flags | _DIRECT)
            while done < len(blocks) and done % ALIGNMENT_BYTES == 0:
                done += os.pwrite(fd, blocks[done:], at + done)
        except OSError as error:
            if error.errno not in _NOT_DIRECT:
                raise
            self._direct = False  # this file system has no such writes
        finally:
            fcntl.fcntl(fd, fcntl.F_SETFL, flags)
        return done


def pwrite_all(fd: int, content: Buffer, offset: int) -> None:
    """Write all of ``content`` at an offset.

    Raises:
        OSError: It could not be written.
    """
    done = os.pwrite(fd, content, offset) if len(content) else 0
    while done < len(content):
        done += os.pwrite(fd, memoryview(content)[done:], offset + done)

"""Large reads and writes of local files past the page cache, where the file system has them.

What a backup writes it does not read again, so keeping it in memory costs a copy of every byte and
pushes out what others would read. What a verification reads should come from the medium, which the
page cache would stand in for.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

__all__ = ["ALIGNMENT_BYTES", "aligned_buffer", "open_direct", "read_into", "write_all"]

ALIGNMENT_BYTES: Final = 4096
"""Of buffers, offsets and lengths; no current device asks for more."""

LEAST_BYTES: Final = 1 << 20
_DIRECT: Final = getattr(os, "O_DIRECT", 0)  # Linux and FreeBSD have it
_BUFFERS_PER_CALL = 512
_NOT_SO = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP})


def aligned_buffer(size_bytes: int) -> memoryview:
    """Memory whose start suits direct reading and writing; it is taken when it is touched."""
    return memoryview(mmap.mmap(-1, size_bytes, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))


def open_direct(path: str, flags: int, view: memoryview, mode: int = 0o600) -> int:
    """``os.open``, for direct use where it is worth it: where ``view``, that which is read into or
    written first, is large and aligned.

    Raises:
        OSError: As ``os.open``.
    """
    if _DIRECT and len(view) >= LEAST_BYTES and _is_aligned(view):
        try:
            return os.open(path, flags | _DIRECT, mode)
        except OSError as error:
            if error.errno not in _NOT_SO:
                raise
            if flags & os.O_EXCL:  # some kernels make the file before they refuse the flag
                with suppress(FileNotFoundError):
                    os.unlink(path)
    return os.open(path, flags, mode)


def write_all(fd: int, views: Sequence[memoryview]) -> None:
    """Write a new file's whole content; what is not aligned at its end goes through the cache.

    Raises:
        OSError: The content could not be written.
    """
    done = _write_direct(fd, views[0]) if views and _is_direct(fd) else 0
    os.lseek(fd, done, os.SEEK_SET)
    waiting = [views[0][done:], *views[1:]] if done else list(views)
    while waiting:
        written = os.writev(fd, waiting[:_BUFFERS_PER_CALL])
        whole = 0
        while whole < len(waiting) and written >= len(waiting[whole]):
            written -= len(waiting[whole])
            whole += 1
        waiting = waiting[whole:]
        if written:
            waiting = [waiting[0][written:], *waiting[1:]]


def read_into(fd: int, view: memoryview, offset: int) -> int:
    """Fill a buffer from a file; the count of bytes is below its length only at the file's end.

    Raises:
        OSError: The file could not be read.
    """
    done = _read_direct(fd, view, offset) if _is_direct(fd) else 0
    while done < len(view):
        count = os.preadv(fd, [view[done:]], offset + done)
        if count == 0:
            break
        done += count
    return done


def _write_direct(fd: int, view: memoryview) -> int:
    end, done = _whole_blocks(len(view)), 0
    try:
        while done < end:
            written = os.pwritev(fd, [view[done:end]], done)
            done += _whole_blocks(written)
            if written == 0 or written % ALIGNMENT_BYTES:
                break
    except OSError as error:
        if error.errno not in _NOT_SO:
            raise
    _end_direct(fd)
    return done


def _read_direct(fd: int, view: memoryview, offset: int) -> int:
    end, done = _whole_blocks(len(view)), 0
    try:
        while done < end and (offset + done) % ALIGNMENT_BYTES == 0:
            count = os.preadv(fd, [view[done:end]], offset + done)
            done += count
            if count == 0 or count % ALIGNMENT_BYTES:
                break
    except OSError as error:
        if error.errno not in _NOT_SO:
            raise
    _end_direct(fd)
    return done


def _whole_blocks(count: int) -> int:
    return count - count % ALIGNMENT_BYTES


def _is_aligned(view: memoryview) -> bool:
    if view.readonly:
        return False  # its address cannot be had without a copy
    return ctypes.addressof(ctypes.c_char.from_buffer(view)) % ALIGNMENT_BYTES == 0


def _is_direct(fd: int) -> bool:
    return bool(_DIRECT and fcntl.fcntl(fd, fcntl.F_GETFL) & _DIRECT)


def _end_direct(fd: int) -> None:
    fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) & ~_DIRECT)

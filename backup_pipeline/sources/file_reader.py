"""Reads one entry of a file tree, its holes left out, and tells whether it changed meanwhile."""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Sequence

from backup_pipeline.sources.base import UNREADABLE, VANISHED, Details, Unreadable

__all__ = ["FileReader", "lost", "read_whole", "type_of"]

# A change may not show in the times while they have not moved on from the last one: they advance
# with the kernel's timer, every 10 ms at the slowest, and a long write has the time of its start.
QUIET_NS = 50_000_000
_TYPES = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symlink",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "character device",
    stat.S_IFBLK: "block device",
}
_FLAGS = {
    "file": os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC,
    "directory": os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY | os.O_CLOEXEC,
}
_GONE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ESTALE})
_NO_XATTRS = frozenset({errno.ENOTSUP, errno.EPERM, errno.ENODATA, errno.EACCES, errno.ENOENT})


def type_of(mode: int) -> str:
    """The type of an entry, from its ``st_mode``."""
    return _TYPES.get(stat.S_IFMT(mode), "unknown")


def lost(error: OSError) -> tuple[str, str]:
    """State and reason of an entry that could not be had."""
    state = VANISHED if error.errno in _GONE else UNREADABLE
    if error.errno in {errno.ELOOP, errno.ENOTDIR}:
        return state, "something else took its place"
    return state, error.strerror or str(error)


def read_whole(
    folder: int, name: bytes, mtime_ns: int, ctime_ns: int, inode: int, buffer: memoryview
) -> Sequence[tuple[bytes, bytes]] | None:
    """Read a small file that is exactly as it was listed: one look at it, behind the last byte.

    Args:
        folder: Descriptor of its folder.
        name: Its name there.
        mtime_ns: When it was modified, as listed, in ns.
        ctime_ns: When it was changed, as listed, in ns.
        inode: Its inode, as listed.
        buffer: Filled; as long as the file, as listed.

    Returns:
        Its extended attributes; None where a ``FileReader`` has to look closer.
    """
    if time.time_ns() - ctime_ns < QUIET_NS:
        return None
    try:
        fd = os.open(name, _FLAGS["file"] | os.O_NOATIME, dir_fd=folder)
    except OSError:
        return None
    try:
        count = os.readv(fd, (buffer,))
        found = os.fstat(fd)
        xattrs = _xattrs(fd) if os.listxattr(fd) else ()
    except OSError:
        return None
    finally:
        os.close(fd)
    if (
        found.st_ctime_ns != ctime_ns
        or found.st_mtime_ns != mtime_ns
        or found.st_ino != inode
        or not count == found.st_size == len(buffer)
        or found.st_blocks * 512 < count  # there are holes in it
    ):
        return None
    return xattrs


class FileReader:
    """One entry, opened below a folder and never through a symbolic link.

    Args:
        folder: Descriptor of its folder.
        name: Its name there.
        type: What it was when it was listed.

    Raises:
        OSError: It cannot be opened, or is no longer of that type.
    """

    __slots__ = (
        *("_at", "_before", "_extents", "_fd", "_folder", "_holes", "_name", "_read"),
        *("_settled", "_type"),
    )

    def __init__(self, folder: int, name: bytes, type: str) -> None:
        self._folder = folder
        self._name = name
        self._type = type
        self._read = 0
        self._settled = True
        self._extents: list[tuple[int, int]] | None = None
        self._holes: list[tuple[int, int]] = []
        self._at = 0
        self._fd = self._open() if type in _FLAGS else -1
        try:
            self._before = found = self._stat()
            if type_of(found.st_mode) != type:
                raise OSError(errno.ESTALE, f"it is no longer a {type}")
            if type == "file":
                if time.time_ns() - found.st_ctime_ns < QUIET_NS:
                    self._settle()
                if found.st_blocks * 512 < found.st_size:
                    self._find_holes(self._before.st_size)
        except OSError:
            self._close()
            raise

    def _open(self) -> int:
        flags = _FLAGS[self._type]
        try:
            return os.open(self._name, flags | os.O_NOATIME, dir_fd=self._folder)
        except PermissionError:  # only a file's owner may leave its access time alone
            return os.open(self._name, flags, dir_fd=self._folder)

    def _stat(self) -> os.stat_result:
        if self._fd >= 0:
            return os.fstat(self._fd)
        return os.stat(self._name, dir_fd=self._folder, follow_symlinks=False)

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _settle(self) -> None:
        """Let the clock move on, so that whatever happens from here on shows in the times."""
        for _ in range(2):
            age_ns = time.time_ns() - self._before.st_ctime_ns
            self._settled = not 0 <= age_ns < QUIET_NS
            if self._settled:
                return
            time.sleep((QUIET_NS - age_ns) / 1e9)
            self._before = os.fstat(self._fd)

    def _find_holes(self, size: int) -> None:
        extents: list[tuple[int, int]] = []
        end = 0
        while end < size:
            try:
                start = os.lseek(self._fd, end, os.SEEK_DATA)
            except OSError as error:
                if error.errno != errno.ENXIO:
                    self._holes.clear()
                    return  # this file system cannot tell; zeros are then read as zeros
                start = size
            if start > end:
                self._holes.append((end, min(start, size) - end))
            if start >= size:
                break
            try:
                end = min(size, os.lseek(self._fd, start, os.SEEK_HOLE))
            except OSError as error:
                if error.errno != errno.ENXIO:
                    raise
                break  # cut short meanwhile: finish() will notice
            extents.append((start, end - start))
        if self._holes:
            self._extents = extents
        os.lseek(self._fd, 0, os.SEEK_SET)

    def read_into(self, buffer: memoryview) -> int:
        """Fill the buffer; 0 at the end. OSError becomes Unreadable."""
        if self._type != "file":
            return 0
        try:
            if self._extents is None:
                count = os.readv(self._fd, [buffer])
            else:
                count = self._read_extent(buffer)
        except OSError as error:
            raise Unreadable(UNREADABLE, error.strerror or str(error)) from None
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
            after = self._stat()
            xattrs = self._xattrs()
            target = None
            if self._type == "symlink":
                target = os.readlink(self._name, dir_fd=self._folder)
        except OSError as error:
            raise Unreadable(*lost(error)) from None
        finally:
            self._close()
        is_file = self._type == "file"
        size = self._read
        if self._holes:
            size += sum(length for _, length in self._holes)
        steady = (
            self._settled
            and before.st_mtime_ns == after.st_mtime_ns
            and before.st_ctime_ns == after.st_ctime_ns
            and before.st_mode == after.st_mode
            and (not is_file or before.st_size == after.st_size == size)
        )
        return Details(
            steady=steady,
            size=size,
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

    def _xattrs(self) -> Sequence[tuple[bytes, bytes]]:
        place: int | bytes = self._fd
        if self._fd < 0:
            # There is no listxattr below a descriptor; the folder's own path in /proc is one.
            place = b"/proc/self/fd/%d/%s" % (self._folder, self._name)
        follow = self._fd >= 0
        try:
            return _xattrs(place, follow)
        except OSError as error:
            if error.errno in _NO_XATTRS:
                return ()
            raise


def _xattrs(place: int | bytes, follow: bool = True) -> list[tuple[bytes, bytes]]:
    return [
        (os.fsencode(name), os.getxattr(place, name, follow_symlinks=follow))
        for name in os.listxattr(place, follow_symlinks=follow)
    ]

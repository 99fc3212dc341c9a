"""Writing below a restore's target and nowhere else.

Every path is walked component by component with O_NOFOLLOW from an open target directory, so no
symbolic link, restored or already there, leads a write outside.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any

from backup_pipeline.engine.errors import BackupError, UsageError

__all__ = ["Target", "set_metadata", "split"]

MOST_OPEN_FOLDERS = 64
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def split(path: bytes) -> tuple[bytes, bytes]:
    """Folder and name of a path; the folder is empty at the top."""
    folder, _, name = path.rpartition(b"/")
    return folder, name


class Target:
    """A directory that is restored into.

    Args:
        root: The directory; made if it is not there.
        create: Whether to make it.

    Raises:
        UsageError: It is there and is no directory.
    """

    def __init__(self, root: Path, *, create: bool = True) -> None:
        self.root = root
        self.existed = root.is_dir() and any(root.iterdir())
        try:
            if create:
                root.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            self._fd = -1
        except OSError as error:
            raise UsageError(
                f"cannot restore to {root}: {error.strerror}", "name a directory that may be made"
            ) from None
        self._local = threading.local()
        self._caches: list[OrderedDict[bytes, int]] = []

    def close(self) -> None:
        """Close what is open."""
        for cache in self._caches:
            for fd in cache.values():
                os.close(fd)
            cache.clear()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def folder(self, path: bytes) -> int:
        """A descriptor of a folder below the target; valid until this thread opens many more."""
        if not path:
            return self._fd
        cache: OrderedDict[bytes, int] | None = getattr(self._local, "cache", None)
        if cache is None:
            cache = OrderedDict()
            self._local.cache = cache
            self._caches.append(cache)
        fd = cache.get(path)
        if fd is not None:
            cache.move_to_end(path)
            return fd
        above, name = split(path)
        fd = os.open(name, _FOLDER, dir_fd=self.folder(above))
        cache[path] = fd
        if len(cache) > MOST_OPEN_FOLDERS:
            os.close(cache.popitem(last=False)[1])
        return fd

    def lookup(self, path: bytes) -> os.stat_result | None:
        """What is at a path; None if nothing is, or a folder above is missing."""
        if self._fd < 0:
            return None
        folder, name = split(path)
        try:
            return os.stat(name, dir_fd=self.folder(folder), follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            if error.errno == errno.ELOOP:
                return None
            raise

    def make_folder(self, path: bytes) -> None:
        """Make a folder, and those above it, where they are not there yet."""
        folder, name = split(path)
        if folder:
            self.make_folder_if_missing(folder)
        try:
            os.mkdir(name, 0o700, dir_fd=self.folder(folder))
        except FileExistsError:
            found = os.stat(name, dir_fd=self.folder(folder), follow_symlinks=False)
            if not stat.S_ISDIR(found.st_mode):
                raise BackupError(
                    f"{os.fsdecode(path)} is in the way: the snapshot has a folder there",
                    "restore to an empty directory, or move it aside",
                ) from None

    def make_folder_if_missing(self, path: bytes) -> None:
        """As ``make_folder``, quicker where it is known."""
        try:
            self.folder(path)
        except FileNotFoundError:
            self.make_folder(path)

    def open_read(self, path: bytes) -> int:
        """Open an existing regular file to compare it."""
        folder, name = split(path)
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        return os.open(name, flags, dir_fd=self.folder(folder))

    def create(self, path: bytes, *, beside: bool) -> tuple[int, bytes]:
        """Create a file for writing; its descriptor and the name it has for now.

        Args:
            path: Where it belongs.
            beside: Whether something is there that stays until the new file is whole.
        """
        folder, name = split(path)
        if beside:
            name = b".restoring-" + secrets.token_hex(8).encode()
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(name, flags, 0o600, dir_fd=self.folder(folder)), name

    def reopen(self, path: bytes, name: bytes) -> int:
        """Open a file again that ``create`` made."""
        flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(name, flags, dir_fd=self.folder(split(path)[0]))

    def move_in(self, path: bytes, name: bytes) -> None:
        """Put a finished file in its place."""
        folder, wanted = split(path)
        if name != wanted:
            fd = self.folder(folder)
            os.rename(name, wanted, src_dir_fd=fd, dst_dir_fd=fd)

    def remove(self, path: bytes, name: bytes | None = None) -> None:
        """Remove a file or link, if it is there."""
        folder, last = split(path)
        try:
            os.unlink(name or last, dir_fd=self.folder(folder))
        except FileNotFoundError:
            return

    def link(self, first: bytes, path: bytes) -> None:
        """Make a hard link to a file below the target."""
        (folder, name), (to_folder, to_name) = split(first), split(path)
        fd = self.folder(folder)
        # A descriptor in hand may be closed by opening another; look the first one up again.
        to_fd = self.folder(to_folder)
        fd = self.folder(folder)
        os.link(name, to_name, src_dir_fd=fd, dst_dir_fd=to_fd, follow_symlinks=False)

    def symlink(self, target: bytes, path: bytes) -> None:
        """Make a symbolic link."""
        folder, name = split(path)
        os.symlink(target, name, dir_fd=self.folder(folder))


def set_metadata(
    place: int | bytes, row: dict[str, Any], *, dir_fd: int | None = None, owners: bool
) -> list[str]:
    """Owner, mode, extended attributes and times of what was restored, in this order.

    Args:
        place: A descriptor, or a name below ``dir_fd``.
        row: The manifest's row.
        dir_fd: The folder of the name.
        owners: Whether to set owners.

    Returns:
        What could not be set, one sentence each.
    """
    notices: list[str] = []
    link = row["type"] == "symlink"
    by_name: dict[str, Any] = {} if isinstance(place, int) else {"dir_fd": dir_fd}
    nofollow: dict[str, Any] = {"follow_symlinks": False} if link else {}
    try:
        if owners and row["uid"] is not None:
            os.chown(place, row["uid"], row["gid"], **by_name, **nofollow)
        if row["mode"] is not None and not link:
            os.chmod(place, row["mode"], **by_name)
    except OSError as error:
        notices.append(f"owner or mode not set: {error.strerror}")
    if row["xattrs"]:
        notices.extend(_set_xattrs(place, row["xattrs"], dir_fd, link=link))
    if row["mtime_ns"] is not None:
        times = (row["mtime_ns"], row["mtime_ns"])
        os.utime(place, ns=times, **by_name, **nofollow)
    return notices


def _set_xattrs(
    place: int | bytes, xattrs: list[dict[str, bytes]], dir_fd: int | None, *, link: bool
) -> list[str]:
    notices: list[str] = []
    where: int | bytes = place
    if not isinstance(place, int):
        # There is no setxattr below a descriptor; the folder's own path in /proc is one.
        where = b"/proc/self/fd/%d/" % (dir_fd if dir_fd is not None else -1) + place
    for pair in xattrs:
        try:
            if isinstance(where, int):
                os.setxattr(where, pair["name"], pair["value"])
            else:
                os.setxattr(where, pair["name"], pair["value"], follow_symlinks=not link)
        except OSError as error:
            notices.append(f"extended attribute {os.fsdecode(pair['name'])}: {error.strerror}")
    return notices

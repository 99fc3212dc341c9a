"""A store in a local directory: temporary file, fsync, hard link, fsync of the directories."""

from __future__ import annotations

import errno
import os
import secrets
import stat as modes
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from backup_pipeline.engine.errors import (
    ObjectExists,
    ObjectMissing,
    StoreError,
    StoreUnavailable,
)
from backup_pipeline.engine.store.base import (
    Content,
    Store,
    StoredObject,
    check_name,
    check_prefix,
    check_range,
    is_name,
    pieces,
    short_read,
)
from backup_pipeline.engine.store.direct import open_direct, read_into, write_all

__all__ = ["TEMPORARY_PREFIX", "LocalStore"]

TEMPORARY_PREFIX: Final = ".tmp-"
"""How unfinished files begin; no name may begin so, hence none of them is ever listed."""

# Not blocking: what lies there may be a fifo, and is refused once it is open.
_READ_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_NEW_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
_COMPARE_BYTES = 1 << 20
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
_FULL = {errno.ENOSPC, errno.EDQUOT}
_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.ENODEV, errno.ESTALE}


class LocalStore(Store):
    """Names as files below one directory, private to their owner.

    A hard link, unlike a rename, fails where the name is taken: that is what makes ``put`` create
    only, so a file system without hard links is refused. Folders are never removed: a folder that
    another process had just made again could otherwise be lost with what was put into it.

    Args:
        root: The directory; made with the first write.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root).absolute()
        self.url = self.root.as_uri()
        self._settled: set[str] = set()
        self._lock = threading.Lock()

    def put(self, name: str, content: Content) -> None:
        path = self._path(name)
        views = pieces(content)
        with self._errors(name):
            folder = os.path.dirname(path)
            self._settle(folder)
            if self._holds(name, path, views):
                _fsync_folder(folder)
                return
            temporary = self._write_temporary(folder, views)
            try:
                self._link(temporary, path)
            except FileExistsError:
                # Another writer came first. It may not have come to its own fsync of the folder
                # yet, and what we report as durable has to be.
                self._holds(name, path, views)
            finally:
                os.unlink(temporary)
            _fsync_folder(folder)

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes | memoryview:
        check_range(offset, length)
        with self._reading(name) as fd:
            size_bytes = os.fstat(fd).st_size
            wanted = size_bytes - offset if length is None else length
            if wanted < 0 or offset + wanted > size_bytes:
                raise short_read(self.url, name, offset, max(wanted, 0), size_bytes)
            found = os.pread(fd, wanted, offset)
            if len(found) == wanted:
                return found
            # One call reads at most 2 GiB, and fewer bytes than that only at the end.
            whole = bytearray(wanted)
            self._fill(fd, name, offset, memoryview(whole))
            return memoryview(whole)

    def get_into(self, name: str, offset: int, buffer: bytearray | memoryview) -> None:
        check_range(offset, None)
        view = memoryview(buffer).cast("B")
        with self._reading(name, view) as fd:
            self._fill(fd, name, offset, view)

    def stat(self, name: str) -> StoredObject:
        path = self._path(name)
        with self._errors(name):
            found = os.lstat(path)
        if not modes.S_ISREG(found.st_mode):
            raise ObjectMissing(f"{self.url}: {name} is not there")
        return _describe(name, found)

    def list(self, prefix: str = "", *, after: str | None = None) -> Iterator[StoredObject]:
        check_prefix(prefix)
        return self._walk(prefix.rpartition("/")[0], prefix, after or "")

    def list_names(self, prefix: str) -> list[str]:
        check_prefix(prefix, folder=True)
        folder = prefix.removesuffix("/")
        with self._errors(prefix):
            return sorted(
                entry.name
                for entry in self._entries(folder)
                if entry.is_file(follow_symlinks=False)
                or (entry.is_dir(follow_symlinks=False) and self._has_names(prefix + entry.name))
            )

    def delete(self, name: str) -> None:
        path = self._path(name)
        with self._errors(name), suppress(FileNotFoundError, NotADirectoryError):
            os.unlink(path)
            _fsync_folder(os.path.dirname(path))

    def heal(self, name: str, content: Content) -> None:
        path = self._path(name)
        with self._errors(name):
            folder = os.path.dirname(path)
            self._settle(folder)
            temporary = self._write_temporary(folder, pieces(content))
            try:
                os.replace(temporary, path)
            except OSError:
                os.unlink(temporary)
                raise
            _fsync_folder(folder)

    def now(self) -> datetime:
        # A mounted directory keeps its server's time, which a new file's mtime tells.
        temporary = os.path.join(self.root, f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}")
        try:
            fd = os.open(temporary, _NEW_FLAGS, 0o600)
        except OSError:
            return datetime.now(UTC)
        try:
            return datetime.fromtimestamp(os.fstat(fd).st_mtime, UTC)
        finally:
            os.close(fd)
            os.unlink(temporary)

    def sweep(self, prefix: str, *, older_than: timedelta) -> int:
        limit, removed = (self.now() - older_than).timestamp(), 0
        top = os.path.join(self.root, check_prefix(prefix, folder=True))
        for folder, _, names in os.walk(top):
            for name in names:
                path = os.path.join(folder, name)
                if not name.startswith(TEMPORARY_PREFIX):
                    continue
                with suppress(FileNotFoundError):
                    if os.lstat(path).st_mtime < limit:
                        os.unlink(path)
                        removed += 1
        return removed

    def _path(self, name: str) -> str:
        return os.path.join(self.root, check_name(name))

    def _settle(self, folder: str) -> None:
        """Make ``folder`` and see that its way up to the root is durable, once per process.

        A folder that is already there may have been made a moment ago by a writer that has not
        come to its fsync, so the folders above it are synced here too.
        """
        if folder in self._settled:
            return
        if folder == os.fspath(self.root):
            _make_root(self.root)
        else:
            parent = os.path.dirname(folder)
            self._settle(parent)
            with suppress(FileExistsError):
                os.mkdir(folder, 0o700)
            _fsync_folder(parent)
        with self._lock:
            self._settled.add(folder)

    def _write_temporary(self, folder: str, views: list[memoryview]) -> str:
        temporary = os.path.join(folder, f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}")
        first = views[0] if views else memoryview(b"")
        try:
            fd = open_direct(temporary, _NEW_FLAGS, first)
        except FileNotFoundError:
            # The folder was taken away since it was settled.
            with self._lock:
                self._settled.clear()
            self._settle(folder)
            fd = open_direct(temporary, _NEW_FLAGS, first)
        try:
            try:
                write_all(fd, views)
                os.fsync(fd)
            finally:
                os.close(fd)
        except BaseException:
            os.unlink(temporary)
            raise
        return temporary

    def _link(self, temporary: str, path: str) -> None:
        try:
            os.link(temporary, path)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            raise StoreError(
                f"store {self.url} cannot be used: its file system makes no hard links"
                f" ({error.strerror})",
                "use a directory on a file system with hard links, such as ext4, xfs or zfs",
            ) from error

    def _holds(self, name: str, path: str, views: list[memoryview]) -> bool:
        """Tell whether ``name`` holds exactly ``views``; other bytes raise ``ObjectExists``."""
        try:
            fd = _open_file(path)
        except FileNotFoundError:
            return False
        try:
            if not _same(fd, views):
                raise ObjectExists(f"{self.url}: {name} already holds other bytes")
        finally:
            os.close(fd)
        return True

    @contextmanager
    def _reading(self, name: str, into: memoryview | None = None) -> Generator[int]:
        path = self._path(name)
        with self._errors(name):
            fd = _open_file(path, into)
            try:
                yield fd
            finally:
                os.close(fd)

    def _fill(self, fd: int, name: str, offset: int, view: memoryview) -> None:
        if read_into(fd, view, offset) < len(view):
            raise short_read(self.url, name, offset, len(view), os.fstat(fd).st_size)

    def _entries(self, folder: str) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(os.path.join(self.root, folder)) as entries:
                return [entry for entry in entries if is_name(entry.name)]
        except (FileNotFoundError, NotADirectoryError):
            return []

    def _walk(self, folder: str, prefix: str, after: str) -> Iterator[StoredObject]:
        base = f"{folder}/" if folder else ""
        with self._errors(base):
            # A folder sorts by its name with the slash: "a-b" comes before "a/c".
            found = sorted(
                (f"{base}{entry.name}/" if folders else f"{base}{entry.name}", folders, entry)
                for entry in self._entries(folder)
                if (folders := entry.is_dir(follow_symlinks=False))
                or entry.is_file(follow_symlinks=False)
            )
        for name, folders, entry in found:
            if folders:
                if (name > after or after.startswith(name)) and (
                    name.startswith(prefix) or prefix.startswith(name)
                ):
                    yield from self._walk(name[:-1], prefix, after)
            elif name > after and name.startswith(prefix):
                with suppress(FileNotFoundError):
                    yield _describe(name, entry.stat(follow_symlinks=False))

    def _has_names(self, folder: str) -> bool:
        return next(self._walk(folder, "", ""), None) is not None

    @contextmanager
    def _errors(self, name: str) -> Generator[None]:
        try:
            yield
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
            raise ObjectMissing(f"{self.url}: {name} is not there") from error
        except OSError as error:
            raise self._translate(name, error) from error

    def _translate(self, name: str, error: OSError) -> StoreError:
        place = f"{self.url}: {name or 'the directory'}"
        reason = error.strerror or str(error)
        if error.errno in _FULL:
            return StoreError(f"{place} could not be written: {reason}", "free some space there")
        if error.errno in _REFUSED:
            return StoreUnavailable(
                f"{place} could not be reached: {reason}",
                "check that the directory is mounted and that this user may read and write it",
            )
        return StoreError(f"{place}: {reason}")


def _describe(name: str, found: os.stat_result) -> StoredObject:
    return StoredObject(name, found.st_size, datetime.fromtimestamp(found.st_mtime, UTC))


def _open_file(path: str, into: memoryview | None = None) -> int:
    fd = os.open(path, _READ_FLAGS) if into is None else open_direct(path, _READ_FLAGS, into)
    if modes.S_ISREG(os.fstat(fd).st_mode):
        return fd
    os.close(fd)
    raise IsADirectoryError(errno.EISDIR, "not a regular file", path)


def _same(fd: int, views: list[memoryview]) -> bool:
    if os.fstat(fd).st_size != sum(len(view) for view in views):
        return False
    offset = 0
    for view in views:
        for start in range(0, len(view), _COMPARE_BYTES):
            part = view[start : start + _COMPARE_BYTES]
            if memoryview(os.pread(fd, len(part), offset)) != part:
                return False
            offset += len(part)
    return True


def _make_root(root: Path) -> None:
    missing: list[Path] = []
    folder = root
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for folder in reversed(missing):
        folder.mkdir(mode=0o700, exist_ok=True)
        _fsync_folder(os.fspath(folder.parent))
    if not missing:
        # Others may have made it a moment ago. Where the folder above is closed to us, they did
        # not: whoever let us in here made it.
        with suppress(PermissionError):
            _fsync_folder(os.fspath(root.parent))


def _fsync_folder(folder: str) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)

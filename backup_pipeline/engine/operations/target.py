"""Writing below a restore's target and nowhere else.

Every path is walked step by step from an open target directory and never through a symbolic link,
restored or already there, so nothing leads a write outside.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

from blake3 import blake3

from backup_pipeline.engine.errors import BackupError, UsageError
from backup_pipeline.engine.folders import Folders, split
from backup_pipeline.engine.format.header import MAGIC, STORE
from backup_pipeline.engine.manifest import printable

__all__ = ["Target"]

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_WRITE = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC


class Target:
    """A directory that is restored into.

    Methods raise ``OSError`` where the system refuses; the caller says at which entry. For one
    thread.

    Args:
        root: The directory; made if it is not there.
        create: Whether to make it.

    Attributes:
        existed: Whether anything was in it before.

    Raises:
        UsageError: It is there and is no directory, is closed to us, or lies in a store.
    """

    def __init__(self, root: Path, *, create: bool = True) -> None:
        self.root = root
        self.existed = False
        self._fd = -1
        self._folders: Folders | None = None
        _refuse_stores(root)
        try:
            if create:
                root.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            with os.scandir(self._fd) as entries:
                self.existed = next(entries, None) is not None
        except FileNotFoundError:  # nothing is made when all is only tried
            self.existed = False
        except OSError as error:
            self.close()
            raise UsageError(
                f"cannot restore to {root}: {error.strerror}",
                "name a directory that is there, or may be made, and that you may write to",
            ) from None
        self._folders = Folders(self._fd)

    def close(self) -> None:
        """Close what is open."""
        if self._folders is not None:
            self._folders.close()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def shown(self, path: bytes) -> str:
        """A path below the target as people may read it."""
        return f"{self.root}/{printable(path)}"

    def folder(self, path: bytes) -> int:
        """A descriptor of a folder below the target; valid until many more are opened."""
        assert self._folders is not None
        return self._folders.descriptor(path)

    def lookup(self, path: bytes) -> os.stat_result | None:
        """What is at a path; None if nothing is, or a folder above is missing.

        Raises:
            BackupError: Something above it is no folder.
        """
        if not self.existed:
            return None
        folder, name = split(path)
        try:
            return os.stat(name, dir_fd=self.folder(folder), follow_symlinks=False)
        except FileNotFoundError:
            return None
        except NotADirectoryError:
            raise BackupError(
                f"a file or link is in the way above {self.shown(path)}; nothing was changed",
                "restore to an empty directory, or move it aside",
            ) from None

    def make_folder(self, path: bytes) -> None:
        """Make a folder, and those above it; one that is there is opened to its owner."""
        folder, name = split(path)
        try:
            os.mkdir(name, 0o700, dir_fd=self._made(folder))
        except FileExistsError:
            fd = self.folder(path)
            mode = stat.S_IMODE(os.fstat(fd).st_mode)
            if mode & 0o300 != 0o300 and os.geteuid() != 0:
                os.fchmod(fd, mode | 0o700)  # closed by an earlier restore; its own mode comes last

    def make_folders_above(self, path: bytes) -> None:
        """Make the folders above a path that are missing."""
        self._made(split(path)[0])

    def _made(self, path: bytes) -> int:
        """A descriptor of a folder, made with those above it where they are missing."""
        try:
            return self.folder(path)
        except FileNotFoundError:
            at = path.find(b"/")
            while at >= 0:
                self._make(path[:at])
                at = path.find(b"/", at + 1)
            self._make(path)
            return self.folder(path)

    def _make(self, path: bytes) -> None:
        folder, name = split(path)
        with suppress(FileExistsError):
            os.mkdir(name, 0o700, dir_fd=self.folder(folder))

    def open_read(self, path: bytes) -> int:
        """Open an existing regular file."""
        folder, name = split(path)
        return os.open(name, _READ, dir_fd=self.folder(folder))

    def create(self, path: bytes, *, beside: bool, mode: int = 0o600) -> tuple[int, bytes]:
        """Create a file for writing; its descriptor and the name it has for now.

        Args:
            path: Where it belongs.
            beside: Whether something is there that stays until the new file is whole.
            mode: Its mode at first, less the umask.
        """
        folder, name = split(path)
        fd = self.folder(folder)
        if beside:
            name = _name_beside(path)
            with suppress(FileNotFoundError):  # left by a restore that was stopped
                os.unlink(name, dir_fd=fd)
        return os.open(name, _WRITE | os.O_CREAT | os.O_EXCL, mode, dir_fd=fd), name

    def reopen(self, path: bytes, name: bytes) -> int:
        """Open a file again that ``create`` made."""
        return os.open(name, _WRITE, dir_fd=self.folder(split(path)[0]))

    def move_in(self, path: bytes, name: bytes) -> None:
        """Put what is finished in its place."""
        folder, wanted = split(path)
        if name != wanted:
            fd = self.folder(folder)
            os.rename(name, wanted, src_dir_fd=fd, dst_dir_fd=fd)

    def remove(self, path: bytes, name: bytes) -> None:
        """Remove what was begun under a name and will not be finished."""
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self.folder(split(path)[0]))

    def link(self, first: bytes, path: bytes) -> None:
        """Make a hard link to a file below the target, in place of what is there."""
        folder, name = split(first)
        beside = _name_beside(path)
        source = os.dup(self.folder(folder))  # looking for the other folder may close this one
        try:
            fd = self._made(split(path)[0])
            self.remove(path, beside)
            os.link(name, beside, src_dir_fd=source, dst_dir_fd=fd, follow_symlinks=False)
        finally:
            os.close(source)
        self.move_in(path, beside)

    def symlink(self, target: bytes, path: bytes) -> None:
        """Make a symbolic link, in place of what is there."""
        beside = _name_beside(path)
        fd = self._made(split(path)[0])
        self.remove(path, beside)
        os.symlink(target, beside, dir_fd=fd)
        self.move_in(path, beside)

    def read_link(self, path: bytes) -> bytes:
        """Where a symbolic link points."""
        folder, name = split(path)
        return os.readlink(name, dir_fd=self.folder(folder))


def _name_beside(path: bytes) -> bytes:
    """The same each time, so that what a stopped restore left is found by the next."""
    return b".restoring-" + blake3(path).hexdigest()[:16].encode()


def _refuse_stores(root: Path) -> None:
    """Refuse to restore over backups: a directory that is, or lies in, a store."""
    whole = root.resolve()
    for folder in (whole, *whole.parents):
        descriptor = folder / "store"
        try:
            if not descriptor.is_file():  # a fifo would wait for its writer
                continue
            with descriptor.open("rb") as file:
                begin = file.read(len(MAGIC) + 1)
        except OSError:
            continue
        if begin == MAGIC + STORE:
            raise UsageError(
                f"cannot restore to {root}: {folder} is a store of backups",
                "name a directory outside of it",
            )

"""Writing below a restore's target and nowhere else.

Every path is walked step by step from an open target directory and never through a symbolic link,
restored or already there, so nothing leads a write outside.
"""

from __future__ import annotations

import errno
import os
import stat
import unicodedata
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from blake3 import blake3

from backup_pipeline.engine.errors import BackupError, UsageError
from backup_pipeline.engine.folders import Folders, split
from backup_pipeline.engine.format.header import MAGIC, STORE
from backup_pipeline.engine.manifest import printable

__all__ = ["Target"]

K = TypeVar("K")
T = TypeVar("T")

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_WRITE = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
MOST_KNOWN_FOLDERS = 1024
MOST_LISTED_FOLDERS = 4


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
        self._folding: OrderedDict[tuple[bytes, str], bool] = OrderedDict()
        self._listed: OrderedDict[bytes, frozenset[bytes]] = OrderedDict()
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
            FileExistsError: What is there has another name, which the target takes for this one.
        """
        if not self.existed:
            return None
        folder, name = split(path)
        try:
            found = os.stat(name, dir_fd=self.folder(folder), follow_symlinks=False)
            self._refuse_namesake(folder, name, found)
            return found
        except FileNotFoundError:
            return None
        except NotADirectoryError:
            raise BackupError(
                f"a file or link is in the way above {self.shown(path)}; nothing was changed",
                "restore to an empty directory, or move it aside",
            ) from None

    def _refuse_namesake(self, folder: bytes, name: bytes, found: os.stat_result) -> None:
        """Refuse what is only called so by a file system that does not tell cases or forms apart.

        To replace it would lose another entry, perhaps one that this restore has just written.
        """
        if not any(
            self._folds(folder, kind, found, other) for kind, other in _respelled(name).items()
        ):
            return
        names = self._listed.get(folder)
        if names is None:
            # What this restore makes later has the names of later rows: it need not be known.
            names = frozenset(map(os.fsencode, os.listdir(self.folder(folder))))
            _keep(self._listed, folder, names, MOST_LISTED_FOLDERS)
        if name not in names:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))

    def _folds(self, folder: bytes, kind: str, found: os.stat_result, other: bytes) -> bool:
        """Whether a folder takes a spelling of this kind for the same name; asked once."""
        known = self._folding.get((folder, kind))
        if known is None:
            try:
                there = os.stat(other, dir_fd=self.folder(folder), follow_symlinks=False)
                known = os.path.samestat(there, found)
            except OSError:
                known = False
            _keep(self._folding, (folder, kind), known, MOST_KNOWN_FOLDERS)
        return known

    def make_folder(self, path: bytes, *, there: bool) -> None:
        """Make a folder, and those above it; one that is there is opened to its owner.

        Raises:
            FileExistsError: None was there, and yet its name is taken.
        """
        folder, name = split(path)
        try:
            os.mkdir(name, 0o700, dir_fd=self._made(folder))
        except FileExistsError:
            if not there:
                raise
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

    def link(self, first: bytes, path: bytes, *, there: bool) -> None:
        """Make a hard link to a file below the target, in place of what is there, if anything is.

        Raises:
            FileExistsError: Nothing was there, and yet its name is taken.
        """
        folder, name = split(first)
        source = os.dup(self.folder(folder))  # looking for the other folder may close this one
        try:
            fd, beside = self._beside(path, there=there)
            os.link(name, beside, src_dir_fd=source, dst_dir_fd=fd, follow_symlinks=False)
        finally:
            os.close(source)
        self.move_in(path, beside)

    def symlink(self, target: bytes, path: bytes, *, there: bool) -> None:
        """Make a symbolic link, in place of what is there, if anything is.

        Raises:
            FileExistsError: Nothing was there, and yet its name is taken.
        """
        fd, beside = self._beside(path, there=there)
        os.symlink(target, beside, dir_fd=fd)
        self.move_in(path, beside)

    def _beside(self, path: bytes, *, there: bool) -> tuple[int, bytes]:
        """The folder of a link and the name to make it under: its own, where nothing is."""
        folder, name = split(path)
        fd = self._made(folder)
        if there:
            name = _name_beside(path)
            self.remove(path, name)
        return fd, name

    def read_link(self, path: bytes) -> bytes:
        """Where a symbolic link points."""
        folder, name = split(path)
        return os.readlink(name, dir_fd=self.folder(folder))


def _respelled(name: bytes) -> dict[str, bytes]:
    """Other spellings that some file systems take for the same name, by what differs in them."""
    text = name.decode("utf-8", "surrogateescape")
    composed = unicodedata.normalize("NFC", text)
    forms = {
        "case": text.swapcase(),
        "form": unicodedata.normalize("NFD", text) if composed == text else composed,
    }
    spelled = {kind: form.encode("utf-8", "surrogateescape") for kind, form in forms.items()}
    return {kind: other for kind, other in spelled.items() if other != name}


def _keep(kept: OrderedDict[K, T], key: K, value: T, most: int) -> None:
    kept[key] = value
    if len(kept) > most:
        kept.popitem(last=False)


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

"""The steps of a restore in place, and the way back.

Each step can be done again, or undone, whatever a process that ended in the middle left: how far it
came shows from which of ``new/``, ``old/`` and the folder itself has the path. Nothing is written
over: what stands in the way is renamed into ``old/``, and what is new takes a name that is free.
"""

from __future__ import annotations

import base64
import errno
import os
import stat
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from backup_pipeline.engine.errors import BackupError
from backup_pipeline.engine.folders import Folders, split
from backup_pipeline.engine.manifest import printable
from backup_pipeline.engine.operations.metadata import found_of, set_metadata
from backup_pipeline.engine.operations.rows import Row
from backup_pipeline.engine.operations.side import Side, Step

__all__ = ["Moves", "from_text", "to_text"]

_NO_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS})
_ABSENT = (FileNotFoundError, NotADirectoryError)


def to_text(path: bytes) -> str:
    """A path for JSON, whatever its bytes."""
    return path.decode("utf-8", "surrogateescape")


def from_text(text: str) -> bytes:
    """What ``to_text`` was given."""
    return text.encode("utf-8", "surrogateescape")


class _Tree:
    """One of the folders that entries move between."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._fd = -1
        self._folders: Folders | None = None

    def folder(self, path: bytes, *, make: bool = False) -> int:
        """A descriptor of a folder in it, made with those above it where ``make`` says so."""
        if self._folders is None:
            if make:
                self.root.mkdir(mode=0o700, exist_ok=True)
            self._fd = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            self._folders = Folders(self._fd)
        try:
            return self._folders.descriptor(path)
        except FileNotFoundError:
            if not make:
                raise
        above, name = split(path)
        fd = self.folder(above, make=True)
        with suppress(FileExistsError):
            os.mkdir(name, 0o700, dir_fd=fd)
        return self._folders.descriptor(path)

    def find(self, path: bytes) -> os.stat_result | None:
        """What is at a path, if anything is."""
        folder, name = split(path)
        try:
            return os.stat(name, dir_fd=self.folder(folder), follow_symlinks=False)
        except _ABSENT:
            return None

    def forget(self) -> None:
        """Open folders anew from here on: one was moved, and a descriptor would go with it."""
        if self._folders is not None:
            self._folders.close()

    def close(self) -> None:
        """Close all."""
        if self._folders is not None:
            self._folders.close()
            os.close(self._fd)
            self._folders = None


class Moves:
    """Does and undoes steps in a folder.

    Args:
        side: The side folder of the folder.
        done: Is told after each step.

    Attributes:
        notices: What the user should know.
    """

    def __init__(self, side: Side, done: Callable[[], None] = lambda: None) -> None:
        self.notices: list[str] = []
        self.place = _Tree(side.root)
        self._new, self._old, self._since = map(_Tree, (side.new, side.old, side.since))
        self._done = done
        self._path = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for tree in (self.place, self._new, self._old, self._since):
            tree.close()
        if isinstance(error, OSError):
            raise BackupError(
                f"{self.place.root}/{printable(self._path)}: {error.strerror or error}",
                "put that right and run the same command again; `--undo` puts back what was",
            ) from error

    # -- what will be done

    def plan(
        self, wanted: Iterable[bytes], folders: Iterable[bytes], asides: Iterable[bytes]
    ) -> list[Step]:
        """Steps that put everything in place, as far as it was restored.

        Args:
            wanted: Paths of files and links; those that are not in ``new/`` are left out.
            folders: Folders to make.
            asides: What to move aside.
        """
        steps: list[Step] = []
        made = list(folders)
        for path in wanted:
            found = self._new.find(path)
            if found is not None:
                step = {"do": "place", "path": to_text(path), "is": _identity(found)}
                steps.append(step)
        steps += [{"do": "folder", "path": to_text(path)} for path in made]
        steps.sort(key=lambda step: from_text(step["path"]))
        return steps + [{"do": "aside", "path": to_text(path)} for path in asides]

    def touched(
        self, steps: Iterable[Step], retouched: Iterable[tuple[bytes, int | None]]
    ) -> list[Step]:
        """Steps that remember owner, mode, time and attributes of what will have others.

        Args:
            steps: Those of ``plan``; the folders above them change their times.
            retouched: Files and folders that get other metadata, and their new time.

        Raises:
            BackupError: One lies on another file system.
        """
        found = list(steps)
        made = {from_text(step["path"]) for step in found if step["do"] == "folder"}
        times = dict(retouched)
        above = {split(from_text(step["path"]))[0] for step in found}
        paths = {*times, *above} - made - {b""}
        device = os.fstat(self.place.folder(b"")).st_dev
        out: list[Step] = []
        for path in sorted(paths):
            there = self.place.find(path)
            if there is None:
                continue
            self._refuse_mount(path, there, device)
            was = self._was(path, there)
            out.append({"do": "meta", "path": to_text(path), "was": was, "then": times.get(path)})
        for step in found:
            there = self.place.find(from_text(step["path"]))
            if there is not None:
                self._refuse_mount(from_text(step["path"]), there, device)
        return out

    def _refuse_mount(self, path: bytes, there: os.stat_result, device: int) -> None:
        if there.st_dev != device:
            raise BackupError(
                f"{self.place.root}/{printable(path)} lies on another file system, and nothing can"
                " be moved aside across; nothing was changed",
                "restore to a directory of its own, or leave it out with --include",
            )

    def _was(self, path: bytes, there: os.stat_result) -> dict[str, Any]:
        link = self._name(path)
        try:
            names = os.listxattr(link, follow_symlinks=False)
            attributes = {
                one: base64.b64encode(os.getxattr(link, one, follow_symlinks=False)).decode()
                for one in names
            }
        except OSError:
            attributes = {}
        return {
            "inode": there.st_ino,
            "mode": stat.S_IMODE(there.st_mode),
            "uid": there.st_uid,
            "gid": there.st_gid,
            "mtime_ns": there.st_mtime_ns,
            "xattrs": attributes,
        }

    def _name(self, path: bytes) -> bytes:
        """A path that leads there however long the real one is; valid for the next call."""
        folder, name = split(path)
        return b"/proc/self/fd/%d/%s" % (self.place.folder(folder), name)

    # -- forward

    def do(self, steps: Iterable[Step]) -> None:
        """Put everything in place."""
        steps = list(steps)
        self._open_folders(steps)
        for step in steps:
            path = self._path = from_text(step["path"])
            if step["do"] == "place":
                self._put(path)
            elif step["do"] == "folder":
                self._make(path)
            elif step["do"] == "aside" and self._old.find(path) is None:
                there = self.place.find(path)
                if there is not None:
                    self._move(self.place, self._old, path, there)
            self._done()

    def retouch(self, rows: Mapping[bytes, Row], *, owners: bool) -> None:
        """Give files and folders the metadata of their rows, from the deepest up."""
        for path in sorted(rows, reverse=True):
            self._path = path
            there = self.place.find(path)
            if there is None:
                continue
            fd = self._opened(path, there)
            try:
                told = set_metadata(fd, rows[path], found_of(fd), owners=owners, fresh=False)
            finally:
                os.close(fd)
            self.notices += [f"{printable(path)}: {one}" for one in told]

    def _open_folders(self, steps: Iterable[Step]) -> None:
        """Let the owner of folders change them; their own modes come last."""
        if os.geteuid() == 0:
            return
        for step in steps:
            path = self._path = from_text(step["path"])
            there = self.place.find(path) if step["do"] in {"meta", "folder"} else None
            if there is not None and stat.S_ISDIR(there.st_mode):
                mode = stat.S_IMODE(there.st_mode)
                if mode & 0o300 != 0o300:
                    os.chmod(self.place.folder(path), mode | 0o700)

    def _put(self, path: bytes) -> None:
        new = self._new.find(path)
        if new is None:
            return  # it is in its place already
        there = self.place.find(path)
        folder, name = split(path)
        source, fd = self._new.folder(folder), self.place.folder(folder)
        if there is not None and not os.path.samestat(there, new):
            self._set_aside(path, there)
            fd = self.place.folder(folder)
            there = None
        if there is None:
            try:  # a link, unlike a rename, never takes the place of what came meanwhile
                os.link(name, name, src_dir_fd=source, dst_dir_fd=fd, follow_symlinks=False)
            except OSError as error:
                if error.errno not in _NO_LINKS or self.place.find(path) is not None:
                    raise
                os.rename(name, name, src_dir_fd=source, dst_dir_fd=fd)
                return
        os.unlink(name, dir_fd=source)

    def _make(self, path: bytes) -> None:
        there = self.place.find(path)
        if there is not None and stat.S_ISDIR(there.st_mode):
            return
        if there is not None:
            self._set_aside(path, there)
        folder, name = split(path)
        os.mkdir(name, 0o700, dir_fd=self.place.folder(folder))

    def _set_aside(self, path: bytes, there: os.stat_result) -> None:
        if self._old.find(path) is not None:
            raise BackupError(
                f"{self.place.root}/{printable(path)} came while it was being restored",
                "move it away and run the same command again; `--undo` puts back what was",
            )
        self._move(self.place, self._old, path, there)

    def _move(
        self,
        tree: _Tree,
        to: _Tree,
        path: bytes,
        there: os.stat_result,
        wanted: bytes | None = None,
    ) -> None:
        folder, name = split(path)
        target, new_name = split(wanted or path)
        fd, source = to.folder(target, make=True), tree.folder(folder)
        is_folder = stat.S_ISDIR(there.st_mode)
        # Only who may write to a folder may give it another folder above.
        closed = is_folder and os.geteuid() != 0 and not there.st_mode & stat.S_IWUSR
        if closed:
            os.chmod(name, stat.S_IMODE(there.st_mode) | stat.S_IWUSR, dir_fd=source)
        os.rename(name, new_name, src_dir_fd=source, dst_dir_fd=fd)
        if closed:
            os.chmod(new_name, stat.S_IMODE(there.st_mode), dir_fd=fd)
        if is_folder:
            tree.forget()
            to.forget()

    # -- back

    def undo(self, steps: Iterable[Step]) -> None:
        """Put everything back as it was; what was changed since goes to ``since/``."""
        steps = list(steps)
        self._open_folders(steps)
        for step in reversed(steps):
            path = self._path = from_text(step["path"])
            if step["do"] == "folder":
                self._unmake(path)
            elif step["do"] == "place":
                self._take_out(path, step["is"])
            if step["do"] != "meta":
                self._put_back(path)
            self._done()
        for step in reversed([one for one in steps if one["do"] == "meta"]):
            self._path = from_text(step["path"])
            self._set_back(self._path, step)

    def _unmake(self, path: bytes) -> None:
        there = self.place.find(path)
        if there is None or not stat.S_ISDIR(there.st_mode):
            return
        folder, name = split(path)
        try:
            os.rmdir(name, dir_fd=self.place.folder(folder))
            self.place.forget()
        except OSError as error:
            if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                raise
            self._to_since(path, there)

    def _take_out(self, path: bytes, ours: list[int]) -> None:
        """Take back what was put there; that it is done shows from ``new/``, which has its path."""
        new, there = self._new.find(path), self.place.find(path)
        folder, name = split(path)
        if new is not None:
            if there is not None and os.path.samestat(new, there):
                os.unlink(name, dir_fd=self.place.folder(folder))
            return
        if there is not None and _identity(there) == ours:
            self._move(self.place, self._new, path, there)
            return
        if there is not None:
            self._to_since(path, there)
        os.close(
            os.open(
                name, os.O_CREAT | os.O_WRONLY, 0o600, dir_fd=self._new.folder(folder, make=True)
            )
        )

    def _put_back(self, path: bytes) -> None:
        kept = self._old.find(path)
        if kept is None:
            return
        there = self.place.find(path)
        if there is not None:
            self._to_since(path, there)
        self._move(self._old, self.place, path, kept)

    def _to_since(self, path: bytes, there: os.stat_result) -> None:
        wanted, number = path, 1
        while self._since.find(wanted) is not None:
            wanted, number = path + b".%d" % number, number + 1
        self._move(self.place, self._since, path, there, wanted)
        self.notices.append(f"{printable(path)} was changed after the restore, and is kept aside")

    def _set_back(self, path: bytes, step: Step) -> None:
        was, there = step["was"], self.place.find(path)
        if there is None or there.st_ino != was["inode"]:
            return
        if stat.S_ISREG(there.st_mode) and there.st_mtime_ns not in (was["mtime_ns"], step["then"]):
            self.notices.append(f"{printable(path)} was changed after the restore, and stays so")
            return
        fd = self._opened(path, there)
        try:
            pairs = [
                {"name": os.fsencode(name), "value": base64.b64decode(value)}
                for name, value in was["xattrs"].items()
            ]
            row = _row(path, was, pairs)
            told = set_metadata(fd, row, found_of(fd), owners=os.geteuid() == 0, fresh=False)
        finally:
            os.close(fd)
        self.notices += [f"{printable(path)}: {one}" for one in told]

    def _opened(self, path: bytes, there: os.stat_result) -> int:
        """A descriptor of a file or folder, even where its mode closes it to its owner."""
        folder, name = split(path)
        fd = self.place.folder(folder)
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            return os.open(name, flags, dir_fd=fd)
        except PermissionError:
            os.chmod(name, stat.S_IMODE(there.st_mode) | 0o400, dir_fd=fd)
            return os.open(name, flags, dir_fd=fd)


def _identity(found: os.stat_result) -> list[int]:
    """Tells a file from another, and from itself after a change."""
    return [found.st_ino, found.st_size, found.st_mtime_ns]


def _row(path: bytes, was: Mapping[str, Any], xattrs: list[dict[str, bytes]]) -> Row:
    """The metadata of something as a row that sets it."""
    return Row(
        path=path,
        type="",
        state="good",
        reason=None,
        size=0,
        mtime_ns=was["mtime_ns"],
        inode=None,
        device=None,
        links=None,
        mode=was["mode"],
        uid=was["uid"],
        gid=was["gid"],
        link_target=None,
        xattrs=xattrs or None,
        holes=None,
    )

"""File trees to back up: how to make and change them, and all that a restore must give back."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import shutil
import socket
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from backup_pipeline.engine.chunker import (
    CHUNK_LEAST_BYTES,
    CHUNK_MOST_BYTES,
    SOLID_LIMIT_BYTES,
    SOLID_TARGET_BYTES,
)
from backup_pipeline.engine.operations.packing import READ_BUFFER_BYTES

NAMES = (
    b"a",
    b"a.b",
    b"a-b",
    b"a0",
    b"b",
    b"\xff\xfe not UTF-8",
    b"new\nline",
    "größe.csv".encode(),
    b"-rf",
    b".hidden",
    b"back\\slash",
    b"[glob]*?",
    b"tab\tbell\x07",
    b" ",
    b"n" * 255,
    b"z" * 250,
)
SIZES = (
    0,
    1,
    4096,
    100_000,
    CHUNK_LEAST_BYTES,
    SOLID_LIMIT_BYTES - 1,
    SOLID_LIMIT_BYTES,
    SOLID_LIMIT_BYTES + 1,
    CHUNK_MOST_BYTES - 1,
    CHUNK_MOST_BYTES + 1,
    SOLID_TARGET_BYTES + SOLID_LIMIT_BYTES,
    READ_BUFFER_BYTES - 1,
    READ_BUFFER_BYTES,
    READ_BUFFER_BYTES + 1,
    READ_BUFFER_BYTES + CHUNK_LEAST_BYTES,
)
MODES = (0o644, 0o600, 0o444, 0o000, 0o755, 0o4755, 0o2750, 0o1777)
NOBODY = 65534
OLD_NS = 1_500_000_000_123_456_789

# Operation, and three numbers that choose among what there is.
Step = tuple[str, int, int, int]


@dataclass(frozen=True)
class Entry:
    """What is known of one path of a tree, as far as a restore gives it back.

    Attributes:
        group: The first path of the file that this is another name of.
        holes: Whether the file takes less room than its size.
    """

    type: str
    mode: int
    owner: tuple[int, int]
    mtime_ns: int
    size: int = 0
    digest: str = ""
    link_target: bytes = b""
    xattrs: tuple[tuple[str, bytes], ...] = ()
    group: bytes = b""
    holes: bool = False


State = dict[bytes, Entry]


def paths_below(root: bytes) -> Iterator[bytes]:
    """Every path below a folder, relative to it, folders before what is in them."""
    stack = [b""]
    while stack:
        folder = stack.pop()
        for name in sorted(os.listdir(os.path.join(root, folder) if folder else root)):
            path = os.path.join(folder, name) if folder else name
            yield path
            if stat.S_ISDIR(os.lstat(os.path.join(root, path)).st_mode):
                stack.append(path)


def state_of(root: Path) -> State:
    """All that is below a folder; fifos and sockets, which are not kept, left out."""
    top, found = os.fsencode(root), State()
    groups: dict[int, bytes] = {}
    for path in sorted(paths_below(top)):
        whole = os.path.join(top, path)
        one = os.lstat(whole)
        owner, mode = (one.st_uid, one.st_gid), stat.S_IMODE(one.st_mode)
        xattrs = tuple(
            (name, os.getxattr(whole, name, follow_symlinks=False))
            for name in sorted(os.listxattr(whole, follow_symlinks=False))
        )
        if stat.S_ISDIR(one.st_mode):
            found[path] = Entry("directory", mode, owner, one.st_mtime_ns, xattrs=xattrs)
        elif stat.S_ISLNK(one.st_mode):
            target = os.readlink(whole)
            found[path] = Entry("symlink", mode, owner, one.st_mtime_ns, link_target=target)
        elif stat.S_ISREG(one.st_mode):
            found[path] = Entry(
                "file",
                mode,
                owner,
                one.st_mtime_ns,
                one.st_size,
                digest_of(whole),
                xattrs=xattrs,
                group=groups.setdefault(one.st_ino, path),
                holes=one.st_blocks * 512 < one.st_size - 8192,
            )
    return found


def digest_of(path: bytes) -> str:
    """SHA-256 of a file's bytes (hex)."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def content(size: int, seed: int) -> bytes:
    """Bytes that compress well, or not at all, by the seed."""
    chance = random.Random(seed)
    if seed % 2:
        return chance.randbytes(size)
    line = chance.randbytes(997).hex().encode()
    return (line * (size // len(line) + 1))[:size]


class Tree:
    """A tree that takes steps; every step can be taken in any state of it.

    Args:
        root: An empty folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._top = os.fsencode(root)

    def apply(self, step: Step) -> None:
        """Take one step. What the file system refuses (a name that is too long) is no step."""
        name, *numbers = step
        try:
            getattr(self, f"_{name}")(*numbers)
        except FileExistsError:
            return
        except OSError as error:
            if error.errno not in {errno.ENAMETOOLONG, errno.EMLINK}:
                raise

    def _choose(self, number: int, *types: str) -> bytes | None:
        found = [
            path
            for path in paths_below(self._top)
            if not types or _type(os.path.join(self._top, path)) in types
        ]
        return os.path.join(self._top, found[number % len(found)]) if found else None

    def _fresh(self, where: int, name: int) -> bytes:
        folder = self._choose(where, "directory") if where % 3 else None
        return os.path.join(folder or self._top, NAMES[name % len(NAMES)])

    def _write(self, path: bytes, text: bytes) -> None:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(text)

    def _file(self, where: int, name: int, size: int) -> None:
        self._write(self._fresh(where, name), content(SIZES[size % len(SIZES)], size))

    def _directory(self, where: int, name: int, _: int) -> None:
        os.mkdir(self._fresh(where, name))

    def _symlink(self, where: int, name: int, which: int) -> None:
        targets = (b"a", b"nowhere/at all", b"/etc/passwd", b"../..", b".", b"\xff", b"a.b/../a")
        os.symlink(targets[which % len(targets)], self._fresh(where, name))

    def _special(self, where: int, name: int, which: int) -> None:
        path = self._fresh(where, name)
        if which % 2:
            os.mkfifo(path)
            return
        if os.path.lexists(path):
            return
        with socket.socket(socket.AF_UNIX) as listener, suppress(OSError):
            listener.bind(path)  # its path may be too long for a socket

    def _hard_link(self, where: int, name: int, which: int) -> None:
        if (first := self._choose(which, "file")) is not None:
            os.link(first, self._fresh(where, name))

    def _sparse(self, where: int, name: int, which: int) -> None:
        size = (1 << 20, 3 << 20, 64 << 20)[which % 3]
        path = self._fresh(where, name)
        self._write(path, b"")
        with open(path, "r+b") as file:
            for offset in ((), (0,), (size // 2,), (0, 1 << 19, size - 9))[which % 4]:
                file.seek(offset)
                file.write(content(5000, which))
            file.truncate(size)

    def _rewrite(self, which: int, size: int, keep_time: int) -> None:
        """New bytes, now and then of the same size and with the old time put back."""
        if (path := self._choose(which, "file")) is None:
            return
        before = os.lstat(path)
        length = before.st_size if keep_time % 2 else SIZES[size % len(SIZES)]
        with open(path, "r+b") as file:
            file.truncate(0)
            file.write(content(min(length, 5 << 20), size + 1))
            file.truncate(length)
        if keep_time % 2:
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    def _insert(self, which: int, at: int, size: int) -> None:
        """A few bytes more near the start of a file."""
        if (path := self._choose(which, "file")) is None or os.lstat(path).st_size > 8 << 20:
            return
        with open(path, "r+b") as file:
            old = file.read()
            place = at % (len(old) + 1)
            file.seek(place)
            file.write(content(size % 1000 + 1, size) + old[place:])

    def _truncate(self, which: int, share: int, _: int) -> None:
        if (path := self._choose(which, "file")) is not None:
            os.truncate(path, os.lstat(path).st_size * (share % 4) // 3)

    def _delete(self, which: int, _: int, __: int) -> None:
        if (path := self._choose(which)) is not None:
            _remove(path)

    def _replace(self, which: int, kind: int, seed: int) -> None:
        """Something else under the same name."""
        if (path := self._choose(which)) is None:
            return
        _remove(path)
        if kind % 3 == 0:
            os.mkdir(path)
            self._write(os.path.join(path, b"below"), content(77, seed))
        elif kind % 3 == 1:
            os.symlink(b"elsewhere", path)
        else:
            self._write(path, content(SIZES[seed % len(SIZES)], seed))

    def _rename(self, which: int, where: int, name: int) -> None:
        if (path := self._choose(which)) is None:
            return
        new = self._fresh(where, name)
        if not os.path.lexists(new) and not new.startswith(path + b"/"):
            os.rename(path, new)

    def _chmod(self, which: int, mode: int, _: int) -> None:
        if (path := self._choose(which, "file", "directory")) is not None:
            ours = 0 if os.geteuid() == 0 else 0o700  # or else it could not be backed up
            os.chmod(path, MODES[mode % len(MODES)] | ours)

    def _chown(self, which: int, owner: int, _: int) -> None:
        if os.geteuid() == 0 and (path := self._choose(which)) is not None:
            os.chown(path, owner % 3 * 1000, owner % 5 * 1000, follow_symlinks=False)

    def _touch(self, which: int, seconds: int, _: int) -> None:
        if (path := self._choose(which)) is not None:
            times = (OLD_NS, OLD_NS + seconds * 1_000_000_007)
            os.utime(path, ns=times, follow_symlinks=False)

    def _xattr(self, which: int, size: int, seed: int) -> None:
        if (path := self._choose(which, "file", "directory")) is not None:
            name = ("user.a", "user.größe")[seed % 2]
            with suppress(OSError):  # a file system without them, or without room
                if seed % 5 == 0 and name in os.listxattr(path):
                    os.removexattr(path, name)
                os.setxattr(path, name, content(size % 300, seed))


MAKING = ("file", "file", "directory", "symlink", "special", "hard_link", "sparse")
EDITING = (
    *("rewrite", "rewrite", "insert", "truncate", "delete", "replace", "rename"),
    *("chmod", "chown", "touch", "xattr", *MAKING),
)


def _type(path: bytes) -> str:
    mode = os.lstat(path).st_mode
    if stat.S_ISDIR(mode):
        return "directory"
    return "file" if stat.S_ISREG(mode) else "symlink" if stat.S_ISLNK(mode) else "special"


def _remove(path: bytes) -> None:
    if _type(path) == "directory":
        shutil.rmtree(path)
    else:
        os.unlink(path)


@contextmanager
def no_privileges() -> Iterator[None]:
    """Within it this process may do no more than any user; a change of user needs root."""
    if os.geteuid() != 0:
        yield
        return
    groups = os.getgroups()
    os.setgroups([])
    os.setegid(NOBODY)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)


@contextmanager
def place_of_nobody() -> Iterator[Path]:
    """A folder that a user without privileges owns and may reach."""
    top = Path(tempfile.mkdtemp(prefix="backup-pipeline-test-"))
    try:
        if os.geteuid() == 0:
            os.chown(top, NOBODY, NOBODY)
        yield top
    finally:
        for folder, names, _ in os.walk(top):
            for name in names:
                if not os.path.islink(os.path.join(folder, name)):
                    os.chmod(os.path.join(folder, name), 0o700)
        shutil.rmtree(top)

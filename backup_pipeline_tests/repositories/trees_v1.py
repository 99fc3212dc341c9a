"""The trees in the golden repositories, the same whenever they are made, and what is in a tree."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from pathlib import Path

__all__ = ["DAYS", "digest_of", "listing", "make_tree"]

DAYS = ("2026-11-16", "2026-11-17", "2026-11-18", "2026-11-19", "2026-11-20", "2026-11-21")
OLD_NS = 1_700_000_000_123_456_789
NOT_UTF8 = b"caf\xe9 \xff.txt"
LONG = b"/".join([b"long" + b"x" * 96, b"y" * 100, b"z" * 94 + b".txt"])  # 300 bytes
assert len(LONG) == 300


def _large(seed: int, blocks: int) -> bytes:
    """Content that is cut into several chunks and compresses to almost nothing."""
    return b"".join((seed * 1000 + i).to_bytes(8, "big") + bytes(8184) for i in range(blocks))


def _text(seed: int, lines: int) -> bytes:
    return b"".join(b"%d;%d;row\n" % (seed, i) for i in range(lines))


def _files(day: int) -> dict[bytes, bytes]:
    """Path to content of the regular files of a day, counted from 0."""
    files = {
        b"empty": b"",
        b"large.bin": _large(1, 300),  # 2.4 MB
        b"a.txt": _text(1, 40),
        b"b.txt": _text(2, 40),
        b"folder/c.txt": _text(3, 10),
        b"folder/executable": b"#!/bin/sh\nexit 0\n",
        NOT_UTF8: b"a name that is no UTF-8\n",
        b"new\nline": b"a name of two lines\n",
        LONG: b"a path of 300 bytes\n",
    }
    if day >= 1:  # changed, added, deleted
        files[b"a.txt"] = _text(10, 50)
        files[b"folder/new.txt"] = _text(4, 20)
        del files[b"b.txt"]
    if day >= 2:
        files[b"large.bin"] = _large(1, 200) + _large(2, 60)
        files[b"random.bin"] = b"".join(
            hashlib.sha256(b"%d" % i).digest() for i in range(64)
        )  # does not compress
    if day >= 3:
        files[b"cannot be read"] = b"the snapshot of this day lacks this file\n"
    if day >= 4:
        del files[b"cannot be read"], files[b"large.bin"], files[b"folder/new.txt"]
    return files


def make_tree(root: Path, day: int) -> None:
    """Make the tree of a day, counted from 0, in a new folder."""
    os.makedirs(root)
    where = os.fsencode(root) + b"/"
    for path, content in _files(day).items():
        os.makedirs(os.path.dirname(where + path), exist_ok=True)
        with open(where + path, "wb") as file:
            file.write(content)
    os.makedirs(where + b"folder/empty folder", exist_ok=True)
    with open(where + b"sparse", "wb") as file:  # data, a hole of 1 MiB, data, a hole at the end
        file.write(b"begin".ljust(4096, b"."))
        file.seek(4096 + (1 << 20))
        file.write(b"end".ljust(4096, b"."))
        file.truncate(2 << 20)
    os.link(where + b"a.txt", where + b"folder/same as a.txt")
    os.symlink(b"folder/c.txt", where + b"link")
    os.symlink(b"../../nowhere \xff", where + b"folder/dangling")
    os.mkfifo(where + b"pipe")
    os.chmod(where + b"folder/executable", 0o755)
    os.chmod(where + b"empty", 0o600)
    os.chmod(where + b"folder/c.txt", 0o440)
    _set_times(where)
    os.chmod(where + b"folder/empty folder", 0o711)


def _set_times(where: bytes) -> None:
    for folder, folders, files in os.walk(where, topdown=False):
        for name in sorted(files + folders):
            path = os.path.join(folder, name)
            relative = path[len(where) :]
            age_ns = int.from_bytes(hashlib.sha256(relative).digest()[:5], "big")
            os.utime(path, ns=(OLD_NS - age_ns,) * 2, follow_symlinks=False)
    # Both names of a file have one time.
    os.utime(where + b"a.txt", ns=(OLD_NS, OLD_NS))
    os.utime(where + b"folder", ns=(OLD_NS + 1, OLD_NS + 1))


def listing(root: Path) -> list[list[object]]:
    """All that every file system keeps of a tree, in order of path; owners left out."""
    where = os.fsencode(root) + b"/"
    found: list[list[object]] = []
    first_of: dict[tuple[int, int], str] = {}
    for folder, folders, files in os.walk(where):
        for name in files + folders:
            path = os.path.join(folder, name)
            text, status = path[len(where) :].hex(), os.lstat(path)
            kind, mode = stat.S_IFMT(status.st_mode), stat.S_IMODE(status.st_mode)
            entry: list[object] = [text, oct(kind), oct(mode), status.st_mtime_ns]
            if stat.S_ISREG(kind):
                with open(path, "rb") as file:
                    entry += [status.st_size, hashlib.sha256(file.read()).hexdigest()]
            elif stat.S_ISLNK(kind):
                entry += [os.readlink(path).hex()]
                entry[2] = None
            found.append(entry)
    found.sort(key=lambda entry: bytes.fromhex(str(entry[0])))
    for entry in found:
        status = os.lstat(where + bytes.fromhex(str(entry[0])))
        if stat.S_ISREG(status.st_mode) and status.st_nlink > 1:
            entry.append(first_of.setdefault((status.st_dev, status.st_ino), str(entry[0])))
    return found


def digest_of(entries: list[list[object]]) -> str:
    """SHA-256 (hex) of a listing."""
    return hashlib.sha256(json.dumps(entries).encode()).hexdigest()

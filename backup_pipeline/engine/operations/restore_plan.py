"""What a restore has to do, given what is in the target already; nothing is changed to know it."""

from __future__ import annotations

import os
import stat
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from blake3 import blake3

from backup_pipeline.engine.errors import BackupError
from backup_pipeline.engine.operations.assembly import Refusals, extents
from backup_pipeline.engine.operations.rows import Row
from backup_pipeline.engine.operations.target import Target

__all__ = ["WITH_BYTES", "Work", "plan"]

WITH_BYTES = frozenset({"file", "object"})
_MADE = frozenset({*WITH_BYTES, "directory", "symlink"})
_LOST = frozenset({"unreadable", "vanished"})
_ZEROS_BYTES = 1 << 20


@dataclass(slots=True)
class Work:
    """Numbers of rows, by what is to be done with them.

    Attributes:
        wanted: Files to write.
        right: Files and symbolic links that are right already; their metadata is set.
        links: Further names of a file: (row, row of the first name).
        symlinks: Symbolic links to make.
        in_place: Rows at whose path there is something.
        lost: Rows whose content the snapshot does not have.
        replaced: How many existing files or links are replaced.
    """

    wanted: list[int] = field(default_factory=list[int])
    right: list[int] = field(default_factory=list[int])
    links: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    symlinks: list[int] = field(default_factory=list[int])
    in_place: set[int] = field(default_factory=set[int])
    lost: list[int] = field(default_factory=list[int])
    replaced: int = 0


def plan(rows: list[Row], lists: Any, target: Target, identity_key: bytes, at: Refusals) -> Work:
    """Look at every path of the target that rows name.

    Args:
        rows: Manifest rows.
        lists: Their chunks.
        target: What is restored into.
        identity_key: Names chunks.
        at: Is told which path is looked at.

    Raises:
        BackupError: Something that is no folder is where one belongs, or the other way round.
    """
    return _Plan(rows, lists, target, identity_key).run(at)


class _Plan:
    def __init__(self, rows: list[Row], lists: Any, target: Target, identity_key: bytes) -> None:
        self.rows = rows
        self.lists = lists
        self.target = target
        self.identity_key = identity_key
        self.work = Work()

    def run(self, at: Refusals) -> Work:
        work, first_of = self.work, self._first_names()
        found: dict[int, os.stat_result] = {}
        for number, row in enumerate(self.rows):
            at.path = row.path
            there = self.target.lookup(row.path)
            if there is not None:
                self._refuse_obstacle(row, there)
                found[number] = there
        work.in_place = set(found)
        names = Counter(
            (first_of.get(number, number), one.st_dev, one.st_ino) for number, one in found.items()
        )
        right = set[int]()
        for number, row in enumerate(self.rows):
            at.path = row.path
            first, there = first_of.get(number, number), found.get(number)
            if row.state in _LOST:
                work.lost.append(number)
            elif row.type == "symlink":
                if there is not None and self._points_right(row, there):
                    work.right.append(number)
                    continue
                work.symlinks.append(number)
                work.replaced += there is not None
            elif row.type not in WITH_BYTES:
                continue
            elif there is not None and first in right and os.path.samestat(there, found[first]):
                right.add(number)
                work.right.append(number)
            elif first != number:
                work.links.append((number, first))
                work.replaced += there is not None
            # A file with names elsewhere is not ours to change, even where its bytes are right.
            elif (
                there is not None
                and there.st_nlink == names[number, there.st_dev, there.st_ino]
                and self._is_right(number, there)
            ):
                right.add(number)
                work.right.append(number)
            else:
                work.wanted.append(number)
                work.replaced += there is not None
        return work

    def _first_names(self) -> dict[int, int]:
        """For each further name of a file, the row of its first; both have the same content."""
        firsts: dict[tuple[int | None, int | None], int] = {}
        found: dict[int, int] = {}
        for number, row in enumerate(self.rows):
            if (row.links or 0) < 2 or row.type != "file" or row.state in _LOST:
                continue
            first = firsts.setdefault((row.device, row.inode), number)
            # Numbers alone may deceive: a device's may have gone to another since a restart.
            if first != number and self._content(first) == self._content(number):
                found[number] = first
        return found

    def _content(self, number: int) -> tuple[Any, ...]:
        row = self.rows[number]
        ids = [chunk["id"] for chunk in self.lists[number].as_py() or ()]
        return row.size, row.mtime_ns, row.holes, ids

    def _refuse_obstacle(self, row: Row, found: os.stat_result) -> None:
        is_folder = stat.S_ISDIR(found.st_mode)
        if row.type not in _MADE or is_folder == (row.type == "directory"):
            return
        here, there = ("folder", "file") if is_folder else ("file or link", "folder")
        raise BackupError(
            f"a {here} is in the way at {self.target.shown(row.path)}, "
            f"where the snapshot has a {there}; nothing was changed",
            "restore to an empty directory, or move it aside",
        )

    def _points_right(self, row: Row, found: os.stat_result) -> bool:
        is_link = stat.S_ISLNK(found.st_mode)
        return is_link and self.target.read_link(row.path) == row.link_target

    def _is_right(self, number: int, found: os.stat_result) -> bool:
        """Whether an existing file already holds the wanted bytes; it is read to know."""
        row = self.rows[number]
        if not stat.S_ISREG(found.st_mode) or found.st_size != row.size:
            return False
        try:
            fd = self.target.open_read(row.path)
        except PermissionError:
            return False  # it can be replaced all the same
        try:
            return self._has_chunks(fd, number) and _has_zeros(fd, row.holes or ())
        finally:
            os.close(fd)

    def _has_chunks(self, fd: int, number: int) -> bool:
        at, holes = 0, self.rows[number].holes
        for chunk in self.lists[number].as_py() or ():
            digest = blake3(key=self.identity_key)
            for offset, _, length in extents(holes, at, chunk["size"]):
                digest.update(os.pread(fd, length, offset))
            if digest.digest() != chunk["id"]:
                return False
            at += chunk["size"]
        return True


def _has_zeros(fd: int, holes: Any) -> bool:
    for hole in holes:
        at, end = hole["offset"], hole["offset"] + hole["length"]
        while at < end:
            try:
                at = os.lseek(fd, at, os.SEEK_DATA)
            except OSError:
                break  # nothing but a hole from here on
            content = os.pread(fd, max(0, min(_ZEROS_BYTES, end - at)), at)
            if content.strip(b"\0"):
                return False
            at += max(1, len(content))
    return True

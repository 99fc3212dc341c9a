"""What a restore has to do, given what is in the target already; nothing is changed to know it."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from backup_pipeline.engine.errors import BackupError
from backup_pipeline.engine.operations.readback import has_content
from backup_pipeline.engine.operations.refusals import (
    BELOW_REFUSED,
    Refusals,
    RefusedFolders,
    refusal,
)
from backup_pipeline.engine.operations.rows import MADE, WITH_BYTES, Row, rows_of
from backup_pipeline.engine.operations.target import Target

__all__ = ["MADE", "WITH_BYTES", "Planner", "Work"]

_LOST = frozenset({"unreadable", "vanished"})


@dataclass(slots=True)
class Work:
    """What is to be done with a batch of rows: their numbers in it.

    Attributes:
        rows: The batch.
        wanted: Files to write.
        right: Files and symbolic links that are right already; their metadata is set.
        links: Further names of a file: (row, path of the first name).
        symlinks: Symbolic links to make.
        in_place: Rows at whose path there is something.
        lost: Rows whose content the snapshot does not have.
        refused: Rows that the target cannot hold: (row, reason).
        replaced: How many existing files or links are replaced.
    """

    rows: list[Row]
    wanted: list[int] = field(default_factory=list[int])
    right: list[int] = field(default_factory=list[int])
    links: list[tuple[int, bytes]] = field(default_factory=list[tuple[int, bytes]])
    symlinks: list[int] = field(default_factory=list[int])
    in_place: set[int] = field(default_factory=set[int])
    lost: list[int] = field(default_factory=list[int])
    refused: list[tuple[int, str]] = field(default_factory=list[tuple[int, str]])
    replaced: int = 0


@dataclass(slots=True)
class _First:
    """The first of several names of one file.

    Attributes:
        path: The name.
        content: What is in the file.
        right: What is at that path, where it is right already.
    """

    path: bytes
    content: tuple[Any, ...]
    right: os.stat_result | None = None


class Planner:
    """Looks at every path of the target that rows name; changes nothing.

    Args:
        target: What is restored into.
        identity_key: Names chunks.
        at: Is told which path is looked at.
        refused: Is told which folders the target cannot hold, and tells of others.
    """

    def __init__(
        self, target: Target, identity_key: bytes, at: Refusals, refused: RefusedFolders
    ) -> None:
        self._target = target
        self._identity_key = identity_key
        self._at = at
        self._refused = refused
        self._firsts: dict[tuple[int | None, int | None], _First] = {}
        self._names: Counter[tuple[bytes, int, int]] = Counter()

    def survey(self, batches: Iterable[pa.Table]) -> None:
        """See that nothing is in the way of any row, and which names existing files have.

        Raises:
            BackupError: Something that is no folder is where one belongs, or the other way round.
        """
        if not self._target.existed:
            return
        for table in batches:
            lists = _lists(table)
            for number, row in enumerate(rows_of(table)):
                there = self._lookup(row)
                if there is None or isinstance(there, str):
                    continue
                self._refuse_obstacle(row, there)
                if there.st_nlink > 1:
                    first = self._first(row, lists, number)
                    self._names[_name(row, first, there)] += 1
        self._firsts.clear()

    def plan(self, table: pa.Table) -> Work:
        """What is to be done with the next rows; ``survey`` has seen all of them."""
        lists = _lists(table)
        work = Work(rows_of(table))
        for number, row in enumerate(work.rows):
            there = self._lookup(row)
            if isinstance(there, str):
                work.refused.append((number, there))
                continue
            if there is not None:
                work.in_place.add(number)
            self._sort(work, lists, number, row, there)
        return work

    def _sort(
        self, work: Work, lists: Any, number: int, row: Row, there: os.stat_result | None
    ) -> None:
        if row.state in _LOST:
            work.lost.append(number)
        elif row.type == "symlink":
            if there is not None and self._points_right(row, there):
                work.right.append(number)
                return
            work.symlinks.append(number)
            work.replaced += there is not None
        elif row.type in WITH_BYTES:
            first = self._first(row, lists, number)
            if first is not None and first.path != row.path:
                if there and first.right and os.path.samestat(there, first.right):
                    work.right.append(number)
                else:
                    work.links.append((number, first.path))
                    work.replaced += there is not None
            elif there is not None and self._is_ours(row, first, there, lists[number].as_py()):
                work.right.append(number)
                if first is not None:
                    first.right = there
            else:
                work.wanted.append(number)
                work.replaced += there is not None

    def _lookup(self, row: Row) -> os.stat_result | str | None:
        """What is at a row's path, if anything is; or why the row cannot be there."""
        if self._refused.holds(row.path):
            return BELOW_REFUSED
        if not self._target.existed:
            return None
        self._at.path = row.path
        try:
            return self._target.lookup(row.path)
        except OSError as error:
            reason = refusal(error)
            if reason is None:
                raise
            if row.type == "directory":
                self._refused.add(row.path)
            return reason

    def _first(self, row: Row, lists: Any, number: int) -> _First | None:
        """The first name of a row's file, itself perhaps; None where it has but one."""
        if (row.links or 0) < 2 or row.type != "file" or row.state in _LOST:
            return None
        ids = [chunk["id"] for chunk in lists[number].as_py() or ()]
        content = row.size, row.mtime_ns, row.holes, ids
        first = self._firsts.setdefault((row.device, row.inode), _First(row.path, content))
        # Numbers alone may deceive: a device's may have gone to another since a restart.
        return first if first.content == content else None

    def _is_ours(self, row: Row, first: _First | None, there: os.stat_result, chunks: Any) -> bool:
        """Whether an existing file is right and has no names but those of the snapshot.

        A file with names elsewhere is not ours to change, even where its bytes are right.
        """
        if there.st_nlink != max(1, self._names[_name(row, first, there)]):
            return False
        return self._is_right(row, there, chunks or ())

    def _refuse_obstacle(self, row: Row, found: os.stat_result) -> None:
        is_folder = stat.S_ISDIR(found.st_mode)
        if row.type not in MADE or is_folder == (row.type == "directory"):
            return
        here, there = ("folder", "file") if is_folder else ("file or link", "folder")
        raise BackupError(
            f"a {here} is in the way at {self._target.shown(row.path)}, "
            f"where the snapshot has a {there}; nothing was changed",
            "restore to an empty directory, or move it aside",
        )

    def _points_right(self, row: Row, found: os.stat_result) -> bool:
        is_link = stat.S_ISLNK(found.st_mode)
        return is_link and self._target.read_link(row.path) == row.link_target

    def _is_right(self, row: Row, found: os.stat_result, chunks: Any) -> bool:
        """Whether an existing file already holds the wanted bytes; it is read to know."""
        if not stat.S_ISREG(found.st_mode) or found.st_size != row.size:
            return False
        return has_content(self._target, row, chunks, self._identity_key)


def _lists(table: pa.Table) -> Any:
    return table.column("chunks").combine_chunks()


def _name(row: Row, first: _First | None, there: os.stat_result) -> tuple[bytes, int, int]:
    return row.path if first is None else first.path, there.st_dev, there.st_ino

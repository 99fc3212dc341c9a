"""Lists a file tree in the order of its paths' bytes, straight into Arrow columns.

A million entries are listed in seconds only if hardly any Python is run for each, so what ``stat``
found goes from C to C, thousands of entries at a time.
"""

from __future__ import annotations

import os
from bisect import bisect_left, insort
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from operator import attrgetter
from stat import S_IFREG, S_ISDIR
from typing import TYPE_CHECKING, Any

from backup_pipeline.engine.folders import SIDE_FOLDER, Folders
from backup_pipeline.sources.base import GOOD, SKIPPED, scan_schema
from backup_pipeline.sources.file_reader import lost, type_of

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

__all__ = ["Folder", "Rows", "Run", "list_tree"]

Excluded = Callable[[bytes], bool]
Found = tuple[str, str]
"""State and reason of an entry that is not good."""


@dataclass(frozen=True, slots=True)
class Run:
    """Neighbouring entries.

    Attributes:
        paths: Theirs, in order.
        stats: What they are.
        lost: State and reason of those that are not good, by their place.
    """

    paths: Sequence[bytes]
    stats: Sequence[os.stat_result]
    lost: Mapping[int, Found] = field(default_factory=dict[int, Found])


_KEPT = frozenset({"file", "directory", "symlink"})
_KINDS = 16  # the four bits of a mode that tell the type
_KIND_SHIFT = 12
_TYPES = [type_of(kind << _KIND_SHIFT) for kind in range(_KINDS)]
_FILE = S_IFREG >> _KIND_SHIFT
_FIELDS = (
    "st_mode",
    "st_size",
    "st_mtime_ns",
    "st_ctime_ns",
    "st_ino",
    "st_dev",
    "st_nlink",
    "st_uid",
    "st_gid",
)
_fields_of, _mode_of = attrgetter(*_FIELDS), attrgetter("st_mode")
_NOTHING = os.stat_result((0,) * os.stat_result.n_fields)
_WORD = (1 << 64) - 1


class Rows:
    """Entries in order of path, gathered until they make a batch."""

    def __init__(self) -> None:
        self._paths: list[bytes] = []
        self._stats: list[os.stat_result] = []
        self._lost: dict[int, Found] = {}

    def __len__(self) -> int:
        return len(self._paths)

    def add(self, run: Run) -> None:
        """Add entries that come next."""
        for place, found in run.lost.items():
            self._lost[len(self._paths) + place] = found
        self._paths += run.paths
        self._stats += run.stats

    def batch(self) -> pa.RecordBatch:
        """All of them, with the columns of a scan."""
        import numpy as np
        import pyarrow as pa

        schema, count = scan_schema(), len(self._paths)
        numbers = dict(zip(_FIELDS, _transposed(self._stats), strict=True))
        mode = numbers["st_mode"]
        kind = mode >> _KIND_SHIFT
        states, reasons = self._states(kind)
        empty = pa.nulls(count, pa.string())
        columns: dict[str, Any] = {
            "path": pa.array(self._paths, pa.binary()),
            "type": pa.array(_TYPES).take(pa.array(kind)),
            "state": states,
            "reason": reasons,
            "size": np.where(kind == _FILE, numbers["st_size"], 0),
            "mtime_ns": numbers["st_mtime_ns"],
            "ctime_ns": numbers["st_ctime_ns"],
            "inode": numbers["st_ino"].view(np.uint64),
            "device": numbers["st_dev"].view(np.uint64),
            "links": numbers["st_nlink"],
            "mode": mode & 0o7777,
            "uid": numbers["st_uid"],
            "gid": numbers["st_gid"],
            "etag": empty,
            "version_id": empty,
        }
        arrays = [pa.array(columns[field.name]).cast(field.type) for field in schema]
        return pa.RecordBatch.from_arrays(arrays, schema=schema)

    def _states(self, kind: np.ndarray[Any, Any]) -> tuple[pa.Array, pa.Array]:
        """The columns ``state`` and ``reason``."""
        import numpy as np
        import pyarrow as pa

        count = len(self._paths)
        kept = np.array([type in _KEPT for type in _TYPES])[kind]
        if kept.all() and not self._lost:
            return pa.array([GOOD]).take(pa.array(np.zeros(count, np.int8))), pa.nulls(
                count, pa.string()
            )
        found: list[tuple[str, str | None]] = [
            (GOOD, None) if good else (SKIPPED, f"a {_TYPES[which]} has no bytes to keep")
            for good, which in zip(kept.tolist(), kind.tolist(), strict=True)
        ]
        for place, one in self._lost.items():
            found[place] = one
        states, reasons = zip(*found, strict=True)
        return pa.array(states, pa.string()), pa.array(reasons, pa.string())


def _transposed(stats: Sequence[os.stat_result]) -> np.ndarray[Any, Any]:
    """A row for each of ``_FIELDS``, as signed words of 64 bits."""
    import numpy as np

    values = chain.from_iterable(map(_fields_of, stats))
    try:
        numbers = np.fromiter(values, np.int64, len(stats) * len(_FIELDS))
    except OverflowError:  # an inode with the highest bit set
        values = (value & _WORD for value in chain.from_iterable(map(_fields_of, stats)))
        numbers = np.fromiter(values, np.uint64, len(stats) * len(_FIELDS)).view(np.int64)
    return np.ascontiguousarray(numbers.reshape(-1, len(_FIELDS)).T)


class Folder:
    """The names in one folder of a tree, in order.

    Args:
        folders: The tree.
        path: The folder's; empty for the root.
        excluded: Tells of a path whether it, and all below it, is left out.

    Raises:
        OSError: It cannot be listed.
    """

    def __init__(self, folders: Folders, path: bytes, excluded: Excluded | None) -> None:
        self._folders = folders
        self._path = path
        self._prefix = path + b"/" if path else b""
        self._excluded = excluded
        names = os.listdir(folders.descriptor(path))
        if SIDE_FOLDER in names:
            names.remove(SIDE_FOLDER)
        self._names = os.fsencode("\0".join(names)).split(b"\0") if names else []
        if excluded is not None:
            self._names = [name for name in self._names if not excluded(self._prefix + name)]
        self._names.sort()
        # What lies in a folder "a" comes where "a/" belongs, behind the names "a" and "a.b".
        self._places: list[bytes] = []
        self._below: dict[bytes, Folder] = {}

    def walk(self, most: int) -> Iterator[Run | Folder]:
        """Its entries, so many at most at a time, and its folders where their entries belong."""
        for first in range(0, len(self._names), most):
            names = self._names[first : first + most]
            stats, gone = self._look_at(names)
            folders = [row for row, mode in enumerate(map(_mode_of, stats)) if S_ISDIR(mode)]
            for row in folders:
                insort(self._places, names[row] + b"/")
            start = 0
            while start < len(names):
                end = bisect_left(names, self._places[0], start) if self._places else len(names)
                if end > start:
                    # Listed now, so that their rows can say if that failed.
                    for row in folders[bisect_left(folders, start) : bisect_left(folders, end)]:
                        self._list(names[row], row, gone)
                    yield self._run(names, stats, gone, start, end)
                    start = end
                if end < len(names):
                    yield from self._next_folder()
        while self._places:
            yield from self._next_folder()

    def _next_folder(self) -> Iterator[Folder]:
        below = self._below.pop(self._places.pop(0), None)
        if below is not None:
            yield below

    def _list(self, name: bytes, row: int, gone: dict[int, Found]) -> None:
        try:
            below = Folder(self._folders, self._prefix + name, self._excluded)
        except OSError as error:
            gone[row] = lost(error)
        else:
            self._below[name + b"/"] = below

    def _run(
        self,
        names: list[bytes],
        stats: list[os.stat_result],
        gone: dict[int, Found],
        start: int,
        end: int,
    ) -> Run:
        prefix = self._prefix
        paths = [prefix + name for name in names[start:end]]
        lost_here = {row - start: found for row, found in gone.items() if start <= row < end}
        return Run(paths, stats[start:end], lost_here)

    def _look_at(self, names: list[bytes]) -> tuple[list[os.stat_result], dict[int, Found]]:
        """What each is, and by place those of which that cannot be told."""
        try:
            look = partial(
                os.stat, dir_fd=self._folders.descriptor(self._path), follow_symlinks=False
            )
            return list(map(look, names)), {}
        except OSError:
            pass
        stats, gone = [_NOTHING] * len(names), dict[int, Found]()
        for row, name in enumerate(names):
            try:
                folder = self._folders.descriptor(self._path)
                stats[row] = os.stat(name, dir_fd=folder, follow_symlinks=False)
            except OSError as error:
                gone[row] = lost(error)
        return stats, gone


def list_tree(root: Folder, batch_rows: int) -> Iterator[pa.RecordBatch]:
    """Every entry below a folder in ascending order of path, in batches of some rows."""
    rows = Rows()
    walks = [root.walk(batch_rows)]
    while walks:
        step = next(walks[-1], None)
        if step is None:
            walks.pop()
        elif isinstance(step, Folder):
            walks.append(step.walk(batch_rows))
        else:
            rows.add(step)
            if len(rows) >= batch_rows:
                yield rows.batch()
                rows = Rows()
    if len(rows):
        yield rows.batch()

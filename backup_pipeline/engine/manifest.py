"""A snapshot's manifest as one reads it: entries, globs, Arrow."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from backup_pipeline.engine.errors import UsageError
from backup_pipeline.engine.format.manifest import manifest_schema, merge

__all__ = ["Entry", "Manifest", "glob_pattern", "matching", "printable"]


def printable(path: bytes) -> str:
    """A path as text on one line: bytes that are no UTF-8 and control characters escaped."""
    text = path.decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


# Paths are bytes: a character of several, or else any byte, is one to a person.
_WIDE = r"[\xc2-\xf4][\x80-\xbf]+"


def glob_pattern(glob: str) -> str:
    """The regular expression of a glob over whole paths.

    ``*`` and ``?`` stay within a folder, ``**`` crosses folders; a pattern that names a folder
    means all below it too.

    Raises:
        UsageError: It holds a range that runs backwards.
    """
    whole, out, place = glob, "", 0
    glob = glob.strip("/")
    while place < len(glob):
        if glob.startswith("**/", place):
            out, place = out + "(.*/)?", place + 3
        elif glob.startswith("**", place):
            out, place = out + ".*", place + 2
        elif glob[place] == "*":
            out, place = out + "[^/]*", place + 1
        elif glob[place] == "?":
            out, place = f"{out}(?:{_WIDE}|[^/])", place + 1
        elif glob[place] == "[" and (end := glob.find("]", place + 2)) > 0:
            inside = glob[place + 1 : end]
            negated = "^" if inside.startswith("!") else ""
            ranges = "-".join(re.escape(part) for part in inside.removeprefix("!").split("-"))
            wide = f"{_WIDE}|" if negated else ""
            out, place = f"{out}(?:{wide}[{negated}{ranges}])", end + 1
        else:
            out, place = out + re.escape(glob[place]), place + 1
    pattern = f"(?s)^{out}(/.*)?$"
    try:
        re.compile(pattern)
    except re.error as error:
        raise UsageError(f"{whole} is no pattern: {error}", "write ranges as [a-z]") from None
    return pattern


def matching(paths: Any, include: Sequence[str]) -> Any:
    """Which of an Arrow column's paths any of some globs match; raises as ``glob_pattern``."""
    mask: Any = None
    for glob in include:
        hit = pc.match_substring_regex(paths, os.fsencode(glob_pattern(glob)))
        mask = hit if mask is None else pc.or_(mask, hit)
    return mask


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a snapshot, for listing.

    Attributes:
        path: Relative to the dataset's root, as bytes.
        type: ``file``, ``directory``, ``symlink``, ``object``, or what was skipped.
        state: ``good``, or why its bytes are not there.
        size: Logical bytes.
    """

    path: bytes
    type: str
    state: str
    size: int
    mode: int | None
    uid: int | None
    gid: int | None
    mtime_ns: int | None
    link_target: bytes | None
    etag: str | None

    def to_json(self) -> dict[str, Any]:
        """Fields by name, bytes as text."""
        value: dict[str, Any] = {
            "path": printable(self.path),
            "type": self.type,
            "state": self.state,
            "size": self.size,
            "mode": None if self.mode is None else f"{self.mode:o}",
            "uid": self.uid,
            "gid": self.gid,
            "mtime_ns": self.mtime_ns,
            "link_target": None if self.link_target is None else printable(self.link_target),
            "etag": self.etag,
        }
        return value


_ENTRY_COLUMNS = (
    "path",
    "type",
    "state",
    "size",
    "mode",
    "uid",
    "gid",
    "mtime_ns",
    "link_target",
    "etag",
)


class Manifest:
    """The entries of one snapshot.

    Args:
        segments: Its segments' rows, oldest first.
    """

    def __init__(self, segments: Sequence[pa.Table]) -> None:
        self._segments = segments
        self._table: pa.Table | None = None

    @property
    def table(self) -> pa.Table:
        """All entries, sorted by path."""
        if self._table is None:
            self._table = merge(self._segments)
        return self._table

    def __len__(self) -> int:
        return len(self.table)

    def select(self, include: Sequence[str] = (), *, parents: bool = False) -> pa.Table:
        """Rows that match any of the globs; all rows without globs.

        Args:
            include: Globs over whole paths.
            parents: Whether the directories above matches come along.
        """
        table = self.table
        if not include:
            return table
        paths = table.column("path")
        mask = matching(paths, include)
        if parents:
            above: set[bytes] = set()
            for path in paths.filter(mask).to_pylist():
                cut = path.rfind(b"/")
                while cut > 0 and path[:cut] not in above:
                    above.add(path[:cut])
                    cut = path.rfind(b"/", 0, cut)
            extra = pc.is_in(paths, value_set=pa.array(sorted(above), pa.binary()))
            mask = pc.or_(mask, extra)
        return table.filter(mask)

    def entries(self, include: Sequence[str] = ()) -> Iterator[Entry]:
        """Entries in order of path."""
        table = self.select(include).select(list(_ENTRY_COLUMNS))
        for batch in table.to_batches(max_chunksize=8192):
            columns = [column.to_pylist() for column in batch.columns]
            for values in zip(*columns, strict=True):
                yield Entry(*values)

    def to_pandas(self) -> Any:
        """Entries as a pandas data frame."""
        return self.table.to_pandas()

    @staticmethod
    def empty() -> Manifest:
        """The manifest of nothing."""
        return Manifest([manifest_schema().empty_table()])

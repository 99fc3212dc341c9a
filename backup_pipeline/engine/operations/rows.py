"""A manifest's rows as a restore uses them: the columns that it needs, as Python's values."""

from __future__ import annotations

from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.types as kinds

__all__ = ["COLUMNS", "MADE", "WITH_BYTES", "Row", "rows_of"]

WITH_BYTES = frozenset({"file", "object"})
MADE = frozenset({*WITH_BYTES, "directory", "symlink"})
"""Types of entries that a restore makes."""


class Row(NamedTuple):
    """One entry; the fields are columns of the manifest."""

    path: bytes
    type: str
    state: str
    reason: str | None
    size: int
    mtime_ns: int | None
    inode: int | None
    device: int | None
    links: int | None
    mode: int | None
    uid: int | None
    gid: int | None
    link_target: bytes | None
    xattrs: list[dict[str, bytes]] | None
    holes: list[dict[str, int]] | None


COLUMNS = (*Row._fields, "chunks")
"""The columns that a restore reads."""


def rows_of(table: pa.Table) -> list[Row]:
    """The table's rows in order."""
    columns = [_values(table.column(name).combine_chunks()) for name in Row._fields]
    return list(map(Row._make, zip(*columns, strict=True)))


def _values(column: Any) -> list[Any]:
    """A column as a list; where Arrow's own way of making one is slow, by another."""
    if column.null_count == len(column):
        return [None] * len(column)
    if column.null_count == 0 and kinds.is_integer(column.type):
        return column.to_numpy().tolist()
    if column.null_count == 0 and kinds.is_string(column.type):
        words = column.dictionary_encode()
        texts = words.dictionary.to_pylist()
        return [texts[number] for number in words.indices.to_numpy().tolist()]
    return column.to_pylist()

"""A manifest's rows as a restore uses them: the columns that it needs, as Python's values."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import pyarrow as pa

__all__ = ["Row", "rows_of"]

SLICE_ROWS = 8192


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


def rows_of(table: pa.Table) -> Iterator[Row]:
    """The table's rows in order."""
    wanted = table.select(list(Row._fields))
    for start in range(0, len(wanted), SLICE_ROWS):
        columns: list[list[Any]] = [
            column.to_pylist() for column in wanted.slice(start, SLICE_ROWS).columns
        ]
        yield from map(Row._make, zip(*columns, strict=True))

"""The entries that a restore is about: all of a snapshot's, or those that globs match."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

from backup_pipeline.engine.folders import split
from backup_pipeline.engine.manifest import matching
from backup_pipeline.engine.operations.rows import COLUMNS
from backup_pipeline.engine.segments import Entries

__all__ = ["Batches", "select"]

Batches: TypeAlias = Callable[[], Iterator[pa.Table]]
"""Reads the chosen rows in order of path, a batch at a time, as often as it is called."""


def select(entries: Entries, include: Sequence[str]) -> Batches | None:
    """The rows that any of some globs match and the folders above them; None if nothing matches.

    Args:
        entries: The snapshot's.
        include: Globs over whole paths; all rows without any.

    Raises:
        UsageError: A glob is none.
    """
    if not include:
        return lambda: entries.batches(COLUMNS)
    found: list[pa.ChunkedArray] = []
    above: set[bytes] = set()
    for rows in entries.batches(("path", "type")):
        paths = rows.column("path")
        hits = paths.filter(matching(paths, include))
        if len(hits):
            found.append(hits)
            for path in hits.to_pylist():
                folder, _ = split(path)
                while folder and folder not in above:
                    above.add(folder)
                    folder, _ = split(folder)
    if not found:
        return None
    first = min([found[0][0].as_py(), *above])
    last = found[-1][-1].as_py()
    folders = pa.array(sorted(above), pa.binary())

    def chosen() -> Iterator[pa.Table]:
        for rows in entries.batches(COLUMNS, first=first, last=last):
            paths = rows.column("path")
            mask = pc.or_(matching(paths, include), pc.is_in(paths, value_set=folders))
            if pc.any(mask).as_py():
                yield rows.filter(mask)

    return chosen

"""Diff: what differs between two snapshots, also of different tiers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from backup_pipeline.engine.errors import UsageError
from backup_pipeline.engine.format.record import Snapshot
from backup_pipeline.engine.manifest import printable
from backup_pipeline.engine.repository import Repository

__all__ = ["Change", "diff"]

# Ids alone are not the content: they leave out where its holes are.
_CONTENT = ("type", "size", "ids", "holes", "link_target")
_METADATA = ("mode", "uid", "gid", "mtime_ns", "xattrs", "state", "etag")


@dataclass(frozen=True, slots=True)
class Change:
    """One path that differs.

    Attributes:
        path: Which.
        change: ``added``, ``deleted``, ``changed`` (content, type or link) or ``metadata``.
        old_bytes: Logical size before; None where it was not there.
        new_bytes: Logical size after; None where it is gone.
    """

    path: bytes
    change: str
    old_bytes: int | None
    new_bytes: int | None

    def to_json(self) -> dict[str, Any]:
        """Fields by name, the path as text."""
        return {
            "path": printable(self.path),
            "change": self.change,
            "old_bytes": self.old_bytes,
            "new_bytes": self.new_bytes,
        }


def diff(
    repository_a: Repository, snapshot_a: Snapshot, repository_b: Repository, snapshot_b: Snapshot
) -> Iterator[Change]:
    """Paths that differ from the first snapshot to the second, in order of path.

    Raises:
        UsageError: The snapshots are of datasets with different keys; their ids tell nothing.
    """
    if repository_a.keys.index != repository_b.keys.index:
        raise UsageError(
            f"{snapshot_a.dataset} and {snapshot_b.dataset} have different keys; "
            "their contents cannot be compared",
            "compare two snapshots of one dataset",
        )
    old = _rows(repository_a.manifest(snapshot_a).table)
    new = _rows(repository_b.manifest(snapshot_b).table)
    before, after = next(old, None), next(new, None)
    while before is not None or after is not None:
        if after is None or (before is not None and before["path"] < after["path"]):
            assert before is not None
            yield Change(before["path"], "deleted", before["size"], None)
            before = next(old, None)
        elif before is None or after["path"] < before["path"]:
            yield Change(after["path"], "added", None, after["size"])
            after = next(new, None)
        else:
            if any(before[name] != after[name] for name in _CONTENT):
                yield Change(after["path"], "changed", before["size"], after["size"])
            elif any(before[name] != after[name] for name in _METADATA):
                yield Change(after["path"], "metadata", before["size"], after["size"])
            before, after = next(old, None), next(new, None)


def _rows(table: pa.Table) -> Iterator[dict[str, Any]]:
    names = ["path", *(name for name in _CONTENT if name != "ids"), *_METADATA]
    for batch in table.to_batches(max_chunksize=8192):
        lists = batch.column("chunks")
        flat = lists.flatten().field("id").to_pylist()
        counts = lists.value_lengths().fill_null(0).to_pylist()
        columns = [batch.column(name).to_pylist() for name in names]
        at = 0
        for count, *values in zip(counts, *columns, strict=True):
            row = dict(zip(names, values, strict=True))
            row["ids"] = flat[at : at + count]
            at += count
            yield row

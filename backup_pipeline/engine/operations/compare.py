"""What changed: a scan held against a snapshot, and rows against rows, without a loop over entries.

A change mark says cheaply what need not be read; what was read, or came from another tier, is then
held against the older rows in full, so that only what truly differs is stored and counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from backup_pipeline.engine.format.manifest import count_through, manifest_schema
from backup_pipeline.sources.base import MARK_COLUMNS

__all__ = ["Comparison", "lacking", "same_lists", "same_rows"]

_compute: Any = pc
_COLUMNS = ("path", *MARK_COLUMNS)
_LISTS = {
    "metadata": ("name", "value"),
    "xattrs": ("name", "value"),
    "holes": ("offset", "length"),
    "chunks": ("id",),  # where they lie may differ
}
# The device's number may change with a restart of the machine, and its files with it do not.
_VALUES = tuple(name for name in manifest_schema().names if name not in {*_LISTS, "path", "device"})


@dataclass(frozen=True, slots=True)
class Match:
    """A batch of a scan beside what a snapshot has of it.

    Attributes:
        batch: The scan's, with true sizes for estimated ones where the snapshot knows them.
        unchanged: Mask of the rows that need not be read, for their marks are the snapshot's, and
            old enough to be trusted.
        older: What the snapshot has of the others, if anything.
    """

    batch: pa.RecordBatch
    unchanged: Any
    older: pa.Table | None


class Comparison:
    """Walks a snapshot's entries beside a scan; both ascend by path.

    Args:
        entries: The snapshot's, in batches.
        scan_started_ns: When the snapshot's scan began; None trusts every mark.
        granularity_ns: How coarse the source's clock is.
        trusting: Whether marks are looked at; if not, all is to be read.
        gone: Is given the rows of entries that the scan has not.

    Attributes:
        deleted: Path and logical bytes of entries that the scan has not.
    """

    def __init__(
        self,
        entries: Iterable[pa.Table],
        scan_started_ns: int | None,
        granularity_ns: int,
        *,
        trusting: bool = True,
        gone: Callable[[pa.Table], None] | None = None,
    ) -> None:
        self._entries = iter(entries)
        self._rows: pa.Table | None = None  # what is next, if any is at hand
        # An entry modified after this may have changed again within one tick of the clock.
        self._trusted_before = None if scan_started_ns is None else scan_started_ns - granularity_ns
        self._trusting = trusting
        self._gone = gone
        self.deleted: list[tuple[bytes, int]] = []

    def match(self, batch: pa.RecordBatch) -> Match:
        """Hold the scan's next batch against the snapshot."""
        old = self._take_through(batch.column("path")[-1].as_py())
        if old is None:
            return Match(batch, np.zeros(len(batch), bool), None)
        same = self._settled(batch)
        if _equal(batch, old):  # as most are, of a dataset that hardly changed
            known, beside = np.ones(len(batch), bool), old
        else:
            where = pc.index_in(batch.column("path"), value_set=old.column("path").combine_chunks())
            known = pc.is_valid(where).to_numpy(zero_copy_only=False)
            self._note_deleted(old, where, int(known.sum()))
            beside = old.take(where)
            same &= known
            sizes = _same_values(batch.column("size"), beside.column("size").combine_chunks())
            for name in MARK_COLUMNS:
                if name != "size":
                    same &= _same_values(batch.column(name), beside.column(name).combine_chunks())
            # What has an etag may have its size estimated: the etag alone tells.
            same &= sizes | pc.is_valid(batch.column("etag")).to_numpy(zero_copy_only=False)
            if (same & ~sizes).any():
                batch = _with_sizes(batch, beside, same)
        return Match(batch, same, None if same.all() else beside.filter(pa.array(known & ~same)))

    def finish(self) -> None:
        """Count what lies behind the scan's end as deleted."""
        if self._rows is not None:
            self._delete(self._rows)
            self._rows = None
        for rest in self._entries:
            self._delete(rest)

    def _settled(self, batch: pa.RecordBatch) -> Any:
        """Which marks are old enough to be trusted."""
        if self._trusted_before is None or not self._trusting:
            return np.full(len(batch), self._trusting)
        newest = pc.max_element_wise(batch.column("mtime_ns"), batch.column("ctime_ns"))
        settled = pc.less(pc.fill_null(newest, 0), self._trusted_before)
        return settled.to_numpy(zero_copy_only=False).copy()

    def _note_deleted(self, old: pa.Table, where: pa.Array, matched: int) -> None:
        if matched == len(old):
            return
        gone = np.ones(len(old), bool)
        gone[where.drop_null().to_numpy(zero_copy_only=False)] = False
        self._delete(old.filter(pa.array(gone)))

    def _delete(self, rows: pa.Table) -> None:
        if self._gone is not None:
            self._gone(rows)
        self.deleted.extend(
            zip(rows.column("path").to_pylist(), rows.column("size").to_pylist(), strict=True)
        )

    def _take_through(self, path: bytes) -> pa.Table | None:
        """The snapshot's next entries up to a path; None where there are none."""
        taken: list[pa.Table] = []
        while True:
            if self._rows is None or not len(self._rows):
                self._rows = next(self._entries, None)
                if self._rows is None:
                    break
            count = count_through(self._rows, path)
            taken.append(self._rows.slice(0, count))
            if count < len(self._rows):
                self._rows = self._rows.slice(count)
                break
            self._rows = None
        return pa.concat_tables(taken) if any(map(len, taken)) else None


def _equal(batch: pa.RecordBatch, old: pa.Table) -> bool:
    """Whether paths and marks are all the same, row by row."""
    return len(batch) == len(old) and all(
        old.column(name).equals(pa.chunked_array([batch.column(name)])) for name in _COLUMNS
    )


def _with_sizes(batch: pa.RecordBatch, beside: pa.Table, same: Any) -> pa.RecordBatch:
    """The batch with the sizes that the snapshot has of the rows that are the same."""
    known = beside.column("size").combine_chunks()
    sizes = _compute.if_else(pa.array(same), known, batch.column("size"))
    columns = [sizes if name == "size" else batch.column(name) for name in batch.schema.names]
    return pa.RecordBatch.from_arrays(columns, schema=batch.schema)


def lacking(rows: pa.Table, others: pa.Table) -> pa.Table:
    """The rows whose paths are not among the others'."""
    paths = others.column("path").combine_chunks()
    return rows.filter(pc.invert(pc.is_in(rows.column("path"), value_set=paths)))


def same_rows(rows: pa.Table, old: pa.Table) -> tuple[Any, Any]:
    """Masks of the rows that an older table has alike, in all but place, and has at all."""
    if not len(old):
        return np.zeros(len(rows), bool), np.zeros(len(rows), bool)
    paths = rows.column("path").combine_chunks()
    old = old.filter(pc.is_in(old.column("path"), value_set=paths))
    where = pc.index_in(paths, value_set=old.column("path").combine_chunks())
    known = pc.is_valid(where).to_numpy(zero_copy_only=False)
    same, beside = known.copy(), old.take(where)
    for name in _VALUES:
        now, then = rows.column(name).combine_chunks(), beside.column(name).combine_chunks()
        same &= _same_values(now, then)
    for name, members in _LISTS.items():
        now, then = rows.column(name).combine_chunks(), beside.column(name).combine_chunks()
        same &= same_lists(now, then, members)
    return same, known


def _same_values(now: pa.Array, then: pa.Array) -> Any:
    equal = pc.or_kleene(pc.equal(now, then), pc.and_(pc.is_null(now), pc.is_null(then)))
    return pc.fill_null(equal, False).to_numpy(zero_copy_only=False)


def same_lists(now: Any, then: Any, members: tuple[str, ...]) -> Any:
    """Which rows have lists of the same members; no list and an empty one are the same."""
    counts = now.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    same = counts == then.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    if not counts.any():
        return same
    row = np.repeat(np.flatnonzero(same), counts[same])
    mine, theirs = now.filter(pa.array(same)).flatten(), then.filter(pa.array(same)).flatten()
    for name in members:
        equal = pc.equal(mine.field(name), theirs.field(name)).to_numpy(zero_copy_only=False)
        same[row[~equal]] = False
    return same

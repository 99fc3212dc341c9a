"""What changed between a snapshot and a scan, batch by batch, without a loop over entries."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from backup_pipeline.sources.base import MARK_COLUMNS

__all__ = ["Comparison", "Matched"]

_COLUMNS = ("path", *MARK_COLUMNS)


class Matched:
    """One batch of a scan held against a snapshot.

    Attributes:
        unchanged: Rows whose content need not be read.
        known: Rows whose path the snapshot has.
    """

    __slots__ = ("known", "unchanged")

    def __init__(self, unchanged: Any, known: Any) -> None:
        self.unchanged = unchanged
        self.known = known


class Comparison:
    """Walks a snapshot's entries beside a scan; both ascend by path.

    Args:
        rows: The snapshot's entries, sorted by path.
        scan_started_ns: When the snapshot's scan began; None trusts every mark.
        granularity_ns: How coarse the source's clock is.
    """

    def __init__(self, rows: pa.Table, scan_started_ns: int | None, granularity_ns: int) -> None:
        self._rows = rows.select(list(_COLUMNS)).combine_chunks()
        self._paths: Any = self._rows.column("path")
        self._at = 0
        # An entry modified after this may have changed again within one tick of the clock.
        self._trusted_before = None if scan_started_ns is None else scan_started_ns - granularity_ns
        self.deleted: list[tuple[bytes, int]] = []

    def match(self, batch: pa.RecordBatch) -> Matched:
        """Hold the next batch of the scan against the snapshot."""
        end = self._upper_bound(batch.column("path")[-1].as_py())
        old = self._rows.slice(self._at, end - self._at)
        self._at = end
        where = pc.index_in(batch.column("path"), value_set=old.column("path").combine_chunks())
        known = pc.is_valid(where).to_numpy(zero_copy_only=False)
        self._note_deleted(old, where, int(known.sum()))
        if not known.any():
            return Matched(np.zeros(len(batch), bool), known)
        beside = old.select(list(MARK_COLUMNS)).take(where)
        same: Any = known.copy()
        for name in MARK_COLUMNS:
            now, then = batch.column(name), beside.column(name).combine_chunks()
            equal = pc.or_kleene(pc.equal(now, then), pc.and_(pc.is_null(now), pc.is_null(then)))
            same &= pc.fill_null(equal, False).to_numpy(zero_copy_only=False)
        if self._trusted_before is not None:
            newest = pc.max_element_wise(batch.column("mtime_ns"), batch.column("ctime_ns"))
            settled = pc.less(pc.fill_null(newest, 0), self._trusted_before)
            is_file = pc.equal(batch.column("type"), "file")
            same &= pc.or_(settled, pc.invert(is_file)).to_numpy(zero_copy_only=False)
        return Matched(same, known)

    def finish(self) -> None:
        """Count what lies behind the scan's end as deleted."""
        rest = self._rows.slice(self._at)
        self._at = len(self._rows)
        self.deleted.extend(
            zip(rest.column("path").to_pylist(), rest.column("size").to_pylist(), strict=True)
        )

    def _note_deleted(self, old: pa.Table, where: Any, matched: int) -> None:
        if matched == len(old):
            return
        gone = np.ones(len(old), bool)
        gone[where.drop_null().to_numpy(zero_copy_only=False)] = False
        lost = old.filter(pa.array(gone))
        self.deleted.extend(
            zip(lost.column("path").to_pylist(), lost.column("size").to_pylist(), strict=True)
        )

    def _upper_bound(self, path: bytes) -> int:
        low, high = self._at, len(self._paths)
        while low < high:
            middle = (low + high) // 2
            if self._paths[middle].as_py() <= path:
                low = middle + 1
            else:
                high = middle
        return low

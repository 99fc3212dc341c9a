"""The fingerprint of a scan."""

from __future__ import annotations

import pyarrow as pa

from backup_pipeline.sources.base import Fingerprint, scan_schema


def _rows(*rows: dict[str, object]) -> pa.RecordBatch:
    plain = {"type": "file", "state": "good", "size": 1, "mtime_ns": 5}
    return pa.RecordBatch.from_pylist([{**plain, **row} for row in rows], schema=scan_schema())


def _fingerprint(*batches: pa.RecordBatch) -> str:
    one = Fingerprint()
    for batch in batches:
        one.update(batch)
    return one.hexdigest()


def test_it_does_not_matter_how_a_scan_is_cut_into_batches() -> None:
    rows = [{"path": b"a%03d" % i, "size": i, "etag": "e" * (i % 7)} for i in range(100)]
    whole = _fingerprint(_rows(*rows))
    for cut in (1, 37, 99):
        assert _fingerprint(_rows(*rows[:cut]), _rows(*rows[cut:])) == whole


def test_every_mark_and_every_boundary_between_values_counts() -> None:
    rows = [{"path": b"ab"}, {"path": b"c"}]
    seen = {_fingerprint(_rows(*rows)), _fingerprint(_rows({"path": b"a"}, {"path": b"bc"}))}
    for change in (
        {"path": b"d"},
        {"size": 2},
        {"mtime_ns": 6},
        {"ctime_ns": 7},
        {"inode": 8},
        {"etag": "x"},
        {"etag": ""},
        {"state": "unreadable"},
    ):
        seen.add(_fingerprint(_rows(rows[0], {**rows[1], **change})))
    assert len(seen) == 10

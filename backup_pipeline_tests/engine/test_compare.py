"""Comparison: a scan held against streamed entries says what a row-by-row look would say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from backup_pipeline.engine.format.manifest import manifest_schema, merge, merge_batches
from backup_pipeline.engine.operations.committing import deleted_rows
from backup_pipeline.engine.operations.compare import Comparison
from backup_pipeline.sources.base import scan_schema

PATHS = [b"%c%s" % (letter, tail) for letter in b"abcdef" for tail in (b"", b".x", b"/y", b"0")]
# Size and time of modification, in ns.
Mark = tuple[int, int]
MARKS = st.tuples(st.integers(0, 2), st.sampled_from([1, 2, 99, 100, 101]))
TREE = st.dictionaries(st.sampled_from(PATHS), MARKS)
HISTORY = st.lists(st.dictionaries(st.sampled_from(PATHS), MARKS | st.none()), max_size=4)


def rows(tree: Mapping[bytes, Mark], schema: pa.Schema) -> pa.Table:
    entries = [
        {
            "path": path,
            "type": "file",
            "state": "good",
            "size": size,
            "mtime_ns": mtime_ns,
            "ctime_ns": 1,
            "inode": 5,
        }
        for path, (size, mtime_ns) in sorted(tree.items())
    ]
    return pa.Table.from_pylist(entries, schema=schema)


def in_batches(table: pa.Table, most: int) -> Iterator[pa.Table]:
    return (table.slice(at, most) for at in range(0, len(table), most))


@settings(deadline=None)
@given(
    HISTORY,
    TREE,
    st.sampled_from([True, False, None]),
    st.integers(1, 9),
    st.integers(1, 9),
    st.data(),
)
def test_a_scan_is_held_against_entries_as_one_by_one(
    history: list[dict[bytes, Mark | None]],
    scanned: dict[bytes, Mark],
    trusting: bool | None,
    entry_batch: int,
    scan_batch: int,
    data: st.DataObject,
) -> None:
    old: dict[bytes, Mark] = {}
    segments: list[pa.Table] = []
    for changes in history:
        present = {path: mark for path, mark in changes.items() if mark is not None}
        gone = [path for path in changes if path not in present]
        new = rows(present, manifest_schema())
        marked = deleted_rows([(path, 0) for path in gone])
        segments.append(merge([new, marked], keep_deleted=True))
        old = {path: mark for path, mark in (old | present).items() if path not in gone}
    if data.draw(st.booleans(), "mostly unchanged"):
        scanned = old | dict(list(scanned.items())[:1])
    entries = merge_batches([in_batches(segment, entry_batch) for segment in segments])
    since = None if trusting else 110
    comparison = Comparison(entries, since, 10, trusting=trusting is not None)
    unchanged: set[bytes] = set()
    older: list[dict[str, Any]] = []
    for part in in_batches(rows(scanned, scan_schema()), scan_batch):
        [batch] = part.combine_chunks().to_batches()
        found = comparison.match(batch)
        mask, older_rows = found.unchanged, found.older
        assert len(mask) == len(batch)
        if older_rows is not None:
            assert older_rows.schema == manifest_schema()
            older += older_rows.select(["path", "size"]).to_pylist()
        unchanged |= set(batch.column("path").filter(pa.array(mask)).to_pylist())
    comparison.finish()
    assert unchanged == {
        path
        for path, mark in scanned.items()
        if old.get(path) == mark and trusting is not None and (trusting or mark[1] < 100)
    }
    assert comparison.deleted == [(path, old[path][0]) for path in sorted(old.keys() - scanned)]
    assert older == [
        {"path": path, "size": old[path][0]}
        for path in sorted(old.keys() & scanned.keys() - unchanged)
    ]

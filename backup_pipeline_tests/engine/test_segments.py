"""Segments: however many snapshots add, change and delete, what they list together is the state."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice, pairwise
from types import SimpleNamespace
from typing import Any, cast

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backup_pipeline.engine.errors import DamageError
from backup_pipeline.engine.format import manifest as format_manifest
from backup_pipeline.engine.format.manifest import (
    BATCH_ROWS,
    MOST_SEGMENTS,
    manifest_schema,
    merge,
    merge_batches,
    segments_to_merge,
)
from backup_pipeline.engine.format.record import Segment
from backup_pipeline.engine.operations.committing import NewRows, deleted_rows
from backup_pipeline.engine.segments import ahead
from backup_pipeline.engine.store.memory import MemoryStore
from backup_pipeline_tests.engine.repositories import make_repository

PATHS = [f"{a}{b}".encode() for a in "abcde" for b in ("", "/", "/x", ".y", "\n", "0")]
PATHS = [path for path in PATHS if not path.endswith(b"/")]
ROUND = st.dictionaries(st.sampled_from(PATHS), st.none() | st.integers(0, 9**6), max_size=12)


def rows_of(entries: dict[bytes, int]) -> pa.Table:
    return pa.Table.from_pylist(
        [
            {"path": path, "type": "file", "state": "vanished", "size": size}
            for path, size in sorted(entries.items())
        ],
        schema=manifest_schema(),
    )


@settings(max_examples=12, deadline=None)
@given(st.lists(ROUND, min_size=20, max_size=40))
def test_any_history_of_changes_adds_up_to_the_state(rounds: list[dict[bytes, int | None]]) -> None:
    repository, state = make_repository(MemoryStore(), encrypted=False), dict[bytes, int]()
    history: list[tuple[list[Segment], dict[bytes, int]]] = []
    segments: list[Segment] = []
    for changes in rounds:
        added = {path: size for path, size in changes.items() if size is not None}
        gone = {path: state[path] for path in changes if changes[path] is None and path in state}
        new = NewRows(repository)
        for batch in in_batches(rows_of(added), 3):
            new.add(batch)
        before = segments
        segments, stored = new.store(segments, list(gone.items()))
        state = {path: size for path, size in {**state, **added}.items() if path not in gone}
        assert len(segments) <= MOST_SEGMENTS
        assert (stored == 0) == (not changes.keys() & (added.keys() | gone.keys()) or not segments)
        assert added or gone or segments == before
        history.append((segments, state))
    read = {one.name: repository.segment(one) for listed, _ in history for one in listed}
    for listed, expected in history:
        table = merge([read[segment.name] for segment in listed])
        found = dict(zip(table["path"].to_pylist(), table["size"].to_pylist(), strict=True))
        assert found == expected
        assert table["path"].to_pylist() == sorted(expected)
        streams = [in_batches(read[segment.name], 3) for segment in listed]
        batches = list(merge_batches(streams))
        assert all(len(batch) for batch in batches)
        assert pa.concat_tables(batches or [table.slice(0, 0)]).equals(table)


def in_batches(rows: pa.Table, most: int) -> Iterator[pa.Table]:
    return (rows.slice(at, most) for at in range(0, len(rows), most))


def test_a_snapshots_entries_come_in_batches_of_the_columns_that_are_wanted() -> None:
    repository = make_repository(MemoryStore())
    count = 2 * BATCH_ROWS + 5
    paths = [b"%08d" % number for number in range(count)]
    old = repository.put_segment(rows_of(dict.fromkeys(paths, 1)))
    gone = deleted_rows([(paths[0], 1), (paths[-1], 1)])
    new = repository.put_segment(merge([rows_of({paths[7]: 2, b"z": 3}), gone], keep_deleted=True))
    snapshot: Any = SimpleNamespace(segments=[old, new])
    whole = merge([repository.segment(old), repository.segment(new)])
    entries = repository.segments.entries(snapshot)
    batches = list(entries.batches())
    assert max(len(batch) for batch in batches) <= BATCH_ROWS and len(batches) > 2
    assert pa.concat_tables(batches).equals(whole)
    columns = ["path", "type", "size"]
    some = pa.concat_tables(entries.batches(columns))
    assert some.equals(whole.select(columns))


def test_of_a_range_of_paths_no_more_is_read_than_the_row_groups_it_lies_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(format_manifest, "_ROW_GROUP_ROWS", 10)
    repository = make_repository(MemoryStore())
    paths = [b"%03d" % number for number in range(100)]
    segment = repository.put_segment(rows_of(dict.fromkeys(paths, 1)))
    entries = repository.segments.entries(cast("Any", SimpleNamespace(segments=[segment])))
    for first, last, read in (
        (b"035", b"041", paths[30:50]),
        (b"039", b"040", paths[30:50]),
        (b"09", None, paths[90:]),
        (b"", b"000", paths[:10]),
        (b"", None, paths),
        (b"1", None, []),
    ):
        batches = entries.batches(("path", "type"), first=first, last=last)
        assert [path for rows in batches for path in rows["path"].to_pylist()] == read


def test_rows_out_of_order_are_refused_also_between_batches() -> None:
    repository = make_repository(MemoryStore())
    paths = [b"%08d" % number for number in range(2 * BATCH_ROWS)]
    rows = rows_of(dict.fromkeys(paths, 1))
    swapped = pa.concat_tables([rows.slice(BATCH_ROWS), rows.slice(0, BATCH_ROWS)])
    snapshot: Any = SimpleNamespace(segments=[repository.put_segment(swapped)])
    entries = repository.segments.entries(snapshot)
    with pytest.raises(DamageError, match="not sorted"):
        list(entries.batches())


def test_a_snapshot_of_which_a_segment_changed_gives_no_batch() -> None:
    repository = make_repository(MemoryStore())
    segment = repository.put_segment(rows_of({b"a": 1}))
    path = repository.segment_path(segment.name)
    content = bytearray(repository.store.get(path))
    content[-1] ^= 1
    repository.store.heal(path, content)
    snapshot: Any = SimpleNamespace(segments=[segment])
    with pytest.raises(DamageError, match="does not match its name"):
        repository.segments.entries(snapshot)


def test_what_is_made_ahead_comes_in_order_and_fails_where_it_fails() -> None:
    def numbers() -> Iterator[int]:
        yield from range(5)
        raise DamageError("the sixth is gone")

    coming = ahead(numbers())
    assert list(islice(coming, 5)) == list(range(5))
    with pytest.raises(DamageError):
        next(coming)
    given_up = ahead(iter(range(100)))
    assert next(given_up) == 0
    given_up.close()


@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=400))
def test_segments_stay_few_and_old_ones_are_seldom_written_again(sizes: list[int]) -> None:
    rows: list[int] = []
    written = 0
    for size in sizes:
        count = segments_to_merge([*rows, size])
        assert 1 <= count <= len(rows) + 1
        merged = sum([*rows, size][-count:])
        rows = [*rows[: len(rows) + 1 - count], merged]
        written += merged
        assert len(rows) <= MOST_SEGMENTS
        assert all(older >= 2 * newer for older, newer in pairwise(rows))
    assert sum(rows) == sum(sizes)
    # Geometric sizes: a row is written again at most once for each doubling of what it is part of.
    assert written <= sum(sizes) * (2 + sum(sizes).bit_length())

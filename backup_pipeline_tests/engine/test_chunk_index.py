"""The chunk index agrees with a dictionary, whatever is inherited, and with any threads."""

from __future__ import annotations

import sys
import threading
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from blake3 import blake3
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backup_pipeline.engine import chunk_index
from backup_pipeline.engine.chunk_index import PLACE_COLUMNS, ChunkIndex
from backup_pipeline.engine.format.manifest import CHUNK_TYPE, PACK_NAME_BYTES
from backup_pipeline.engine.format.pack import Frame, PackIndex

# Ids whose heads collide, for they are looked up by their first eight bytes.
IDS = st.builds(
    lambda head, tail: head.to_bytes(8, "big") + bytes(20) + tail.to_bytes(4, "big"),
    st.sampled_from([0, 1, 2**63, 2**64 - 1]),
    st.integers(0, 5),
)


def pack_name(number: int) -> bytes:
    return number.to_bytes(PACK_NAME_BYTES, "big")


def chunk(identity: bytes, number: int) -> dict[str, Any]:
    return {
        "pack": pack_name(number % 3),
        "ordinal": number,
        "offset": 100 + number,
        "stored": 10,
        "raw": 30,
        "inner": number % 7,
        "size": 20,
        "id": identity,
    }


def inherited(lists: list[list[bytes] | None]) -> tuple[pa.Table, dict[bytes, dict[str, Any]]]:
    known: dict[bytes, dict[str, Any]] = {}
    rows: list[list[dict[str, Any]] | None] = []
    number = 0
    for ids in lists:
        row = []
        for identity in ids or ():
            row.append(chunk(identity, number))
            known.setdefault(identity, row[-1])
            number += 1
        rows.append(None if ids is None else row)
    return pa.table({"chunks": pa.array(rows, pa.list_(CHUNK_TYPE))}), known


def opened(table: pa.Table) -> ChunkIndex:
    """An index that inherits what a table's rows refer to."""
    return ChunkIndex(lambda: [table.column("chunks")])


@pytest.fixture(params=[2, 5, chunk_index._RECENT_ROWS])
def recent(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few rows are found by the dictionary, so that most are in sorted runs; or all of them."""
    monkeypatch.setattr(chunk_index, "_RECENT_ROWS", request.param)


@pytest.mark.usefixtures("recent")
@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(st.none() | st.lists(IDS, max_size=4), max_size=6),
    st.lists(IDS, max_size=12),
    st.integers(0, 3),
)
def test_what_is_inherited_is_found_and_the_rest_is_claimed_once(
    lists: list[list[bytes] | None], asked: list[bytes], cut: int
) -> None:
    table, known = inherited([*[[b"\x07" * 32]] * cut, *lists])
    index = opened(table.slice(cut))  # as a part of a larger table
    known = {identity: one for identity, one in known.items() if identity != b"\x07" * 32}
    claimed: dict[bytes, int] = {}
    rows: list[int] = []
    for identity in asked:
        row, fresh = index.claim(identity)
        rows.append(row)
        if fresh:
            assert identity not in known and identity not in claimed
            claimed[identity] = row
        assert index.claim(identity) == (row, False)
    assert [one.tobytes() for one in index.ids(rows)] == asked
    assert (index.places(rows) is None) == bool(claimed)
    number = index.new_pack()
    index.name_pack(number, pack_name(99))
    for ordinal, (identity, row) in enumerate(claimed.items()):
        filler = bytes([200 + ordinal]) * 32
        members = ((5, filler), (20, identity))
        index.settle(number, Frame(ordinal, 64, 40, 25, members), [index.claim(filler)[0], row])
    places = index.places(rows)
    assert places is not None
    for identity, place in zip(asked, places.tolist(), strict=True):
        told = dict(zip(PLACE_COLUMNS, place, strict=True))
        [name] = index.names_of([told.pop("pack")]) or []
        if identity in known:
            wanted = {k: v for k, v in known[identity].items() if k not in {"id", "pack"}}
            assert (told, name) == (wanted, known[identity]["pack"])
        else:
            assert name == pack_name(99)
            assert (told["ordinal"], told["inner"]) == (list(claimed).index(identity), 5)


@pytest.mark.usefixtures("recent")
def test_packs_that_are_taken_up_fill_what_was_claimed_and_replace_nothing() -> None:
    old, claimed, settled, new = (bytes([n]) * 32 for n in range(4))
    table, _ = inherited([[old]])
    index = opened(table)
    fresh = [index.claim(identity)[1] for identity in (old, claimed, settled)]
    assert fresh == [False, True, True]
    first = index.new_pack()
    index.name_pack(first, pack_name(50))
    index.settle(first, Frame(0, 64, 9, 3, ((3, settled),)), [index.claim(settled)[0]])
    members = ((1, old), (2, claimed), (3, settled), (4, new))
    index.take_up(pack_name(60), PackIndex(b"", (Frame(0, 64, 99, 10, members),)))
    rows = [index.claim(identity) for identity in (old, claimed, settled, new)]
    assert not any(fresh for _, fresh in rows)
    places = index.places([row for row, _ in rows])
    assert places is not None
    names = index.names_of([row[0] for row in places.tolist()])
    assert names == [pack_name(0), pack_name(60), pack_name(50), pack_name(60)]
    assert places[:, 5].tolist() == [0, 1, 0, 6]


def test_many_chunks_are_found_again_in_runs_that_merged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunk_index, "_RECENT_ROWS", 64)
    index = ChunkIndex()
    ids = [blake3(number.to_bytes(4, "big")).digest() for number in range(5000)]
    assert [index.claim(identity) for identity in ids] == [(n, True) for n in range(5000)]
    assert [index.claim(identity) for identity in ids] == [(n, False) for n in range(5000)]
    assert index.claim(b"\x01" * 32) == (5000, True)
    assert len(index._runs) <= 8


@pytest.fixture
def hasty_threads() -> Any:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("hasty_threads")
def test_threads_may_claim_settle_and_look_up_at_once() -> None:
    index, count, failures = ChunkIndex(), 3000, list[BaseException]()
    pack = index.new_pack()
    wins = np.zeros(count, int)

    def work() -> None:
        try:
            for number in range(count):
                identity = number.to_bytes(32, "big")
                row, fresh = index.claim(identity)
                if fresh:
                    wins[number] += 1
                    index.settle(pack, Frame(number, 64, 9, 3, ((3, identity),)), [row])
                index.places([row])
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == [] and (wins == 1).all()
    places = index.places([index.claim(number.to_bytes(32, "big"))[0] for number in range(count)])
    assert places is not None and places[:, 1].tolist() == list(range(count))

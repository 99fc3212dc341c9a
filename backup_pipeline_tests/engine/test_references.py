"""References: what manifests place in packs is held against what the packs say they hold."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from backup_pipeline.engine.format.manifest import CHUNK_TYPE
from backup_pipeline.engine.format.pack import Frame, PackIndex
from backup_pipeline.engine.operations.references import References, holds

INDEX = PackIndex(
    b"r" * 16,
    (
        Frame(0, 64, 40, 30, ((10, b"a" * 32), (0, b"b" * 32), (20, b"c" * 32))),
        Frame(1, 104, 26, 10, ((10, b"d" * 32),)),
    ),
)
GOOD = {"ordinal": 0, "offset": 64, "stored": 40, "raw": 30, "inner": 10, "size": 20, "id": b"c"}


def placed(*chunks: dict[str, Any], name: bytes = b"p") -> pa.StructArray:
    rows = [{**one, "pack": name * 48, "id": one["id"] * 32} for one in chunks]
    return pa.array(rows, CHUNK_TYPE)


def other(**changes: Any) -> dict[str, Any]:
    return {**GOOD, **changes}


@pytest.mark.parametrize(
    ("chunk", "there"),
    [
        (GOOD, True),
        (other(inner=0, size=10, id=b"a"), True),
        (other(ordinal=1, offset=104, stored=26, raw=10, inner=0, size=10, id=b"d"), True),
        (other(id=b"a"), False),
        (other(ordinal=1), False),
        (other(ordinal=7), False),
        (other(offset=65), False),
        (other(stored=41), False),
        (other(raw=31), False),
        (other(inner=11), False),
        (other(size=19), False),
    ],
)
def test_a_chunk_counts_as_there_only_where_all_agrees(chunk: dict[str, Any], there: bool) -> None:
    references = References()
    references.add([placed(), placed(GOOD, chunk), placed(GOOD)], ["s"])
    ((name, end, snapshots),) = references.packs()
    assert (name, snapshots) == (b"p" * 48, ["s"])
    assert end == max(104, chunk["offset"] + chunk["stored"])
    assert holds(INDEX, references.of(0)) == there


def test_references_are_told_apart_by_pack_and_who_needs_them() -> None:
    references = References()
    references.add([placed(GOOD, name=b"p"), placed(other(id=b"x"), name=b"q")], ["one"])
    references.add([placed(GOOD, name=b"p")], ["two"])
    assert [snapshots for _, _, snapshots in references.packs()] == [["one", "two"], ["one"]]
    assert holds(INDEX, references.of(0)) and not holds(INDEX, references.of(1))
    assert not holds(PackIndex(b"r" * 16, ()), references.of(0))
    assert not list(References().packs())

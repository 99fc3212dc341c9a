"""Where chunks lie now: places in packs that were replaced are put right as segments are read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa

from backup_pipeline.engine.format.manifest import CHUNK_TYPE
from backup_pipeline.engine.format.pack import PackIndex

__all__ = ["Places", "places_in", "resolve"]

# Chunk id to (ordinal, offset, stored, raw, inner, size) in one pack.
Places: TypeAlias = Mapping[bytes, tuple[int, ...]]
_NUMBERS = ("ordinal", "offset", "stored", "raw", "inner", "size")


def places_in(index: PackIndex) -> Places:
    """Where a pack holds which chunk."""
    found: dict[bytes, tuple[int, ...]] = {}
    for frame in index.frames:
        inner = 0
        for size, identity in frame.members:
            place = (frame.ordinal, frame.offset, frame.stored, frame.raw, inner, size)
            found.setdefault(identity, place)
            inner += size
    return found


def _standing(
    name: bytes, replaced: Mapping[bytes, Sequence[bytes]], seen: set[bytes]
) -> Iterator[bytes]:
    """The packs that stand for a pack now, replacements of replacements included."""
    seen.add(name)
    if name not in replaced:
        yield name
        return
    for other in replaced[name]:
        if other not in seen:
            yield from _standing(other, replaced, seen)


def resolve(
    rows: pa.Table,
    replaced: Mapping[bytes, Sequence[bytes]],
    places: Callable[[bytes], Places],
) -> pa.Table:
    """Manifest rows with chunks of replaced packs where they lie now.

    A chunk that none of the replacements holds keeps its place: it is lost, and whoever reads it
    will say so.

    Args:
        rows: Rows of a segment.
        replaced: Names of packs to the names of those that hold their chunks now.
        places: Gives what a pack holds; nothing for one that cannot be read.
    """
    lists = rows.column("chunks").combine_chunks()
    flat: Any = lists.flatten()
    named = flat.field("pack").dictionary_encode()
    names: list[bytes] = named.dictionary.to_pylist()
    if not set(names) & replaced.keys():
        return rows
    numbers = named.indices.to_numpy(zero_copy_only=False).copy()
    columns = {field: flat.field(field).to_numpy(zero_copy_only=False).copy() for field in _NUMBERS}
    for number, name in enumerate(list(names)):
        if name not in replaced:
            continue
        now = [(other, places(other)) for other in _standing(name, replaced, set())]
        at = np.flatnonzero(numbers == number)
        for row, identity in zip(
            at.tolist(), flat.field("id").take(pa.array(at)).to_pylist(), strict=True
        ):
            holder = next(((o, held[identity]) for o, held in now if identity in held), None)
            if holder is None or holder[1][-1] != columns["size"][row]:
                continue
            if holder[0] not in names:
                names.append(holder[0])
            numbers[row] = names.index(holder[0])
            for field, value in zip(_NUMBERS, holder[1], strict=True):
                columns[field][row] = value
    packs = pa.array(names, CHUNK_TYPE.field("pack").type).take(pa.array(numbers))
    packed = pa.StructArray.from_arrays(
        [
            packs,
            *(pa.array(columns[name], CHUNK_TYPE.field(name).type) for name in _NUMBERS),
            flat.field("id"),
        ],
        fields=list(CHUNK_TYPE),
    )
    return _with_chunks(rows, lists, packed)


def _with_chunks(rows: pa.Table, lists: Any, packed: Any) -> pa.Table:
    """The rows with other chunks, as many in each row as before."""
    counts = lists.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    offsets = pa.array(np.concatenate([[0], np.cumsum(counts)]), pa.int32())
    field = rows.schema.field("chunks")
    chunks = pa.ListArray.from_arrays(offsets, packed, type=field.type, mask=lists.is_null())
    return rows.set_column(rows.schema.get_field_index("chunks"), field, chunks)

"""What manifests place in packs, and whether it is there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np

from backup_pipeline.engine.format.pack import ID_BYTES, PackIndex

__all__ = ["Numbers", "References", "holds"]

Numbers: TypeAlias = np.ndarray[Any, Any]

_PLACE = ("ordinal", "offset", "stored", "raw", "inner", "size")


class References:
    """Chunks of any number of manifests, by the pack that they are in; 64 bytes each."""

    def __init__(self) -> None:
        self._names: dict[bytes, int] = {}
        self._users: list[set[str]] = []
        self._parts: dict[str, list[Numbers]] = {name: [] for name in ("pack", *_PLACE, "id")}
        self._columns: dict[str, Numbers] = {}
        self._order = self._bounds = np.zeros(0, np.int64)

    def add(self, batches: Sequence[Any], snapshots: Sequence[str]) -> None:
        """Take in chunks, as struct arrays, which some snapshots need."""
        for chunks in batches:
            if not len(chunks):
                continue
            names = chunks.field("pack").dictionary_encode()
            numbers = [self._number(name) for name in names.dictionary.to_pylist()]
            for number in numbers:
                self._users[number].update(snapshots)
            pack = np.array(numbers, np.uint32)[names.indices.to_numpy(zero_copy_only=False)]
            self._parts["pack"].append(pack)
            for name in _PLACE:
                self._parts[name].append(chunks.field(name).to_numpy(zero_copy_only=False))
            self._parts["id"].append(_ids(chunks.field("id")))

    def _number(self, name: bytes) -> int:
        number = self._names.setdefault(name, len(self._names))
        if number == len(self._users):
            self._users.append(set())
        return number

    def packs(self) -> Iterator[tuple[bytes, int, list[str]]]:
        """Each pack, where the last of its frames that is needed ends, and who needs it.

        To be called once, when all are taken in.
        """
        if not self._names:
            return
        for name, parts in self._parts.items():
            self._columns[name] = np.concatenate(parts)
            parts.clear()
        pack = self._columns.pop("pack")
        self._order = np.argsort(pack, kind="stable")
        self._bounds = np.searchsorted(pack[self._order], np.arange(len(self._names) + 1))
        for number, name in enumerate(self._names):
            own = self._own(number)
            ends = self._columns["offset"][own].astype(np.int64) + self._columns["stored"][own]
            yield name, int(ends.max()), sorted(self._users[number])

    def _own(self, number: int) -> Numbers:
        return self._order[self._bounds[number] : self._bounds[number + 1]]

    def of(self, number: int) -> dict[str, Numbers]:
        """The places and ids of all chunks in a pack, by its number among ``packs``."""
        own = self._own(number)
        return {name: column[own] for name, column in self._columns.items()}


def holds(index: PackIndex, wanted: dict[str, Numbers]) -> bool:
    """Whether a pack holds all of some chunks, each where it is wanted."""
    held = _held(index)
    key, sought = (one["ordinal"].astype(np.int64) << 32 | one["inner"] for one in (held, wanted))
    if not len(key):
        return not len(sought)
    place = np.minimum(np.searchsorted(key, sought), len(key) - 1)
    return all(np.array_equal(held[name][place], wanted[name]) for name in wanted)


def _held(index: PackIndex) -> dict[str, Numbers]:
    """The members of a pack, in order, but for empty ones: two would be in one place."""
    frames = index.frames
    members = [member for frame in frames for member in frame.members]
    counts = [len(frame.members) for frame in frames]
    size = np.array([size for size, _ in members], np.int64)
    begin = np.cumsum(size) - size
    raw = np.array([frame.raw for frame in frames], np.int64)
    held = {
        name: np.repeat(np.array([getattr(frame, name) for frame in frames], np.int64), counts)
        for name in ("ordinal", "offset", "stored", "raw")
    }
    held["inner"] = begin - np.repeat(np.cumsum(raw) - raw, counts)
    held["size"] = size
    held["id"] = np.frombuffer(b"".join([identity for _, identity in members]), f"V{ID_BYTES}")
    return {name: column[size > 0] for name, column in held.items()}


def _ids(column: Any) -> Numbers:
    values = np.frombuffer(column.buffers()[1], f"V{ID_BYTES}", column.offset + len(column))
    return values[column.offset :]

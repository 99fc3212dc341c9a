"""Which chunks a run may refer to, and where they lie."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa

from backup_pipeline.engine.format.pack import PackIndex

__all__ = ["ChunkIndex", "Place"]

# (number of the pack, ordinal, offset, stored, raw, inner, size); see docs/format-v1.md
Place: TypeAlias = tuple[int, int, int, int, int, int, int]


class ChunkIndex:
    """Chunk ids to places: those of this run, and those inherited from the parent's manifest.

    Inherited ids stay in Arrow memory and are looked up through a sorted array of their first
    eight bytes, so an incremental that adds little costs little.
    """

    def __init__(self, inherited: pa.Table | None = None) -> None:
        self._lock = threading.Lock()
        self._places: dict[bytes, Place | None] = {}
        self._pack_names: list[bytes | None] = []
        self._pack_numbers: dict[bytes, int] = {}
        self._inherited_rows = inherited
        self._heads: np.ndarray[Any, Any] | None = None
        self._order: np.ndarray[Any, Any] | None = None
        self._ids: np.ndarray[Any, Any] | None = None
        self._flat: Any = None

    def new_pack(self) -> int:
        """The number of a pack whose name is not known yet."""
        with self._lock:
            self._pack_names.append(None)
            return len(self._pack_names) - 1

    def name_pack(self, number: int, name: bytes) -> None:
        """Tell the name of a pack."""
        with self._lock:
            self._pack_names[number] = name
            self._pack_numbers[name] = number

    def pack_names(self) -> list[bytes]:
        """Names of all packs, by number; all must be known by now."""
        names = [name for name in self._pack_names if name is not None]
        assert len(names) == len(self._pack_names)
        return names

    def claim(self, identity: bytes) -> bool:
        """Whether the caller is the one to store this chunk."""
        with self._lock:
            if identity in self._places:
                return False
            place = self._find_inherited(identity)
            self._places[identity] = place
            return place is None

    def settle(self, members: Iterable[tuple[bytes, Place]]) -> None:
        """Tell where claimed chunks were put."""
        with self._lock:
            self._places.update(members)

    def place(self, identity: bytes) -> Place | None:
        """Where a chunk lies; None while its claimant is still at work."""
        return self._places.get(identity)

    def take_up(self, name: bytes, index: PackIndex) -> int:
        """Add the chunks of a pack that an interrupted run left; how many were new to us."""
        number = self.new_pack()
        self.name_pack(number, name)
        added = 0
        for frame in index.frames:
            inner = 0
            for size, identity in frame.members:
                place = (number, frame.ordinal, frame.offset, frame.stored, frame.raw, inner, size)
                if self._places.get(identity) is None:
                    self._places[identity] = place
                    added += 1
                inner += size
        return added

    def _find_inherited(self, identity: bytes) -> Place | None:
        if self._inherited_rows is None:
            return None
        if self._heads is None:
            self._load_inherited()
        assert self._heads is not None and self._order is not None and self._ids is not None
        head = int.from_bytes(identity[:8], "big")
        at = int(np.searchsorted(self._heads, np.uint64(head)))
        while at < len(self._heads) and int(self._heads[at]) == head:
            row = int(self._order[at])
            if self._ids[row].tobytes() == identity:
                return self._inherited_place(row)
            at += 1
        return None

    def _inherited_place(self, row: int) -> Place:
        value = self._flat[row].as_py()
        name = value["pack"]
        number = self._pack_numbers.get(name)
        if number is None:
            self._pack_names.append(name)
            number = len(self._pack_names) - 1
            self._pack_numbers[name] = number
        return (
            number,
            value["ordinal"],
            value["offset"],
            value["stored"],
            value["raw"],
            value["inner"],
            value["size"],
        )

    def _load_inherited(self) -> None:
        assert self._inherited_rows is not None
        lists = self._inherited_rows.column("chunks").combine_chunks()
        self._flat = lists.flatten()
        ids = self._flat.field("id")
        raw = np.frombuffer(ids.buffers()[1], np.uint8)
        start = ids.offset * 32
        self._ids = raw[start : start + len(ids) * 32].reshape(-1, 32)
        heads = np.ascontiguousarray(self._ids[:, :8]).view(">u8").ravel().astype(np.uint64)
        self._order = np.argsort(heads, kind="stable")
        self._heads = heads[self._order]

"""Which chunks a run may refer to, and where they lie."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from backup_pipeline.engine.format.pack import Frame, PackIndex

__all__ = ["PLACE_COLUMNS", "ChunkIndex"]

PLACE_COLUMNS = ("pack", "ordinal", "offset", "stored", "raw", "inner", "size")
"""What a place says, as in a manifest's ``chunks``, but for the pack: that is a number."""

_PLACE_BYTES = 4 * len(PLACE_COLUMNS)
_CLAIMED = -1


class ChunkIndex:
    """Chunk ids to places: those of this run, and those inherited from the parent's manifest.

    The run's places stand packed in one array, for a million small files have a million of them.
    Inherited ids stay in Arrow memory and are looked up through a sorted array of their first
    eight bytes, so an incremental that adds little costs little.
    """

    def __init__(self, inherited: pa.Table | None = None) -> None:
        self._lock = threading.Lock()
        self._rows: dict[bytes, int] = {}  # id to the row of its place, or _CLAIMED
        self._places = bytearray()
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
            if identity in self._rows:
                return False
            place = self._find_inherited(identity)
            if place is None:
                self._rows[identity] = _CLAIMED
                return True
            self._rows[identity] = len(self._places) // _PLACE_BYTES
            self._places += np.array(place, "<u4").tobytes()
            return False

    def settle(self, pack: int, frame: Frame) -> None:
        """Tell which frame of which pack holds chunks that were claimed."""
        with self._lock:
            first = self._add_places(pack, frame)
            ids = (identity for _, identity in frame.members)
            self._rows.update(zip(ids, range(first, first + len(frame.members)), strict=True))

    def places(self, ids: Sequence[bytes]) -> np.ndarray[Any, Any] | None:
        """Where chunks lie: a row of PLACE_COLUMNS for each id.

        Returns:
            None while the claimant of any is still at work.
        """
        with self._lock:
            rows = [self._rows[identity] for identity in ids]
            if _CLAIMED in rows:
                return None
            if not rows:
                return np.empty((0, len(PLACE_COLUMNS)), "<u4")
            # No view may outlive the lock: it would keep the array from growing.
            return np.frombuffer(self._places, "<u4").reshape(-1, len(PLACE_COLUMNS))[rows]

    def take_up(self, name: bytes, index: PackIndex) -> None:
        """Add the chunks of a pack that is in the store: another run's, or a copied one."""
        number = self.new_pack()
        self.name_pack(number, name)
        with self._lock:
            for frame in index.frames:
                first = self._add_places(number, frame)
                for row, (_, identity) in enumerate(frame.members, first):
                    if self._rows.get(identity, _CLAIMED) == _CLAIMED:
                        self._rows[identity] = row

    def _add_places(self, pack: int, frame: Frame) -> int:
        """Enter the places of a frame's members; the row of the first."""
        first = len(self._places) // _PLACE_BYTES
        rows = np.empty((len(frame.members), len(PLACE_COLUMNS)), "<u4")
        rows[:, :5] = (pack, frame.ordinal, frame.offset, frame.stored, frame.raw)
        sizes = np.array([size for size, _ in frame.members], "<u4")
        rows[:, 5] = np.cumsum(sizes) - sizes
        rows[:, 6] = sizes
        self._places += rows.tobytes()
        return first

    def _find_inherited(self, identity: bytes) -> tuple[int, ...] | None:
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

    def _inherited_place(self, row: int) -> tuple[int, ...]:
        value = self._flat[row].as_py()
        name = value["pack"]
        number = self._pack_numbers.get(name)
        if number is None:
            self._pack_names.append(name)
            number = len(self._pack_names) - 1
            self._pack_numbers[name] = number
        return (number, *(value[column] for column in PLACE_COLUMNS[1:]))

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

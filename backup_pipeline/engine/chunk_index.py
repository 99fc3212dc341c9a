"""Which chunks a run may refer to, and where they lie."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from backup_pipeline.engine.format.pack import ID_BYTES, Frame, PackIndex

__all__ = ["PLACE_COLUMNS", "ChunkIndex", "Inherited"]

PLACE_COLUMNS = ("pack", "ordinal", "offset", "stored", "raw", "inner", "size")
"""What a place says, as in a manifest's ``chunks``, but for the pack: that is a number."""

Inherited = Callable[[], Iterable[pa.ChunkedArray | pa.Array]]
"""Gives the ``chunks`` columns of what a run inherits, when the first chunk is looked up."""

_PLACE_BYTES = 4 * len(PLACE_COLUMNS)
_STORED = PLACE_COLUMNS.index("stored")
_NOWHERE = bytes(_PLACE_BYTES)
_RECENT_ROWS = 1 << 14
_SLOTS_PER_CHUNK = 16  # of the table of heads: one new chunk in 16 is looked up in vain


class ChunkIndex:
    """Chunk ids to places. A chunk is known by its row, in the order in which chunks came here.

    A million small files have a million chunks, so ids and places stand packed in one array each.
    The latest rows are found through a dictionary, older ones through arrays of their ids' first
    eight bytes, sorted, which grow by merging; a table of one byte per head tells most chunks that
    are not among them.

    Args:
        inherited: Gives the chunks that are stored already; called when it is first needed.
    """

    def __init__(self, inherited: Inherited | None = None) -> None:
        self._lock = threading.Lock()
        self._inherited = inherited
        self._ids = bytearray()
        self._places = bytearray()
        # May be shorter than there are rows: of the rest nothing is known.
        self._looks = bytearray()
        self._recent: dict[bytes, int] = {}
        self._runs: list[_Run] = []
        self._seen = bytearray()
        self._pack_names: list[bytes | None] = []

    def new_pack(self) -> int:
        """The number of a pack whose name is not known yet."""
        with self._lock:
            self._pack_names.append(None)
            return len(self._pack_names) - 1

    def name_pack(self, number: int, name: bytes) -> None:
        """Tell the name of a pack."""
        with self._lock:
            self._pack_names[number] = name

    def names_of(self, numbers: Sequence[int]) -> list[bytes] | None:
        """Names of packs by number; None while any is not known."""
        names = [name for name in map(self._pack_names.__getitem__, numbers) if name is not None]
        return names if len(names) == len(numbers) else None

    def claim(self, identity: bytes) -> tuple[int, bool]:
        """The chunk's row, and whether the caller is the one to store it."""
        with self._lock:
            row = self._find(identity)
            if row is not None:
                return row, False
            return self._add(identity, _NOWHERE), True

    def settle(self, pack: int, frame: Frame, rows: Sequence[int]) -> None:
        """Tell which frame of which pack holds the chunks of these rows, its members."""
        places = _places_in(pack, frame)
        with self._lock:
            np.frombuffer(self._places, "<u4").reshape(-1, len(PLACE_COLUMNS))[rows] = places

    def places(self, rows: Sequence[int]) -> np.ndarray[Any, Any] | None:
        """Where chunks lie: PLACE_COLUMNS for each row.

        Returns:
            None while the claimant of any is still at work.
        """
        with self._lock:
            # No view may outlive the lock: it would keep the array from growing.
            found = np.frombuffer(self._places, "<u4").reshape(-1, len(PLACE_COLUMNS))[rows]
        return found if found[:, _STORED].all() else None

    def ids(self, rows: Sequence[int]) -> np.ndarray[Any, Any]:
        """The ids of chunks: 32 bytes for each row."""
        with self._lock:
            return np.frombuffer(self._ids, np.uint8).reshape(-1, ID_BYTES)[rows]

    def note_looks(self, rows: Sequence[int], looks: Any) -> None:
        """Tell how the chunks of these rows look, before they are settled."""
        with self._lock:
            lacking = max(rows, default=-1) + 1 - len(self._looks)
            if lacking > 0:
                self._looks += bytes(lacking + _RECENT_ROWS)
            np.frombuffer(self._looks, np.uint8)[rows] = looks

    def looks(self, rows: Sequence[int]) -> np.ndarray[Any, Any]:
        """How chunks look that this run stored; 0 for all others."""
        at, found = np.asarray(rows, np.int64), np.zeros(len(rows), np.uint8)
        with self._lock:
            inside = at < len(self._looks)
            # No view may outlive the lock: it would keep the array from growing.
            found[inside] = np.frombuffer(self._looks, np.uint8)[at[inside]]
        return found

    def take_up(self, name: bytes, index: PackIndex) -> None:
        """Add the chunks of a pack that is in the store: another run's, or a copied one."""
        number = self.new_pack()
        self.name_pack(number, name)
        for frame in index.frames:
            places = _places_in(number, frame)
            with self._lock:
                for place, (_, identity) in zip(places, frame.members, strict=True):
                    row = self._find(identity)
                    if row is None:
                        self._add(identity, place.tobytes())
                    else:
                        at = slice(row * _PLACE_BYTES, (row + 1) * _PLACE_BYTES)
                        if bytes(self._places[at]) == _NOWHERE:
                            self._places[at] = place.tobytes()

    def _add(self, identity: bytes, place: bytes) -> int:
        row = len(self._ids) // ID_BYTES
        self._ids += identity
        self._places += place
        self._recent[identity] = row
        if len(self._recent) >= _RECENT_ROWS:
            self._keep_run(row + 1 - len(self._recent), row + 1)
            self._recent.clear()
        return row

    def _find(self, identity: bytes) -> int | None:
        if self._inherited is not None:
            self._load_inherited(self._inherited)
        row = self._recent.get(identity)
        if row is not None or not self._runs:
            return row
        head = int.from_bytes(identity[:8], "little")
        if not self._seen[head & (len(self._seen) - 1)]:
            return None
        for run in self._runs:
            for row in run.rows_of(head):
                if bytes(self._ids[row * ID_BYTES : (row + 1) * ID_BYTES]) == identity:
                    return row
        return None

    def _keep_run(self, first: int, end: int) -> None:
        """Sort rows away; with those just before them, where these are not far more."""
        while (
            self._runs and self._runs[-1].end == first and len(self._runs[-1]) < 2 * (end - first)
        ):
            first = self._runs.pop().first
        ids = np.frombuffer(self._ids, "<u8").reshape(-1, ID_BYTES // 8)[first:end]
        self._runs.append(_Run(first, np.ascontiguousarray(ids[:, 0])))
        slots = 1 << (end * _SLOTS_PER_CHUNK - 1).bit_length()
        fresh = self._runs[-1:]
        if slots > len(self._seen):
            self._seen, fresh = bytearray(slots), self._runs
        seen = np.frombuffer(self._seen, np.uint8)
        for run in fresh:
            seen[run.heads & np.uint64(len(seen) - 1)] = 1

    def _load_inherited(self, inherited: Inherited) -> None:
        """Enter the inherited chunks as they come; of one that comes twice, the first serves."""
        self._inherited = None
        numbers = {name: number for number, name in enumerate(self._pack_names) if name}
        count = 0
        for column in inherited():
            for lists in column.chunks if isinstance(column, pa.ChunkedArray) else [column]:
                flat: Any = lists.flatten()
                count += len(flat)
                self._ids += _fixed(flat.field("id"))
                self._places += self._inherited_places(flat, numbers).tobytes()
        if count:
            assert len(self._ids) == count * ID_BYTES, "inherited chunks come before all others"
            self._keep_run(0, count)

    def _inherited_places(self, flat: Any, numbers: dict[bytes, int]) -> np.ndarray[Any, Any]:
        named = flat.field("pack").dictionary_encode()
        for name in named.dictionary.to_pylist():
            if name not in numbers:
                numbers[name] = len(self._pack_names)
                self._pack_names.append(name)
        by_code = np.array([numbers[name] for name in named.dictionary.to_pylist()], "<u4")
        places = np.empty((len(flat), len(PLACE_COLUMNS)), "<u4")
        places[:, 0] = by_code[named.indices.to_numpy()] if len(flat) else 0
        for number, name in enumerate(PLACE_COLUMNS[1:], 1):
            places[:, number] = flat.field(name).to_numpy(zero_copy_only=False)
        return places


class _Run:
    """Rows one behind the other, found by the first eight bytes of their ids."""

    __slots__ = ("end", "first", "heads", "order")

    def __init__(self, first: int, heads: np.ndarray[Any, Any]) -> None:
        self.first = first
        self.end = first + len(heads)
        order = np.argsort(heads, kind="stable")
        self.order = order.astype(np.uint32)
        self.heads = heads[order]

    def __len__(self) -> int:
        return self.end - self.first

    def rows_of(self, head: int) -> list[int]:
        """Rows whose ids begin so, the first that came first."""
        at = int(np.searchsorted(self.heads, np.uint64(head)))
        end = at
        while end < len(self.heads) and int(self.heads[end]) == head:
            end += 1
        return [self.first + int(row) for row in self.order[at:end]]


def _places_in(pack: int, frame: Frame) -> np.ndarray[Any, Any]:
    """PLACE_COLUMNS of each of a frame's members."""
    places = np.empty((len(frame.members), len(PLACE_COLUMNS)), "<u4")
    places[:, :5] = (pack, frame.ordinal, frame.offset, frame.stored, frame.raw)
    sizes = np.array([size for size, _ in frame.members], "<u4")
    places[:, 5] = np.cumsum(sizes) - sizes
    places[:, 6] = sizes
    return places


def _fixed(ids: Any) -> memoryview:
    """The bytes of a column of ids, one behind the other."""
    start = ids.offset * ID_BYTES
    return memoryview(ids.buffers()[1])[start : start + len(ids) * ID_BYTES]

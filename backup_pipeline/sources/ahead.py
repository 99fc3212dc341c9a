"""Reading ahead: the first bytes of the objects that will be opened next, within bounds."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

from backup_pipeline.sources.bucket import Bucket, Part

__all__ = ["BYTES_AHEAD", "PART_BYTES", "ReadAhead"]

PART_BYTES: Final = 8 << 20
"""Large objects are read in ranges of this size."""

BYTES_AHEAD: Final = 64 << 20
"""So many bytes are held for objects that were not opened yet."""

_OBJECTS_AHEAD: Final = 32
_THREADS: Final = 16


class ReadAhead:
    """Reads in other threads what will be wanted next.

    Args:
        bucket: Where the objects are.
    """

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self._threads: ThreadPoolExecutor | None = None
        self._announced: deque[tuple[str, int, str | None]] = deque()
        self._begun: OrderedDict[tuple[str, str], tuple[Future[Part], int]] = OrderedDict()
        self._begun_bytes = 0

    def announce(self, entries: Sequence[tuple[str, int, str | None]]) -> None:
        """Take note of (key, size, etag) in the order in which they will be opened."""
        while self._begun:
            self._forget(next(iter(self._begun)))
        self._announced = deque(entries)
        self._begin()

    def first(self, key: str, size: int | None, etag: str) -> Part:
        """Return an object's first part, or all of it; raises as ``Bucket.read`` does."""
        begun = self._begun.get((key, etag))
        while self._begun and begun is not None and next(iter(self._begun)) != (key, etag):
            self._forget(next(iter(self._begun)))  # it was passed over
        if begun is None:
            size = self._pass_over(key) if size is None else size
            small = size is not None and size <= PART_BYTES
            part = self.part(key, etag, 0, None if small else PART_BYTES)
        else:
            part = begun[0]
        self._begin()
        try:
            return part.result()
        finally:
            self._forget((key, etag))
            self._begin()

    def part(self, key: str, etag: str, offset: int, length: int | None) -> Future[Part]:
        """Begin to read some bytes."""
        if self._threads is None:
            self._threads = ThreadPoolExecutor(_THREADS, "read-ahead")
        return self._threads.submit(self._bucket.read, key, etag, offset, length)

    def _begin(self) -> None:
        while self._announced and len(self._begun) < _OBJECTS_AHEAD:
            key, size, etag = self._announced[0]
            held_bytes = min(size, PART_BYTES)
            if self._begun and self._begun_bytes + held_bytes > BYTES_AHEAD:
                return
            self._announced.popleft()
            if etag is not None and (key, etag) not in self._begun:
                part = self.part(key, etag, 0, None if size <= PART_BYTES else PART_BYTES)
                self._begun[key, etag] = (part, held_bytes)
                self._begun_bytes += held_bytes

    def _pass_over(self, key: str) -> int | None:
        """Return the size that was announced for ``key``; what came before it was not wanted."""
        if not any(announced == key for announced, _, _ in self._announced):
            return None
        while self._announced:
            announced, size, _ = self._announced.popleft()
            if announced == key:
                return size
        return None

    def _forget(self, which: tuple[str, str]) -> None:
        begun = self._begun.pop(which, None)
        if begun is not None:
            begun[0].cancel()
            self._begun_bytes -= begun[1]

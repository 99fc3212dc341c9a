"""Chunks that need not be fetched, for what stands in a restore's place holds the same.

What stands is cut as a backup cuts, so a large file with a few bytes changed, moved or missing
gives all chunks but those that the change touched. Each is hashed before it is used.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import pyarrow as pa
from blake3 import blake3

from backup_pipeline.engine.chunker import (
    CHUNK_MOST_BYTES,
    SOLID_LIMIT_BYTES,
    Chunker,
)
from backup_pipeline.engine.crypto import Buffer
from backup_pipeline.engine.errors import BackupError
from backup_pipeline.engine.keys import DatasetKeys
from backup_pipeline.engine.operations.assembly import extents
from backup_pipeline.engine.operations.rows import Row
from backup_pipeline.engine.operations.target import Target

__all__ = ["Standing"]

READ_BYTES = 8 * CHUNK_MOST_BYTES

Had = tuple[int, int, Buffer]
"""A row's number, where the bytes lie in its content, and the bytes."""


class Standing:
    """What stands in a folder, as a place to have chunks from.

    Args:
        place: The folder.
        keys: Those of the dataset.
        least_bytes: Files below this size are not looked at.
    """

    def __init__(
        self, place: Target, keys: DatasetKeys, *, least_bytes: int = SOLID_LIMIT_BYTES
    ) -> None:
        self._place = place
        self._identity = keys.identity
        self._chunker = Chunker(keys.chunker_seed)
        self._least_bytes = least_bytes

    def pieces(self, rows: Sequence[Row], numbers: Sequence[int], table: pa.Table) -> Iterator[Had]:
        """The chunks of some rows that stand at their paths; each place in a row once at most.

        Args:
            rows: The batch.
            numbers: Which of them are wanted; pieces count in this list.
            table: The batch's ``chunks``.
        """
        lists: Any = table.column("chunks").combine_chunks()
        for place, number in enumerate(numbers):
            row = rows[number]
            if row.size < self._least_bytes:
                continue
            with suppress(OSError, BackupError):  # whatever cannot be read here is fetched
                fd = self._open(row.path)
                if fd >= 0:
                    try:
                        yield from self._of_file(place, row, lists[number].as_py() or (), fd)
                    finally:
                        os.close(fd)

    def _open(self, path: bytes) -> int:
        found = self._place.lookup(path) if self._place.existed else None
        if found is None or not stat.S_ISREG(found.st_mode) or not found.st_size:
            return -1
        return self._place.open_read(path)

    def _of_file(
        self, number: int, row: Row, chunks: Sequence[dict[str, Any]], fd: int
    ) -> Iterator[Had]:
        wanted: dict[bytes, list[int]] = {}
        at = 0
        for chunk in chunks:
            wanted.setdefault(chunk["id"], []).append(at)
            at += chunk["size"]
        if row.holes or row.size < SOLID_LIMIT_BYTES:
            found = self._same_places(fd, row, chunks)
        else:
            found = self._cut(fd)
        for content in found:
            if not wanted:
                return
            for place in wanted.pop(blake3(content, key=self._identity).digest(), ()):
                yield number, place, content

    def _same_places(self, fd: int, row: Row, chunks: Sequence[dict[str, Any]]) -> Iterator[Buffer]:
        at = 0
        for chunk in chunks:
            size = chunk["size"]
            yield b"".join(
                os.pread(fd, length, place) for place, _, length in extents(row.holes, at, size)
            )
            at += size

    def _cut(self, fd: int) -> Iterator[Buffer]:
        rest, ended, at = b"", False, 0
        while not ended:
            read = os.pread(fd, READ_BYTES, at)
            at += len(read)
            ended = len(read) < READ_BYTES
            content = memoryview(rest + read)
            done = 0
            for offset, length in self._chunker.cut(content, last=ended):
                yield content[offset : offset + length]
                done = offset + length
            rest = bytes(content[done:])

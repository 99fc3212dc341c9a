"""Sources that list entries: sizes that are estimates, and streams that give what they like."""

from __future__ import annotations

import io
from datetime import date
from pathlib import Path
from typing import BinaryIO

import pytest

from backup_pipeline.engine.operations.backup import backup
from backup_pipeline.engine.operations.restore import restore
from backup_pipeline.engine.store.memory import MemoryStore
from backup_pipeline.sources.listing import Item, ListedSource
from backup_pipeline_tests.engine.repositories import make_repository

PIECE = 1000


class _InPieces(io.RawIOBase):
    def __init__(self, content: bytes) -> None:
        self._rest = memoryview(content)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        count = min(PIECE, len(self._rest), len(buffer))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count


class _Guessing(ListedSource):
    """Lists a size that is not that of the content."""

    kind = "guessing"

    def __init__(self, guessed: int, content: bytes) -> None:
        self.guessed, self.content = guessed, content

    def describe(self) -> str:
        return "a guess"

    def items(self) -> list[Item]:
        return [Item("report", self.guessed, etag="1")]

    def stream(self, path: str) -> BinaryIO:
        return _InPieces(self.content)  # type: ignore[return-value]


@pytest.mark.parametrize("guessed", [0, 1, PIECE, 2 * PIECE, 3 * PIECE, 10**7])
@pytest.mark.parametrize("size", [0, PIECE, 3 * PIECE, 3 * PIECE + 7, 2_000_000])
def test_a_wrong_size_in_a_listing_cuts_nothing_off(
    tmp_path: Path, guessed: int, size: int
) -> None:
    content = bytes(number % 251 for number in range(size))
    repository = make_repository(MemoryStore())
    snapshot = backup(repository, _Guessing(guessed, content), day=date(2026, 11, 22), kind="full")
    assert snapshot.status == "complete"
    assert restore(repository, snapshot, tmp_path / "out").ok
    assert (tmp_path / "out" / "report").read_bytes() == content

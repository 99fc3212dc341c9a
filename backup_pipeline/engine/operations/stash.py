"""Packs of a repair: content that was had elsewhere, stored anew for one chain."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from datetime import datetime
from typing import Any, Self

from backup_pipeline.engine.chunk_index import ChunkIndex
from backup_pipeline.engine.chunker import SOLID_LIMIT_BYTES, SOLID_TARGET_BYTES, Compressor
from backup_pipeline.engine.crypto import Buffer
from backup_pipeline.engine.format.pack import RUN_BYTES
from backup_pipeline.engine.format.record import to_iso
from backup_pipeline.engine.operations.packing import Packer
from backup_pipeline.engine.repository import Repository

__all__ = ["Stash"]


class Stash:
    """Takes chunks in, and stores them in packs of a run of its own; the run's record is first.

    An interrupted repair is not taken up: what it stored is referred to by nothing, and prune frees
    it. To be used in a ``with``: a failure within it ends its threads.

    Args:
        repository: Where.
        chain: The chain that the packs belong to (hex).
        index: Is told the places of the chunks; those that it knows are not stored.
        clock: Tells when the run began.
    """

    def __init__(
        self, repository: Repository, chain: str, index: ChunkIndex, clock: Callable[[], datetime]
    ) -> None:
        self._repository = repository
        self._index = index
        self._run, self._key = secrets.token_bytes(RUN_BYTES), secrets.token_bytes(32)
        now = clock()
        self._body: dict[str, Any] = {
            "type": "run",
            "run": self._run.hex(),
            "operation": "repair",
            "kind": None,
            "chain": chain,
            "parent": None,
            "base": None,
            "day": now.date().isoformat(),
            "started_at": to_iso(now),
        }
        self._packer: Packer | None = None
        self._compressor = Compressor()
        self._small: list[tuple[int, bytes]] = []
        self._content = bytearray()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, failure: type[BaseException] | None, *_: object) -> None:
        if failure is not None:
            self.abandon()

    def add(self, identity: bytes, content: Buffer) -> None:
        """Store a chunk; it is durable once the stash is closed."""
        if len(content) >= SOLID_LIMIT_BYTES or not self._repository.solid:
            self._frame([(len(content), identity)], memoryview(content), solid=False)
            return
        self._small.append((len(content), identity))
        self._content += content
        if len(self._content) >= SOLID_TARGET_BYTES:
            self._flush()

    def close(self) -> int:
        """Finish all packs; how many bytes were stored."""
        self._flush()
        if self._packer is None:
            return 0
        self._packer.close()
        return self._packer.stored_bytes

    def abandon(self) -> None:
        """Stop without finishing; nothing refers to what was stored."""
        if self._packer is not None:
            self._packer.abandon()

    def _flush(self) -> None:
        if self._small:
            self._frame(self._small, memoryview(bytes(self._content)), solid=True)
            self._small, self._content = [], bytearray()

    def _frame(self, members: list[tuple[int, bytes]], content: memoryview, *, solid: bool) -> None:
        if self._packer is None:
            self._packer = Packer(
                self._repository, self._run, self._key, self._index, self._announce
            )
        self._packer.frame(members, self._compressor.compress(content, solid=solid), len(content))

    def _announce(self) -> None:
        wraps = self._repository.keys.wrap_run_key(self._run, self._key)
        self._repository.log.append({**self._body, "wraps": wraps})

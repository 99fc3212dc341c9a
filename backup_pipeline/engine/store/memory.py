"""A store in this process's memory, for tests and trials."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime

from backup_pipeline.engine.errors import ObjectExists, ObjectMissing
from backup_pipeline.engine.store.base import (
    Content,
    Store,
    StoredObject,
    check_name,
    check_prefix,
    check_range,
    pieces,
    short_read,
)

__all__ = ["MemoryStore"]


class MemoryStore(Store):
    """Bytes in a dictionary; lasts as long as the process.

    Args:
        name: Shown in the URL only; ``open_store("memory://name")`` is what shares by name.
    """

    def __init__(self, name: str = "unnamed") -> None:
        self.url = f"memory://{name}"
        self._stored: dict[str, tuple[bytes, datetime]] = {}
        self._lock = threading.Lock()

    def put(self, name: str, content: Content) -> None:
        whole = b"".join(pieces(content))
        check_name(name)
        with self._lock:
            present = self._stored.get(name)
            if present is None:
                self._stored[name] = (whole, datetime.now(UTC))
            elif present[0] != whole:
                raise ObjectExists(f"{self.url}: {name} already holds other bytes")

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes | memoryview:
        check_range(offset, length)
        whole, _ = self._find(name)
        wanted = len(whole) - offset if length is None else length
        if wanted < 0 or offset + wanted > len(whole):
            raise short_read(self.url, name, offset, max(wanted, 0), len(whole))
        return memoryview(whole)[offset : offset + wanted]

    def stat(self, name: str) -> StoredObject:
        whole, modified_at = self._find(name)
        return StoredObject(name, len(whole), modified_at)

    def list(self, prefix: str = "", *, after: str | None = None) -> Iterator[StoredObject]:
        check_prefix(prefix)
        with self._lock:
            found = [
                StoredObject(name, len(whole), modified_at)
                for name, (whole, modified_at) in sorted(self._stored.items())
                if name.startswith(prefix) and (after is None or name > after)
            ]
        return iter(found)

    def list_names(self, prefix: str) -> list[str]:
        check_prefix(prefix, folder=True)
        with self._lock:
            rest = [name[len(prefix) :] for name in self._stored if name.startswith(prefix)]
        return sorted({name.partition("/")[0] for name in rest})

    def delete(self, name: str) -> None:
        check_name(name)
        with self._lock:
            self._stored.pop(name, None)

    def heal(self, name: str, content: Content) -> None:
        check_name(name)
        with self._lock:
            self._stored[name] = (b"".join(pieces(content)), datetime.now(UTC))

    def _find(self, name: str) -> tuple[bytes, datetime]:
        check_name(name)
        with self._lock:
            present = self._stored.get(name)
        if present is None:
            raise ObjectMissing(f"{self.url}: {name} is not there")
        return present

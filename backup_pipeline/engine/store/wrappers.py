"""Stores around a store: one that counts requests, and one that fails when it is told to."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal

from backup_pipeline.engine.errors import BackupError, StoreUnavailable
from backup_pipeline.engine.store.base import Content, Store, StoredObject, size_of

__all__ = ["CountingStore", "Fault", "FaultyStore", "WrappedStore"]

_WRITES: Final = ("put", "heal", "delete")


class WrappedStore(Store):
    """Passes everything on; wrappers override what they change.

    Args:
        inner: The store that does the work.
    """

    def __init__(self, inner: Store) -> None:
        self.inner = inner
        self.url = inner.url
        self.writers = inner.writers
        self.readers = inner.readers

    def put(self, name: str, content: Content) -> None:
        self._begin("put", name, size_of(content))
        self.inner.put(name, content)
        self._end("put", name)

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes | memoryview:
        self._begin("get", name)
        found = self.inner.get(name, offset, length)
        self._end("get", name, len(found))
        return found

    def get_into(self, name: str, offset: int, buffer: bytearray | memoryview) -> None:
        self._begin("get", name)
        self.inner.get_into(name, offset, buffer)
        self._end("get", name, memoryview(buffer).nbytes)

    def stat(self, name: str) -> StoredObject:
        self._begin("stat", name)
        found = self.inner.stat(name)
        self._end("stat", name)
        return found

    def list(self, prefix: str = "", *, after: str | None = None) -> Iterator[StoredObject]:
        self._begin("list", prefix)
        found = self.inner.list(prefix, after=after)
        self._end("list", prefix)
        return found

    def list_names(self, prefix: str) -> list[str]:
        self._begin("list", prefix)
        found = self.inner.list_names(prefix)
        self._end("list", prefix)
        return found

    def delete(self, name: str) -> None:
        self._begin("delete", name)
        self.inner.delete(name)
        self._end("delete", name)

    def heal(self, name: str, content: Content) -> None:
        self._begin("heal", name, size_of(content))
        self.inner.heal(name, content)
        self._end("heal", name)

    def sweep(self, prefix: str, *, older_than: timedelta) -> int:
        return self.inner.sweep(prefix, older_than=older_than)

    def now(self) -> datetime:
        return self.inner.now()

    def locks(self) -> bool | None:
        return self.inner.locks()

    def default_lock(self) -> tuple[str, int] | None:
        return self.inner.default_lock()

    def close(self) -> None:
        self.inner.close()

    def _begin(self, verb: str, name: str, written_bytes: int = 0) -> None:
        """Called before each request."""

    def _end(self, verb: str, name: str, read_bytes: int = 0) -> None:
        """Called after each request that was carried out."""


class CountingStore(WrappedStore):
    """Counts requests and bytes, to show what an operation costs.

    Attributes:
        calls: How often each of put, get, stat, list, delete and heal was asked for.
        written_bytes: Bytes handed to put and heal.
        read_bytes: Bytes returned by get.
    """

    def __init__(self, inner: Store) -> None:
        super().__init__(inner)
        self._lock = threading.Lock()
        self.reset()

    def reset(self) -> None:
        """Count from nought again."""
        self.calls: Counter[str] = Counter()
        self.written_bytes = 0
        self.read_bytes = 0

    def _begin(self, verb: str, name: str, written_bytes: int = 0) -> None:
        with self._lock:
            self.calls[verb] += 1
            self.written_bytes += written_bytes

    def _end(self, verb: str, name: str, read_bytes: int = 0) -> None:
        with self._lock:
            self.read_bytes += read_bytes


@dataclass(frozen=True, slots=True)
class Fault:
    """One failure to come.

    Attributes:
        verb: Which request fails; "write" stands for put, heal and delete.
        nth: Which of them, counted from 1.
        when: "before" it is carried out, or "after" (its answer is lost).
        prefix: Only requests for names that begin so are counted.
        stays: Every later request fails too, as after the death of a process or a server.
        error: What is raised; by default ``StoreUnavailable``.
    """

    verb: Literal["put", "get", "stat", "list", "delete", "heal", "write"]
    nth: int = 1
    when: Literal["before", "after"] = "before"
    prefix: str = ""
    stays: bool = False
    error: BackupError | None = None

    def counts(self, verb: str, name: str) -> bool:
        """Tell whether a request is one of those that are counted."""
        same = verb == self.verb or (self.verb == "write" and verb in _WRITES)
        return same and name.startswith(self.prefix)


class FaultyStore(WrappedStore):
    """Fails as told; for tests of what must survive it.

    Args:
        inner: The store that does the work.
        faults: What goes wrong and when; each happens once, or stays.
    """

    def __init__(self, inner: Store, faults: Sequence[Fault] = ()) -> None:
        super().__init__(inner)
        self._faults = tuple(faults)
        self._seen: Counter[tuple[int, str]] = Counter()
        self._dead: Fault | None = None
        self._lock = threading.Lock()

    def _begin(self, verb: str, name: str, written_bytes: int = 0) -> None:
        self._meet("before", verb, name)

    def _end(self, verb: str, name: str, read_bytes: int = 0) -> None:
        self._meet("after", verb, name)

    def _meet(self, when: str, verb: str, name: str) -> None:
        with self._lock:
            due = self._dead or self._due(when, verb, name)
            if due is not None and due.stays:
                self._dead = due
        if due is not None:
            raise due.error or StoreUnavailable(
                f"{self.url}: {verb} of {name} failed as it was told to", "this is a test"
            )

    def _due(self, when: str, verb: str, name: str) -> Fault | None:
        found: Fault | None = None
        for number, fault in enumerate(self._faults):
            if fault.when == when and fault.counts(verb, name):
                self._seen[number, when] += 1
                if self._seen[number, when] == fault.nth:
                    found = found or fault
        return found

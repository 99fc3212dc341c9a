"""A clock that tests set, and a store that keeps time by it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from backup_pipeline.engine.store import Store, StoredObject
from backup_pipeline.engine.store.base import Content
from backup_pipeline.engine.store.wrappers import WrappedStore


class Clock:
    """The time, until it is set on."""

    def __init__(self, now: datetime | None = None) -> None:
        self.now = now or datetime(2026, 11, 22, 3, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def on(self, **more: float) -> None:
        """Let time pass: ``days=1``, ``hours=2``."""
        self.now += timedelta(**more)


class ClockedStore(WrappedStore):
    """A store whose objects were written by a clock that the test sets."""

    def __init__(self, inner: Store, clock: Clock) -> None:
        super().__init__(inner)
        self.clock = clock
        self.written: dict[str, datetime] = {}

    def now(self) -> datetime:
        return self.clock.now

    def put(self, name: str, content: Content) -> None:
        super().put(name, content)
        self.written.setdefault(name, self.clock.now)

    def heal(self, name: str, content: Content) -> None:
        super().heal(name, content)
        self.written[name] = self.clock.now

    def stat(self, name: str) -> StoredObject:
        return self._timed(super().stat(name))

    def list(self, prefix: str = "", *, after: str | None = None) -> Iterator[StoredObject]:
        return map(self._timed, super().list(prefix, after=after))

    def _timed(self, found: StoredObject) -> StoredObject:
        return replace(found, modified_at=self.written.get(found.name, found.modified_at))

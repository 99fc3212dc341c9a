"""A topic of several partitions as one dataset: each partition is a stream of its own."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from datetime import date
from typing import BinaryIO

from backup_pipeline.engine.errors import DayUnavailable, SourceError
from backup_pipeline.sources.base import Details
from backup_pipeline.sources.listing import Item, ListedSource
from backup_pipeline.sources.stream import StreamSource

__all__ = ["TopicSource"]


class TopicSource(ListedSource):
    """A topic, partition by partition, each in a folder of its own.

    Consistency: of each partition, all messages from its first to its last at the moment when the
    scan comes to it. Between partitions there is no order, as there is none in the topic.

    Args:
        kind: The kind of source.
        place: Where the topic is, for messages; no secret.
        partitions: All of its partitions, each named ``topic/partition``.

    Raises:
        SourceError: There are none.
    """

    supports_as_of = True

    def __init__(self, kind: str, place: str, partitions: Iterable[StreamSource]) -> None:
        self.kind = kind
        self._place = place
        self._partitions = sorted(partitions, key=lambda one: one.folder)
        if not self._partitions:
            raise SourceError(f"{place} has no partitions", "is the topic there?")

    def describe(self) -> str:
        """Where the topic is."""
        return self._place

    def fingerprint(self) -> str:
        """Of what the partitions hold, by their own account; reads no message."""
        return self._digest(one.fingerprint() for one in self._partitions)

    def scanned(self) -> str | None:
        """The same, of the states that were listed."""
        said = [one.scanned() for one in self._partitions]
        return self._digest(one or "" for one in said) if all(said) else None

    def items(self) -> Iterator[Item]:
        """The files of each partition, one partition after the other."""
        for one in self._partitions:
            yield from one.items()

    def stream(self, path: str) -> BinaryIO:
        """The messages of one file, a line each."""
        return self._partition(path).stream(path)

    def details(self, path: str, size: int) -> Details:
        """What was read, as the partition says it."""
        return self._partition(path).details(path, size)

    def as_of(self, day: date) -> TopicSource:
        """The messages that the topic had taken by the end of a day.

        A partition that had none yet is left out: it may not have been there.

        Raises:
            DayUnavailable: No partition had any yet, or one has dropped some since.
        """
        for one in self._partitions:
            one.zone = self.zone
        past = [found for one in self._partitions if (found := one.past(day))]
        if not past:
            raise DayUnavailable(f"{self._place} had no message by the end of {day}")
        found = TopicSource(self.kind, self._place, past)
        found.zone = self.zone
        return found

    def close(self) -> None:
        """Let go of the partitions."""
        for one in self._partitions:
            one.close()

    def _partition(self, path: str) -> StreamSource:
        folder = path[: path.rindex("/") + 1]
        return next(one for one in self._partitions if one.folder == folder)

    def _digest(self, digests: Iterable[str]) -> str:
        pairs = zip(self._partitions, digests, strict=True)
        told = "\n".join(f"{one.folder} {digest}" for one, digest in pairs)
        return hashlib.sha256(told.encode()).hexdigest()

"""A stream of messages as a dataset: files of a fixed number of sequence numbers each.

What a kind of stream has to offer is a :class:`Feed`. A file that is full of messages never changes
and is never read again; only the last one grows. So a run reads what came since the last one, a
crash leaves no gap and no double, and dedup has nothing to find out.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from backup_pipeline.engine.errors import DayUnavailable, SourceError
from backup_pipeline.sources.base import VANISHED, Details, Unreadable
from backup_pipeline.sources.listing import Item, ListedSource

__all__ = [
    "SEGMENT_MESSAGES",
    "Feed",
    "Message",
    "State",
    "StreamSource",
    "parse_messages",
    "restored_streams",
]

SEGMENT_MESSAGES = 1000
"""How many sequence numbers a file covers: the most that a run reads again."""

DESCRIPTION = "stream.json"


@dataclass(frozen=True, slots=True)
class Message:
    """One message.

    Attributes:
        sequence: Its number in the stream; they ascend, and none is used twice.
        time: When the stream took it, in ISO 8601; it never goes back.
        subject: What it was published to: a subject, topic or key.
        payload: Its content.
        headers: Its headers.
    """

    sequence: int
    time: str
    subject: str
    payload: bytes
    headers: Mapping[str, Sequence[str]] | None = None

    def line(self) -> bytes:
        """The message as a line of JSON; content that is no UTF-8 text is in base64."""
        said: dict[str, Any] = {"seq": self.sequence, "time": self.time, "subject": self.subject}
        if self.headers:
            said["headers"] = {name: list(values) for name, values in self.headers.items()}
        try:
            said["data"] = self.payload.decode()
        except UnicodeDecodeError:
            said["data_base64"] = base64.b64encode(self.payload).decode()
        return json.dumps(said, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


@dataclass(frozen=True, slots=True)
class State:
    """What a stream holds at one moment.

    Attributes:
        identity: Differs when it was deleted and made anew.
        first: Sequence number of its first message.
        last: Of its last one; less than ``first`` where it is empty.
        gone: Numbers between them that are known to have no message any more.
        description: Its configuration, to be kept beside the messages.
        mean_bytes: How long a message is on average.
        begins: The number at which such streams begin: 1 in NATS, 0 in Kafka.
        sparse: Whether other numbers may have no message either, which only reading tells: those
            that compaction took, or that transactions use.
    """

    identity: str
    first: int
    last: int
    gone: frozenset[int] = frozenset()
    description: Mapping[str, Any] | None = None
    mean_bytes: int = 0
    begins: int = 1
    sparse: bool = False


class Feed(Protocol):
    """One stream, or one partition of a topic, as it can be read."""

    def describe(self) -> str:
        """Where it is, for messages; no secret."""
        ...

    def state(self) -> State:
        """What it holds now.

        Raises:
            SourceError: It is not there, or cannot be asked.
        """
        ...

    def messages(self, first: int, last: int) -> Iterator[Message]:
        """Messages from one sequence number to another, both included, ascending.

        Those that are gone are left out. Nothing of the stream changes by it.

        Raises:
            SourceError: The stream stopped answering before ``last``.
        """
        ...

    def close(self) -> None:
        """Let go of the connection."""
        ...


class StreamSource(ListedSource):
    """A stream, message by message.

    A topic of several partitions is a ``TopicSource`` of several of these.

    Consistency: a snapshot holds all messages from the stream's first to its last at the moment of
    the scan. What the stream's own limits dropped before a run is not there to be read: let it keep
    more than the time between two runs.

    A past day is had exactly as long as the stream still has every message that it ever took until
    then: what it dropped since, nobody can tell from what had been dropped before.

    Args:
        kind: The kind of source.
        name: What the folder of its messages is called; ``orders/0`` for a partition.
        feed: The stream.
        until: The last sequence number that counts, for a past state; None: all of them.
    """

    supports_as_of = True

    def __init__(self, kind: str, name: str, feed: Feed, *, until: int | None = None) -> None:
        self.kind = kind
        self._name = name
        self.folder = f"messages/{name}/"
        self._feed = feed
        self._until = until
        self._state: State | None = None
        self._read: dict[str, tuple[list[int], int]] = {}

    def describe(self) -> str:
        """Where the stream is."""
        return self._feed.describe()

    def fingerprint(self) -> str:
        """Of what the stream holds, by its own account; reads no message."""
        return _digest(self._now())

    def scanned(self) -> str | None:
        """The same, of the state that was listed."""
        return _digest(self._state) if self._state else None

    def items(self) -> Iterable[Item]:
        """One file for each so many sequence numbers, and the stream's configuration."""
        self._state = state = self._now()
        first = state.first - (state.first - state.begins) % SEGMENT_MESSAGES
        while first <= state.last:
            etag = _segment_etag(state, first)
            if etag is not None:
                low, high = _range(state, first)
                count = high - low + 1
                path = f"{self.folder}{first:020d}.jsonl"
                yield Item(path, max(1, count * (state.mean_bytes + 100)), etag=etag)
            first += SEGMENT_MESSAGES
        described = _description(state)
        etag = hashlib.sha256(described).hexdigest()
        yield Item(self.folder + DESCRIPTION, len(described), etag=etag)

    def stream(self, path: str) -> BinaryIO:
        """The messages of one file, a line each."""
        assert self._state is not None, "entries are opened after a scan"
        name = path.rpartition("/")[2]
        if name == DESCRIPTION:
            return io.BytesIO(_description(self._state))
        low, high = _range(self._state, int(name.removesuffix(".jsonl")))
        self._read[path] = ([], 0)
        return io.BufferedReader(_Lines(self._lines(path, low, high)))

    def _lines(self, path: str, low: int, high: int) -> Iterator[bytes]:
        state = self._state
        assert state is not None
        missing: list[int] = []
        last = low - 1
        for message in self._feed.messages(low, high):
            number = message.sequence
            if not last < number <= high:
                raise SourceError(
                    f"{self.describe()} gave message {number} after {last}, of {low} to {high}",
                    "report it as a fault of what reads the stream",
                )
            missing += range(last + 1, number)
            last = number
            yield message.line()
        missing += range(last + 1, high + 1)
        missing = [one for one in missing if one not in state.gone]
        self._read[path] = (self._dropped(missing) if missing else [], high - low + 1)

    def _dropped(self, missing: list[int]) -> list[int]:
        """Those of some numbers without a message that the stream, asked again, has dropped.

        Below the first that there is by now, nobody can tell what a sparse stream dropped before.

        Raises:
            SourceError: It should have one of the others, or is another stream by now.
        """
        assert self._state is not None
        now = self._feed.state()
        if now.identity != self._state.identity:
            raise SourceError(f"{self.describe()} was made anew meanwhile", "run it again")
        dropped = [one for one in missing if one < now.first or one in now.gone]
        if dropped != missing and not now.sparse:
            lost = min({*missing} - {*dropped})
            raise SourceError(
                f"{self.describe()} did not give message {lost}, and does not say that it is gone",
                "run it again; if it stays so, the stream is damaged: see its server's log",
            )
        return dropped

    def details(self, path: str, size: int) -> Details:
        """What was read; messages that the stream dropped meanwhile are not in it.

        Raises:
            Unreadable: All of them are gone, or any of a past state's.
        """
        missing, count = self._read.pop(path, ([], 0))
        if not missing:
            return Details(size=size)
        if len(missing) == count or self._until is not None:  # a past state is whole, or none
            raise Unreadable(VANISHED, "the stream dropped its messages before they were read")
        digest = hashlib.sha256(repr(missing).encode()).hexdigest()[:16]
        return Details(size=size, mark={"etag": f"without {digest}"})

    def as_of(self, day: date) -> StreamSource:
        """The messages that the stream had taken by the end of a day.

        Raises:
            DayUnavailable: It had none yet, or has dropped some since.
        """
        past = self.past(day)
        if past is None:
            raise DayUnavailable(f"{self.describe()} had no message by the end of {day}")
        return past

    def past(self, day: date) -> StreamSource | None:
        """The same; None where it had no message yet.

        Raises:
            DayUnavailable: It has dropped some since.
        """
        state = self._feed.state()
        last = state.last if state.sparse else self._last_before(self.end_of(day), state)
        if _has_dropped(state, last):
            raise DayUnavailable(
                f"{self.describe()} has dropped messages, and nobody can tell which it still had"
                f" on {day}",
                "its earlier snapshots have what they have; a new one holds all that is left",
            )
        if last < state.begins:
            return None
        found = StreamSource(self.kind, self._name, self._feed, until=last)
        found.zone = self.zone
        return found

    def close(self) -> None:
        """Let go of the connection; of a past state, nothing: the present has it."""
        if self._until is None:
            self._feed.close()

    def _now(self) -> State:
        """The stream's state, cut where a past one ended."""
        state = self._feed.state()
        if self._until is None:
            return state
        described = dict(state.description or {})
        if "last_seq" in described:
            described["last_seq"] = self._until
        if _has_dropped(state, self._until):
            raise SourceError(f"{self.describe()} drops messages meanwhile", "run it again")
        return replace(state, last=self._until, gone=frozenset(), description=described)

    def _last_before(self, end: datetime, state: State) -> int:
        """The last number that was taken before a moment; less than the first if none was."""

        def is_later(number: int) -> bool:
            while number in state.gone and number > state.first:
                number -= 1
            message = next(self._feed.messages(number, number), None)
            if message is None:
                raise SourceError(f"{self.describe()} drops messages meanwhile", "run it again")
            return _moment(message.time) >= end

        numbers = range(state.first, state.last + 1)
        before = bisect_left(numbers, True, key=is_later)
        return state.first + before - 1


def restored_streams(directory: str | Path) -> dict[str, Path]:
    """The streams of a restored directory.

    Returns:
        By name, which is ``orders/0`` for a partition of a topic, the folder of each. Its files,
        ``*.jsonl`` in the order of their names, are what :func:`parse_messages` reads.
    """
    top = Path(directory, "messages")
    folders = sorted(file.parent for file in top.rglob(DESCRIPTION))
    return {folder.relative_to(top).as_posix(): folder for folder in folders}


def parse_messages(lines: Iterable[bytes], place: str) -> Iterator[Message]:
    """Messages of a restored file.

    Raises:
        SourceError: It is no such file, or its numbers do not ascend.
    """
    last = -1
    for number, line in enumerate(lines, 1):
        try:
            said = json.loads(line)
            data = said["data"].encode() if "data" in said else None
            payload = base64.b64decode(said["data_base64"]) if data is None else data
            message = Message(
                int(said["seq"]), said["time"], said["subject"], payload, said.get("headers")
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise SourceError(f"{place}, line {number}, is no message: {error}") from error
        if message.sequence <= last:
            raise SourceError(f"{place}, line {number}: {message.sequence} comes after {last}")
        last = message.sequence
        yield message


class _Lines(io.RawIOBase):
    """Lines that come one by one, as a stream of bytes."""

    def __init__(self, lines: Iterator[bytes]) -> None:
        self._coming = lines
        self._rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._rest:
            self._rest = next(self._coming, b"")
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def _has_dropped(state: State, until: int) -> bool:
    """Whether the stream may have lost any message up to a number."""
    lost = any(number <= until for number in state.gone)
    return lost or state.sparse or state.first > state.begins


def _range(state: State, first: int) -> tuple[int, int]:
    return max(first, state.first), min(first + SEGMENT_MESSAGES - 1, state.last)


def _segment_etag(state: State, first: int) -> str | None:
    """Differs whenever other messages are in the file; None where none is."""
    low, high = _range(state, first)
    gone = sorted(number for number in state.gone if low <= number <= high)
    if len(gone) == high - low + 1:
        return None
    told = json.dumps([state.identity, low, high, gone])
    return hashlib.sha256(told.encode()).hexdigest()


def _digest(state: State) -> str:
    told = json.dumps([state.identity, state.first, state.last, sorted(state.gone)])
    config = json.dumps(state.description, sort_keys=True, default=str)
    return hashlib.sha256(f"{told}\n{config}".encode()).hexdigest()


def _description(state: State) -> bytes:
    return json.dumps(state.description or {}, indent=1, sort_keys=True, default=str).encode()

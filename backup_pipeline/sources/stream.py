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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, Protocol

from backup_pipeline.engine.errors import SourceError
from backup_pipeline.sources.base import VANISHED, Details, Unreadable
from backup_pipeline.sources.listing import Item, ListedSource

__all__ = ["SEGMENT_MESSAGES", "Feed", "Message", "State", "StreamSource", "parse_messages"]

SEGMENT_MESSAGES = 1000
"""How many sequence numbers a file covers: the most that a run reads again."""

DESCRIPTION = "stream.json"


@dataclass(frozen=True, slots=True)
class Message:
    """One message.

    Attributes:
        sequence: Its number in the stream; they ascend, and none is used twice.
        time: When the stream took it, as the system writes it.
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
        gone: Numbers between them whose messages were deleted.
        description: Its configuration, to be kept beside the messages.
        mean_bytes: How long a message is on average.
    """

    identity: str
    first: int
    last: int
    gone: frozenset[int] = frozenset()
    description: Mapping[str, Any] | None = None
    mean_bytes: int = 0


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
        """
        ...

    def close(self) -> None:
        """Let go of the connection."""
        ...


class StreamSource(ListedSource):
    """A stream, message by message.

    Consistency: a snapshot holds all messages from the stream's first to its last at the moment of
    the scan. What the stream's own limits dropped before a run is not there to be read: let it keep
    more than the time between two runs.

    Args:
        kind: The kind of source.
        name: What the folder of its messages is called.
        feed: The stream.
    """

    def __init__(self, kind: str, name: str, feed: Feed) -> None:
        self.kind = kind
        self._name = name
        self._feed = feed
        self._state: State | None = None
        self._read: dict[str, tuple[list[int], int]] = {}

    def describe(self) -> str:
        """Where the stream is."""
        return self._feed.describe()

    def fingerprint(self) -> str:
        """Of what the stream holds, by its own account; reads no message."""
        return _digest(self._feed.state())

    def scanned(self) -> str | None:
        """The same, of the state that was listed."""
        return _digest(self._state) if self._state else None

    def items(self) -> Iterable[Item]:
        """One file for each so many sequence numbers, and the stream's configuration."""
        self._state = state = self._feed.state()
        first = _segment(state.first)
        while first <= state.last:
            etag = _segment_etag(state, first)
            if etag is not None:
                low, high = _range(state, first)
                count = high - low + 1
                yield Item(self._path(first), max(1, count * (state.mean_bytes + 100)), etag=etag)
            first += SEGMENT_MESSAGES
        described = _description(state)
        etag = hashlib.sha256(described).hexdigest()
        yield Item(f"messages/{self._name}/{DESCRIPTION}", len(described), etag=etag)

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
        expected = (number for number in range(low, high + 1) if number not in state.gone)
        for message in self._feed.messages(low, high):
            for number in expected:
                if number == message.sequence:
                    break
                missing.append(number)
            yield message.line()
        missing += expected
        self._read[path] = (missing, high - low + 1)

    def details(self, path: str, size: int) -> Details:
        """What was read; messages that the stream dropped meanwhile are not in it.

        Raises:
            Unreadable: All of them are gone.
        """
        missing, count = self._read.pop(path, ([], 0))
        if not missing:
            return Details(size=size)
        if len(missing) == count:
            raise Unreadable(VANISHED, "the stream dropped its messages before they were read")
        digest = hashlib.sha256(repr(missing).encode()).hexdigest()[:16]
        return Details(size=size, mark={"etag": f"without {digest}"})

    def close(self) -> None:
        """Let go of the connection."""
        self._feed.close()

    def _path(self, first: int) -> str:
        return f"messages/{self._name}/{first:020d}.jsonl"


def parse_messages(lines: Iterable[bytes], place: str) -> Iterator[Message]:
    """Messages of a restored file.

    Raises:
        SourceError: It is no such file, or its numbers do not ascend.
    """
    last = 0
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


def _segment(sequence: int) -> int:
    """The first number of the file in which a message stands; numbers begin at 1."""
    return (max(sequence, 1) - 1) // SEGMENT_MESSAGES * SEGMENT_MESSAGES + 1


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

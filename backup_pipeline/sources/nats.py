"""Streams of NATS JetStream: read by sequence number, with no consumer."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

import nats
import nats.errors
import nats.js.errors

from backup_pipeline.engine.errors import SourceError, UsageError
from backup_pipeline.sources.stream import Message, State, StreamSource, parse_messages

__all__ = ["NatsFeed", "load_stream", "open_nats"]

CONNECT_S = 5
REQUEST_S = 30
IN_FLIGHT = 256
"""How many messages are asked for at once."""

ORIGIN = "Backup-Origin"
"""Header of a replayed message: the stream and number that it had."""

_OPTIONS = {"user": "user", "password": "password", "token": "token"}
_ERRORS = (nats.errors.Error, OSError, TimeoutError)


def open_nats(
    options: Mapping[str, Any], *, exclude: Sequence[str] = (), day: date | None = None
) -> StreamSource:
    """Open the stream that a plan names.

    Args:
        options: ``url``, ``stream``; ``credentials`` (a file), ``token``, or ``user`` and
            ``password``.
        exclude: Nothing can be excluded.
        day: A stream has no days.
    """
    return StreamSource("nats", options["stream"], NatsFeed(options))


class NatsFeed:
    """One stream.

    Messages are asked for one by one, by number: that needs no consumer, so it works on streams of
    every kind of retention and changes nothing in any.

    Raises:
        SourceError: The server cannot be reached.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._stream = str(options["stream"])
        self._link = _Link(str(options["url"]), options)

    def describe(self) -> str:
        """Server and stream."""
        return f"{self._link.shown}/{self._stream}"

    def state(self) -> State:
        """What the stream holds now, with the numbers of deleted messages."""
        said = self._ask(f"STREAM.INFO.{self._stream}", {"deleted_details": True})
        state = said["state"]
        count = max(1, state["messages"])
        description = {
            "config": said["config"],
            "created": said["created"],
            "first_seq": state["first_seq"],
            "last_seq": state["last_seq"],
        }
        first = state["first_seq"] if state["messages"] else state["last_seq"] + 1
        gone = frozenset(state.get("deleted") or ())
        mean = state["bytes"] // count
        return State(said["created"], first, state["last_seq"], gone, description, mean)

    def messages(self, first: int, last: int) -> Iterator[Message]:
        """Messages by number, some hundred at a time."""
        for start in range(first, last + 1, IN_FLIGHT):
            numbers = range(start, min(start + IN_FLIGHT, last + 1))
            subject = f"STREAM.MSG.GET.{self._stream}"
            answers = self._link.ask_many([(subject, {"seq": number}) for number in numbers])
            for said in answers:
                if (said.get("error") or {}).get("code") == 404:
                    continue  # the stream dropped it
                yield _message(self._checked(said)["message"])

    def close(self) -> None:
        """Close the connection."""
        self._link.close()

    def _ask(self, subject: str, question: Mapping[str, Any]) -> dict[str, Any]:
        return self._checked(self._link.ask_many([(subject, question)])[0])

    def _checked(self, said: dict[str, Any]) -> dict[str, Any]:
        error = said.get("error")
        if error:
            raise SourceError(
                f"{self.describe()}: {error.get('description', 'refused')}",
                "look at the stream's name, and at what these credentials may do",
            )
        return said


class _Link:
    """A connection, and the event loop that it needs in a thread of its own."""

    def __init__(self, url: str, options: Mapping[str, Any]) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("nats", "tls", "ws", "wss") or not parts.hostname:
            raise UsageError("no URL of a NATS server", "write nats://host:4222")
        self.shown = urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], "", "", ""))
        given = {name: str(options[key]) for key, name in _OPTIONS.items() if options.get(key)}
        if options.get("credentials"):
            given["user_credentials"] = str(options["credentials"])
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="nats", daemon=True)
        self._thread.start()
        try:
            self._client = self._wait(
                nats.connect(
                    url,
                    connect_timeout=CONNECT_S,
                    allow_reconnect=False,
                    max_reconnect_attempts=1,
                    reconnect_time_wait=0.1,
                    error_cb=_quiet,
                    **given,  # type: ignore[arg-type]
                )
            )
        except BaseException as error:
            self._end_loop()
            if isinstance(error, _ERRORS):
                raise SourceError(
                    f"{self.shown} cannot be reached: {error or type(error).__name__}",
                    "is the server up, and are the credentials right?",
                ) from error
            raise

    def ask_many(self, questions: Sequence[tuple[str, Mapping[str, Any]]]) -> list[dict[str, Any]]:
        """Ask JetStream's API, all at once; the answers in the questions' order."""

        async def ask() -> list[dict[str, Any]]:
            answers = await asyncio.gather(
                *(
                    self._client.request(
                        f"$JS.API.{subject}", json.dumps(question).encode(), timeout=REQUEST_S
                    )
                    for subject, question in questions
                )
            )
            return [json.loads(one.data) for one in answers]

        return self.run(ask)

    def run(self, work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        """Do something with the connection."""
        try:
            return self._wait(work())
        except _ERRORS as error:
            raise SourceError(
                f"{self.shown} stopped answering: {error or type(error).__name__}",
                "earlier snapshots are whole; run it again",
            ) from error

    def jetstream(self) -> Any:
        """The client's JetStream context."""
        return self._client.jetstream()

    def close(self) -> None:
        """Close; may be called twice."""
        if not self._loop.is_closed():
            try:
                self._wait(self._client.close())
            finally:
                self._end_loop()

    def _wait(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _end_loop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _quiet(error: Exception) -> None:
    """What goes wrong is raised where it is waited for."""


def _message(said: Mapping[str, Any]) -> Message:
    headers: dict[str, list[str]] = {}
    lines = base64.b64decode(said.get("hdrs") or "").decode("utf-8", "surrogateescape")
    for line in lines.split("\r\n")[1:]:
        name, colon, value = line.partition(":")
        if colon:
            headers.setdefault(name, []).append(value.removeprefix(" "))
    payload = base64.b64decode(said.get("data") or "")
    return Message(said["seq"], said["time"], said["subject"], payload, headers or None)


# -- replaying


def load_stream(directory: str, url: str, *, report: Callable[[str], None]) -> dict[str, Any]:
    """Publish a restored stream's messages again, in their order.

    Each carries the number that it had, in a header: a replay that was interrupted goes on after
    the last one that arrived, and none arrives twice. Sequence numbers and times are the target's
    own.

    Args:
        directory: A restored directory.
        url: ``nats://host:4222/STREAM``; a stream that is not there is made as the original was.
        report: Is told how far it is.

    Raises:
        UsageError: The directory holds no stream, or the URL names none.
        SourceError: The server refuses, or holds messages of another origin.
    """
    parts = urlsplit(url)
    target = unquote(parts.path.strip("/"))
    if not target or "/" in target:
        raise UsageError("the URL names no stream", "write nats://host:4222/STREAM")
    [folder] = [one for one in Path(directory, "messages").glob("*") if one.is_dir()] or [None]
    if folder is None:
        raise UsageError(f"{directory} holds no stream", "restore a backup of one there")
    server = urlunsplit((parts.scheme, parts.netloc, "", "", ""))
    link = _Link(server, {})
    try:
        return _Replay(link, folder, target, report).run()
    finally:
        link.close()


class _Replay:
    def __init__(
        self, link: _Link, folder: Path, target: str, report: Callable[[str], None]
    ) -> None:
        self.link = link
        self.folder = folder
        self.target = target
        self.report = report

    def run(self) -> dict[str, Any]:
        """Publish what the target has not yet."""
        after = self._prepare()
        published = 0
        for file in sorted(self.folder.glob("*.jsonl")):
            with file.open("rb") as lines:
                batch = [one for one in parse_messages(lines, str(file)) if one.sequence > after]
            for message in batch:
                self._publish(message)
            published += len(batch)
            if batch:
                self.report(f"replayed through {batch[-1].sequence}")
        return {
            "summary": f"{published} messages into {self.target}, in their order",
            "messages": published,
        }

    def _prepare(self) -> int:
        """Make the stream, or find where an interrupted replay ended.

        Returns:
            The number of the last message that is there already; 0 where none is.
        """
        [said] = self.link.ask_many([(f"STREAM.INFO.{self.target}", {})])
        if (said.get("error") or {}).get("code") == 404:
            described = json.loads((self.folder / "stream.json").read_text())
            config = {**described["config"], "name": self.target}
            for name in ("sources", "mirror", "sealed", "metadata", "deny_delete", "deny_purge"):
                config.pop(name, None)
            [made] = self.link.ask_many([(f"STREAM.CREATE.{self.target}", config)])
            self._require(made)
            return 0
        self._require(said)
        if not said["state"]["messages"]:
            return 0
        number = said["state"]["last_seq"]
        [last] = self.link.ask_many([(f"STREAM.MSG.GET.{self.target}", {"seq": number})])
        origin = (_message(self._require(last)["message"]).headers or {}).get(ORIGIN, [""])[0]
        name, _, sequence = origin.rpartition(":")
        if name != self.folder.name or not sequence.isdigit():
            raise SourceError(
                f"stream {self.target} holds messages that no replay of {self.folder.name} put"
                " there",
                "name a stream that is not there, or an empty one",
            )
        return int(sequence)

    def _publish(self, message: Message) -> None:
        headers = {name: values[-1] for name, values in (message.headers or {}).items()}
        # Of headers that JetStream acts on, those would refuse or drop what is replayed.
        headers = {name: one for name, one in headers.items() if not name.startswith("Nats-")}
        headers[ORIGIN] = f"{self.folder.name}:{message.sequence}"

        async def publish() -> None:
            await self.link.jetstream().publish(
                message.subject,
                message.payload,
                timeout=REQUEST_S,
                stream=self.target,
                headers=headers,
            )

        self.link.run(publish)

    def _require(self, said: dict[str, Any]) -> dict[str, Any]:
        error = said.get("error")
        if error:
            raise SourceError(f"stream {self.target}: {error.get('description', 'refused')}")
        return said

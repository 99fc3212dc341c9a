"""Streams of NATS JetStream: read by sequence number, with no consumer."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

import nats.errors
import nats.js.errors
from nats.aio.client import Client, RawCredentials

from backup_pipeline.engine.errors import SourceError, UsageError
from backup_pipeline.sources.stream import (
    Message,
    State,
    StreamSource,
    parse_messages,
    restored_streams,
)

__all__ = ["NatsFeed", "load_stream", "open_nats"]

CONNECT_S = 5
REQUEST_S = 30
IN_FLIGHT = 256
"""How many messages are asked for at once."""

ORIGIN = "Backup-Origin"
"""Header of a replayed message: the stream and number that it had."""

_NO_MESSAGE = 10037
"""What JetStream calls a number without a message; a stream that is gone is a 404 as well."""

_OPTIONS = ("user", "password", "token")
_VARIABLES = {
    "credentials": "NATS_CREDS",
    "token": "NATS_TOKEN",
    "user": "NATS_USER",
    "password": "NATS_PASSWORD",
}
"""What a replay signs in with: the variables of NATS's own command line."""
_ERRORS = (nats.errors.Error, OSError, TimeoutError)


def open_nats(
    options: Mapping[str, Any], *, exclude: Sequence[str] = (), day: date | None = None
) -> StreamSource:
    """Open the stream that a plan names.

    Args:
        options: ``url``, ``stream``; ``credentials`` (a file, or what stands in it), ``token``, or
            ``user`` and ``password``.
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
                if (said.get("error") or {}).get("err_code") == _NO_MESSAGE:
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
        given: dict[str, Any] = {key: str(options[key]) for key in _OPTIONS if options.get(key)}
        if options.get("credentials"):
            given["user_credentials"] = _credentials(str(options["credentials"]))
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="nats", daemon=True)
        self._thread.start()
        self._client = Client()
        try:
            self._wait(
                self._client.connect(
                    url,
                    connect_timeout=CONNECT_S,
                    allow_reconnect=False,
                    max_reconnect_attempts=1,
                    reconnect_time_wait=0.1,  # type: ignore[arg-type]
                    error_cb=_quiet,
                    **given,
                )
            )
        except BaseException as error:
            self.close()
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


def _credentials(given: str) -> RawCredentials:
    """The content of a credentials file, or of the one that is named; no message repeats it."""
    begin = "BEGIN NATS USER JWT"
    why = f"no line says {begin}"
    try:
        text = given if begin in given else Path(given).read_text()
    except (OSError, ValueError) as error:
        text, why = "", getattr(error, "strerror", None) or "it is no text"
    if begin not in text:
        raise UsageError(
            f"the credentials for NATS cannot be read: {why}",
            "write credentials: {file: /etc/nats/backup.creds}, a file as `nsc` makes it",
        )
    return RawCredentials(text)


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
    the last one that the target holds. A target that was emptied meanwhile gets all of them again.
    Sequence numbers and times are the target's own.

    It signs in with what stands in the URL, else in ``NATS_CREDS`` (a file), ``NATS_TOKEN``, or
    ``NATS_USER`` and ``NATS_PASSWORD``.

    Args:
        directory: A restored directory.
        url: ``nats://host:4222/STREAM``; a stream that is not there is made as the original was.
        report: Is told how far it is.

    Raises:
        UsageError: The directory holds no stream, or several, or the URL names none.
        SourceError: The server refuses, or holds messages of another origin.
    """
    parts = urlsplit(url)
    target = unquote(parts.path.strip("/"))
    if not target or "/" in target:
        raise UsageError("the URL names no stream", "write nats://host:4222/STREAM")
    found = restored_streams(directory)
    if len(found) != 1:
        raise UsageError(
            f"{directory} holds {len(found) or 'no'} streams, and one can be replayed",
            "restore a backup of one stream there",
        )
    [(name, folder)] = found.items()
    server = urlunsplit((parts.scheme, parts.netloc, "", "", ""))
    options = {} if parts.username else {key: os.environ.get(_VARIABLES[key]) for key in _VARIABLES}
    link = _Link(server, options)
    try:
        return _Replay(link, name, folder, target, report).run()
    finally:
        link.close()


class _Replay:
    def __init__(
        self, link: _Link, name: str, folder: Path, target: str, report: Callable[[str], None]
    ) -> None:
        self.link = link
        self.name = name
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
            The number of the last message that is there already; -1 where none is.
        """
        [said] = self.link.ask_many([(f"STREAM.INFO.{self.target}", {})])
        if (said.get("error") or {}).get("code") == 404:
            self._make()
            return -1
        state = self._require(said)["state"]
        if state["messages"]:
            return self._last_replayed(state["last_seq"])
        if state["last_seq"]:
            self.report(f"{self.target} had messages and is empty now: all are published")
        return -1

    def _make(self) -> None:
        config = json.loads((self.folder / "stream.json").read_text()).get("config")
        if config is None:
            raise SourceError(
                f"stream {self.target} is not there, and {self.name} was none of NATS",
                "make it first, with subjects that take its messages",
            )
        config = {**config, "name": self.target}
        for name in ("sources", "mirror", "sealed", "metadata", "deny_delete", "deny_purge"):
            config.pop(name, None)
        [made] = self.link.ask_many([(f"STREAM.CREATE.{self.target}", config)])
        self._require(made)

    def _last_replayed(self, number: int) -> int:
        """The number that a message of the target had in the stream that is replayed."""
        [last] = self.link.ask_many([(f"STREAM.MSG.GET.{self.target}", {"seq": number})])
        if (last.get("error") or {}).get("err_code") == _NO_MESSAGE:
            raise SourceError(
                f"the last message of stream {self.target} was taken out of it, and it alone tells"
                " where a replay has to go on",
                "name a stream that is not there, or purge this one to publish all again",
            )
        origin = (_message(self._require(last)["message"]).headers or {}).get(ORIGIN, [""])[0]
        name, _, sequence = origin.rpartition(":")
        if name != self.name or not sequence.isdigit():
            raise SourceError(
                f"stream {self.target} holds messages that no replay of {self.name} put there",
                "name a stream that is not there, or an empty one",
            )
        return int(sequence)

    def _publish(self, message: Message) -> None:
        # JetStream acts on the headers that are left out: it would refuse or drop what is replayed.
        # The client strips names, so that a blank more for each lets one have several values.
        headers = {
            name + " " * count: value
            for name, values in (message.headers or {}).items()
            if not name.startswith("Nats-") and name != ORIGIN
            for count, value in enumerate(values)
        }
        headers[ORIGIN] = f"{self.name}:{message.sequence}"

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

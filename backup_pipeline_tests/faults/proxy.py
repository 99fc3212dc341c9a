"""A network that fails between a client and an S3 server: an HTTP proxy on 127.0.0.1.

It knows just enough of HTTP to take requests and answers apart, so that a fault can happen to a
request before it is passed on, to its answer after that, or in the middle of either.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

__all__ = ["Network", "Request", "network"]

_SLOW_DOWN = (
    b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate</Message></Error>"
)
_PIECE_BYTES = 16 << 10


@dataclass(frozen=True, slots=True)
class Request:
    """A request as the proxy saw it.

    Attributes:
        number: Counted from 1.
        verb: GET, PUT, HEAD or DELETE.
        path: With the query.
        at_s: When it came, by the monotonic clock.
    """

    number: int
    verb: str
    path: str
    at_s: float


def _nothing(request: Request) -> str:
    return ""


@dataclass
class Network:
    """How the network behaves, which a test may change at any time.

    Attributes:
        upstream: Host and port of the server.
        decide: Asked for every request what happens to it: ``""`` nothing, ``"slow-down"`` status
            503 without passing it on, ``"cut"`` the connection ends before it is passed on,
            ``"lost"`` it is passed on and the connection ends before the answer, ``"broken"`` it
            ends between the head of the answer and its body, ``"torn"`` behind the first line.
        cut_after_bytes: The connection ends in the middle of a request or an answer, when so many
            more bytes in all have passed; None for never. Happens ``cuts`` times.
        cuts: How often.
        latency_s: Every request waits so long.
        requests: All that came.
    """

    upstream: tuple[str, int]
    decide: Callable[[Request], str] = _nothing
    cut_after_bytes: int | None = None
    cuts: int = 1
    latency_s: float = 0.0
    requests: list[Request] = field(default_factory=list[Request])
    passed_bytes: int = 0
    port: int = 0
    _open: set[asyncio.StreamWriter] = field(default_factory=set[asyncio.StreamWriter])

    @property
    def endpoint(self) -> str:
        """Where clients connect to."""
        return f"http://127.0.0.1:{self.port}"

    def lead_to(self, endpoint: str) -> None:
        """Pass requests on to another server from now on."""
        parts = urlsplit(endpoint)
        self.upstream = (parts.hostname or "", parts.port or 80)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection of a client."""
        there: asyncio.StreamWriter | None = None
        self._open.add(writer)
        try:
            back, there = await asyncio.open_connection(*self.upstream)
            self._open.add(there)
            while await self._exchange(reader, writer, back, there):
                pass
        except (OSError, EOFError, asyncio.IncompleteReadError):
            pass
        finally:
            for one in (writer, there):
                if one is not None:
                    self._open.discard(one)
                    one.transport.abort()

    async def end(self) -> None:
        """Cut all connections, and wait until nothing is under way."""
        while self._open:
            for one in list(self._open):
                one.transport.abort()
            await asyncio.sleep(0.01)

    async def _exchange(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        back: asyncio.StreamReader,
        there: asyncio.StreamWriter,
    ) -> bool:
        """One request and its answer; whether the connection goes on."""
        head = await reader.readuntil(b"\r\n\r\n")
        verb, path, _ = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ", 2)
        request = Request(len(self.requests) + 1, verb, path, time.monotonic())
        self.requests.append(request)
        if self.latency_s:
            await asyncio.sleep(self.latency_s)
        fate = self.decide(request)
        if fate == "cut":
            return False
        if fate == "slow-down":
            await self._pass(reader, None, _length(head))
            answer = b"HTTP/1.1 503 Slow Down\r\nContent-Length: %d\r\n\r\n" % len(_SLOW_DOWN)
            writer.write(answer + (b"" if verb == "HEAD" else _SLOW_DOWN))
            await writer.drain()
            return True
        there.write(head)
        if b"expect: 100-continue" in head.lower():
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        await self._pass(reader, there, _length(head))
        answer = await back.readuntil(b"\r\n\r\n")
        while answer.startswith(b"HTTP/1.1 100"):
            answer = await back.readuntil(b"\r\n\r\n")
        if fate == "lost":
            return False
        if fate == "torn":
            writer.write(answer[: answer.index(b"\r\n") + 2])
            await writer.drain()
            return False
        writer.write(answer)
        if fate == "broken":
            return False
        status = answer.split(b" ", 2)[1]
        if verb != "HEAD" and status not in (b"204", b"304"):
            if b"transfer-encoding: chunked" in answer.lower():
                await self._pass_chunks(back, writer)
            else:
                await self._pass(back, writer, _length(answer))
        await writer.drain()
        return b"connection: close" not in answer.lower()

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter | None, length: int
    ) -> None:
        while length:
            piece = await reader.read(min(length, _PIECE_BYTES))
            if not piece:
                raise EOFError
            length -= len(piece)
            self.passed_bytes += len(piece)
            if writer is not None:
                writer.write(piece)
                await writer.drain()
            limit = self.cut_after_bytes
            if limit is not None and self.cuts and self.passed_bytes >= limit:
                self.cuts -= 1
                raise EOFError

    async def _pass_chunks(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while True:
            line = await reader.readuntil(b"\r\n")
            writer.write(line)
            size = int(line.split(b";")[0], 16)
            await self._pass(reader, writer, size + 2)
            if not size:
                return


def _length(head: bytes) -> int:
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length":
            return int(value)
    return 0


@contextmanager
def network(endpoint: str) -> Iterator[Network]:
    """A network in front of a server; all connections end with it."""
    found = Network(("", 0))
    found.lead_to(endpoint)
    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(asyncio.start_server(found.serve, "127.0.0.1", 0))
    found.port = server.sockets[0].getsockname()[1]
    thread = threading.Thread(target=loop.run_forever, name="network")
    thread.start()
    try:
        yield found
    finally:
        loop.call_soon_threadsafe(server.close)
        asyncio.run_coroutine_threadsafe(found.end(), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()

"""A tiny S3 server that misbehaves as it is told to, for faults that real servers seldom show."""

from __future__ import annotations

import hashlib
import threading
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self


class LyingS3:
    """PUT, GET, HEAD and DELETE of keys in memory; signatures are not looked at.

    Attributes:
        ignores_conditions: ``If-None-Match`` is not obeyed.
        flips_bytes: What is read is not what was written.
        clock_offset: How far the ``Date`` header is from the true time.
        drops_answers: So many further writes are carried out, and the connection is then cut.
        holds_answers: So many further writes are carried out, and answered too late.
        fails: So many further requests are answered with status 503.
        stalls_s: Every request waits so long first.
        requests: How many requests came.
    """

    def __init__(self) -> None:
        self.ignores_conditions = False
        self.flips_bytes = False
        self.clock_offset = timedelta()
        self.drops_answers = 0
        self.holds_answers = 0
        self.fails = 0
        self.stalls_s = 0.0
        self.requests = 0
        self.stored: dict[str, bytes] = {}
        self.lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _bound_to(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    @property
    def endpoint(self) -> str:
        """Its URL."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def options(self) -> dict[str, str]:
        """What ``open_store`` needs."""
        return {
            "url": "s3://backups/here",
            "endpoint": self.endpoint,
            "access_key_id": "any",
            "secret_access_key": "thing",
        }

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _bound_to(liar: LyingS3) -> type[BaseHTTPRequestHandler]:
    return type("Bound", (_Answers,), {"liar": liar})


class _Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    liar: LyingS3

    def log_message(self, format: str, *args: Any) -> None:
        return

    def date_time_string(self, timestamp: float | None = None) -> str:
        return format_datetime(datetime.now(UTC) + self.liar.clock_offset, usegmt=True)

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self._refused():
            return
        with self.liar.lock:
            conditional = self.headers["If-None-Match"] == "*" and not self.liar.ignores_conditions
            taken = conditional and self.path in self.liar.stored
            if not taken:
                self.liar.stored[self.path] = body
            dropped = self.liar.drops_answers > 0
            self.liar.drops_answers -= dropped
            held = self.liar.holds_answers > 0
            self.liar.holds_answers -= held
        if held:
            time.sleep(1)
        if dropped:
            self.close_connection = True
        elif taken:
            self._answer(412, b"<Error><Code>PreconditionFailed</Code></Error>")
        else:
            self._answer(200, etag=hashlib.md5(body).hexdigest())

    def do_GET(self) -> None:
        if self._refused():
            return
        body = self.liar.stored.get(self.path.partition("?")[0])
        if body is None or "object-lock" in self.path:
            self._answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
            return
        if self.liar.flips_bytes:
            body = bytes(byte ^ 1 for byte in body)
        self._answer(200, body, etag=hashlib.md5(body).hexdigest())

    do_HEAD = do_GET

    def do_DELETE(self) -> None:
        if not self._refused():
            self.liar.stored.pop(self.path, None)
            self._answer(204)

    def _refused(self) -> bool:
        with self.liar.lock:
            self.liar.requests += 1
            failing = self.liar.fails > 0
            self.liar.fails -= failing
        time.sleep(self.liar.stalls_s)
        if failing:
            self._answer(503, b"<Error><Code>SlowDown</Code></Error>")
        return failing

    def _answer(self, status: int, body: bytes = b"", etag: str | None = None) -> None:
        self.send_response(status)
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
        if etag is not None:
            self.send_header("ETag", f'"{etag}"')
            self.send_header("Last-Modified", self.date_time_string())
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

"""Receivers of alerts on 127.0.0.1: an HTTP server, and a mail server."""

from __future__ import annotations

import email
import email.policy
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

__all__ = ["Hook", "hook", "mailbox"]


class Hook:
    """An HTTP receiver.

    Attributes:
        url: Where apprise reaches it.
        taken: What was posted, and taken.
        refuses: Whether it answers that it is broken.
    """

    def __init__(self, port: int) -> None:
        self.url = f"json://127.0.0.1:{port}/hooks/a-long-secret"
        self.taken: list[dict[str, Any]] = []
        self.refuses = False

    @property
    def titles(self) -> list[str]:
        """The titles of what was taken."""
        return [one["title"] for one in self.taken]


@contextmanager
def hook() -> Iterator[Hook]:
    """A receiver that takes JSON over HTTP."""

    class Answer(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers["Content-Length"]))
            if not found.refuses:
                found.taken.append(json.loads(content))
            self.send_response(503 if found.refuses else 200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            del format, args

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    found = Hook(server.server_port)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def mailbox() -> Iterator[tuple[str, list[Any]]]:
    """A mail server: its URL for apprise, and the messages that it took."""
    from aiosmtpd.controller import Controller

    messages: list[Any] = []

    class Take:
        async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
            del server, session
            messages.append(email.message_from_bytes(envelope.content, policy=email.policy.default))
            return "250 taken"

    # The port is chosen by the system: the controller itself wants to know it beforehand.
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    controller = Controller(Take(), hostname="127.0.0.1", port=port)
    controller.start()
    url = f"mailto://127.0.0.1:{port}/?from=backups@example.org&to=ops@example.org&mode=insecure"
    try:
        yield url, messages
    finally:
        controller.stop()

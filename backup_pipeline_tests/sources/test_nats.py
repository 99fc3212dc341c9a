"""Streams: no gap and no double, whatever happens between two runs; and a replay in order."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from backup_pipeline.cli import main
from backup_pipeline.engine.errors import DayUnavailable, SourceError
from backup_pipeline.plan import load_plan
from backup_pipeline.runner import Runner
from backup_pipeline.sources import stream
from backup_pipeline.sources.base import Unreadable
from backup_pipeline.sources.listing import Item, ListedSource
from backup_pipeline.sources.nats import NatsFeed, load_stream
from backup_pipeline.sources.stream import Message, State, StreamSource, parse_messages
from backup_pipeline_tests.sources.nats_server import Nats

pytestmark = pytest.mark.services


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


class MockFeed:
    """A mock: no server lets messages be of days past. One message each six hours from the 20th."""

    def __init__(self, first: int = 1, last: int = 12, gone: frozenset[int] = frozenset()) -> None:
        self.held = State("one", first, last, gone, {"last_seq": last})

    def describe(self) -> str:
        return "mock://EVENTS"

    def state(self) -> State:
        return self.held

    def messages(self, first: int, last: int) -> Iterator[Message]:
        for number in range(max(first, self.held.first), min(last, self.held.last) + 1):
            if number not in self.held.gone:
                moment = datetime(2026, 11, 20, tzinfo=UTC) + (number - 1) * timedelta(hours=6)
                yield Message(number, moment.isoformat(), "events", b"%d" % number)

    def close(self) -> None:
        raise AssertionError("a past state leaves the connection to the present one")


def test_what_was_stored_before_is_known_again() -> None:
    """Paths, etags and fingerprints of NATS are those of the first version: nothing is reread."""
    feed = MockFeed(first=42, last=242, gone=frozenset({150}))
    source = StreamSource("nats", "EVENTS", feed)
    told = [f"{item.path.rpartition('/')[2]} {item.etag}" for item in source.items()]
    assert [one[:34] for one in told] == [
        "00000000000000000001.jsonl 3930e9e",
        "00000000000000000101.jsonl 6f2c748",
        "00000000000000000201.jsonl 6c2cd10",
        "stream.json db6b94ba24f5eb4dc2d158",
    ]
    assert source.fingerprint()[:12] == "253e432754fc"


@pytest.mark.parametrize(
    ("zone", "day", "last"),
    [("UTC", 20, 4), ("UTC", 22, 12), ("UTC", 29, 12), ("America/New_York", 20, 5)],
)
def test_a_past_day_ends_with_its_last_message(zone: str, day: int, last: int) -> None:
    source = StreamSource("nats", "EVENTS", MockFeed())
    source.zone = ZoneInfo(zone)
    past = source.as_of(date(2026, 11, day))
    paths = [path for batch in past.scan() for path in batch.column("path").to_pylist()]
    assert paths[0] == b"messages/EVENTS/00000000000000000001.jsonl"
    with past.stream(paths[0].decode()) as lines:
        assert [one.sequence for one in parse_messages(lines, "")] == [*range(1, last + 1)]
    assert json.loads(past.stream("messages/EVENTS/stream.json").read()) == {"last_seq": last}
    assert past.scanned() == past.fingerprint()
    past.close()


@pytest.mark.parametrize(
    ("feed", "why"),
    [
        (MockFeed(first=2), "has dropped messages"),
        (MockFeed(gone=frozenset({2})), "has dropped messages"),
        (MockFeed(gone=frozenset({4})), "has dropped messages"),
        (MockFeed(gone=frozenset({5})), "has dropped messages"),  # perhaps of the 20th
        (MockFeed(last=0), "had no message"),
    ],
)
def test_a_stream_that_dropped_messages_knows_no_past_days(feed: MockFeed, why: str) -> None:
    with pytest.raises(DayUnavailable, match=why):
        StreamSource("nats", "EVENTS", feed).as_of(date(2026, 11, 20))


def test_what_was_dropped_later_does_not_matter() -> None:
    source = StreamSource("nats", "EVENTS", MockFeed(gone=frozenset({6, 9})))
    source.as_of(date(2026, 11, 20))
    with pytest.raises(DayUnavailable):
        source.as_of(date(2026, 11, 21))


def test_a_past_state_that_loses_messages_meanwhile_is_none() -> None:
    feed = MockFeed()
    past = StreamSource("nats", "EVENTS", feed).as_of(date(2026, 11, 20))
    [first, _] = list(past.items())
    feed.held = State("one", 1, 12, frozenset({2}))
    with past.stream(first.path) as lines:
        size = len(lines.read())
    with pytest.raises(Unreadable):
        past.details(first.path, size)
    with pytest.raises(SourceError, match="drops messages meanwhile"):
        past.fingerprint()


class Changing(MockFeed):
    """A mock that is another one once some of it was read, as a server may be at any moment."""

    def __init__(self, then: State) -> None:
        super().__init__()
        self.then = then

    def messages(self, first: int, last: int) -> Iterator[Message]:
        yield from super().messages(first, 5)
        self.held = self.then


@pytest.mark.parametrize(
    ("then", "why"),
    [
        (State("one", 1, 12), "did not give message 6,"),
        (State("one", 8, 12, frozenset({9, 10})), "did not give message 8,"),
        (State("another", 13, 12), "was made anew"),
        (State("one", 13, 12), None),
        (State("one", 1, 12, frozenset(range(6, 13))), None),
    ],
)
def test_a_message_is_missing_only_where_the_stream_says_so(then: State, why: str | None) -> None:
    source = StreamSource("nats", "EVENTS", Changing(then))
    [file, _] = list(source.items())
    with source.stream(file.path) as lines:
        if why is None:
            size = len(lines.read())
            mark = source.details(file.path, size).mark or {}
            assert mark["etag"].startswith("without ")
        else:
            with pytest.raises(SourceError, match=why):
                lines.read()


def test_a_stream_that_is_deleted_while_it_is_read_makes_no_snapshot(
    nats: Nats, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nats.make()
    nats.publish(1, 350)
    read = NatsFeed.messages

    def lose(feed: NatsFeed, first: int, last: int) -> Iterator[Message]:
        yield from read(feed, first, last)
        nats.api("STREAM.DELETE.EVENTS")

    monkeypatch.setattr(NatsFeed, "messages", lose)
    with Runner(load_plan(plan(tmp_path, nats))) as runner:
        with pytest.raises(SourceError, match="stream not found"):
            runner.backup("events")
        assert not runner.snapshots("events")


def test_a_missed_day_of_a_real_stream_is_had_exactly_or_refused(
    nats: Nats, tmp_path: Path
) -> None:
    nats.make()
    nats.publish(1, 30)
    tomorrow = datetime.now(UTC) + timedelta(days=1, hours=1)  # today is over, grace and all
    with Runner(load_plan(plan(tmp_path, nats)), clock=lambda: tomorrow) as runner:
        made = runner.backup("events", day=datetime.now(UTC).date()).snapshot
        assert made.timing == "exact"
        assert restored(tmp_path, runner, "a") == expected(*range(1, 31))
        with pytest.raises(DayUnavailable, match="had no message"):
            runner.backup("events", day=datetime.now(UTC).date() - timedelta(days=1))

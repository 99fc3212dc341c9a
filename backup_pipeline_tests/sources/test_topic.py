"""Topics of several partitions: offset 0, gaps, crashes, past days; and a replay per partition."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from backup_pipeline.engine.errors import DayUnavailable, SourceError, UsageError
from backup_pipeline.sources import stream
from backup_pipeline.sources.base import Unreadable
from backup_pipeline.sources.nats import load_stream
from backup_pipeline.sources.stream import (
    Message,
    State,
    StreamSource,
    parse_messages,
    restored_streams,
)
from backup_pipeline.sources.topic import TopicSource
from backup_pipeline_tests.sources.lake import Keeper

START = datetime(2026, 11, 20, tzinfo=UTC)


class Crash(Exception):
    """Whatever ends a run."""


class MockKafka:
    """A mock of one partition of Kafka, in memory: a ``Feed``.

    Offsets begin at 0. Like Kafka, it tells its first offset and its next one, and not which of
    those between were compacted away. One message each six hours.
    """

    def __init__(self, count: int = 0, *, compacted: bool = False) -> None:
        self.taken: dict[int, bytes] = {}  # all that it ever took
        self.held: dict[int, bytes] = {}
        self.first = 0
        self.compacted = compacted
        self.read: list[int] = []
        self.left: int | None = None  # how many messages it still gives before it breaks
        self.closed = 0
        self.take(count)

    def take(self, count: int) -> None:
        for offset in range(len(self.taken), len(self.taken) + count):
            self.taken[offset] = self.held[offset] = b"message %d" % offset

    def retain_from(self, first: int) -> None:
        self.first = max(self.first, first)
        self.held = {offset: one for offset, one in self.held.items() if offset >= first}

    def describe(self) -> str:
        return "mock://orders"

    def state(self) -> State:
        last = len(self.taken) - 1
        return State("one", self.first, last, begins=0, sparse=self.compacted)

    def messages(self, first: int, last: int) -> Iterator[Message]:
        for offset in range(first, last + 1):
            if offset not in self.held:
                continue
            if self.left is not None:
                if not self.left:
                    raise Crash
                self.left -= 1
            self.read.append(offset)
            moment = START + offset * timedelta(hours=6)
            yield Message(offset, moment.isoformat(), "key", self.held[offset])

    def close(self) -> None:
        self.closed += 1


def topic(*feeds: MockKafka) -> TopicSource:
    partitions = [StreamSource("kafka", f"orders/{n}", feed) for n, feed in enumerate(feeds)]
    return TopicSource("kafka", "mock://orders", reversed(partitions))


def content(directory: Path) -> dict[str, list[Message]]:
    found: dict[str, list[Message]] = {}
    for name, folder in restored_streams(directory).items():
        lines = b"".join(file.read_bytes() for file in sorted(folder.glob("*.jsonl")))
        found[name] = list(parse_messages(lines.splitlines(), name))  # refuses what goes back
    return found


def offsets(directory: Path) -> dict[str, list[int]]:
    return {name: [one.sequence for one in found] for name, found in content(directory).items()}


@pytest.fixture(autouse=True)
def short_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "SEGMENT_MESSAGES", 10)


@pytest.mark.parametrize("count", [1, 6, 10, 11, 25])
def test_a_stream_that_begins_at_0_is_kept_from_0_on(count: int, tmp_path: Path) -> None:
    keeper = Keeper()
    made = keeper.back_up(StreamSource("kafka", "orders", MockKafka(count)))
    assert keeper.paths(made)[0] == "messages/orders/00000000000000000000.jsonl"
    assert offsets(keeper.restore(made, tmp_path)) == {"orders": [*range(count)]}


def test_each_partition_is_read_on_from_its_own_offset(tmp_path: Path) -> None:
    feeds = [MockKafka(count) for count in (25, 0, 7, *[3] * 8)]  # 10 comes before 2
    keeper = Keeper()
    first = keeper.back_up(topic(*feeds))
    assert topic(*feeds).fingerprint() == first.fingerprint
    feeds[1].take(12)
    feeds[2].take(1)
    assert topic(*feeds).fingerprint() != first.fingerprint
    for feed in feeds:
        feed.read.clear()
    made = keeper.back_up(topic(*feeds))
    assert [feed.read for feed in feeds[:4]] == [[], [*range(12)], [*range(8)], []]
    assert offsets(keeper.restore(made, tmp_path)) == {
        f"orders/{n}": [*feed.taken] for n, feed in enumerate(feeds)
    }
    assert all(feed.closed == 2 for feed in feeds)


def compact(feed: MockKafka, chance: random.Random) -> None:
    """Compaction takes any messages but the last."""
    for offset in list(feed.held)[:-1]:
        if chance.random() < 0.4:
            del feed.held[offset]


@pytest.mark.parametrize("seed", range(6))
def test_hour_after_hour_no_gap_and_no_double_whatever_compaction_retention_and_crashes_take(
    seed: int, tmp_path: Path
) -> None:
    chance = random.Random(seed)
    feeds = [MockKafka(compacted=bool(n % 2)) for n in range(3)]
    keeper = Keeper()
    for hour in range(16):
        for feed in feeds:
            feed.take(chance.choice((0, 1, 9, 30)))
            if feed.compacted and hour % 3 == 0:
                compact(feed, chance)
            if hour % 5 == 4:
                feed.retain_from(chance.randrange(len(feed.taken) + 1))
        if hour % 2:
            feeds[hour % 3].left = chance.randrange(12)
            with suppress(Crash):
                keeper.back_up(topic(*feeds))
            feeds[hour % 3].left = None
        made = keeper.back_up(topic(*feeds))
        assert made.status == "complete"
        restored = content(keeper.restore(made, tmp_path / str(hour)))
        for n, feed in enumerate(feeds):
            found = {one.sequence: one.payload for one in restored[f"orders/{n}"]}
            assert len(found) == len(restored[f"orders/{n}"]), "a double"
            assert feed.held.items() <= found.items(), "a gap"
            assert found.items() <= feed.taken.items()
            assert min(found, default=feed.first) >= feed.first
            if not feed.compacted:  # else a full file keeps what was there when it was read
                assert found == feed.held


def test_a_file_that_compaction_emptied_is_empty_and_one_that_retention_took_is_missed() -> None:
    feed = MockKafka(30, compacted=True)
    for offset in range(10):
        del feed.held[offset]
    source = StreamSource("kafka", "orders", feed)
    first, second, *_ = list(source.items())
    with source.stream(first.path) as lines:
        assert lines.read() == b""
    assert source.details(first.path, 0).mark == {}

    feed.retain_from(15)  # between the scan and the reading
    with source.stream(second.path) as lines:
        size = len(lines.read())
    assert "without" in str(source.details(second.path, size).mark)
    feed.retain_from(20)
    with source.stream(second.path) as lines:
        assert lines.read() == b""
    with pytest.raises(Unreadable):
        source.details(second.path, 0)


@pytest.mark.parametrize("given", [(0, 1, 1, 2), (0, 2, 1), (0, 1, 2, 3, 4, 5)])
def test_a_feed_that_repeats_goes_back_or_goes_too_far_is_refused(given: Sequence[int]) -> None:
    class Wrong(MockKafka):
        def messages(self, first: int, last: int) -> Iterator[Message]:
            return (Message(offset, START.isoformat(), "key", b"") for offset in given)

    source = StreamSource("kafka", "orders", Wrong(5))
    first, _ = source.items()
    with pytest.raises(SourceError, match="gave message"), source.stream(first.path) as lines:
        lines.read()


@pytest.mark.parametrize(
    ("zone", "day", "held"),
    [("UTC", 20, (4, 4, 2)), ("UTC", 21, (6, 8, 2)), ("America/New_York", 20, (5, 5, 2))],
)
def test_a_past_day_ends_in_each_partition_with_its_last_message(
    zone: str, day: int, held: tuple[int, ...], tmp_path: Path
) -> None:
    feeds = [MockKafka(6), MockKafka(9), MockKafka(2)]
    source = topic(*feeds)
    source.zone = ZoneInfo(zone)
    keeper = Keeper()
    past = source.as_of(date(2026, 11, day))
    made = keeper.back_up(past)
    assert past.scanned() == past.fingerprint()
    assert offsets(keeper.restore(made, tmp_path)) == {
        f"orders/{n}": [*range(count)] for n, count in enumerate(held)
    }
    assert not any(feed.closed for feed in feeds), "the present has the connection"


def test_a_partition_with_no_message_yet_is_left_out_of_a_past_day() -> None:
    with closing(topic(MockKafka(1), MockKafka()).as_of(date(2026, 11, 20))) as past:
        assert {item.path.split("/")[2] for item in past.items()} == {"0"}
    with pytest.raises(DayUnavailable, match="had no message"):
        topic(MockKafka(), MockKafka()).as_of(date(2026, 11, 20))


def test_a_topic_that_may_have_dropped_messages_knows_no_past_days() -> None:
    retained = MockKafka(9)
    retained.retain_from(1)
    for dropped in (retained, MockKafka(9, compacted=True)):
        with pytest.raises(DayUnavailable, match="has dropped messages"):
            topic(MockKafka(9), dropped).as_of(date(2026, 11, 20))


def test_a_topic_with_no_partition_is_not_there() -> None:
    with pytest.raises(SourceError, match="mock://orders has no partitions"):
        topic()


def test_each_partition_is_replayed_in_order_and_a_stream_takes_no_topic(tmp_path: Path) -> None:
    keeper = Keeper()
    to = keeper.restore(keeper.back_up(topic(MockKafka(25), MockKafka(12))), tmp_path)
    again = {"orders/0": MockKafka(), "orders/1": MockKafka()}
    for name, found in content(to).items():
        for one in found:
            again[name].take(1)
            assert again[name].taken[one.sequence] == one.payload
    assert [len(feed.taken) for feed in again.values()] == [25, 12]
    with pytest.raises(UsageError, match="holds 2 streams"):
        load_stream(str(to), "nats://127.0.0.1:9/ORDERS", report=print)

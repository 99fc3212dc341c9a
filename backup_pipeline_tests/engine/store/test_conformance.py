"""The store contract, guarantee by guarantee, on every kind of store and wrapper."""

from __future__ import annotations

import random
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from threading import Barrier
from typing import Any

import pytest

from backup_pipeline.engine.errors import (
    DamageError,
    ObjectExists,
    ObjectMissing,
    UsageError,
)
from backup_pipeline.engine.store import Store
from backup_pipeline.engine.store.base import NAME_LIMIT, SEGMENT_LIMIT
from backup_pipeline_tests.engine.store.places import Place

# "-" and "." sort ahead of "/": a listing that goes folder by folder has these in another order.
AWKWARD = ["a/x/y", "a-b/c", "a-b/c-d", "a-b.c", "a.b/z", "b/1", "b.c", "b0", "c/d/e/f", "c/d-e"]
RACERS = 8


def turns(place: Place) -> range:
    # SeaweedFS lets those who lose a race wait for a second or two.
    return range(2 if place.kind.startswith("s3") else 30)


def names_of(store: Store, *args: Any, **kwargs: Any) -> list[str]:
    return [stored.name for stored in store.list(*args, **kwargs)]


def race(place: Place, act: Callable[[Store, int], None]) -> list[BaseException | None]:
    """Let eight stores of their own act at the same moment; their errors, in order."""
    barrier = Barrier(RACERS)

    def run(number: int) -> BaseException | None:
        with place.open() as store:
            barrier.wait()
            try:
                act(store, number)
            except Exception as error:
                return error
        return None

    with ThreadPoolExecutor(RACERS) as pool:
        return list(pool.map(run, range(RACERS)))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"x",
        bytearray(b"some bytes"),
        memoryview(b"a view")[1:4],
        [b"several", bytearray(b""), memoryview(b" pieces")],
        [],
        [bytes([number % 256]) * (number % 7) for number in range(3000)],
    ],
    ids=["empty", "one byte", "bytearray", "view", "pieces", "no pieces", "3000 pieces"],
)
def test_what_is_put_is_got(store: Store, content: Any) -> None:
    whole = b"".join(content) if isinstance(content, list) else bytes(content)
    before = datetime.now(UTC) - timedelta(seconds=2)
    store.put("packs/one", content)
    assert bytes(store.get("packs/one")) == whole
    stored = store.stat("packs/one")
    assert (stored.name, stored.size_bytes) == ("packs/one", len(whole))
    assert before <= stored.modified_at <= datetime.now(UTC) + timedelta(seconds=2)
    assert list(store.list()) == [stored]


def test_a_large_object_comes_back_whole_and_in_ranges(store: Store) -> None:
    pieces = [random.Random(number).randbytes(4 << 20) for number in range(10)]
    store.put("packs/large", pieces)
    whole = b"".join(pieces)
    assert store.stat("packs/large").size_bytes == 40 << 20
    assert memoryview(store.get("packs/large")) == whole
    middle = (17 << 20) + 3
    assert memoryview(store.get("packs/large", middle, 5 << 20)) == whole[middle:][: 5 << 20]
    buffer = bytearray(1 << 20)
    store.get_into("packs/large", middle, buffer)
    assert buffer == whole[middle:][: 1 << 20]
    store.put("packs/large", whole)


def test_ranges_are_exact_and_never_short(store: Store) -> None:
    store.put("a", b"0123456789")
    assert bytes(store.get("a", 3)) == b"3456789"
    assert bytes(store.get("a", 3, 4)) == b"3456"
    assert bytes(store.get("a", 9, 1)) == b"9"
    assert bytes(store.get("a", 10)) == b""
    assert bytes(store.get("a", 10, 0)) == b""
    assert bytes(store.get("a", 0, 0)) == b""
    for offset, length in [(0, 11), (9, 2), (10, 1), (11, None), (11, 0), (50, 5)]:
        with pytest.raises(DamageError, match="ends at byte 10"):
            store.get("a", offset, length)
    with pytest.raises(DamageError, match="ends at byte 10"):
        store.get_into("a", 8, bytearray(3))
    for offset, length in [(-1, None), (0, -1)]:
        with pytest.raises(ValueError, match="impossible range"):
            store.get("a", offset, length)


def test_get_into_fills_views_of_any_item_type(store: Store) -> None:
    store.put("a", bytes(range(16)))
    buffer = bytearray(20)
    store.get_into("a", 4, memoryview(buffer)[2:10])
    assert buffer == bytes(2) + bytes(range(4, 12)) + bytes(10)
    store.get_into("a", 16, bytearray())
    wide = memoryview(bytearray(8)).cast("I")
    store.get_into("a", 0, wide)
    assert wide.tobytes() == bytes(range(8))


def test_what_is_not_there_is_missing_in_every_verb(store: Store) -> None:
    store.put("folder/name", b"1")
    for name in ["no", "folder/no", "no/no/no", "folder"]:
        for ask in (
            lambda name=name: store.get(name),
            lambda name=name: store.get(name, 0, 0),
            lambda name=name: store.get(name, 2, 3),
            lambda name=name: store.get_into(name, 0, bytearray(1)),
            lambda name=name: store.stat(name),
        ):
            with pytest.raises(ObjectMissing, match=rf"(?s){store.url}: {name} is not there"):
                ask()
        assert not store.exists(name)
    assert store.exists("folder/name")


def test_a_name_is_written_once(store: Store) -> None:
    store.put("log/000000", [b"first", b" bytes"])
    store.put("log/000000", b"first bytes")
    store.put("log/000000", [b"first bytes", b""])
    for other in (b"", b"first byte", b"first bytes!", b"First bytes", [b"first", b"_bytes"]):
        with pytest.raises(ObjectExists, match="log/000000 already holds other bytes"):
            store.put("log/000000", other)
    assert bytes(store.get("log/000000")) == b"first bytes"
    store.put("log/000001", b"")
    with pytest.raises(ObjectExists):
        store.put("log/000001", b"x")


@pytest.mark.parametrize("size", [20, 300_000])
def test_of_eight_racing_writers_with_other_bytes_exactly_one_wins(place: Place, size: int) -> None:
    contents = [secrets.token_bytes(size) for _ in range(RACERS)]
    for turn in turns(place):
        name = f"log/{turn:06d}"
        errors = race(place, lambda store, number, name=name: store.put(name, contents[number]))
        winners = [number for number, error in enumerate(errors) if error is None]
        assert len(winners) == 1, errors
        assert all(isinstance(error, ObjectExists) for error in errors if error is not None)
        assert bytes(place.open().get(name)) == contents[winners[0]]


def test_of_eight_racing_writers_with_the_same_bytes_all_win(place: Place) -> None:
    content = secrets.token_bytes(100_000)
    for turn in turns(place):
        errors = race(place, lambda store, _, turn=turn: store.put(f"new/{turn}/pack", content))
        assert errors == [None] * RACERS
    assert len(names_of(place.open(), "new/")) == len(turns(place))


def test_writes_and_deletes_are_seen_at_once_by_others(place: Place) -> None:
    with place.open() as ours, place.open() as theirs:
        assert list(theirs.list()) == []
        ours.put("a/b", b"1")
        assert bytes(theirs.get("a/b")) == b"1"
        assert names_of(theirs) == ["a/b"]
        ours.heal("a/b", b"2")
        assert bytes(theirs.get("a/b")) == b"2"
        ours.delete("a/b")
        assert not theirs.exists("a/b")
        assert list(theirs.list()) == []
        theirs.put("a/b", b"3")
        assert bytes(ours.get("a/b")) == b"3"


def test_lists_ascend_by_bytes_whatever_the_folders(store: Store) -> None:
    for name in random.Random(1).sample(AWKWARD, len(AWKWARD)):
        store.put(name, name.encode())
    assert names_of(store) == sorted(AWKWARD)
    assert [stored.size_bytes for stored in store.list()] == [len(name) for name in sorted(AWKWARD)]
    for prefix in ["", "a", "a-", "a-b", "a-b/", "a-b/c", "a.b/z", "b", "b.", "c/d", "c/d/", "zz"]:
        expected = [name for name in sorted(AWKWARD) if name.startswith(prefix)]
        assert names_of(store, prefix) == expected, prefix
        for after in [*AWKWARD, "", "a", "a-", "a-b/", "a/", "b/0", "b/2", "c/d/e", "zz"]:
            later = [name for name in expected if name > after]
            assert names_of(store, prefix, after=after) == later, (prefix, after)


def test_one_level_of_a_folder_is_listed(store: Store) -> None:
    assert store.list_names("") == []
    for name in AWKWARD:
        store.put(name, b"")
    assert store.list_names("") == ["a", "a-b", "a-b.c", "a.b", "b", "b.c", "b0", "c"]
    assert store.list_names("c/d/") == ["e"]
    assert store.list_names("a-b/") == ["c", "c-d"]
    assert store.list_names("nothing/") == []


def test_more_names_than_a_page_are_listed(store: Store, place: Place) -> None:
    names = [f"packs/{number // 100:02x}/{number:05x}" for number in range(2300)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: store.put(name, b""), names))
    assert names_of(store) == names
    assert names_of(store, after=names[1234]) == names[1235:]
    assert names_of(store, "packs/0a/") == names[1000:1100]
    assert names_of(store, "packs/0a/003") == [name for name in names if "/0a/003" in name]
    assert len(store.list_names("packs/")) == 23


def test_deleting_is_idempotent(store: Store) -> None:
    store.put("a/b", b"1")
    store.put("a/c", b"2")
    for _ in range(2):
        store.delete("a/b")
        store.delete("never/was")
        assert names_of(store) == ["a/c"]
    store.put("a/b", b"other bytes")
    assert bytes(store.get("a/b")) == b"other bytes"


def test_healing_replaces_bytes_and_makes_missing_ones(store: Store) -> None:
    store.put("packs/a", b"damaged bytes")
    store.heal("packs/a", [b"good ", b"bytes"])
    assert bytes(store.get("packs/a")) == b"good bytes"
    store.heal("packs/b", b"")
    assert names_of(store) == ["packs/a", "packs/b"]
    store.put("packs/a", b"good bytes")
    with pytest.raises(ObjectExists):
        store.put("packs/a", b"damaged bytes")


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/a",
        "a/",
        "a//b",
        ".",
        "..",
        "a/../b",
        "../a",
        "a/.hidden",
        ".tmp-0",
        "-a",
        "A",
        "a b",
        "a\n",
        "a\0",
        "ä",
        "a\\b",
        "a%2fb",
        "x" * (SEGMENT_LIMIT + 1),
        "x/" * (NAME_LIMIT // 2) + "x",
    ],
)
def test_names_that_are_none_are_refused_in_every_verb(store: Store, name: str) -> None:
    for ask in (
        lambda: store.put(name, b""),
        lambda: store.heal(name, b""),
        lambda: store.get(name),
        lambda: store.get_into(name, 0, bytearray(1)),
        lambda: store.stat(name),
        lambda: store.exists(name),
        lambda: store.delete(name),
    ):
        with pytest.raises(UsageError, match="is no name for a store"):
            ask()
    assert list(store.list()) == []


def test_the_longest_names_can_be_stored(store: Store) -> None:
    segment = "x" * SEGMENT_LIMIT
    name = f"{segment}/{segment}/{'y' * (NAME_LIMIT - 2 * SEGMENT_LIMIT - 2)}"
    store.put(name, b"1")
    assert names_of(store) == [name]
    assert store.list_names(f"{segment}/") == [segment]


@pytest.mark.parametrize("prefix", ["/", "a//", "../", "A", "a/.x", "a b"])
def test_prefixes_that_are_none_are_refused(store: Store, prefix: str) -> None:
    with pytest.raises(UsageError, match="is no prefix"):
        store.list(prefix)
    with pytest.raises(UsageError, match="is no folder"):
        store.list_names(prefix)
    with pytest.raises(UsageError, match="is no folder"):
        store.list_names("log")


def test_a_probe_finds_a_good_store_good_and_leaves_nothing(store: Store) -> None:
    probe = store.probe()
    assert probe.require() is probe
    assert probe.ok
    assert probe.writable
    assert probe.creates_once
    assert abs(probe.clock_skew_s) < 5
    assert store.locks() is False
    assert list(store.list()) == []


def test_the_store_has_a_clock(store: Store) -> None:
    assert abs((store.now() - datetime.now(UTC)).total_seconds()) < 5
    assert store.now().tzinfo is not None


def test_threads_share_a_store(store: Store) -> None:
    def work(number: int) -> None:
        content = secrets.token_bytes(1000 + number)
        name = f"w/{number % 4}/{number:04d}"
        store.put(name, content)
        assert bytes(store.get(name)) == content
        assert store.stat(name).size_bytes == len(content)
        if number % 2:
            store.delete(name)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(200)))
    assert len(names_of(store)) == 100

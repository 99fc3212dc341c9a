"""Wrappers: what they count, and how they fail."""

from __future__ import annotations

import pytest

from backup_pipeline.engine.errors import ObjectMissing, StoreError, StoreUnavailable
from backup_pipeline.engine.store.memory import MemoryStore
from backup_pipeline.engine.store.wrappers import CountingStore, Fault, FaultyStore


def test_requests_and_bytes_are_counted() -> None:
    store = CountingStore(MemoryStore())
    store.put("a", [b"12", b"345"])
    store.heal("b", b"1")
    store.get("a")
    store.get_into("a", 1, bytearray(2))
    store.exists("c")
    list(store.list())
    store.list_names("")
    store.delete("b")
    expected = {"put": 1, "heal": 1, "get": 2, "stat": 1, "list": 2, "delete": 1}
    assert store.calls == expected
    assert (store.written_bytes, store.read_bytes) == (6, 7)
    store.reset()
    assert (store.calls, store.written_bytes, store.read_bytes) == ({}, 0, 0)


def test_the_nth_request_fails_once() -> None:
    memory = MemoryStore()
    store = FaultyStore(memory, [Fault("put", nth=2, prefix="log/")])
    store.put("log/0", b"")
    store.put("packs/0", b"")
    with pytest.raises(StoreUnavailable):
        store.put("log/1", b"")
    assert not memory.exists("log/1")
    store.put("log/1", b"")


def test_an_answer_can_be_lost() -> None:
    memory = MemoryStore()
    store = FaultyStore(memory, [Fault("put", when="after", error=StoreError("gone"))])
    with pytest.raises(StoreError, match="gone"):
        store.put("log/0", b"1")
    assert memory.exists("log/0")
    store.put("log/0", b"1")


def test_everything_fails_after_a_death() -> None:
    memory = MemoryStore()
    store = FaultyStore(memory, [Fault("write", nth=3, stays=True)])
    store.put("a", b"")
    store.delete("a")
    with pytest.raises(StoreUnavailable):
        store.heal("a", b"")
    for ask in (lambda: store.get("a"), lambda: store.list(), lambda: store.put("b", b"")):
        with pytest.raises(StoreUnavailable):
            ask()
    with pytest.raises(ObjectMissing):
        memory.get("a")

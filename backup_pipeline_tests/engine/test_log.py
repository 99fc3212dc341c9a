"""The log: contiguous under racing writers, cheap to open at any length, mended after crashes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from backup_pipeline.engine.errors import Conflict, StoreUnavailable
from backup_pipeline.engine.format.record import Record, to_iso
from backup_pipeline.engine.log import EPOCH_RECORDS
from backup_pipeline.engine.operations.verify import verify
from backup_pipeline.engine.repository import Repository
from backup_pipeline.engine.state import RepositoryState
from backup_pipeline.engine.store import Store
from backup_pipeline.engine.store.local import LocalStore
from backup_pipeline.engine.store.memory import MemoryStore
from backup_pipeline.engine.store.wrappers import CountingStore, Fault, FaultyStore
from backup_pipeline_tests.engine.repositories import back_up, make_repository, open_repository


def pin(number: int, *, pinned: bool = True) -> dict[str, Any]:
    return {"type": "pin", "snapshot": f"{number:032x}", "pinned": pinned, "reason": f"{number}"}


RUN: dict[str, Any] = {
    "type": "run",
    "operation": "backup",
    "kind": "full",
    "chain": "c" * 32,
    "parent": None,
    "base": None,
    "day": "2026-11-22",
    "wraps": [],
}


def moment(number: int) -> str:
    return to_iso(datetime(2026, 11, 22, tzinfo=UTC) + timedelta(minutes=number))


def records(repository: Repository) -> list[Record]:
    return [repository.log.read(number) for number in range(repository.log.next_sequence)]


def expect_sound(store: Store) -> Repository:
    """Every record and twin is there and follows the one before it."""
    repository = open_repository(store)
    problems: list[tuple[str, str]] = []
    repository.log.verify(lambda name, what: problems.append((name, what)))
    assert problems == []
    return repository


def facts(state: RepositoryState) -> dict[str, Any]:
    return {one.name: getattr(state, one.name) for one in fields(state) if one.name != "parsed"}


@pytest.mark.parametrize(
    "count", [EPOCH_RECORDS - 2, EPOCH_RECORDS - 1, EPOCH_RECORDS, 2 * EPOCH_RECORDS + 7]
)
def test_the_state_of_a_long_log_is_that_of_all_its_records_and_opens_in_one_epoch(
    tmp_path: Path, count: int
) -> None:
    store = CountingStore(MemoryStore())
    repository = make_repository(store)
    (tmp_path / "file").write_bytes(b"few bytes")
    snapshot = back_up(repository, tmp_path)
    for number in range(count):
        repository.log.append(pin(number // 2, pinned=number % 2 == 0))
        if number % 20 == 0:
            repository.log.append(
                {**RUN, "run": f"{-number % 997:032x}", "started_at": moment(number)}
            )
    store.reset()
    again = open_repository(store)
    assert store.calls["get"] <= EPOCH_RECORDS + 8
    replayed = RepositoryState()
    for record in records(again):
        if record.type != "checkpoint":
            replayed.apply(record)
    assert facts(again.state) == facts(repository.state) == facts(replayed)
    work = {name: RUN[name] for name in ("operation", "kind", "chain", "parent", "base")}
    newest = again.state.unfinished_run(**work)  # the one that is taken up
    assert newest is not None and newest["started_at"] == moment((count - 1) // 20 * 20)
    assert again.snapshots() == [snapshot] == repository.snapshots()
    expect_sound(store)


@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_racing_appenders_lose_nothing_and_leave_no_gap(tmp_path: Path, kind: str) -> None:
    store: Store = MemoryStore() if kind == "memory" else LocalStore(tmp_path / "store")
    make_repository(store)
    writers, each = 8, 25
    begin, failures = threading.Barrier(writers), list[BaseException]()

    def write(writer: int) -> None:
        try:
            repository = open_repository(store)
            begin.wait()
            for number in range(each):
                repository.log.append(pin(writer * 1000 + number))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(writers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    repository = expect_sound(store)
    pins = [one for one in records(repository) if one.type == "pin"]
    assert len(pins) == writers * each == len(repository.state.pinned)
    assert repository.log.next_sequence == writers * each + 1 + writers * each // EPOCH_RECORDS
    for writer in range(writers):  # each one's own records keep their order
        mine = [int(one.body["reason"]) for one in pins]
        mine = [number for number in mine if number // 1000 == writer]
        assert mine == sorted(mine)


@pytest.mark.parametrize("behind", [1, EPOCH_RECORDS - 1, EPOCH_RECORDS])
def test_a_twin_that_a_crash_left_out_is_written_by_the_next_writer(behind: int) -> None:
    store = MemoryStore()
    repository = make_repository(store)
    while repository.log.next_sequence < behind:
        repository.log.append(pin(1))
    dying = open_repository(
        FaultyStore(store, [Fault("put", prefix=f"{repository.prefix}twin/", stays=True)])
    )
    with pytest.raises(StoreUnavailable):
        dying.log.append(pin(2))
    last = open_repository(store).log.next_sequence - 1
    assert last >= behind
    assert not store.exists(repository.log.name(last, twin=True))
    open_repository(store).log.append(pin(3))
    assert "3" in expect_sound(store).state.pinned.values()


def test_an_append_whose_answer_was_lost_is_there_once_and_the_log_goes_on() -> None:
    store = MemoryStore()
    prefix = make_repository(store).prefix
    lossy = FaultyStore(store, [Fault("put", when="after", prefix=f"{prefix}log/")])
    repository = open_repository(lossy)
    with pytest.raises(StoreUnavailable):
        repository.log.append(pin(1))
    repository.log.append(pin(2))
    assert [one.body["reason"] for one in records(expect_sound(store))[1:]] == ["1", "2"]


def test_whoever_loses_a_number_looks_again_before_the_next_try() -> None:
    store = MemoryStore()
    make_repository(store)
    slow, quick = open_repository(store), open_repository(store)
    quick.log.append(pin(1))
    seen: list[int] = []

    def refuse() -> None:
        seen.append(slow.log.next_sequence)
        raise Conflict("not any more")

    with pytest.raises(Conflict, match="not any more"):
        slow.log.append(pin(2), refuse)
    assert seen == [2] and list(slow.state.pinned.values()) == ["1"]
    expect_sound(store)


def test_a_snapshot_is_not_committed_on_packs_that_were_condemned_meanwhile(
    tmp_path: Path,
) -> None:
    store = MemoryStore()
    repository = make_repository(store)
    (tmp_path / "file").write_bytes(b"x" * 5000)
    first = back_up(repository, tmp_path)

    def condemn() -> None:
        other = open_repository(store)
        names = [one.name.removeprefix(other.prefix) for one in store.list(f"{other.prefix}packs")]
        other.log.append({"type": "condemn", "names": names})

    run_after(repository, condemn)
    with pytest.raises(Conflict, match="condemned"):
        back_up(repository, tmp_path)
    assert [one.id for one in open_repository(store).snapshots()] == [first.id]
    full = back_up(open_repository(store), tmp_path, "full")  # stored anew, under a new name
    assert verify(open_repository(store), snapshots=[full]).ok


def run_after(repository: Repository, happens: Callable[[], None]) -> None:
    """Let something happen right before the repository looks at the log again."""
    refresh, calls = repository.refresh, list[int]()

    def then() -> bool:
        calls.append(1)
        if len(calls) == 2:  # the first look is the run's beginning
            happens()
        return refresh()

    repository.refresh = then  # type: ignore[method-assign]

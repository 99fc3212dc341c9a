"""What a store lacks, or a stranger put there, is told; one object each is damaged by the rig in
``faults/test_damage.py``."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from backup_pipeline.engine.documents import STORE_NAME, put_twice
from backup_pipeline.engine.errors import BackupError, DamageError, UsageError, WrongKey
from backup_pipeline.engine.format.document import (
    Descriptor,
    decode_descriptor,
    decode_key_set,
    encode_descriptor,
    encode_key_set,
)
from backup_pipeline.engine.format.header import KEY_SET, RECORD, header
from backup_pipeline.engine.format.record import encode_record
from backup_pipeline.engine.keys import PLAINTEXT, KeyEncryptionKey, KeyFile, Passphrase
from backup_pipeline.engine.operations.verify import verify
from backup_pipeline.engine.repository import unlock_store
from backup_pipeline.engine.store import Store
from backup_pipeline.engine.store.local import LocalStore
from backup_pipeline.engine.store.memory import MemoryStore
from backup_pipeline.engine.store.wrappers import Fault, FaultyStore
from backup_pipeline.runner.bare import StoreReader
from backup_pipeline_tests.format.stores import DATASET, KEY, Whole, make_store


@pytest.fixture(scope="module", params=[True, False], ids=["encrypted", "plaintext"])
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    return make_store(tmp_path_factory.mktemp("tree"), encrypted=request.param)


def _flip(content: bytes, bit: int) -> bytes:
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def _damaged(whole: Whole, store: Store) -> set[str]:
    return {one["name"] for one in verify(whole.open(store)).damage}


def test_a_record_lost_with_its_twin_hides_what_it_said_and_no_more(
    whole: Whole, tmp_path: Path
) -> None:
    last = whole.open(whole.store()).log.next_sequence - 1
    for number in range(last + 1):
        store = whole.store()
        names = {whole.open(store).log.name(number, twin=twin) for twin in (False, True)}
        for name in names:
            store.heal(name, _flip(whole.names[name], 999))
        repository = whole.open(store)
        assert list(repository.log.lost) == [number]
        assert repository.dataset == DATASET
        gone = {s.id for s in whole.open(whole.store()).snapshots() if s.sequence == number}
        assert {s.id for s in repository.snapshots()} == set(whole.trees) - gone
        # The content key of a run stands in its record, so a lost one costs the run's packs.
        packs = {name for name in whole.needs if whole.kind(name) == "packs"}
        assert names <= _damaged(whole, store) <= names | packs
        before = {one.name for one in store.list()}
        with pytest.raises(DamageError, match=f"record {number}"):
            repository.log.append({"type": "pin", "snapshot": "", "pinned": True, "reason": ""})
        assert {one.name for one in store.list()} == before


def test_of_two_records_that_both_open_the_one_that_is_followed_counts(whole: Whole) -> None:
    repository = whole.open(whole.store())
    keys, log = repository.keys, repository.log
    for number in range(log.next_sequence - 1):
        store = whole.store()
        record = log.read(number)
        other = encode_record(keys, number, record.previous, {**record.body, "note": "forged"})
        store.heal(log.name(number), other)
        assert whole.open(store).state == repository.state
        assert log.name(number) in _damaged(whole, store)


def test_two_repositories_that_changed_places_are_refused(tmp_path: Path) -> None:
    store = MemoryStore()
    unlocked = unlock_store(store, [KEY], create=True)
    first, second = (unlocked.create(name, tier="local").prefix for name in ("a", "b"))
    kept = {one.name: bytes(store.get(one.name)) for one in store.list("repositories/")}
    for name in kept:
        store.delete(name)
    for name, content in kept.items():
        store.put(_other(name, first, second), content)
    unlocked = unlock_store(store, [KEY])
    for name in ("a", "b"):
        with pytest.raises(DamageError, match="in the place of another"):
            unlocked.repository(name)
    # Whoever moved them can change what is not authenticated, too.
    for name, content in kept.items():
        if "/keys/" in name:
            key_set = decode_key_set(content, name)
            moved = replace(key_set, name=_other(key_set.name, first, second))
            store.heal(_other(name, first, second), encode_key_set(moved))
    unlocked = unlock_store(store, [KEY])
    for name in ("a", "b"):
        with pytest.raises(DamageError, match="belongs elsewhere"):
            unlocked.repository(name)
    told: list[tuple[str, BackupError]] = []
    assert unlocked.repositories(lambda prefix, error: told.append((prefix, error))) == []
    assert {prefix for prefix, _ in told} == {first, second}
    with pytest.raises(DamageError):
        unlocked.repositories()


def _other(name: str, first: str, second: str) -> str:
    """The same name in the other of two folders."""
    place = second if name.startswith(first) else first
    return place + name[len(first) :]


def test_names_of_other_shapes_are_left_alone(whole: Whole) -> None:
    store = whole.store()
    prefix = whole.open(store).prefix
    strange = [f"{prefix}{name}" for name in ("log/x", "log/000000/1", "keys/old/a", "twin/9")]
    strange += [f"{prefix}log/000000/00009999", f"{prefix}packs/{'0' * 32}/{'g' * 64}", "keys/a"]
    for name in strange:
        store.put(name, b"not ours")
    assert _damaged(whole, store) == set()
    assert whole.open(store).log.lost == {}


def test_an_epoch_made_up_by_a_stranger_hides_nothing(whole: Whole) -> None:
    store = whole.store()
    state = whole.open(store).state
    store.put(f"{whole.open(store).prefix}log/000900/00115200", b"BKPL")
    repository = whole.open(store)
    assert repository.state == state
    assert repository.log.lost


def test_a_store_whose_descriptor_is_lost_still_opens(whole: Whole) -> None:
    store = whole.store()
    for name in ("store", "store.twin"):
        store.delete(name)
    assert {s.id for s in whole.open(store).snapshots()} == set(whole.trees)
    assert _damaged(whole, store) == {"store", "store.twin"}
    for name in whole.names:
        if whole.kind(name) == "keys":
            store.delete(name)
    for create in (False, True):
        with pytest.raises(DamageError, match="lost its descriptor"):
            unlock_store(store, [whole.secret], create=create)


def test_a_repository_without_its_key_sets_is_damaged_and_not_begun_anew(whole: Whole) -> None:
    store = whole.store()
    prefix = whole.open(store).prefix
    for name in whole.names:
        if name.startswith(f"{prefix}keys/"):
            store.delete(name)
    if whole.secret is KEY:
        with pytest.raises(DamageError, match="key sets"):
            unlock_store(store, [KEY], create=True).create(DATASET, tier="local")
    else:
        assert len(whole.open(store).snapshots()) == 3


def test_what_a_later_version_wrote_is_not_called_damage(whole: Whole) -> None:
    repository = whole.open(whole.store())
    log = repository.log
    number = log.next_sequence - 1
    stored = whole.names[log.name(number)]
    store = whole.store()
    for twin in (False, True):
        store.heal(log.name(number, twin=twin), header(RECORD, read=1) + stored[16:])
    with pytest.raises(UsageError, match="upgrade"):
        whole.open(store)
    store = whole.store()
    store.heal(log.name(number), header(RECORD, read=1) + stored[16:])
    assert whole.open(store).state == repository.state  # its twin is of this version


def test_a_feature_that_writers_must_know_leaves_reading_alone(whole: Whole) -> None:
    store = whole.store()
    repository = whole.open(store)
    for end in ("", ".twin"):
        name = f"{repository.prefix}keys/00000000{end}"
        start, text = header(KEY_SET, write=4), whole.names[name][48:]
        store.heal(name, start + hashlib.sha256(start + text).digest() + text)
    repository = whole.open(store)
    assert len(repository.snapshots()) == 3
    with pytest.raises(UsageError, match="only a later version may write"):
        repository.log.append({"type": "pin", "snapshot": "", "pinned": True, "reason": ""})


def test_a_store_prepared_with_a_weak_derivation_gets_no_key() -> None:
    store = MemoryStore()
    kdf = {**KeyEncryptionKey.new_parameters(), "memory_kib": 8192, "iterations": 1}
    content = encode_descriptor(Descriptor(bytes(16), "aes-256-gcm", kdf))
    put_twice(store, STORE_NAME, content, decode_descriptor)
    with pytest.raises(UsageError, match="weak"):
        unlock_store(store, [Passphrase(b"a passphrase")], create=True)
    assert {one.name for one in store.list()} == {"store", "store.twin"}


def test_a_store_made_without_encryption_by_a_stranger_is_refused() -> None:
    store = MemoryStore()
    unlock_store(store, [PLAINTEXT], create=True)
    with pytest.raises(UsageError, match="encryption: none"):
        unlock_store(store, [KEY], create=True)


def test_a_wrong_key_is_told_from_damage(whole: Whole) -> None:
    if whole.secret is KEY:
        with pytest.raises(WrongKey):
            unlock_store(whole.store(), [KeyFile(bytes(32))])


def test_a_beginning_that_is_cut_off_anywhere_is_taken_up() -> None:
    for nth in range(1, 20):
        store = MemoryStore()
        faulty = FaultyStore(store, [Fault("put", nth=nth, stays=True)])
        try:
            unlock_store(faulty, [KEY], create=True).create(DATASET, tier="local")
            break
        except BackupError:
            repository = unlock_store(store, [KEY], create=True).create(DATASET, tier="local")
        repository.log.append({"type": "pin", "snapshot": "", "pinned": False, "reason": ""})
        names = {one.name for one in store.list() if not one.name.startswith("probe/")}
        report = verify(repository)
        assert report.damage == [], nth
        assert len(names) == 10
    assert nth > 6


def test_the_verbs_say_what_is_lost_and_go_on(whole: Whole, tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    for name, content in whole.names.items():
        store.put(name, content)
    repository = whole.open(store)
    last = repository.log.next_sequence - 1
    for twin in (False, True):
        store.delete(repository.log.name(0, twin=twin))
        store.heal(repository.log.name(last, twin=twin), b"")
    with StoreReader(str(tmp_path / "store"), DATASET, [whole.secret]) as reader:
        assert len(reader.snapshots()) == len(whole.trees) - 1
        assert [notice.partition(", with")[0].split()[-1] for notice in reader.notices] == [
            "0",
            str(last),
        ]
    with StoreReader(str(tmp_path / "store"), None, [whole.secret]) as reader:
        assert reader.datasets() == []
        assert "names its dataset" in reader.notices[0]

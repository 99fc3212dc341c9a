"""Every operation, at every call of its store, with everything that can go wrong there.

It ends with success or one clear error, and with the fault gone all is well: what was committed
before restores, what was said to be committed restores, the operation succeeds when it is run
again, and ``verify`` finds nothing. Where the store stored other bytes than it was given, that is
damage, which ``verify`` names and ``restore`` refuses.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from backup_pipeline.engine.errors import BackupError, DamageError
from backup_pipeline.engine.format.record import Snapshot
from backup_pipeline.engine.operations.restore import restore
from backup_pipeline.engine.operations.verify import verify
from backup_pipeline.engine.repository import Repository
from backup_pipeline.engine.store import Store
from backup_pipeline.engine.store.memory import MemoryStore
from backup_pipeline_tests.engine.repositories import (
    back_up,
    copy_over,
    make_repository,
    open_repository,
)
from backup_pipeline_tests.engine.trees import State, state_of
from backup_pipeline_tests.faults.faulty import FAULTS, Fault, Script, SpoiltStore
from backup_pipeline_tests.faults.operations import OPERATIONS, Operation, Tiers
from backup_pipeline_tests.faults.scene import (
    Scene,
    clone,
    fast_folder,
    same_state,
    small_pieces,
)
from backup_pipeline_tests.faults.watchdog import watched
from backup_pipeline_tests.promises import DEFAULT_SEED, Cases

SAMPLE_PER_OPERATION = 16

MOST_CALLS = 100
"""Of an operation with more calls, each kind of fault has its share of them, and all together meet
every one."""


@pytest.fixture(scope="module")
def tiers() -> Iterator[Tiers]:
    """The history that every case begins with."""
    with small_pieces(), fast_folder() as folder:
        local, cloud = MemoryStore("local"), MemoryStore("cloud")
        scene = Scene.build(folder, local, cloud, seed=DEFAULT_SEED)
        anew = clone(local)
        full = _full_of_the_newest(scene, anew)
        scene.states[full.id] = scene.states[scene.newest]
        stores: dict[str, Store] = {"local": local, "cloud": cloud, "anew": anew}
        stores["empty"] = MemoryStore("empty")
        found = Tiers(scene, stores, full.id, folder / "target")
        for name, prepare in PREPARED.items():
            stores[name] = prepare(found)
        yield found


def _offsite(tiers: Tiers) -> MemoryStore:
    store, local = MemoryStore("offsite"), tiers.open("local")
    repository = make_repository(store, tier="offsite", like=local)
    for snapshot in local.snapshots():
        copy_over(local, snapshot, repository)
    return store


def _expired(tiers: Tiers) -> MemoryStore:
    return _after("expire", tiers, "anew", _memory(tiers.stores["anew"]))


def _condemned(tiers: Tiers) -> MemoryStore:
    return _after("condemn", tiers, "expired", _memory(tiers.stores["expired"]))


def _after(operation: str, tiers: Tiers, tier: str, store: MemoryStore) -> MemoryStore:
    made = clone(store)
    OPERATIONS[operation].go(Tiers(tiers.scene, {tier: made}, tiers.full))
    return made


def _damaged(tiers: Tiers) -> MemoryStore:
    """A flipped bit and a missing pack, a damaged segment, a lost record and a lost twin."""
    store = clone(_memory(tiers.stores["local"]))
    names = [one.name for one in store.list("repositories/")]
    packs = [name for name in names if "/packs/" in name]
    segments = [name for name in names if "/manifests/" in name]
    for name in (packs[0], segments[-1]):
        content = bytearray(store.get(name))
        content[len(content) // 2] ^= 1
        store.heal(name, content)
    store.delete(packs[-1])
    store.delete(next(name for name in names if name.endswith("log/000000/00000003")))
    store.delete(next(name for name in names if name.endswith("twin/000000/00000005")))
    return store


PREPARED = {
    "offsite": _offsite,
    "expired": _expired,
    "condemned": _condemned,
    "damaged": _damaged,
}


def _full_of_the_newest(scene: Scene, store: MemoryStore) -> Snapshot:
    place, repository = scene.folder / "newest", open_repository(store)
    assert restore(repository, repository.snapshot(scene.newest), place).ok
    snapshot = back_up(repository, place, "full")
    shutil.rmtree(place)
    return snapshot


class Case:
    """One operation with one fault at one call."""

    def __init__(self, tiers: Tiers, operation: str, fault: Fault, at: int) -> None:
        self.what = f"{operation}, {fault.name} at call {at}"
        self.operation: Operation = OPERATIONS[operation]
        self.scene = tiers.scene
        self.script = Script(fault, at)
        self.before = {name: clone(_memory(store)) for name, store in tiers.stores.items()}
        self.plain = Tiers(
            tiers.scene,
            dict[str, Store]({name: clone(store) for name, store in self.before.items()}),
            tiers.full,
            tiers.target,
        )

    def run(self) -> bool:
        """Do all of it; whether the fault was met."""
        spoilt = Tiers(
            self.scene,
            {
                name: SpoiltStore(store, self.script, self.scene.old_names)
                for name, store in self.plain.stores.items()
            },
            self.plain.full,
            self.plain.target,
            spoilt=True,
        )
        outcome: Any
        shutil.rmtree(self.plain.target, ignore_errors=True)
        with watched(self.what):
            try:
                outcome = self.operation.go(spoilt)
            except BackupError as error:
                outcome = error
        met = bool(self.script.spoilt)
        if isinstance(outcome, BackupError):
            assert met, f"{self.what}: {outcome}"
            assert not self.script.fault.harmless, f"{self.what}: {outcome}"
            expect_clear(outcome)
        with watched(f"what comes after {self.what}"):
            if self.script.fault.lies_of == "stored" and met and not self.operation.heals:
                self._expect_damage_named(outcome)
            else:
                self._expect_all_well(outcome)
        return met

    def _expect_all_well(self, outcome: Any) -> None:
        written = self.operation.writes
        for name, store in self.plain.stores.items():
            if name != written:
                assert _same_bytes(store, self.before[name]), f"{name} was written to"
            elif not self.operation.deletes and not self.operation.heals:
                self._expect_nothing_lost(name)
        if written and written != "empty" and not self.operation.heals:
            self._expect_earlier_snapshots(written)
        if isinstance(outcome, Snapshot):
            repository = self.plain.open(written)
            committed = repository.snapshot(outcome.id)
            assert self.scene.restores_right(repository, committed, self._state)
        again = self.operation.go(self.plain)
        if isinstance(again, Snapshot):
            repository = self.plain.open(written)
            assert self.scene.restores_right(repository, again, self._state)
        elif not self.script.fault.lies_of and not isinstance(outcome, BackupError):
            assert again == outcome
        if self.operation.heals:
            self._expect_earlier_snapshots(written)
        if written:
            appended = isinstance(again, Snapshot) or self.operation.heals
            self.scene.check_sound(self.plain.stores[written], mended=appended)

    @property
    def _state(self) -> State:
        return self.operation.state(self.scene)

    def _expect_nothing_lost(self, tier: str) -> None:
        """Nothing that was there is gone or holds other bytes."""
        now = _memory(self.plain.stores[tier])._stored
        for name, (content, _) in self.before[tier]._stored.items():
            assert now[name][0] == content, f"{tier}: {name} was changed"

    def _expect_earlier_snapshots(self, tier: str) -> None:
        earlier = {one.id for one in open_repository(self.before[tier]).snapshots()}
        if self.operation.deletes:
            earlier = {self.plain.full}
        self.scene.check(self.plain.stores[tier], earlier, all_of_them=self.script.at % 5 == 0)

    def _expect_damage_named(self, outcome: Any) -> None:
        """The store holds other bytes than it was given, under one name."""
        tier = self.operation.writes
        assert tier, "only what writes can have this fault"
        [name] = self.script.spoilt
        store = self.plain.stores[tier]
        if tier != "empty":
            self._expect_earlier_snapshots(tier)
        if isinstance(outcome, Snapshot):
            repository = open_repository(store)
            self._expect_right_or_named(repository, outcome.id, name)
        repository = make_repository(store)
        later = back_up(repository, self.scene.source, "full")
        assert self.scene.restores_right(repository, later, self.scene.now)
        report = verify(open_repository(store))
        assert {one["name"] for one in report.damage} <= {name}

    def _expect_right_or_named(self, repository: Repository, identity: str, name: str) -> None:
        report = verify(repository)
        named = {one["name"] for one in report.damage}
        place = self.scene.folder / "perhaps"
        try:
            restored = restore(repository, repository.snapshot(identity), place)
        except DamageError:
            right = False
        else:
            right = same_state(state_of(place), self._state)
            assert right or not restored.ok, "wrong bytes were restored and called right"
        finally:
            shutil.rmtree(place, ignore_errors=True)
        assert named <= {name}
        assert right or named == {name}, f"verify does not name {name}"
        if not name.startswith("probe/"):
            assert named == {name}, f"verify does not name {name}"


def expect_clear(error: BackupError) -> None:
    """One line that says what happened, and where a hint would help, a hint."""
    assert error.message.strip() == error.message
    assert len(error.message.splitlines()) == 1
    assert "<" not in error.message, "an object's representation is no message"


def _memory(store: Any) -> MemoryStore:
    assert isinstance(store, MemoryStore)
    return store


def _same_bytes(one: Any, other: MemoryStore) -> bool:
    return {name: content for name, (content, _) in _memory(one)._stored.items()} == {
        name: content for name, (content, _) in other._stored.items()
    }


def _calls(tiers: Tiers, operation: str, fault: Fault) -> int:
    """How many calls of an operation a fault can happen to."""
    case = Case(tiers, operation, fault, 0)
    case.run()
    return len(case.script.calls)


@pytest.mark.faults
@pytest.mark.promise("errors")
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_whatever_call_goes_wrong_it_ends_well_or_with_one_clear_error(
    tiers: Tiers, operation: str, fault: str, cases: Cases
) -> None:
    if FAULTS[fault].lies_of == "stored" and not OPERATIONS[operation].writes:
        return
    count = _calls(tiers, operation, FAULTS[fault])
    stride = max(1, -(-count // cases.scaled(MOST_CALLS)))
    first = (cases.seed + list(FAULTS).index(fault)) % stride
    for at in range(1 + first, count + 1, stride):
        Case(tiers, operation, FAULTS[fault], at).run()
        cases.add()


@pytest.mark.promise("errors")
@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_sample_of_calls_goes_wrong_and_it_ends_well_or_with_one_clear_error(
    tiers: Tiers, operation: str, cases: Cases
) -> None:
    chance = random.Random(f"{cases.seed} {operation}")
    reading = not OPERATIONS[operation].writes
    faults = [one for one in FAULTS.values() if not (reading and one.lies_of == "stored")]
    for _ in range(cases.scaled(SAMPLE_PER_OPERATION)):
        fault = chance.choice(faults)
        count = max(1, _calls(tiers, operation, fault))
        Case(tiers, operation, fault, chance.randint(1, count)).run()
        cases.add()

"""Processes that work on one dataset at the same time lose nothing of each other's.

Real processes, on a local disk and on an S3 server. In most races one is held at one of its store
calls while the other does all that it has to do; in the others both run free. Afterwards every
snapshot that was acknowledged is there and restores byte for byte, and ``verify`` finds nothing.
"""

from __future__ import annotations

import random
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from backup_pipeline.engine.operations.verify import verify
from backup_pipeline.engine.store import Store, open_store
from backup_pipeline.s3_server import S3Server
from backup_pipeline_tests.engine.repositories import make_repository, open_repository
from backup_pipeline_tests.engine.trees import state_of
from backup_pipeline_tests.faults.racing import Ended, Races, racer, step
from backup_pipeline_tests.faults.scene import Scene, edit, fast_folder, plant, same_state
from backup_pipeline_tests.promises import Cases

TIERS = ("local", "cloud")
UNSOUND = {"Conflict", "UnsoundParent", "DamageError"}  # what a prune may cost a writer meanwhile
SHORT, LONG = 25, 60  # store calls of most operations
WHERE = ["local", pytest.param("s3", marks=pytest.mark.services)]


class Field:
    """Two tiers, those who race on them, and what must be in them.

    Args:
        folder: Where the source, restores and results lie.
        stores: What ``open_store`` needs for each tier.
        races: Runs the racers.
        seed: Of the dataset and of all chances.
    """

    def __init__(self, folder: Path, stores: Mapping[str, Any], races: Races, seed: int) -> None:
        self.folder = folder
        self.races = races
        self.chance = random.Random(seed)
        self.stores: dict[str, Store] = {tier: open_store(stores[tier]) for tier in TIERS}
        self.scene = Scene(folder, self.stores["local"], self.stores["cloud"])
        self.live: dict[str, set[str]] = {tier: set() for tier in TIERS}
        self.seed = seed
        plant(self.scene.source, seed)
        first = make_repository(self.stores["local"])
        make_repository(self.stores["cloud"], tier="cloud", like=first)
        self.settle(races(racer(self.backup("full"), self.copy("full"))))

    # -- steps

    def backup(self, kind: str = "incremental", **more: Any) -> dict[str, Any]:
        return step("backup", source=str(self.scene.source), kind=kind, **more)

    def copy(self, kind: str = "incremental") -> dict[str, Any]:
        return step("copy", "cloud", origin="local", kind=kind)

    def renew(self, tier: str = "local") -> list[dict[str, Any]]:
        """A new full; all before it expires, is condemned and deleted at once."""
        new = self.backup("full") if tier == "local" else self.copy("full")
        return [new, step("expire", tier, keep=1), step("prune", tier), step("prune", tier)]

    def restore(self, snapshot: str, *help: str) -> dict[str, Any]:
        target = str(self.folder / f"raced-{self.chance.random()}")
        return step("restore", snapshot=snapshot, target=target, help=help)

    def newest(self, tier: str = "local") -> str:
        return open_repository(self.stores[tier]).snapshots()[-1].id

    # -- races

    def change(self) -> None:
        """The source changes, and some of it is backed up, so that there is a chain."""
        for _ in range(2):
            self.seed += 1
            edit(self.scene.source, self.seed)
            self.settle(self.races(racer(self.backup())))
        self.seed += 1
        edit(self.scene.source, self.seed)

    def race(
        self, one: Mapping[str, Any], other: Mapping[str, Any], *, free: bool, may: set[str]
    ) -> list[list[Ended]]:
        """Have two race; errors of steps that are not expected fail."""
        ended = self.races(one, other, free=free)
        for found in (found for steps in ended for found in steps):
            assert found.get("error") is None or found["error"] in may, found
        self.settle(ended)
        return ended

    def settle(self, ended: list[list[Ended]]) -> None:
        """What was acknowledged must be there, and nothing else."""
        made = [found for steps in ended for found in steps if "snapshot" in found]
        for found in sorted(made, key=lambda found: found["verb"]):  # copies behind backups
            origin, tier = found.get("origin"), "cloud" if found["verb"] == "copy" else "local"
            state = self.scene.states[origin] if origin else state_of(self.scene.source)
            self.scene.states[found["snapshot"]] = state
            self.live[tier].add(found["snapshot"])
        gone = {one for steps in ended for found in steps for one in found.get("expired", ())}
        for tier in TIERS:
            self.live[tier] -= gone
            repository = open_repository(self.stores[tier])
            assert {one.id for one in repository.snapshots()} == self.live[tier], tier

    def check(self, *, all_of_them: bool = False) -> None:
        """Fail unless the snapshots restore and both tiers are sound."""
        for tier in TIERS:
            repository = open_repository(self.stores[tier])
            found = repository.snapshots()
            for one in found if all_of_them else found[-2:]:
                state = self.scene.states[one.id]
                assert self.scene.restores_right(repository, one, state), one
            assert verify(repository).damage == []


@contextmanager
def field(where: str, request: pytest.FixtureRequest, seed: int) -> Iterator[Field]:
    """Two empty stores below a folder, or on a server."""
    with fast_folder() as folder:
        stores: dict[str, Any] = {tier: {"url": (folder / tier).as_uri()} for tier in TIERS}
        if where == "s3":
            server: S3Server = request.getfixturevalue("s3_server")
            stores = {
                tier: server.options(f"s3://backups/{secrets.token_hex(6)}/{tier}")
                for tier in TIERS
            }
        with Races(folder, stores) as races:
            one = Field(folder, stores, races, seed)
            yield one
            one.check(all_of_them=True)


# -- the races: each once, with one held at a chosen call, or with both free


def two_backups(field: Field, at: int, free: bool) -> None:
    kinds = [field.chance.choice(("full", "incremental", "differential")) for _ in range(2)]
    one, other = (field.backup(kind) for kind in kinds)
    field.race(racer(one, pause_at=at), racer(other), free=free, may=set())


def backup_and_copy(field: Field, at: int, free: bool) -> None:
    pair = [racer(field.backup()), racer(field.copy())]
    field.chance.shuffle(pair)
    field.race({**pair[0], "pause_at": at}, pair[1], free=free, may=set())


def backup_and_prune(field: Field, at: int, free: bool) -> None:
    one, other = racer(field.backup(), pause_at=at), racer(*field.renew())
    ended, _ = field.race(one, other, free=free, may=UNSOUND)
    if "error" in ended[0]:
        field.race(racer(field.backup()), racer(), free=False, may=set())


def copy_and_prune_where_it_goes(field: Field, at: int, free: bool) -> None:
    one, other = racer(field.copy(), pause_at=at), racer(*field.renew("cloud"))
    field.race(one, other, free=free, may=UNSOUND)


def copy_and_prune_where_it_comes_from(field: Field, at: int, free: bool) -> None:
    one, other = racer(field.copy("full"), pause_at=at), racer(*field.renew())
    field.race(one, other, free=free, may=UNSOUND)


def two_prunes(field: Field, at: int, free: bool) -> None:
    field.race(racer(field.backup("full"), step("expire", keep=1)), racer(), free=False, may=set())
    one, other = racer(step("prune"), step("prune"), pause_at=at), racer(*[step("prune")] * 3)
    field.race(one, other, free=free, may=set())


def prune_and_backup(field: Field, at: int, free: bool) -> None:
    field.race(racer(field.backup("full"), step("expire", keep=1)), racer(), free=False, may=set())
    one = racer(step("prune"), step("prune"), pause_at=at)
    field.race(one, racer(field.backup()), free=free, may=UNSOUND if free else set())


def restore_and_prune(field: Field, at: int, free: bool) -> None:
    """What is deleted under a restore is told, or the restore was in time."""
    key = field.newest()
    reads = field.restore(key)
    ended, _ = field.race(
        racer(reads, pause_at=at), racer(*field.renew()), free=free, may={"DamageError", "NotFound"}
    )
    target = Path(reads["target"])
    if "error" not in ended[0]:
        whole = same_state(state_of(target), field.scene.states[key])
        assert whole or (not ended[0]["ok"] and ended[0]["damage"])
    shutil.rmtree(target, ignore_errors=True)


def restore_with_a_sibling_and_prune(field: Field, at: int, free: bool) -> None:
    """What is deleted under a restore comes from the other tier."""
    field.race(racer(field.copy()), racer(), free=False, may=set())
    key = field.newest()
    reads = field.restore(key, "cloud")
    ended, _ = field.race(
        racer(reads, pause_at=at), racer(*field.renew()), free=free, may={"NotFound"}
    )
    if "error" not in ended[0]:  # it had found its snapshot
        target = Path(reads["target"])
        assert ended[0]["ok"], ended[0]["damage"]
        assert same_state(state_of(target), field.scene.states[key])
        shutil.rmtree(target)


def expire_and_pin(field: Field, at: int, free: bool) -> None:
    """Either the pin came first and the snapshot stays, or it is told that it is too late."""
    key = field.newest()
    field.race(racer(field.backup("full")), racer(), free=False, may=set())
    pair = [racer(step("expire", keep=1)), racer(step("pin", snapshot=key, pinned=True))]
    field.chance.shuffle(pair)
    ended = field.race({**pair[0], "pause_at": at}, pair[1], free=free, may={"NotFound"})
    [pinned] = [one for [one] in ended if one["verb"] == "pin"]
    assert ("error" in pinned) == (key not in field.live["local"])
    if "error" not in pinned:
        off = racer(step("pin", snapshot=key, pinned=False))
        field.race(off, racer(), free=False, may=set())


def repair_and_backup(field: Field, at: int, free: bool) -> None:
    """A pack is lost or harmed that the next backup builds on; the other tier has it."""
    field.race(racer(field.backup("full"), field.copy("full")), racer(), free=False, may=set())
    harm(field)
    repair = step("repair", help=["cloud"])
    pair = [racer(repair), racer(field.backup())]
    field.chance.shuffle(pair)
    field.race({**pair[0], "pause_at": at}, pair[1], free=free, may=UNSOUND)
    ended = field.race(racer(repair), racer(), free=False, may=set())
    assert ended[0][0]["ok"]


def repair_and_prune(field: Field, at: int, free: bool) -> None:
    field.race(racer(field.backup("full"), field.copy("full")), racer(), free=False, may=set())
    harm(field)
    repair = step("repair", help=["cloud"])
    one, other = racer(repair, pause_at=at), racer(step("expire", keep=1), *[step("prune")] * 2)
    field.race(one, other, free=free, may=UNSOUND)
    ended = field.race(racer(repair), racer(), free=False, may=set())
    assert ended[0][0]["ok"]


def harm(field: Field) -> None:
    """Flip a bit in a pack of the newest snapshot of the first tier, or delete it."""
    repository, store = open_repository(field.stores["local"]), field.stores["local"]
    needs = repository.segments.needs(repository.snapshots()[-1].segments)
    name = field.chance.choice(sorted(name for name in needs if name.startswith("packs/")))
    content = bytearray(store.get(repository.prefix + name))
    store.delete(repository.prefix + name)
    if field.chance.random() < 0.5:
        content[len(content) // 2] ^= 1
        store.put(repository.prefix + name, bytes(content))


RACES: tuple[Callable[[Field, int, bool], None], ...] = (
    two_backups,
    backup_and_copy,
    backup_and_prune,
    copy_and_prune_where_it_goes,
    copy_and_prune_where_it_comes_from,
    two_prunes,
    prune_and_backup,
    restore_and_prune,
    restore_with_a_sibling_and_prune,
    expire_and_pin,
    repair_and_backup,
    repair_and_prune,
)


def race_again_and_again(field: Field, cases: Cases, rounds: int) -> None:
    for number in range(rounds):
        for one in RACES:
            field.change()
            free = number % 4 == 3
            most = field.chance.choice((SHORT, LONG))
            one(field, field.chance.randrange(1, most), free)
            cases.add()
        field.check()


@pytest.mark.promise("concurrency")
def test_races_lose_nothing(request: pytest.FixtureRequest, cases: Cases) -> None:
    with field("local", request, cases.seed) as one:
        race_again_and_again(one, cases, 1)


@pytest.mark.faults
@pytest.mark.promise("concurrency")
@pytest.mark.parametrize("where", WHERE)
def test_many_races_lose_nothing(where: str, request: pytest.FixtureRequest, cases: Cases) -> None:
    with field(where, request, cases.seed + 1) as one:
        race_again_and_again(one, cases, cases.scaled(5 if where == "local" else 2))


@pytest.mark.promise("concurrency")
@pytest.mark.parametrize("where", WHERE)
def test_clocks_two_days_apart_lose_nothing(
    where: str, request: pytest.FixtureRequest, cases: Cases
) -> None:
    with field(where, request, cases.seed) as one:
        slow, fast = one.backup(hours=-24), one.backup("full", hours=24)
        for at in (4, 12, 20):
            one.change()
            one.race(racer(slow, pause_at=at), racer(fast), free=False, may=set())
            one.race(racer(fast, pause_at=at), racer(slow), free=False, may=set())
            cases.add(2)
        for hours in (-24, 0, 24):
            [told] = one.races(
                racer(
                    step("expire", keep=1, hours=hours),
                    step("prune", hours=hours, grace_s=0),
                    step("prune", hours=hours, grace_s=0),
                )
            )
            assert all("clock" in ended["message"] for ended in told), told
        one.settle([])
        assert not open_repository(one.stores["local"]).state.condemned

"""Every operation of the engine as one line of a table, for rigs that break the store under it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from backup_pipeline.engine.format.record import Snapshot
from backup_pipeline.engine.operations.diff import diff
from backup_pipeline.engine.operations.donors import Donors
from backup_pipeline.engine.operations.drill import drill
from backup_pipeline.engine.operations.expire import expire, pin
from backup_pipeline.engine.operations.prune import prune
from backup_pipeline.engine.operations.repair import repair
from backup_pipeline.engine.operations.restore import restore
from backup_pipeline.engine.operations.verify import verify
from backup_pipeline.engine.repository import Repository
from backup_pipeline.engine.store import Store
from backup_pipeline_tests.engine.repositories import (
    back_up,
    copy_over,
    make_repository,
    open_repository,
)
from backup_pipeline_tests.engine.trees import State, state_of
from backup_pipeline_tests.faults.scene import Scene, same_state

__all__ = ["OPERATIONS", "Operation", "Tiers"]


@dataclass
class Tiers:
    """What an operation works on.

    Attributes:
        scene: The history and the source.
        stores: ``local`` and ``cloud``; ``offsite``, a copy of all that is in ``local``; ``anew``,
            which is ``local`` with a full of its newest state; ``expired``, where all but that
            full have expired; ``condemned``, where they have been condemned too; ``damaged``,
            which is ``local`` with some damage; and ``empty``.
        full: The id of that full.
        target: Where a restore goes.
        spoilt: Whether something may go wrong.
    """

    scene: Scene
    stores: dict[str, Store]
    full: str = ""
    target: Path = field(default_factory=Path)
    spoilt: bool = False

    def open(self, tier: str) -> Repository:
        """A tier's repository, as another process finds it."""
        return open_repository(self.stores[tier])


@dataclass(frozen=True)
class Operation:
    """One operation.

    Attributes:
        go: Does it; the snapshot that it committed, or what it found, which is always the same.
        writes: The store that it writes to; "" for none.
        copies: Whether its snapshot stands for the newest of the first tier, not for the source.
        deletes: Whether snapshots or what is stored may go.
        heals: Whether it begins with damage, which is gone at its end.
    """

    go: Callable[[Tiers], Any]
    writes: str = ""
    copies: bool = False
    deletes: bool = False
    heals: bool = False

    def state(self, scene: Scene) -> State:
        """What its snapshot must restore to."""
        return scene.states[scene.newest] if self.copies else scene.now


def _create(tiers: Tiers) -> str:
    return make_repository(tiers.stores["empty"]).dataset


def _first(tiers: Tiers) -> Snapshot:
    return back_up(make_repository(tiers.stores["empty"]), tiers.scene.source, "full")


def _backup(kind: str) -> Callable[[Tiers], Snapshot]:
    return lambda tiers: back_up(tiers.open("local"), tiers.scene.source, kind)


def _copy(kind: str) -> Callable[[Tiers], Snapshot]:
    """Whole packs, as they are."""

    def go(tiers: Tiers) -> Snapshot:
        origin = tiers.open("local")
        newest = origin.snapshot(tiers.scene.newest)
        return copy_over(origin, newest, tiers.open("cloud"), kind)

    return go


def _copy_frames(tiers: Tiers) -> Snapshot:
    """The frames that are lacking, of packs of which some are there."""
    origin = tiers.open("anew")
    return copy_over(origin, origin.snapshot(tiers.full), tiers.open("cloud"))


def _open(tiers: Tiers) -> list[str]:
    return [one.id for one in tiers.open("local").snapshots()]


def _verify(tiers: Tiers) -> list[object]:
    report = verify(tiers.open("local"))
    return [report.ok, report.damage]


def _restore(tiers: Tiers) -> list[object]:
    repository = tiers.open("local")
    report = restore(repository, repository.snapshot(tiers.scene.newest), tiers.target)
    right = same_state(state_of(tiers.target), tiers.scene.states[tiers.scene.newest])
    assert right or not report.ok, "a restore that says that all is well is wrong"
    return [report.ok, right]


def _drill(tiers: Tiers) -> list[object]:
    repository = tiers.open("local")
    snapshot = repository.snapshot(tiers.scene.newest)
    report = drill(repository, snapshot, tiers.target, sample=0.5, start=1)
    return [report.ok, report.mismatches]


def _diff(tiers: Tiers) -> list[object]:
    local, cloud = tiers.open("local"), tiers.open("cloud")
    newest = cloud.snapshot(tiers.scene.copied)
    found = diff(cloud, newest, local, local.snapshot(tiers.scene.newest))
    return [change.to_json() for change in found]


def _expire(tiers: Tiers) -> None:
    """All but the newest, which begins a chain of its own."""

    def choose(live: Sequence[Snapshot]) -> dict[str, str]:
        return {one.id: "test" for one in live if one.id != tiers.full}

    expire(tiers.open("anew"), choose)


def _pin(tiers: Tiers) -> None:
    pin(tiers.open("anew"), tiers.full, pinned=True, reason="test")


def _prune(tier: str) -> Callable[[Tiers], None]:
    """Condemn what only expired snapshots need; or delete it, where that was done before."""

    def go(tiers: Tiers) -> None:
        prune(tiers.open(tier), apply=True)

    return go


def _repair(tiers: Tiers) -> None:
    repository = tiers.open("damaged")
    donors = Donors(repository, lambda: [tiers.open("offsite")])
    report = repair(repository, donors=donors, apply=True)
    assert report.ok or tiers.spoilt, report


OPERATIONS = {
    "create": Operation(_create, writes="empty"),
    "first": Operation(_first, writes="empty"),
    "full": Operation(_backup("full"), writes="local"),
    "incremental": Operation(_backup("incremental"), writes="local"),
    "differential": Operation(_backup("differential"), writes="local"),
    "copy": Operation(_copy("incremental"), writes="cloud", copies=True),
    "copy-full": Operation(_copy("full"), writes="cloud", copies=True),
    "copy-frames": Operation(_copy_frames, writes="cloud", copies=True),
    "expire": Operation(_expire, writes="anew", deletes=True),
    "pin": Operation(_pin, writes="anew"),
    "condemn": Operation(_prune("expired"), writes="expired"),
    "delete": Operation(_prune("condemned"), writes="condemned", deletes=True),
    "repair": Operation(_repair, writes="damaged", heals=True),
    "open": Operation(_open),
    "verify": Operation(_verify),
    "restore": Operation(_restore),
    "drill": Operation(_drill),
    "diff": Operation(_diff),
}

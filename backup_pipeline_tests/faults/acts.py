"""What can be done in a world of three tiers: every verb that writes, and those that read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from zoneinfo import ZoneInfo

from backup_pipeline.engine.format.record import Snapshot
from backup_pipeline.engine.judgement import Gate
from backup_pipeline.engine.operations.backup import backup
from backup_pipeline.engine.operations.copy import copy
from backup_pipeline.engine.operations.expire import expire, pin
from backup_pipeline.engine.operations.prune import prune
from backup_pipeline.engine.operations.repair import repair
from backup_pipeline.engine.operations.verify import verify
from backup_pipeline.plan.retention import Protection, decide
from backup_pipeline.sources.files import FilesSource
from backup_pipeline_tests.engine.repositories import chain_of
from backup_pipeline_tests.faults.world import TIERS, Open, World

__all__ = ["Act", "Acts"]


@dataclass(frozen=True)
class Act:
    """Something to do in a world.

    Attributes:
        name: A method of ``Acts``.
        tier: Where.
        number: What it chooses among what there is; of a backup, by how many hours its clock is
            wrong.
        more: The kind, the rules, whether to pin, whether the source helps, or whether others do.
    """

    name: str
    tier: str
    number: int
    more: Any


class Acts:
    """What can be done in a world; each as an operation that opens its repositories itself."""

    def __init__(self, world: World) -> None:
        self.world = world

    def of(self, act: Act) -> Callable[[Open], Any]:
        """The operation of an act."""
        return lambda opened: getattr(self, act.name)(opened, act)

    def tiers(self, act: Act) -> tuple[str, ...]:
        """Where damage is a reason for an act to fail."""
        if act.name == "copy":
            return TIERS
        if act.name == "backup":
            return () if act.more == "full" else ("local",)
        return (act.tier,)

    def backup(self, opened: Open, act: Act) -> None:
        repository = opened("local")
        world, skew = self.world, timedelta(hours=act.number)
        backup(
            repository,
            FilesSource(world.tree.root),
            day=world.clock.now.date(),
            clock=lambda: world.clock.now + skew,
            # Else most of what so small a tree lives through is suspicious, and stops expiry.
            gate=Gate(off=world.clock.now.day % 4 > 0),
            **chain_of(repository, act.more),
        )

    def copy(self, opened: Open, act: Act) -> None:
        target, names = act.tier, {"near": ("local", "far"), "far": ("local", "near")}
        origin = names[target][act.number % 2]
        source, there = opened(origin), opened(target)
        live = source.snapshots()
        if live:
            one = live[act.number // 2 % len(live)]
            kinds = chain_of(there, act.more)
            copy(source, one, there, clock=self.world.clock, **kinds)

    def keep(self, opened: Open, act: Act) -> None:
        repository, world = opened(act.tier), self.world

        def choose(live: Sequence[Snapshot]) -> Mapping[str, str]:
            verdicts = decide(
                live,
                act.more,
                now=world.clock.now,
                zone=ZoneInfo("UTC"),
                protection=Protection(
                    pinned=repository.state.pinned,
                    suspicious=[
                        (one.captured_at, one.day) for one in repository.state.suspicions.open()
                    ],
                ),
            )
            gone = {one.snapshot.id: one.reasons[0] for one in verdicts if not one.kept}
            world.going[act.tier] |= gone.keys()
            return gone

        self._expired(act.tier, expire(repository, choose, clock=world.clock))

    def expire(self, opened: Open, act: Act) -> None:
        repository, world = opened(act.tier), self.world
        slices = act.number % 8 == 7

        def choose(live: Sequence[Snapshot]) -> Mapping[str, str]:
            good = [one for one in live if one.status == "complete"]
            last = max(good, key=lambda one: (one.captured_at, one.sequence), default=None)
            gone = {
                one.id: "chance"
                for place, one in enumerate(live)
                if act.number >> place % 10 & 1
                and one.id not in repository.state.pinned
                and not repository.state.suspicions.holds(one.captured_at)
                and (slices or one is not last)
            }
            world.going[act.tier] |= gone.keys()
            return gone

        self._expired(act.tier, expire(repository, choose, slices=slices, clock=world.clock))

    def _expired(self, tier: str, gone: Mapping[str, str]) -> None:
        live = {one.id for one in self.world.open(tier).snapshots()}
        assert not live & gone.keys(), "what was expired is still offered"

    def pin(self, opened: Open, act: Act) -> None:
        repository = opened(act.tier)
        live = repository.snapshots()
        if live:
            one = live[act.number % len(live)]
            clock = self.world.clock
            pin(repository, one.id, pinned=act.more, reason="because", clock=clock)

    def prune(self, opened: Open, act: Act) -> None:
        prune(opened(act.tier), apply=True, clock=self.world.clock)

    def repair(self, opened: Open, act: Act) -> None:
        world, repository = self.world, opened(act.tier)
        source = (lambda: FilesSource(world.tree.root)) if act.more else None
        donors = world.donors(repository, opened)
        repair(repository, donors=donors, source=source, apply=True, clock=world.clock)

    def restore(self, opened: Open, act: Act) -> None:
        live = self.world.open(act.tier).snapshots()
        if live:
            key = live[act.number % len(live)].id
            self.world.restores(act.tier, key, opened, help=act.more)

    def verify(self, opened: Open, act: Act) -> None:
        verify(opened(act.tier))

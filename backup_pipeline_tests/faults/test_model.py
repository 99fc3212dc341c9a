"""Whatever is done to a dataset's tiers, in whatever order, all that was committed restores.

A state machine of backups, copies, pins, expiries, prunes, repairs, damage, deaths at any store
call, and operations that are paused at any call while others run; held against a plain model.
"""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from backup_pipeline.engine.operations.prune import PRUNE_GRACE, RUN_ABANDONED_AFTER
from backup_pipeline.plan.model import Keep
from backup_pipeline_tests.engine.trees import EDITING, MAKING, Step
from backup_pipeline_tests.faults.acts import Act, Acts
from backup_pipeline_tests.faults.scene import fast_folder
from backup_pipeline_tests.faults.world import TIERS, Moment, World, small_world
from backup_pipeline_tests.promises import Cases

NUMBER = st.integers(0, 999)
TIER = st.sampled_from(TIERS)
LATER_TIER = st.sampled_from(TIERS[1:])
SHARE = st.floats(0, 0.999)  # how far into an operation
KIND = st.sampled_from(["full", "incremental", "incremental", "differential"])
LEFT_OUT = {"sparse", "special"}  # large, or not kept
KEEPS = st.builds(Keep, *[st.integers(0, 2)] * 6)
LONG_ENOUGH = PRUNE_GRACE + timedelta(minutes=1)
PAUSES = st.sampled_from([timedelta(hours=5), timedelta(days=1), LONG_ENOUGH, timedelta(days=8)])
SKEW = st.sampled_from([0, 0, 0, 0, 0, 0, -48, 48])


def steps(names: tuple[str, ...], most: int) -> st.SearchStrategy[list[Step]]:
    kinds = st.sampled_from([name for name in names if name not in LEFT_OUT])
    return st.lists(st.tuples(kinds, NUMBER, NUMBER, NUMBER), min_size=1, max_size=most)


ACTS = st.one_of(
    st.builds(Act, st.just("backup"), TIER, SKEW, KIND),
    st.builds(Act, st.just("copy"), LATER_TIER, NUMBER, KIND),
    st.builds(Act, st.just("keep"), TIER, NUMBER, KEEPS),
    st.builds(Act, st.just("expire"), TIER, NUMBER, st.just(None)),
    st.builds(Act, st.just("pin"), TIER, NUMBER, st.booleans()),
    st.builds(Act, st.just("prune"), TIER, st.just(0), st.just(None)),
    st.builds(Act, st.just("repair"), TIER, st.just(0), st.booleans()),
)
SHAKEN = st.one_of(
    st.builds(Act, st.just("backup"), st.just("local"), st.just(0), KIND),
    st.builds(Act, st.just("copy"), LATER_TIER, NUMBER, KIND),
    st.builds(Act, st.just("prune"), TIER, st.just(0), st.just(None)),
    st.builds(Act, st.sampled_from(["restore", "verify", "repair"]), TIER, NUMBER, st.booleans()),
)
READS = st.one_of(
    st.builds(Act, st.just("restore"), TIER, NUMBER, st.booleans()),
    st.builds(Act, st.just("verify"), TIER, NUMBER, st.just(None)),
)


class Machine(RuleBasedStateMachine):
    """The rules; hypothesis chooses among them."""

    taken = 0
    ends: ClassVar[Counter[str]] = Counter()

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.stack.enter_context(small_world())
        root = self.stack.enter_context(fast_folder())
        self.folder = Path(tempfile.mkdtemp(dir=root))
        self.turn = 0

    @initialize(encrypted=st.booleans(), making=steps(MAKING, 6))
    def begin(self, encrypted: bool, making: list[Step]) -> None:
        self.world = World(self.folder, encrypted=encrypted)
        self.acts = Acts(self.world)
        self.edit(making)
        self.do(Act("backup", "local", 0, "full"))

    def do(self, act: Act, moment: Moment | None = None) -> None:
        """Do something, and hold its end against what may be."""
        ended = self.world.run(self.acts.of(act), moment or Moment(0))
        disturbed = moment is not None and moment.came and moment.happens is not None
        wary = act.name in {"prune", "expire", "keep"}
        self.world.expect(ended, *self.acts.tiers(act), disturbed=disturbed, wary=wary)
        how = "plain" if moment is None else "after its end" if not moment.came else "paused"
        self.ends[f"{how} {act.name}: {type(ended).__name__}"] += 1

    def moment(
        self,
        act: Act,
        share: float,
        after: bool,
        writes: bool,
        happens: Callable[[], None] | None = None,
    ) -> Moment:
        """A call that is some way into an operation, by how many such operations mostly make."""
        most = (12 if act.name in {"backup", "copy", "repair"} else 3) if writes else 50
        return Moment(1 + int(share * share * most), after, writes, happens)

    @rule(edits=steps(EDITING, 4))
    def edit(self, edits: list[Step]) -> None:
        for one in edits:
            self.world.tree.apply(one)

    @rule(edits=steps(EDITING, 3), kind=KIND)
    def change_and_back_up(self, edits: list[Step], kind: str) -> None:
        self.edit(edits)
        self.do(Act("backup", "local", 0, kind))

    @rule(act=ACTS)
    def act(self, act: Act) -> None:
        self.do(act)

    @rule(time=PAUSES)
    def wait(self, time: timedelta) -> None:
        self.world.clock.now += time

    @rule(tier=TIER)
    def prune_at_last(self, tier: str) -> None:
        """What goes is gone at the end of it."""
        self.do(Act("prune", tier, 0, None))
        self.world.clock.now += LONG_ENOUGH
        self.do(Act("prune", tier, 0, None))

    @rule(act=ACTS, share=SHARE, after=st.booleans(), writes=st.booleans())
    def die(self, act: Act, share: float, after: bool, writes: bool) -> None:
        self.do(act, self.moment(act, share, after, writes))

    @rule(
        act=ACTS | READS,
        share=SHARE,
        after=st.booleans(),
        writes=st.booleans(),
        others=st.lists(ACTS | PAUSES, min_size=1, max_size=4),
    )
    def pause(
        self, act: Act, share: float, after: bool, writes: bool, others: list[Act | timedelta]
    ) -> None:
        """An operation is paused at one of its calls, and others run meanwhile."""

        def meanwhile() -> None:
            for one in others:
                if isinstance(one, timedelta):
                    self.world.clock.now += one
                else:
                    self.do(one)

        self.do(act, self.moment(act, share, after, writes, meanwhile))

    @rule(
        act=SHAKEN,
        share=SHARE,
        after=st.booleans(),
        writes=st.booleans(),
        deleted=st.booleans(),
        edits=steps(EDITING, 2),
    )
    def pause_over_a_prune(
        self,
        act: Act,
        share: float,
        after: bool,
        writes: bool,
        deleted: bool,
        edits: list[Step],
    ) -> None:
        """While it is paused, all but a new full expires, is condemned, and may be deleted."""

        def meanwhile() -> None:
            tier = act.tier
            self.do(Act("backup" if tier == "local" else "copy", tier, 0, "full"))
            self.do(Act("keep", tier, 0, Keep(1, 0, 0, 0, 0, 0)))
            self.do(Act("prune", tier, 0, None))
            if deleted:
                self.world.clock.now += LONG_ENOUGH
                self.do(Act("prune", tier, 0, None))

        self.edit(edits)
        if not any(self.world.damaged.values()):
            self.do(act, self.moment(act, share, after, writes, meanwhile))

    @rule(tier=TIER, which=NUMBER, how=st.sampled_from(["flip", "truncate", "delete"]), at=NUMBER)
    def harm(self, tier: str, which: int, how: str, at: int) -> None:
        names = self.world.damageable(tier)
        if names and len(self.world.damaged[tier]) < 3:
            self.world.harm(tier, names[which % len(names)], how, at * 7919)

    @rule(tier=TIER, source=st.booleans())
    def mend(self, tier: str, source: bool) -> None:
        """What a repair cannot have anywhere is put back by hand."""
        self.do(Act("repair", tier, 0, source))
        self.world.put_back(tier)
        self.world.check(tier)

    @invariant()
    def all_is_well(self) -> None:
        Machine.taken += 1
        self.turn += 1
        self.world.check(TIERS[self.turn % len(TIERS)], (self.turn * 31,))

    def teardown(self) -> None:
        try:
            if hasattr(self, "world"):
                self.world.check_strangers()
                for tier in TIERS:
                    self.world.put_back(tier)
                    self.world.check(tier)
                    self.leave_nothing_over(tier)
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.stack.close()

    def leave_nothing_over(self, tier: str) -> None:
        """At the end all that nobody needs is deleted, and nothing else."""
        self.world.clock.on(days=RUN_ABANDONED_AFTER.days + 3)
        self.prune_at_last(tier)
        self.world.check(tier)
        self.world.check_strangers()
        repository = self.world.open(tier)
        there = {one.name for one in self.world.stores[tier].list(repository.prefix)}
        segments = [one for snapshot in repository.snapshots() for one in snapshot.segments]
        needs = {repository.prefix + name for name in repository.segments.needs(segments)}
        needs |= {name.replace("/packs/", "/parity/") for name in needs}
        kinds = ("/packs/", "/parity/", "/manifests/")
        ours = {name for name in there if any(kind in name for kind in kinds)}
        strange = {name for name in ours if "cdcdcd" in name or name.endswith(("short", "/x"))}
        assert ours - strange <= needs, "something is left that nobody needs"


def run(examples: int, steps_each: int, cases: Cases, *, fixed: bool) -> None:
    Machine.taken = 0
    Machine.ends.clear()
    phases = (Phase.explicit, Phase.generate, Phase.shrink)
    machine = Machine if fixed else seed(cases.seed)(Machine)
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps_each,
            deadline=None,
            database=None,
            derandomize=fixed,
            print_blob=True,
            report_multiple_bugs=False,
            phases=phases,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )
    cases.add(Machine.taken)
    for end, count in sorted(Machine.ends.items()):
        print(f"{count:6} {end}")


@pytest.mark.promise("deletion")
def test_whatever_happens_all_that_was_committed_restores(cases: Cases) -> None:
    run(20, 20, cases, fixed=True)


@pytest.mark.faults
@pytest.mark.promise("deletion")
def test_whatever_happens_for_longer_all_that_was_committed_restores(cases: Cases) -> None:
    run(cases.scaled(40), 35, cases, fixed=False)

"""Simulated policies: true to their arithmetic, to one another, and to the real engine."""

from __future__ import annotations

import random
import xml.etree.ElementTree as ElementTree
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backup_pipeline.cli.frontier import frontier_picture
from backup_pipeline.cost.compare import (
    KEEPS,
    Option,
    compare,
    frontier,
    recommend,
    usual_policies,
)
from backup_pipeline.cost.prices import PRICES, prices_of
from backup_pipeline.cost.rebuild import rebuild_or_restore, recomputed
from backup_pipeline.cost.simulate import Measured, Policy, Running, simulate
from backup_pipeline.engine import store as store_module
from backup_pipeline.engine.errors import NotFound
from backup_pipeline.engine.keys import new_key_file
from backup_pipeline.engine.operations import prune
from backup_pipeline.engine.store import Probe
from backup_pipeline.engine.store.memory import MemoryStore
from backup_pipeline.plan import load_plan
from backup_pipeline.plan.model import Every, Keep, Kind
from backup_pipeline.runner import Runner
from backup_pipeline.runner.costing import measure
from backup_pipeline_tests.engine.clocked import Clock, ClockedStore

TB, MB = 10**12, 10**6
KINDS: tuple[Kind, ...] = ("full", "differential", "incremental")
EVERY: tuple[Every, ...] = ("hour", "day", "week", "month")
WEEKS = timedelta(weeks=4)
shares = st.floats(0, 0.5)


def policy(kind: Kind, every: Every = "day", **keep: int) -> Policy:
    full_every = None if kind == "full" else WEEKS
    return Policy(every, kind, full_every, Keep(**(keep or {"daily": 7})))


def stored(measured: Measured, rules: Policy) -> float:
    return simulate(measured, rules, days=200).usage.stored_bytes


def test_a_week_of_daily_fulls_is_seven_times_the_data() -> None:
    found = simulate(Measured(TB, 0.5, compression=0.5), policy("full"))
    assert found.usage.stored_bytes == pytest.approx(7 * TB * 0.5)
    assert found.snapshots == 7 and found.runs == pytest.approx(30.4375, rel=0.02)
    assert found.usage.deleted_bytes == pytest.approx(30.4375 * TB * 0.5, rel=0.02)
    assert found.usage.deleted_age == timedelta(days=7)


def test_of_what_never_changes_chains_alone_are_stored() -> None:
    """One chain, or two while the newer one's first week has not passed: 7 days of 28."""
    found = stored(Measured(TB, 0), policy("incremental"))
    assert TB <= found <= 2 * TB


@given(st.sampled_from(EVERY), shares, shares, st.integers(1, 20), st.integers(0, 6))
@settings(max_examples=30, deadline=None)
def test_more_change_and_more_that_is_kept_never_store_less(
    every: Every, change: float, more: float, daily: int, further: int
) -> None:
    less, most = sorted((change, more))
    for kind in KINDS:
        rules = policy(kind, every, daily=daily)
        assert stored(Measured(TB, less), rules) <= stored(Measured(TB, most), rules) + 1
        longer = policy(kind, every, daily=daily + further)
        assert stored(Measured(TB, less), rules) <= stored(Measured(TB, less), longer) + 1


def test_the_worked_examples_window_cannot_be_met_and_what_would_is_said() -> None:
    at_100 = Measured(TB, 0.1, backup_bytes_per_s=100 * MB, restore_bytes_per_s=100 * MB)
    hourly = simulate(at_100, policy("full", "hour"), days=60)
    assert not hourly.fits and hourly.longest_run_s == pytest.approx(10_000)
    assert simulate(at_100, policy("full"), days=60).fits
    archive = prices_of("s3-deep-archive")
    assert hourly.recovery_time_s(archive) == pytest.approx(10_000 + 12 * 3600)
    needed = Measured(TB, 0.1, backup_bytes_per_s=278 * MB)
    assert simulate(needed, policy("full", "hour"), days=60).fits


def everything(measured: Measured) -> list[Option]:
    keeps = {name: KEEPS[name] for name in list(KEEPS)[:2]}
    return compare(measured, usual_policies(keeps), list(PRICES.values()), Running())


@pytest.fixture(scope="module")
def options() -> list[Option]:
    return everything(
        Measured(TB, 0.02, 0.6, backup_bytes_per_s=500 * MB, restore_bytes_per_s=200 * MB)
    )


def test_what_is_on_the_frontier_is_bettered_by_none_and_all_else_is(
    options: list[Option],
) -> None:
    best = frontier(options)

    def measures(one: Option) -> tuple[Any, ...]:
        late = one.recovery_time_s
        return not one.outcome.fits, one.cost.total, one.recovery_point_s, late

    for one in options:
        betters = [
            other
            for other in options
            if other.keep == one.keep
            and measures(other) != measures(one)
            and all(a <= b for a, b in zip(measures(other), measures(one), strict=True))
        ]
        assert (one in best) == (not betters)
    assert {one.keep for one in best} == {one.keep for one in options}
    assert 1 < len(best) < len(options) / 2


def test_the_cheapest_that_keeps_its_promises_is_recommended(options: list[Option]) -> None:
    day, hour = 26 * 3600.0, 2 * 3600.0
    daily, hourly = recommend(options, day, None), recommend(options, hour, None)
    assert daily is not None and hourly is not None
    assert daily.recovery_point_s <= day and hourly.recovery_point_s <= hour
    assert daily.cost.total < hourly.cost.total
    assert all(one.cost.total >= daily.cost.total for one in options if one.meets(day, None))
    quick = recommend(options, day, 2 * 3600.0)
    assert quick is not None and quick.prices.wait == timedelta(0)
    assert recommend(options, 60.0, None) is None


def test_early_deletion_makes_an_archive_dearer_than_it_looks() -> None:
    churn = simulate(Measured(TB, 0.5), policy("full", daily=7), Running(restores_per_year=0))
    archive, standard = (
        churn.cost(prices_of(name), Running(restores_per_year=0)).store
        for name in ("s3-standard-ia", "s3-standard")
    )
    assert archive > standard, "30 days are paid for, and 7 used"


def test_the_picture_has_a_dot_for_each_option(options: list[Option]) -> None:
    best = frontier(options)
    text = frontier_picture("a <dataset>", options, best, recommend(options, 26 * 3600.0, None))
    root = ElementTree.fromstring(text)
    circles = [one for one in root.iter() if one.tag.endswith("circle")]
    assert len(circles) == len(options) + len(PRICES)
    assert sum(one.get("stroke") is not None for one in circles) == 1


# -- against the engine


class Shelf(ClockedStore):
    """A store in memory that keeps the time of the test."""

    def probe(self) -> Probe:
        return Probe(self.url, True, True, 0.0, False)  # the real clock has no part in this


class Story:
    """A dataset of which so many files change each day, backed up by a plan, day after day."""

    def __init__(self, root: Path, patch: pytest.MonkeyPatch, **tier: Any) -> None:
        self.clock = Clock(datetime(2026, 8, 1, 3, tzinfo=UTC))
        store = Shelf(MemoryStore("local"), self.clock)
        patch.setattr(store_module, "open_store", lambda *_, **__: store)
        patch.setattr(prune, "PRUNE_GRACE", timedelta(0))
        self.store, self.source = store, root / "source"
        self.source.mkdir()
        self.chance = random.Random(5)
        for number in range(100):
            self.write(number)
        document = {
            "start": "2026-08-01",
            "stores": {"local": "memory://local"},
            "keys": {"main": {"key_file": {"env": "TEST_KEY"}}},
            "policies": {"default": {"tiers": [{"name": "local", **tier}]}},
            "datasets": [{"asset": "a", "source": str(self.source)}],
        }
        environ = {"TEST_KEY": new_key_file()}
        plan = load_plan(document, environ=environ)
        self.runner = Runner(plan, clock=self.clock, environ=environ)

    def write(self, number: int) -> None:
        (self.source / f"{number:03}").write_bytes(self.chance.randbytes(20_000))

    def live(self, days: int, changed: int) -> float:
        """So many days; the mean of the bytes stored over the last thirty."""
        sizes: list[int] = []
        for _ in range(days):
            self.runner.backup("a")
            self.runner.expire("a", "local", apply=True)
            for _ in range(2):
                self.runner.prune("a", "local", apply=True)
            packs = [one for one in self.store.list() if "/packs/" in one.name]
            sizes.append(sum(one.size_bytes for one in packs))
            for number in self.chance.sample(range(100), changed):
                self.write(number)
            self.clock.on(days=1)
        return sum(sizes[-28:]) / 28


@pytest.mark.parametrize(
    ("kind", "full_every"), [("incremental", 7), ("differential", 14), ("full", 0)]
)
def test_a_year_is_simulated_as_the_engine_would_live_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Kind, full_every: int
) -> None:
    more = {"full_every": f"{full_every} days"} if full_every else {}
    story = Story(tmp_path, monkeypatch, kind=kind, keep={"daily": 5}, **more)
    real = story.live(56, changed=10)
    known = 0.1 if kind == "full" else None  # fulls do not tell
    measured = measure(story.runner.snapshots("a", "local"), known)
    assert measured.data_bytes == 2_000_000 and measured.compression == pytest.approx(1, abs=0.05)
    assert measured.daily_change == pytest.approx(0.1, rel=0.1)
    rules = Policy("day", kind, timedelta(days=full_every) if full_every else None, Keep(daily=5))
    told = simulate(Measured(2_000_000, 0.1), rules).usage.stored_bytes
    assert told == pytest.approx(real, rel=0.1)


def test_what_was_never_backed_up_twice_cannot_be_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    story = Story(tmp_path, monkeypatch)
    story.runner.backup("a")
    with pytest.raises(NotFound, match="how much changes"):
        story.runner.measured("a")


def test_a_bill_is_for_what_the_store_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    story = Story(tmp_path, monkeypatch)
    assert story.runner.bills(None, None, Running()) == []
    story.live(3, changed=10)
    [bill] = story.runner.bills(None, None, Running(backup_per_hour=1))
    held = [one.size_bytes for one in story.store.list("repositories/")]
    assert (bill.stored_bytes, bill.objects) == (sum(held), len(held))
    assert bill.prices.name == "local-disk" and bill.month.store > 0
    assert bill.year.total >= bill.month.total


@pytest.mark.parametrize(
    ("hours", "price", "keeping", "rto_hours", "choice", "losses"),
    [
        # Nine hours at 20 $ once a year, against 12 * 5 $ and 10 $ for a restore.
        (9, 20, 5, None, "backup", 60 / 170),
        (1, 20, 5, None, "rebuild", 60 / 10),
        (1, 5, 5, None, "rebuild", None),  # a restore costs more than computing: never
        (9, 1, 5, 8, "backup", None),  # cheap, and too late
        (9, 1, 5, 1, "rebuild", None),  # a restore is too late as well
    ],
)
def test_what_is_computed_again_is_cheaper_and_in_time_or_not(
    hours: float,
    price: float,
    keeping: float,
    rto_hours: float | None,
    choice: str,
    losses: float | None,
) -> None:
    history = recomputed([hours * 3600])
    assert history is not None
    found = rebuild_or_restore(
        "a",
        history,
        price_per_hour=price,
        keeping_month=keeping,
        restoring_once=10,
        restore_s=2 * 3600,
        losses_per_year=1,
        rto_s=None if rto_hours is None else rto_hours * 3600,
    )
    assert (found.choice, found.losses_to_pay) == (choice, pytest.approx(losses))
    assert (found.rebuild_year, found.backup_year) == (hours * price, 12 * keeping + 10)

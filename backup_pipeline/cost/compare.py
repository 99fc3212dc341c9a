"""Policies beside one another: what each costs, how old and how slow it lets things get."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import product

from backup_pipeline.cost.formulas import Cost
from backup_pipeline.cost.prices import StoragePrices
from backup_pipeline.cost.simulate import Measured, Outcome, Policy, Running, simulate
from backup_pipeline.plan.model import Every, Keep, Kind

__all__ = ["KEEPS", "Option", "compare", "frontier", "recommend", "usual_policies"]

KEEPS = {
    "30 days": Keep(daily=30),
    "7 days, 4 weeks, 6 months": Keep(daily=7, weekly=4, monthly=6),
    "30 days, 12 months, 7 years": Keep(daily=30, monthly=12, yearly=7),
}
"""Retention that is compared, beside what the plan says."""

_FULL_EVERY: dict[Every, timedelta] = {
    "hour": timedelta(days=1),
    "day": timedelta(weeks=4),
    "week": timedelta(weeks=12),
    "month": timedelta(weeks=24),
}


@dataclass(frozen=True, slots=True)
class Option:
    """One policy at one store.

    Attributes:
        policy: The rules.
        keep: What its retention is called.
        prices: The store's.
        outcome: What came of it.
        cost: C of a month.
        recovery_point_s: How old the newest good snapshot gets.
        recovery_time_s: How long a restore takes; None where no speed is known.
    """

    policy: Policy
    keep: str
    prices: StoragePrices
    outcome: Outcome
    cost: Cost

    @property
    def recovery_point_s(self) -> float:
        return self.outcome.recovery_point_s

    @property
    def recovery_time_s(self) -> float | None:
        return self.outcome.recovery_time_s(self.prices)

    def meets(self, rpo_s: float | None, rto_s: float | None) -> bool:
        """Whether its runs fit, and what is promised is kept, as far as that is known."""
        point = rpo_s is None or self.recovery_point_s <= rpo_s
        took = self.recovery_time_s
        return self.outcome.fits and point and (rto_s is None or took is None or took <= rto_s)


def usual_policies(keeps: dict[str, Keep]) -> Iterator[tuple[str, Policy]]:
    """Kinds, cadences and retentions that people choose between, with the retention's name."""
    kinds: tuple[Kind, ...] = ("incremental", "differential", "full")
    for (name, keep), every, kind in product(keeps.items(), _FULL_EVERY, kinds):
        full_every = None if kind == "full" else _FULL_EVERY[every]
        yield name, Policy(every, kind, full_every, keep)


def compare(
    measured: Measured,
    policies: Iterable[tuple[str, Policy]],
    prices: Sequence[StoragePrices],
    running: Running,
) -> list[Option]:
    """Every policy at every store, cheapest first."""
    found = [
        Option(policy, name, one, outcome, outcome.cost(one, running))
        for name, policy in policies
        for outcome in (simulate(measured, policy, running),)
        for one in prices
    ]
    return sorted(found, key=lambda one: one.cost.total)


def frontier(options: Sequence[Option]) -> list[Option]:
    """Those that no other betters: none is as cheap, as fresh, as fast, and keeps as much.

    How much is kept is compared only between options of the same retention.
    """
    return [
        one
        for one in options
        if not any(_betters(other, one) for other in options if other.keep == one.keep)
    ]


def recommend(options: Sequence[Option], rpo_s: float | None, rto_s: float | None) -> Option | None:
    """The cheapest that keeps what is promised; None where none does."""
    fitting = [one for one in options if one.meets(rpo_s, rto_s)]
    return min(fitting, key=lambda one: one.cost.total, default=None)


def _betters(one: Option, other: Option) -> bool:
    mine, theirs = _measures(one), _measures(other)
    return all(a <= b for a, b in zip(mine, theirs, strict=True)) and mine != theirs


def _measures(one: Option) -> tuple[bool, float, float, float]:
    return not one.outcome.fits, one.cost.total, one.recovery_point_s, one.recovery_time_s or 0.0

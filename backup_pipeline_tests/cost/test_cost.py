"""The formulas, the worked example that they came with, and prices that are data."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backup_pipeline.cost.formulas import (
    Cost,
    backup_cost,
    integrity,
    needed_speed,
    restore_cost,
    speed,
    storage_cost,
    window_needed,
)
from backup_pipeline.cost.prices import (
    GIB,
    PRICES,
    StoragePrices,
    Usage,
    monthly_cost,
    prices_of,
)
from backup_pipeline.engine.errors import UsageError

MB, GB, TB = 10**6, 10**9, 10**12
HOUR = 3600.0
amounts = st.floats(0, 1e15)


def test_the_worked_example_as_it_is_stated() -> None:
    """docs/cost.md, to the letter: D as 10**6, hours as 100/60, and a sum that is another."""
    terms = (1e6 * 0.01, 1 * 100 / 60 * 0.01, 1 * 100 / 60 * 0.01)
    assert [round(one, 4) for one in terms] == [10_000.0, 0.0167, 0.0167]
    assert round(sum(terms), 2) == 10_000.03 and sum(terms) != 10_100
    assert round(1e9 / 3600, 2) == 277_777.78  # kB/s: the 277.78 MB/s that it says
    assert round(speed(1e9 * 1000, 3600) / MB, 2) == 277.78
    assert integrity(1, 1) == 1


def test_the_worked_example_computed_right() -> None:
    cost = Cost(
        storage_cost(1 * TB, GB, 0.01),
        backup_cost(1, HOUR, 0.01),
        restore_cost(HOUR, 0.01),
    )
    assert cost == Cost(10.0, 0.01, 0.01) and cost.total == pytest.approx(10.02)
    # At 100 MB/s it does not fit its window: it takes 2.8 hours, and would need 277.78 MB/s.
    assert round(window_needed(1 * TB, 100 * MB) / HOUR, 2) == 2.78
    assert round(needed_speed(1 * TB, HOUR) / MB, 2) == 277.78
    real = window_needed(1 * TB, 100 * MB)
    assert round(backup_cost(1, real, 0.01) + restore_cost(real, 0.01), 4) == 0.0556


@given(amounts, amounts, st.floats(1, 1e12), st.floats(0, 1e4))
def test_storage_costs_add_up_and_units_do_not_matter(
    one: float, other: float, unit: float, price: float
) -> None:
    together = storage_cost(one + other, unit, price)
    assert together == pytest.approx(
        storage_cost(one, unit, price) + storage_cost(other, unit, price)
    )
    assert together == pytest.approx(storage_cost((one + other) / 8, unit / 8, price))


@given(st.floats(1, 1e15), st.floats(1, 1e7))
def test_speed_and_window_are_each_others_inverse(data: float, seconds: float) -> None:
    assert window_needed(data, speed(data, seconds)) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "mistake",
    [
        lambda: storage_cost(-1, GB, 1),
        lambda: storage_cost(1, 0, 1),
        lambda: backup_cost(1, -1, 1),
        lambda: speed(1, 0),
        lambda: window_needed(1, 0),
        lambda: integrity(2, 1),
        lambda: integrity(-1, 1),
        lambda: prices_of("s3"),
    ],
)
def test_what_makes_no_sense_is_refused(mistake: Callable[[], object]) -> None:
    with pytest.raises(UsageError):
        mistake()


def test_nothing_is_wholly_good() -> None:
    assert integrity(0, 0) == 1


def test_a_month_at_a_store_is_what_its_bill_would_say() -> None:
    """100 GiB kept, 200 GiB of churn deleted after ten days, in infrequent access."""
    usage = Usage(
        stored_bytes=100 * GIB,
        objects=6400,
        writes=10_000,
        reads=5_000,
        read_bytes=5 * GIB,
        deleted_bytes=200 * GIB,
        deleted_age=timedelta(days=10),
        restored_bytes=10 * GIB,
        restore_reads=1_000,
    )
    cost = monthly_cost(prices_of("s3-standard-ia"), usage)
    early = 200 * 0.0125 * 20 / 30.4375
    assert cost.store == pytest.approx(1.25 + early)
    assert cost.backup == pytest.approx(0.1 + 0.005 + 0.05)
    assert cost.restore == pytest.approx(0.1 + 0.9 + 0.001)
    inside = Usage(restored_bytes=10 * GIB, egress=0)
    assert monthly_cost(prices_of("s3-standard-ia"), inside).total == pytest.approx(0.1)


def test_small_objects_are_paid_for_as_larger_ones() -> None:
    small = Usage(stored_bytes=1000 * 1024, objects=1000)
    least = monthly_cost(prices_of("s3-standard-ia"), small).store
    assert least == pytest.approx(1000 * 128 * 1024 / GIB * 0.0125)
    more = monthly_cost(prices_of("s3-deep-archive"), small).store
    assert more == pytest.approx(1000 * 41 * 1024 / GIB * 0.00099)
    assert monthly_cost(prices_of("s3-standard"), small).store == pytest.approx(
        1000 * 1024 / GIB * 0.023
    )


@given(st.sampled_from(sorted(PRICES)), amounts, amounts)
def test_more_never_costs_less(name: str, stored: float, restored: float) -> None:
    prices: StoragePrices = PRICES[name]
    less = monthly_cost(prices, Usage(stored, restored_bytes=restored))
    more = monthly_cost(prices, Usage(stored * 2, restored_bytes=restored * 2))
    assert more.total >= less.total >= 0
    assert more.total == pytest.approx(less.times(2).total)


def test_costs_add_up() -> None:
    assert Cost(1, 2, 3) + Cost(10, 20, 30) == Cost(11, 22, 33)


def test_prices_say_where_they_are_from() -> None:
    assert all(one.source and one.as_of.year >= 2025 for one in PRICES.values())

"""The kind of the next snapshot: a golden table."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import pytest

from backup_pipeline.engine.errors import UsageError
from backup_pipeline.plan import Tier, choose_kind


@dataclass(frozen=True)
class Made:
    """A snapshot as the choice sees it."""

    id: str
    kind: str
    chain: str
    day: date
    status: str
    sequence: int


def history(*lines: str) -> list[Made]:
    """Reads lines such as ``f1 full c1 22`` (November's day), with ``!`` where incomplete."""
    made: list[Made] = []
    for sequence, line in enumerate(lines):
        name, kind, chain, day, *flags = line.split()
        status = "incomplete" if flags else "complete"
        when = date(2026, 11, 1) + timedelta(days=int(day) - 1)
        made.append(Made(name, kind, chain, when, status, sequence))
    return made


def tier(kind: Any = "incremental", days: int | None = 28) -> Tier:
    full_every = None if days is None or kind == "full" else timedelta(days=days)
    return Tier(name="local", store="local", kind=kind, full_every=full_every)


TABLE: list[tuple[str, Tier, list[Made], int, str | None, tuple[str, str | None, str | None]]] = [
    ("the first is a full", tier(), history(), 22, None, ("full", None, None)),
    (
        "builds on the newest",
        tier(),
        history("f full c 1", "a incremental c 2", "b incremental c 3"),
        4,
        None,
        ("incremental", "b", "f"),
    ),
    (
        "a second run of a day builds on the first",
        tier(),
        history("f full c 1"),
        1,
        None,
        ("incremental", "f", "f"),
    ),
    (
        "one day before full_every still depends",
        tier(days=7),
        history("f full c 1", "a incremental c 7"),
        7,
        None,
        ("incremental", "a", "f"),
    ),
    (
        "at full_every the chain ends",
        tier(days=7),
        history("f full c 1", "a incremental c 7"),
        8,
        None,
        ("full", None, None),
    ),
    (
        "an hourly tier ends its chain with the day",
        tier(days=1),
        history("f full c 1", "a incremental c 1"),
        2,
        None,
        ("full", None, None),
    ),
    (
        "an incomplete full begins no chain",
        tier(),
        history("f full c 1 !"),
        2,
        None,
        ("full", None, None),
    ),
    (
        "an incomplete full leaves the chain before it",
        tier(),
        history("f full c 1", "a incremental c 2", "g full d 3 !", "h incremental d 3 !"),
        4,
        None,
        ("incremental", "a", "f"),
    ),
    (
        "an incomplete snapshot is passed over",
        tier(),
        history("f full c 1", "a incremental c 2", "b incremental c 3 !"),
        4,
        None,
        ("incremental", "a", "f"),
    ),
    (
        "the newest chain counts, not the older one's later commit",
        tier(),
        history("f full c 1", "g full d 8", "a incremental c 9"),
        10,
        None,
        ("incremental", "g", "g"),
    ),
    (
        "commit order counts, not days: a backfill of an early day",
        tier(),
        history("f full c 10", "a incremental c 12", "b incremental c 11"),
        9,
        None,
        ("incremental", "b", "f"),
    ),
    (
        "a full backfilled for an old day is the newest chain, and old at once",
        tier(days=7),
        history("f full c 20", "g full d 2"),
        21,
        None,
        ("full", None, None),
    ),
    (
        "a differential builds on the full alone",
        tier("differential"),
        history("f full c 1", "a differential c 2"),
        3,
        None,
        ("differential", "f", "f"),
    ),
    (
        "a differential's chain ends as well",
        tier("differential", 7),
        history("f full c 1"),
        8,
        None,
        ("full", None, None),
    ),
    ("a full tier", tier("full"), history("f full c 1"), 2, None, ("full", None, None)),
    (
        "a full tier's second run of the day",
        tier("full"),
        history("f full c 1", "g full d 2"),
        2,
        None,
        ("differential", "g", "g"),
    ),
    (
        "a full tier's third run of the day",
        tier("full"),
        history("g full d 2", "a differential d 2"),
        2,
        None,
        ("differential", "g", "g"),
    ),
    (
        "a full tier's second run after an incomplete one",
        tier("full"),
        history("g full d 2 !"),
        2,
        None,
        ("full", None, None),
    ),
    (
        "a full is asked for",
        tier(),
        history("f full c 1"),
        2,
        "full",
        ("full", None, None),
    ),
    (
        "a full is asked for again on a full tier's day",
        tier("full"),
        history("f full c 2"),
        2,
        "full",
        ("full", None, None),
    ),
    (
        "a differential is asked of an incremental tier",
        tier(),
        history("f full c 1", "a incremental c 2"),
        3,
        "differential",
        ("differential", "f", "f"),
    ),
    (
        "what is asked for does not stretch a chain",
        tier(days=7),
        history("f full c 1"),
        8,
        "incremental",
        ("full", None, None),
    ),
    (
        "a differential asked of a full tier without that day's full",
        tier("full"),
        history("f full c 1"),
        2,
        "differential",
        ("full", None, None),
    ),
]


@pytest.mark.parametrize(
    ("chosen", "made", "day", "requested", "expected"),
    [row[1:] for row in TABLE],
    ids=[row[0] for row in TABLE],
)
def test_the_kind_bounds_dependence(
    chosen: Tier,
    made: list[Made],
    day: int,
    requested: str | None,
    expected: tuple[str, str | None, str | None],
) -> None:
    when = date(2026, 11, 1) + timedelta(days=day - 1)
    for order in (made, list(reversed(made))):
        choice = choose_kind(chosen, order, when, requested)
        assert (choice.kind, choice.parent_id, choice.base_id) == expected
        assert choice.reason


def test_a_full_tier_refuses_incrementals() -> None:
    with pytest.raises(UsageError, match="tier local is full"):
        choose_kind(tier("full"), history("f full c 2"), date(2026, 11, 2), "incremental")


def test_an_unknown_kind_is_refused_with_a_suggestion() -> None:
    with pytest.raises(UsageError, match="did you mean 'incremental'"):
        choose_kind(tier(), [], date(2026, 11, 2), "incr")


def test_no_chain_outlives_full_every_in_a_year_of_daily_runs() -> None:
    chosen, made = tier(days=28), list[Made]()
    for offset in range(365):
        day = date(2026, 11, 22) + timedelta(days=offset)
        choice = choose_kind(chosen, made, day)
        chain = f"c{offset}" if choice.kind == "full" else made[-1].chain
        made.append(Made(f"s{offset}", choice.kind, chain, day, "complete", offset))
    fulls = [index for index, snapshot in enumerate(made) if snapshot.kind == "full"]
    assert fulls == list(range(0, 365, 28))

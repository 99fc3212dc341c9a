"""What a plan promises of sixty days, by rules of its own: the code under test is not asked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from backup_pipeline_tests.engine.trees import State

__all__ = [
    "BUSY",
    "CADENCE",
    "KEEP",
    "KEEP_SLICES_DAYS",
    "SLICES",
    "START",
    "STEADY",
    "ZONE",
    "Ledger",
    "Made",
    "best",
    "expected_days",
    "promised",
    "promised_slices",
]

ZONE = ZoneInfo("Europe/Berlin")  # its clocks are put forward in the middle
START = date(2026, 2, 20)
STEADY, BUSY, SLICES = "lake/steady", "lake/busy", "lake/slices"
KEEP: dict[str, dict[str, dict[str, int]]] = {
    STEADY: {
        "local": {"daily": 5, "weekly": 3},
        "cloud": {"weekly": 4, "monthly": 2},
        "vault": {"monthly": 6},
    },
    BUSY: {"local": {"last": 2, "hourly": 5, "daily": 4}, "cloud": {"daily": 9, "weekly": 2}},
    SLICES: {"local": {"last": 1}, "cloud": {"last": 1}},
}
KEEP_SLICES_DAYS = 20
CADENCE: dict[str, dict[str, dict[str, Any]]] = {
    STEADY: {
        "local": {"every": "day", "kind": "incremental", "full_every": "2 weeks"},
        "cloud": {
            "every": "week",
            "weekday": "sunday",
            "kind": "differential",
            "full_every": "4 weeks",
            "if_missed": "nearest",
        },
        "vault": {"every": "month", "day_of_month": 1, "kind": "full", "if_missed": "nearest"},
    },
    BUSY: {
        "local": {"every": "hour", "kind": "incremental", "full_every": "1 week"},
        "cloud": {"every": "day", "kind": "incremental", "full_every": "2 weeks"},
    },
    SLICES: {
        "local": {"every": "day", "kind": "full"},
        "cloud": {"every": "day", "kind": "full"},
    },
}


@dataclass
class Made:
    """An acknowledged snapshot."""

    id: str
    day: date
    captured_at: datetime
    timing: str
    sequence: int
    state: State


@dataclass
class Ledger:
    """What is known of one tier of one dataset."""

    made: dict[str, Made] = field(default_factory=dict[str, Made])
    expired: set[str] = field(default_factory=set[str])

    @property
    def live(self) -> set[str]:
        return self.made.keys() - self.expired


def better(one: Made) -> tuple[int, datetime, int]:
    """Of one day, the greatest is restored."""
    return ("late", "on-time", "exact").index(one.timing), one.captured_at, one.sequence


def best(found: Iterable[Made]) -> Made:
    return max(found, key=better)


def newest(found: Iterable[Made]) -> Made:
    return max(found, key=lambda one: (one.captured_at, one.sequence))


def promised(made: Iterable[Made], keep: Mapping[str, int]) -> set[str]:
    """Grandfather, father, son over all that was ever made of a whole dataset."""
    all_of_it = sorted(made, key=lambda one: (one.captured_at, one.sequence))
    periods: dict[str, Callable[[Made], Any]] = {
        "daily": lambda one: one.day,
        "weekly": lambda one: one.day - timedelta(days=one.day.weekday()),
        "monthly": lambda one: (one.day.year, one.day.month),
    }
    found = {one.id for one in all_of_it[-keep.get("last", 0) :]} if "last" in keep else set[str]()
    for rule, period in periods.items():
        there = sorted({period(one) for one in all_of_it}, reverse=True)[: keep.get(rule, 0)]
        for name in there:
            members = [one for one in all_of_it if period(one) == name]
            day = max(one.day for one in members)
            found.add(best(one for one in members if one.day == day).id)
    hours = [one.captured_at.replace(minute=0, second=0, microsecond=0) for one in all_of_it]
    for hour in sorted(set(hours), reverse=True)[: keep.get("hourly", 0)]:
        members = [one for one, at in zip(all_of_it, hours, strict=True) if at == hour]
        found.add(newest(members).id)
    return found | ({newest(all_of_it).id} if all_of_it else set())


def promised_slices(made: Iterable[Made], now: datetime) -> set[str]:
    """The newest version of each slice that is not too old."""
    found: set[str] = set()
    versions: dict[date, list[Made]] = {}
    for one in made:
        versions.setdefault(one.day, []).append(one)
    for day, members in versions.items():
        end = datetime.combine(day + timedelta(days=1), time(), ZONE)
        if end + timedelta(days=KEEP_SLICES_DAYS) > now:
            found.add(newest(members).id)
    return found


def expected_days(dataset: str, tier: str, until: date) -> list[date]:
    """The cadence days from the plan's start on."""
    days = [START + timedelta(days=n) for n in range((until - START).days + 1)]
    every = CADENCE[dataset][tier]["every"]
    if every == "week":
        return [day for day in days if day.weekday() == 6]
    return [day for day in days if day.day == 1] if every == "month" else days

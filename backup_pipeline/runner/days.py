"""Which day a run stands for and whose state may stand for it: decisions without I/O."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import date, datetime
from typing import Protocol, TypeVar

__all__ = [
    "LISTED_DAYS",
    "DatedSnapshot",
    "best_by_day",
    "describe_days",
    "is_good",
    "nearest_day",
    "rank",
]

LISTED_DAYS = 8
"""How many days a message lists by name before it says only how many there are."""

_TIMING_RANK = {"exact": 2, "on-time": 1, "late": 0}


class DatedSnapshot(Protocol):
    """What these decisions need to know of a snapshot."""

    @property
    def day(self) -> date: ...
    @property
    def status(self) -> str: ...
    @property
    def timing(self) -> str: ...
    @property
    def captured_at(self) -> datetime: ...
    @property
    def sequence(self) -> int: ...


S = TypeVar("S", bound=DatedSnapshot)


def is_good(snapshot: DatedSnapshot) -> bool:
    """Whether a snapshot holds all that its source listed."""
    return snapshot.status == "complete"


def rank(snapshot: DatedSnapshot) -> tuple[bool, int, datetime]:
    """Order among snapshots of one day, across tiers; the greatest is the day's.

    Complete before incomplete, exact before on time before late, then newest captured. (Within a
    repository the highest sequence decides what is still equal.)
    """
    return is_good(snapshot), _TIMING_RANK.get(snapshot.timing, 0), snapshot.captured_at


def best_by_day(snapshots: Iterable[S]) -> dict[date, S]:
    """The best good snapshot of each day of one repository; days without one are left out."""
    chosen: dict[date, S] = {}
    for snapshot in snapshots:
        if not is_good(snapshot):
            continue
        present = chosen.get(snapshot.day)
        rival = (rank(snapshot), snapshot.sequence)
        if present is None or rival > (rank(present), present.sequence):
            chosen[snapshot.day] = snapshot
    return chosen


def nearest_day(wanted: date, days: Iterable[date]) -> date | None:
    """The day nearest to ``wanted``; of two equally near, the earlier."""
    return min(days, key=lambda day: (abs((day - wanted).days), day), default=None)


def describe_days(days: Sequence[date], near: date | None = None) -> str:
    """Days as a message lists them: the nearest few by name, and how many there are in all."""
    if not days:
        return "none"
    ordered = sorted(set(days))
    if len(ordered) <= LISTED_DAYS:
        return ", ".join(day.isoformat() for day in ordered)
    pivot = near or ordered[-1]
    close = sorted(sorted(ordered, key=lambda day: abs((day - pivot).days))[:LISTED_DAYS])
    names = ", ".join(day.isoformat() for day in close)
    return f"{names} and {len(ordered) - len(close)} more"

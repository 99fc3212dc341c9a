"""The simulated days: around the first of a month, so that every cadence comes up.

Dagster knows no partitions that lie in the future, so the days are the latest that have passed.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

DAYS_BEFORE_THE_FIRST = 6
DAYS_AFTER_THE_FIRST = 1
SUNDAY = 6


class SimulatedClock:
    """A clock that stands still until it is set; what takes a clock can be given it."""

    def __init__(self, now: datetime) -> None:
        self.now = now

    def __call__(self) -> datetime:
        """The simulated time, UTC and aware."""
        return self.now

    def set(self, day: date, hour: int, minute: int = 0) -> None:
        """Go to an hour of a day, in UTC."""
        self.now = datetime.combine(day, time(hour, minute), tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Calendar:
    """Which days the story has and what happens on them.

    Attributes:
        days: The simulated days, one after another.
        first: The first of a month among them, when the monthly tier has its day.
        sunday: A Sunday among them, when the weekly tier has its day.
        missed: The day on which no backup ran.
    """

    days: tuple[date, ...]
    first: date
    sunday: date
    missed: date


def calendar(today: date) -> Calendar:
    """Lay the story around the latest first of a month that all its days have passed.

    Args:
        today: The real day, in UTC.
    """
    first = today.replace(day=1)
    if today <= first + timedelta(days=DAYS_AFTER_THE_FIRST + 1):
        first = (first - timedelta(days=1)).replace(day=1)
    start = first - timedelta(days=DAYS_BEFORE_THE_FIRST)
    count = DAYS_BEFORE_THE_FIRST + 1 + DAYS_AFTER_THE_FIRST
    days = tuple(start + timedelta(days=number) for number in range(count))
    # The last day is not closed when the story ends, so a Sunday there has nothing to copy yet.
    sunday = next(day for day in days[:-1] if day.weekday() == SUNDAY)
    missed = next(day for day in days[2:] if day not in (sunday, first))
    return Calendar(days, first, sunday, missed)

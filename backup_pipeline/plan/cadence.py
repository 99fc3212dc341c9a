"""Which days a tier has, when each closes, and when its runs are due: pure functions.

Cadence is counted in calendar days of the plan's time zone, so daylight saving moves when a day
begins and closes, never which days there are.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta, tzinfo
from typing import Literal, Protocol
from zoneinfo import ZoneInfo

__all__ = [
    "DAY_CLOSING_GRACE",
    "Cadence",
    "cadence_days",
    "cron",
    "day_closes_at",
    "due_day",
    "exclusions",
    "interval",
    "is_cadence_day",
    "last_due_day",
    "local_day",
    "next_run_time",
    "run_time",
    "waits_for_close",
    "window",
]

DAY_CLOSING_GRACE = timedelta(minutes=30)
"""After local midnight, how long a day stays open.

A run that started before midnight and reads past it still stands for the day it began on; and a
copying tier does not take a day away under a run that is finishing. Half an hour covers scheduler
delays; it is short enough that copies at 02:00 find the day closed in every time zone.
"""

_WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_INTERVALS = {
    "hour": timedelta(hours=1),
    "day": timedelta(days=1),
    "week": timedelta(days=7),
    "month": timedelta(days=31),
}
_LONGEST_GAP_DAYS = 31
_HOUR_AFTER_CLOSE = 2
"""An hourly tier whose runs wait for the day to close runs once, at this hour."""

Zone = str | tzinfo
Holds = Literal["whole", "slice"]


class Cadence(Protocol):
    """What these functions need to know of a tier."""

    @property
    def every(self) -> Literal["hour", "day", "week", "month"]: ...
    @property
    def at(self) -> time: ...
    @property
    def weekday(self) -> str | None: ...
    @property
    def day_of_month(self) -> int | None: ...
    @property
    def from_(self) -> str: ...


def _zone(tz: Zone) -> tzinfo:
    return ZoneInfo(tz) if isinstance(tz, str) else tz


def _midnight(day: date, tz: Zone) -> datetime:
    """Returns the instant at which a local day begins, in UTC.

    Where the clock skips midnight, that is the first instant of the day that there is.
    """
    return datetime.combine(day, time(), _zone(tz)).astimezone(UTC)


def interval(every: Literal["hour", "day", "week", "month"]) -> timedelta:
    """Returns the longest time between two cadence days (or hours)."""
    return _INTERVALS[every]


def waits_for_close(tier: Cadence, holds: Holds = "whole") -> bool:
    """Tells whether a tier takes a day only after it closed.

    Copying tiers do, and so does every tier of a dataset that holds slices.
    """
    return tier.from_ != "source" or holds == "slice"


def is_cadence_day(tier: Cadence, day: date) -> bool:
    """Tells whether a tier has a partition for a day."""
    if tier.every == "week":
        return day.weekday() == _WEEKDAYS.index(tier.weekday or "sunday")
    if tier.every == "month":
        return day.day == (tier.day_of_month or 1)
    return True


def cadence_days(tier: Cadence, start: date, end: date, tz: Zone | None = None) -> list[date]:
    """Lists a tier's days from ``start`` to ``end``, both included.

    Args:
        tier: The tier.
        start: The plan's first day.
        end: The last day to look at.
        tz: Taken so that all of this module is called alike; days do not depend on it.
    """
    count = (end - start).days + 1
    days = (start + timedelta(days=offset) for offset in range(count))
    return [day for day in days if is_cadence_day(tier, day)]


def exclusions(tier: Cadence, start: date | None = None, tz: Zone | None = None) -> list[str]:
    """Returns cron lines for the days on which a tier has no partition.

    For ``TimeWindowPartitionsDefinition(cron_schedule="0 0 * * *", exclusions=...)``, read in the
    plan's time zone.

    Args:
        tier: The tier.
        start: Taken so that all of this module is called alike; exclusions do not depend on it.
        tz: The same.
    """
    if tier.every == "week":
        kept = (_WEEKDAYS.index(tier.weekday or "sunday") + 1) % 7
        return [f"0 0 * * {_ranges(0, 6, kept)}"]
    if tier.every == "month":
        return [f"0 0 {_ranges(1, 31, tier.day_of_month or 1)} * *"]
    return []


def _ranges(first: int, last: int, kept: int) -> str:
    """Writes the numbers from first to last, but for one, as cron does."""
    below = (first, kept - 1)
    above = (kept + 1, last)
    spans = [span for span in (below, above) if span[0] <= span[1]]
    return ",".join(f"{a}-{b}" if a < b else f"{a}" for a, b in spans)


def cron(tier: Cadence, holds: Holds = "whole") -> str:
    """Returns the cron line of a tier's runs, in the plan's time zone.

    A tier that reads the source runs on its cadence days; one that waits for the day to close runs
    on the day after. Ask ``due_day`` at each tick: for a monthly tier on the 28th that runs the day
    after, the line also ticks on days on which nothing is due, since cron cannot say "the day
    after".
    """
    at = tier.at
    if tier.every == "hour":
        if waits_for_close(tier, holds):
            return f"{at.minute} {_HOUR_AFTER_CLOSE} * * *"
        return f"{at.minute} * * * *"
    shift = 1 if waits_for_close(tier, holds) else 0
    if tier.every == "week":
        weekday = (_WEEKDAYS.index(tier.weekday or "sunday") + 1 + shift) % 7
        return f"{at.minute} {at.hour} * * {weekday}"
    if tier.every == "month":
        day = (tier.day_of_month or 1) + shift
        return f"{at.minute} {at.hour} {'1,29' if day == 29 else day} * *"
    return f"{at.minute} {at.hour} * * *"


def local_day(now: datetime, tz: Zone) -> date:
    """Returns the local date of an instant.

    Args:
        now: An aware time.
        tz: The plan's time zone.
    """
    return now.astimezone(_zone(tz)).date()


def window(day: date, tz: Zone) -> tuple[datetime, datetime]:
    """Returns the instants at which a local day begins and ends, in UTC.

    A day has 23, 24 or 25 hours, or what else its zone decrees.
    """
    return _midnight(day, tz), _midnight(day + timedelta(days=1), tz)


def day_closes_at(day: date, tz: Zone) -> datetime:
    """Returns when a day closes, in UTC: local midnight and the grace."""
    return window(day, tz)[1] + DAY_CLOSING_GRACE


def run_time(tier: Cadence, day: date, tz: Zone, holds: Holds = "whole") -> datetime:
    """Returns when the (first) run for a cadence day is due, in UTC.

    Never before the day closed, for a tier that waits for that.
    """
    waits = waits_for_close(tier, holds)
    hour = tier.at.hour
    if tier.every == "hour":
        hour = _HOUR_AFTER_CLOSE if waits else 0
    local_date = day + timedelta(days=1 if waits else 0)
    local = datetime.combine(local_date, time(hour, tier.at.minute), _zone(tz))
    due = local.astimezone(UTC)
    return max(due, day_closes_at(day, tz)) if waits else due


def due_day(tier: Cadence, now: datetime, tz: Zone, holds: Holds = "whole") -> date | None:
    """Returns the day that a run started by the schedule now stands for.

    Returns:
        Today, or yesterday for a tier that waits for the day to close; None where that is no
        cadence day.
    """
    day = local_day(now, tz) - timedelta(days=1 if waits_for_close(tier, holds) else 0)
    return day if is_cadence_day(tier, day) else None


def last_due_day(
    tier: Cadence, start: date, now: datetime, tz: Zone, holds: Holds = "whole"
) -> date | None:
    """Returns the newest cadence day whose run was due by now; None where there is none yet."""
    day = local_day(now, tz)
    for offset in range(_LONGEST_GAP_DAYS + 2):
        candidate = day - timedelta(days=offset)
        if candidate < start:
            return None
        if is_cadence_day(tier, candidate) and run_time(tier, candidate, tz, holds) <= now:
            return candidate
    return None


def next_run_time(
    tier: Cadence, start: date, now: datetime, tz: Zone, holds: Holds = "whole"
) -> datetime | None:
    """Returns when a tier's schedule next starts a run, in UTC, after now.

    Args:
        tier: The tier.
        start: The plan's first day.
        now: An aware time.
        tz: The plan's time zone.
        holds: What a snapshot of the dataset holds.

    Returns:
        None where that is more than a cadence away, for a plan that starts later.
    """
    today = local_day(now, tz)
    if tier.every == "hour" and not waits_for_close(tier, holds) and today >= start:
        local = now.astimezone(_zone(tz)).replace(minute=tier.at.minute, second=0, microsecond=0)
        due = local.astimezone(UTC)
        return due if due > now else due + timedelta(hours=1)
    for offset in range(-2, _LONGEST_GAP_DAYS + 2):
        day = today + timedelta(days=offset)
        if day >= start and is_cadence_day(tier, day):
            due = run_time(tier, day, tz, holds)
            if due > now:
                return due
    return None

"""Which days a tier has, in every time zone and across changes of the clock."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from backup_pipeline.plan import Tier
from backup_pipeline.plan.cadence import (
    DAY_CLOSING_GRACE,
    cadence_days,
    cron,
    day_closes_at,
    due_day,
    exclusions,
    is_cadence_day,
    last_due_day,
    local_day,
    run_time,
    window,
)

ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Pacific/Auckland"]


def tier(every: str, from_: str = "source", **fields: Any) -> Tier:
    return Tier(name="t", store="t", every=every, from_=from_, **fields)  # type: ignore[arg-type]


TIERS = [
    tier("hour"),
    tier("day"),
    *(tier("week", weekday=day) for day in ("monday", "wednesday", "saturday", "sunday")),
    *(tier("month", day_of_month=day) for day in (1, 2, 15, 28)),
]


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("tier", TIERS, ids=lambda t: f"{t.every}-{t.weekday or t.day_of_month}")
def test_exclusions_leave_dagster_exactly_the_cadence_days(tier: Tier, zone: str) -> None:
    import dagster as dg

    start, end = date(2027, 1, 30), date(2028, 3, 5)  # two changes of the clock, a leap day
    partitions = dg.TimeWindowPartitionsDefinition(
        start=start.isoformat(),
        end=(end + timedelta(days=1)).isoformat(),
        cron_schedule="0 0 * * *",
        fmt="%Y-%m-%d",
        timezone=zone,
        exclusions=exclusions(tier, start, zone) or None,
    )
    keys = partitions.get_partition_keys(current_time=utc("2029-01-01T00:00:00"))
    assert keys == [day.isoformat() for day in cadence_days(tier, start, end, zone)]
    for key in keys[::7]:
        seen = partitions.time_window_for_partition_key(key)
        assert (seen.start, seen.end) == window(date.fromisoformat(key), zone)


@pytest.mark.parametrize(
    ("chosen", "days"),
    [
        (tier("day"), ["2026-11-27", "2026-11-28", "2026-11-29", "2026-11-30", "2026-12-01"]),
        (tier("hour"), ["2026-11-27", "2026-11-28", "2026-11-29", "2026-11-30", "2026-12-01"]),
        (tier("week", weekday="sunday"), ["2026-11-29"]),
        (tier("month", day_of_month=1), ["2026-12-01"]),
    ],
)
def test_days_include_both_ends(chosen: Tier, days: list[str]) -> None:
    found = cadence_days(chosen, date(2026, 11, 27), date(2026, 12, 1))
    assert [day.isoformat() for day in found] == days


def test_no_days_before_the_start() -> None:
    assert cadence_days(tier("day"), date(2026, 11, 22), date(2026, 11, 21)) == []


@pytest.mark.parametrize(
    ("zone", "day", "begins", "hours"),
    [
        ("UTC", "2027-03-28", "2027-03-28T00:00", 24),
        ("Europe/Berlin", "2027-03-28", "2027-03-27T23:00", 23),
        ("Europe/Berlin", "2027-10-31", "2027-10-30T22:00", 25),
        ("America/New_York", "2027-03-14", "2027-03-14T05:00", 23),
        ("America/New_York", "2027-11-07", "2027-11-07T04:00", 25),
        ("Asia/Kolkata", "2027-03-28", "2027-03-27T18:30", 24),
        ("Pacific/Auckland", "2027-04-04", "2027-04-03T11:00", 25),
        ("Pacific/Auckland", "2027-09-26", "2027-09-25T12:00", 23),
        ("Australia/Lord_Howe", "2027-04-04", "2027-04-03T13:00", 24.5),
        # Midnight itself is skipped: the day begins with its first instant, 01:00 local.
        ("Asia/Beirut", "2027-03-28", "2027-03-27T22:00", 23),
        # A whole day was skipped at the date line.
        ("Pacific/Apia", "2011-12-30", "2011-12-30T10:00", 0),
    ],
)
def test_a_day_is_as_long_as_its_zone_says(zone: str, day: str, begins: str, hours: float) -> None:
    start, end = window(date.fromisoformat(day), zone)
    assert start == utc(begins)
    assert end - start == timedelta(hours=hours)
    assert start.tzinfo is UTC
    assert day_closes_at(date.fromisoformat(day), zone) == end + DAY_CLOSING_GRACE


@pytest.mark.parametrize("zone", [*ZONES, "Asia/Beirut", "America/Havana"])
def test_every_instant_lies_in_the_window_of_its_local_day(zone: str) -> None:
    now = utc("2027-01-01T00:17:00")
    while now < utc("2028-01-01T00:00:00"):
        start, end = window(local_day(now, zone), zone)
        assert start <= now < end, (zone, now)
        now += timedelta(minutes=97)


def test_a_zone_may_be_given_as_an_object() -> None:
    now = utc("2026-11-22T23:30:00")
    assert local_day(now, ZoneInfo("Europe/Berlin")) == local_day(now, "Europe/Berlin")
    assert local_day(now, "Europe/Berlin") == date(2026, 11, 23)
    assert local_day(now, "America/New_York") == date(2026, 11, 22)


@pytest.mark.parametrize(
    ("chosen", "holds", "line"),
    [
        (tier("hour"), "whole", "0 * * * *"),
        (tier("hour", at=time(0, 15)), "whole", "15 * * * *"),
        (tier("hour", at=time(0, 15)), "slice", "15 2 * * *"),
        (tier("day"), "whole", "0 2 * * *"),
        (tier("day", at=time(23, 5)), "whole", "5 23 * * *"),
        (tier("day", "local"), "whole", "0 2 * * *"),
        (tier("week", weekday="sunday"), "whole", "0 2 * * 0"),
        (tier("week", "local", weekday="sunday"), "whole", "0 2 * * 1"),
        (tier("week", "local", weekday="saturday"), "whole", "0 2 * * 0"),
        (tier("month", day_of_month=1), "whole", "0 2 1 * *"),
        (tier("month", "local", day_of_month=1), "whole", "0 2 2 * *"),
        (tier("month", "local", day_of_month=28), "whole", "0 2 1,29 * *"),
    ],
)
def test_the_schedule_follows_the_cadence(chosen: Tier, holds: Any, line: str) -> None:
    assert cron(chosen, holds) == line


def ticks(line: str, now: datetime) -> bool:
    """Tells whether a cron line of numbers, lists and stars names this local time."""
    weekday = (now.weekday() + 1) % 7
    seen = (now.minute, now.hour, now.day, now.month, weekday)
    fields = zip(line.split(), seen, strict=True)
    return all(field == "*" or str(value) in field.split(",") for field, value in fields)


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("origin", ["source", "local"])
@pytest.mark.parametrize("shape", TIERS[1:], ids=lambda t: f"{t.every}-{t.weekday}")
def test_schedule_ticks_and_due_days_agree(shape: Tier, origin: str, zone: str) -> None:
    """Ticking by the cron line for a year makes every cadence day due exactly once."""
    days = {"weekday": shape.weekday, "day_of_month": shape.day_of_month}
    chosen = tier(shape.every, origin, at=time(4, 0), **days)
    first, last = date(2027, 1, 29), date(2028, 3, 10)
    now, end = window(first, zone)[0], window(last, zone)[1]
    due: list[date] = []
    while now < end:
        day = due_day(chosen, now, zone)
        if day is not None and ticks(cron(chosen), now.astimezone(ZoneInfo(zone))):
            due.append(day)
            assert run_time(chosen, day, zone) == now
        now += timedelta(hours=1)
    shift = timedelta(days=0 if origin == "source" else 1)
    assert due == cadence_days(chosen, first - shift, last - shift)


def test_a_run_for_a_closed_day_is_never_due_before_the_day_closed() -> None:
    early = tier("day", "local", at=time(0, 5))
    day = date(2026, 11, 22)
    assert run_time(early, day, "Europe/Berlin") == day_closes_at(day, "Europe/Berlin")


@pytest.mark.parametrize(
    ("chosen", "now", "expected"),
    [
        (tier("day"), "2026-11-25T01:59", "2026-11-24"),
        (tier("day"), "2026-11-25T02:00", "2026-11-25"),
        (tier("day", "local"), "2026-11-25T02:00", "2026-11-24"),
        (tier("day", "local"), "2026-11-25T01:59", "2026-11-23"),
        (tier("week", "local", weekday="sunday"), "2026-11-30T01:59", "2026-11-22"),
        (tier("week", "local", weekday="sunday"), "2026-11-30T02:00", "2026-11-29"),
        (tier("month", "local", day_of_month=1), "2026-12-02T01:00", None),
        (tier("month", "local", day_of_month=1), "2027-01-02T01:00", "2026-12-01"),
    ],
)
def test_the_newest_day_that_was_due(chosen: Tier, now: str, expected: str | None) -> None:
    found = last_due_day(chosen, date(2026, 11, 20), utc(now), "UTC")
    assert (found.isoformat() if found else None) == expected


def test_a_day_that_is_not_due_is_no_cadence_day() -> None:
    weekly = tier("week", weekday="sunday")
    assert due_day(weekly, utc("2026-11-22T02:00"), "UTC") == date(2026, 11, 22)
    assert due_day(weekly, utc("2026-11-23T02:00"), "UTC") is None
    assert not is_cadence_day(weekly, date(2026, 11, 23))

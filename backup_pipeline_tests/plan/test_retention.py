"""Which snapshots retention keeps, and why: golden tables, and what holds for any history."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backup_pipeline.plan import load_plan
from backup_pipeline.plan.model import Keep
from backup_pipeline.plan.retention import Protection, awaited_days, decide, worth

UTC_ZONE = ZoneInfo("UTC")
NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


@dataclass(frozen=True)
class Made:
    """A snapshot as retention sees it."""

    id: str
    day: date
    captured_at: datetime
    finished_at: datetime
    status: str = "complete"
    timing: str = "on-time"
    base: str | None = None
    sequence: int = 0


def made(*lines: str) -> list[Made]:
    """Reads lines such as ``a 11-22 [03:00] [+2 read so many days later] [!] [late] [<base]``."""
    found: list[Made] = []
    for sequence, line in enumerate(lines):
        name, day_text, *flags = line.split()
        day = date.fromisoformat(f"2026-{day_text}")
        time, later = "02:00", 0
        said: dict[str, Any] = {}
        for flag in flags:
            if ":" in flag:
                time = flag
            elif flag.startswith("+"):
                later = int(flag[1:])
            elif flag == "!":
                said["status"] = "incomplete"
            elif flag.startswith("<"):
                said["base"] = flag[1:]
            else:
                said["timing"] = flag
        read = datetime.fromisoformat(f"{day + timedelta(days=later)}T{time}:00+00:00")
        found.append(Made(name, day, read, read, sequence=sequence, **said))
    return found


def daily(first: str, last: str) -> list[Made]:
    """One snapshot a day, named by month and day."""
    begin, end = (date.fromisoformat(f"2026-{text}") for text in (first, last))
    days = [begin + timedelta(days=number) for number in range((end - begin).days + 1)]
    return made(*(f"{day:%m%d} {day:%m-%d}" for day in days))


def kept(snapshots: Sequence[Made], keep: Keep, **more: Any) -> dict[str, str]:
    verdicts = decide(snapshots, keep, now=NOW, zone=more.pop("zone", UTC_ZONE), **more)
    return {one.snapshot.id: "; ".join(one.reasons) for one in verdicts if one.kept}


def gone(snapshots: Sequence[Made], keep: Keep, **more: Any) -> dict[str, str]:
    verdicts = decide(snapshots, keep, now=NOW, zone=more.pop("zone", UTC_ZONE), **more)
    return {one.snapshot.id: one.reasons[0] for one in verdicts if not one.kept}


TABLE: list[tuple[str, list[Made], Keep, dict[str, str]]] = [
    (
        "grandfather, father, son",
        daily("09-01", "11-22"),
        Keep(daily=3, weekly=3, monthly=3),
        {
            "0930": "monthly 3 of 3",
            "1031": "monthly 2 of 3",
            "1108": "weekly 3 of 3",
            "1115": "weekly 2 of 3",
            "1120": "daily 3 of 3",
            "1121": "daily 2 of 3",
            "1122": "daily 1 of 3; weekly 1 of 3; monthly 1 of 3; the newest good one",
        },
    ),
    (
        "periods without a snapshot do not count",
        made("a 01-31", "b 02-28", "c 07-01", "d 11-22"),
        Keep(monthly=3),
        {
            "b": "monthly 3 of 3",
            "c": "monthly 2 of 3",
            "d": "monthly 1 of 3; the newest good one",
        },
    ),
    (
        "of a day's snapshots the best stays: complete, exact, on time, late, then newest",
        made("a 11-22 01:00 exact", "b 11-22 02:00", "c 11-22 03:00 late", "d 11-22 04:00 !"),
        Keep(daily=1),
        {
            "a": "daily 1 of 1",
            "c": "the newest good one",
            "d": "incomplete, and newer than any good one",
        },
    ),
    (
        "hours are counted by when they were read",
        made("a 11-22 01:05", "b 11-22 01:55", "c 11-22 02:10", "d 11-22 05:00"),
        Keep(hourly=3),
        {
            "b": "hourly 3 of 3",
            "c": "hourly 2 of 3",
            "d": "hourly 1 of 3; the newest good one",
        },
    ),
    (
        "last counts snapshots",
        made("a 11-22 01:00", "b 11-22 01:10", "c 11-22 01:20"),
        Keep(last=2),
        {"b": "last 2 of 2", "c": "last 1 of 2; the newest good one"},
    ),
    (
        "an incomplete one stands in where its day has nothing better, and is not counted",
        made("a 11-19", "b 11-20", "c 11-21 !", "d 11-22"),
        Keep(daily=2),
        {
            "b": "daily 2 of 2",
            "c": "daily, though incomplete: its period has no good one",
            "d": "daily 1 of 2; the newest good one",
        },
    ),
    (
        "the full of a kept snapshot's chain stays",
        made("f 11-01", "g 11-02 <f", "h 11-21 <f", "i 11-22 <f"),
        Keep(daily=2),
        {
            "f": "2 kept snapshots build on it",
            "h": "daily 2 of 2",
            "i": "daily 1 of 2; the newest good one",
        },
    ),
    (
        "a backfilled old day is newest by its reading, and not by its day",
        made("a 11-22", "b 11-01 +20 late"),
        Keep(daily=1),
        {"a": "daily 1 of 1; the newest good one"},
    ),
    (
        "a year has the ISO week that its days are in",
        made("a 01-01", "b 01-04", "c 01-05"),
        Keep(weekly=2),
        {"b": "weekly 2 of 2", "c": "weekly 1 of 2; the newest good one"},
    ),
]


@pytest.mark.parametrize(
    ("snapshots", "keep", "expected"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE]
)
def test_keeps(snapshots: list[Made], keep: Keep, expected: dict[str, str]) -> None:
    assert kept(snapshots, keep) == expected


def test_what_goes_is_said_why() -> None:
    snapshots = made("a 11-20", "b 11-22 01:00", "c 11-22 02:00")
    assert gone(snapshots, Keep(daily=1, yearly=1)) == {
        "a": "beyond keep: daily 1, yearly 1",
        "b": "2026-11-22 is served by c",
    }


def test_hours_are_those_of_the_zone_also_where_one_comes_twice() -> None:
    # In Berlin the hour from 02:00 comes twice on 25 October 2026.
    snapshots = made("a 10-25 00:30", "b 10-25 01:30", "c 10-25 02:30")
    found = kept(snapshots, Keep(hourly=3), zone=ZoneInfo("Europe/Berlin"))
    assert set(found) == {"a", "b", "c"}


def test_pins_holds_locks_and_waiting_tiers_keep() -> None:
    snapshots = daily("11-18", "11-22")
    protection = Protection(
        pinned={"1118": "the release"},
        lock=timedelta(days=3, hours=11),
        awaited={date(2026, 11, 19): ["cloud"]},
    )
    assert kept(snapshots, Keep(daily=1), protection=protection) == {
        "1118": "pinned: the release",
        "1119": "tier cloud has still to copy 2026-11-19",
        "1120": "locked until 2026-11-23",
        "1121": "locked until 2026-11-24",
        "1122": "daily 1 of 1; the newest good one; locked until 2026-11-25",
    }
    assert len(kept(snapshots, Keep(daily=1), protection=Protection(legal_hold="case 7"))) == 5


def test_of_a_day_that_a_tier_waits_for_only_the_best_is_kept() -> None:
    snapshots = made("a 11-20 01:00", "b 11-20 02:00", "c 11-22")
    protection = Protection(awaited={date(2026, 11, 20): ["cloud"]})
    assert set(kept(snapshots, Keep(daily=1), protection=protection)) == {"b", "c"}


def test_slices_go_by_their_age_alone_and_versions_by_the_rules() -> None:
    snapshots = made(
        "a 01-01 +1", "b 01-01 +5", "c 11-01 +1", "d 11-01 +2", "e 11-01 +3", "f 11-02 +1 !"
    )
    for_ever = kept(snapshots, Keep(daily=2), slices=True)
    assert for_ever == {
        "a": "daily 2 of 2",
        "b": "daily 1 of 2; the newest good version of its slice",
        "d": "daily 2 of 2",
        "e": "daily 1 of 2; the newest good version of its slice",
        "f": "daily, though incomplete: its period has no good one; "
        "incomplete, and newer than any good one",
    }
    a_month = {"slices": True, "keep_slices": timedelta(days=28)}
    assert gone(snapshots, Keep(daily=2), **a_month) == {
        "a": "its slice is older than keep_slices, 4 weeks",
        "b": "its slice is older than keep_slices, 4 weeks",
        "c": "2026-11-01 is served by e",
    }


KEEPS = st.builds(Keep, *(st.integers(0, 4) for _ in Keep.__slots__))
HISTORIES = st.lists(
    st.tuples(
        st.integers(0, 500),
        st.integers(0, 47),
        st.sampled_from(["complete", "complete", "complete", "incomplete"]),
        st.sampled_from(["exact", "on-time", "late"]),
        st.integers(-1, 6),
    ),
    max_size=40,
)


def built(history: list[tuple[int, int, str, str, int]]) -> list[Made]:
    found: list[Made] = []
    for sequence, (ago, half_hours, status, timing, back) in enumerate(history):
        day = date(2026, 11, 22) - timedelta(days=ago)
        read = datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(hours=half_hours / 2)
        base = found[-1 - back].id if 0 <= back < len(found) else None
        found.append(Made(f"{sequence:08}", day, read, read, status, timing, base, sequence))
    return found


@given(HISTORIES, KEEPS)
def test_any_history_keeps_its_newest_good_one_and_is_stable(
    history: list[tuple[int, int, str, str, int]], keep: Keep
) -> None:
    snapshots = built(history)
    verdicts = decide(snapshots, keep, now=NOW, zone=UTC_ZONE)
    assert sorted(one.snapshot.id for one in verdicts) == [one.id for one in snapshots]
    staying = [one.snapshot for one in verdicts if one.kept]
    good = [one for one in snapshots if one.status == "complete"]
    if good:
        assert max(good, key=lambda one: (one.captured_at, one.sequence)) in staying
    else:
        assert staying == [one.snapshot for one in verdicts], "in doubt, all stay"
    # Each rule has as many of its periods as there are, up to its count.
    for name, period in (("daily", "%F"), ("monthly", "%Y-%m"), ("yearly", "%Y")):
        there = {one.day.strftime(period) for one in good}
        held = {one.day.strftime(period) for one in staying if one.status == "complete"}
        newest = sorted(there, reverse=True)[: getattr(keep, name)]
        assert set(newest) <= held, f"{name} lacks {set(newest) - held}"
    again = decide(staying, keep, now=NOW, zone=UTC_ZONE)
    assert all(one.kept for one in again), "what was kept is kept the next time"


def test_a_missing_day_is_worth_having_only_if_retention_would_keep_it() -> None:
    there = daily("11-16", "11-22")[:3] + daily("11-16", "11-22")[4:]
    lacking = [date(2026, 11, 19), date(2026, 11, 1), date(2026, 10, 1)]
    assert worth(lacking, there, Keep(daily=8), zone=UTC_ZONE) == {
        date(2026, 11, 19),
        date(2026, 11, 1),
    }
    assert worth(lacking, there, Keep(daily=6), zone=UTC_ZONE) == {date(2026, 11, 19)}


PLAN: dict[str, Any] = {
    "start": "2026-09-01",
    "stores": {"local": "/srv/a", "cloud": "/srv/b", "offsite": "/srv/c"},
    "policies": {
        "default": {
            "tiers": [
                {"name": "local", "keep": {"daily": 2}},
                {"name": "cloud", "every": "week", "weekday": "sunday", "keep": {"weekly": 3}},
                {
                    "name": "offsite",
                    "every": "month",
                    "kind": "full",
                    "if_missed": "nearest",
                    "keep": {"monthly": 2},
                },
            ]
        }
    },
    "datasets": [{"asset": "a", "source": "/data/a"}],
}


def awaited(stored: dict[str, Sequence[Made] | None], tier: str = "local") -> dict[str, list[str]]:
    plan = load_plan(PLAN, environ={})
    dataset = plan.dataset("a")
    found = awaited_days(
        dataset, dataset.tier(tier), stored, start=plan.start, now=NOW, zone=plan.zone
    )
    return {f"{day:%m-%d}": tiers for day, tiers in found.items()}


def test_a_day_waits_for_each_later_tier_that_lacks_it_and_would_keep_it() -> None:
    local = daily("10-20", "11-22")
    copied = made("x 11-15", "y 11-01")
    assert awaited({"local": local, "cloud": copied, "offsite": made("z 11-01")}) == {
        "11-08": ["cloud"],
        "11-22": ["cloud"],
        "10-20": ["offsite"],  # the nearest to the first of October
    }
    assert awaited({"local": local, "cloud": None, "offsite": None}) == {
        "11-08": ["cloud"],
        "11-15": ["cloud"],
        "11-22": ["cloud"],
        "11-01": ["offsite"],
        "10-20": ["offsite"],
    }, "a tier that cannot be asked may lack all"


def test_another_tier_keeps_a_day_only_where_the_one_copied_from_lacks_it() -> None:
    stored = {"local": made("a 11-22"), "cloud": made("b 11-01", "c 11-22"), "offsite": ()}
    assert awaited(stored, "cloud") == {"11-01": ["offsite"]}

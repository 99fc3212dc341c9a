"""What follows from evidence: risks, conditions, 3-2-1-1-0 and coverage, as tables."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import pytest

from backup_pipeline.plan import Tier
from backup_pipeline.plan.cadence import next_run_time
from backup_pipeline.posture.conditions import MISSED_DAYS, at_risk, conditions
from backup_pipeline.posture.copies import Origin, judge_copies, whereabouts
from backup_pipeline.posture.coverage import cover
from backup_pipeline.posture.model import DatasetPosture, Posture
from backup_pipeline.posture.tier import LockFacts, Proof, TierPosture

HOUR = 3600.0
NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
HERE = Origin("disk", "here")


def tier(name: str = "local", **said: Any) -> TierPosture:
    """A daily tier that ran at two o'clock this morning and keeps its RPO of 26 hours."""
    usual: dict[str, Any] = {
        "media": "disk",
        "site": "here",
        "newest": NOW.replace(hour=2),
        "age_s": 10 * HOUR,
        "rpo_s": 26 * HOUR,
        "fresh": True,
        "next_run": NOW.replace(hour=2) + timedelta(days=1),
    }
    return TierPosture("vision/a", name, "file:///srv", **usual | said)


def posture(*tiers: TierPosture) -> Posture:
    copies = judge_copies(HERE, tiers, NOW)
    return Posture(NOW, 30, "UTC", [DatasetPosture("vision/a", "default", tiers, copies)])


# -- RPO at risk


def aged(hours: float, **said: Any) -> TierPosture:
    return tier(newest=NOW - timedelta(hours=hours), age_s=hours * HOUR, **said)


@pytest.mark.parametrize(
    ("one", "expected"),
    [
        (tier(), None),
        # Last night's run brought nothing: the next one comes 38 hours after the last snapshot.
        (aged(24, fresh=True), "breaks in 2 h, before the next run at 2026-11-23 02:00"),
        # The next run is in time by a minute.
        (aged(12, next_run=NOW + timedelta(hours=13, minutes=59)), None),
        (aged(12, next_run=NOW + timedelta(hours=14, seconds=1)), "breaks in 14 h"),
        # What is broken is no risk any more, what was never promised none either.
        (aged(30, fresh=False), None),
        (aged(24, rpo_s=None), None),
        # Nothing is known of a tier that nobody could ask.
        (tier(newest=None, age_s=None, fresh=False), None),
    ],
)
def test_an_rpo_is_at_risk_when_the_next_run_comes_too_late(
    one: TierPosture, expected: str | None
) -> None:
    said = at_risk(one)
    assert said is None if expected is None else expected in str(said)


def test_a_share_of_the_rpo_may_be_a_risk_too() -> None:
    one = aged(21, next_run=NOW + timedelta(hours=1))
    assert at_risk(one) is None
    assert at_risk(one, 0.85) is None
    assert "81% of the RPO" in str(at_risk(one, 0.8))


# -- what needs a person


def test_each_trouble_is_a_condition_with_a_key_of_its_own() -> None:
    bad = Proof(NOW, ok=False, errors=2)
    lately = NOW.date() - timedelta(days=1)
    long_ago = NOW.date() - timedelta(days=MISSED_DAYS + 1)
    found = conditions(
        posture(
            aged(30, fresh=False, verified=bad, drilled=bad, incomplete=3),
            tier("cloud", missing_days=[long_ago, lately], flags=["suspicious: much is gone"]),
            tier("away", newest=None, age_s=None, fresh=False, error="no answer", reachable=False),
        )
    )
    assert {one.key: one.kind for one in found} == {
        "rpo:vision/a:local": "rpo_missed",
        "incomplete:vision/a:local": "failed",
        "verify:vision/a:local": "failed",
        "drill:vision/a:local": "failed",
        "flag suspicious: much:vision/a:cloud": "failed",
        f"missed {lately}:vision/a:cloud": "missed_day",
        "unreachable:vision/a:away": "failed",
    }
    assert found[0].kind == "rpo_missed", "the worst comes first"
    assert "broken by 4 h" in found[0].says


def test_nothing_needs_a_person_where_all_is_well() -> None:
    assert conditions(posture(tier(), tier("cloud"))) == []


def test_a_damaged_log_is_a_failure_and_not_a_missed_rpo() -> None:
    (one,) = conditions(posture(tier(fresh=False, error="damaged: record 7 is missing")))
    assert (one.key, one.kind) == ("damaged:vision/a:local", "failed")


# -- 3-2-1-1-0


GOOD = Proof(NOW, ok=True)
LOCKED = LockFacts("compliance", 90, NOW + timedelta(days=1))
AWAY: dict[str, Any] = {"media": "object storage", "site": "AWS eu-west-1"}


@pytest.mark.parametrize(
    ("tiers", "figures", "met"),
    [
        ([], "1-1-0-0-?", ""),
        ([tier()], "2-1-0-0-?", ""),
        ([tier(), tier("cloud", **AWAY)], "3-2-1-0-?", "copies media offsite"),
        (
            [tier(verified=GOOD), tier("cloud", **AWAY, verified=GOOD, lock=LOCKED)],
            "3-2-1-1-0",
            "copies media offsite locked errors",
        ),
        # A verification that found something; one tier that was never verified hides nothing.
        (
            [tier(verified=replace(GOOD, ok=False, errors=2)), tier("cloud", **AWAY)],
            "3-2-1-0-2",
            "copies media offsite",
        ),
        # What could not be asked, or has nothing good in it, is no copy.
        ([tier(), tier("cloud", **AWAY, error="no answer")], "2-1-0-0-?", ""),
        ([tier(), tier("cloud", **AWAY, newest=None)], "2-1-0-0-?", ""),
        # A lock that has run out locks nothing.
        (
            [tier(), tier("cloud", **AWAY, lock=LockFacts("compliance", 9, NOW))],
            "3-2-1-0-?",
            "copies media offsite",
        ),
        # A lock that only the plan speaks of is none.
        ([tier(lock=LockFacts(planned="compliance, 90 days"))], "2-1-0-0-?", ""),
    ],
)
def test_copies_are_counted_by_evidence(tiers: list[TierPosture], figures: str, met: str) -> None:
    copies = judge_copies(HERE, tiers, NOW)
    assert copies.figures == figures
    assert [rule.name for rule in copies.rules if rule.met] == met.split()
    assert copies.met == (figures == "3-2-1-1-0")


@pytest.mark.parametrize(
    ("url", "settings", "expected"),
    [
        ("/srv/backups", {}, HERE),
        ("file:///srv/backups", {"region": "eu-west-1"}, HERE),
        ("s3://acme/b", {"region": "eu-west-1"}, Origin("object storage", "AWS eu-west-1")),
        (
            "s3://b",
            {"endpoint": "https://s3.example.net:9000", "region": "x"},
            Origin("object storage", "s3.example.net:9000 x"),
        ),
        ("s3://b", {"endpoint": "http://127.0.0.1:9000"}, Origin("object storage", "here")),
        ("s3://b", {"endpoint": "http://localhost:9000"}, Origin("object storage", "here")),
    ],
)
def test_a_url_tells_the_medium_and_the_site(
    url: str, settings: dict[str, str], expected: Origin
) -> None:
    assert whereabouts(url, settings) == expected


# -- coverage


def test_coverage_counts_what_depends_on_each_unprotected_asset() -> None:
    parents: dict[str, list[str]] = {
        "raw/a": [],
        "raw/b": [],
        "clean": ["raw/a", "raw/b"],
        "model": ["clean"],
        "report": ["model", "clean"],
        "tmp": ["raw/a"],
    }
    found = cover(
        parents,
        {"raw/a", "model", "gone"},
        exempt={"tmp": "scratch"},
        without_lineage={"elsewhere", "model"},
    )
    assert (found.assets, found.protected) == (7, 2)
    assert found.exempt == {"tmp": "scratch"}
    assert found.unknown == ["gone"]
    assert [(one.asset, one.downstream, one.upstream) for one in found.unprotected] == [
        ("raw/b", 3, 0),
        ("clean", 2, 2),
        ("elsewhere", None, None),
        ("report", 0, 2),
    ]
    assert type(found).from_json(found.to_json()) == found


def test_coverage_survives_a_ring() -> None:
    found = cover({"a": ["b"], "b": ["a"]}, set())
    assert [(one.asset, one.downstream) for one in found.unprotected] == [("a", 1), ("b", 1)]


# -- the next run


@pytest.mark.parametrize(
    ("rules", "now", "expected"),
    [
        ({}, "2026-11-22T12:00", "2026-11-23T01:00"),
        ({}, "2026-11-22T00:59", "2026-11-22T01:00"),
        ({}, "2026-11-22T01:00", "2026-11-23T01:00"),
        ({"every": "hour", "at": time(0, 20)}, "2026-11-22T12:00", "2026-11-22T12:20"),
        ({"every": "hour", "at": time(0, 20)}, "2026-11-22T12:20", "2026-11-22T13:20"),
        # Sunday the 22nd is copied on Monday, the 1st on the 2nd.
        ({"every": "week", "weekday": "sunday", "from_": "a"}, "2026-11-22T12:00", "11-23T01:00"),
        ({"every": "week", "weekday": "sunday", "from_": "a"}, "2026-11-23T01:00", "11-30T01:00"),
        ({"every": "month", "day_of_month": 1, "from_": "a"}, "2026-11-03T00:00", "12-02T01:00"),
    ],
)
def test_the_next_run_is_the_schedules(rules: dict[str, Any], now: str, expected: str) -> None:
    one = Tier("local", "local", **rules)
    moment = datetime.fromisoformat(now).replace(tzinfo=UTC)
    due = next_run_time(one, date(2026, 1, 1), moment, "Europe/Berlin")
    assert due is not None
    assert due.isoformat().endswith(f"{expected.removeprefix('2026-')}:00+00:00")


def test_a_plan_of_next_year_has_no_next_run() -> None:
    one = Tier("local", "local")
    assert next_run_time(one, date(2027, 6, 1), NOW, "UTC") is None

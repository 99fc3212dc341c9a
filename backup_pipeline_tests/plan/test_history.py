"""Edits that would hide days with backups are told, unless they are accepted by name."""

from __future__ import annotations

from typing import Any

import pytest

from backup_pipeline.plan import Plan, history_conflicts, load_plan

BASE: dict[str, Any] = {
    "start": "2026-11-22",
    "timezone": "Europe/Berlin",
    "stores": {"local": "/srv/b", "cloud": "s3://c/p"},
    "policies": {
        "default": {
            "tiers": [
                {"name": "local", "every": "day"},
                {"name": "cloud", "every": "week", "weekday": "sunday"},
            ]
        }
    },
    "datasets": [
        {"asset": "k/a", "source": "/d"},
        {"asset": "k/b", "source": {"kafka": {}}},
    ],
}


def plan(**parts: Any) -> Plan:
    return load_plan({**BASE, **parts}, environ={})


def tiers(local: dict[str, Any], cloud: dict[str, Any]) -> dict[str, Any]:
    listed = [{"name": "local", **local}, {"name": "cloud", **cloud}]
    return {"policies": {"default": {"tiers": listed}}}


SUNDAYS = {"every": "week", "weekday": "sunday"}


@pytest.mark.parametrize(
    ("change", "paths"),
    [
        ({}, []),
        ({"timezone": "UTC"}, ["timezone"]),
        ({"start": "2026-11-23"}, ["start"]),
        ({"start": "2026-11-01"}, []),
        (tiers({"every": "hour"}, SUNDAYS), []),
        (tiers({"at": "04:00"}, SUNDAYS), []),
        (tiers({}, {"every": "day"}), []),
        (
            tiers({}, {"every": "week", "weekday": "monday"}),
            ["datasets.k/a.tiers.cloud", "datasets.k/b.tiers.cloud"],
        ),
        (
            tiers({"every": "week"}, SUNDAYS),
            ["datasets.k/a.tiers.local", "datasets.k/b.tiers.local"],
        ),
        ({"datasets": BASE["datasets"][:1]}, []),
        (
            {"datasets": [BASE["datasets"][0], {**BASE["datasets"][1], "holds": "slice"}]},
            ["datasets.k/b.holds"],
        ),
        ({"timezone": "UTC", "accept_history_change": ["timezone"]}, []),
        ({"timezone": "UTC", "accept_history_change": ["start"]}, ["timezone"]),
        ({**tiers({"every": "week"}, SUNDAYS), "accept_history_change": ["local"]}, []),
        (
            {**tiers({"every": "week"}, SUNDAYS), "accept_history_change": ["k/a"]},
            ["datasets.k/b.tiers.local"],
        ),
    ],
)
def test_a_change_that_hides_days_is_told(change: dict[str, Any], paths: list[str]) -> None:
    problems = history_conflicts(plan().history(), plan(**change).history())
    assert [problem.path for problem in problems] == paths
    assert all("accept" in (problem.suggestion or "") for problem in problems)


def test_the_key_is_stable_and_knows_only_what_decides_days() -> None:
    key = plan().history_key()
    assert key == "c08af66577413bd88c6165665b5f1da6313f0c42eaa789f9880258cfee1b81b2"
    assert plan(**tiers({"at": "05:00", "keep": {"daily": 1}}, SUNDAYS)).history_key() == key
    assert plan(datasets=list(reversed(BASE["datasets"]))).history_key() == key
    assert plan(accept_history_change=["start"]).history_key() == key
    assert plan(timezone="UTC").history_key() != key
    assert plan(**tiers({}, {"every": "day"})).history_key() != key

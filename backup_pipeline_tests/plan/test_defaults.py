"""What a plan says by saying little: defaults, presets, overrides and environments."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date, time, timedelta
from pathlib import Path
from typing import Any

import pytest

from backup_pipeline.engine.errors import PlanError, UsageError
from backup_pipeline.plan import PRESETS, Drill, Keep, Lock, OnChange, Plan, load_plan, starter_plan
from backup_pipeline.plan.references import Reference

THREE_LINES = """\
start: 2026-11-22
stores: {local: file:///srv/backups}
datasets: [{asset: vision/train_images, source: /data/images}]
"""

WHOLE = """\
start: 2026-11-22
timezone: Europe/Berlin
deployment: {env: BACKUP_ENV, default: dev}
environments:
  dev: {automation: false, stores: {cloud: {url: "file:///srv/dev-cloud"}}}
stores:
  local: file:///srv/backups
  cloud: {url: {env: BACKUP_CLOUD_URL}, region: eu-west-1}
  offsite: {url: "s3://acme-dr/prod", region: us-east-1, lock: {mode: compliance, days: 90}}
scratch: {url: "file:///srv/restore", max: 500 GiB}
keys: {main: {passphrase: {env: BACKUP_PASSPHRASE}}}
policies:
  default:
    tiers:
      - {name: local, every: day, at: "02:00", kind: incremental, full_every: 4 weeks, keep: {daily: 7}}
      - {name: cloud, every: week, weekday: sunday, kind: incremental, if_missed: nearest, keep: {weekly: 12}}
      - {name: offsite, every: month, kind: full, keep: {monthly: 12}}
    on_change: {at_most_every: 1 hour}
    rpo: {local: 26 hours, cloud: 8 days}
    rto: 1 hour
    drill: {every: week, sample: 5%}
    run: {tags: {}, on_overlap: skip}
  stream:
    tiers:
      - {name: local, every: hour, kind: incremental, full_every: 1 day, keep: {daily: 3}}
      - {name: cloud, every: day, kind: full, keep: {daily: 30}}
      - {name: offsite, every: month, kind: full, keep: {monthly: 12}}
datasets:
  - {assets: [vision/a, vision/b], source: "/data/{asset}"}
  - asset: warehouse/orders
    source: {postgres: {dsn: {env: ORDERS_DSN}}}
    override: {tiers: {local: {every: hour}, offsite: false}}
  - {asset: lake/events, source: {day_paths: "s3://lake/events/day={day}/"}, holds: slice, keep_slices: forever}
"""  # noqa: E501

THREE_STORES = {"local": "/srv/b", "cloud": "s3://c/p", "offsite": "s3://o/p"}


def load(text: str, folder: Path, environ: Mapping[str, str] | None = None) -> Plan:
    file = folder / "backup.yaml"
    file.write_text(text)
    return load_plan(file, environ=environ or {})


def plan_of(**parts: Any) -> Plan:
    document = {
        "start": "2026-11-22",
        "stores": THREE_STORES,
        "datasets": [{"asset": "a", "source": "/d"}],
    }
    return load_plan({**document, **parts}, environ={})


def test_three_lines_suffice(tmp_path: Path) -> None:
    plan = load(THREE_LINES, tmp_path)
    assert (plan.start, plan.timezone, plan.deployment) == (date(2026, 11, 22), "UTC", None)
    assert plan.automation
    assert plan.encryption == "aes-256-gcm"
    assert plan.keys["main"].reference == Reference(env="BACKUP_PASSPHRASE")
    dataset = plan.dataset("vision/train_images")
    assert (dataset.holds, dataset.late, dataset.policy) == ("whole", "refuse", "default")
    assert dataset.on_change == OnChange(timedelta(hours=1))
    assert dataset.drill == Drill("month", 0.01)
    assert dataset.rpo == {"local": timedelta(hours=26)}
    assert dataset.source.options == {"path": "/data/images"}
    tier = dataset.first_tier
    assert (tier.name, tier.store, tier.every, tier.at) == ("local", "local", "day", time(2, 0))
    assert (tier.kind, tier.full_every, tier.from_) == ("incremental", timedelta(weeks=4), "source")
    assert tier.keep == Keep(daily=7, weekly=4, monthly=6)


def test_the_whole_example_means_what_it_says(tmp_path: Path) -> None:
    plan = load(WHOLE, tmp_path, {"BACKUP_ENV": "prod"})
    assert list(plan.datasets) == ["vision/a", "vision/b", "warehouse/orders", "lake/events"]
    assert plan.tier_names == ["local", "cloud", "offsite"]
    assert (plan.deployment, plan.automation) == ("prod", True)
    assert plan.stores["cloud"].display_url == "{environment variable BACKUP_CLOUD_URL}"
    assert plan.scratch is not None
    assert plan.scratch.max_bytes == 500 * 1024**3
    assert plan.scratch.path() == Path("/srv/restore")
    images = plan.dataset("vision/b")
    assert images.source.options == {"path": "/data/vision/b"}
    assert images.tiers["offsite"].lock == Lock("compliance", 90)
    assert images.tiers["cloud"].from_ == images.tiers["offsite"].from_ == "local"
    # The days it takes to copy a closed weekly or monthly day, and a day of room.
    assert images.rpo["cloud"] == timedelta(days=8)
    assert images.rpo["offsite"] == timedelta(days=33)
    orders = plan.dataset("warehouse/orders")
    assert list(orders.tiers) == ["local", "cloud"]
    assert orders.tiers["local"].every == "hour"
    assert (orders.source.kind, orders.source.installed) == ("postgres", True)
    assert orders.source.options == {"dsn": {"env": "ORDERS_DSN"}}
    assert orders.source.resolved({"ORDERS_DSN": "host=db"}) == {"dsn": "host=db"}
    events = plan.dataset("lake/events")
    assert (events.holds, events.keep_slices, events.on_change) == ("slice", None, None)
    assert (events.source.kind, events.source.by_day) == ("objects", True)
    assert events.source.options == {"url": "s3://lake/events/day={day}/"}


def test_an_environment_is_laid_over_the_plan(tmp_path: Path) -> None:
    plan = load(WHOLE, tmp_path)
    assert (plan.deployment, plan.automation) == ("dev", False)
    # The region of the object store stays in the document and is not given to the directory.
    assert plan.stores["cloud"].options({}) == {"url": "file:///srv/dev-cloud"}
    assert plan.stores["local"].url == "file:///srv/backups"
    assert plan.document["deployment"] == "dev"
    assert "environments" not in plan.document


def test_merging_is_deep_and_null_takes_away() -> None:
    parts: dict[str, Any] = {
        "stores": {
            "local": "/srv/b",
            "cloud": {
                "url": {"env": "URL", "default": "s3://x"},
                "lock": {"mode": "governance", "days": 3},
            },
        },
        "policies": {
            "default": {"tiers": [{"name": "local"}], "rto": "1 hour", "run": {"retries": 1}}
        },
        "deployment": "test",
        "environments": {
            "test": {
                "stores": {
                    "local": {"region": "eu"},
                    "cloud": {"url": {"file": "/url"}, "lock": None},
                },
                "policies": {"default": {"run": {"pool": "p"}, "rto": None}},
            }
        },
    }
    plan = plan_of(**parts)
    assert plan.document["stores"] == {
        "local": {"url": "/srv/b", "region": "eu"},
        "cloud": {"url": {"file": "/url"}},
    }
    dataset = plan.dataset("a")
    assert (dataset.run.pool, dataset.run.retries, dataset.rto) == ("p", 1, None)
    assert parts["stores"]["local"] == "/srv/b", "the mapping that was given stays as it was"


@pytest.mark.parametrize("text", [THREE_LINES, WHOLE, starter_plan()])
def test_the_document_loads_again_as_the_same_plan(text: str, tmp_path: Path) -> None:
    import json

    plan = load(text, tmp_path, {"BACKUP_ENV": "prod"})
    again = load_plan(json.loads(json.dumps(plan.document)), environ={"BACKUP_ENV": "other"})
    assert again == plan
    assert again.document == plan.document
    assert again.history_key() == plan.history_key()


def test_relative_paths_count_from_the_plans_directory(tmp_path: Path) -> None:
    text = """\
start: 2026-11-22
stores: {local: ../backups}
scratch: scratch
keys: {main: {key_file: {file: backup.key}}}
datasets: [{asset: a, source: datasets/a}, {asset: b, source: {files: {path: ./b}}}]
"""
    folder = tmp_path / "plans"
    folder.mkdir()
    plan = load(text, folder)
    assert plan.stores["local"].options({}) == {"url": f"{tmp_path}/backups"}
    assert plan.dataset("a").source.options == {"path": f"{folder}/datasets/a"}
    assert plan.dataset("b").source.options == {"path": f"{folder}/b"}
    assert plan.keys["main"].reference == Reference(file=f"{folder}/backup.key")
    assert plan.scratch is not None
    assert plan.scratch.path() == folder / "scratch"


def test_the_starter_explains_every_part_and_loads(tmp_path: Path) -> None:
    plan = load(starter_plan(), tmp_path)
    assert list(plan.datasets) == ["vision/train_images"]
    commented = [line for line in starter_plan().splitlines() if "#" in line]
    assert len(commented) >= 15
    # Its commented alternatives are right as well.
    options = re.sub(r"(?m)^( +)# - ", r"\1- ", starter_plan())
    options = options.replace("#   cloud:", "  cloud:").replace("# late:", "late:")
    options = options.replace("stores:\n  local:", "stores:\n  cloud: s3://b/p\n  local:")
    options = re.sub(r"(?m)^  cloud: \{url.*\n", "", options)
    more = load(options, tmp_path)
    assert list(more.datasets) == ["vision/train_images", "vision/a", "vision/b", "lake/events"]
    assert more.tier_names == ["local", "cloud"]
    assert more.dataset("vision/a").late == "accept"


@pytest.mark.parametrize("name", list(PRESETS))
def test_a_preset_is_used_by_name(name: str) -> None:
    dataset = plan_of(datasets=[{"asset": "a", "source": "/d", "policy": name}]).dataset("a")
    local, cloud, offsite = dataset.tiers.values()
    cadence = [(t.name, t.every, t.kind) for t in (local, cloud, offsite)]
    if name == "stream":
        assert cadence == [
            ("local", "hour", "incremental"),
            ("cloud", "day", "full"),
            ("offsite", "month", "full"),
        ]
    else:
        assert cadence == [
            ("local", "day", "full"),
            ("cloud", "week", "incremental"),
            ("offsite", "month", "full"),
        ]
    assert [t.from_ for t in dataset.tiers.values()] == ["source", "local", "local"]
    assert dataset.policy == name


def test_a_plan_may_define_a_preset_itself() -> None:
    policies = {"stream": {"tiers": [{"name": "cloud"}]}}
    plan = plan_of(policies=policies, datasets=[{"asset": "a", "source": "/d", "policy": "stream"}])
    assert list(plan.dataset("a").tiers) == ["cloud"]


def test_an_override_changes_one_dataset_only() -> None:
    override = {
        "tiers": {"cloud": {"every": "day", "keep": {"last": 2}}, "offsite": False},
        "drill": False,
        "expire": True,
        "prune": {"every": "month"},
        "on_change": False,
        "anomaly": {"deleted": "20%"},
        "rpo": "30 hours",
        "late": "accept",
        "run": {"tags": {"team": "vision"}},
    }
    datasets = [
        {"asset": "a", "source": "/d", "policy": "training-data", "override": override},
        {"asset": "b", "source": "/e", "policy": "training-data"},
    ]
    plan = plan_of(datasets=datasets)
    a, b = plan.dataset("a"), plan.dataset("b")
    cloud = a.tiers["cloud"]
    assert (cloud.every, cloud.weekday, cloud.keep) == ("day", None, Keep(last=2))
    assert (a.drill, a.on_change, a.late) == (None, None, "accept")
    assert (a.expire, a.prune, b.expire, b.prune) == ("day", "month", None, None)
    assert a.anomaly is not None
    assert a.anomaly.deleted == 0.2
    assert a.rpo["local"] == timedelta(hours=30)
    assert a.run.tags == {"team": "vision"}
    assert list(b.tiers) == ["local", "cloud", "offsite"]
    assert (b.tiers["cloud"].weekday, b.late) == ("sunday", "refuse")


def test_the_first_tier_left_in_reads_the_source() -> None:
    override = {"tiers": {"local": False}}
    datasets = [{"asset": "a", "source": "/d", "policy": "stream", "override": override}]
    tiers = plan_of(datasets=datasets).dataset("a").tiers
    assert [(t.name, t.from_) for t in tiers.values()] == [
        ("cloud", "source"),
        ("offsite", "cloud"),
    ]


@pytest.mark.parametrize(
    ("levels", "expected"),
    [
        ({}, "refuse"),
        ({"plan": "accept"}, "accept"),
        ({"plan": "accept", "policy": "refuse"}, "refuse"),
        ({"plan": "refuse", "policy": "refuse", "dataset": "accept"}, "accept"),
    ],
)
def test_late_is_said_nearest_to_the_dataset(levels: dict[str, str], expected: str) -> None:
    def late(level: str) -> dict[str, str]:
        return {"late": levels[level]} if level in levels else {}

    plan = plan_of(
        **late("plan"),
        policies={"default": {"tiers": [{"name": "local"}], **late("policy")}},
        datasets=[{"asset": "a", "source": "/d", **late("dataset")}],
    )
    assert plan.dataset("a").late == expected


def test_encryption_is_left_out_by_name_only() -> None:
    plan = plan_of(encryption="none", policies={"default": {"tiers": [{"name": "local"}]}})
    assert (plan.encryption, plan.keys) == ("none", {})
    with pytest.raises(PlanError):
        plan_of(encryption=None, policies={"default": {"tiers": [{"name": "local"}]}})


@pytest.mark.parametrize(
    ("source", "kind", "options"),
    [
        ("/data/x", "files", {"path": "/data/x"}),
        ("file:///data/x", "files", {"path": "/data/x"}),
        ("/data/{{raw}}", "files", {"path": "/data/{raw}"}),
        ("/data/{asset}", "files", {"path": "/data/k/a"}),
        ("s3://b/p", "objects", {"url": "s3://b/p"}),
        ({"files": "/data"}, "files", {"path": "/data"}),
        ({"files": {"env": "DATA"}}, "files", {"path": {"env": "DATA"}}),
        (
            {"objects": {"url": "s3://b", "region": "r"}},
            "objects",
            {"url": "s3://b", "region": "r"},
        ),
        ({"delta": "/lake/{asset}"}, "delta", {"path": "/lake/k/a"}),
        ({"delta": "s3://lake/{asset}"}, "delta", {"url": "s3://lake/k/a"}),
        ({"sqlite": "/x.db"}, "sqlite", {"path": "/x.db"}),
    ],
)
def test_a_source_is_written_in_short_or_in_full(
    source: Any, kind: str, options: dict[str, Any]
) -> None:
    policies = {"default": {"tiers": [{"name": "local"}]}}
    datasets = [{"asset": "k/a", "source": source}]
    spec = plan_of(policies=policies, datasets=datasets).dataset("k/a").source
    assert (spec.kind, spec.options) == (kind, options)


def test_exclude_goes_to_the_source_and_makes_room_for_a_store() -> None:
    policies = {"default": {"tiers": [{"name": "local"}]}}
    datasets = [{"asset": "a", "source": "/srv", "exclude": ["b", "*.tmp"]}]
    spec = plan_of(policies=policies, datasets=datasets).dataset("a").source
    assert spec.options == {"path": "/srv", "exclude": ["b", "*.tmp"]}


def test_an_unknown_dataset_or_tier_is_refused_with_a_suggestion() -> None:
    plan = plan_of(policies={"default": {"tiers": [{"name": "local"}]}})
    with pytest.raises(UsageError, match="allowed: a"):
        plan.dataset("nothing")
    with pytest.raises(UsageError, match="did you mean 'local'"):
        plan.dataset("a").tier("locl")

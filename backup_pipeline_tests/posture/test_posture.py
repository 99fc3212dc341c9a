"""A plan's posture over real repositories, under a clock that the tests set."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from backup_pipeline.engine.errors import StoreUnavailable, UsageError
from backup_pipeline.engine.store import open_store
from backup_pipeline.engine.store.s3 import S3Store
from backup_pipeline.engine.store.wrappers import CountingStore
from backup_pipeline.posture.conditions import conditions
from backup_pipeline.runner.places import OpenStores
from backup_pipeline.s3_server import S3Server
from backup_pipeline_tests.posture.scene import DATASET, Scene

AWAY = {
    "url": "s3://backups/x",
    "endpoint": "http://127.0.0.1:9",
    "region": "us-east-1",
    "access_key_id": "a",
    "secret_access_key": {"env": "SECRET"},
}
"""A store that cannot be reached."""

LISTINGS = 5
"""Of a repository's opening: its key sets, and the log and its twin, twice each."""


def test_days_ages_and_the_next_run_are_told_truly(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    scene.at("11-20T02:00").back_up()
    scene.at("11-21T02:00").back_up()
    scene.back_up("cloud")
    scene.at("11-23T10:00")
    posture = scene.runner().posture()
    local, cloud = posture.tiers
    assert (local.due_days, local.good_days) == (3, 2)
    assert local.missing_days == [date(2026, 11, 22)]
    assert (local.newest_day, local.snapshots) == (date(2026, 11, 21), 2)
    assert local.margin_s == -30 * 3600
    assert not posture.fresh
    assert (cloud.due_days, cloud.good_days) == (3, 1)
    assert (posture.integrity, local.entries) == (1.0, 2)
    assert [point.day.day for point in local.trend] == [20, 21]
    assert posture.summary["datasets_protected"] == 0
    kinds = {(one.kind, one.subject) for one in conditions(posture)}
    assert ("rpo_missed", f"{DATASET} in local") in kinds
    assert ("missed_day", f"{DATASET} in cloud") in kinds


def test_a_day_is_not_missed_before_its_run_had_its_time(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    scene.at("11-20T02:00").back_up()
    # The day is closed since half past midnight; the copy is due at two and may take two hours.
    for clock, missing in (("11-21T01:25", 0), ("11-21T03:59", 0), ("11-21T04:00", 1)):
        (_, cloud) = scene.at(clock).runner().posture().tiers
        assert len(cloud.missing_days) == missing, clock


def test_what_expired_still_counts_as_having_been_good(tmp_path: Path) -> None:
    # What expires goes by the store's clock, so these days are real ones.
    today = datetime.now(UTC).replace(hour=0, minute=1)
    first = today - timedelta(days=10)
    scene = Scene(tmp_path, start=first.date().isoformat())
    for age in range(10, 0, -1):
        scene.now = today - timedelta(days=age)
        scene.back_up()
    scene.now = datetime.now(UTC)
    with scene.runner() as runner:
        runner.expire(DATASET, "local", apply=True)
        (local, _) = runner.posture().tiers
    assert local.snapshots < 10
    assert not local.flags
    assert not [day for day in local.missing_days if day < today.date() - timedelta(days=1)]
    assert len(local.trend) == 10


def test_a_store_out_of_reach_is_asked_once_and_hides_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"vision/{letter}" for letter in "abcdefgh"]
    scene = Scene(tmp_path, *names, stores={"cloud": AWAY}, environ={"SECRET": "b"})
    asked: list[str] = []

    def no_answer(self: S3Store, *_: Any, **__: Any) -> bytes:
        asked.append(self.url)
        raise StoreUnavailable("it did not answer", "try again")

    for verb in ("get", "list_names"):
        monkeypatch.setattr(S3Store, verb, no_answer)
    scene.document["policies"]["default"]["tiers"][0]["every"] = "day"
    with scene.runner() as runner:
        posture = runner.posture()
    assert len(asked) == 1
    assert [tier.reachable for tier in posture.tiers] == [True, False] * 8
    assert not posture.fresh
    first = conditions(posture)[0]
    assert (first.kind, first.says) == ("failed", "it did not answer")


def test_a_look_costs_no_more_than_opening_each_repository_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"vision/{letter}" for letter in "abcdefgh"]
    scene = Scene(tmp_path, *names)
    scene.back_up()
    counting: dict[str, CountingStore] = {}
    original: Callable[..., Any] = OpenStores.store

    def counted(self: OpenStores, name: str) -> Any:
        if name not in counting:
            counting[name] = CountingStore(original(self, name))
        return counting[name]

    monkeypatch.setattr(OpenStores, "store", counted)
    with scene.runner() as runner:
        runner.posture()
    calls = counting["local"].calls
    assert calls["list"] <= LISTINGS * len(names) + 1
    assert set(calls) == {"list", "get"}


@pytest.mark.parametrize("days", [0, 61])
def test_a_window_that_cannot_be_shown_is_refused(tmp_path: Path, days: int) -> None:
    with pytest.raises(UsageError, match="window"):
        Scene(tmp_path).runner().posture(days=days)


@pytest.mark.services
def test_a_bucket_that_locks_is_told_by_its_own_settings(
    tmp_path: Path, s3_server: S3Server
) -> None:
    client: Any = s3_server.client()
    bucket = f"locked-{secrets.token_hex(4)}"
    client.create_bucket(Bucket=bucket, ObjectLockEnabledForBucket=True)
    options = s3_server.options(f"s3://{bucket}/p")
    assert open_store(options).default_lock() is None
    rule = {"DefaultRetention": {"Mode": "GOVERNANCE", "Days": 3}}
    settings = {"ObjectLockEnabled": "Enabled", "Rule": rule}
    client.put_object_lock_configuration(Bucket=bucket, ObjectLockConfiguration=settings)
    assert open_store(options).default_lock() == ("governance", 3)

    environ = {"SECRET": options.pop("secret_access_key")}
    cloud = {**options, "secret_access_key": {"env": "SECRET"}, "site": "eu-2"}
    scene = Scene(tmp_path, stores={"cloud": cloud}, environ=environ)
    scene.back_up()
    with scene.at("11-21T02:00").runner() as runner:
        runner.backup(DATASET, "cloud")
        (one,) = runner.posture().datasets
    assert one.copies.figures == "3-2-1-1-?"
    # The keys and the oldest records are locked no longer, and nothing opens without them.
    scene.at("11-25T02:00")
    (one,) = scene.runner().posture().datasets
    assert one.copies.figures == "3-2-1-0-?"
    assert "oldest records" in one.copies.rules[3].says


def test_a_tier_that_was_set_back_is_told_on_by_its_copies(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    store, aside = tmp_path / "stores/local", tmp_path / "aside"
    for day in (20, 21, 22):
        scene.at(f"11-{day}T02:00").back_up()
        (tmp_path / "data" / DATASET / f"{day}").write_text("new")
        if day == 20:
            shutil.copytree(store, aside)
        scene.at(f"11-{day + 1}T01:00").back_up("cloud")
    scene.at("11-23T01:30")
    assert not any(one.flags for one in scene.runner().posture().tiers)
    shutil.rmtree(store)
    aside.rename(store)
    posture = scene.runner().posture()
    local, cloud = posture.tiers
    assert not cloud.flags
    [flag] = local.flags
    assert flag.startswith("set back: tier cloud tells of 2 snapshots, the last of them read")
    assert [one.kind for one in conditions(posture) if "set back" in one.says] == ["failed"]
    # A repository that was made anew never knew what came before it: that is missing, not hidden.
    shutil.rmtree(store)
    scene.back_up()
    assert not any(one.flags for one in scene.runner().posture().tiers)


def test_a_tier_whose_log_lost_its_beginning_is_looked_at_all_the_same(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    scene.back_up()
    scene.at("11-21T01:00").back_up("cloud")
    for copy in ("log", "twin"):
        (first,) = (tmp_path / "stores/local").glob(f"repositories/*/{copy}/000000/00000000")
        first.unlink()
    local, cloud = scene.runner().posture().tiers
    assert local.error is not None
    assert not local.flags
    assert cloud.error is None

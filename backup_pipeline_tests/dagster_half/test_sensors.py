"""The change sensor: what it asks for, and what it leaves alone."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable
from typing import Any

import dagster as dg
import pytest

from backup_pipeline.change_sensor import ChangeWatch
from backup_pipeline.resources import Wiring
from backup_pipeline.watching import Fingerprints, Subject
from backup_pipeline_tests.dagster_half.project import SUNDAY_THE_FIRST, Project, backup_key

Make = Callable[..., Project]

ON_CHANGE = {"on_change": {"at_most_every": "1 second"}}


def evaluate(one: Project, cursor: str | None = None) -> Any:
    """One tick, as the daemon has it evaluated."""
    context = dg.build_sensor_context(
        instance=one.instance, cursor=cursor, repository_def=one.defs.get_repository_def()
    )
    return one.defs.resolve_sensor_def("backup_change_sensor").evaluate_tick(context)


def launch(one: Project, request: Any) -> dg.ExecuteInProcessResult:
    """Run what the sensor asked for, and let Dagster's clock pass the policy's pause."""
    dataset = "/".join(request.asset_selection[0].path[2:])
    result = one.back_up("local", request.partition_key, dataset, tags=request.tags)
    threading.Event().wait(1.1)
    return result


def test_every_change_is_backed_up_also_the_one_back_to_what_was_before(project: Make) -> None:
    one = project(policy=ON_CHANGE)
    keys: list[str] = []
    for content in (b"A", b"B", b"A"):
        one.pass_time(minutes=5)
        path = one.write("vision/a", "state.txt", content)
        # The same content is the same state only with the same time.
        shutil.copystat("/etc/hostname" if content == b"A" else "/etc/hosts", path)
        (request,) = evaluate(one).run_requests
        assert request.partition_key == SUNDAY_THE_FIRST
        assert request.job_name == "backup_local"
        assert request.asset_check_keys == [dg.AssetCheckKey(backup_key("local"), "complete")]
        keys.append(request.run_key)
        assert launch(one, request).success
        one.pass_time(minutes=5)
        assert not evaluate(one).run_requests, "nothing changed since"
    assert len(set(keys)) == 3
    kinds = [snapshot.kind for snapshot in one.runner.snapshots("vision/a", "local")]
    assert kinds == ["full", "incremental", "incremental"]


def test_a_run_that_failed_is_asked_for_again_under_another_key(project: Make) -> None:
    one = project(policy=ON_CHANGE)
    (first,) = evaluate(one).run_requests
    store = one.root / "stores"
    store.mkdir(exist_ok=True)
    (store / "local").write_text("a file where the store should be")
    assert not launch(one, first).success
    (second,) = evaluate(one).run_requests
    assert second.run_key != first.run_key
    (store / "local").unlink()
    assert launch(one, second).success
    one.pass_time(minutes=5)
    assert not evaluate(one).run_requests


@pytest.mark.parametrize("status", ["NOT_STARTED", "STARTED", "CANCELING"])
@pytest.mark.parametrize("launched_by", ["us", "a person", "a person, the whole job"])
def test_nothing_is_asked_for_while_a_run_of_the_dataset_is_queued_or_active(
    project: Make, status: str, launched_by: str
) -> None:
    one = project(policy=ON_CHANGE)
    (request,) = evaluate(one).run_requests
    selection = None if "whole" in launched_by else frozenset({backup_key("local")})
    one.instance.create_run_for_job(
        one.defs.resolve_job_def("backup_local"),
        status=dg.DagsterRunStatus[status],
        tags=request.tags if launched_by == "us" else None,
        asset_selection=selection,
    )
    assert not evaluate(one).run_requests


def test_at_most_every_holds_after_a_backup_and_after_an_attempt(project: Make) -> None:
    one = project(policy={"on_change": {"at_most_every": "1 hour"}})
    (request,) = evaluate(one).run_requests
    assert launch(one, request).success
    one.write("vision/a", "new.txt", b"new")
    one.pass_time(minutes=59)
    assert not evaluate(one).run_requests
    one.instance.wipe()
    one.pass_time(minutes=2)
    assert evaluate(one).run_requests, "the hour is over and no attempt is known"


def test_backfilling_an_old_day_is_no_change(project: Make) -> None:
    one = project(policy=ON_CHANGE, tiers=[{"name": "local"}, {"name": "cloud", "every": "day"}])
    one.back_up("local", SUNDAY_THE_FIRST)
    one.pass_time(days=1)
    one.back_up("cloud", SUNDAY_THE_FIRST)
    one.write("vision/a", "new.txt", b"new")
    one.back_up("local", "2026-11-02")
    one.pass_time(hours=1)
    one.back_up("local", SUNDAY_THE_FIRST)
    assert not evaluate(one).run_requests, "the newest capture counts, not the newest event"


def test_a_materialization_of_the_dataset_is_news_enough(project: Make) -> None:
    one = project(policy=ON_CHANGE)
    one.instance.report_runless_asset_event(dg.AssetMaterialization(["vision", "a"]))
    (first,) = evaluate(one).run_requests
    assert launch(one, first).success
    one.pass_time(minutes=5)
    assert not evaluate(one).run_requests
    one.instance.report_runless_asset_event(dg.AssetMaterialization(["vision", "a"]))
    shutil.rmtree(one.root / "datasets")
    (second,) = evaluate(one).run_requests
    assert second.run_key != first.run_key, "asked for without a look at the files"


def test_the_version_that_was_seen_reaches_the_lineage_of_a_dataset_that_dagster_does_not_write(
    project: Make,
) -> None:
    one = project(policy=ON_CHANGE)
    answer = evaluate(one)
    (observation,) = answer.asset_events
    assert observation.asset_key == dg.AssetKey(["vision", "a"])
    fingerprint = one.runner.fingerprint("vision/a")[:32]
    assert observation.tags == {"dagster/data_version": fingerprint}
    one.instance.report_runless_asset_event(dg.AssetMaterialization(["vision", "a"]))
    assert not evaluate(one).asset_events, "Dagster's own versions are better"


def many(one: Project, count: int) -> list[str]:
    """Give the plan many datasets."""
    keys = [f"many/d{number}" for number in range(count)]
    for key in keys:
        one.write(key, "file", key.encode())
    one.document["datasets"] = [{"assets": keys, "source": str(one.root / "datasets/{asset}")}]
    return keys


def watch(one: Project, fingerprint: Callable[[Subject], str], budget_s: float) -> ChangeWatch:
    """A tick with a fingerprint and a budget of our choice, all else as it is."""
    from backup_pipeline.jobs import group_by_tier
    from backup_pipeline.plan import load_plan
    from backup_pipeline.translator import lay_out

    plan = load_plan(one.document)
    wiring = Wiring(plan, "backup", one.clock)
    jobs = group_by_tier(lay_out(plan, name="backup"), wiring)
    return ChangeWatch(wiring, jobs, one.instance, fingerprint, budget_s=budget_s)


def test_a_tick_keeps_its_budget_and_the_next_one_goes_on_where_it_ended(project: Make) -> None:
    one = project(policy=ON_CHANGE)
    keys = many(one, 5)
    seen: list[str] = []

    def slow(subject: Subject) -> str:
        seen.append(subject.name)
        threading.Event().wait(0.06)
        return subject.name

    cursor = None
    for _ in range(4):
        answer = watch(one, slow, budget_s=0.1).tick(cursor)
        cursor = answer.cursor
        assert 1 <= len(answer.run_requests or []) <= 3
    assert set(seen) == set(keys), "every dataset had its turn"
    assert json.loads(cursor or "")["next"] in keys


def test_a_tick_that_looked_at_all_begins_elsewhere_the_next_time(project: Make) -> None:
    one = project(policy=ON_CHANGE)
    keys = many(one, 3)
    answer = watch(one, lambda subject: subject.name, budget_s=10).tick(None)
    assert len(answer.run_requests or []) == 3
    assert json.loads(answer.cursor or "")["next"] == keys[1]


def test_a_source_that_cannot_be_read_hinders_no_other(project: Make) -> None:
    one = project(policy=ON_CHANGE)
    many(one, 3)
    shutil.rmtree(one.root / "datasets" / "many" / "d1")
    requested = [request.asset_selection[0].path[-1] for request in evaluate(one).run_requests]
    assert requested == ["d0", "d2"]


def test_a_fingerprint_that_hangs_is_left_alone_and_taken_when_it_is_there() -> None:
    asked: list[str] = []
    ready = threading.Event()

    def hang() -> str:
        asked.append("vision/a")
        ready.wait(10)
        return "f00d"

    fingerprints = Fingerprints(patience_s=0.02)
    for _ in range(3):
        with pytest.raises(TimeoutError):
            fingerprints.take("vision/a", hang)
    assert asked == ["vision/a"], "no second thread for the same dataset"
    ready.set()
    threading.Event().wait(0.1)
    assert fingerprints.take("vision/a", hang) == "f00d"


def test_only_datasets_with_on_change_in_a_first_tier_that_has_today_are_watched(
    project: Make,
) -> None:
    one = project()
    one.document["datasets"] = [
        {"asset": "a/on", "source": str(one.root / "datasets/on")},
        {
            "asset": "a/off",
            "source": str(one.root / "datasets/off"),
            "override": {"on_change": False},
        },
        {
            "asset": "a/slices",
            "source": {"day_paths": str(one.root / "slices/{day}")},
            "holds": "slice",
        },
    ]
    one.write("on", "file", b"1")
    one.write("off", "file", b"1")
    requested = [request.asset_selection[0].path[-1] for request in evaluate(one).run_requests]
    assert requested == ["on"]

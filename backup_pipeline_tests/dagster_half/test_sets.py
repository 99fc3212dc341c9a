"""A consistent set in Dagster: one step, one cut, and checks that say whether it is whole."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import dagster as dg
import pytest

from backup_pipeline.anomalies import ANOMALY
from backup_pipeline.checks import COMPLETE, CONSISTENT, FRESH
from backup_pipeline.runner import capture as capturing
from backup_pipeline.sources.files import FilesSource
from backup_pipeline_tests.dagster_half.project import (
    QUIET,
    SUNDAY_THE_FIRST,
    Project,
    backup_key,
)
from backup_pipeline_tests.dagster_half.test_sensors import evaluate

Make = Callable[..., Project]

IMAGES, MODEL = "vision/images", "vision/model"
TIERS: list[dict[str, Any]] = [
    {"name": name, "every": "day", "kind": "incremental", "full_every": "4 weeks"}
    for name in ("local", "cloud")
]


@pytest.fixture
def one(project: Make, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.setattr(capturing, "sleep", lambda _: None)
    made = project(
        tiers=TIERS,
        policy={"on_change": {"at_most_every": "1 second"}},
    )
    root = made.root / "datasets"
    made.document["datasets"] = [
        {"assets": [IMAGES, MODEL, "single"], "source": f"{root}/{{asset}}"}
    ]
    made.document["sets"] = {"champion": {"members": [IMAGES, MODEL], "retries": 1}}
    for dataset in (IMAGES, MODEL, "single"):
        made.write(dataset, "state", dataset.encode())
    return made


def capture(one: Project, request: dg.RunRequest | None = None) -> dg.ExecuteInProcessResult:
    """Run the set's step as the tier's job does."""
    keys = [backup_key("local", IMAGES), backup_key("local", MODEL)]
    checks = [dg.AssetCheckKey(key, name) for key in keys for name in (COMPLETE, CONSISTENT)]
    if request is not None:
        assert list(request.asset_selection or ()) == keys
        assert list(request.asset_check_keys or ()) == checks
    selection = dg.AssetSelection.assets(*keys).without_checks() | dg.AssetSelection.checks(*checks)
    return dg.materialize(
        [*(one.defs.assets or ()), *(one.defs.asset_checks or ())],  # pyright: ignore
        selection=selection,
        resources=one.defs.resources,
        instance=one.instance,
        partition_key=SUNDAY_THE_FIRST,
        raise_on_error=False,
        run_config=QUIET,
        tags=request.tags if request is not None else None,
    )


def verdicts(result: dg.ExecuteInProcessResult) -> dict[tuple[str, str], bool]:
    return {
        ("/".join(found.asset_key.path[2:]), found.check_name): found.passed
        for found in result.get_asset_check_evaluations()
        if found.check_name != ANOMALY
    }


def test_a_set_is_one_step_that_materializes_a_cut(one: Project) -> None:
    result = capture(one)
    assert result.success
    assert len([event for event in result.all_events if event.is_step_start]) == 1
    said = [one.said("local", SUNDAY_THE_FIRST, key) for key in (IMAGES, MODEL)]
    assert said[0]["cut"] == said[1]["cut"]
    assert {text["set"] for text in said} == {"champion"}
    assert verdicts(result) == {
        (dataset, name): True for dataset in (IMAGES, MODEL) for name in (COMPLETE, CONSISTENT)
    }
    with pytest.raises(dg.DagsterInvalidDefinitionError):
        one.back_up("local", SUNDAY_THE_FIRST, IMAGES)


def test_a_set_that_never_rests_fails_its_run_and_keeps_its_members(
    one: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = iter(range(1000))
    monkeypatch.setattr(FilesSource, "fingerprint", lambda self: f"{next(numbers):064x}")
    result = capture(one)
    assert not result.success
    (failed,) = [event for event in result.all_events if event.is_step_failure]
    assert failed.step_failure_data.error is not None
    assert "changed while the set was read, of 2 attempts" in failed.step_failure_data.error.message
    found = verdicts(result)
    assert found[IMAGES, COMPLETE]
    assert not found[IMAGES, CONSISTENT]
    assert not found[MODEL, CONSISTENT]
    assert "cut" not in one.said("local", SUNDAY_THE_FIRST, MODEL)


def test_the_sensor_asks_for_all_members_once_where_any_changed(one: Project) -> None:
    requests = {
        "/".join(request.asset_selection[0].path[2:]): request
        for request in evaluate(one).run_requests
    }
    assert set(requests) == {IMAGES, "single"}
    assert capture(one, requests[IMAGES]).success
    one.back_up("local", SUNDAY_THE_FIRST, "single", tags=requests["single"].tags)
    one.pass_time(minutes=5)
    assert not evaluate(one).run_requests
    one.write(MODEL, "state", b"trained again")
    threading.Event().wait(1.1)  # the policy's pause, which Dagster's clock tells
    (request,) = evaluate(one).run_requests
    assert capture(one, request).success
    first, second = one.runner.cuts("champion", "local")
    assert first.whole
    assert second.whole


def test_the_schedule_asks_for_one_run_of_all_members(one: Project) -> None:
    defs = one.defs
    schedule = defs.resolve_schedule_def("backup_local_schedule")
    context = dg.build_schedule_context(
        instance=one.instance,
        scheduled_execution_time=datetime(2026, 11, 1, 2, tzinfo=UTC),
        repository_def=defs.get_repository_def(),
    )
    requests = schedule.evaluate_tick(context).run_requests or []
    names = [["/".join(key.path[2:]) for key in one.asset_selection or ()] for one in requests]
    assert names == [[IMAGES, MODEL], ["single"]]


def test_a_later_tier_is_consistent_once_every_member_was_copied(one: Project) -> None:
    assert capture(one).success
    one.at("2026-11-02T10:00:00")
    assert one.back_up("cloud", SUNDAY_THE_FIRST, IMAGES).success
    found = one.check(CONSISTENT, "cloud", SUNDAY_THE_FIRST, IMAGES)
    assert not found.passed
    assert f"{MODEL} of cut" in (found.description or "")
    assert one.back_up("cloud", SUNDAY_THE_FIRST, MODEL).success
    assert one.check(CONSISTENT, "cloud", SUNDAY_THE_FIRST, IMAGES).passed
    assert one.check(CONSISTENT, "cloud", SUNDAY_THE_FIRST, MODEL).passed


def test_a_set_without_a_fresh_cut_makes_its_members_stale(one: Project) -> None:
    assert capture(one).success
    fresh = one.check(FRESH, "local", None, MODEL)
    assert fresh.passed
    assert "set champion has a whole cut" in (fresh.description or "")
    one.document["sets"]["champion"]["members"] = [IMAGES, MODEL, "single"]
    one.build()
    stale = one.check(FRESH, "local", None, MODEL)
    assert not stale.passed
    assert "set champion has no whole cut yet" in (stale.description or "")


def test_the_restore_job_gives_back_a_whole_cut_or_says_what_is_missing(one: Project) -> None:
    def restore(**config: Any) -> dg.ExecuteInProcessResult:
        wanted = {"name": "champion", **config}
        return one.defs.resolve_job_def("backup_restore_set").execute_in_process(
            instance=one.instance,
            run_config=QUIET | {"ops": {"backup_restore_cut": {"config": wanted}}},
            raise_on_error=False,
        )

    assert capture(one).success
    done = restore(day=SUNDAY_THE_FIRST)
    assert done.success
    (folder,) = (one.root / "scratch" / "set-champion").iterdir()
    assert (folder / MODEL / "state").read_bytes() == MODEL.encode()
    assert (folder / IMAGES / "state").read_bytes() == IMAGES.encode()
    lacking = restore(day="2026-10-31")
    (failed,) = [event for event in lacking.all_events if event.is_step_failure]
    assert failed.step_failure_data.error is not None
    assert "has no cut of 2026-10-31" in failed.step_failure_data.error.message

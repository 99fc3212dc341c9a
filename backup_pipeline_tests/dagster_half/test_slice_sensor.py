"""The slice sensor: a day whose slice was written again is backed up again, once."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from backup_pipeline.slice_sensor import SliceWatch
from backup_pipeline_tests.dagster_half.project import Project, backup_key

Make = Callable[..., Project]


def evaluate(one: Project) -> Any:
    """One tick, as the daemon has it evaluated."""
    context = dg.build_sensor_context(
        instance=one.instance, repository_def=one.defs.get_repository_def()
    )
    return one.defs.resolve_sensor_def("backup_slice_sensor").evaluate_tick(context)


def with_slices(one: Project) -> None:
    """Make the dataset one of slices, looked at four days back."""
    one.document["datasets"] = [
        {
            "asset": "vision/a",
            "source": str(one.root / "datasets/slices/{day:%Y/%m/%d}"),
            "holds": "slice",
            "slices_checked": "4 days",
        }
    ]


def test_a_slice_that_was_written_again_is_asked_for_until_it_is_backed_up(project: Make) -> None:
    one = project(tiers=[{"name": "local"}], start="2026-10-25")
    with_slices(one)
    days = ["2026-10-27", "2026-10-30", "2026-10-31"]
    for day in days:
        one.write(f"slices/{day.replace('-', '/')}", "events.json", b"{}")
        assert one.back_up("local", day).success
    assert not evaluate(one).run_requests, "nothing was written again"

    for day in days:
        one.write(f"slices/{day.replace('-', '/')}", "events.json", b"{} and late ones")
    requests = evaluate(one).run_requests
    assert [request.partition_key for request in requests] == ["2026-10-31", "2026-10-30"]
    assert requests[0].asset_check_keys == [dg.AssetCheckKey(backup_key("local"), "complete")]
    assert requests[0].run_key == evaluate(one).run_requests[0].run_key
    assert one.back_up("local", "2026-10-31", tags=requests[0].tags).success
    assert [one.partition_key for one in evaluate(one).run_requests] == ["2026-10-30"]
    shutil.rmtree(one.root / "datasets/slices/2026/10/30")
    assert not evaluate(one).run_requests, "it is gone, and stays as it was backed up"
    versions = [found.day.isoformat() for found in one.runner.snapshots("vision/a", "local")]
    assert versions.count("2026-10-31") == 2


def test_a_run_that_failed_is_asked_for_again_and_each_time_later(
    project: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = project(tiers=[{"name": "local"}], start="2026-10-25")
    with_slices(one)
    day = "2026-10-31"
    folder = f"slices/{day.replace('-', '/')}"
    one.write(folder, "events.json", b"{}")
    assert one.back_up("local", day).success
    one.write(folder, "events.json", b"{} and late ones")
    (first,) = evaluate(one).run_requests
    stores = one.root / "stores"
    stores.rename(one.root / "elsewhere")
    stores.mkdir()
    (stores / "local").write_text("a file where the store should be")
    assert not one.back_up("local", day, tags=first.tags).success
    assert not evaluate(one).run_requests, "an hour is to pass"
    monkeypatch.setattr(SliceWatch, "interval", timedelta(0))
    (second,) = evaluate(one).run_requests
    assert second.run_key != first.run_key
    shutil.rmtree(stores)
    (one.root / "elsewhere").rename(stores)
    assert one.back_up("local", day, tags=second.tags).success
    assert not evaluate(one).run_requests


def test_what_an_asset_wrote_again_is_found_without_a_path(project: Make, tmp_path: Path) -> None:
    one = project(tiers=[{"name": "local"}], start="2026-10-25")
    with_slices(one)
    one.document["datasets"][0]["source"] = {"asset": {}}
    day = "2026-10-31"
    file = tmp_path / day
    event = dg.AssetMaterialization(["vision", "a"], partition=day, metadata={"path": str(file)})
    file.write_bytes(b"early")
    one.instance.report_runless_asset_event(event)
    assert one.back_up("local", day).success
    assert not evaluate(one).run_requests
    file.write_bytes(b"early and late")
    assert [request.partition_key for request in evaluate(one).run_requests] == [day]

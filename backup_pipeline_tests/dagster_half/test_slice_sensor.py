"""The slice sensor: a day whose slice was written again is backed up again, once."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

import dagster as dg

from backup_pipeline_tests.dagster_half.project import Project, backup_key

Make = Callable[..., Project]


def evaluate(one: Project) -> Any:
    """One tick, as the daemon has it evaluated."""
    context = dg.build_sensor_context(
        instance=one.instance, repository_def=one.defs.get_repository_def()
    )
    return one.defs.resolve_sensor_def("backup_slice_sensor").evaluate_tick(context)


def test_a_slice_that_was_written_again_is_asked_for_until_it_is_backed_up(project: Make) -> None:
    one = project(tiers=[{"name": "local"}], start="2026-10-25")
    one.document["datasets"] = [
        {
            "asset": "vision/a",
            "source": str(one.root / "datasets/slices/{day:%Y/%m/%d}"),
            "holds": "slice",
            "slices_checked": "4 days",
        }
    ]
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

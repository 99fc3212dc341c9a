"""Backups as assets: what a day's run makes, says, keeps and refuses."""

from __future__ import annotations

import base64
import re
import shutil
import threading
from collections.abc import Callable

import dagster as dg
import pytest

from backup_pipeline.engine.errors import DayUnavailable, ObjectExists, StoreUnavailable, UsageError
from backup_pipeline.resources import PROGRESS_INTERVAL_S, ProgressLog, failure
from backup_pipeline_tests.dagster_half.project import (
    SUNDAY_THE_FIRST,
    Project,
    backup_key,
    first_failure,
)

Make = Callable[..., Project]


def test_a_day_goes_through_all_tiers_and_is_read_from_its_source_once(project: Make) -> None:
    one = project()
    assert one.back_up("local", SUNDAY_THE_FIRST).success
    shutil.rmtree(one.root / "datasets")
    one.pass_time(days=1)
    assert one.back_up("cloud", SUNDAY_THE_FIRST).success
    assert one.back_up("offsite", SUNDAY_THE_FIRST).success
    local, cloud, offsite = (
        one.said(tier, SUNDAY_THE_FIRST) for tier in ("local", "cloud", "offsite")
    )
    assert local["timing"] == cloud["timing"] == offsite["timing"] == "on-time"
    assert cloud["copied_from"] == f"local: {local['snapshot']}"
    assert offsite["captured_at"] == local["captured_at"]
    assert {tier: said["kind"] for tier, said in (("local", local), ("cloud", cloud))} == {
        "local": "full",
        "cloud": "full",
    }
    assert local["files"] == cloud["files"] == offsite["files"] == 1


def test_a_materialization_says_all_that_the_store_knows_of_it(project: Make) -> None:
    one = project()
    one.back_up("local", SUNDAY_THE_FIRST)
    one.pass_time(days=1)
    one.write("vision/a", "second.bin", b"more" * 40_000)
    one.back_up("local", "2026-11-02")
    metadata = one.materialization("local", "2026-11-02").metadata
    plotted = {
        name.removeprefix("backup/")
        for name, value in metadata.items()
        if isinstance(value, dg.IntMetadataValue | dg.FloatMetadataValue)
    }
    assert plotted >= {
        "files",
        "bytes",
        "read_bytes",
        "stored_bytes",
        "deduplicated_bytes",
        "duration_s",
        "speed_bytes_per_s",
        "integrity",
    }
    said = one.said("local", "2026-11-02")
    assert said["kind"] == "incremental"
    assert said["late"] is False
    assert said["chain"] == one.said("local", SUNDAY_THE_FIRST)["chain"]
    assert said["deduplicated_bytes"] > 0
    snapshot = one.runner.find("vision/a", tier="local")[1]
    assert (said["snapshot"], said["digest"]) == (snapshot.id, snapshot.digest)
    table = metadata["backup/largest_changes"]
    assert isinstance(table, dg.TableMetadataValue)
    assert table.records[0].data == {"path": "second.bin", "change": "added", "bytes": 160_000}


def test_the_picture_shows_thirty_days_as_an_image_that_the_ui_lets_through(project: Make) -> None:
    one = project()
    for day in ("2026-11-01", "2026-11-02", "2026-11-03"):
        one.at(f"{day}T10:00:00")
        one.write("vision/a", day, day.encode() * 3000)
        one.back_up("local", day)
    markdown = one.said("local", "2026-11-03")["stored_last_30_days"]
    found = re.search(r"!\[.*\]\(data:image/svg\+xml;base64,(.*)\)", markdown)
    assert found
    drawing = base64.b64decode(found[1]).decode()
    assert drawing.count("<rect") == 30
    assert drawing.count('fill="#d5d7dc"') == 27, "days without a backup are drawn grey"


def test_the_data_version_is_the_snapshots_digest(project: Make) -> None:
    one = project()
    one.back_up("local", SUNDAY_THE_FIRST)
    tags = one.materialization("local", SUNDAY_THE_FIRST).tags or {}
    assert tags["dagster/data_version"] == one.said("local", SUNDAY_THE_FIRST)["digest"]
    assert tags["backup/fingerprint"] == one.runner.fingerprint("vision/a")[:32]


def test_a_closed_day_run_again_reports_its_snapshot_and_reads_nothing(project: Make) -> None:
    one = project()
    one.back_up("local", SUNDAY_THE_FIRST)
    first = one.said("local", SUNDAY_THE_FIRST)
    one.pass_time(days=3)
    shutil.rmtree(one.root / "datasets")
    again = one.back_up("local", SUNDAY_THE_FIRST)
    assert again.success
    assert one.said("local", SUNDAY_THE_FIRST)["snapshot"] == first["snapshot"]
    assert "nothing was read" in one.said("local", SUNDAY_THE_FIRST)["reason"]
    assert len(one.runner.snapshots("vision/a", "local")) == 1


@pytest.mark.parametrize("how", ["config", "tag"])
def test_force_makes_another_snapshot_of_a_closed_day(project: Make, how: str) -> None:
    one = project()
    one.back_up("local", SUNDAY_THE_FIRST)
    one.pass_time(days=1)
    one.back_up("cloud", SUNDAY_THE_FIRST)
    forced = {"config": {"config": {"force": True}}, "tag": {"tags": {"backup/force": "true"}}}
    assert one.back_up("cloud", SUNDAY_THE_FIRST, **forced[how]).success
    assert len(one.runner.snapshots("vision/a", "cloud")) == 2


def test_today_run_again_makes_another_snapshot(project: Make) -> None:
    one = project()
    one.back_up("local", SUNDAY_THE_FIRST)
    one.pass_time(hours=2)
    one.write("vision/a", "second.bin", b"2")
    one.back_up("local", SUNDAY_THE_FIRST)
    assert one.said("local", SUNDAY_THE_FIRST)["files"] == 2
    assert len(one.runner.snapshots("vision/a", "local")) == 2


def test_a_day_that_cannot_be_had_fails_once_and_lists_those_that_can(project: Make) -> None:
    one = project(policy={"run": {"retries": 3}})
    one.back_up("local", SUNDAY_THE_FIRST)
    one.pass_time(days=4)
    result = one.back_up("local", "2026-11-03")
    assert not result.success
    reason = first_failure(result)
    assert "2026-11-03 cannot be had" in reason.description
    assert reason.metadata["backup/available_days"].value == [SUNDAY_THE_FIRST, "2026-11-05"]
    assert not [event for event in result.all_events if event.is_step_up_for_retry]
    assert not one.instance.get_materialized_partitions(backup_key("local")) - {SUNDAY_THE_FIRST}


def test_a_missed_day_is_taken_exactly_from_another_tier(project: Make) -> None:
    one = project(tiers=[{"name": "local"}, {"name": "cloud", "every": "day"}])
    one.back_up("local", SUNDAY_THE_FIRST)
    one.pass_time(days=1)
    one.back_up("cloud", SUNDAY_THE_FIRST)
    shutil.rmtree(one.root / "stores" / "local")
    shutil.rmtree(one.root / "datasets")
    assert one.back_up("local", SUNDAY_THE_FIRST).success
    said = one.said("local", SUNDAY_THE_FIRST)
    assert (said["timing"], said["copied_from"][:6]) == ("on-time", "cloud:")


def test_a_snapshot_that_could_not_read_everything_fails_its_check_and_says_what(
    project: Make,
) -> None:
    one = project(tiers=[{"name": "local"}, {"name": "cloud", "every": "day"}])
    restless = one.write("vision/a", "restless.bin", bytes(48 << 20))
    ended = threading.Event()

    def keep_writing() -> None:
        with restless.open("r+b") as stream:
            while not ended.is_set():
                stream.seek(0)
                stream.write(b"never the same")
                stream.flush()

    writer = threading.Thread(target=keep_writing)
    writer.start()
    try:
        result = one.back_up("local", SUNDAY_THE_FIRST)
    finally:
        ended.set()
        writer.join()
    assert not result.success
    check, _ = sorted(result.get_asset_check_evaluations(), key=lambda one: one.passed)
    assert (check.check_name, check.passed, check.blocking) == ("complete", False, True)
    assert check.partition == SUNDAY_THE_FIRST
    problems = check.metadata["backup/problems"]
    assert isinstance(problems, dg.TableMetadataValue)
    assert problems.records[0].data["path"] == "restless.bin"
    said = one.said("local", SUNDAY_THE_FIRST)
    assert (said["status"], said["integrity"] < 1) == ("incomplete", True)
    one.pass_time(days=1)
    assert not one.back_up("cloud", SUNDAY_THE_FIRST).success, "it is not worth a second place"


def test_the_engine_runs_in_a_process_of_its_own_by_default(project: Make) -> None:
    one = project(own_process=True)
    assert one.back_up("local", SUNDAY_THE_FIRST).success
    assert one.said("local", SUNDAY_THE_FIRST)["captured_at"] == pytest.approx(
        one.now.timestamp(), abs=60
    )
    refused = first_failure(one.back_up("local", "2026-10-20"))
    assert "cannot be had" in refused.description, "errors cross the process as they are"


def test_progress_is_logged_seldom_and_with_percent_speed_and_time_left() -> None:
    lines: list[str] = []
    seconds = [0.0]
    log = ProgressLog(lines.append, lambda: seconds[0])
    for _ in range(100):
        seconds[0] += PROGRESS_INTERVAL_S / 10
        log({"event": "progress", "line": "backup vision/a: read 41% 1.2 GiB of 3.0 GiB, 4 s left"})
    assert 9 <= len(lines) <= 10
    assert "41%" in lines[0]


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (StoreUnavailable("the store is away"), True),
        (ObjectExists("the name is taken"), False),
        (UsageError("no such tier"), False),
        (DayUnavailable("gone", available=[]), False),
    ],
)
def test_only_what_may_pass_by_itself_is_tried_again(error: Exception, again: bool) -> None:
    assert failure(error).allow_retries is again  # pyright: ignore[reportArgumentType]


def test_the_plans_retries_are_used_for_a_store_that_is_away(project: Make) -> None:
    one = project(policy={"run": {"retries": 2}}, tiers=[{"name": "local"}])
    asset = one.defs.resolve_assets_def(backup_key("local"))
    policy = asset.op.retry_policy
    assert policy is not None and policy.max_retries == 2


def test_another_dagster_run_continues_the_chain_of_the_one_before(project: Make) -> None:
    one = project()
    for day in range(1, 4):
        one.at(f"2026-11-0{day}T10:00:00")
        one.write("vision/a", f"{day}.bin", bytes([day]) * 10_000)
        one.build()
        assert one.back_up("local", f"2026-11-0{day}").success
    kinds = [snapshot.kind for snapshot in one.runner.snapshots("vision/a", "local")]
    assert kinds == ["full", "incremental", "incremental"]
    assert one.now.isoformat() > "2026-11-03"

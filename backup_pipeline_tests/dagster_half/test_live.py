"""With a real daemon and web server: schedule and sensor ticks, a backfill, a red check."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from time import sleep
from typing import Any

import dagster as dg
import pytest
import yaml

from backup_pipeline.plan import load_plan
from backup_pipeline.runner import Runner
from backup_pipeline_tests.dagster_half.live import LiveDagster, wait_for, with_logs

SECONDS_TO_START = 15
ENDED = {"SUCCESS", "FAILURE", "CANCELED"}
SCHEDULED = ("vision/b", "vision/c")
GAP = (4, 3, 2)
"""How many days ago days were missed; yesterday is not over before half past midnight."""


def write_plan(root: Path) -> tuple[Path, date, list[str]]:
    """A plan with two schedules that tick at the next full minutes.

    Returns:
        Its path, today, and the names of those schedules: the first may tick before Dagster is up.
    """
    soon = datetime.now(UTC) + timedelta(seconds=SECONDS_TO_START + 60)
    ticks = [soon, soon + timedelta(minutes=1)]
    today = soon.date()
    for dataset in ("vision/a", *SCHEDULED):
        folder = root / "datasets" / dataset
        folder.mkdir(parents=True)
        (folder / "picture.bin").write_bytes(random.Random(7).randbytes(100_000))
    for age in GAP:
        folder = root / "datasets" / "events" / str(today - timedelta(days=age))
        folder.mkdir(parents=True)
        (folder / "events.json").write_text(f'{{"age": {age}}}')
    never = "05:00" if soon.hour > 10 else "20:00"
    place = f"{root}/datasets"
    plan = {
        "start": str(today - timedelta(days=5)),
        "automation": True,
        "encryption": "none",
        "stores": {"local": f"file://{root}/stores/local"},
        "policies": {
            "default": {
                "tiers": [{"name": "local", "at": never}],
                "on_change": {"at_most_every": "10 minutes"},
            }
        },
        "datasets": [
            {"asset": "vision/a", "source": f"{place}/vision/a"},
            *(
                {
                    "asset": dataset,
                    "source": f"{place}/{dataset}",
                    "override": {"on_change": False, "tiers": {"local": {"at": f"{tick:%H:%M}"}}},
                }
                for dataset, tick in zip(SCHEDULED, ticks, strict=True)
            ),
            {
                "asset": "lake/events",
                "source": {"day_paths": f"{place}/events/{{day}}"},
                "holds": "slice",
            },
        ],
    }
    path = root / "backup.yaml"
    path.write_text(yaml.safe_dump(plan))
    return path, today, [f"backup_local_day_at_{tick:%H%M}_schedule" for tick in ticks]


Live = tuple[LiveDagster, Path, date, list[str]]


@pytest.fixture
def live(tmp_path: Path, dagster_home: Path) -> Iterator[Live]:
    """Dagster's servers over that plan, on a day that is not over before the test is."""
    now = datetime.now(UTC)
    left = datetime.combine(now + timedelta(days=1), time(), UTC) - now
    if left < timedelta(minutes=5):
        sleep(left.total_seconds() + 1)
    plan, today, schedules = write_plan(tmp_path)
    definitions = Path(__file__).parent / "live_defs.py"
    with LiveDagster(dagster_home, definitions, {"BACKUP_TEST_PLAN": str(plan)}) as dagster:
        yield dagster, plan, today, schedules


@pytest.mark.services
@pytest.mark.slow
@pytest.mark.xdist_group("dagster servers")
def test_a_day_with_a_real_daemon_and_web_server(live: Live) -> None:
    with with_logs(live[0]):
        run_through(*live)


def run_through(dagster: LiveDagster, plan: Path, today: date, schedules: list[str]) -> None:
    """What the day brings."""
    events = ["backup", "local", "lake", "events"]
    gap = [str(today - timedelta(days=age)) for age in GAP]

    backfill = dagster.launch_backfill(events, gap)
    sensed = wait_for(
        lambda: ended(dagster.runs(dagster__sensor_name="backup_change_sensor")),
        60,
        "the sensor's run",
    )
    assert steps_of(sensed) == ["backup__local__vision__a"], "without the expensive checks"
    assert dagster.materialized(["backup", "local", "vision", "a"]) == {str(today)}

    wait_for(
        lambda: len(ended(dagster.runs(dagster__backfill=backfill))) == len(gap),
        60,
        "the backfill",
    )
    assert {run["status"] for run in dagster.runs(dagster__backfill=backfill)} == {"SUCCESS"}
    assert dagster.materialized(events) == {gap[0], gap[-1]}, "one range, without a gap"

    scheduled = wait_for(
        lambda: [
            run for name in schedules for run in ended(dagster.runs(dagster__schedule_name=name))
        ],
        100,
        "a schedule's run",
    )
    chosen = steps_of(scheduled)[0].removeprefix("backup__local__").replace("__", "/")
    assert chosen in SCHEDULED and {run["status"] for run in scheduled} == {"SUCCESS"}
    backups = ["backup", "local", *chosen.split("/")]
    assert dagster.materialized(backups) == {str(today)}

    flip_a_byte_of(chosen, plan)
    check = dagster.launch_check(backups, "matches", str(today))
    wait_for(lambda: dagster.status(check) in ENDED, 60, "the check")
    assert dagster.check_status(backups, "matches") == ["FAILED"]
    assert dagster.check_status(backups, "complete") == ["SUCCEEDED"]
    with dg.DagsterInstance.from_config(str(dagster.home)) as instance:
        record = instance.get_latest_asset_check_evaluation_record(
            dg.AssetCheckKey(dg.AssetKey(backups), "matches")
        )
        assert record is not None and record.partition == str(today)


def ended(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The runs, once all of them have ended."""
    return runs if all(run["status"] in ENDED for run in runs) else []


def steps_of(runs: list[dict[str, Any]]) -> list[str]:
    """All steps that these runs took."""
    return [one["stepKey"] for run in runs for one in run["stepStats"]]


def flip_a_byte_of(dataset: str, plan: Path) -> None:
    """Damage the largest pack of a dataset."""
    with Runner(load_plan(plan)) as runner:
        (place,) = runner.places(dataset)
        repository = place.find()
        assert repository is not None
        root = Path(repository.store.url.removeprefix("file://"))
        packs = [path for path in (root / repository.prefix / "packs").rglob("*") if path.is_file()]
    pack = max(packs, key=lambda path: path.stat().st_size)
    pack.chmod(0o600)
    content = bytearray(pack.read_bytes())
    content[len(content) // 2] ^= 1
    pack.write_bytes(content)

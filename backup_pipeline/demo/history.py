"""Seeds some sixty days of backups, with gaps and damage among them, and opens Dagster on them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import dagster as dg

from backup_pipeline.demo import datasets as written
from backup_pipeline.demo.damage import flip_byte
from backup_pipeline.demo.datasets import DATASETS, Scene
from backup_pipeline.demo.days import SUNDAY, SimulatedClock
from backup_pipeline.demo.declaration import write_plan
from backup_pipeline.demo.defs import DIRECTORY_VARIABLE, SMALL_TREE_BYTES
from backup_pipeline.demo.stage import Stage, open_instance
from backup_pipeline.demo.story import ONE_DAY, SLICE, WHOLE, prepare
from backup_pipeline.runner import Runner
from backup_pipeline.s3_server import S3Server

DEFAULT_DIRECTORY = Path(".demo") / "ui"

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class History:
    """What happened; days are counted from the first one.

    Attributes:
        days: How many days lie before today.
        missed: Days without a backup.
        missed_sunday: Which Sunday had no local backup either, so that the cloud tier's is late.
        refused: Missed days for which a backfill was tried and failed, as nothing holds them.
        damaged: The day whose model has a flipped byte.
        checked: Days whose stored bytes were checked.
    """

    days: int = 60
    missed: tuple[int, ...] = (11, 12, 26, 41)
    missed_sunday: int = 4
    refused: tuple[int, ...] = (12, 26)
    damaged: int = 52
    checked: tuple[int, ...] = (50, 52, 57, 59)

    def all_days(self, start: date) -> list[date]:
        """From the first day to today."""
        return [start + timedelta(days=number) for number in range(self.days + 1)]

    def missed_days(self, start: date) -> set[date]:
        """The days without a local backup."""
        sundays = [day for day in self.all_days(start) if day.weekday() == SUNDAY]
        return {start + timedelta(days=n) for n in self.missed} | {sundays[self.missed_sunday]}


def run_ui(
    directory: str | os.PathLike[str] | None = None, *, port: int = 3000, say: Say = print
) -> int:
    """Seed the history and open ``dagster dev`` on it, until it is interrupted.

    Args:
        directory: Where everything is written; ``.demo/ui`` if not given.
        port: The UI's port on 127.0.0.1.
        say: Takes each line.

    Returns:
        The exit code.

    Raises:
        UsageError: The directory holds something that no demo wrote.
    """
    root = Path(directory or DEFAULT_DIRECTORY).absolute()
    prepare(root)
    with ExitStack() as servers:
        cloud = servers.enter_context(S3Server(root / "s3" / "cloud"))
        offsite = servers.enter_context(S3Server(root / "s3" / "offsite"))
        seed(root, cloud, offsite, say=say)
        say(f"opening Dagster on http://127.0.0.1:{port} (Ctrl-C ends it)")
        return _open_dagster(root, port)


def seed(
    root: Path,
    cloud: S3Server | None,
    offsite: S3Server | None,
    *,
    history: History | None = None,
    say: Say = print,
) -> None:
    """Write a history into a demo's directory, and tell its Dagster home.

    Args:
        root: The demo's directory.
        cloud: The S3 server of the cloud tier; None for a directory.
        offsite: The same for the offsite tier.
        history: What happened; sixty days if not given.
        say: Takes each line.
    """
    history = history or History()
    today = datetime.now(UTC).date()
    start = today - timedelta(days=history.days)
    clock = SimulatedClock(datetime.now(UTC))
    scene = Scene(root, start, clock, SMALL_TREE_BYTES)
    plan_file = write_plan(root, start, cloud=cloud, offsite=offsite, automation=True)
    with open_instance(root / "dagster_home") as instance:
        stage = Stage(scene, plan_file, clock, instance)
        say(f"seeding {history.days} days of backups of {len(DATASETS)} datasets in three tiers")
        _live_through(stage, clock, start, history)
        clock.now = datetime.now(UTC)
        _report_datasets(stage, history.all_days(start))
        stage.sync()
        say("telling Dagster of refused backfills and of checks, one of them red")
        _fail_and_check(stage, start, history)


def _live_through(stage: Stage, clock: SimulatedClock, start: date, history: History) -> None:
    missed = history.missed_days(start)
    runner, scene = stage.runner, stage.scene
    for day in history.all_days(start):
        clock.set(day, 1)
        written.write_training_data(scene)
        written.train_model(scene)
        written.write_python_tree(scene)
        written.write_measurements(scene, day)
        if day in missed:
            continue
        clock.set(day, 2)
        for dataset in WHOLE:
            runner.backup(dataset, "local")
        _copy_yesterday(runner, day - ONE_DAY, start, missed)


def _copy_yesterday(runner: Runner, day: date, start: date, missed: set[date]) -> None:
    if day < start:
        return
    runner.backup(SLICE, "local", day=day)
    runner.backup(SLICE, "cloud", day=day)
    if day.weekday() == SUNDAY:
        for dataset in WHOLE:
            runner.backup(dataset, "cloud", day=day)
    if day.day == 1 and day not in missed:
        for dataset in WHOLE:
            runner.backup(dataset, "offsite", day=day)


def _fail_and_check(stage: Stage, start: date, history: History) -> None:
    for number in history.refused:
        stage.back_up("local", ("demo/training_data",), start + timedelta(days=number))
    damaged = start + timedelta(days=history.damaged)
    store = stage.scene.directory / "stores" / "local"
    flip_byte(stage.runner, "demo/model", "local", damaged, store)
    for number in history.checked:
        day = start + timedelta(days=number)
        stage.check("matches", "local", WHOLE, day)
        stage.check("restores", "local", ("demo/training_data",), day)
    for tier in ("local", "cloud"):
        stage.check("fresh", tier, WHOLE, None)


def _report_datasets(stage: Stage, days: list[date]) -> None:
    """The datasets were written without Dagster; tell it, as their own runs would have."""
    for dataset in WHOLE:
        stage.instance.report_runless_asset_event(dg.AssetMaterialization(dataset.split("/")))
    for day in days:
        stage.instance.report_runless_asset_event(
            dg.AssetMaterialization(SLICE.split("/"), partition=day.isoformat())
        )


def _open_dagster(root: Path, port: int) -> int:
    # Dagster would else greet every newcomer with a warning about its own next command line.
    program = [sys.executable, "-W", "ignore", "-m", "dagster", "dev"]
    command = [*program, "-m", "backup_pipeline.demo.defs"]
    environ = {
        **os.environ,
        "DAGSTER_HOME": str(root / "dagster_home"),
        DIRECTORY_VARIABLE: str(root),
    }
    # A shell that starts this in the background has it ignore Ctrl-C, which children inherit, and
    # Dagster then takes SIGTERM for the same: nothing but SIGKILL would end them.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with subprocess.Popen(
        [*command, "--host", "127.0.0.1", "--port", str(port)], env=environ, cwd=root
    ) as server:
        signal.signal(signal.SIGTERM, lambda *_: server.terminate())
        try:
            return server.wait()
        except KeyboardInterrupt:
            # The terminal sent it to the server too, which ends its own children.
            server.wait()
            return 0

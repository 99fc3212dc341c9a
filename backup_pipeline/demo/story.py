"""The demo's story: days of backups, a gap, a flipped byte, a total loss, a restore."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from backup_pipeline.demo.damage import flip_byte
from backup_pipeline.demo.datasets import DATASETS, Scene
from backup_pipeline.demo.days import Calendar, SimulatedClock, calendar
from backup_pipeline.demo.declaration import KEY_FILE, PLAN_FILE, write_plan
from backup_pipeline.demo.proof import size, witness
from backup_pipeline.demo.stage import Run, Stage, open_instance
from backup_pipeline.engine.errors import BackupError, UsageError
from backup_pipeline.engine.progress import human_bytes
from backup_pipeline.s3_server import S3Server

DEFAULT_DIRECTORY = Path(".demo") / "story"
MARK = ".backup-pipeline-demo"
SLICE = "demo/measurements"
WHOLE = tuple(dataset for dataset in DATASETS if dataset != SLICE)
DAMAGED = "demo/model"
ONE_DAY = timedelta(days=1)

Say = Callable[[str], None]


class DemoFailed(BackupError):
    """Something in the demo did not turn out as promised."""

    exit_code = 1


@dataclass
class Figures:
    """What the demo measured; every number of its report.

    Attributes:
        days: Simulated days.
        files: Files in all datasets on the last day.
        dataset_bytes: Their bytes.
        snapshots: Snapshots in all tiers.
        read_bytes: Bytes read from sources.
        stored_bytes: Bytes stored in all tiers.
        checks: Evaluated checks.
        backup_s: Time spent in backup runs.
        restored_bytes: Bytes restored after the loss.
        restore_s: Time that took.
        proved: Restored datasets proved equal.
        elapsed_s: The whole demo.
    """

    days: int = 0
    files: int = 0
    dataset_bytes: int = 0
    snapshots: int = 0
    read_bytes: int = 0
    stored_bytes: int = 0
    checks: int = 0
    backup_s: float = 0.0
    restored_bytes: int = 0
    restore_s: float = 0.0
    proved: int = 0
    elapsed_s: float = 0.0


@dataclass
class _Play:
    """What the acts share."""

    stage: Stage
    days: Calendar
    say: Say
    figures: Figures
    witnesses: dict[tuple[str, date], str] = field(default_factory=dict)

    @property
    def scene(self) -> Scene:
        return self.stage.scene


def run_demo(
    directory: str | os.PathLike[str] | None = None, *, keep: bool = False, say: Say = print
) -> int:
    """Run the demo from the first backup to the proof, and report.

    Args:
        directory: Where everything is written; ``.demo/story`` if not given. It must be empty,
            missing, or an earlier demo's.
        keep: Leave the stores, the plan and the restored datasets there.
        say: Takes each line of the report.

    Returns:
        0 if everything turned out as promised, 1 if not.

    Raises:
        UsageError: The directory holds something else.
    """
    root = Path(directory or DEFAULT_DIRECTORY).absolute()
    prepare(root)
    started_s = time.perf_counter()
    figures = Figures()
    try:
        _perform(root, say, figures)
    except DemoFailed as failure:
        say(f"\nThe demo failed: {failure}\nEverything is still in {root}.")
        return failure.exit_code
    figures.elapsed_s = time.perf_counter() - started_s
    _report(figures, root, keep, say)
    if not keep:
        shutil.rmtree(root)
    return 0


def prepare(root: Path) -> None:
    """Empty a directory of an earlier demo, or make one; refuse any other.

    Raises:
        UsageError: The directory holds something that no demo wrote.
    """
    mark = root / MARK
    if root.exists() and any(root.iterdir()) and not mark.exists():
        raise UsageError(
            f"{root} holds files that no demo wrote", "name an empty or a new directory"
        )
    if root.exists():
        shutil.rmtree(root)
    root.mkdir(parents=True)
    mark.write_text("Written by the demo of backup_pipeline; the next demo empties it.\n")


def _perform(root: Path, say: Say, figures: Figures) -> None:
    days = calendar(datetime.now(UTC).date())
    clock = SimulatedClock(datetime.now(UTC))
    clock.set(days.days[0], 1)
    scene = Scene(root, days.days[0], clock)
    with ExitStack() as servers:
        cloud = servers.enter_context(S3Server(root / "s3" / "cloud"))
        offsite = servers.enter_context(S3Server(root / "s3" / "offsite"))
        plan_file = write_plan(root, days.days[0], cloud=cloud, offsite=offsite)
        home = root / "dagster_home"
        with open_instance(home) as instance:
            play = _Play(Stage(scene, plan_file, clock, instance), days, say, figures)
            say(f"Four real datasets, three tiers (a disk, two S3 servers), {len(days.days)} days")
            for day in days.days:
                _live_through(play, day)
            _backfill(play)
            _check_everything(play)
            _damage_and_repair(play)
            _count(play)
        _lose_everything(play, home)
        _restore_from_stores(play, root, cloud, offsite)


def _live_through(play: _Play, day: date) -> None:
    """One simulated day: the datasets change, the tiers that are due take their backups."""
    clock, yesterday = play.stage.clock, day - ONE_DAY
    clock.set(day, 1)
    _expect(play.stage.write_datasets(day), f"writing the datasets of {day}")
    for dataset in WHOLE:
        play.witnesses[dataset, day] = witness(play.scene.path(dataset))
    play.witnesses[SLICE, day] = witness(play.scene.path(SLICE) / f"day={day}")
    if day == play.days.missed:
        play.say(f"{day}  the datasets changed, and no backup ran: a day is missed")
        return
    clock.set(day, 2)
    _back_up(play, "local", WHOLE, day)
    if yesterday < play.days.days[0]:
        return
    _back_up(play, "local", (SLICE,), yesterday)
    _back_up(play, "cloud", (SLICE,), yesterday)
    if yesterday == play.days.sunday:
        _back_up(play, "cloud", WHOLE, yesterday)
    if yesterday == play.days.first:
        _back_up(play, "offsite", WHOLE, yesterday)


def _back_up(play: _Play, tier: str, datasets: tuple[str, ...], day: date) -> None:
    run = play.stage.back_up(tier, datasets, day)
    _expect(run, f"backing up {day} in tier {tier}")
    _tally(play, run)
    held, read, stored = (
        human_bytes(run.total(f"backup/{name}")) for name in ("bytes", "read_bytes", "stored_bytes")
    )
    if tier == "local":
        play.figures.read_bytes += run.total("backup/read_bytes")
    noun = "slice" if datasets == (SLICE,) else "datasets"
    today = play.scene.today
    what = f"{len(datasets)} {noun}" + (f" of {day}" if day != today else "")
    how = f"read {read:>9}" if tier == "local" else "copied"
    play.say(
        f"{today}  {tier:<8} {what:<25} {held:>9}, {how:<14}, stored {stored:>9},"
        f" {run.duration_s:4.1f} s"
    )


def _backfill(play: _Play) -> None:
    """Ask for the missed day: exact where the source can say, refused where nobody can."""
    missed, say = play.days.missed, play.say
    slice_day = missed - ONE_DAY
    run = play.stage.back_up("local", (SLICE,), slice_day)
    _expect(run, f"the exact backfill of {SLICE} for {slice_day}")
    _tally(play, run)
    _expect(play.stage.back_up("cloud", (SLICE,), slice_day), f"copying {SLICE} of {slice_day}")
    timing = next(iter(run.materializations.values())).get("backup/timing")
    if timing != "exact":
        raise DemoFailed(f"the backfill of {SLICE} for {slice_day} is marked {timing}, not exact")
    say(f"\nBackfill of the slice that was missed, {slice_day}: {timing}, from that day's folder")

    run = play.stage.back_up("local", ("demo/training_data",), missed)
    if run.ok:
        raise DemoFailed(f"today's training data was passed off as that of {missed}")
    say(f"Backfill of the training data of {missed}: refused, as nothing holds that day any more:")
    for line in run.error.splitlines():
        say(textwrap.fill(line, 96, initial_indent="    ", subsequent_indent="    "))


def _check_everything(play: _Play) -> None:
    """The checks that cost something: all stored bytes of a day, a drill, and the tiers' age."""
    last, sunday, first = play.days.days[-1], play.days.sunday, play.days.first
    play.say("")
    for name, tier, day in (
        ("matches", "local", last),
        ("matches", "cloud", sunday),
        ("matches", "offsite", first),
        ("restores", "local", last),
        ("fresh", "local", None),
    ):
        run = play.stage.check(name, tier, WHOLE, day)
        _expect(run, f"check {name} in tier {tier}")
        _tally(play, run)
        where = f"{tier} {day}" if day else tier
        play.say(f"Check {name:<9} {where:<19} green for {len(run.checks)} datasets")


def _damage_and_repair(play: _Play) -> None:
    """Flip a byte, see the check turn red, copy the day back from another tier, see it green."""
    day, stage = play.days.sunday, play.stage
    flip_byte(stage.runner, DAMAGED, "local", day, play.scene.directory / "stores" / "local")
    run = stage.check("matches", "local", (DAMAGED,), day)
    _tally(play, run)
    if not run.failed_checks:
        raise DemoFailed(f"a flipped byte in {DAMAGED} of {day} went unnoticed")
    play.say(f"\nOne byte of {DAMAGED} flipped on the disk: matches local {day} is red")
    copied = stage.runner.copy(DAMAGED, from_tier="cloud", to_tier="local", day=day, kind="full")
    run = stage.check("matches", "local", (DAMAGED,), day)
    _expect(run, f"check matches of {DAMAGED} after the copy back")
    _tally(play, run)
    stored = human_bytes(copied.snapshot.stored_bytes)
    play.say(f"The day copied back from the cloud tier ({stored}, kind full): green again")


def _count(play: _Play) -> None:
    figures = play.figures
    figures.days = len(play.days.days)
    figures.files, figures.dataset_bytes = size(play.scene.datasets)
    snapshots = play.stage.runner.snapshots()
    figures.snapshots = len(snapshots)
    figures.stored_bytes = sum(snapshot.stored_bytes for snapshot in snapshots)


def _lose_everything(play: _Play, home: Path) -> None:
    shutil.rmtree(play.scene.datasets)
    shutil.rmtree(home)
    play.say("\nThe datasets and the Dagster home are deleted. What is left: stores and a key file")


def _restore_from_stores(play: _Play, root: Path, cloud: S3Server, offsite: S3Server) -> None:
    """Restore by the command line from bare stores, and compare with the witness of each day."""
    last, first = play.days.days[-1], play.days.first
    stores: dict[str, tuple[str, dict[str, str]]] = {
        "local": (f"file://{root}/stores/local", {}),
        "cloud": (f"s3://{cloud.buckets[0]}/cloud", cloud.environ()),
        "offsite": (f"s3://{offsite.buckets[0]}/offsite", offsite.environ()),
    }
    wanted = [("local", dataset, last) for dataset in WHOLE]
    wanted += [("cloud", SLICE, last - ONE_DAY)]
    wanted += [("offsite", dataset, first) for dataset in WHOLE]
    for tier, dataset, day in wanted:
        target = root / "restored" / tier / dataset
        url, credentials = stores[tier]
        elapsed_s = _restore(root, url, credentials, dataset, day, target)
        if witness(target) != play.witnesses[dataset, day]:
            raise DemoFailed(f"{dataset} of {day} from tier {tier} is not what it was: {target}")
        files, restored_bytes = size(target)
        play.figures.restored_bytes += restored_bytes
        play.figures.restore_s += elapsed_s
        play.figures.proved += 1
        amount = f"{files:>5} files, {human_bytes(restored_bytes):>9}"
        play.say(f"{tier:<8} {dataset:<19} {day}  {amount}, {elapsed_s:4.1f} s, equal")


def _restore(
    root: Path, url: str, credentials: dict[str, str], dataset: str, day: date, target: Path
) -> float:
    """What a user would type, in a process of its own; returns how long it took, in seconds."""
    command = [
        *(sys.executable, "-m", "backup_pipeline", "restore"),
        *("--store", url, "--dataset", dataset, "--day", day.isoformat()),
        *("--key-file", str(root / KEY_FILE), "--to", str(target)),
    ]
    started_s = time.perf_counter()
    done = subprocess.run(
        command, env={**os.environ, **credentials}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise DemoFailed(f"{' '.join(command)}\nended with {done.returncode}:\n{done.stderr}")
    return time.perf_counter() - started_s


def _expect(run: Run, what: str) -> None:
    if not run.ok or run.failed_checks:
        names = ", ".join(check.check_name for check in run.failed_checks)
        raise DemoFailed(f"{what} failed: {run.error or names}")


def _tally(play: _Play, run: Run) -> None:
    play.figures.backup_s += run.duration_s
    play.figures.checks += len(run.checks)


def _report(figures: Figures, root: Path, keep: bool, say: Say) -> None:
    restored = human_bytes(figures.restored_bytes)
    speed = human_bytes(figures.restored_bytes / max(figures.restore_s, 1e-9))
    say(
        f"""
Proved: {figures.proved} restores from the stores alone equal what was there, to the nanosecond.

  days simulated        {figures.days}, with {figures.snapshots} snapshots in three tiers
  datasets              {figures.files} files, {human_bytes(figures.dataset_bytes)}
  read from them        {human_bytes(figures.read_bytes)} in all
  stored                {human_bytes(figures.stored_bytes)} in all tiers, encrypted
  checks evaluated      {figures.checks}
  backups and checks    {figures.backup_s:.1f} s
  restores              {restored} in {figures.restore_s:.1f} s, {speed}/s
  the whole demo        {figures.elapsed_s:.1f} s

What to type next:
  {_next_command(root, keep)}
  make ui
      Dagster with some sixty days of such history
and to read: docs/how-to/first-backup.md, for your own datasets"""
    )


def _next_command(root: Path, keep: bool) -> str:
    beside = Path(sys.executable).parent / "backup-pipeline"
    found = shutil.which("backup-pipeline")
    known = found is not None and Path(found).samefile(beside) if beside.exists() else True
    command = "backup-pipeline" if known else os.path.relpath(beside)
    if not keep:
        return f"{command} demo --keep\n      the same again, and its stores stay to look at"
    return (
        f"{command} snapshots --tier local --plan {os.path.relpath(root / PLAN_FILE)}"
        "\n      what the local store holds"
    )

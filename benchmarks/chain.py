"""Ten thousand incrementals in one chain: built in one process, measured as whole processes.

Run as ``python -m benchmarks.chain HOME COUNT LIMIT_S`` it builds: a folder of a few files of
which one changes, and a snapshot of each state, without fsync, for building is not measured.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.measure import Command, measure
from benchmarks.peers import PASSPHRASE
from benchmarks.places import Place
from benchmarks.results import machine
from benchmarks.tools import OURS, Ours

__all__ = ["ROWS", "SNAPSHOTS", "measure_chain"]

SNAPSHOTS = 10_000
STEPS = (1000, 100, 10, 1)  # the last is measured, and the last divided by these
ROWS = {
    "snapshots": "open and list",
    "restore": "restore the newest",
    "no-change": "back up, no change",
    "changed": "back up, one file changed",
}
FILES = 20
FILE_BYTES = 1000
ROUNDS = 3
BUILDING_S = 400.0  # then the run ends, to be gone on with
SETTLING_S = 2.5


def measure_chain(
    cache: Path, scale: float, earlier: Mapping[str, Any] | None, keep: Callable[[Any], object]
) -> bool:
    """Build the chain as far as the time allows, and measure it at each power of ten.

    Args:
        cache: Where it is built; a chain that is there is gone on with, given its results.
        scale: 1 for ten thousand snapshots.
        earlier: The results so far.
        keep: Is given the results whenever there are more.

    Returns:
        Whether it has reached its end.
    """
    ours = Ours(counted=True)
    home = cache / "work" / "chain"
    document: dict[str, Any] = {
        "versions": {OURS: ours.version()},
        "points": dict(earlier["points"]) if earlier else {},
        "runs": [*(earlier["runs"] if earlier else ()), machine(cache)],
    }
    place = Place(home, home / "source")
    if earlier is None:
        shutil.rmtree(home, ignore_errors=True)
    if not home.is_dir():
        home.mkdir(parents=True)
        place.source.mkdir()
        for number in range(FILES):
            _change(place.source, number)
        ours.prepare(place)
        plan = home / "backup.yaml"
        plan.write_text(
            f"{plan.read_text()}policies: {{default: {{tiers: [{{name: local, every: day,"
            " kind: incremental, full_every: 1000 weeks}]}}\n"
        )
    ours.go_on(place)
    deadline = time.monotonic() + BUILDING_S
    for step in STEPS:
        count = max(1, int(SNAPSHOTS * scale / step))
        if str(count) in document["points"]:
            continue
        if not _build(home, count, deadline):
            return False
        document["points"][str(count)] = _point(ours, cache, place)
        keep(document)
    shutil.rmtree(home)
    return True


def _build(home: Path, count: int, deadline: float) -> bool:
    """Go on until there are so many snapshots; whether there are."""
    left_s = str(max(0.0, deadline - time.monotonic()))
    argv = [sys.executable, "-m", "benchmarks.chain", str(home), str(count), left_s]
    made = int(subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True).stdout)
    print(f"chain      {made:6} snapshots", flush=True)
    return made >= count


def _point(ours: Ours, cache: Path, place: Place) -> dict[str, list[dict[str, Any]]]:
    """Every row a few times over."""
    samples: dict[str, list[dict[str, Any]]] = {row: [] for row in ROWS}
    target = cache / "work" / "target"
    for number in range(ROUNDS):
        for row in ROWS:
            shutil.rmtree(target, ignore_errors=True)
            target.mkdir(parents=True)
            if row == "changed":
                _change(place.source, number)
            if row in ("no-change", "changed"):
                time.sleep(SETTLING_S)
            before = place.stored_bytes()
            sample = measure(_command(ours, row, target), cache / "last-output.txt").to_json()
            sample["requests"] = ours.requests()
            sample["written_bytes"] = place.stored_bytes() - before
            samples[row].append(sample)
            print(f"chain      {row:10} {sample['wall_s']:6.2f} s {sample['peak_mib']:5.0f} MiB")
    shutil.rmtree(target)
    return samples


def _command(ours: Ours, row: str, target: Path) -> Command:
    if row == "snapshots":
        return ours.snapshots()
    return ours.restore(target, 0) if row == "restore" else ours.backup(0)


def _change(source: Path, number: int) -> None:
    (source / f"file-{number % FILES}").write_bytes(os.urandom(FILE_BYTES))


def _add_snapshots(home: Path, count: int, limit_s: float) -> int:
    """Back up until there are so many, or until the time is over; how many there are."""
    from backup_pipeline.plan import load_plan
    from backup_pipeline.runner.runner import Runner

    environ = {"BACKUP_PASSPHRASE": PASSPHRASE}
    os.fsync = lambda fd: None  # type: ignore[assignment]
    deadline = time.monotonic() + limit_s
    with Runner(load_plan(home / "backup.yaml", environ=environ), environ=environ) as runner:
        places = runner.places("bench")
        found = places[0].find()
        made = len(found.snapshots()) if found is not None else 0
        while made < count and time.monotonic() < deadline:
            _change(home / "source", made)
            snapshot = runner.backup("bench").snapshot
            made += 1
            assert snapshot.kind == "incremental" or made == 1, "the chain broke"
    return made


if __name__ == "__main__":
    print(_add_snapshots(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])))

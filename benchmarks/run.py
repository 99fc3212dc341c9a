"""Measure backup-pipeline beside restic, borg and rclone: ``python -m benchmarks.run``.

Every row is run by every tool before the next row begins, in an order that turns with each round,
each as a whole process with a warm page cache. Data and repositories lie in BACKUP_BENCH_CACHE
(default ~/.cache/backup-pipeline-bench); at full scale the results go to benchmarks/results and
into docs/performance.md, else to the cache alone.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.chain import measure_chain
from benchmarks.installing import Missing
from benchmarks.report import show_set, write_documentation
from benchmarks.results import OtherVersions, load, machine, merged, rounds_in, save
from benchmarks.rounds import Bench
from benchmarks.sets import SETS
from benchmarks.tools import all_tools

__all__ = ["main"]

CHAIN = "chain"
_EPILOG = "sets: " + ", ".join([*SETS, CHAIN])


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write the results, and print them; the exit code."""
    chosen = _parser().parse_args(arguments)
    names = [*SETS, CHAIN] if chosen.sets == "all" else chosen.sets.split(",")
    unknown = [name for name in names if name not in SETS and name != CHAIN]
    if unknown:
        print(f"unknown: {', '.join(unknown)}; {_EPILOG}", file=sys.stderr)
        return 2
    default = Path.home() / ".cache" / "backup-pipeline-bench"
    cache = Path(os.environ.get("BACKUP_BENCH_CACHE") or default).absolute()
    (cache / "data").mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("another run uses this cache: wait for it, or set BACKUP_BENCH_CACHE")
            return 2
        try:
            return _measure_all(chosen, names, cache)
        except (Missing, OtherVersions) as error:
            print(error, file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("benchmarks", description=__doc__, epilog=_EPILOG)
    parser.add_argument("--scale", type=float, default=1.0, help="1: the sizes that the sets name")
    parser.add_argument("--rounds", type=int, help="default: the set's own; 0 only makes the data")
    parser.add_argument("--sets", default="all", help="by comma")
    parser.add_argument("--tools", help="ours,restic,borg,rclone; default: the set's own")
    parser.add_argument("--append", action="store_true", help="add rounds to those of earlier runs")
    parser.add_argument("--keep-data", action="store_true", help="also where it is big")
    return parser


def _measure_all(chosen: argparse.Namespace, names: Sequence[str], cache: Path) -> int:
    for name in names:
        if name == CHAIN:
            _measure_chain(chosen, cache)
        else:
            _measure(chosen, name, cache)
        if chosen.scale == 1:
            write_documentation()
    return 0


def _measure_chain(chosen: argparse.Namespace, cache: Path) -> None:
    earlier = load(CHAIN, chosen.scale, cache) if chosen.append else None

    def keep(document: dict[str, Any]) -> None:
        save(CHAIN, chosen.scale, cache, document)

    while not measure_chain(cache, chosen.scale, earlier, keep):
        if chosen.append:
            print("the chain is not whole yet: run this again")
            return
        earlier = load(CHAIN, chosen.scale, cache)


def _measure(chosen: argparse.Namespace, name: str, cache: Path) -> None:
    spec = SETS[name]
    wanted = chosen.tools.split(",") if chosen.tools else spec.tools
    tools = all_tools(cache, wanted, counted=spec.growth is not None)
    earlier = load(name, chosen.scale, cache) if chosen.append else None
    bench = Bench(name, chosen.scale, cache, tools)
    rounds = spec.rounds if chosen.rounds is None else chosen.rounds
    about: dict[str, Any] = machine(cache)
    new = {
        "versions": {tool.name: tool.version() for tool in tools},
        "data": bench.data,
        "samples": bench.samples,
        "stored": bench.stored,
        "runs": [about],
    }
    merged(earlier, new)  # refuses before anything is measured
    bench.build()
    try:
        if rounds:
            about["limits"] = _limits(cache, bench.source)
        for number in range(rounds):
            bench.round(number)
            document = merged(earlier, new)
            path = save(name, chosen.scale, cache, document)
        if rounds:
            print(f"\n{show_set(name, document)}\n")
            print(f"{rounds_in(document)} rounds in {path.name}")
    finally:
        if spec.transient and rounds and not chosen.keep_data:
            bench.forget()


def _limits(cache: Path, data: Path) -> dict[str, float]:
    argv = [sys.executable, "-m", "benchmarks.limits", str(cache), str(data)]
    return json.loads(subprocess.run(argv, check=True, capture_output=True).stdout)


if __name__ == "__main__":
    sys.exit(main())

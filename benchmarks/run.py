"""Measure backup-pipeline beside restic and borg: ``python -m benchmarks.run [--scale 0.1]``.

Every row is run by every tool before the next row begins, in an order that turns with each round,
each as a whole process with a warm page cache. Data and repositories lie in BACKUP_BENCH_CACHE
(default ~/.cache/backup-pipeline-bench); at full scale the results go to benchmarks/results and
into docs/performance.md, else to the cache alone.
"""

from __future__ import annotations

import argparse
import fcntl
import filecmp
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.edits import Edits
from benchmarks.measure import Command, measure, settle, tree_bytes
from benchmarks.report import machine, show_table, write_documentation, write_results
from benchmarks.tools import Tool, all_tools

__all__ = ["main"]

SETTLING_S = 3.0  # files younger than two seconds are read again by careful tools


@dataclass(slots=True)
class _Bench:
    """One data set's rounds.

    Attributes:
        kind: ``large`` or ``small``.
        scale: 1 for the full size.
        cache: Where everything is.
        tools: Who takes part.
        samples: Row, then tool, then what each round measured.
        stored: Row, then tool, then the repository's bytes after it.
    """

    kind: str
    scale: float
    cache: Path
    tools: Sequence[Tool]
    samples: dict[str, dict[str, list[Any]]] = field(default_factory=dict)
    stored: dict[str, dict[str, int]] = field(default_factory=dict)
    turn: int = 0

    @property
    def source(self) -> Path:
        """The data set's folder."""
        return self.cache / "data" / f"{self.kind}-{self.scale:g}"

    @property
    def edits(self) -> Edits:
        """What changes in it."""
        saved = self.source.with_name(f"{self.source.name}.saved")
        return Edits(self.kind, self.source, saved, self.scale)

    def build(self) -> None:
        """Make the data set, unless it is there."""
        if not self.source.is_dir():
            print(f"making the {self.kind} data set (once)", flush=True)
            shutil.rmtree(self.source.with_name(f"{self.source.name}.unfinished"), True)
            argv = [sys.executable, "-m", "benchmarks.datasets", self.kind, str(self.source)]
            subprocess.run([*argv, str(self.scale)], check=True)
        self.edits.revert()

    def round(self, number: int) -> None:
        """Run every row once with every tool."""
        self.turn = number
        homes = {tool.name: self.cache / "work" / self.kind / tool.name for tool in self.tools}
        for tool in self.tools:
            _empty(homes[tool.name])
            tool.prepare(homes[tool.name], self.source)
        self._wait()
        self._row("first", lambda tool: tool.backup(1), stored=True)
        self._row("no-change", lambda tool: tool.backup(2), stored=True)
        self.edits.apply()
        self._wait()
        self._row("changed", lambda tool: tool.backup(3), stored=True)
        self._row("snapshots", lambda tool: tool.snapshots())
        self._row("verify", lambda tool: tool.verify())
        self._restore("restore", None)
        self._restore("restore-one", self._one_path())
        self.edits.revert()
        for home in homes.values():
            shutil.rmtree(home)

    def _row(self, row: str, command: Callable[[Tool], Command], *, stored: bool = False) -> None:
        for tool in self._in_turn():
            self._measure(row, tool, command(tool))
            if stored:
                self.stored.setdefault(row, {})[tool.name] = tree_bytes(tool.repository())

    def _restore(self, row: str, only: str | None) -> None:
        target = self.cache / "work" / "target"
        for tool in self._in_turn():
            _empty(target)
            self._measure(row, tool, tool.restore(target, 3, only))
            if self.turn == 0:
                _compare(self.source, target, only, tool.name)
            shutil.rmtree(target)

    def _measure(self, row: str, tool: Tool, command: Command) -> None:
        measured = measure(command, self.cache / "last-output.txt")
        self.samples.setdefault(row, {}).setdefault(tool.name, []).append(measured.to_json())
        print(
            f"{self.kind:6} round {self.turn + 1} {row:12} {tool.name:16}"
            f" {measured.wall_s:8.2f} s {measured.cpu_s:8.2f} s CPU {measured.peak_mib:7.0f} MiB",
            flush=True,
        )

    def _in_turn(self) -> list[Tool]:
        first = self.turn % len(self.tools)
        return [*self.tools[first:], *self.tools[:first]]

    def _one_path(self) -> str:
        found = sorted(path for path in self.source.rglob("*") if path.is_file())
        return str(found[len(found) // 2].relative_to(self.source))

    def _wait(self) -> None:
        """Read everything once, so that the page cache is warm, and let the clock move on."""
        for path in self.source.rglob("*"):
            if path.is_file():
                path.read_bytes() if path.stat().st_size < 1 << 20 else _read(path)
        settle()
        time.sleep(SETTLING_S)


def _read(path: Path) -> None:
    buffer = bytearray(1 << 20)
    with path.open("rb", buffering=0) as file:
        while file.readinto(buffer):
            continue


def _empty(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)


def _compare(source: Path, target: Path, only: str | None, name: str) -> None:
    """Refuse figures of a restore that does not give back what was backed up."""
    wanted = [source / only] if only else [path for path in source.rglob("*") if path.is_file()]
    for path in wanted:
        found = target / path.relative_to(source)
        if not filecmp.cmp(path, found, shallow=False):
            raise AssertionError(f"{name} restored {found.name} wrongly")
        if path.stat().st_mtime_ns // 1000 != found.stat().st_mtime_ns // 1000:
            raise AssertionError(f"{name} restored {found.name} with another time")
    if not only:
        count = sum(1 for path in target.rglob("*") if path.is_file())
        if count != len(wanted):
            raise AssertionError(f"{name} restored {count} files of {len(wanted)}")


def _limits(cache: Path) -> dict[str, float]:
    argv = [sys.executable, "-m", "benchmarks.limits", str(cache), str(cache / "data")]
    return json.loads(subprocess.run(argv, check=True, capture_output=True).stdout)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write the results, and print them; the exit code."""
    parser = argparse.ArgumentParser("benchmarks", description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0, help="1: 2 GiB and 100,000 files")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sets", default="large,small", help="data sets, by comma")
    parser.add_argument("--tools", default="ours,restic,borg", help="who takes part, by comma")
    chosen = parser.parse_args(arguments)
    default = Path.home() / ".cache" / "backup-pipeline-bench"
    cache = Path(os.environ.get("BACKUP_BENCH_CACHE") or default).absolute()
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            tools = all_tools(cache, chosen.tools.split(","))
        except BlockingIOError:
            print("another run uses this cache: wait for it, or set BACKUP_BENCH_CACHE")
            return 2
        except FileNotFoundError as error:
            print(error, file=sys.stderr)
            return 2
        return _run(chosen, cache, tools)


def _run(chosen: argparse.Namespace, cache: Path, tools: Sequence[Tool]) -> int:
    document: dict[str, Any] = {
        "machine": machine(cache),
        "versions": {tool.name: tool.version() for tool in tools},
        "scale": chosen.scale,
        "rounds": chosen.rounds,
        "sets": {},
    }
    benches = [_Bench(kind, chosen.scale, cache, tools) for kind in chosen.sets.split(",")]
    for bench in benches:
        bench.build()
    for number in range(chosen.rounds):
        for bench in benches:
            bench.round(number)
            document["sets"][bench.kind] = {"samples": bench.samples, "stored": bench.stored}
            written = write_results(document, cache)
    document["limits"] = _limits(cache)
    write_results(document, cache)
    print(show_table(document))
    if chosen.scale == 1 and len(tools) == 3 and len(benches) == 2:
        write_documentation(document)
    print(f"written to {written.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

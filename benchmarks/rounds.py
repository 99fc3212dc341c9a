"""The rounds of one data set: every row is run by every tool before the next row begins."""

from __future__ import annotations

import filecmp
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.edits import Changed, Edits
from benchmarks.measure import Command, measure, settle, tree_files
from benchmarks.places import CountingServer, Place
from benchmarks.sets import ROWS, SETS
from benchmarks.tools import Tool

__all__ = ["Bench"]

SETTLING_S = 3.0  # files younger than two seconds are read again by careful tools
MANY_FILES = 10_000
REUSED_AFTER_S = 65.0
"""ext4 without a journal passes over each inode that was deleted within the last minute: who makes
many files right after many were deleted takes up to three times as long."""
READ_BYTES = 1 << 20
_READ_SOURCE = ("first", "changed", "verify")  # rclone verifies against the source


class Bench:
    """One data set and the tools that are measured on it.

    Args:
        name: Of the data set.
        scale: 1 for the full size.
        cache: Where everything is.
        tools: Who takes part.

    Attributes:
        samples: Row, then tool, then what each round measured.
        stored: Row, then tool, then the repository's bytes after it.
        data: What the data set holds, and what changes in it.
    """

    def __init__(self, name: str, scale: float, cache: Path, tools: Sequence[Tool]) -> None:
        self.name = name
        self.cache = cache
        self.spec = SETS[name]
        self.samples: dict[str, dict[str, list[Any]]] = {}
        self.stored: dict[str, dict[str, int]] = {}
        self.data: dict[str, float] = {}
        self._scale = self.spec.scale * scale
        self._tools = tools
        self._turn = 0
        self._in_turn = tools
        self._backups = 0
        self._places: dict[str, Place] = {}
        self._deleted_at = float("-inf")

    @property
    def source(self) -> Path:
        """The data set's folder."""
        return self.cache / "data" / f"{self.spec.generator}-{self._scale:g}"

    @property
    def _edits(self) -> Edits:
        saved = self.source.with_name(f"{self.source.name}.saved")
        return Edits(self.spec.in_place, self.source, saved, self._scale)

    def build(self) -> None:
        """Make the data set, unless it is there."""
        if not self.source.is_dir():
            print(f"making {self.spec.title} (scale {self._scale:g})", flush=True)
            shutil.rmtree(self.source.with_name(f"{self.source.name}.unfinished"), True)
            argv = [sys.executable, "-m", "benchmarks.datasets", self.spec.generator]
            argv += [str(self.source), str(self._scale), str(self.cache)]
            subprocess.run(argv, check=True)
        self._edits.revert()
        sizes = [os.lstat(path).st_size for path in tree_files(self.source)]
        self.data |= {"files": len(sizes), "bytes": sum(sizes)}

    def forget(self) -> None:
        """Delete the data set."""
        shutil.rmtree(self.source, ignore_errors=True)

    def round(self, number: int) -> None:
        """Run every row once with every tool; where data is big, one tool after the other."""
        self._turn = number
        first = number % len(self._tools)
        in_turn = [*self._tools[first:], *self._tools[:first]]
        # There may not be room for everyone's repository of big data at the same time.
        for together in [[tool] for tool in in_turn] if self.spec.transient else [in_turn]:
            self._round_of(together)

    def _round_of(self, tools: Sequence[Tool]) -> None:
        work = self.cache / "work" / self.name
        self._empty(work)
        settle()
        time.sleep(max(0.0, self._deleted_at + REUSED_AFTER_S - time.monotonic()))
        self._in_turn = tools
        with self._server(work / "server") as server:
            self._places = {
                tool.name: Place(work / tool.name, self.source, server) for tool in tools
            }
            for tool in tools:
                place = self._places[tool.name]
                place.home.mkdir()
                tool.prepare(place)
            self._let_age()
            self._rows()
        self._delete(work)

    @contextmanager
    def _server(self, folder: Path) -> Iterator[CountingServer | None]:
        if self.spec.store == "folder":
            yield None
            return
        with CountingServer(folder) as server:
            yield server

    def _rows(self) -> None:
        self._backups = 0
        try:
            for row in ROWS:
                if row in self.spec.rows:
                    self._run(row)
        finally:
            self._edits.revert()

    def _run(self, row: str) -> None:
        if row == "changed":
            self._change()
        if row in ("first", "no-change", "changed"):
            self._backups += 1
            self._row(row, lambda tool: tool.backup(self._backups))
            sizes = {name: place.stored_bytes() for name, place in self._places.items()}
            self.stored.setdefault(row, {}).update(sizes)
        elif row == "snapshots":
            self._row(row, lambda tool: tool.snapshots())
        elif row == "verify":
            self._row(row, lambda tool: tool.verify())
        else:
            self._restore(row, self._one_path() if row == "restore-one" else None)

    def _change(self) -> None:
        changed: Changed = self._edits.apply()
        self.data |= {f"changed_{name}": value for name, value in asdict(changed).items()}
        self._let_age()

    def _let_age(self) -> None:
        settle()
        time.sleep(SETTLING_S)

    def _row(self, row: str, command: Callable[[Tool], Command | None]) -> None:
        for tool in self._in_turn:
            wanted = command(tool)
            if wanted is not None:
                self._measure(row, tool, wanted)

    def _restore(self, row: str, only: str | None) -> None:
        targets = self.cache / "work" / "targets"
        self._empty(targets)
        for tool in self._in_turn:
            target = targets / tool.name
            target.mkdir()
            self._measure(row, tool, tool.restore(target, self._backups, only))
            if self._turn == 0:
                _compare(self.source, target, only, tool.name)
        self._delete(targets)

    def _empty(self, folder: Path) -> None:
        if folder.exists():
            self._delete(folder)
        folder.mkdir(parents=True)

    def _delete(self, folder: Path) -> None:
        """Delete what a row or a round left, and remember when."""
        shutil.rmtree(folder)
        if self.data["files"] >= MANY_FILES:
            self._deleted_at = time.monotonic()

    def _measure(self, row: str, tool: Tool, command: Command) -> None:
        self._warm(row, tool)
        server = self._places[tool.name].server
        before = server.requests() if server is not None else 0
        sample = measure(command, self.cache / "last-output.txt").to_json()
        requests = tool.requests() if server is None else server.requests() - before
        if requests is not None:
            sample["requests"] = requests
        self.samples.setdefault(row, {}).setdefault(tool.name, []).append(sample)
        print(
            f"{self.name:10} round {self._turn + 1} {row:12} {tool.name:16}"
            f" {sample['wall_s']:8.2f} s {sample['cpu_s']:8.2f} s CPU"
            f" {sample['others_s']:6.2f} s others {sample['peak_mib']:6.0f} MiB",
            flush=True,
        )

    def _one_path(self) -> str:
        found = [path for path in tree_files(self.source) if not os.path.islink(path)]
        return os.path.relpath(found[len(found) // 2], self.source)

    def _warm(self, row: str, tool: Tool) -> None:
        """Read what a row will read, just before it, and have the program in memory.

        Once per round would not do: a slow tool's row gives a machine that is sparing with its
        page cache the time to forget what the next tool needs.
        """
        place = self._places[tool.name]
        if self.spec.warm and row in _READ_SOURCE:
            _read_all(self.source)
        _read_all(place.home if place.server is None else place.server.folder)
        for command in tool.idle():
            _run_quietly(command)


def _run_quietly(command: Command) -> None:
    """Run what is not measured; before the first backup there may be nothing to list."""
    subprocess.run(
        command.argv,
        cwd=command.cwd,
        env={**os.environ, **command.environ},
        check=False,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def _read_all(folder: Path) -> None:
    buffer = bytearray(READ_BYTES)
    for path in tree_files(folder):
        if os.path.isfile(path) and not os.path.islink(path):
            fd = os.open(path, os.O_RDONLY)
            while os.readv(fd, [buffer]) == READ_BYTES:
                continue
            os.close(fd)


def _compare(source: Path, target: Path, only: str | None, name: str) -> None:
    """Refuse figures of a restore that does not give back what was backed up."""
    wanted = [str(source / only)] if only else list(tree_files(source))
    for path in wanted:
        found = os.path.join(target, os.path.relpath(path, source))
        if os.path.islink(path):
            same = os.readlink(path) == os.readlink(found)
        else:
            same = filecmp.cmp(path, found, shallow=False)
        if not same:
            raise AssertionError(f"{name} restored {found} wrongly")
        times = [os.lstat(one).st_mtime_ns // 1000 for one in (path, found)]
        if times[0] != times[1] and not os.path.islink(path):
            raise AssertionError(f"{name} restored {found} with another time")
    if not only:
        count = sum(1 for _ in tree_files(target))
        if count != len(wanted):
            raise AssertionError(f"{name} restored {count} files of {len(wanted)}")

"""Running one command as a whole process: its seconds, its CPU time and its peak memory.

This process stays small on purpose: Linux counts the memory of the process that starts a command
towards the command's own peak, so numpy and its like are kept out of here.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

__all__ = ["Command", "Measured", "ToolFailed", "measure", "settle", "tree_bytes"]


class ToolFailed(Exception):
    """A measured command did not exit with 0."""


@dataclass(frozen=True, slots=True)
class Command:
    """What is run.

    Attributes:
        argv: Program and arguments.
        cwd: Where it runs.
        environ: Variables beside this process's own.
    """

    argv: Sequence[str]
    cwd: Path
    environ: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Measured:
    """What one run cost.

    Attributes:
        wall_s: Seconds from start to end.
        cpu_s: User and system time.
        peak_mib: Peak resident memory.
    """

    wall_s: float
    cpu_s: float
    peak_mib: float

    def to_json(self) -> dict[str, Any]:
        """Fields by name, rounded to what they mean."""
        return {name: round(value, 4) for name, value in asdict(self).items()}


def settle() -> None:
    """Have everything written, so that no command pays for what another left behind."""
    os.sync()


def measure(command: Command, log: Path) -> Measured:
    """Run a command and measure it.

    Args:
        command: What to run.
        log: Where its output goes.

    Raises:
        ToolFailed: It did not exit with 0; the message holds the end of its output.
    """
    settle()
    with log.open("wb") as out:
        started = time.perf_counter()
        process = subprocess.Popen(
            command.argv,
            cwd=command.cwd,
            env={**os.environ, **command.environ},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
        )
        _, status, usage = os.wait4(process.pid, 0)
        wall_s = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        tail = log.read_text(errors="replace")[-2000:]
        shown = " ".join(command.argv[:3])
        raise ToolFailed(f"{shown} … exited with {process.returncode}:\n{tail}")
    return Measured(wall_s, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def tree_bytes(root: Path) -> int:
    """Sizes of all files below a directory, added up."""
    total = 0
    for folder, _, names in os.walk(root):
        for name in names:
            total += os.lstat(os.path.join(folder, name)).st_size
    return total

"""Running one command as a whole process: its seconds, its CPU time and its peak memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

__all__ = ["Command", "Measured", "ToolFailed", "measure", "settle", "tree_bytes", "tree_files"]


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
        others_s: What everything else on the machine used meanwhile: other processes, a store's
            server, the kernel's own threads, and what the host took away.
        peak_mib: Peak resident memory.
    """

    wall_s: float
    cpu_s: float
    others_s: float
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
    launcher, report = Path(__file__).with_name("launch.py"), log.with_suffix(".json")
    subprocess.run(
        [sys.executable, "-I", "-S", str(launcher), str(report), str(log), *command.argv],
        cwd=command.cwd,
        env=_environment(command),
        check=True,
    )
    measured = json.loads(report.read_text())
    code = measured.pop("code")
    if code != 0:
        tail = log.read_text(errors="replace")[-2000:]
        raise ToolFailed(f"{' '.join(command.argv[:3])} … exited with {code}:\n{tail}")
    return Measured(**measured)


def _environment(command: Command) -> dict[str, str]:
    """As a user has it: without what makes Python compile a program anew at each start."""
    unusual = {"PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX", "PYTHONPROFILEIMPORTTIME"}
    usual = {name: value for name, value in os.environ.items() if name not in unusual}
    return {**usual, **command.environ}


def tree_files(root: Path) -> Iterator[str]:
    """Paths of everything below a directory that is no directory, in a fixed order.

    Strings, for a million Path objects would cost more than the files.
    """
    for folder, below, names in os.walk(root):
        links = [name for name in below if os.path.islink(os.path.join(folder, name))]
        below[:] = sorted(set(below) - set(links))
        for name in sorted([*names, *links]):
            yield os.path.join(folder, name)


def tree_bytes(root: Path) -> int:
    """Sizes of all files below a directory, added up."""
    return sum(os.lstat(path).st_size for path in tree_files(root))

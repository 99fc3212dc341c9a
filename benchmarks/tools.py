"""What is measured: our command line and its peers, each with the same five verbs.

All encrypt, compress and fsync what they store; all are told to be quiet. The peers' repositories
are prepared before the clock starts, ours is prepared by its first backup.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Protocol

from benchmarks.measure import Command

__all__ = ["Borg", "Ours", "Restic", "Tool", "all_tools"]

PASSPHRASE = "correct horse battery staple"
BORG_REQUIREMENT = "borgbackup>=1.4,<1.5"
BORG_NEEDS = (
    "apt-get install gcc pkg-config python3-dev python3-venv"
    " libacl1-dev liblz4-dev libssl-dev libxxhash-dev libzstd-dev"
)


class Tool(Protocol):
    """One tool with a repository of its own in ``home``."""

    name: str

    def version(self) -> str:
        """What it says it is."""
        ...

    def prepare(self, home: Path, source: Path) -> None:
        """Make an empty repository in an empty directory; not measured."""
        ...

    def backup(self, number: int) -> Command:
        """Back the source up."""
        ...

    def snapshots(self) -> Command:
        """List what is stored."""
        ...

    def verify(self) -> Command:
        """Read and check all that is stored."""
        ...

    def restore(self, target: Path, number: int, only: str | None = None) -> Command:
        """Restore a backup, or one path of it, into an empty directory."""
        ...

    def repository(self) -> Path:
        """Where the stored bytes are."""
        ...


class Ours:
    """backup-pipeline, by its command line."""

    name = "backup-pipeline"

    def __init__(self) -> None:
        self._program = str(Path(sys.executable).parent / "backup-pipeline")

    def version(self) -> str:
        """What it says it is."""
        return f"backup-pipeline {_said([self._program, '--version'])}"

    def prepare(self, home: Path, source: Path) -> None:
        """Write the plan; the first backup prepares the store."""
        self._home = home
        (home / "backup.yaml").write_text(
            "start: 2026-01-01\n"
            f"stores: {{local: 'file://{home}/store'}}\n"
            f"datasets: [{{asset: bench, source: '{source}'}}]\n"
        )

    def _command(self, verb: str, *arguments: str) -> Command:
        argv = [self._program, verb, "bench", "--plan", "backup.yaml", *arguments, "--json"]
        return Command(argv, self._home, {"BACKUP_PASSPHRASE": PASSPHRASE})

    def backup(self, number: int) -> Command:
        """Back the source up."""
        return self._command("backup")

    def snapshots(self) -> Command:
        """List what is stored."""
        return self._command("snapshots")

    def verify(self) -> Command:
        """Read and check all that is stored."""
        return self._command("verify", "--read-data", "all")

    def restore(self, target: Path, number: int, only: str | None = None) -> Command:
        """Restore the newest snapshot."""
        return self._command(
            "restore", "--to", str(target), *(["--include", only] if only is not None else [])
        )

    def repository(self) -> Path:
        """Where the stored bytes are."""
        return self._home / "store"


class Restic:
    """restic, Debian's package; another binary by BACKUP_BENCH_RESTIC."""

    name = "restic"

    def __init__(self) -> None:
        program = os.environ.get("BACKUP_BENCH_RESTIC") or shutil.which("restic")
        if program is None:
            raise FileNotFoundError("restic is missing: apt-get install restic")
        self._program = program

    def version(self) -> str:
        """What it says it is."""
        return " ".join(_said([self._program, "version"]).split()[:2])

    def _command(self, *arguments: str, cwd: Path | None = None) -> Command:
        argv = [self._program, "-q", "-r", str(self.repository()), *arguments]
        return Command(argv, cwd or self._home, self._environ)

    def prepare(self, home: Path, source: Path) -> None:
        """restic init, with the repository version that compresses."""
        self._home, self._source = home, source
        self._environ = {
            "RESTIC_PASSWORD": PASSPHRASE,
            "RESTIC_CACHE_DIR": str(home / "cache"),
        }
        _run(self._command("init", "--repository-version", "2"))

    def backup(self, number: int) -> Command:
        """Back the source up."""
        return self._command("backup", "--compression", "auto", ".", cwd=self._source)

    def snapshots(self) -> Command:
        """List what is stored."""
        return self._command("snapshots")

    def verify(self) -> Command:
        """Read and check all that is stored."""
        return self._command("check", "--read-data")

    def restore(self, target: Path, number: int, only: str | None = None) -> Command:
        """Restore the newest snapshot."""
        include = ["--include", f"/{only}"] if only is not None else []
        return self._command("restore", "latest", "--target", str(target), *include)

    def repository(self) -> Path:
        """Where the stored bytes are."""
        return self._home / "repository"


class Borg:
    """borg 1.4 from PyPI, in a virtual environment of its own in the cache."""

    name = "borg"

    def __init__(self, cache: Path) -> None:
        self._program = str(_install_borg(cache / "borg"))

    def version(self) -> str:
        """What it says it is."""
        return _said([self._program, "--version"])

    def _command(self, *arguments: str, cwd: Path | None = None) -> Command:
        return Command([self._program, *arguments], cwd or self._home, self._environ)

    def prepare(self, home: Path, source: Path) -> None:
        """borg init."""
        self._home, self._source = home, source
        self._environ = {
            "BORG_PASSPHRASE": PASSPHRASE,
            "BORG_BASE_DIR": str(home / "base"),
            "BORG_REPO": str(self.repository()),
        }
        _run(self._command("init", "--encryption", "repokey"))

    def backup(self, number: int) -> Command:
        """Back the source up."""
        return self._command(
            "create", "--compression", "zstd,1", f"::{number}", ".", cwd=self._source
        )

    def snapshots(self) -> Command:
        """List what is stored."""
        return self._command("list")

    def verify(self) -> Command:
        """Read and check all that is stored."""
        return self._command("check", "--verify-data")

    def restore(self, target: Path, number: int, only: str | None = None) -> Command:
        """Restore a backup."""
        return self._command("extract", f"::{number}", *([only] if only else []), cwd=target)

    def repository(self) -> Path:
        """Where the stored bytes are."""
        return self._home / "repository"


def all_tools(cache: Path, wanted: list[str]) -> list[Tool]:
    """The tools by name, ours first."""
    makers = {"ours": Ours, "restic": Restic, "borg": lambda: Borg(cache)}
    return [makers[name]() for name in makers if name in wanted]


def _install_borg(folder: Path) -> Path:
    program = folder / "bin" / "borg"
    if not program.exists():
        print(f"installing {BORG_REQUIREMENT} (once)", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet"]
        try:
            subprocess.run([*pip, BORG_REQUIREMENT], check=True)
        except subprocess.CalledProcessError:
            raise FileNotFoundError(f"borg does not build; on Debian: {BORG_NEEDS}") from None
    return program


def _said(argv: list[str]) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()


def _run(command: Command) -> None:
    subprocess.run(
        command.argv,
        cwd=command.cwd,
        env={**os.environ, **command.environ},
        check=True,
        capture_output=True,
    )

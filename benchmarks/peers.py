"""The peers, each with the settings that their users would choose for the same promises."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from benchmarks.measure import Command
from benchmarks.places import Place

__all__ = ["PASSPHRASE", "Borg", "Rclone", "Restic", "said"]

PASSPHRASE = "correct horse battery staple"


class Restic:
    """restic, with the repository version that compresses."""

    name = "restic"

    def __init__(self, program: Path) -> None:
        self._program = str(program)

    def version(self) -> str:
        """What it says it is."""
        return " ".join(said([self._program, "version"]).split()[:2])

    def _command(self, *arguments: str, cwd: Path | None = None) -> Command:
        place = self._place
        where = str(place.folder)
        if place.server is not None:
            where = f"s3:{place.server.endpoint}/backups/{place.prefix}"
        environ = {
            "RESTIC_PASSWORD": PASSPHRASE,
            "RESTIC_CACHE_DIR": str(place.home / "cache"),
            **place.environ,
        }
        return Command([self._program, "-q", "-r", where, *arguments], cwd or place.home, environ)

    def prepare(self, place: Place) -> None:
        """restic init."""
        self._place = place
        _run(self._command("init", "--repository-version", "2"))

    def backup(self, number: int) -> Command:
        """Back the source up."""
        return self._command("backup", "--compression", "auto", ".", cwd=self._place.source)

    def snapshots(self) -> Command:
        """List what is stored."""
        return self._command("snapshots")

    def idle(self) -> list[Command]:
        """A listing."""
        return [self.snapshots()]

    def verify(self) -> Command:
        """Read and check all that is stored."""
        return self._command("check", "--read-data")

    def restore(self, target: Path, number: int, only: str | None = None) -> Command:
        """Restore the newest snapshot."""
        include = ["--include", f"/{only}"] if only is not None else []
        return self._command("restore", "latest", "--target", str(target), *include)

    def requests(self) -> int | None:
        """It does not say."""
        return None


class Borg:
    """borg, with a passphrase that opens the key in the repository."""

    name = "borg"

    def __init__(self, program: Path) -> None:
        self._program = str(program)

    def version(self) -> str:
        """What it says it is."""
        return said([self._program, "--version"])

    def _command(self, *arguments: str, cwd: Path | None = None) -> Command:
        environ = {
            "BORG_PASSPHRASE": PASSPHRASE,
            "BORG_BASE_DIR": str(self._place.home / "base"),
            "BORG_REPO": str(self._place.folder),
        }
        return Command([self._program, *arguments], cwd or self._place.home, environ)

    def prepare(self, place: Place) -> None:
        """borg init."""
        self._place = place
        _run(self._command("init", "--encryption", "repokey"))

    def backup(self, number: int) -> Command:
        """Back the source up."""
        return self._command(
            "create", "--compression", "zstd,1", f"::{number}", ".", cwd=self._place.source
        )

    def snapshots(self) -> Command:
        """List what is stored."""
        return self._command("list")

    def idle(self) -> list[Command]:
        """A listing."""
        return [self.snapshots()]

    def verify(self) -> Command:
        """Read and check all that is stored."""
        return self._command("check", "--verify-data")

    def restore(self, target: Path, number: int, only: str | None = None) -> Command:
        """Restore a backup."""
        return self._command("extract", f"::{number}", *([only] if only else []), cwd=target)

    def requests(self) -> int | None:
        """It does not say."""
        return None


class Rclone:
    """rclone with a crypt remote over a folder: neither dedup nor compression nor fsync.

    It keeps the newest state and, in a folder of its own for each run, what that run replaced.
    """

    name = "rclone"

    def __init__(self, program: Path) -> None:
        self._program = str(program)

    def version(self) -> str:
        """What it says it is."""
        return said([self._program, "version"]).splitlines()[0].replace(" v", " ", 1)

    def _command(self, *arguments: str) -> Command:
        environ = {
            "RCLONE_CONFIG": "/dev/null",
            "RCLONE_CACHE_DIR": str(self._place.home / "cache"),
            "RCLONE_CONFIG_CRYPT_TYPE": "crypt",
            "RCLONE_CONFIG_CRYPT_REMOTE": str(self._place.folder),
            "RCLONE_CONFIG_CRYPT_PASSWORD": self._password,
        }
        return Command([self._program, "-q", "--links", *arguments], self._place.home, environ)

    def prepare(self, place: Place) -> None:
        """Nothing but a folder and the password in rclone's own writing."""
        self._place = place
        place.folder.mkdir()
        self._password = said([self._program, "obscure", PASSPHRASE])

    def backup(self, number: int) -> Command:
        """Bring the newest state up to date; what that replaces goes aside."""
        aside = [] if number == 1 else ["--backup-dir", f"crypt:old/{number}"]
        return self._command("sync", str(self._place.source), "crypt:current", *aside)

    def snapshots(self) -> None:
        """It has none."""
        return

    def idle(self) -> list[Command]:
        """What it says it is."""
        return [self._command("version")]

    def verify(self) -> Command:
        """Read all that is stored and compare it with the source; it has no other way."""
        return self._command("cryptcheck", str(self._place.source), "crypt:current")

    def restore(self, target: Path, number: int, only: str | None = None) -> Command:
        """Copy the newest state back."""
        if only is not None:
            return self._command("copyto", f"crypt:current/{only}", str(target / only))
        return self._command("copy", "crypt:current", str(target))

    def requests(self) -> int | None:
        """It does not say."""
        return None


def said(argv: Sequence[str]) -> str:
    """What a command prints.

    Raises:
        CalledProcessError: It did not exit with 0.
    """
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()


def _run(command: Command) -> None:
    subprocess.run(
        command.argv,
        cwd=command.cwd,
        env={**os.environ, **command.environ},
        check=True,
        capture_output=True,
    )

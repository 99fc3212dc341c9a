"""Fetching peers and data into the cache: by pip from the package index, by apt from Debian.

Nothing of the system is changed: pip installs into environments of their own, and apt works on
lists and archives of its own, with the archive that the system's own sources name and the keys of
Debian's keyring.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

__all__ = ["Missing", "debian_package", "install_restic", "pip_program", "unpack"]

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
RESTIC_SUITES = ("sid", "trixie")  # the newest first


class Missing(Exception):
    """Something that is needed could not be had; the message says how to get it."""


def pip_program(folder: Path, requirement: str, program: str, needs: str = "") -> Path:
    """A program from the package index, in a virtual environment of its own.

    Args:
        folder: The environment; made at the first call.
        requirement: What pip installs.
        program: Its name in the environment's ``bin``.
        needs: What to install where it does not build.

    Raises:
        Missing: It could not be installed.
    """
    found = folder / "bin" / program
    if not found.exists():
        print(f"installing {requirement} (once)", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet"]
        try:
            subprocess.run([*pip, "--disable-pip-version-check", requirement], check=True)
        except subprocess.CalledProcessError:
            hint = f"; on Debian: {needs}" if needs else ""
            raise Missing(f"{requirement} cannot be installed{hint}") from None
    return found


def install_restic(cache: Path) -> Path:
    """The newest restic that Debian offers and that runs here; else one that is installed.

    BACKUP_BENCH_RESTIC names another program, and is then all that is looked at.

    Raises:
        Missing: There is none.
    """
    given = os.environ.get("BACKUP_BENCH_RESTIC")
    if given:
        return Path(given)
    folder = cache / "restic"
    program = folder / "usr" / "bin" / "restic"
    if _runs(program):
        return program
    reasons: list[str] = []
    for suite in RESTIC_SUITES:
        try:
            unpack(debian_package(cache, "restic", suite), folder)
        except Missing as error:
            reasons.append(str(error))
            continue
        if _runs(program):
            return program
        reasons.append(f"restic of {suite} does not run here")
    installed = shutil.which("restic")
    print("; ".join(reasons), file=sys.stderr)
    if installed is None:
        raise Missing("restic is missing: apt-get install restic, or set BACKUP_BENCH_RESTIC")
    print(f"measuring the restic that is installed, {installed}", file=sys.stderr)
    return Path(installed)


def _runs(program: Path) -> bool:
    try:
        subprocess.run([str(program), "version"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        return False
    return True


def unpack(package: Path, folder: Path) -> None:
    """Put a Debian package's files below a folder, without installing it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    subprocess.run(["dpkg-deb", "-x", str(package), str(folder)], check=True)


def debian_package(cache: Path, package: str, suite: str) -> Path:
    """A package of a suite of Debian, verified, as a file.

    Args:
        cache: Keeps apt's lists and what it fetched.
        package: The package's name.
        suite: Such as ``sid``.

    Raises:
        Missing: There is no apt here, it names no Debian archive, or it could not fetch it.
    """
    folder = cache / "apt" / suite
    fetched = folder / "packages"
    present = sorted(fetched.glob(f"{package}_*.deb"))
    if present:
        return present[-1]
    if not all(map(shutil.which, ("apt-get", "dpkg-deb"))):
        raise Missing(f"{package} is to come from Debian's {suite}, and there is no apt here")
    print(f"fetching {package} from Debian's {suite} (once)", flush=True)
    for directory in ("lists/partial", "cache/archives/partial", "packages"):
        (folder / directory).mkdir(parents=True, exist_ok=True)
    signed = f"[signed-by={KEYRING}] " if KEYRING.exists() else ""
    said = ""
    for archive in _archives():
        (folder / "sources.list").write_text(f"deb {signed}{archive} {suite} main\n")
        for verb in (["update"], ["download", package]):
            done = _apt(folder, verb)
            said = done.stderr.strip() or said
            if done.returncode:
                break
        else:
            return max(fetched.glob(f"{package}_*.deb"))
    raise Missing(f"{package} could not be fetched from Debian's {suite}: {said[-300:] or 'no'}")


def _apt(folder: Path, verb: list[str]) -> subprocess.CompletedProcess[str]:
    options = {
        "Dir::State": folder,
        "Dir::State::lists": folder / "lists",
        "Dir::State::status": "/var/lib/dpkg/status",
        "Dir::Cache": folder / "cache",
        "Dir::Etc::sourcelist": folder / "sources.list",
        "Dir::Etc::sourceparts": "-",
        "APT::Sandbox::User": "",  # it could not write into a home directory
    }
    words = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    return subprocess.run(
        ["apt-get", "-q", *words, *verb], cwd=folder / "packages", capture_output=True, text=True
    )


def _archives() -> list[str]:
    """Base URLs of Debian's archive as the system's own sources name it, the likeliest first."""
    done = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(ORIGIN)|$(LABEL)|$(REPO_URI)"],
        capture_output=True,
        text=True,
    )
    named: list[str] = []
    likely: list[str] = []
    for line in done.stdout.splitlines():
        origin, label, address = line.split("|", 2)
        if (origin, label) == ("Debian", "Debian"):
            named.append(address)
        elif address.rstrip("/").endswith("/debian"):  # lists that were cleaned up name no origin
            likely.append(address)
    return list(dict.fromkeys([*named, *likely]))

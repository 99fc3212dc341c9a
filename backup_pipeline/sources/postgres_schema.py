"""The definitions of a PostgreSQL database, as its own ``pg_dump`` writes them."""

from __future__ import annotations

import glob
import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from backup_pipeline.engine.errors import SourceError
from backup_pipeline.sources.postgres_layout import identifier
from backup_pipeline.sources.postgres_needs import Extension

__all__ = ["WHOLE", "Definitions", "Part", "find_pg_dump", "owners_of"]

_PLACES = (
    "/usr/lib/postgresql/*/bin/pg_dump",
    "/usr/pgsql-*/bin/pg_dump",
    "/opt/homebrew/opt/postgresql@*/bin/pg_dump",
)
_VERSION = re.compile(r"\(PostgreSQL\) (\d+)")
_TOKEN = re.compile(rb"^\\(un)?restrict \S+$", re.M)


@dataclass(frozen=True, slots=True)
class Part:
    """The part of a database whose definitions are read.

    Attributes:
        schemas: Its schemas; none for all.
        extensions: The extensions that come with them.
        without: Tables that are left out with all that they own, as SQL takes them.
    """

    schemas: tuple[str, ...] = ()
    extensions: tuple[Extension, ...] = ()
    without: tuple[str, ...] = ()

    @property
    def oldest_pg_dump(self) -> int:
        """The version that pg_dump needs at least: that of its option ``--extension``, or any."""
        return 140000 if self.extensions else 0

    def options(self) -> list[str]:
        """How pg_dump is told of it."""
        return [
            *(f"--schema={identifier(one)}" for one in self.schemas),
            *(f"--extension={identifier(one.name)}" for one in self.extensions),
            *(f"--exclude-table={one}" for one in self.without),
        ]

    def beforehand(self) -> bytes:
        """SQL that makes the schemas of its extensions that pg_dump does not make."""
        there = {*self.schemas, "pg_catalog"}
        needed = sorted({one.schema for one in self.extensions} - there)
        return "".join(
            f"CREATE SCHEMA IF NOT EXISTS {identifier(one)};\n" for one in needed
        ).encode()


WHOLE: Final = Part()


class Definitions:
    """Runs ``pg_dump`` on the snapshot that another connection holds.

    Args:
        program: The ``pg_dump`` to run.
        conninfo: Where the database is, without its password.
        environ: Variables for it, the password among them.
        snapshot: The exported snapshot's name.
        encoding: Of what it writes.
        part: What of the database.
    """

    def __init__(
        self,
        program: str,
        conninfo: str,
        environ: Mapping[str, str],
        snapshot: str,
        encoding: str,
        part: Part,
    ) -> None:
        self._environ = environ
        self._command = [
            program,
            *("--schema-only", "--no-tablespaces", "--no-security-labels", "--no-subscriptions"),
            *("--lock-wait-timeout=60s", "--no-password", f"--snapshot={snapshot}"),
            *(f"--encoding={encoding}", f"--dbname={conninfo}", *part.options()),
        ]

    def section(self, name: str) -> tuple[bytes, bytes]:
        """One of pg_dump's sections.

        Args:
            name: ``pre-data`` or ``post-data``.

        Returns:
            The definitions, and apart from them who owns what and who may do what.

        Raises:
            SourceError: pg_dump could not do it.
        """
        plain = self._run(f"--section={name}", "--no-owner", "--no-privileges")
        return plain, owners_of(plain, self._run(f"--section={name}"))

    def _run(self, *options: str) -> bytes:
        done = subprocess.run(
            [*self._command, *options], env=self._environ, capture_output=True, check=False
        )
        if done.returncode:
            said = " ".join(done.stderr.decode(errors="replace").split())
            raise SourceError(
                f"pg_dump could not read the definitions: {said}",
                "the role needs USAGE on the schemas and SELECT on the tables; see"
                " docs/how-to/postgres.md",
            )
        return _steady(done.stdout)


def _steady(script: bytes) -> bytes:
    r"""Replace the random word that guards a script against ``\commands`` hidden in names.

    It must differ from all that a name could hold, which the digest of the script itself does, and
    it makes equal definitions equal bytes.
    """
    bare = _TOKEN.sub(b"", script)
    token = hashlib.sha256(bare).hexdigest()[:32].encode()
    return _TOKEN.sub(lambda found: b"\\" + (found[1] or b"") + b"restrict " + token, script)


def owners_of(plain: bytes, full: bytes) -> bytes:
    """The lines that a script has besides those of the script without owners and privileges."""
    wanted = [line for line in plain.split(b"\n") if not _is_comment(line)]
    added: list[bytes] = []
    at = 0
    for line in full.split(b"\n"):
        if _is_comment(line):
            continue
        if at < len(wanted) and line == wanted[at]:
            at += 1
        elif line:
            added.append(line)
    if at < len(wanted):
        raise SourceError(
            "the definitions changed while they were read", "run the backup again in a quiet moment"
        )
    return b"".join(line + b"\n" for line in added)


def _is_comment(line: bytes) -> bool:
    return line.startswith(b"-- ") or line == b"--" or _TOKEN.match(line) is not None


def find_pg_dump(named: str | None, server_version: int) -> str:
    """The ``pg_dump`` to use: it must be as new as the server.

    Args:
        named: The plan's; None looks on PATH and where systems install it.
        server_version: As ``server_version_num`` has it.

    Raises:
        SourceError: There is none.
    """
    major = server_version // 10000
    on_path = shutil.which("pg_dump")
    installed = [path for pattern in _PLACES for path in sorted(glob.glob(pattern))]
    candidates = [named] if named else [*([on_path] if on_path else []), *installed]
    seen: list[str] = []
    for path in candidates:
        found = _major_of(path)
        if found is not None and found >= major:
            return path
        seen.append(f"{path} is {f'version {found}' if found else 'no pg_dump that runs'}")
    raise SourceError(
        f"the definitions need pg_dump {major} or newer, and "
        + ("; ".join(dict.fromkeys(seen)) or "there is none on PATH"),
        f"install PostgreSQL's client programs (Debian: postgresql-client-{major}), or name one"
        " with `pg_dump: /path/to/pg_dump` in the source",
    )


def _major_of(path: str) -> int | None:
    try:
        done = subprocess.run(
            [path, "--version"], capture_output=True, text=True, check=False, env=dict(os.environ)
        )
    except OSError:
        return None
    found = _VERSION.search(done.stdout)
    return int(found[1]) if found else None

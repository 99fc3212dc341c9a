"""SQLite as a source: a consistent copy of a database, also while others write to it."""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from datetime import date
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote

from backup_pipeline.engine.errors import SourceError
from backup_pipeline.sources.listing import Item, ListedSource
from backup_pipeline.sources.single_file import state_of

__all__ = ["SqliteSource", "open_sqlite"]

BUSY_TIMEOUT_S = 60.0
_BESIDE = ("-wal", "-journal")


def open_sqlite(
    options: Mapping[str, Any], *, exclude: Sequence[str], day: date | None
) -> SqliteSource:
    """Open a database as a plan declares it."""
    return SqliteSource(options["path"])


class SqliteSource(ListedSource):
    """One SQLite database.

    Consistency: the state after one committed transaction, by SQLite's own online backup in one
    step, under its read lock. In WAL mode writers go on meanwhile; in the rollback modes they wait
    for the copying. The copy stands in the temporary directory until it is stored, and needs as
    much room as the database.

    Pages keep their places in the copy, so those that did not change are not stored again; VACUUM
    INTO would move them, and may change the rowids of tables without a key of their own.

    Args:
        path: The database's file.
    """

    kind = "sqlite"

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._state: str | None = None

    def describe(self) -> str:
        """The file."""
        return f"SQLite database {self._path}"

    def fingerprint(self) -> str:
        """By sizes and times of the database and its journals; opens nothing."""
        beside = [self._path.with_name(self._path.name + suffix) for suffix in _BESIDE]
        return state_of([self._path, *beside], self.describe())

    def scanned(self) -> str | None:
        """The fingerprint from before the copy: what changes from then on shows."""
        return self._state

    def items(self) -> Iterable[Item]:
        """The database."""
        self._state = self.fingerprint()
        size = self._path.stat().st_size
        yield Item(self._path.name, size, etag=self._state)

    def stream(self, path: str) -> BinaryIO:
        """The copy, made now.

        Raises:
            SourceError: It cannot be copied.
        """
        self.close()
        self._folder = tempfile.TemporaryDirectory(prefix="backup-sqlite-")
        copy = Path(self._folder.name) / "copy"
        try:
            self._copy(copy)
            return copy.open("rb")
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Delete the copy."""
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def _copy(self, to: Path) -> None:
        url = f"file:{quote(str(self._path.absolute()))}?mode=ro"
        try:
            with (
                closing(_connect(url)) as origin,
                closing(sqlite3.connect(to)) as copy,
            ):
                # Python's backup waits for a lock without end, so it is had beforehand.
                origin.execute("BEGIN")
                origin.execute("SELECT count(*) FROM sqlite_schema").fetchone()
                origin.backup(copy)
        except sqlite3.Error as error:
            raise SourceError(f"{self.describe()}: {error}", self._hint(error)) from None

    def _hint(self, error: sqlite3.Error) -> str:
        said = str(error)
        if "locked" in said or "busy" in said:
            return (
                f"someone has held it locked for {BUSY_TIMEOUT_S:.0f} s; run the backup when that"
                " has ended, or let the writer use PRAGMA journal_mode=WAL"
            )
        if "disk is full" in said or "disk I/O" in said:
            return f"the copy needs room in {tempfile.gettempdir()}; set TMPDIR to where there is"
        return "is it a SQLite database that this user may read, with its folder?"


def _connect(url: str) -> sqlite3.Connection:
    return sqlite3.connect(url, uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None)

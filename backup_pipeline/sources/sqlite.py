"""SQLite as a source: a consistent copy of a database, also while others write to it."""

from __future__ import annotations

import os
import sqlite3
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from datetime import date
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote

from backup_pipeline.engine.errors import SourceError
from backup_pipeline.engine.scratch import ScratchFolder
from backup_pipeline.sources.listing import Item, ListedSource
from backup_pipeline.sources.single_file import state_of

__all__ = ["SqliteSource", "open_sqlite"]

BUSY_TIMEOUT_S = 60.0
_BESIDE = ("-wal", "-journal")
_LOCK_BYTE = 1 << 30
"""The page that holds this byte is for SQLite's locks and is never written."""


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
        self._folder: ScratchFolder | None = None
        self._state: str | None = None

    def describe(self) -> str:
        """The file."""
        return f"SQLite database {self._path}"

    def fingerprint(self) -> str:
        """By sizes and times of the database and its journals; opens nothing."""
        return state_of([self._path, *map(self._beside, _BESIDE)], self.describe())

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
        self._folder = ScratchFolder()
        copy = self._folder.path / "copy"
        try:
            self._copy(copy)
            return copy.open("rb")
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Delete the copy."""
        if self._folder is not None:
            self._folder.close()
            self._folder = None

    def _beside(self, suffix: str) -> Path:
        """A journal: beside the file itself, where the path is a link."""
        return Path(os.path.realpath(self._path) + suffix)

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
                before = self._refuse_truncated(origin)
                origin.backup(copy)
                self._refuse_changed(origin, before)
        except sqlite3.Error as error:
            raise SourceError(f"{self.describe()}: {error}", self._hint(error)) from None
        except OSError as error:
            raise SourceError(
                f"{self.describe()}: {error}", "was it moved away? run the backup again"
            ) from None

    def _refuse_truncated(self, origin: sqlite3.Connection) -> os.stat_result:
        """SQLite itself takes pages behind the file's end for zeros; how the file is now.

        In WAL mode they may stand in the log.
        """
        found = os.stat(self._path)
        page_size, pages = _number(origin, "page_size"), _number(origin, "page_count")
        if not pages:
            raise SourceError(
                f"{self.describe()} is empty: it has 0 bytes",
                "it was truncated, or nothing was ever written to it; create a table first",
            )
        lacking = set(range(found.st_size // page_size + 1, pages + 1))
        lacking.discard(_LOCK_BYTE // page_size + 1)
        if lacking and _in_wal_mode(origin):
            lacking -= _logged(self._beside("-wal"), page_size)
        if lacking:
            raise SourceError(
                f"{self.describe()} is truncated: {len(lacking)} of {pages} pages are not there",
                "restore it, and see what writes to it other than through SQLite",
            )
        return found

    def _refuse_changed(self, origin: sqlite3.Connection, before: os.stat_result) -> None:
        """Under SQLite's read lock no writer touches the file, save in WAL mode: there they move
        pages from the log into it, and cut it off behind our last page at most."""
        after = os.stat(self._path)
        if _in_wal_mode(origin):
            needed = _number(origin, "page_size") * _number(origin, "page_count")
            same = os.path.samestat(before, after)
            steady = same and after.st_size >= min(before.st_size, needed)
        else:
            steady = _state(before) == _state(after)
        if not steady:
            raise SourceError(
                f"{self.describe()}: it changed while it was read, in spite of SQLite's lock",
                "run the backup again when nothing but SQLite writes to it",
            )

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


def _number(link: sqlite3.Connection, pragma: str) -> int:
    [number] = link.execute(f"PRAGMA {pragma}").fetchone()
    return int(number)


def _in_wal_mode(link: sqlite3.Connection) -> bool:
    return bool(link.execute("PRAGMA journal_mode").fetchone() == ("wal",))


def _state(found: os.stat_result) -> tuple[int, int, int, int]:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _logged(log: Path, page_size: int) -> set[int]:
    """Pages that stand in a write-ahead log (https://www.sqlite.org/fileformat.html#walformat):
    a frame counts while its salt is the log's."""
    pages = set[int]()
    with log.open("rb") as file:
        salt = file.read(32)[16:24]
        while len(frame := file.read(24)) == 24:
            if frame[8:16] == salt:
                pages.add(int.from_bytes(frame[:4]))
            file.seek(page_size, os.SEEK_CUR)
    return pages

"""DuckDB as a source: a consistent copy of a database file, under DuckDB's own lock."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from datetime import date
from pathlib import Path
from typing import Any, BinaryIO, cast

import duckdb

from backup_pipeline.engine.errors import SourceError
from backup_pipeline.engine.scratch import ScratchFolder
from backup_pipeline.sources import duckdb_reader
from backup_pipeline.sources.listing import Item, ListedSource
from backup_pipeline.sources.single_file import state_of

__all__ = ["DuckdbSource", "copy_database", "open_duckdb"]

MOST_TRIES = 5
_HOLDER = re.compile(r"\(PID (\d+)\)")
_COPY = "backup_pipeline_copy"


def open_duckdb(
    options: Mapping[str, Any], *, exclude: Sequence[str], day: date | None
) -> DuckdbSource:
    """Open a database as a plan declares it."""
    return DuckdbSource(options["path"])


def copy_database(connection: duckdb.DuckDBPyConnection, to: str | Path) -> None:
    """Copy a database from within the process that has it open for writing.

    DuckDB lets nobody else in while a process writes. That process can call this, at any moment and
    from any thread with a cursor of its own, and back up the copy in place of the database. The
    copy is of one transaction, and takes the place of an older one at once or not at all.

    Args:
        connection: To the database; its current database is copied.
        to: The copy's file.

    Raises:
        SourceError: It cannot be copied.
    """
    target = Path(to)
    unfinished = target.with_name(f".{target.name}.{os.getpid()}.unfinished")
    cursor = connection.cursor()
    try:
        [name] = cursor.execute("SELECT current_database()").fetchone() or ("",)
        place = str(unfinished).replace("'", "''")
        cursor.execute(f"ATTACH '{place}' AS {_COPY}")
        try:
            quoted = name.replace('"', '""')
            cursor.execute(f'COPY FROM DATABASE "{quoted}" TO {_COPY}')
        finally:
            cursor.execute(f"DETACH {_COPY}")
        os.replace(unfinished, target)
    except duckdb.Error as error:
        raise SourceError(f"DuckDB could not be copied to {to}: {_line(error)}") from None
    finally:
        cursor.close()
        unfinished.unlink(missing_ok=True)
        unfinished.with_name(unfinished.name + ".wal").unlink(missing_ok=True)


class DuckdbSource(ListedSource):
    """One DuckDB database file.

    Consistency: DuckDB lets one process write *or* several read. Where nobody writes, the file and
    its write-ahead log are read as they are, under DuckDB's lock for readers: whoever wants to
    write meanwhile is refused by DuckDB until the backup has read them. Where this very process
    writes, the copy is made by ``COPY FROM DATABASE`` in one transaction. Where another process
    writes, nothing can be read, and the error names that process; see ``copy_database``.

    Args:
        path: The database's file.
    """

    kind = "duckdb"

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._state: str | None = None
        self._reader: subprocess.Popen[bytes] | None = None
        self._sizes: dict[str, int] = {}
        self._folder: ScratchFolder | None = None

    def describe(self) -> str:
        """The file."""
        return f"DuckDB database {self._path}"

    def fingerprint(self) -> str:
        """By sizes and times of the file and its log; opens nothing."""
        log = self._path.with_name(self._path.name + ".wal")
        return state_of([self._path, log], self.describe())

    def scanned(self) -> str | None:
        """The fingerprint from before it was locked: what changed until then shows."""
        return self._state

    def items(self) -> Iterable[Item]:
        """The file and its log, or a copy.

        Raises:
            SourceError: Another process writes to it, or it is no database.
        """
        self.close()
        for _ in range(MOST_TRIES):
            self._state = self.fingerprint()
            answer = self._lock()
            if "sizes" in answer:
                self._sizes = {Path(name).name: size for name, size in answer["sizes"].items()}
                return [Item(name, size, etag=self._state) for name, size in self._sizes.items()]
            self.close()
            if "error" in answer:
                self._copy_own(answer["error"])
                return [Item(self._path.name, self._path.stat().st_size, etag=self._state)]
        raise SourceError(
            f"{self.describe()} keeps being replaced", "run the backup when that has ended"
        )

    def _lock(self) -> dict[str, Any]:
        self._reader = subprocess.Popen(
            # -P: the script's folder is not where it imports from.
            [sys.executable, "-P", duckdb_reader.__file__, str(self._path.absolute())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert self._reader.stdout
        line = self._reader.stdout.readline()
        try:
            return dict(json.loads(line))
        except ValueError:
            _, said = self._reader.communicate()
            return {"error": said.decode(errors="replace").strip()[-300:] or "the reader ended"}

    def _copy_own(self, refusal: str) -> None:
        """Copy it from within, where it is this process that has it open."""
        holder = _HOLDER.search(refusal)
        if holder is None or int(holder[1]) != os.getpid():
            held = holder is not None or "lock" in refusal.lower()
            raise SourceError(
                f"{self.describe()}: {' '.join(refusal.split())}",
                "another process has it open for writing, and DuckDB lets nobody else in: back it"
                " up when that has ended, or let that process call copy_database (see"
                " docs/how-to/databases-in-a-file.md) and back up the copy"
                if held
                else "is it a DuckDB database that this user may read, of a version that the"
                " installed duckdb reads?",
            )
        self._folder = ScratchFolder()
        try:
            with closing(duckdb.connect(str(self._path))) as connection:
                copy_database(connection, self._folder.path / "copy")
        except duckdb.Error as error:
            raise SourceError(
                f"{self.describe()} is open in this process in another way: {_line(error)}",
                "close it there first, or call copy_database with that connection",
            ) from None

    def stream(self, path: str) -> BinaryIO:
        """The file's bytes."""
        if self._folder is not None:
            return (self._folder.path / "copy").open("rb")
        if self._reader is None:
            raise SourceError(f"{self.describe()} is closed", "run it again")
        place = self._path.absolute().with_name(path)
        return cast(BinaryIO, _FromReader(self._reader, place, self._sizes[path], self.describe()))

    def close(self) -> None:
        """Let go of the lock, and delete the copy."""
        if self._reader is not None:
            self._reader.kill()
            self._reader.communicate()
            self._reader = None
        if self._folder is not None:
            self._folder.close()
            self._folder = None


class _FromReader(io.RawIOBase):
    """One file's bytes, as the reader's process sends them."""

    def __init__(self, reader: subprocess.Popen[bytes], path: Path, size: int, place: str) -> None:
        super().__init__()
        assert reader.stdin and reader.stdout
        self._reader, self._pipe, self._rest, self._place = reader, reader.stdout, size, place
        self._answered = False
        try:
            reader.stdin.write(json.dumps(str(path)).encode() + b"\n")
            reader.stdin.flush()
        except BrokenPipeError:
            raise self._ended() from None

    def _ended(self) -> SourceError:
        self._rest, self._answered = 0, True  # nothing more will come
        assert self._reader.stderr
        said = self._reader.stderr.read().decode(errors="replace").strip().splitlines()
        why = said[-1] if said else "the process that holds it open ended"
        return SourceError(
            f"{self._place}: {why}", "run the backup again when nothing else writes to it"
        )

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer; 0 at the end, once the reader has said that nothing changed."""
        room = memoryview(buffer).cast("B")[: self._rest]
        if not len(room):
            if not self._rest and not self._answered:
                if self._pipe.readline() != b"\n":
                    raise self._ended()
                self._answered = True
            return 0
        count = self._pipe.readinto(room)  # type: ignore[attr-defined]
        if not count:
            raise self._ended()
        self._rest -= count
        return int(count)

    def close(self) -> None:
        """Take what was not read off the pipe."""
        scratch = bytearray(1024 * 1024)
        while not (self.closed or self._pipe.closed) and self.readinto(scratch):
            pass
        super().close()


def _line(error: Exception) -> str:
    return " ".join(str(error).split())

"""Connections to PostgreSQL: opened for reading or loading, and what goes wrong on them."""

from __future__ import annotations

import io
import os
import select
import time
from collections.abc import Mapping
from typing import Any

import psycopg
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from backup_pipeline.engine.errors import SourceError

__all__ = ["CopyStream", "LargeObjectStream", "Place", "explained"]

OLDEST_VERSION = 130000
LOCK_WAIT = "60s"
PIECE_BYTES = 1024 * 1024
SLICE_S = 0.1
"""How long one wait for the server lasts, before it is asked for again."""

CANCEL_S = 10
"""How long a server may take to leave off a COPY, before its connection is given up."""

_READ = 0x40000

_DEFAULTS = {
    "connect_timeout": "10",
    "application_name": "backup_pipeline",
    # A server that is gone without a word is noticed within two minutes.
    "keepalives_idle": "60",
    "keepalives_interval": "10",
    "keepalives_count": "6",
}

_SETTINGS = (
    "statement_timeout = 0",
    "idle_in_transaction_session_timeout = 0",
    f"lock_timeout = '{LOCK_WAIT}'",
    "search_path = ''",
    "row_security = off",  # rows that are hidden from the role are an error, not left out
    "synchronize_seqscans = off",  # a table's rows always begin at its first page
    "datestyle = ISO",
    "intervalstyle = postgres",
    "extra_float_digits = 3",
    "bytea_output = hex",
)


class Place:
    """A database, by its connection string.

    Args:
        dsn: A ``postgresql://`` URL or ``key=value`` pairs, as libpq takes them.
        password: The password, where it does not stand in the string.

    Raises:
        SourceError: It is no connection string.
    """

    def __init__(self, dsn: str, password: str | None = None) -> None:
        try:
            self._parts: dict[str, Any] = conninfo_to_dict(dsn)
        except psycopg.Error:
            # What psycopg says of it repeats it, password and all.
            raise SourceError(
                "the PostgreSQL connection string cannot be read",
                "write postgresql://role@host/database, or host=… dbname=… user=…",
            ) from None
        if password:
            self._parts["password"] = password
        self._parts = {**_DEFAULTS, **self._parts}

    def describe(self) -> str:
        """Where it is, without its password."""
        host = self._parts.get("host") or self._parts.get("hostaddr") or "this machine"
        return f"PostgreSQL database {self.database} at {host}"

    @property
    def database(self) -> str:
        """The database's name."""
        return str(
            self._parts.get("dbname")
            or os.environ.get("PGDATABASE")
            or self._parts.get("user")
            or os.environ.get("PGUSER", "postgres")
        )

    def conninfo(self) -> str:
        """The connection string without its password."""
        return make_conninfo("", **{k: v for k, v in self._parts.items() if k != "password"})

    def environ(self) -> dict[str, str]:
        """Variables for PostgreSQL's programs: others see a program's arguments, not these."""
        password = self._parts.get("password")
        return {**os.environ, **({"PGPASSWORD": str(password)} if password else {})}

    def connect(self) -> psycopg.Connection[Any]:
        """A connection without a transaction.

        Raises:
            SourceError: There is none to be had, or the server is too old.
        """
        try:
            link: psycopg.Connection[Any] = psycopg.connect(
                make_conninfo("", **self._parts), autocommit=True
            )
            if link.info.server_version >= OLDEST_VERSION:
                _set_up(link)
        except psycopg.Error as error:
            raise SourceError(
                f"{self.describe()} cannot be connected to: {_plain(error)}",
                "look at the connection string, pg_hba.conf and whether the server runs",
            ) from None
        if link.info.server_version < OLDEST_VERSION:
            version = link.info.server_version // 10000
            link.close()
            raise SourceError(
                f"{self.describe()} is version {version}; 13 is the oldest that is read",
                "update the server, or back up the files that pg_dump writes",
            )
        return link


def _set_up(link: psycopg.Connection[Any]) -> None:
    try:
        for setting in _SETTINGS:
            link.execute(f"SET {setting}".encode())
        [encoding] = link.execute("SHOW server_encoding").fetchone() or ("UTF8",)
        if encoding not in ("UTF8", b"UTF8", "SQL_ASCII", b"SQL_ASCII"):
            link.execute("SET client_encoding = 'UTF8'")
    except BaseException:
        link.close()
        raise


def _plain(error: psycopg.Error) -> str:
    """One line of what the server or the driver says."""
    said = error.diag.message_primary or str(error)
    detail = f" ({error.diag.message_detail})" if error.diag.message_detail else ""
    return " ".join((said + detail).split())


def explained(error: psycopg.Error, place: str, doing: str) -> SourceError:
    """What to raise when the server refuses, or its connection ends.

    Args:
        error: The driver's.
        place: The database, for the message.
        doing: What was under way, such as ``reading sales.orders``.
    """
    hints: Mapping[type[psycopg.Error], str] = {
        psycopg.errors.InsufficientPrivilege: "grant it to the role, and run the backup again",
        psycopg.errors.LockNotAvailable: "something holds it locked; look at pg_locks, and run the"
        " backup when that has ended",
        psycopg.errors.OutOfMemory: "raise max_locks_per_transaction, or choose fewer schemas",
        psycopg.Error: "nothing was committed, for the rest would be of another moment;"
        " see the server's log, and run the backup again",
    }
    hint = next(hint for kind, hint in hints.items() if isinstance(error, kind))
    return SourceError(f"{place}: {doing}: {_plain(error)}", hint)


class CopyStream(io.RawIOBase):
    """What one COPY … TO STDOUT gives, row by row, as a stream.

    It reads through libpq's own call: psycopg's ``copy`` takes three times as long a row. It waits
    by itself, in slices: where libpq does, no other thread runs, nor does a signal's handler.

    Args:
        link: A connection inside a transaction.
        query: The COPY.
        place: The database, for messages.
        doing: What is read, for messages.
    """

    def __init__(self, link: psycopg.Connection[Any], query: str, place: str, doing: str) -> None:
        super().__init__()
        self._link, self._place, self._doing = link, place, doing
        self._row = memoryview(b"")
        self._ended = False
        self._coming = select.poll()
        self._coming.register(link.fileno(), select.POLLIN)
        self._execute(b"SAVEPOINT reading", pq.ExecStatus.COMMAND_OK)
        self._execute(query.encode(), pq.ExecStatus.COPY_OUT)

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer with rows, as many as fit; 0 at the end.

        Raises:
            SourceError: The server refused, or the connection ended.
        """
        room = memoryview(buffer).cast("B")
        filled, row = 0, self._row
        fetch = self._link.pgconn.get_copy_data
        try:
            while filled < len(room):
                if not row:
                    count, row = (-1, row) if self._ended else fetch(1)
                    if count == 0:
                        self._wait()
                        continue
                    if count < 0:
                        self._finish()
                        break
                count = min(len(row), len(room) - filled)
                room[filled : filled + count] = row[:count]
                row = row[count:]
                filled += count
        except psycopg.Error as error:
            self._ended = True
            raise explained(error, self._place, self._doing) from None
        finally:
            self._row = row
        return filled

    def _wait(self) -> None:
        """Take what the server has sent, once there is any; at most for a slice."""
        self._coming.poll(SLICE_S * 1000)
        self._link.pgconn.consume_input()  # also where none is seen to come: TLS may hold some back

    def _finish(self) -> None:
        """Take the result behind the last row; it says whether all of them came."""
        if self._ended:
            return
        self._ended = True
        pgconn = self._link.pgconn
        while (result := pgconn.get_result()) is not None:
            if result.status != pq.ExecStatus.COMMAND_OK:
                raise psycopg.errors.error_from_result(result)
        self._execute(b"RELEASE SAVEPOINT reading", pq.ExecStatus.COMMAND_OK)

    def _execute(self, command: bytes, wanted: pq.ExecStatus) -> None:
        try:
            result = self._link.pgconn.exec_(command)
            if result.status != wanted:
                raise psycopg.errors.error_from_result(result)
        except psycopg.Error as error:
            raise explained(error, self._place, self._doing) from None

    def close(self) -> None:
        """Stop; the transaction goes on, also where rows were left."""
        if not self._ended and not self._link.closed:
            self._ended = True
            try:
                self._link.cancel_safe(timeout=CANCEL_S)
                self._drain(time.monotonic() + CANCEL_S)
            except psycopg.Error:
                self._link.close()
            else:
                self._execute(b"ROLLBACK TO SAVEPOINT reading", pq.ExecStatus.COMMAND_OK)
        super().close()

    def _drain(self, end: float) -> None:
        """Leave the rest of the rows, and what says that they were cancelled."""
        pgconn = self._link.pgconn
        while True:
            try:
                count, _ = pgconn.get_copy_data(1)
            except psycopg.Error:
                break  # says that it was cancelled
            if count < 0:
                break
            if count == 0:
                self._wait_before(end)
        while pgconn.is_busy():
            self._wait_before(end)
        while pgconn.get_result() is not None:
            pass

    def _wait_before(self, end: float) -> None:
        if time.monotonic() > end:
            raise psycopg.OperationalError("the server does not answer")
        self._wait()


class LargeObjectStream(io.RawIOBase):
    """One large object, as it is in the transaction's snapshot.

    Args:
        link: A connection inside a transaction.
        number: The object's.
        place: The database, for messages.
    """

    def __init__(self, link: psycopg.Connection[Any], number: int, place: str) -> None:
        super().__init__()
        self._link, self._place, self._number = link, place, number
        [self._fd] = self._one("SELECT pg_catalog.lo_open(%s, %s)", number, _READ)

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer; 0 at the end."""
        room = memoryview(buffer).cast("B")
        most = min(len(room), PIECE_BYTES)
        [piece] = self._one("SELECT pg_catalog.loread(%s, %s)", self._fd, most)
        room[: len(piece)] = piece
        return len(piece)

    def close(self) -> None:
        """Let go of it."""
        if not self.closed and not self._link.closed:
            self._one("SELECT pg_catalog.lo_close(%s)", self._fd)
        super().close()

    def _one(self, query: Any, *values: int) -> Any:
        try:
            return self._link.cursor(binary=True).execute(query, values).fetchone()
        except psycopg.Error as error:
            doing = f"reading large object {self._number}"
            raise explained(error, self._place, doing) from None

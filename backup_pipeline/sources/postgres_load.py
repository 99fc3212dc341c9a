"""Loads a restored copy of a PostgreSQL database into an empty one."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg

from backup_pipeline.engine.errors import SourceError, UsageError
from backup_pipeline.sources.postgres_layout import (
    AFTER_ROWS,
    BEFORE_ROWS,
    DESCRIPTION,
    LARGE_OBJECTS,
    OWNERS_AFTER,
    OWNERS_BEFORE,
    ROLES,
    SEQUENCES,
    VIEWS,
    Description,
    TableFile,
)
from backup_pipeline.sources.postgres_link import Place

__all__ = ["load"]

PIECE_BYTES = 1024 * 1024
COMMITTING = "committing"
_WRITE = 0x20000

_NOT_EMPTY = """
SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast') AND n.nspname !~ '^pg_temp_'
  AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = c.oid AND d.deptype = 'e')
UNION ALL SELECT 'large object ' || oid FROM pg_largeobject_metadata LIMIT 1
"""


def load(directory: str, url: str, *, report: Callable[[str], None]) -> dict[str, Any]:
    """Load a restored directory into an empty database, all of it or nothing.

    One transaction makes the definitions, fills the tables, and only then makes indexes, foreign
    keys and triggers: none of them fires. Owners and grants are left out, with a notice, where
    their roles are missing.

    Args:
        directory: What ``restore`` wrote.
        url: The empty database.
        report: Is told what is being done.

    Returns:
        ``summary``, ``tables`` (rows by table), ``rows``, ``large_objects`` and ``notices``.

    Raises:
        UsageError: The directory holds no such copy, or the database is not empty.
        SourceError: The database refused something; it is as it was.
    """
    top = Path(directory)
    description = _read(top)
    place = Place(url)
    with closing(_connect(place, description)) as link:
        loading = _Loading(link, top, description, report)
        try:
            link.execute(f"SET client_encoding = '{description.client_encoding}'".encode())
            _refuse_unless_empty(link, place)
            with link.transaction():
                loading.run()
                loading.doing = COMMITTING
        except psycopg.Error as error:
            said = " ".join(str(error.diag.message_primary or error).split())
            context = f" ({error.diag.context})" if error.diag.context else ""
            hint = f"nothing was changed there; the copy is in {directory}"
            if link.closed and loading.doing == COMMITTING:
                hint = (
                    "whether the server did it is not known: look with psql's \\d *.* whether the"
                    " tables are there, all of them or none; if there are none, load again"
                )
            raise SourceError(
                f"{place.describe()}: {loading.doing}: {said}{context}", hint
            ) from None
        loading.analyze()
    return loading.answer(place)


def _read(top: Path) -> Description:
    try:
        return Description.decode(json.loads((top / DESCRIPTION).read_bytes()))
    except FileNotFoundError:
        raise UsageError(
            f"{top} holds no copy of a PostgreSQL database: there is no {DESCRIPTION}",
            "restore a dataset of source postgres, all of it",
        ) from None
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(
            f"{top / DESCRIPTION} is of a layout that this version does not know: {error}",
            "update backup-pipeline, or load it by hand with psql -f load.sql",
        ) from None


def _connect(place: Place, description: Description) -> psycopg.Connection[Any]:
    try:
        link = place.connect()
    except SourceError as error:
        if "does not exist" not in error.message:
            raise
        encoding = description.encoding
        raise SourceError(
            error.message, f"createdb --template=template0 --encoding={encoding} {place.database}"
        ) from None
    if link.info.server_version // 10000 < description.server_version // 10000:
        newer, older = description.server_version // 10000, link.info.server_version // 10000
        link.close()
        raise UsageError(
            f"the copy is of PostgreSQL {newer}, and {place.describe()} is {older}",
            f"load it into PostgreSQL {newer} or newer",
        )
    return link


def _refuse_unless_empty(link: psycopg.Connection[Any], place: Place) -> None:
    found = link.execute(_NOT_EMPTY).fetchone()
    if found is not None:
        link.close()
        raise UsageError(
            f"{place.describe()} is not empty: it has {found[0]}",
            "load into a fresh database, made with createdb",
        )


class _Loading:
    """One load, and what is to be said of it."""

    def __init__(
        self,
        link: psycopg.Connection[Any],
        top: Path,
        description: Description,
        report: Callable[[str], None],
    ) -> None:
        self._link, self._top = link, top
        self._description, self._report = description, report
        self._rows: dict[str, int] = {}
        self._large_objects = 0
        self._notices: list[str] = []
        self.doing = "loading"

    def answer(self, place: Place) -> dict[str, Any]:
        """What was loaded."""
        rows = sum(self._rows.values())
        skipped = [
            f"{one.schema}.{one.name}" for one in self._description.tables if one.file is None
        ]
        if skipped:
            self._notices.append(f"without rows, as they were backed up: {', '.join(skipped)}")
        return {
            "summary": f"{len(self._rows)} tables with {rows:,} rows into {place.describe()}",
            "rows": rows,
            "tables": self._rows,
            "large_objects": self._large_objects,
            "notices": self._notices,
        }

    def run(self) -> None:
        """All of it, inside the caller's transaction."""
        before = (self._top / BEFORE_ROWS).read_bytes()
        if b"\nCREATE SCHEMA public;\n" in before:
            self._link.execute("DROP SCHEMA IF EXISTS public")
        self._script(BEFORE_ROWS)
        self._owners(OWNERS_BEFORE)
        tables = [one for one in self._description.tables if one.file is not None]
        for number, one in enumerate(tables, 1):
            self._say(f"loading {one.schema}.{one.name} ({number} of {len(tables)})")
            self._rows[f"{one.schema}.{one.name}"] = self._table(one)
        folder = self._top / LARGE_OBJECTS
        for file in sorted(folder.iterdir()) if folder.is_dir() else ():
            self._large_object(int(file.name), file)
        self._script(SEQUENCES)
        self._say("making indexes, foreign keys and triggers")
        self._script(AFTER_ROWS)
        self._attempt(b"SET LOCAL session_replication_role = replica")  # event triggers rest
        self._owners(OWNERS_AFTER)
        self._script(VIEWS)

    def analyze(self) -> None:
        """Gather statistics; all is loaded, also where that fails."""
        try:
            self._link.execute("ANALYZE")
        except psycopg.Error as error:
            said = " ".join(str(error.diag.message_primary or error).split())
            self._notices.append(f"all is loaded, but ANALYZE failed: {said}; run it with psql")

    def _say(self, doing: str) -> None:
        self.doing = doing
        self._report(doing)

    def _script(self, path: str) -> None:
        self.doing = f"running {path}"
        script = (self._top / path).read_bytes()
        # Psql's own commands, of which pg_dump writes these two, are not the server's.
        lines = script.split(b"\n")
        self._link.execute(
            b"\n".join(
                one for one in lines if not one.startswith((b"\\restrict ", b"\\unrestrict "))
            )
        )

    def _owners(self, path: str) -> None:
        try:
            with self._link.transaction():
                self._script(path)
        except (psycopg.errors.UndefinedObject, psycopg.errors.InsufficientPrivilege) as error:
            self._notices.append(
                f"owners and grants of {path} were not applied: {error.diag.message_primary};"
                f" make the roles with {ROLES}, then run it with psql"
            )

    def _attempt(self, statement: bytes) -> None:
        try:
            with self._link.transaction():
                self._link.execute(statement)
        except psycopg.Error:
            return

    def _table(self, table: TableFile) -> int:
        cursor = self._link.cursor()
        query = f"COPY {table.into()} FROM STDIN".encode()
        with (self._top / (table.file or "")).open("rb") as file, cursor.copy(query) as copy:
            while piece := file.read(PIECE_BYTES):
                copy.write(piece)
        return cursor.rowcount

    def _large_object(self, number: int, file: Path) -> None:
        self.doing = f"loading large object {number}"
        self._link.execute("SELECT pg_catalog.lo_create(%s)", (number,))
        found = self._link.execute("SELECT pg_catalog.lo_open(%s, %s)", (number, _WRITE))
        [descriptor] = found.fetchone() or (0,)
        with file.open("rb") as content:
            while piece := content.read(PIECE_BYTES):
                self._link.execute("SELECT pg_catalog.lowrite(%s, %s)", (descriptor, piece))
        self._link.execute("SELECT pg_catalog.lo_close(%s)", (descriptor,))
        self._large_objects += 1

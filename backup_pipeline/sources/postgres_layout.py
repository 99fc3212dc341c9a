"""How a PostgreSQL database stands in files: their names, and the SQL that loads them by hand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final
from urllib.parse import quote

__all__ = [
    "AFTER_ROWS",
    "BEFORE_ROWS",
    "DESCRIPTION",
    "LARGE_OBJECTS",
    "LAYOUT",
    "OWNERS_AFTER",
    "OWNERS_BEFORE",
    "ROLES",
    "SEQUENCES",
    "VIEWS",
    "Description",
    "TableFile",
    "identifier",
    "load_script",
    "table_path",
    "text",
]

LAYOUT: Final = 1
"""Version of the layout; a loader refuses those that it does not know."""

DESCRIPTION: Final = "postgres.json"
ROLES: Final = "roles.sql"
LOAD: Final = "load.sql"
BEFORE_ROWS: Final = "schema/1-before-rows.sql"
OWNERS_BEFORE: Final = "schema/2-owners.sql"
SEQUENCES: Final = "schema/3-sequences.sql"
AFTER_ROWS: Final = "schema/4-after-rows.sql"
OWNERS_AFTER: Final = "schema/5-owners.sql"
VIEWS: Final = "schema/6-materialized-views.sql"
LARGE_OBJECTS: Final = "large-objects"
_TABLES: Final = "tables"
_PIECE_BYTES: Final = 1024 * 1024

# Only a superuser may; others have no event triggers to make.
_NO_EVENT_TRIGGERS: Final = """\
SELECT rolsuper AS super FROM pg_catalog.pg_roles WHERE rolname = current_user \\gset
\\if :super
SET LOCAL session_replication_role = replica;
\\endif
"""


@dataclass(frozen=True, slots=True)
class TableFile:
    """One table's rows.

    Attributes:
        schema: Its schema.
        name: Its name.
        columns: Those that its file has, in the file's order; generated ones are computed again.
        file: The file, in the text format of COPY; None where the rows were left out.
    """

    schema: str
    name: str
    columns: tuple[str, ...]
    file: str | None

    def into(self) -> str:
        """The table and its columns, as COPY takes them."""
        columns = ", ".join(identifier(one) for one in self.columns)
        return f"{identifier(self.schema)}.{identifier(self.name)}" + (
            f" ({columns})" if columns else ""
        )


@dataclass(frozen=True, slots=True)
class Description:
    """What ``postgres.json`` says.

    Attributes:
        database: The database that was read.
        server_version: Its server's, as ``server_version_num`` has it.
        encoding: The encoding of the database; the files are UTF-8, or its own for SQL_ASCII.
        collation: How it sorts.
        character_type: How it tells letters.
        tables: Every table, in the order in which they are loaded.
    """

    database: str
    server_version: int
    encoding: str
    collation: str
    character_type: str
    tables: tuple[TableFile, ...]

    def encode(self) -> bytes:
        """The file's bytes."""
        return (json.dumps({"layout": LAYOUT, **asdict(self)}, indent=1) + "\n").encode()

    @classmethod
    def decode(cls, document: Any) -> Description:
        """Read what ``encode`` wrote.

        Raises:
            KeyError, TypeError, ValueError: It is something else.
        """
        if document["layout"] != LAYOUT:
            raise ValueError(f"layout {document['layout']}")
        tables = tuple(
            TableFile(one["schema"], one["name"], tuple(one["columns"]), one["file"])
            for one in document["tables"]
        )
        names = ("database", "server_version", "encoding", "collation", "character_type")
        return cls(**{name: document[name] for name in names}, tables=tables)

    @property
    def client_encoding(self) -> str:
        """What the files' text is in."""
        return "SQL_ASCII" if self.encoding == "SQL_ASCII" else "UTF8"


def identifier(name: str) -> str:
    """A name as SQL takes it."""
    return '"' + name.replace('"', '""') + '"'


def text(value: str) -> str:
    """A text as SQL takes it, whatever ``standard_conforming_strings`` says."""
    quoted = value.replace("'", "''")
    return "E'" + quoted.replace("\\", "\\\\") + "'" if "\\" in value else f"'{quoted}'"


def table_path(schema: str, name: str) -> str:
    """Where a table's rows stand."""
    return f"{_TABLES}/{_safe(schema)}/{_safe(name)}.copy"


def _safe(name: str) -> str:
    """A name as one part of a path, on any file system; ``%`` and two hex digits for the rest."""
    return {".": "%2E", "..": "%2E%2E"}.get(name) or quote(name, safe=" ")


_HEAD = r"""-- Loads this backup by hand, into an empty database, in one transaction:
--
--   createdb --template=template0 --encoding={encoding} fresh
--   cd DIRECTORY && psql --no-psqlrc -d fresh -f load.sql
--
-- Roles are the cluster's, not the database's: where they are missing, run roles.sql first, or
-- take out the two lines with owners.sql, and all will be yours. Indexes, foreign keys and triggers
-- are made after the rows are loaded, so no trigger fires.
\set ON_ERROR_STOP on
BEGIN;
SET client_encoding = '{client_encoding}';
SET datestyle = ISO;
SET intervalstyle = postgres;
{public}\ir {before}
\ir {owners_before}
"""


def load_script(
    description: Description, large_objects: Sequence[int], *, replaces_public: bool
) -> bytes:
    """What psql loads the directory with.

    Args:
        description: Of the database.
        large_objects: Their numbers.
        replaces_public: Whether the schema's SQL makes ``public`` itself.
    """
    parts = [
        _HEAD.format(
            encoding=description.encoding,
            client_encoding=description.client_encoding,
            public="DROP SCHEMA IF EXISTS public;\n" if replaces_public else "",
            before=BEFORE_ROWS,
            owners_before=OWNERS_BEFORE,
        )
    ]
    parts += [f"\\copy {one.into()} FROM '{one.file}'\n" for one in description.tables if one.file]
    parts += [_large_object(number) for number in large_objects]
    parts += [f"\\ir {path}\n" for path in (SEQUENCES, AFTER_ROWS)]
    parts.append(_NO_EVENT_TRIGGERS)
    parts += [f"\\ir {path}\n" for path in (OWNERS_AFTER, VIEWS)]
    parts.append("COMMIT;\nANALYZE;\n")
    return "".join(parts).encode()


def _large_object(number: int) -> str:
    """psql gives a large object a number of its own, so its bytes are moved to the right one."""
    return (
        f"\\lo_import '{LARGE_OBJECTS}/{number}'\n"
        f"SELECT pg_catalog.lo_create({number});\n"
        f"SELECT count(pg_catalog.lo_put({number}, o, pg_catalog.lo_get(:LASTOID, o,"
        f" {_PIECE_BYTES}))::text) FROM pg_catalog.generate_series(0::bigint,"
        " pg_catalog.lo_lseek64(pg_catalog.lo_open(:LASTOID, 262144), 0, 2) - 1,"
        f" {_PIECE_BYTES}::bigint) AS o;\n"
        "\\lo_unlink :LASTOID\n"
    )

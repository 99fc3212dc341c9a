"""What the catalogue of a PostgreSQL database says: tables, sequences, large objects, roles."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Final

from backup_pipeline.engine.errors import SourceError
from backup_pipeline.sources.postgres_layout import identifier, text

__all__ = [
    "STATE",
    "Catalogue",
    "Choice",
    "LargeObject",
    "Table",
]

STATE: Final = """
SELECT concat_ws(' ',
  (SELECT system_identifier FROM pg_control_system()), current_database(),
  extract(epoch FROM pg_postmaster_start_time()), pg_current_snapshot(),
  (SELECT string_agg(pid::text, ',' ORDER BY pid) FROM pg_stat_activity
    WHERE datid IS NULL AND usesysid IS NULL),
  CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() END,
  (SELECT md5(string_agg(format('%I.%I=%s', schemaname, sequencename, last_value), ','
      ORDER BY schemaname, sequencename)) FROM pg_sequences))
"""
"""Changes with every change that is visible, and so does the first statement of a backup.

``pg_current_snapshot`` names exactly the transactions whose changes are visible, for whatever
changes anything takes a transaction's number. What besides can change: sequences, which take one
for every 32nd value only; which transaction a number stands for, if the server has crashed (its
processes have other numbers then) or is another; and on a standby the snapshot names less.
"""

_TABLES: Final = """
SELECT c.oid, n.nspname, c.relname, c.relkind,
  has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT'),
  row_security_active(c.oid), x.condition,
  ARRAY(SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0
    AND NOT a.attisdropped AND a.attgenerated = '' ORDER BY a.attnum),
  ARRAY(SELECT f.confrelid FROM pg_constraint f
    WHERE f.conrelid = c.oid AND f.contype = 'f' AND f.confrelid <> c.oid)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid
  AND d.objsubid = 0 AND d.deptype = 'e'
LEFT JOIN LATERAL (SELECT e.extcondition[array_position(e.extconfig, c.oid)] AS condition
  FROM pg_extension e WHERE e.oid = d.refobjid AND c.oid = ANY (e.extconfig)) x ON true
WHERE c.relkind IN ('r', 'p', 'f') AND c.relpersistence <> 't'
  AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')
  AND n.nspname !~ '^pg_(toast_)?temp_' AND (d.objid IS NULL OR x.condition IS NOT NULL)
ORDER BY n.nspname COLLATE "C", c.relname COLLATE "C"
"""

_SEQUENCES: Final = """
SELECT n.nspname, c.relname, has_schema_privilege(n.oid, 'USAGE') AND
  has_sequence_privilege(c.oid, 'SELECT'), o.refobjid
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_depend o ON o.classid = 'pg_class'::regclass AND o.objid = c.oid
  AND o.refclassid = 'pg_class'::regclass AND o.deptype IN ('a', 'i')
WHERE c.relkind = 'S' AND c.relpersistence <> 't'
  AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass
    AND d.objid = c.oid AND d.deptype = 'e')
ORDER BY n.nspname COLLATE "C", c.relname COLLATE "C"
"""

_LARGE_OBJECTS: Final = """
SELECT m.oid::bigint, r.rolname, pg_has_role(m.lomowner, 'USAGE')
    OR current_setting('lo_compat_privileges')::bool
    OR EXISTS (SELECT FROM aclexplode(m.lomacl) a WHERE a.privilege_type = 'SELECT'
      AND (a.grantee = 0 OR pg_has_role(a.grantee, 'USAGE'))),
  ARRAY(SELECT format('GRANT %s ON LARGE OBJECT %s TO %s%s;', a.privilege_type, m.oid,
      CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END,
      CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)
    FROM aclexplode(m.lomacl) a WHERE a.grantee <> m.lomowner ORDER BY 1)
FROM pg_largeobject_metadata m JOIN pg_roles r ON r.oid = m.lomowner ORDER BY m.oid
"""

_ROLES: Final = """
SELECT format('CREATE ROLE %I WITH %s %s %s %s %s %s %s CONNECTION LIMIT %s%s;', rolname,
  CASE WHEN rolsuper THEN 'SUPERUSER' ELSE 'NOSUPERUSER' END,
  CASE WHEN rolinherit THEN 'INHERIT' ELSE 'NOINHERIT' END,
  CASE WHEN rolcreaterole THEN 'CREATEROLE' ELSE 'NOCREATEROLE' END,
  CASE WHEN rolcreatedb THEN 'CREATEDB' ELSE 'NOCREATEDB' END,
  CASE WHEN rolcanlogin THEN 'LOGIN' ELSE 'NOLOGIN' END,
  CASE WHEN rolreplication THEN 'REPLICATION' ELSE 'NOREPLICATION' END,
  CASE WHEN rolbypassrls THEN 'BYPASSRLS' ELSE 'NOBYPASSRLS' END, rolconnlimit,
  CASE WHEN rolvaliduntil IS NULL THEN '' ELSE format(' VALID UNTIL %L', rolvaliduntil) END)
FROM pg_roles WHERE rolname !~ '^pg_' ORDER BY rolname COLLATE "C"
"""

_MEMBERS: Final = """
SELECT DISTINCT format('GRANT %I TO %I%s;', g.rolname, m.rolname,
  CASE WHEN a.admin_option THEN ' WITH ADMIN OPTION' ELSE '' END)
FROM pg_auth_members a JOIN pg_roles g ON g.oid = a.roleid JOIN pg_roles m ON m.oid = a.member
WHERE m.rolname !~ '^pg_'
ORDER BY 1
"""

_VIEWS: Final = """
SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'm' AND c.relispopulated AND NOT EXISTS (SELECT FROM pg_depend d
  WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e') ORDER BY c.oid
"""

_AT_ONCE: Final = 500


@dataclass(frozen=True, slots=True)
class Table:
    """One table.

    Attributes:
        oid: Its number.
        schema: Its schema.
        name: Its name.
        kind: ``r``, or ``p`` for a partitioned and ``f`` for a foreign one, which hold no rows.
        readable: Whether the role may read it.
        filtered: Whether row-level security hides rows from the role.
        condition: Which rows of an extension's table are the user's (``WHERE …``, or nothing).
        columns: Columns that hold values of their own.
        refers_to: Numbers of the tables that its foreign keys point to.
    """

    oid: int
    schema: str
    name: str
    kind: str
    readable: bool
    filtered: bool
    condition: str | None
    columns: tuple[str, ...]
    refers_to: tuple[int, ...]

    @property
    def full_name(self) -> str:
        """``schema.table``, as globs and messages have it."""
        return f"{self.schema}.{self.name}"

    @property
    def quoted(self) -> str:
        """Its name in SQL."""
        return f"{identifier(self.schema)}.{identifier(self.name)}"


@dataclass(frozen=True, slots=True)
class LargeObject:
    """One large object: its number, its owner, whether the role may read it, and its grants."""

    number: int
    owner: str
    readable: bool
    grants: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """Which part of a database is wanted.

    Attributes:
        schemas: Globs over schemas; none takes all.
        include: Globs over ``schema.table`` whose rows are wanted; none takes all.
        exclude: Globs over ``schema.table`` whose rows are left out.
    """

    schemas: tuple[str, ...] = ()
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def has_schema(self, name: str) -> bool:
        """Whether anything of this schema is wanted."""
        return not self.schemas or _matches(name, self.schemas)

    def has_rows(self, table: Table) -> bool:
        """Whether the table's rows are wanted."""
        return (
            self.has_schema(table.schema)
            and table.kind == "r"
            and (not self.include or _matches(table.full_name, self.include))
            and not _matches(table.full_name, self.exclude)
        )


def _matches(name: str, globs: Iterable[str]) -> bool:
    return any(fnmatchcase(name, glob) for glob in globs)


def _quoted(row: Sequence[Any]) -> str:
    return f"{identifier(row[0])}.{identifier(row[1])}"


class Catalogue:
    """Reads the catalogue of the database that a connection is of.

    Args:
        connection: A psycopg connection.
        choice: What is wanted.
    """

    def __init__(self, connection: Any, choice: Choice) -> None:
        self._connection = connection
        self._choice = choice

    def _rows(self, query: str) -> list[tuple[Any, ...]]:
        return self._connection.execute(query).fetchall()

    def tables(self) -> list[Table]:
        """Every table of the chosen schemas, in order of name."""
        tables = [
            Table(*row[:7], columns=tuple(row[7]), refers_to=tuple(row[8]))
            for row in self._rows(_TABLES)
        ]
        return [one for one in tables if self._choice.has_schema(one.schema)]

    def sizes(self, tables: Sequence[Table]) -> dict[int, int]:
        """Bytes that tables take in the server: an estimate of what their rows are."""
        query = "SELECT oid::bigint, pg_table_size(oid) FROM unnest(%s::oid[]) AS oid"
        found = self._connection.execute(query, ([one.oid for one in tables],)).fetchall()
        return {oid: size or 0 for oid, size in found}

    def schemas(self) -> list[str]:
        """The schemas that are wanted, where not all are."""
        query = "SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_' ORDER BY 1"
        names = [name for (name,) in self._rows(query) if name != "information_schema"]
        return [name for name in names if self._choice.has_schema(name)]

    def sequences_of(self, tables: Iterable[int]) -> list[str]:
        """The sequences, as SQL takes them, that columns of some tables own.

        Args:
            tables: The tables' numbers.
        """
        owners = set(tables)
        return [_quoted(row) for row in self._rows(_SEQUENCES) if row[3] in owners]

    def sequences(self, left_out: Collection[str]) -> Iterator[str]:
        """The statements that set the sequences to where they are.

        Args:
            left_out: Those to pass over, as SQL takes them.

        Raises:
            SourceError: The role may not read one.
        """
        found = [
            row
            for row in self._rows(_SEQUENCES)
            if self._choice.has_schema(row[0]) and _quoted(row) not in left_out
        ]
        refused = [_quoted(row) for row in found if not row[2]]
        if refused:
            raise SourceError(
                f"the role may not read sequence {refused[0]}"
                + (f" and {len(refused) - 1} more" if len(refused) > 1 else ""),
                f"GRANT SELECT ON SEQUENCE {refused[0]} TO {self.role()}",
            )
        for start in range(0, len(found), _AT_ONCE):
            names = [_quoted(row) for row in found[start : start + _AT_ONCE]]
            queries = (f"SELECT {text(name)}, last_value, is_called FROM {name}" for name in names)
            for name, value, called in self._rows(" UNION ALL ".join(queries)):
                yield f"SELECT pg_catalog.setval({text(name)}, {value}, {str(called).lower()});"

    def large_objects(self) -> list[LargeObject]:
        """Every large object, in order of number."""
        return [LargeObject(*row[:3], grants=tuple(row[3])) for row in self._rows(_LARGE_OBJECTS)]

    def roles(self) -> list[str]:
        """Statements that make the roles of the cluster, without their passwords."""
        return [line for (line,) in (*self._rows(_ROLES), *self._rows(_MEMBERS))]

    def materialized_views(self) -> list[str]:
        """Statements that fill the materialized views that were filled, oldest first."""
        return [
            f"REFRESH MATERIALIZED VIEW {identifier(schema)}.{identifier(name)};"
            for schema, name in self._rows(_VIEWS)
            if self._choice.has_schema(schema)
        ]

    def role(self) -> str:
        """The role that reads, as SQL takes it."""
        [(name,)] = self._rows("SELECT current_user")
        return identifier(name)

"""PostgreSQL as a source: one moment of a database, each table's rows in a file of their own."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date
from typing import Any, BinaryIO, cast

import psycopg

from backup_pipeline.engine.errors import SourceError
from backup_pipeline.sources.base import UNREADABLE, Unreadable
from backup_pipeline.sources.listing import Item, ListedSource
from backup_pipeline.sources.postgres_catalog import STATE, Catalogue, Choice, Table
from backup_pipeline.sources.postgres_layout import (
    AFTER_ROWS,
    BEFORE_ROWS,
    DESCRIPTION,
    LARGE_OBJECTS,
    LOAD,
    OWNERS_AFTER,
    OWNERS_BEFORE,
    ROLES,
    SEQUENCES,
    VIEWS,
    Description,
    TableFile,
    identifier,
    load_script,
    table_path,
)
from backup_pipeline.sources.postgres_link import CopyStream, LargeObjectStream, Place, explained
from backup_pipeline.sources.postgres_needs import (
    extensions_for,
    read_extensions,
    read_needs,
    refuse_unmet,
)
from backup_pipeline.sources.postgres_schema import WHOLE, Definitions, Part, find_pg_dump

__all__ = ["PostgresSource", "open_postgres"]

MOST_TRIES = 5
_Opens = Callable[[], io.RawIOBase]


def open_postgres(
    options: Mapping[str, Any], *, exclude: Sequence[str], day: date | None
) -> PostgresSource:
    """Open a database as a plan declares it; it is connected to when it is read."""
    choice = Choice(
        tuple(options.get("schemas", ())), tuple(options.get("include", ())), tuple(exclude)
    )
    return PostgresSource(
        Place(options["dsn"], options.get("password")),
        choice,
        large_objects=options.get("large_objects", not choice.schemas),
        pg_dump=options.get("pg_dump"),
    )


class PostgresSource(ListedSource):
    """A PostgreSQL database.

    Consistency: everything is of one moment. One transaction (REPEATABLE READ, READ ONLY) is held
    from the scan to the last row; its snapshot is exported to pg_dump, which writes the
    definitions. Every table is locked in ACCESS SHARE mode *before* the snapshot is taken, so none
    can be dropped, truncated or rewritten in between; reads and writes go on as ever. Only the
    values of sequences are outside of any snapshot: they are read after it was taken, so they are
    never behind the rows. What a change of definitions other than tables does meanwhile
    (functions, types), pg_dump sees as it always does.

    Args:
        place: The database.
        choice: Which part of it.
        large_objects: Whether its large objects are part of it.
        pg_dump: The program to use; None finds one.
    """

    kind = "postgres"

    def __init__(
        self, place: Place, choice: Choice, *, large_objects: bool, pg_dump: str | None
    ) -> None:
        self._place = place
        self._choice = choice
        self._with_large_objects = large_objects
        self._pg_dump = pg_dump
        self._link: psycopg.Connection[Any] | None = None
        self._state: str | None = None
        self._opens: dict[str, _Opens] = {}

    def describe(self) -> str:
        """The database, without its password."""
        return self._place.describe()

    def fingerprint(self) -> str:
        """Of what is visible now in the whole cluster; takes one short connection."""
        try:
            with self._place.connect() as link:
                return self._digest(link.execute(STATE).fetchone())
        except psycopg.Error as error:
            raise explained(error, self.describe(), "asking for its state") from None

    def _digest(self, row: Any) -> str:
        said = repr((row, self._choice, self._with_large_objects, 2))
        return hashlib.sha256(said.encode()).hexdigest()

    def scanned(self) -> str | None:
        """The fingerprint of the moment that is read."""
        return self._state

    def close(self) -> None:
        """End the transaction and the connection."""
        if self._link is not None:
            self._link.close()
            self._link = None

    def items(self) -> Iterable[Item]:
        """The description, the definitions, each table and each large object.

        Raises:
            SourceError: The database cannot be read as a whole.
        """
        self.close()
        self._opens = {}
        try:
            self._link, tables = self._begin()
            items = self._listing(self._link, tables)
        except BaseException as error:
            self.close()
            if isinstance(error, psycopg.Error):
                raise explained(error, self.describe(), "reading its catalogue") from None
            raise
        return sorted(items, key=lambda item: item.path.encode())

    def stream(self, path: str) -> BinaryIO:
        """The bytes of an entry, from the transaction's snapshot."""
        if self._link is None or self._link.closed:
            raise SourceError(f"the connection to {self.describe()} is closed", "run it again")
        opens = self._opens.get(path)
        if opens is None:
            raise Unreadable(UNREADABLE, "it is not part of this moment of the database")
        return cast(BinaryIO, opens())

    def _begin(self) -> tuple[psycopg.Connection[Any], list[Table]]:
        """Lock the tables, then take the snapshot; again, if a table came up in between."""
        link = self._place.connect()
        try:
            for _ in range(MOST_TRIES):
                catalogue = Catalogue(link, self._choice)
                tables = catalogue.tables()
                self._check(catalogue, tables)
                link.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
                if self._lock(link, tables):
                    self._state = self._digest(link.execute(STATE).fetchone())
                    again = catalogue.tables()
                    if [one.oid for one in again] == [one.oid for one in tables]:
                        return link, again
                link.execute("ROLLBACK")
        except BaseException:
            link.close()
            raise
        raise SourceError(
            f"{self.describe()}: its tables kept changing while they were to be locked",
            "run the backup when nothing makes or drops tables, or exclude their schema",
        )

    def _check(self, catalogue: Catalogue, tables: Sequence[Table]) -> None:
        """Refuse what could not be read, before anything is read.

        Raises:
            SourceError: A privilege is missing, or row-level security hides rows.
        """
        wanted = [one for one in tables if one.kind == "p" or self._choice.has_rows(one)]
        refused = [one for one in wanted if not one.readable]
        if refused:
            role = catalogue.role()
            grants = "; ".join(f"GRANT SELECT ON TABLE {one.quoted} TO {role}" for one in refused)
            first = refused[0]
            raise SourceError(
                f"{self.describe()}: role {role} may not read "
                + ", ".join(one.full_name for one in refused[:10])
                + (f" and {len(refused) - 10} more" if len(refused) > 10 else ""),
                f"GRANT USAGE ON SCHEMA {identifier(first.schema)} TO {role}; {grants[:2000]};"
                f" or, for all of them, GRANT pg_read_all_data TO {role}",
            )
        for one in wanted:
            if one.filtered:
                role = catalogue.role()
                raise SourceError(
                    f"{self.describe()}: row-level security hides rows of {one.full_name} from"
                    f" role {role}, so the backup would lack them",
                    f"ALTER ROLE {role} BYPASSRLS, or exclude the table",
                )

    def _check_references(self, tables: Sequence[Table]) -> None:
        """Refuse rows that point to rows that are left out.

        Raises:
            SourceError: A foreign key of a chosen table would not hold.
        """
        chosen = {one.oid for one in tables if self._choice.has_rows(one)}
        names = {one.oid: one.full_name for one in tables}
        for one in tables:
            lost = [oid for oid in one.refers_to if one.oid in chosen and oid not in chosen]
            lost = [oid for oid in lost if not _is_partitioned(tables, oid)]
            if lost:
                other = names.get(lost[0], "a table of an extension")
                raise SourceError(
                    f"{self.describe()}: {one.full_name} has a foreign key to {other}, whose rows"
                    " are left out, so it could not be loaded again",
                    f"include {other}, or exclude {one.full_name}",
                )

    def _lock(self, link: psycopg.Connection[Any], tables: Sequence[Table]) -> bool:
        """Lock what is read; False if one of them is gone by now."""
        wanted = [one for one in tables if one.kind == "p" or self._choice.has_rows(one)]
        if not wanted:
            return True
        names = ", ".join(f"ONLY {one.quoted}" for one in wanted)
        try:
            link.execute(f"LOCK TABLE {names} IN ACCESS SHARE MODE".encode())
        except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):
            return False
        return True

    def _part(self, link: psycopg.Connection[Any], tables: Sequence[Table]) -> Part:
        """Which definitions are read: pg_dump can only read those of tables the role may read.

        Raises:
            SourceError: What is chosen could not be loaded without what is not.
        """
        catalogue = Catalogue(link, self._choice)
        schemas = catalogue.schemas() if self._choice.schemas else None
        if schemas == []:
            raise SourceError(
                f"{self.describe()} has no schema like {', '.join(self._choice.schemas)}",
                "look at `schemas` in the plan",
            )
        hidden = [one for one in tables if not one.readable and not self._choice.has_rows(one)]
        oids = [one.oid for one in hidden]
        if schemas is None and not hidden:
            return WHOLE
        needs, role = read_needs(link, oids), catalogue.role()
        grants = {one.oid: f"GRANT SELECT ON TABLE {one.quoted} TO {role}" for one in hidden}
        refuse_unmet(self.describe(), needs, schemas, grants)
        extensions = extensions_for(read_extensions(link), needs, schemas) if schemas else ()
        without = (*(one.quoted for one in hidden), *catalogue.sequences_of(oids))
        return Part(tuple(schemas or ()), tuple(extensions), without)

    def _listing(self, link: psycopg.Connection[Any], tables: Sequence[Table]) -> list[Item]:
        catalogue = Catalogue(link, self._choice)
        part = self._part(link, tables)
        self._check_references(tables)
        description = self._describe(link, tables)
        chosen = [one for one in tables if self._choice.has_rows(one)]
        sizes = catalogue.sizes(chosen)
        items = [self._rows(link, one, sizes.get(one.oid, 0)) for one in chosen]
        owners: list[str] = []
        numbers: list[int] = []
        for one in catalogue.large_objects() if self._with_large_objects else ():
            if not one.readable:
                role = catalogue.role()
                raise SourceError(
                    f"{self.describe()}: role {role} may not read large object {one.number}",
                    f"GRANT SELECT ON LARGE OBJECT {one.number} TO {role}, or say"
                    " `large_objects: false`",
                )
            owner = identifier(one.owner)
            owners += [f"ALTER LARGE OBJECT {one.number} OWNER TO {owner};", *one.grants]
            numbers.append(one.number)
            items.append(self._large_object(link, one.number))
        texts = self._definitions(link, description, part)
        texts[OWNERS_AFTER] += _lines(owners)
        texts[SEQUENCES] = _lines(catalogue.sequences(part.without))
        texts[VIEWS] = _lines(catalogue.materialized_views())
        texts[ROLES] = _lines(catalogue.roles())
        texts[DESCRIPTION] = description.encode()
        replaces_public = b"\nCREATE SCHEMA public;\n" in texts[BEFORE_ROWS]
        texts[LOAD] = load_script(description, numbers, replaces_public=replaces_public)
        return [*items, *(self._text(path, script) for path, script in texts.items())]

    def _describe(self, link: psycopg.Connection[Any], tables: Sequence[Table]) -> Description:
        query = (
            "SELECT pg_encoding_to_char(encoding), datcollate, datctype FROM pg_database"
            " WHERE datname = current_database()"
        )
        encoding, collation, character_type = link.execute(query).fetchone() or ("", "", "")
        files = tuple(
            TableFile(
                one.schema,
                one.name,
                one.columns,
                table_path(one.schema, one.name) if self._choice.has_rows(one) else None,
            )
            for one in tables
            if one.kind != "p"
        )
        version = link.info.server_version
        return Description(link.info.dbname, version, encoding, collation, character_type, files)

    def _definitions(
        self, link: psycopg.Connection[Any], description: Description, part: Part
    ) -> dict[str, bytes]:
        program = find_pg_dump(self._pg_dump, max(description.server_version, part.oldest_pg_dump))
        [snapshot] = link.execute("SELECT pg_export_snapshot()").fetchone() or ("",)
        reader = Definitions(
            program,
            self._place.conninfo(),
            self._place.environ(),
            snapshot,
            description.client_encoding,
            part,
        )
        before, owners_before = reader.section("pre-data")
        after, owners_after = reader.section("post-data")
        return {
            BEFORE_ROWS: part.beforehand() + before,
            OWNERS_BEFORE: owners_before,
            AFTER_ROWS: after,
            OWNERS_AFTER: owners_after,
        }

    def _text(self, path: str, script: bytes) -> Item:
        self._opens[path] = lambda: cast(io.RawIOBase, io.BytesIO(script))
        return Item(path, len(script), etag=hashlib.sha256(script).hexdigest())

    def _rows(self, link: psycopg.Connection[Any], table: Table, size: int) -> Item:
        path = table_path(table.schema, table.name)
        query, doing = copy_query(table), f"reading table {table.full_name}"
        self._opens[path] = lambda: CopyStream(link, query, self.describe(), doing)
        return Item(path, size, etag=self._etag(query))

    def _large_object(self, link: psycopg.Connection[Any], number: int) -> Item:
        path = f"{LARGE_OBJECTS}/{number}"
        self._opens[path] = lambda: LargeObjectStream(link, number, self.describe())
        return Item(path, etag=self._etag(str(number)))

    def _etag(self, what: str) -> str:
        """Equal only where the whole cluster's state is: nothing tells of one table for certain."""
        return hashlib.sha256(f"{self._state} {what}".encode()).hexdigest()


def copy_query(table: Table) -> str:
    """The COPY that reads a table's rows, in the order in which they stand."""
    columns = ", ".join(identifier(name) for name in table.columns)
    if table.condition:
        return f"COPY (SELECT {columns} FROM ONLY {table.quoted} {table.condition}) TO STDOUT"
    return f"COPY {table.quoted}{f' ({columns})' if columns else ''} TO STDOUT"


def _is_partitioned(tables: Sequence[Table], oid: int) -> bool:
    return any(one.oid == oid and one.kind == "p" for one in tables)


def _lines(statements: Iterable[str]) -> bytes:
    return "".join(f"{line}\n" for line in statements).encode()

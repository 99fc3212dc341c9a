"""A part of a PostgreSQL database: it loads on its own, or is refused by name before it is read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from backup_pipeline.cli import main
from backup_pipeline.engine.errors import SourceError
from backup_pipeline.sources.postgres_needs import (
    Extension,
    Need,
    extensions_for,
    refuse_unmet,
)
from backup_pipeline.sources.postgres_schema import WHOLE, Part
from backup_pipeline_tests.sources.postgres_server import Server, postgres_server

__all__ = ["postgres_server"]

PLAN = """
start: 2026-11-01
encryption: none
late: accept
stores: {{local: {store}}}
datasets: [{{asset: part, source: {{postgres: {source}}}}}]
"""

AROUND = """
CREATE SCHEMA a;
CREATE SCHEMA b;
CREATE TYPE b.state AS ENUM ('new', 'paid');
CREATE DOMAIN b.amount AS int CHECK (VALUE >= 0);
CREATE TYPE b.place AS (street text);
CREATE TYPE b.span AS RANGE (subtype = float8);
CREATE FUNCTION public.one() RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 1';
CREATE FUNCTION public.double(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1 * 2';
CREATE FUNCTION public.note() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE FUNCTION public.less(int, int) RETURNS bool LANGUAGE sql IMMUTABLE AS 'SELECT $1 < $2';
CREATE OPERATOR public.<<< (LEFTARG = int, RIGHTARG = int, FUNCTION = public.less);
CREATE OPERATOR CLASS b.ints FOR TYPE int USING btree AS OPERATOR 1 <, OPERATOR 2 <=, OPERATOR 3 =,
  OPERATOR 4 >=, OPERATOR 5 >, FUNCTION 1 btint4cmp(int, int);
CREATE COLLATION b.plain (provider = libc, locale = 'C');
CREATE SEQUENCE b.numbers;
CREATE TABLE b.other (id int PRIMARY KEY, more text);
CREATE TABLE b.days (day date) PARTITION BY RANGE (day);
CREATE TEXT SEARCH CONFIGURATION b.words (COPY = simple);
CREATE FOREIGN DATA WRAPPER wrapper;
CREATE SERVER far FOREIGN DATA WRAPPER wrapper;
INSERT INTO b.other VALUES (1, 'one'), (2, 'two');
CREATE TABLE a.kept (id int PRIMARY KEY);
INSERT INTO a.kept VALUES (1), (2);
"""

# What is made in schema a, and what of another schema it cannot be loaded without.
NEEDS = {
    "enum": ("TABLE a.x (s b.state)", "table a.x needs type b.state"),
    "array of an enum": ("TABLE a.x (s b.state[])", "table a.x needs type b.state"),
    "domain": ("TABLE a.x (n b.amount)", "table a.x needs type b.amount"),
    "domain over a domain": ("DOMAIN a.x AS b.amount", "type a.x needs type b.amount"),
    "composite type": ("TABLE a.x (p b.place)", "table a.x needs type b.place"),
    "range": ("TABLE a.x (r b.span)", "table a.x needs type b.span"),
    "multirange": ("TABLE a.x (r b.span_multirange)", "table a.x needs type b.span_multirange"),
    "row type": ("TABLE a.x (o b.other)", "table a.x needs table b.other"),
    "array of a row type": ("TABLE a.x (o b.other[])", "table a.x needs table b.other"),
    "type in a type": ("TYPE a.x AS (s b.state)", "type a.x needs type b.state"),
    "default": (
        "TABLE a.x (n int DEFAULT public.one())",
        "table a.x needs function public.one()",
    ),
    "sequence": (
        "TABLE a.x (n int DEFAULT nextval('b.numbers'))",
        "table a.x needs sequence b.numbers",
    ),
    "generated column": (
        "TABLE a.x (n int, m int GENERATED ALWAYS AS (public.double(n)) STORED)",
        "table a.x needs function public.double(integer)",
    ),
    "check constraint": (
        "TABLE a.x (n int CHECK (public.double(n) > 1))",
        "table a.x needs function public.double(integer)",
    ),
    "check of a domain": (
        "DOMAIN a.x AS int CHECK (public.double(VALUE) > 1)",
        "type a.x needs function public.double(integer)",
    ),
    "index": (
        "INDEX ON a.kept (public.double(id))",
        "table a.kept needs function public.double(integer)",
    ),
    "operator class": ("INDEX ON a.kept (id b.ints)", "table a.kept needs operator class b.ints"),
    "collation": ("TABLE a.x (t text COLLATE b.plain)", "table a.x needs collation b.plain"),
    "trigger": (
        "TRIGGER x BEFORE INSERT ON a.kept FOR EACH ROW EXECUTE FUNCTION public.note()",
        "table a.kept needs function public.note()",
    ),
    "policy": (
        "POLICY x ON a.kept USING (public.double(id) > 0)",
        "table a.kept needs function public.double(integer)",
    ),
    "rule": (
        "RULE x AS ON DELETE TO a.kept DO ALSO DELETE FROM b.other",
        "table a.kept needs table b.other",
    ),
    "view": ("VIEW a.x AS SELECT id FROM b.other", "view a.x needs table b.other"),
    "view with grouping": (
        "VIEW a.x AS SELECT id, more FROM b.other GROUP BY id",
        "view a.x needs table b.other",
    ),
    "materialized view": (
        "MATERIALIZED VIEW a.x AS SELECT id FROM b.other",
        "materialized view a.x needs table b.other",
    ),
    "operator": (
        "VIEW a.x AS SELECT id OPERATOR(public.<<<) 2 FROM a.kept",
        "view a.x needs operator public.<<<(integer,integer)",
    ),
    "function's argument": (
        "FUNCTION a.x(b.state) RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "function a.x(b.state) needs type b.state",
    ),
    "function's rows": (
        "FUNCTION a.x() RETURNS SETOF b.other LANGUAGE sql AS 'SELECT * FROM b.other'",
        "function a.x() needs table b.other",
    ),
    "function's body": (
        "FUNCTION a.x() RETURNS int BEGIN ATOMIC SELECT id FROM b.other; END",
        "function a.x() needs table b.other",
    ),
    "aggregate": (
        "AGGREGATE a.x(int) (SFUNC = public.larger, STYPE = int)",
        "aggregate a.x(integer) needs function public.larger(integer,integer)",
    ),
    "parent": ("TABLE a.x () INHERITS (b.other)", "table a.x needs table b.other"),
    "partitioned table": (
        "TABLE a.x PARTITION OF b.days DEFAULT",
        "table a.x needs table b.days",
    ),
    "foreign key": (
        "TABLE a.x (o int REFERENCES b.other)",
        "table a.x needs table b.other",
    ),
    "text search": (
        "INDEX ON a.words USING gin (to_tsvector('b.words', word))",
        "table a.words needs text search configuration b.words",
    ),
    "server": (
        "FOREIGN TABLE a.x (n int) SERVER far",
        "foreign table a.x needs server far",
    ),
}
BEFORE = {
    "aggregate": "CREATE FUNCTION public.larger(int, int) RETURNS int LANGUAGE sql AS 'SELECT $1'",
    "text search": "CREATE TABLE a.words (word text)",
}


class Tried(NamedTuple):
    """What came of a backup and its load: exit codes, the last word, and the fresh database."""

    backup: int
    load: int | None
    said: str
    fresh: str


class Shop:
    """One database, and the part of it that a plan chooses."""

    def __init__(
        self, folder: Path, server: Server, capsys: pytest.CaptureFixture[str], sql: str
    ) -> None:
        self.folder, self.server, self._capsys = folder, server, capsys
        self.name, self.tries = server.fresh(), 0
        with server.connect(self.name) as link:
            link.execute(sql)

    def run(self, sql: str) -> None:
        with self.server.connect(self.name) as link:
            link.execute(sql)

    def try_it(self, user: str = "postgres", **options: Any) -> Tried:
        """Back it up, and load that into a fresh database."""
        url, program = self.server.url(self.name, user), f"{self.server.programs}/pg_dump"
        source = json.dumps({"dsn": url, "pg_dump": program, **options})
        file, self.tries = self.folder / "backup.yaml", self.tries + 1
        store, target = self.folder / f"store-{self.tries}", self.folder / f"out-{self.tries}"
        file.write_text(PLAN.format(store=store, source=source))
        backup = main(["backup", "--plan", str(file)])
        if backup:
            return Tried(backup, None, self._capsys.readouterr().err, "")
        fresh = self.server.fresh()
        restore = ["restore", "part", "--store", str(store), "--to", str(target)]
        load = main([*restore, "--into", self.server.url(fresh)])
        return Tried(backup, load, self._capsys.readouterr().err, fresh)

    def rows(self, database: str, table: str) -> list[str]:
        with self.server.connect(database) as link:
            found = link.execute(f"SELECT whole_row::text FROM ONLY {table} whole_row")
            return sorted(row for (row,) in found.fetchall())

    def assert_loads(self, *tables: str, **options: Any) -> str:
        """It can be had in a fresh database, with equal tables."""
        tried = self.try_it(**options)
        assert tried.backup == tried.load == 0, tried.said
        for table in tables:
            assert self.rows(tried.fresh, table) == self.rows(self.name, table) != []
        return tried.fresh

    def load_by_hand(self) -> str:
        """Load what was last restored with nothing but psql."""
        fresh, folder = self.server.fresh(), self.folder / f"out-{self.tries}"
        arguments = ("--no-psqlrc", "-q", "-d", self.server.url(fresh), "-f", "load.sql")
        self.server.run("psql", *arguments, cwd=folder)
        return fresh


@pytest.mark.services
@pytest.mark.parametrize("case", NEEDS)
def test_what_needs_something_of_another_schema_is_refused_by_name(
    tmp_path: Path, postgres_server: Server, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    statement, said = NEEDS[case]
    part = Shop(tmp_path, postgres_server, capsys, AROUND)
    part.run(f"{BEFORE.get(case, 'SELECT')}; CREATE {statement}")
    tried = part.try_it(schemas=["a"])
    assert tried.backup == 3, "it was backed up, though it cannot be loaded"
    assert said in tried.said
    schema = "public" if "public." in said else "b"
    hint = (
        f"choose {schema} in `schemas` too"
        if case != "server"
        else "only a backup without `schemas` has server far"
    )
    assert hint in tried.said
    if case == "server":
        part.assert_loads("a.kept", "b.other")
    else:  # With what the hint says, it is had.
        part.assert_loads("a.kept", schemas=["a", "b", "public"])


@pytest.mark.services
def test_what_is_needed_by_others_only_is_had_without_them(
    tmp_path: Path, postgres_server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    part = Shop(tmp_path, postgres_server, capsys, AROUND)
    part.run("""
        CREATE TYPE a.kind AS ENUM ('x');
        CREATE TABLE a.numbered (id serial, other int GENERATED ALWAYS AS IDENTITY, k a.kind[]);
        INSERT INTO a.numbered (k) VALUES ('{x}'), (NULL);
        CREATE TABLE a.days (day date PRIMARY KEY) PARTITION BY RANGE (day);
        CREATE TABLE b.rest PARTITION OF a.days DEFAULT;
        CREATE TABLE b.refers (id int REFERENCES a.kept, day date REFERENCES a.days, k a.kind);
        CREATE VIEW b.above AS SELECT id FROM a.kept;
        CREATE VIEW a.within AS SELECT id, 'x'::a.kind FROM a.kept WHERE id IS DISTINCT FROM 3;
        CREATE TRIGGER x BEFORE INSERT ON b.refers FOR EACH ROW EXECUTE FUNCTION public.note();
        CREATE PUBLICATION everything FOR TABLE a.kept, b.other;
        CREATE FUNCTION a.untracked() RETURNS bigint LANGUAGE sql
          AS 'SELECT count(*) FROM b.other';
        CREATE STATISTICS a.both ON id, other FROM a.numbered;
        """)
    part.assert_loads("a.kept", "a.numbered", "a.within", schemas=["a"])


@pytest.mark.services
@pytest.mark.parametrize("schema", ["public", "extensions", "ml"])
def test_the_extensions_that_a_schema_needs_come_with_it(
    tmp_path: Path, postgres_server: Server, capsys: pytest.CaptureFixture[str], schema: str
) -> None:
    part = Shop(
        tmp_path,
        postgres_server,
        capsys,
        f"""
        CREATE SCHEMA ml; CREATE SCHEMA IF NOT EXISTS {schema};
        CREATE EXTENSION vector SCHEMA {schema};
        CREATE TABLE public.unwanted (id int);
        CREATE TABLE ml.items (id int, embedding {schema}.vector(3), more {schema}.vector[]);
        INSERT INTO ml.items VALUES (1, '[1,2,3]', '{{"[1]"}}'), (2, '[4,5,6]', NULL);
        CREATE INDEX ON ml.items USING hnsw (embedding {schema}.vector_l2_ops);
        CREATE VIEW ml.near AS
          SELECT id, embedding OPERATOR({schema}.<->) '[1,1,1]' AS far FROM ml.items;
        """,
    )
    fresh = part.assert_loads("ml.items", "ml.near", schemas=["ml"])
    with postgres_server.connect(fresh) as link:
        found = link.execute(
            "SELECT extnamespace::regnamespace::text, to_regclass('public.unwanted')"
            " FROM pg_extension WHERE extname = 'vector'"
        ).fetchone()
    assert found == (schema, None)
    assert part.rows(part.load_by_hand(), "ml.near") == part.rows(fresh, "ml.near")


@pytest.mark.services
def test_extensions_come_with_their_schema_and_with_no_other(
    tmp_path: Path, postgres_server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    part = Shop(tmp_path, postgres_server, capsys, f"{AROUND}; CREATE EXTENSION vector SCHEMA b;")
    count = "SELECT count(*) FROM pg_extension WHERE extname = 'vector'"
    for schemas, wanted in (["a"], 0), (["b"], 1):
        table = {"a": "a.kept", "b": "b.other"}[schemas[0]]
        with postgres_server.connect(part.assert_loads(table, schemas=schemas)) as link:
            assert link.execute(count).fetchone() == (wanted,)


SECRET = """
DO $$ BEGIN CREATE ROLE clerk LOGIN; EXCEPTION WHEN duplicate_object THEN END $$;
CREATE TABLE public.secret (id serial PRIMARY KEY, other int GENERATED ALWAYS AS IDENTITY,
  kept int);
CREATE TABLE public.orders (id serial PRIMARY KEY);
INSERT INTO public.orders DEFAULT VALUES;
CREATE PUBLICATION everything FOR TABLE public.secret;
GRANT SELECT ON public.orders, public.orders_id_seq TO clerk;
"""
OVER_SECRET = {
    "view": (
        "CREATE VIEW v AS SELECT id FROM secret; GRANT SELECT ON v TO clerk",
        "view public.v needs table public.secret",
    ),
    "function": (
        "CREATE FUNCTION f(secret) RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "function public.f(public.secret) needs table public.secret",
    ),
    "child": (
        "CREATE TABLE child () INHERITS (secret); GRANT SELECT ON child TO clerk",
        "table public.child needs table public.secret",
    ),
    "foreign key": (
        "ALTER TABLE orders ADD FOREIGN KEY (id) REFERENCES secret NOT VALID",
        "table public.orders needs table public.secret",
    ),
    "sequence": (
        "ALTER TABLE orders ALTER id SET DEFAULT nextval('secret_id_seq')",
        "table public.orders needs sequence public.secret_id_seq",
    ),
}


@pytest.mark.services
@pytest.mark.parametrize("schemas", [{}, {"schemas": ["public"]}], ids=["all", "public"])
@pytest.mark.parametrize("case", OVER_SECRET)
def test_what_stands_on_a_table_that_may_not_be_read_is_refused_by_name(
    tmp_path: Path,
    postgres_server: Server,
    capsys: pytest.CaptureFixture[str],
    case: str,
    schemas: dict[str, Any],
) -> None:
    statement, said = OVER_SECRET[case]
    part = Shop(tmp_path, postgres_server, capsys, SECRET)
    part.run(statement)
    options = {"user": "clerk", "exclude": ["public.secret"], **schemas}
    tried = part.try_it(**options)
    assert tried.backup == 3, "it was backed up, though it cannot be loaded"
    assert said in tried.said
    grant = 'GRANT SELECT ON TABLE "public"."secret" TO "clerk"'
    assert f"HINT: {grant}" in tried.said
    if case == "foreign key":  # needs the rows, not only the definition
        part.run("ALTER TABLE orders DROP CONSTRAINT orders_id_fkey")
    part.run(f"{grant}; GRANT SELECT ON ALL SEQUENCES IN SCHEMA public TO clerk")
    fresh = part.assert_loads("public.orders", **options)
    assert part.rows(fresh, "public.secret") == []


@pytest.mark.services
@pytest.mark.parametrize("schemas", [{}, {"schemas": ["public"]}], ids=["all", "public"])
def test_a_table_that_may_not_be_read_is_left_out_with_all_that_it_owns(
    tmp_path: Path,
    postgres_server: Server,
    capsys: pytest.CaptureFixture[str],
    schemas: dict[str, Any],
) -> None:
    part = Shop(tmp_path, postgres_server, capsys, SECRET)
    part.run("""
        CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
        CREATE TRIGGER t BEFORE INSERT ON secret FOR EACH ROW EXECUTE FUNCTION note();
        ALTER TABLE secret ADD FOREIGN KEY (kept) REFERENCES orders;
        CREATE TEMP VIEW passing AS SELECT id FROM secret;
        """)
    fresh = part.assert_loads("public.orders", user="clerk", exclude=["public.se*"], **schemas)
    with postgres_server.connect(fresh) as link:
        left = link.execute("SELECT relname FROM pg_class WHERE relname LIKE 'secret%'").fetchall()
    assert left == []
    assert part.rows(part.load_by_hand(), "public.orders") == ["(1)"]


def need(dependent: str, needed: str, extension: str | None = None) -> Need:
    return Need(
        f"table {dependent}.x", dependent, f"table {needed}.y", needed, extension, left_out=None
    )


def test_the_hint_names_all_schemas_at_once_and_many_needs_are_counted() -> None:
    needs = [need("a", "b"), need("b", "c"), need("c", "a"), need("d", "e")]
    with pytest.raises(SourceError) as caught:
        refuse_unmet("shop", needs, ["a"], {})
    assert caught.value.message.endswith("is not: table a.x needs table b.y")
    assert "choose b, c in `schemas` too" in str(caught.value.hint)
    assert str(caught.value.hint).endswith("or leave out a")
    refuse_unmet("shop", needs, ["a", "b", "c"], {})
    refuse_unmet("shop", needs, None, {})
    with pytest.raises(SourceError) as caught:
        refuse_unmet("shop", [need("a", f"b{one}") for one in range(12)], ["a"], {})
    assert caught.value.message.count(" needs ") == 10
    assert caught.value.message.endswith("table b9.y; and 2 more")


def test_extensions_come_with_those_that_they_require() -> None:
    def extension(name: str, schema: str, *requires: str) -> Extension:
        return Extension(name, schema, (schema,), requires)

    earth = extension("earthdistance", "geo", "cube")
    known = [extension("cube", "maths", "base"), earth, extension("base", "x"), extension("z", "x")]

    def names(*schemas: str) -> list[str]:
        needs = [need("a", "geo", "earthdistance"), need("b", "x", "z")]
        return [one.name for one in extensions_for(known, needs, schemas)]

    assert names("a") == names("geo") == ["cube", "earthdistance", "base"]
    assert names("b") == ["z"]
    assert names("x") == ["base", "z"]
    assert names("c") == []


def test_extensions_ask_for_a_pg_dump_that_can_choose_them_and_for_their_schemas() -> None:
    cube, plain = Extension("cube", 'odd "one"', (), ()), Extension("p", "pg_catalog", (), ())
    part = Part(("a",), (cube, plain, Extension("mine", "a", (), ())))
    assert (part.oldest_pg_dump, WHOLE.oldest_pg_dump) == (140000, 0)
    assert part.beforehand() == b'CREATE SCHEMA IF NOT EXISTS "odd ""one""";\n'
    assert '--extension="cube"' in part.options()
    assert (WHOLE.beforehand(), WHOLE.options()) == (b"", [])

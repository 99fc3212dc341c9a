"""A real PostgreSQL server for tests, and a database with what databases have."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

__all__ = ["SHOP", "Server", "postgres_server"]

_NUMBERS = itertools.count(1)


class Server:
    """A server on a Unix socket; it ends with the tests that use it."""

    def __init__(self, folder: Path) -> None:
        import pgserver

        self._server = pgserver.get_server(folder, cleanup_mode="stop")
        self.programs = Path(pgserver.__file__).parent / "pginstall" / "bin"

    def close(self) -> None:
        self._server.cleanup()

    def url(self, database: str, user: str = "postgres") -> str:
        found = re.sub(r"/postgres\?", f"/{database}?", self._server.get_uri())
        return re.sub(r"//[^@/]*@", f"//{user}@", found)

    def fresh(self) -> str:
        """The name of a new, empty database."""
        name = f"fresh_{next(_NUMBERS)}"
        with self.connect("postgres") as link:
            link.execute(f"CREATE DATABASE {name} TEMPLATE template0")
        return name

    def connect(self, database: str, user: str = "postgres") -> Any:
        import psycopg

        return psycopg.connect(
            self.url(database, user), autocommit=True, options="-c lock_timeout=5s"
        )

    def run(self, program: str, *arguments: str, cwd: Path | None = None) -> str:
        done = subprocess.run(
            [self.programs / program, *arguments],
            cwd=cwd,
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PGOPTIONS": "--client-min-messages=warning"},
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def shop(self) -> str:
        """The name of a new database with what databases have."""
        name = self.fresh()
        with self.connect(name) as link:
            for role in ("reader", "owner of sales"):
                if not link.execute(
                    "SELECT 1 FROM pg_roles WHERE rolname = %s", (role,)
                ).fetchone():
                    link.execute(f'CREATE ROLE "{role}" LOGIN')
            link.execute(SHOP)
        return name

    def dump(self, database: str) -> list[str]:
        """All that pg_dump says of a database."""
        said = self.run("pg_dump", self.url(database))
        return [line for line in said.splitlines() if not line.startswith("-- ")]


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Server]:
    """One server for all tests of this process."""
    pytest.importorskip("pgserver")
    # As root the server runs as another user, who may not enter pytest's folders.
    folder = Path(tempfile.mkdtemp(prefix="backup-pg-"))
    folder.chmod(0o755)
    server = Server(folder / "pg")
    yield server
    server.close()
    shutil.rmtree(folder, ignore_errors=True)


SHOP = r"""
CREATE SCHEMA "odd ""schema"" %d/../é";
CREATE SCHEMA sales AUTHORIZATION "owner of sales";
CREATE TYPE sales.state AS ENUM ('new', 'paid', 'sent');
CREATE TYPE sales.place AS (street text, numbers int[]);
CREATE DOMAIN sales.amount AS numeric(12, 2) CHECK (VALUE >= 0);
CREATE TABLE sales.orders (
  id bigint GENERATED ALWAYS AS IDENTITY (START 100) PRIMARY KEY,
  customer int NOT NULL, net sales.amount NOT NULL, tax sales.amount DEFAULT 0,
  gross numeric GENERATED ALWAYS AS (net + tax) STORED,
  state sales.state DEFAULT 'new', history sales.state[], delivery sales.place, note text);
CREATE TABLE sales.customers (id serial PRIMARY KEY, name text UNIQUE, boss int,
  changes int DEFAULT 0);
-- The name sorts before what it refers to, and two tables refer to each other.
ALTER TABLE sales.orders ADD CONSTRAINT of_customer FOREIGN KEY (customer)
  REFERENCES sales.customers DEFERRABLE INITIALLY DEFERRED;
ALTER TABLE sales.customers ADD FOREIGN KEY (boss) REFERENCES sales.customers,
  ADD COLUMN favourite bigint REFERENCES sales.orders;
CREATE INDEX "by state, where paid" ON sales.orders (state, (lower(note))) WHERE state = 'paid';
INSERT INTO sales.customers (name) VALUES ('Ann'), (E'tab\tback\\slash\nline'), (''), (NULL);
UPDATE sales.customers SET boss = 1;
INSERT INTO sales.orders (customer, net, tax, state, history, delivery, note)
  SELECT 1 + i % 4, i, i / 10.0, (ARRAY['new','paid','sent'])[1 + i % 3]::sales.state,
    CASE WHEN i % 5 = 0 THEN ARRAY['new', NULL]::sales.state[] END,
    CASE WHEN i % 7 = 0 THEN ROW('a "quoted", street', ARRAY[i, NULL])::sales.place END,
    CASE WHEN i % 3 = 0 THEN NULL WHEN i % 3 = 1 THEN '\N' ELSE 'é 漢字 ' || i END
  FROM generate_series(1, 500) i;
UPDATE sales.customers SET favourite = 105 WHERE id = 2;
CREATE FUNCTION sales.count_changes() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  UPDATE sales.customers SET changes = changes + 1 WHERE id = NEW.customer;
  RETURN NEW;
END $$;
CREATE TRIGGER changed AFTER INSERT OR UPDATE ON sales.orders FOR EACH ROW
  EXECUTE FUNCTION sales.count_changes();
CREATE VIEW sales.paid AS SELECT id, gross FROM sales.orders WHERE state = 'paid';
CREATE MATERIALIZED VIEW sales.totals AS SELECT customer, sum(gross) FROM sales.orders GROUP BY 1;
CREATE MATERIALIZED VIEW sales.top AS SELECT max(sum) FROM sales.totals;
CREATE MATERIALIZED VIEW sales.not_filled AS SELECT 1 AS one WITH NO DATA;
CREATE UNIQUE INDEX ON sales.totals (customer);
CREATE TABLE public.kinds (
  id int, b bytea, j jsonb, t timestamptz, d date, i interval, f float8, r real, n numeric,
  a int[][], u uuid, range tstzrange, ip inet, bits bit varying, x xml, big text);
INSERT INTO kinds VALUES
  (1, '\x00ff5c0a', '{"a": [1, null, "é\\n"]}', 'infinity', '-infinity',
   '1 year -2 days 03:04:05.678', 'NaN', 'Infinity', 'NaN', '{{1,2},{NULL,4}}',
   '00000000-0000-0000-0000-000000000001', '[2026-03-29 01:00+00,infinity)', '::1/64', B'0101',
   NULL, repeat('long ', 100000)),
  (2, '', 'null', '2026-10-25 02:30:00.123456+02', '0044-03-15 BC', '0', 0.1, 1e-30, 1e100, '{}',
   NULL, 'empty', '10.0.0.0/8', B'', NULL, ''),
  (3, NULL, NULL, NULL, NULL, NULL, 1e308, -0.0, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
CREATE TABLE public.empty (id int PRIMARY KEY, dropped int, rest text);
ALTER TABLE empty DROP COLUMN dropped;
CREATE TABLE public.no_columns ();
INSERT INTO no_columns DEFAULT VALUES;
INSERT INTO no_columns DEFAULT VALUES;
CREATE TABLE "odd ""schema"" %d/../é"."select ""from"" 'x' \\ /;.." ("a ""b"", c" int, "Ü" text);
INSERT INTO "odd ""schema"" %d/../é"."select ""from"" 'x' \\ /;.." VALUES (1, 'ü'), (NULL, '\.');
CREATE TABLE public.events (day date NOT NULL, what text, PRIMARY KEY (day, what))
  PARTITION BY RANGE (day);
CREATE TABLE public.events_2025 PARTITION OF events FOR VALUES FROM (MINVALUE) TO ('2026-01-01');
CREATE TABLE public.events_rest PARTITION OF events DEFAULT PARTITION BY HASH (what);
CREATE TABLE public.events_h0 PARTITION OF events_rest FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE public.events_h1 PARTITION OF events_rest FOR VALUES WITH (MODULUS 2, REMAINDER 1);
INSERT INTO events SELECT '2025-12-01'::date + i, 'event ' || i FROM generate_series(1, 100) i;
CREATE TABLE public.parent (id int);
CREATE TABLE public.child (more text) INHERITS (parent);
INSERT INTO parent VALUES (1);
INSERT INTO child VALUES (2, 'child');
CREATE UNLOGGED TABLE public.unlogged AS SELECT 1 AS one;
CREATE SEQUENCE public.not_called START 7;
CREATE SEQUENCE public.set_back;
SELECT setval('set_back', 41, false);
CREATE SEQUENCE public.downwards INCREMENT -5 MAXVALUE 100 START 100;
SELECT nextval('downwards'), nextval('downwards');
SELECT lo_from_bytea(4711, '\x00010203'), lo_create(4712),
  lo_from_bytea(4713, decode(repeat('5a0a', 1500000), 'hex'));
GRANT SELECT ON LARGE OBJECT 4711 TO reader;
GRANT SELECT ON sales.orders TO reader WITH GRANT OPTION;
ALTER TABLE sales.customers OWNER TO "owner of sales";
COMMENT ON TABLE sales.orders IS 'a comment;
-- of two lines';
CREATE FUNCTION public.note_ddl() RETURNS event_trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO public.parent VALUES (99);
END $$;
CREATE EVENT TRIGGER ddl ON ddl_command_end EXECUTE FUNCTION public.note_ddl();
"""

"""PostgreSQL, a real server: one moment is backed up, and it is loaded again as it was."""

from __future__ import annotations

import json
import os
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from backup_pipeline.cli import main
from backup_pipeline.engine.errors import SourceError
from backup_pipeline.runner import Runner
from backup_pipeline.sources import open_source
from backup_pipeline_tests.sources.postgres_server import Server, postgres_server

__all__ = ["postgres_server"]
pytestmark = pytest.mark.services

PLAN = """
start: 2026-11-01
encryption: none
late: accept
stores: {{local: {store}}}
datasets: [{{asset: shop, source: {{postgres: {source}}}}}]
"""


@pytest.fixture(scope="module")
def shop(postgres_server: Server) -> str:
    """A database that the tests of this module only read."""
    return postgres_server.shop()


def plan(folder: Path, server: Server, database: str, user: str = "postgres", **more: Any) -> str:
    options = {"dsn": server.url(database, user), "pg_dump": f"{server.programs}/pg_dump", **more}
    file = folder / "backup.yaml"
    file.write_text(PLAN.format(store=folder / "store", source=json.dumps(options)))
    return str(file)


def source(server: Server, database: str, user: str = "postgres", **more: Any) -> Any:
    options = {"dsn": server.url(database, user), "pg_dump": f"{server.programs}/pg_dump", **more}
    return open_source("postgres", options)


def entries(opened: Any) -> list[str]:
    return [path.decode() for batch in opened.scan() for path in batch.column("path").to_pylist()]


def content(opened: Any, path: str) -> bytes:
    reader, buffer, whole = opened.open(path.encode(), "object"), memoryview(bytearray(70_000)), b""
    while count := reader.read_into(buffer):
        whole += bytes(buffer[:count])
    assert reader.finish().size == len(whole)
    return whole


def everything(server: Server, database: str) -> dict[str, Any]:
    """Every row of every table, and what pg_dump does not say, with no part of the source."""
    found: dict[str, Any] = {}
    with server.connect(database) as link:
        link.execute("SET extra_float_digits = 3")
        tables = link.execute(
            "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables"
            " WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
        ).fetchall()
        views = [("sales.paid",), ("sales.totals",), ("sales.top",)]
        for (name,) in tables + views:
            rows = link.execute(f"SELECT whole_row::text FROM ONLY {name} whole_row").fetchall()
            found[name] = sorted(row for (row,) in rows)
        assert len(found) > 15
        found["sequences"] = sorted(link.execute("SELECT * FROM pg_sequences").fetchall(), key=str)
        found["large objects"] = link.execute(
            "SELECT oid, lo_get(oid), lomowner, lomacl::text FROM pg_largeobject_metadata"
            " ORDER BY oid"
        ).fetchall()
        found["indexes"] = sorted(
            link.execute("SELECT schemaname, indexdef FROM pg_indexes").fetchall()
        )
        found["constraints"] = sorted(
            link.execute(
                "SELECT conname, convalidated, pg_get_constraintdef(oid) FROM pg_constraint"
            ).fetchall()
        )
    return found


def test_a_database_comes_back_as_it_was(
    tmp_path: Path, postgres_server: Server, shop: str, capsys: pytest.CaptureFixture[str]
) -> None:
    declared = plan(tmp_path, postgres_server, shop)
    before, said = everything(postgres_server, shop), postgres_server.dump(shop)
    assert main(["backup", "--plan", declared]) == 0
    fresh, by_hand = postgres_server.fresh(), postgres_server.fresh()
    restore = ["restore", "shop", "--store", f"{tmp_path}/store", "--to", f"{tmp_path}/out"]
    assert main([*restore, "--into", postgres_server.url(fresh), "--json"]) == 0
    answer = capsys.readouterr().out
    loaded = json.loads(answer[answer.index("{") :])["loaded"]
    assert (loaded["large_objects"], loaded["notices"]) == (3, [])
    assert loaded["tables"]["sales.orders"] == 500

    assert everything(postgres_server, fresh) == before
    assert postgres_server.dump(fresh) == said

    # With nothing but psql.
    arguments = ("--no-psqlrc", "-q", "-d", postgres_server.url(by_hand), "-f", "load.sql")
    postgres_server.run("psql", *arguments, cwd=tmp_path / "out")
    assert everything(postgres_server, by_hand) == before
    assert postgres_server.dump(by_hand) == said

    # What is there is not written over, and a missing database is asked for by name.
    assert main([*restore, "--into", postgres_server.url(fresh)]) == 2
    assert main([*restore, "--into", postgres_server.url("nowhere")]) == 3
    errors = capsys.readouterr().err
    assert "is not empty" in errors
    assert "createdb --template=template0 --encoding=UTF8 nowhere" in errors


def test_nothing_is_loaded_where_a_part_cannot_be(
    tmp_path: Path, postgres_server: Server, shop: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["backup", "--plan", plan(tmp_path, postgres_server, shop)]) == 0
    fresh = postgres_server.fresh()
    restore = ["restore", "shop", "--store", f"{tmp_path}/store", "--to", f"{tmp_path}/out"]
    assert main(restore) == 0
    orders = tmp_path / "out" / "tables" / "sales" / "orders.copy"
    rows = orders.read_bytes()
    from backup_pipeline.sources.postgres_load import load

    orders.write_bytes(rows.replace(b"\t17.00\t", b"\tseventeen\t", 1))
    with pytest.raises(SourceError, match=r"sales\.orders.*seventeen"):
        load(f"{tmp_path}/out", postgres_server.url(fresh), report=lambda text: None)
    assert "CREATE" not in "".join(postgres_server.dump(fresh))

    # Roles that are not there cost the owners, and a notice says so.
    orders.write_bytes(rows)
    for name in ("2-owners.sql", "5-owners.sql"):
        file = tmp_path / "out" / "schema" / name
        file.write_text(file.read_text() + 'ALTER SCHEMA sales OWNER TO "gone";\n')
    answer = load(f"{tmp_path}/out", postgres_server.url(fresh), report=lambda text: None)
    assert ['role "gone" does not exist' in one for one in answer["notices"]] == [True, True]
    assert everything(postgres_server, fresh)["sales.orders"]


def test_a_backup_is_of_one_moment_while_others_write(
    tmp_path: Path, postgres_server: Server
) -> None:
    import psycopg

    database = postgres_server.shop()
    opened = source(postgres_server, database)
    paths = entries(opened)
    with postgres_server.connect(database) as other:
        before = everything(postgres_server, database)
        other.execute("INSERT INTO sales.orders (customer, net) VALUES (1, 1), (2, 2)")
        other.execute("DELETE FROM kinds")
        other.execute("SELECT lo_put(4711, 0, 'changed'), lo_unlink(4712)")
        other.execute("SET lock_timeout = '50ms'")
        for change in ("DROP TABLE sales.orders CASCADE", "TRUNCATE kinds", "DROP TABLE empty"):
            with pytest.raises(psycopg.errors.LockNotAvailable):
                other.execute(change)
    for path in paths:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(content(opened, path))
    opened.close()
    from backup_pipeline.sources.postgres_load import load

    fresh = postgres_server.fresh()
    load(str(tmp_path), postgres_server.url(fresh), report=lambda text: None)
    after = everything(postgres_server, fresh)
    assert after == before


def test_the_fingerprint_tells_every_change_and_no_reading(postgres_server: Server) -> None:
    database = postgres_server.shop()
    opened = source(postgres_server, database)
    with postgres_server.connect(database) as link:
        link.execute("ALTER SYSTEM SET autovacuum = off")
        link.execute("SELECT pg_reload_conf()")
        link.execute("SELECT nextval('set_back')")  # logs the next 32 values ahead
        changes = (
            "INSERT INTO empty VALUES (1)",
            "UPDATE empty SET rest = 'x'",
            "DELETE FROM empty",
            "TRUNCATE empty",
            "SELECT nextval('set_back')",
            "SELECT setval('set_back', 5, false)",
            "SELECT lo_put(4711, 0, 'x')",
            "CREATE FUNCTION one() RETURNS int LANGUAGE sql AS 'SELECT 1'",
            "COMMENT ON TABLE empty IS 'x'",
            "GRANT SELECT ON empty TO reader",
            "INSERT INTO unlogged VALUES (2)",
        )
        seen = [opened.fingerprint()]
        for change in changes:
            link.execute(change)
            seen.append(opened.fingerprint())
            assert entries(opened)
            opened.close()
            assert opened.scanned() == seen[-1] == opened.fingerprint(), change
        assert len(set(seen)) == len(changes) + 1
        # A change that is not committed yet is none; when it is, it is one.
        with link.transaction():
            link.execute("INSERT INTO empty VALUES (7)")
            with postgres_server.connect(database) as other:
                other.execute("INSERT INTO empty VALUES (8)")
            meanwhile = opened.fingerprint()
        assert opened.fingerprint() != meanwhile
    opened.close()


def test_what_did_not_change_is_not_read_again(
    tmp_path: Path, postgres_server: Server, shop: str
) -> None:
    from backup_pipeline.plan import load_plan

    runner = Runner(load_plan(plan(tmp_path, postgres_server, shop)))
    first = runner.backup("shop", force=True).snapshot
    again = runner.backup("shop", force=True).snapshot
    assert first.fingerprint == again.fingerprint == runner.fingerprint("shop")
    assert (first.read_bytes > 3_000_000, again.read_bytes) == (True, 0)


@pytest.mark.parametrize("how", ["killed", "revoked"])
def test_a_backup_that_loses_its_server_or_rights_commits_nothing(
    tmp_path: Path, postgres_server: Server, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from backup_pipeline.plan import load_plan
    from backup_pipeline.sources.postgres import PostgresSource

    database = postgres_server.shop()
    admin = postgres_server.connect(database)
    admin.execute("DROP EVENT TRIGGER ddl; GRANT pg_read_all_data TO reader")
    admin.execute("GRANT SELECT ON LARGE OBJECT 4712, 4713 TO reader")
    runner = Runner(load_plan(plan(tmp_path, postgres_server, database, "reader")))
    good = runner.backup("shop", force=True).snapshot
    assert good.status == "complete"
    admin.execute("INSERT INTO parent VALUES (3)")

    stream = PostgresSource.stream

    def fail(self: PostgresSource, path: str) -> Any:
        if path == "tables/public/parent.copy":
            if how == "killed":
                admin.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE usename = 'reader' AND datname = current_database()"
                )
            else:
                admin.execute("REVOKE pg_read_all_data FROM reader")
        return stream(self, path)

    monkeypatch.setattr(PostgresSource, "stream", fail)
    wanted = {"killed": "terminat|closed", "revoked": "permission denied"}[how]
    with pytest.raises(SourceError, match=wanted):
        runner.backup("shop", force=True)
    assert [one.id for one in runner.snapshots("shop")] == [good.id]
    admin.close()


def test_missing_rights_are_named_with_the_grant_that_helps(postgres_server: Server) -> None:
    database = postgres_server.shop()
    with postgres_server.connect(database) as admin:
        admin.execute("DROP EVENT TRIGGER ddl; REVOKE pg_read_all_data FROM reader")

        def refused(**more: Any) -> str:
            opened = source(postgres_server, database, "reader", **more)
            with pytest.raises(SourceError) as caught:
                entries(opened)
            opened.close()
            return str(caught.value)

        said = refused()
        assert "may not read" in said
        assert 'GRANT SELECT ON TABLE "public"."events" TO "reader"' in said
        admin.execute("GRANT pg_read_all_data TO reader")
        assert "GRANT SELECT ON LARGE OBJECT 4712" in refused()
        admin.execute("ALTER TABLE kinds ENABLE ROW LEVEL SECURITY")
        assert "row-level security hides rows of public.kinds" in refused(large_objects=False)
        admin.execute("ALTER TABLE kinds DISABLE ROW LEVEL SECURITY")
        opened = source(postgres_server, database, "reader", large_objects=False)
        assert "tables/public/kinds.copy" in entries(opened)
        opened.close()
        admin.execute("REVOKE pg_read_all_data FROM reader")


def test_a_part_of_a_database_is_chosen_by_globs(
    tmp_path: Path, postgres_server: Server, shop: str
) -> None:
    def chosen(**more: Any) -> set[str]:
        opened = source(postgres_server, shop, **more)
        found = {path for path in entries(opened) if path.startswith(("tables", "large"))}
        opened.close()
        return found

    sales = {"tables/sales/customers.copy", "tables/sales/orders.copy"}
    assert chosen(schemas=["sal*"]) == sales
    everywhere = chosen(exclude=["public.events_*", "public.kinds"])
    assert sales < everywhere
    assert not {path for path in everywhere if "events" in path or "kinds" in path}
    assert chosen(include=["public.pa*"], large_objects=False) == {"tables/public/parent.copy"}
    with pytest.raises(SourceError, match=r"foreign key to sales\.customers, whose rows are left"):
        chosen(exclude=["sales.customers"])
    with pytest.raises(SourceError, match="has no schema like"):
        chosen(schemas=["sails"])

    from backup_pipeline.sources.postgres_load import load

    opened = source(postgres_server, shop, schemas=["sales", "public"], exclude=["public.kinds"])
    for path in entries(opened):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(content(opened, path))
    opened.close()
    fresh = postgres_server.fresh()
    answer = load(str(tmp_path), postgres_server.url(fresh), report=lambda text: None)
    assert [one for one in answer["notices"] if "without rows" in one and "public.kinds" in one]
    assert everything(postgres_server, fresh)["public.kinds"] == []


def test_no_password_is_shown(postgres_server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DSN", "postgresql://me:hunter2@127.0.0.1:1/shop?connect_timeout=1")
    opened = open_source(
        "postgres", {"dsn": "postgresql://me@127.0.0.1:1/x", "password": "hunter2"}
    )
    for dsn in ("postgresql://me:hunter2@127.0.0.1:1/x", "password=hunter2 whatever"):
        with pytest.raises(SourceError) as caught:
            open_source("postgres", {"dsn": dsn}).fingerprint()
        assert "hunter2" not in str(caught.value)
    with pytest.raises(SourceError) as caught:
        opened.fingerprint()
    assert "hunter2" not in str(caught.value) + opened.describe()


def test_the_page_works_as_it_is_written(
    tmp_path: Path, postgres_server: Server, shop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "postgres.md").read_text()
    fresh, by_hand = postgres_server.fresh(), postgres_server.fresh()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SHOP_DSN", postgres_server.url(shop))
    monkeypatch.setenv("BACKUP_PASSPHRASE", "only for this test")
    monkeypatch.setenv("PATH", f"{postgres_server.programs}{os.pathsep}{os.environ['PATH']}")
    declared = re.findall(r"```yaml\n(start.*?)```", page, re.DOTALL)[0]
    Path("backup.yaml").write_text(declared.replace("/srv/backups", f"{tmp_path}/store"))
    commands = [line for line in page.splitlines() if line.startswith("backup-pipeline ")]
    assert len(commands) == 3
    for command in commands:
        words = shlex.split(command.replace("postgresql://localhost/fresh", "URL"))
        url = postgres_server.url(fresh)
        assert main([url if one == "URL" else one for one in words[1:]]) == 0
    assert everything(postgres_server, fresh) == everything(postgres_server, shop)
    [psql] = re.findall(r"^cd back && psql (.*)$", page, re.M)
    url = postgres_server.url(by_hand)
    arguments = [url if one == "fresh" else one for one in shlex.split(psql)]
    postgres_server.run("psql", "-q", *arguments, cwd=tmp_path / "back")
    assert everything(postgres_server, by_hand) == everything(postgres_server, shop)
    named = set(re.findall(r"`((?:schema/)?[\w-]+\.(?:sql|json))`", page))
    restored = {path.relative_to("back").as_posix() for path in Path("back").rglob("*.*")}
    assert {one for one in restored if one.endswith((".sql", ".json"))} == named


def test_a_pg_dump_that_is_too_old_or_missing_is_said_before_anything_is_read(
    tmp_path: Path,
) -> None:
    from backup_pipeline.sources.postgres_schema import find_pg_dump

    old = tmp_path / "pg_dump"
    old.write_text("#!/bin/sh\necho 'pg_dump (PostgreSQL) 12.3'\n")
    old.chmod(0o755)
    assert find_pg_dump(str(old), 120000) == str(old)
    with pytest.raises(SourceError, match="version 12") as caught:
        find_pg_dump(str(old), 160002)
    assert "postgresql-client-16" in str(caught.value)
    with pytest.raises(SourceError, match="no pg_dump that runs"):
        find_pg_dump(str(tmp_path / "nothing"), 160002)


def test_equal_definitions_are_equal_bytes_and_owners_stand_apart() -> None:
    from backup_pipeline.sources.postgres_schema import _steady, owners_of

    def script(word: bytes) -> bytes:
        return b"\\restrict " + word + b"\nCREATE TABLE t ();\n\n\\unrestrict " + word + b"\n"

    assert _steady(script(b"abc")) == _steady(script(b"xyz")) != script(b"abc")
    assert b"abc" not in _steady(script(b"abc"))
    plain = b"-- Name: t; Owner: -\nCREATE TABLE t (\n);\n\nCREATE INDEX i ON t;\n"
    full = (
        b"-- Name: t; Owner: me\nCREATE TABLE t (\n);\n\nALTER TABLE t OWNER TO me;\n\n"
        b"CREATE INDEX i ON t;\n\nGRANT ALL ON t TO you;\n"
    )
    assert owners_of(plain, full) == b"ALTER TABLE t OWNER TO me;\nGRANT ALL ON t TO you;\n"
    with pytest.raises(SourceError, match="changed while"):
        owners_of(plain, full.replace(b"INDEX i", b"INDEX j"))

"""DuckDB: read under its own lock, copied from within by the process that writes."""

from __future__ import annotations

import re
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from backup_pipeline.engine.errors import SourceError
from backup_pipeline.plan import load_plan
from backup_pipeline.runner import Runner
from backup_pipeline.sources import open_source

duckdb: Any = pytest.importorskip("duckdb")

PLAN = """
start: 2026-11-01
encryption: none
stores: {{local: {folder}/store}}
datasets: [{{asset: lake, source: {{duckdb: "{folder}/lake.duckdb"}}}}]
"""
HOLDER = """
import duckdb, os, sys
link = duckdb.connect(sys.argv[1])
link.execute("INSERT INTO orders SELECT i, i FROM range(7) t(i)")
print("at work", flush=True)
sys.stdin.readline()
os._exit(1)  # leaves its log behind
"""


def make(file: Path) -> None:
    with closing(duckdb.connect(str(file))) as link:
        link.execute("CREATE SCHEMA sales; CREATE SEQUENCE sales.numbers START 5")
        link.execute("CREATE TYPE mood AS ENUM ('good', 'bad')")
        link.execute("CREATE TABLE orders (id BIGINT, amount BIGINT)")
        link.execute(
            'CREATE TABLE sales."odd \'name" (id INT PRIMARY KEY, m mood, l INT[], s STRUCT(a INT))'
        )
        link.execute(
            'INSERT INTO sales."odd \'name" VALUES'
            " (1, 'good', [1, NULL], {'a': 1}), (2, NULL, [], NULL)"
        )
        link.execute("INSERT INTO orders SELECT i, hash(i) % 1000 FROM range(200000) t(i)")
        link.execute("CREATE VIEW totals AS SELECT sum(amount) AS total FROM orders")
        link.execute("CREATE INDEX by_id ON orders (id)")


def everything(file: Path) -> dict[str, Any]:
    with closing(duckdb.connect(str(file), read_only=True)) as link:
        found: dict[str, Any] = {}
        for schema, table in link.execute(
            "SELECT table_schema, table_name FROM information_schema.tables"
        ).fetchall():
            found[table] = link.execute(f'SELECT * FROM {schema}."{table}" ORDER BY ALL').fetchall()
        queries = {
            "indexes": "SELECT index_name, sql FROM duckdb_indexes() ORDER BY 1",
            "sequences": "SELECT sequence_name, start_value, last_value FROM duckdb_sequences()",
        }
        return found | {name: link.execute(query).fetchall() for name, query in queries.items()}


def runner(folder: Path) -> Runner:
    (folder / "backup.yaml").write_text(PLAN.format(folder=folder))
    return Runner(load_plan(folder / "backup.yaml"))


def test_a_database_comes_back_as_it_was_with_what_stands_in_its_log(tmp_path: Path) -> None:
    file = tmp_path / "lake.duckdb"
    make(file)
    ours = runner(tmp_path)
    full = ours.backup("lake", force=True).snapshot
    assert full.fingerprint == ours.fingerprint("lake")
    assert ours.backup("lake", force=True).snapshot.read_bytes == 0

    command = [sys.executable, "-c", HOLDER, str(file)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, **pipes) as writer:
        assert writer.stdout.readline() == b"at work\n"
        with pytest.raises(SourceError, match=rf"PID {writer.pid}") as caught:
            ours.backup("lake", force=True)
        assert "copy_database" in str(caught.value)
        writer.communicate(b"\n")
    assert (tmp_path / "lake.duckdb.wal").stat().st_size > 0
    next_one = ours.backup("lake", force=True).snapshot
    assert next_one.files == 2
    assert next_one.stored_bytes < full.stored_bytes / 2
    assert (tmp_path / "lake.duckdb.wal").stat().st_size > 0, "reading changes nothing"
    ours.restore("lake", tmp_path / "out")
    for name in ("lake.duckdb", "lake.duckdb.wal"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / name).read_bytes()
    found = everything(tmp_path / "out" / "lake.duckdb")
    assert len(found["orders"]) == 200_007
    assert found == everything(file)


def test_nobody_writes_while_it_is_read(tmp_path: Path) -> None:
    file = tmp_path / "lake.duckdb"
    make(file)
    opened = open_source("duckdb", {"path": str(file)})
    assert [path for batch in opened.scan() for path in batch.column("path").to_pylist()]
    write = [sys.executable, "-c", f"import duckdb; duckdb.connect({str(file)!r})"]
    assert subprocess.run(write, capture_output=True, check=False).returncode
    opened.close()
    assert not subprocess.run(write, capture_output=True, check=False).returncode


@pytest.mark.parametrize("by_bytes", [-5000, 5000, 0])
def test_what_a_program_that_heeds_no_lock_changes_meanwhile_is_one_clear_error(
    tmp_path: Path, by_bytes: int
) -> None:
    file = tmp_path / "lake.duckdb"
    make(file)
    work = HOLDER.replace("sys.stdin.readline()", "")
    subprocess.run([sys.executable, "-c", work, str(file)], check=False, capture_output=True)
    with closing(open_source("duckdb", {"path": str(file)})) as opened:
        assert sum(len(batch) for batch in opened.scan()) == 2
        with file.open("r+b") as other:
            other.write(b"X")
            other.truncate(file.stat().st_size + by_bytes)
        reader = opened.open(b"lake.duckdb", "object")
        with pytest.raises(SourceError, match=r"changed while it was read.*\n?.*again"):
            while reader.read_into(memoryview(bytearray(1024 * 1024))):
                pass
        with pytest.raises(SourceError, match="ended"):
            opened.open(b"lake.duckdb.wal", "object").finish()


def test_the_process_that_writes_backs_up_one_moment(tmp_path: Path) -> None:
    file = tmp_path / "lake.duckdb"
    make(file)
    ours = runner(tmp_path)
    stop, at_work = threading.Event(), threading.Event()

    with closing(duckdb.connect(str(file))) as link:
        link.execute("CREATE TABLE a (i INT); CREATE TABLE b (i INT)")

        def write() -> None:
            cursor = link.cursor()
            count = 0
            while not stop.is_set():  # both tables always have as many rows
                cursor.execute("BEGIN; INSERT INTO a VALUES (1); INSERT INTO b VALUES (1); COMMIT")
                count += 1
                if count == 20:
                    at_work.set()
            cursor.close()

        writer = threading.Thread(target=write)
        writer.start()
        try:
            at_work.wait()
            assert ours.backup("lake", force=True).snapshot.status == "complete"
        finally:
            stop.set()
            writer.join()
        # Our looking has let go of no lock: nobody else gets in.
        other = [sys.executable, "-c", f"import duckdb; duckdb.connect({str(file)!r})"]
        assert subprocess.run(other, capture_output=True, check=False).returncode
    ours.restore("lake", tmp_path / "out")
    found = everything(tmp_path / "out" / "lake.duckdb")
    assert len(found["a"]) == len(found["b"]) >= 20
    assert len(found["orders"]) == 200_000
    assert found["indexes"]


@pytest.mark.parametrize(("content", "message"), [(None, "no such file"), (b"x" * 9999, "valid")])
def test_what_is_no_database_is_one_clear_error(
    tmp_path: Path, content: bytes | None, message: str
) -> None:
    if content is not None:
        (tmp_path / "lake.duckdb").write_bytes(content)
    with pytest.raises(SourceError, match=message):
        runner(tmp_path).backup("lake", force=True)


def test_the_sources_need_no_database_library_until_they_are_opened() -> None:
    check = (
        "import sys, backup_pipeline.sources, backup_pipeline.plan;"
        "assert not {'duckdb', 'psycopg', 'sqlite3'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", check], check=True)


def test_the_page_works_as_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "databases-in-a-file.md").read_text()
    [code] = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    [declared] = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BACKUP_PASSPHRASE", "only for this test")
    names: dict[str, Any] = {}
    exec(code, names)
    names["copy_database"](names["connection"], "orders-copy.duckdb")
    with closing(sqlite3.connect("notes.db")) as link:
        link.execute("CREATE TABLE notes (note)")
    for shown in ("/srv/app/", "/srv/lake/", "file:///srv/"):
        declared = declared.replace(shown, f"{tmp_path}/")
    Path("backup.yaml").write_text(declared)
    ours = Runner(load_plan("backup.yaml"))
    ours.backup("app/notes")
    ours.backup("lake/orders")  # this process has it open
    names["connection"].close()
    ours.restore("lake/orders", tmp_path / "out")
    for file in (tmp_path / "out" / "orders.duckdb", tmp_path / "orders-copy.duckdb"):
        assert everything(file)["orders"] == [(1,)]
    assert [one.name for one in tmp_path.iterdir() if "unfinished" in one.name] == []

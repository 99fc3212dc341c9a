"""SQLite: a copy of one moment while a real writer is at work, and no needless run."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from backup_pipeline.engine.errors import SourceError
from backup_pipeline.plan import load_plan
from backup_pipeline.runner import Runner
from backup_pipeline.sources import open_source

PLAN = """
start: 2026-11-01
encryption: none
stores: {{local: {folder}/store}}
datasets: [{{asset: notes, source: {{sqlite: "{folder}/notes.db"}}}}]
"""
# Every transaction keeps the sum of all accounts, and touches many pages.
WRITER = """
import random, sqlite3, sys
link = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=30)
count = 0
while True:
    link.execute("BEGIN IMMEDIATE")
    for _ in range(200):
        one, other = random.sample(range(1, 20001), 2)
        link.execute("UPDATE accounts SET amount = amount - 1 WHERE id = ?", (one,))
        link.execute("UPDATE accounts SET amount = amount + 1 WHERE id = ?", (other,))
    link.execute("INSERT INTO done VALUES (zeroblob(3000))")
    link.execute("COMMIT")
    count += 1
    if count == 20:
        print("at work", flush=True)
"""


def make(file: Path, mode: str) -> None:
    with closing(sqlite3.connect(file)) as link, link:
        assert link.execute(f"PRAGMA journal_mode = {mode}").fetchone() == (mode,)
        link.execute("CREATE TABLE accounts (id INTEGER PRIMARY KEY, amount INT, pad TEXT)")
        link.execute("CREATE TABLE done (pad BLOB)")
        rows = ((number, 100, "x" * 200) for number in range(1, 20001))
        link.executemany("INSERT INTO accounts VALUES (?, ?, ?)", rows)


def runner(folder: Path) -> Runner:
    (folder / "backup.yaml").write_text(PLAN.format(folder=folder))
    return Runner(load_plan(folder / "backup.yaml"))


@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_a_copy_is_whole_while_another_process_writes(tmp_path: Path, mode: str) -> None:
    file = tmp_path / "notes.db"
    make(file, mode)
    command = [sys.executable, "-c", WRITER, str(file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
        try:
            assert writer.stdout
            assert writer.stdout.readline() == b"at work\n"
            ours = runner(tmp_path)
            for turn in range(5):
                snapshot = ours.backup("notes", force=True).snapshot
                assert snapshot.status == "complete"
                ours.restore("notes", tmp_path / f"out{turn}")
        finally:
            writer.kill()
    done: list[int] = []
    for turn in range(5):
        with closing(sqlite3.connect(tmp_path / f"out{turn}" / "notes.db")) as link:
            assert link.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            assert link.execute("PRAGMA journal_mode").fetchone() == (mode,)
            sums = link.execute("SELECT sum(amount), count(*) FROM accounts").fetchone()
            assert sums == (2_000_000, 20_000)
            done += link.execute("SELECT count(*) FROM done").fetchone()
    assert sorted(set(done)) == done, "each copy is of a later moment"


@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_the_fingerprint_tells_every_change_and_no_reading(tmp_path: Path, mode: str) -> None:
    file = tmp_path / "notes.db"
    make(file, mode)
    opened = open_source("sqlite", {"path": str(file)})
    seen = [opened.fingerprint()]
    for _ in range(5):
        with closing(sqlite3.connect(file)) as link, link:
            link.execute("UPDATE accounts SET amount = amount + 1 WHERE id = 7")
        seen.append(opened.fingerprint())
    assert len(set(seen)) == 6
    with closing(sqlite3.connect(file, isolation_level=None)) as link:
        for _ in range(5):  # the same frames of the log are written again and again
            link.execute("UPDATE accounts SET amount = amount + 1 WHERE id = 7")
            seen.append(opened.fingerprint())
            link.execute("PRAGMA wal_checkpoint(RESTART)")
        assert len(set(seen)) == 11
    ours = runner(tmp_path)
    first = ours.backup("notes", force=True).snapshot
    again = ours.backup("notes", force=True).snapshot
    assert first.fingerprint == ours.fingerprint("notes")
    assert again.read_bytes == 0


def test_the_fingerprint_through_a_link_tells_what_was_written_to_the_log(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    file, link = tmp_path / "far" / "notes.db", tmp_path / "notes.db"
    link.symlink_to(file)
    make(file, "wal")
    opened = open_source("sqlite", {"path": str(link)})
    before = opened.fingerprint()
    with closing(sqlite3.connect(file)) as writer, writer:
        writer.execute("INSERT INTO done VALUES (NULL)")
        writer.commit()
        assert opened.fingerprint() != before


def test_what_a_crashed_writer_left_in_the_log_is_in_the_copy(tmp_path: Path) -> None:
    file = tmp_path / "notes.db"
    make(file, "wal")
    crash = WRITER.replace('print("at work", flush=True)', "import os; os._exit(1)")
    subprocess.run([sys.executable, "-c", crash, str(file)], check=False)
    assert file.with_name("notes.db-wal").stat().st_size > 0
    ours = runner(tmp_path)
    snapshot = ours.backup("notes", force=True).snapshot
    assert snapshot.fingerprint == ours.fingerprint("notes"), "reading changes nothing"
    assert file.with_name("notes.db-wal").stat().st_size > 0
    ours.restore("notes", tmp_path / "out")
    with closing(sqlite3.connect(tmp_path / "out" / "notes.db")) as link:
        assert link.execute("SELECT count(*) FROM done").fetchone() == (20,)


def test_little_is_stored_of_a_little_change(tmp_path: Path) -> None:
    file = tmp_path / "notes.db"
    make(file, "delete")
    with closing(sqlite3.connect(file)) as link, link:
        link.execute("CREATE TABLE big AS SELECT randomblob(500) FROM accounts")
    ours = runner(tmp_path)
    full = ours.backup("notes", force=True).snapshot
    with closing(sqlite3.connect(file)) as link, link:
        link.execute("UPDATE accounts SET amount = 0 WHERE id = 10000")
    next_one = ours.backup("notes", force=True).snapshot
    assert next_one.stored_bytes < full.stored_bytes / 5


def test_what_is_no_database_or_locked_is_one_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "notes.db"

    def refused() -> str:
        with pytest.raises(SourceError) as caught:
            runner(tmp_path).backup("notes", force=True)
        return str(caught.value)

    assert "no such file" in refused()
    file.write_bytes(b"something else" * 1000)
    assert "not a database" in refused()
    file.unlink()
    make(file, "delete")
    monkeypatch.setattr("backup_pipeline.sources.sqlite.BUSY_TIMEOUT_S", 0.1)
    with closing(sqlite3.connect(file, isolation_level=None)) as link:
        link.execute("BEGIN EXCLUSIVE")
        assert "locked" in refused()
        link.execute("COMMIT")
    runner(tmp_path).backup("notes", force=True)

    # Gone between the scan and the reading.
    opened: Any = open_source("sqlite", {"path": str(file)})
    assert list(opened.scan())
    file.rename(tmp_path / "elsewhere")
    with pytest.raises(SourceError, match="unable to open"):
        opened.open(b"notes.db", "object")
    assert not file.exists(), "looking for it does not make it"
    opened.close()


def copied(file: Path) -> int:
    """How long its copy is."""
    with closing(open_source("sqlite", {"path": str(file)})) as opened:
        assert list(opened.scan())
        opened.open(b"notes.db", "object").finish()
    return file.stat().st_size


@pytest.mark.parametrize(("by_bytes", "message"), [(1, "1 of .* pages"), (None, "has 0 bytes")])
def test_a_truncated_database_is_refused(
    tmp_path: Path, by_bytes: int | None, message: str
) -> None:
    file = tmp_path / "notes.db"
    make(file, "delete")
    os.truncate(file, copied(file) - by_bytes if by_bytes else 0)
    with pytest.raises(SourceError, match=message):
        copied(file)


def test_what_a_truncated_database_lacks_may_stand_in_its_log(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    file, link = tmp_path / "far" / "notes.db", tmp_path / "notes.db"
    link.symlink_to(file)
    make(file, "wal")
    before = file.stat().st_size
    grow = "PRAGMA wal_autocheckpoint = 0; INSERT INTO done VALUES (zeroblob(999999))"
    crash = "import os, sqlite3, sys; sqlite3.connect(sys.argv[1]).executescript(sys.argv[2])"
    subprocess.run([sys.executable, "-c", f"{crash}; os._exit(1)", file, grow], check=False)
    assert copied(link) == before, "most of it stands in the log"
    os.truncate(file, before // 2)
    with pytest.raises(SourceError, match="is truncated"):
        copied(link)


@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_what_other_programs_change_under_the_copy_is_one_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    file = tmp_path / "notes.db"
    make(file, mode)
    whole = copied(file)

    class Cut(sqlite3.Connection):
        def backup(self, *to: Any, **how: Any) -> None:
            os.truncate(file, whole // 2)
            super().backup(*to, **how)

    def connect(url: str) -> sqlite3.Connection:
        return sqlite3.connect(url, uri=True, isolation_level=None, factory=Cut)

    monkeypatch.setattr("backup_pipeline.sources.sqlite._connect", connect)
    with pytest.raises(SourceError, match=r"changed while it was read"):
        copied(file)

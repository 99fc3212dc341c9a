"""PostgreSQL servers that fall silent or are lost: one clear error, and nothing hangs."""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("psycopg")

import psycopg

from backup_pipeline.engine.errors import SourceError
from backup_pipeline.sources import postgres_link, postgres_load
from backup_pipeline.sources.postgres_layout import Description
from backup_pipeline.sources.postgres_link import CopyStream, Place
from backup_pipeline.sources.postgres_schema import WHOLE, Definitions
from backup_pipeline_tests.sources.postgres_server import Server, postgres_server

__all__ = ["postgres_server"]
pytestmark = pytest.mark.services

BIG = "CREATE TABLE public.big AS SELECT repeat('x', 90) FROM generate_series(1, 300000)"


def test_a_server_that_falls_silent_holds_up_no_thread_and_no_signal(
    postgres_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupted(Exception): ...

    def interrupt(*_: Any) -> None:
        raise Interrupted

    monkeypatch.setattr(postgres_link, "CANCEL_S", 0.2)
    database = postgres_server.fresh()
    with closing(Place(postgres_server.url(database)).connect()) as link:
        link.execute(BIG)
        link.execute("BEGIN")
        server = link.info.backend_pid
        rows = CopyStream(link, "COPY public.big TO STDOUT", "here", "reading big")
        assert rows.read(90) == b"x" * 90
        os.kill(server, signal.SIGSTOP)
        later = subprocess.Popen(["sh", "-c", f"sleep 4; kill -CONT {server}"])
        before = signal.signal(signal.SIGALRM, interrupt)
        signal.setitimer(signal.ITIMER_REAL, 0.5)
        try:
            with pytest.raises(Interrupted):
                rows.readall()
            rows.close()
            assert link.closed
            assert later.poll() is None, "only the server's return ended the wait"
        finally:
            signal.signal(signal.SIGALRM, before)
            later.wait()


def test_a_copy_that_is_left_early_leaves_its_transaction_whole(postgres_server: Server) -> None:
    with closing(Place(postgres_server.url(postgres_server.fresh())).connect()) as link:
        link.execute(BIG)
        link.execute("BEGIN")
        for _ in range(2):
            with CopyStream(link, "COPY public.big TO STDOUT", "here", "reading big") as rows:
                assert rows.read(90) == b"x" * 90
        assert link.execute("SELECT count(*) FROM public.big").fetchone() == (300000,)


@pytest.mark.parametrize(
    ("lost_at", "hint"),
    [("SET client_enc", "nothing was changed"), ("COMMIT", "not known"), ("ANALYZE", None)],
)
def test_a_load_that_loses_its_server_says_what_is_there(
    postgres_server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    lost_at: str,
    hint: str | None,
) -> None:
    database = postgres_server.fresh()
    real = Place.connect

    def connect(self: Place) -> Any:
        link = real(self)
        execute = link.execute

        def lose() -> None:
            with postgres_server.connect("postgres") as admin:
                admin.execute("SELECT pg_terminate_backend(%s, 5000)", (link.info.backend_pid,))

        def losing(query: Any, *rest: Any) -> Any:
            text = query.decode() if isinstance(query, bytes) else str(query)
            if text.startswith(lost_at):
                lose()
            return execute(query, *rest)

        def load_and_lose(self: Any) -> None:
            link.execute("CREATE TABLE public.one ()")
            if lost_at == "COMMIT":
                lose()

        monkeypatch.setattr(link, "execute", losing)
        monkeypatch.setattr(postgres_load._Loading, "run", load_and_lose)
        return link

    monkeypatch.setattr(Place, "connect", connect)
    description = Description("one", 130000, "UTF8", "C", "C", ())
    monkeypatch.setattr(postgres_load, "_read", lambda top: description)
    url = postgres_server.url(database)
    if hint is None:
        [notice] = postgres_load.load(str(tmp_path), url, report=print)["notices"]
        assert "all is loaded, but ANALYZE failed" in notice
    else:
        with pytest.raises(SourceError) as raised:
            postgres_load.load(str(tmp_path), url, report=print)
        assert hint in (raised.value.hint or "")


def test_a_connection_lost_at_once_or_without_a_word_is_one_error_with_a_hint(
    postgres_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_link, "_SETTINGS", ("a = pg_terminate_backend()",))
    with pytest.raises(SourceError, match="cannot be connected to") as raised:
        Place(postgres_server.url("postgres")).connect()
    assert raised.value.hint
    assert postgres_link.explained(psycopg.DatabaseError("lost"), "here", "reading").hint


def test_what_pg_dump_says_is_one_line(tmp_path: Path) -> None:
    program = tmp_path / "pg_dump"
    program.write_text("#!/bin/sh\necho 'pg_dump: one\ntwo' >&2; exit 1\n")
    program.chmod(0o755)
    with pytest.raises(SourceError, match="pg_dump: one two\n"):
        Definitions(str(program), "", {}, "", "UTF8", WHOLE).section("pre-data")

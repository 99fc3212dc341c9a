"""Sources behind other URLs than S3's: Azure, Google, SFTP, and any protocol of fsspec."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest

from backup_pipeline.engine.errors import DayUnavailable, SourceError, UsageError
from backup_pipeline.engine.format.record import Snapshot
from backup_pipeline.engine.keys import PLAINTEXT
from backup_pipeline.engine.operations.backup import backup
from backup_pipeline.engine.operations.restore import restore
from backup_pipeline.engine.repository import Repository, unlock_store
from backup_pipeline.engine.store.memory import MemoryStore
from backup_pipeline.sources import open_source
from backup_pipeline.sources.base import Source, Unreadable
from backup_pipeline.sources.cloud import CloudBucket, CloudSource
from backup_pipeline_tests.sources.sftp_servers import Served, serve_here

AZURITE_KEY = (
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
)


class Kept:
    """A source, and a repository that keeps it."""

    def __init__(self, opens: Any) -> None:
        self.opens = opens
        unlocked = unlock_store(MemoryStore(), [PLAINTEXT], create=True)
        self.repository: Repository = unlocked.create("far/away", tier="local")
        self.newest: Snapshot | None = None

    def back_up(self) -> Snapshot:
        with contextlib.closing(self.opens()) as source:
            self.newest = backup(
                self.repository,
                source,
                day=datetime.now(UTC).date(),
                kind="incremental" if self.newest else "full",
                parent=self.newest,
            )
        return self.newest

    def files(self, place: Path) -> dict[str, bytes]:
        assert self.newest is not None
        assert restore(self.repository, self.newest, place).ok
        return {
            path.relative_to(place).as_posix(): path.read_bytes()
            for path in sorted(place.rglob("*"))
            if path.is_file()
        }


def free_port() -> int:
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        return int(trial.getsockname()[1])


@contextlib.contextmanager
def running(command: list[str], port: int, log: Path) -> Iterator[None]:
    """A server, until the test ends."""
    with log.open("wb") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=stream)
    try:
        deadline_s = time.monotonic() + 30
        while True:
            with socket.socket() as trial:
                if trial.connect_ex(("127.0.0.1", port)) == 0:
                    break
            if process.poll() is not None or time.monotonic() > deadline_s:
                pytest.skip(f"{command[0]} does not start here: {log.read_text()[-300:]}")
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait(10)


# -- clouds, by obstore


def cloud(store: Any, prefix: str = "p", kind: str = "azure") -> CloudSource:
    return CloudSource(store, "az://lake", prefix, kind=kind)


@pytest.fixture
def memory() -> Any:
    from obstore.store import MemoryStore as Memory

    return Memory()


def put(store: Any, name: str, content: bytes, **attributes: str) -> None:
    import obstore

    obstore.put(store, name, content, attributes=attributes or None, use_multipart=False)


def the_contract(store: Any, tmp_path: Path) -> None:
    """What holds for every bucket of a cloud."""
    import obstore

    for number in range(30):
        put(store, f"p/{number % 3}/{number:02d}", b"content %d" % number)
    put(store, "p/a-b", b"dash")
    put(store, "p/a/b", b"slash")
    put(store, "p/large", bytes(range(256)) * 70_000)
    put(store, "q/not-ours", b"x")
    kept = Kept(lambda: cloud(store))
    first = kept.back_up()
    assert (first.status, first.files) == ("complete", 33)
    with contextlib.closing(cloud(store)) as source:
        assert source.fingerprint() == first.fingerprint
    read: list[str] = []
    real = CloudBucket.read

    def counting(bucket: CloudBucket, key: str, *rest: Any) -> Any:
        read.append(key)
        return real(bucket, key, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CloudBucket, "read", counting)
        assert kept.back_up().read_bytes == 0
        assert read == []
        put(store, "p/a-b", b"changed")
        obstore.delete(store, "p/0/03")
        assert kept.back_up().fingerprint != first.fingerprint
        assert read == ["p/a-b"]
    files = kept.files(tmp_path / "out")
    assert len(files) == 32
    assert files["a-b"] == b"changed"
    assert files["large"] == bytes(range(256)) * 70_000

    source = cloud(store)
    rows = {row["path"]: row for batch in source.scan() for row in batch.to_pylist()}
    put(store, "p/a-b", b"replaced since it was listed")
    obstore.delete(store, "p/a/b")
    reader = source.open(b"a-b", "object", etag=rows[b"a-b"]["etag"])
    buffer = bytearray(100)
    count = reader.read_into(memoryview(buffer))
    details = reader.finish()
    assert (bytes(buffer[:count]), details.steady) == (b"replaced since it was listed", True)
    assert details.mark["etag"] != rows[b"a-b"]["etag"]
    with pytest.raises(Unreadable, match="gone"):
        source.open(b"a/b", "object", etag=rows[b"a/b"]["etag"])
    with pytest.raises(SourceError, match="there is nothing below az://lake/none"):
        list(cloud(store, "none").scan())
    single = cloud(store, "p/large")
    assert [row["path"] for batch in single.scan() for row in batch.to_pylist()] == [b"large"]
    with pytest.raises(DayUnavailable, match="only has its present state"):
        source.as_of(date(2026, 11, 1))


def test_a_bucket_of_any_cloud_is_read_like_one_on_s3(memory: Any, tmp_path: Path) -> None:
    the_contract(memory, tmp_path)


def test_a_bucket_in_google_cloud_is_opened_with_what_the_plan_names(tmp_path: Path) -> None:
    account = tmp_path / "account.json"
    account.write_text(
        '{"gcs_base_url": "http://127.0.0.1:1", "disable_oauth": true,'
        ' "client_email": "", "private_key": "", "private_key_id": ""}'
    )
    options = {"url": "gs://lake/events", "service_account_file": str(account)}
    source = open_source("gcs", options)
    assert source.describe() == "gs://lake/events"
    with pytest.raises(UsageError, match="none of these"):
        open_source("gcs", {"url": "s3://lake/events"})


@pytest.mark.services
@pytest.mark.slow
def test_azure_blobs_are_read_like_objects_on_s3(tmp_path: Path) -> None:
    azurite = os.environ.get("AZURITE") or shutil.which("azurite-blob")
    if azurite is None:
        pytest.skip("azurite is not installed: npm install -g azurite, or name it in AZURITE")
    from obstore.store import AzureStore

    port = free_port()
    command = [azurite, "--blobHost", "127.0.0.1", "--blobPort", str(port), "--inMemoryPersistence"]
    command += ["--skipApiVersionCheck", "--disableTelemetry", "--silent"]
    with running(command, port, tmp_path / "log"):
        endpoint = f"http://127.0.0.1:{port}/devstoreaccount1"
        _make_container(endpoint, "lake")
        store = AzureStore(
            "lake",
            account_name="devstoreaccount1",
            account_key=AZURITE_KEY,
            endpoint=endpoint,
            client_options={"allow_http": True},
        )
        the_contract(store, tmp_path)
        put(store, "rich/a", b"1", **{"Content-Type": "text/csv", "Content-Encoding": "gzip"})
        options = {
            "url": "az://lake/rich",
            "account": "devstoreaccount1",
            "account_key": AZURITE_KEY,
            "endpoint": endpoint,
        }
        source = open_source("azure", options)
        (row,) = [row for batch in source.scan() for row in batch.to_pylist()]
        details = source.open(b"a", "object", etag=row["etag"]).finish()
        assert details.content_type == "text/csv"
        assert details.metadata == ((":content-encoding", "gzip"),)
        other = open_source("azure", {**options, "account_key": "bm90IGl0"})
        with pytest.raises(SourceError, match="access refused"):
            list(other.scan())
        gone = open_source("azure", {**options, "url": "az://no-such/rich"})
        with pytest.raises(SourceError, match="does not exist"):
            list(gone.scan())


def _make_container(endpoint: str, name: str) -> None:
    import base64
    import hashlib
    import hmac
    import urllib.request
    from email.utils import formatdate

    now = formatdate(usegmt=True)
    headers = f"x-ms-date:{now}\nx-ms-version:2021-08-06\n"
    resource = f"/devstoreaccount1/devstoreaccount1/{name}\nrestype:container"
    text = "PUT\n" + "\n" * 11 + headers + resource
    key = base64.b64decode(AZURITE_KEY)
    signature = base64.b64encode(hmac.new(key, text.encode(), hashlib.sha256).digest()).decode()
    request = urllib.request.Request(
        f"{endpoint}/{name}?restype=container",
        method="PUT",
        headers={
            "x-ms-date": now,
            "x-ms-version": "2021-08-06",
            "Authorization": f"SharedKey devstoreaccount1:{signature}",
        },
    )
    with urllib.request.urlopen(request) as answer:
        assert answer.status == 201


# -- fsspec


def aged(path: Path, content: bytes, age_s: int = 4000) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    moment = time.time() - age_s
    os.utime(path, (moment, moment))


def test_any_protocol_of_fsspec_is_a_source(tmp_path: Path, monkeypatch: Any) -> None:
    root = tmp_path / "far"
    for name in ("a/b", "a-b", "z", "large"):
        aged(root / name, name.encode() * (1 if name != "large" else 1_000_000))
    (root / "empty").mkdir()
    kept = Kept(lambda: open_source("fsspec", {"url": f"file://{root}", "exclude": ("z",)}))
    first = kept.back_up()
    assert (first.status, first.files) == ("complete", 3)
    assert kept.back_up().read_bytes == 0
    aged(root / "a-b", b"new", 3000)
    assert kept.back_up().read_bytes == 3
    assert kept.files(tmp_path / "out") == {
        "a/b": b"a/b",
        "a-b": b"new",
        "large": b"large" * 1_000_000,
    }
    assert (tmp_path / "out" / "empty").is_dir()

    real = open_source("fsspec", {"url": f"file://{root}"})._fs.__class__.ls

    def refused(fs: Any, path: str, **options: Any) -> Any:
        if path.endswith("/a"):
            raise PermissionError(13, "not for you")
        return real(fs, path, **options)

    monkeypatch.setattr("fsspec.implementations.local.LocalFileSystem.ls", refused)
    snapshot = kept.back_up()
    assert (snapshot.status, snapshot.problem_count) == ("incomplete", 1)
    assert snapshot.problems[0]["path"] == "a"
    monkeypatch.undo()
    with pytest.raises(SourceError, match="is not there"):
        list(open_source("fsspec", {"url": f"file://{root}/none"}).scan())
    with pytest.raises(UsageError, match="cannot be opened"):
        open_source("fsspec", {"url": "no-such-protocol://x"})


def test_a_file_that_changes_while_it_is_read_is_read_again(tmp_path: Path) -> None:
    import fsspec

    fs: Any = fsspec.filesystem("memory")
    root = f"/{secrets.token_hex(4)}"
    fs.pipe(f"{root}/a", b"first")
    source = open_source("fsspec", {"url": f"memory:/{root}"})
    assert [row["path"] for batch in source.scan() for row in batch.to_pylist()] == [b"a"]
    reader = source.open(b"a", "object")
    buffer = bytearray(10)
    reader.read_into(memoryview(buffer))
    fs.pipe(f"{root}/a", b"second")
    assert not reader.finish().steady
    fs.rm(root, recursive=True)
    with pytest.raises(Unreadable, match="gone"):
        source.open(b"a", "object")


def test_a_protocol_that_tells_no_changes_is_refused(monkeypatch: Any) -> None:
    import fsspec

    fs: Any = fsspec.filesystem("memory")
    root = f"/{secrets.token_hex(4)}"
    fs.pipe(f"{root}/a", b"1")

    def nothing(*_: Any) -> Any:
        raise NotImplementedError

    monkeypatch.setattr("fsspec.implementations.memory.MemoryFileSystem.modified", nothing)
    with pytest.raises(SourceError, match="neither etags nor times of writing"):
        list(open_source("fsspec", {"url": f"memory:/{root}"}).scan())
    fs.rm(root, recursive=True)


@pytest.mark.parametrize(
    "options",
    [
        {"url": "ftp://127.0.0.1:1/x"},
        {"url": "simplecache::ftp://127.0.0.1:1/x"},
        {"url": "filecache://x", "options": {"target_protocol": "ftp"}},
    ],
)
def test_ftp_is_refused_by_fsspec_for_it_hides_refused_listings(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="missed in silence") as caught:
        open_source("fsspec", options)
    assert "sftp://" in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"url": "sftp://127.0.0.1:1/x"}, "has a source of its own"),
        ({"url": "simplecache::ssh://127.0.0.1:1/x"}, "has a source of its own"),
        ({"url": "github://x"}, "missing 2 required"),
        ({"url": "no-such-protocol://x"}, "not known"),
    ],
)
def test_what_fsspec_cannot_open_is_one_clear_error(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        open_source("fsspec", options)
    assert "\nHINT: " in str(caught.value)


def test_a_folder_that_lists_itself_is_refused(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    aged(tmp_path / "d" / "f", b"1")
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        tar.add(tmp_path / "d", "d")
    source = open_source("fsspec", {"url": f"tar://::file://{tmp_path}/x.tar"})
    with pytest.raises(SourceError, match="its folder /d lists d, which does not lie in it"):
        list(source.scan())


@pytest.mark.parametrize(("also", "paths"), [("/elsewhere/f", None), ("{}/", [b"a"])])
def test_a_listing_has_only_what_lies_in_the_folder(
    tmp_path: Path, monkeypatch: Any, also: str, paths: list[bytes] | None
) -> None:
    aged(tmp_path / "a", b"1")
    source = open_source("fsspec", {"url": f"file://{tmp_path}"})
    real, also = source._fs.__class__.ls, also.format(tmp_path)

    def more(fs: Any, path: str, **options: Any) -> Any:
        return [{"name": also, "type": "file", "size": 0, "mtime": 1}, *real(fs, path, **options)]

    monkeypatch.setattr("fsspec.implementations.local.LocalFileSystem.ls", more)
    if paths is None:
        with pytest.raises(SourceError, match="lists /elsewhere/f, which does not lie in it"):
            list(source.scan())
    else:
        assert [row["path"] for batch in source.scan() for row in batch.to_pylist()] == paths


# -- SFTP


@pytest.fixture(params=["paramiko", "sshd"])
def sshd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Served]:
    """A server of paramiko's, or OpenSSH's where it is installed."""
    if request.param == "paramiko":
        with socket.create_server(("127.0.0.1", 0)) as listener:
            server = Served(tmp_path, listener.getsockname()[1])
            serve_here(listener, server)
            yield server
        return
    program = os.environ.get("SSHD") or shutil.which("sshd", path="/usr/sbin:/usr/local/sbin")
    if program is None:
        pytest.skip("sshd is not installed: apt-get install openssh-server, or name it in SSHD")
    port = free_port()
    server = Served(tmp_path, port)
    lines = {
        "ListenAddress": "127.0.0.1",
        "Port": port,
        "HostKey": tmp_path / "host",
        "AuthorizedKeysFile": tmp_path / "authorized",
        "PasswordAuthentication": "no",
        "UsePAM": "no",
        "StrictModes": "no",
        "PidFile": "none",
        "PermitRootLogin": "yes",
        "Subsystem": "sftp internal-sftp",
    }
    (tmp_path / "config").write_text("".join(f"{name} {text}\n" for name, text in lines.items()))
    command = [program, "-D", "-e", "-f", str(tmp_path / "config")]
    with running(command, port, tmp_path / "log"):
        yield server


@pytest.mark.services
def test_files_on_an_sftp_server_are_a_source(sshd: Served, tmp_path: Path) -> None:
    for name in ("a/b", "a-b", "ünïcode ☃", "z.tmp"):
        aged(sshd.root / name, name.encode())
    aged(sshd.root / "large", os.urandom(9_000_001))
    aged(sshd.root / "script", b"#!/bin/sh")
    (sshd.root / "script").chmod(0o750)
    (sshd.root / "empty").mkdir()
    (sshd.root / "link").symlink_to("a/b")
    kept = Kept(lambda: open_source("sftp", {**sshd.options(), "exclude": ("*.tmp",)}))
    first = kept.back_up()
    assert (first.status, first.files) == ("complete", 5)
    assert kept.back_up().read_bytes == 0
    aged(sshd.root / "a-b", b"new", 3000)
    (sshd.root / "a" / "b").unlink()
    assert kept.back_up().read_bytes == 3
    out = tmp_path / "out"
    files = kept.files(out)
    assert files["large"] == (sshd.root / "large").read_bytes()
    assert files["a-b"] == b"new"
    assert sorted(files) == ["a-b", "large", "script", "ünïcode ☃"]
    assert (out / "link").is_symlink()
    assert (out / "script").stat().st_mode & 0o777 == 0o750
    assert (out / "empty").is_dir()


@pytest.mark.services
def test_an_sftp_server_that_is_not_the_known_one_is_refused(sshd: Served) -> None:
    aged(sshd.root / "a", b"1")

    def scan(**more: str) -> Source:
        source = open_source("sftp", sshd.options(**more))
        with contextlib.closing(source):
            list(source.scan())
        return source

    scan()
    other = sshd.folder / "others"
    key = " ".join((sshd.folder / "other.pub").read_text().split()[:2])
    other.write_text(f"[127.0.0.1]:{sshd.port} {key}\n")
    with pytest.raises(SourceError, match="another key than known_hosts says"):
        scan(known_hosts=str(other))
    other.write_text("")
    with pytest.raises(SourceError, match="key is not known"):
        scan(known_hosts=str(other))
    with pytest.raises(SourceError, match="access refused"):
        scan(key_file=str(sshd.folder / "other"))
    with pytest.raises(SourceError, match="is not there"):
        list(open_source("sftp", sshd.options("/none")).scan())
    single = open_source("sftp", sshd.options("/a"))
    assert [row["path"] for batch in single.scan() for row in batch.to_pylist()] == [b"a"]
    single.close()


# -- weight


def test_opening_the_package_loads_none_of_it() -> None:
    names = "('paramiko', 'obstore', 'boto3', 'fsspec')"
    code = (
        "import sys, backup_pipeline.sources, backup_pipeline.plan;"
        f"print([name for name in {names} if name in sys.modules])"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("backup_pipeline.sources.sftp")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "paramiko", None)
    with pytest.raises(UsageError, match="paramiko is not installed") as caught:
        open_source("sftp", {"url": "sftp://host/x"})
    assert "backup-pipeline[sftp]" in str(caught.value)

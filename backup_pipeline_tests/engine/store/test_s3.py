"""What is special about a store on S3: servers that refuse, lie, fail or fall silent."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from backup_pipeline.engine.errors import (
    BackupError,
    ObjectExists,
    ObjectMissing,
    StoreError,
    StoreUnavailable,
    UsageError,
)
from backup_pipeline.engine.store import Store, open_store, s3, s3_settings
from backup_pipeline.engine.store.s3_settings import S3Settings
from backup_pipeline.s3_server import S3Server
from backup_pipeline_tests.engine.store.lying_s3 import LyingS3

ASKS: dict[str, Any] = {
    "put": lambda store: store.put("a/b", b"1"),
    "heal": lambda store: store.heal("a/b", b"1"),
    "get": lambda store: store.get("a/b"),
    "stat": lambda store: store.stat("a/b"),
    "exists": lambda store: store.exists("a/b"),
    "list": lambda store: list(store.list()),
    "list_names": lambda store: store.list_names(""),
    "delete": lambda store: store.delete("a/b"),
    "probe": lambda store: store.probe(),
}


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short waits, so that failures come soon."""
    monkeypatch.setattr(s3_settings, "CONNECT_TIMEOUT", timedelta(seconds=1))
    monkeypatch.setattr(s3_settings, "RETRIES", 1)
    monkeypatch.setattr(s3, "QUICK_TIMEOUT", timedelta(seconds=0.5))
    monkeypatch.setattr(s3, "BULK_TIMEOUT", timedelta(seconds=0.5))


def error_of(ask: Any, store: Store) -> BackupError:
    with pytest.raises(BackupError) as caught:
        ask(store)
    assert len(caught.value.message.splitlines()) == 1
    assert caught.value.hint
    return caught.value


@pytest.mark.services
def test_a_whole_bucket_can_be_a_store(s3_server: S3Server) -> None:
    s3_server.client().create_bucket(Bucket="whole")
    store = open_store(s3_server.options("s3://whole/"))
    assert store.url == "s3://whole"
    store.put("log/0", b"1")
    store.put("log/1", b"2")
    assert [stored.name for stored in store.list("log/", after="log/0")] == ["log/1"]
    assert store.list_names("") == ["log"]
    assert store.list_names("log/") == ["0", "1"]
    assert store.probe().ok


@pytest.mark.services
@pytest.mark.parametrize("verb", ASKS)
def test_a_missing_bucket_is_told_apart_from_a_missing_name(s3_server: S3Server, verb: str) -> None:
    store = open_store(s3_server.options("s3://no-such-bucket/prefix"))
    error = error_of(ASKS[verb], store)
    assert isinstance(error, StoreUnavailable)
    assert "there is no bucket 'no-such-bucket' at http://127.0.0.1" in error.message
    assert "create the bucket" in str(error)


@pytest.mark.services
@pytest.mark.parametrize("verb", ASKS)
@pytest.mark.parametrize("wrong", ["access_key_id", "secret_access_key"])
def test_wrong_credentials_are_said_and_never_shown(
    s3_spec: dict[str, str], verb: str, wrong: str
) -> None:
    spec = {**s3_spec, wrong: "not-the-right-one"}
    store = open_store(spec)
    error = error_of(ASKS[verb], store)
    assert isinstance(error, StoreUnavailable)
    assert "access refused by http://127.0.0.1" in error.message
    shown = f"{error} {error.__cause__} {store!r} {S3Settings.read('bkt', '/p', spec_only(spec))!r}"
    assert spec["secret_access_key"] not in shown


def spec_only(spec: dict[str, str]) -> dict[str, str]:
    return {key: value for key, value in spec.items() if key != "url"}


@pytest.mark.parametrize("verb", ASKS)
def test_nobody_listening_is_said_soon(verb: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{taken.getsockname()[1]}"
        spec = {"url": "s3://backups", "endpoint": endpoint}
        store = open_store({**spec, "access_key_id": "a", "secret_access_key": "b"})
        begun_s = time.monotonic()
        error = error_of(ASKS[verb], store)
    assert time.monotonic() - begun_s < 15
    assert isinstance(error, StoreUnavailable)
    assert f"{endpoint} did not answer (" in error.message


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("verb", ASKS)
def test_a_server_that_has_fallen_silent_is_given_up(verb: str) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=128) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        spec = {"url": "s3://backups", "endpoint": endpoint}
        store = open_store({**spec, "access_key_id": "a", "secret_access_key": "b"})
        begun_s = time.monotonic()
        error = error_of(ASKS[verb], store)
    assert time.monotonic() - begun_s < 10
    assert isinstance(error, StoreUnavailable)
    assert "did not answer (timed out)" in error.message


def test_the_clock_of_an_unreachable_server_is_not_guessed() -> None:
    spec = {"url": "s3://b-b", "endpoint": "http://127.0.0.1:9"}
    store = open_store({**spec, "access_key_id": "a", "secret_access_key": "b"})
    with pytest.raises(StoreUnavailable, match="did not answer"):
        store.now()


def test_no_credentials_at_all_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://127.0.0.1:9")
    store = open_store({"url": "s3://backups", "endpoint": "http://127.0.0.1:9"})
    error = error_of(ASKS["put"], store)
    assert isinstance(error, StoreUnavailable)


def test_a_server_that_ignores_conditions_is_refused(lying_s3: LyingS3) -> None:
    store = open_store(lying_s3.options())
    assert store.probe().require().creates_once
    lying_s3.ignores_conditions = True
    probe = store.probe()
    assert not probe.creates_once
    assert not probe.ok
    with pytest.raises(StoreError, match=r"s3://backups/here cannot be used.*no create-only"):
        probe.require()
    assert lying_s3.stored == {}


def test_a_server_that_returns_other_bytes_is_refused(lying_s3: LyingS3) -> None:
    lying_s3.flips_bytes = True
    probe = open_store(lying_s3.options()).probe()
    assert not probe.writable
    with pytest.raises(StoreError, match="other bytes than were written"):
        probe.require()


def test_a_server_with_another_time_is_refused(lying_s3: LyingS3) -> None:
    store = open_store(lying_s3.options())
    lying_s3.clock_offset = timedelta(hours=-2)
    probe = store.probe()
    assert 7100 < probe.clock_skew_s < 7300
    with pytest.raises(StoreError, match=r"its clock and this machine's differ by 72\d\d"):
        probe.require()
    assert store.locks() is None


@pytest.mark.parametrize("size", [5, 1_000_000])
def test_a_put_whose_answer_was_lost_returns(lying_s3: LyingS3, size: int) -> None:
    store = open_store(lying_s3.options())
    content = bytes(size)
    lying_s3.drops_answers = 1
    store.put("log/000000", content)
    assert bytes(store.get("log/000000")) == content
    lying_s3.drops_answers = 1
    with pytest.raises(ObjectExists):
        store.put("log/000000", b"other")
    lying_s3.drops_answers = 1
    store.heal("log/000000", b"other")
    assert bytes(store.get("log/000000")) == b"other"


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("size", [5, 1_000_000])
def test_a_put_whose_answer_came_too_late_returns(lying_s3: LyingS3, size: int) -> None:
    store = open_store(lying_s3.options())
    lying_s3.holds_answers = 1
    store.put("log/000000", bytes(size))
    lying_s3.holds_answers = 1
    with pytest.raises(ObjectExists):
        store.put("log/000000", b"other")


def test_a_put_whose_answers_are_all_lost_gives_up(lying_s3: LyingS3) -> None:
    store = open_store(lying_s3.options())
    lying_s3.ignores_conditions = True
    lying_s3.drops_answers = 1_000_000
    with pytest.raises(StoreUnavailable, match="did not answer"):
        store.put("log/000000", b"1")
    assert lying_s3.requests < 30


@pytest.mark.parametrize("verb", ["put", "get", "stat", "delete", "heal"])
def test_a_server_that_is_overloaded_for_a_moment_is_asked_again(
    lying_s3: LyingS3, verb: str
) -> None:
    store = open_store(lying_s3.options())
    store.put("a/b", b"1")
    lying_s3.fails = 2
    ASKS[verb](store)
    assert lying_s3.fails == 0


@pytest.mark.usefixtures("impatient")
def test_a_server_that_stays_overloaded_is_unavailable(lying_s3: LyingS3) -> None:
    store = open_store(lying_s3.options())
    lying_s3.fails = 1000
    error = error_of(ASKS["put"], store)
    assert isinstance(error, StoreUnavailable)
    assert "fails: SlowDown" in error.message
    assert lying_s3.requests < 20


def test_a_name_that_others_delete_meanwhile_is_written_again(lying_s3: LyingS3) -> None:
    store = open_store(lying_s3.options())
    store.put("a", b"1")
    real_get = s3.obstore.get

    def deleted_first(client: Any, name: str, **options: Any) -> Any:
        lying_s3.stored.clear()
        return real_get(client, name, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(s3.obstore, "get", deleted_first)
        store.put("a", b"2")
    assert bytes(store.get("a")) == b"2"


@pytest.mark.services
def test_locks_are_found_where_the_bucket_has_them(s3_server: S3Server) -> None:
    client: Any = s3_server.client()
    client.create_bucket(Bucket="locked", ObjectLockEnabledForBucket=True)
    assert open_store(s3_server.options("s3://locked/p")).locks() is True
    assert open_store(s3_server.options("s3://backups/p")).locks() is False


@pytest.mark.services
def test_a_host_that_may_not_delete_has_a_good_store(s3_server: S3Server) -> None:
    client: Any = s3_server.client()
    client.create_bucket(Bucket="append-only")
    policy = {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Deny",
                "Principal": "*",
                "Action": "s3:DeleteObject",
                "Resource": "arn:aws:s3:::append-only/*",
            }
        ],
    }
    client.put_bucket_policy(Bucket="append-only", Policy=json.dumps(policy))
    store = open_store(s3_server.options("s3://append-only/p"))
    assert store.probe().ok
    assert [stored.name.partition("/")[0] for stored in store.list()] == ["probe"]
    with pytest.raises(StoreUnavailable, match="access refused"):
        store.delete(next(store.list()).name)


@pytest.mark.services
def test_credentials_come_from_the_environment_unless_given(
    s3_server: S3Server, s3_spec: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3_server.environ().items():
        monkeypatch.setenv(name, value)
    open_store(s3_spec["url"]).put("from-environment", b"1")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3_server.endpoint)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    open_store(s3_spec["url"]).put("from-environment-s3", b"1")
    # What the plan says outranks the environment, and is not mixed with it.
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "other")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "other")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "belongs-to-the-other")
    monkeypatch.setenv("AWS_VIRTUAL_HOSTED_STYLE_REQUEST", "true")
    monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
    store = open_store(s3_spec)
    store.put("from-plan", b"1")
    found = [stored.name for stored in store.list()]
    assert found == ["from-environment", "from-environment-s3", "from-plan"]
    assert store.probe().ok


@pytest.mark.services
def test_credentials_come_from_a_named_profile(
    s3_server: S3Server,
    s3_spec: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "credentials").write_text(
        f"[backups]\naws_access_key_id = {s3_server.access_key}\n"
        f"aws_secret_access_key = {s3_server.secret_key}\n"
    )
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    place = {"url": s3_spec["url"], "endpoint": s3_server.endpoint}
    open_store({**place, "profile": "backups"}).put("a", b"1")
    with monkeypatch.context() as patch:
        patch.setenv("AWS_PROFILE", "backups")
        assert open_store(place).exists("a")
        assert open_store(place).probe().ok
    with pytest.raises(UsageError, match="AWS profile 'nobody' gives no credentials"):
        open_store({**place, "profile": "nobody"})


@pytest.mark.services
def test_boto3_is_not_loaded_for_plain_credentials(s3_spec: dict[str, str]) -> None:
    program = (
        "import sys, json; from backup_pipeline.engine.store import open_store; "
        "s = open_store(json.loads(sys.argv[1])); s.probe(); s.put('a', b'1'); list(s.list()); "
        "s.get('a'); s.now(); "
        "print([n for n in ('boto3', 'botocore', 'pyarrow') if n in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, json.dumps(s3_spec)], capture_output=True, text=True
    )
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize(
    ("options", "environ", "expected"),
    [
        ({}, {}, {"endpoint": None, "addressing": "virtual", "region": None}),
        ({"endpoint": "http://x:1/"}, {}, {"endpoint": "http://x:1", "addressing": "path"}),
        ({"endpoint": "http://x:1"}, {}, {"region": "us-east-1"}),
        ({"addressing": "virtual", "endpoint": "http://x"}, {}, {"addressing": "virtual"}),
        ({"addressing": "path"}, {}, {"addressing": "path"}),
        ({}, {"AWS_REGION": "r", "AWS_DEFAULT_REGION": "d"}, {"region": "r"}),
        ({}, {"AWS_DEFAULT_REGION": "d"}, {"region": "d"}),
        ({"region": "p"}, {"AWS_REGION": "r"}, {"region": "p"}),
        ({}, {"AWS_PROFILE": "p"}, {"profile": "p", "access_key_id": None}),
        (
            {"profile": "p"},
            {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"},
            {"profile": "p", "access_key_id": None},
        ),
        (
            {},
            {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_PROFILE": "p"},
            {"profile": None, "access_key_id": "a", "secret_access_key": "b"},
        ),
        (
            {"access_key_id": "x", "secret_access_key": "y"},
            {"AWS_SESSION_TOKEN": "t"},
            {"access_key_id": "x", "session_token": None},
        ),
    ],
)
def test_settings_are_read_as_aws_tools_read_them(
    options: dict[str, str], environ: dict[str, str], expected: dict[str, Any]
) -> None:
    read = S3Settings.read("bucket", "/a/prefix/", options, environ)
    assert read.url == "s3://bucket/a/prefix"
    assert {name: getattr(read, name) for name in expected} == expected


def test_a_bucket_with_dots_is_named_in_the_path() -> None:
    assert S3Settings.read("my.bucket", "", {}, {}).addressing == "path"


def test_other_errors_name_the_object(lying_s3: LyingS3) -> None:
    store = open_store(lying_s3.options())
    with pytest.raises(ObjectMissing, match=r"s3://backups/here: a/b is not there"):
        store.get("a/b")

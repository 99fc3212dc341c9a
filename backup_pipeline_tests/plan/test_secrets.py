"""A plan names where secrets are; it never holds or prints one."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

import pytest

from backup_pipeline.engine.errors import BackupError, KeyMissing, PlanError, UsageError
from backup_pipeline.plan import Plan, load_plan

SECRET = "hunter2-correct-horse"


def source_text(source: str) -> str:
    return plan_text(datasets=f"[{{asset: a, source: {source}}}]")


def plan_text(**parts: str) -> str:
    lines = {
        "stores": "{local: /srv/b}",
        "datasets": "[{asset: a, source: /d}]",
        **parts,
    }
    return "start: 2026-11-22\n" + "".join(f"{key}: {value}\n" for key, value in lines.items())


@pytest.mark.parametrize(
    "text",
    [
        plan_text(keys=f"{{main: {{passphrase: {SECRET}}}}}"),
        plan_text(keys=f"{{main: {{key_file: {SECRET}}}}}"),
        plan_text(keys=f"{{main: {SECRET}}}"),
        plan_text(keys=f"{{main: {{passphrase: {{env: X, default: {SECRET}}}}}}}"),
        plan_text(keys=f"{{main: {{passphrase: {{env: {SECRET}}}}}}}"),
        plan_text(keys=f"{{main: {{passphrase: [{SECRET}]}}}}"),
        plan_text(keys=f"{{main: {{passphrase: *{SECRET}}}}}"),
        plan_text(stores=f"{{local: {{url: s3://b, secret_access_key: {SECRET}}}}}"),
        plan_text(stores=f"{{local: {{url: s3://b, session_token: {SECRET}}}}}"),
        plan_text(stores=f"{{local: 's3://key:{SECRET}@bucket/p'}}"),
        plan_text(stores=f"{{local: {{url: 's3://{SECRET}@bucket/p'}}}}"),
        source_text(f"'s3://key:{SECRET}@bucket/p'"),
        source_text(f"{{postgres: {{dsn: 'postgresql://u:{SECRET}@db/x'}}}}"),
        source_text(f"{{postgres: {{dsn: 'host=db password={SECRET}'}}}}"),
        source_text(f"{{postgres: {{dsn: {{env: DSN}}, password: {SECRET}}}}}"),
        source_text(f"{{nats: {{auth: {{token: {SECRET}}}}}}}"),
        source_text(f"{{sqlite: {{password: {{env: X, default: {SECRET}}}}}}}"),
        source_text(f"{{objects: {{url: s3://b, secret_access_key: {SECRET}}}}}"),
    ],
)
def test_a_secret_in_the_plan_is_refused_and_not_repeated(text: str, tmp_path: Path) -> None:
    file = tmp_path / "backup.yaml"
    file.write_text(text)
    try:
        load_plan(file, environ={})
    except PlanError as error:
        assert SECRET not in str(error)
        assert SECRET not in repr(error.problems)
        assert SECRET not in "".join(traceback.format_exception(error))
        assert error.problems[0].line is not None
    else:
        pytest.fail("the secret was taken")


def load(**parts: Any) -> Plan:
    document = {
        "start": "2026-11-22",
        "stores": {"local": "/srv/b"},
        "datasets": [{"asset": "a", "source": "/d"}],
    }
    return load_plan({**document, **parts}, environ={})


def test_a_passphrase_comes_from_the_environment_when_it_is_needed() -> None:
    plan = load()
    assert plan.keys["main"].resolve({"BACKUP_PASSPHRASE": SECRET}) == (
        "passphrase",
        SECRET.encode(),
    )
    for environ in ({}, {"BACKUP_PASSPHRASE": ""}):
        with pytest.raises(KeyMissing, match="export BACKUP_PASSPHRASE") as caught:
            plan.keys["main"].resolve(environ)
        assert caught.value.exit_code == 2


def test_a_passphrase_file_may_end_with_a_line_break(tmp_path: Path) -> None:
    file = tmp_path / "passphrase"
    file.write_text(f"{SECRET}\n")
    plan = load(keys={"main": {"passphrase": {"file": str(file)}}})
    assert plan.keys["main"].resolve({})[1] == SECRET.encode()
    file.unlink()
    with pytest.raises(KeyMissing, match="is missing"):
        plan.keys["main"].resolve({})


def test_a_key_file_is_read_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "backup.key"
    file.write_bytes(b"\xff\x00key\n")
    key = load(keys={"main": {"key_file": {"file": str(file)}}}).keys["main"]
    assert key.resolve({}) == ("key_file", b"\xff\x00key\n")
    in_variable = load(keys={"main": {"key_file": {"env": "KEY"}}}).keys["main"]
    assert in_variable.resolve({"KEY": "abc"}) == ("key_file", b"abc")
    file.write_bytes(b"")
    with pytest.raises(KeyMissing, match="missing or empty"):
        key.resolve({})


def test_store_credentials_are_looked_up_and_never_shown() -> None:
    store = {
        "url": "s3://b/p",
        "region": "eu-west-1",
        "access_key_id": {"env": "KEY_ID"},
        "secret_access_key": {"env": "SECRET"},
    }
    plan = load(stores={"local": store})
    spec = plan.stores["local"]
    environ = {"KEY_ID": "id", "SECRET": SECRET}
    assert spec.options(environ) == {
        "url": "s3://b/p",
        "region": "eu-west-1",
        "access_key_id": "id",
        "secret_access_key": SECRET,
    }
    assert SECRET not in repr(plan) + repr(spec) + spec.display_url + str(plan.document)
    with pytest.raises(UsageError, match="secret_access_key of store local, is not set"):
        spec.options({"KEY_ID": "id"})


@pytest.mark.parametrize(
    ("url", "says"),
    [
        (f"s3://key:{SECRET}@bucket", "holds no credentials"),
        ("ftp://host", "unknown kind of store"),
        ("relative/path", "not absolute"),
        ("", "is not set"),
    ],
)
def test_a_url_from_outside_is_checked_when_it_is_used(url: str, says: str) -> None:
    spec = load(stores={"local": {"url": {"env": "URL"}}}).stores["local"]
    with pytest.raises(BackupError, match=says) as caught:
        spec.options({"URL": url})
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    assert spec.options({"URL": "file:///srv/x"}) == {"url": "file:///srv/x"}

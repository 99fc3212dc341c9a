"""Opening stores by URL."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from backup_pipeline.engine.errors import UsageError
from backup_pipeline.engine.store import open_store


def test_paths_and_file_urls_open_the_same_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "my backups"
    open_store(target).put("a", b"1")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    specs: list[Any] = [
        str(target),
        "my backups",
        "~/my backups",
        target.as_uri(),
        f"file://localhost{str(target).replace(' ', '%20')}",
        {"url": str(target)},
        {"url": target, "region": None},
    ]
    for spec in specs:
        store = open_store(spec)
        assert bytes(store.get("a")) == b"1", spec
        assert store.url == target.as_uri()


def test_memory_is_shared_by_name() -> None:
    open_store("memory://shared").put("a", b"1")
    assert open_store("memory://shared").exists("a")
    assert not open_store("memory://shared/other").exists("a")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("", "needs a url"),
        ({}, "needs a url"),
        ({"region": "eu-west-1"}, "needs a url"),
        ("ftp://host/path", "ftp:// are not known"),
        ("gs://bucket/path", "gs:// are not known"),
        ("file://srv/backups", "no absolute path"),
        ({"url": "/srv/backups", "region": "eu-west-1"}, "takes no option region"),
        ({"url": "memory://x", "endpoint": "http://x"}, "takes no option endpoint"),
        ("s3://AKIA:SECRET@bucket/prefix", "holds more than a place"),
        ("s3://bucket/prefix?secret=SECRET", "holds more than a place"),
        ("s3:///prefix", "no name of a bucket"),
        ("s3://My_Bucket/prefix", "no name of a bucket"),
        ("s3://bucket/a//b", "prefix cannot be used"),
        ("s3://bucket/../b", "prefix cannot be used"),
        ("s3://bucket/a*b", "prefix cannot be used"),
        ({"url": "s3://bucket", "regoin": "eu-west-1"}, "unknown option regoin"),
        ({"url": "s3://bucket", "access_key_id": "A"}, "go together"),
        ({"url": "s3://bucket", "secret_access_key": "SECRET"}, "go together"),
        ({"url": "s3://bucket", "endpoint": "localhost:9000"}, "no http or https address"),
        ({"url": "s3://bucket", "endpoint": "http://A:SECRET@x"}, "no http or https address"),
        ({"url": "s3://bucket", "addressing": "dns"}, "addressing 'dns' is not known"),
    ],
)
def test_what_cannot_be_a_store_is_refused(spec: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        open_store(spec)
    assert "SECRET" not in str(caught.value)
    assert caught.value.hint


def test_a_local_store_loads_neither_s3_nor_boto3() -> None:
    program = (
        "import sys; from backup_pipeline.engine.store import open_store; "
        "open_store('/nowhere').list_names(''); "
        "print([n for n in ('obstore','boto3','pyarrow','pandas','dagster') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr

"""Objects restored into a bucket again, with all that they had."""

from __future__ import annotations

import json
import os
import random
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from backup_pipeline.engine.errors import StoreUnavailable, UsageError
from backup_pipeline.engine.store import uploads
from backup_pipeline.plan import load_plan
from backup_pipeline.runner import Runner
from backup_pipeline.s3_server import S3Server
from backup_pipeline_tests.sources.test_objects import ODD

pytestmark = pytest.mark.services

PLAN = """
start: 2026-11-10
encryption: none
stores: {{local: {store}}}
datasets:
- asset: lake
  source: {{objects: {{url: "{url}", tags: true}}}}
- {{asset: tables, source: {files}}}
"""


class Place:
    """A prefix of one bucket, as it looks from outside."""

    def __init__(self, server: S3Server, prefix: str) -> None:
        self.client: Any = server.client()
        self.prefix = prefix
        self.url = f"s3://lake/{prefix}"

    def put(self, name: str, content: bytes, **properties: Any) -> None:
        key = f"{self.prefix}/{name}"
        self.client.put_object(Bucket="lake", Key=key, Body=content, **properties)

    def put_in_parts(self, name: str, *contents: bytes, **properties: Any) -> None:
        where = {"Bucket": "lake", "Key": f"{self.prefix}/{name}"}
        upload = self.client.create_multipart_upload(**where, **properties)["UploadId"]
        parts = [
            {
                "PartNumber": number,
                "ETag": self.client.upload_part(
                    **where, UploadId=upload, PartNumber=number, Body=content
                )["ETag"],
            }
            for number, content in enumerate(contents, 1)
        ]
        done = {"UploadId": upload, "MultipartUpload": {"Parts": parts}}
        self.client.complete_multipart_upload(**where, **done)

    def all(self) -> dict[str, tuple[Any, ...]]:
        found: dict[str, tuple[Any, ...]] = {}
        pages = self.client.get_paginator("list_objects_v2")
        for page in pages.paginate(Bucket="lake", Prefix=f"{self.prefix}/"):
            for one in page.get("Contents", ()):
                where = {"Bucket": "lake", "Key": one["Key"]}
                got = self.client.get_object(**where)
                tags = self.client.get_object_tagging(**where)["TagSet"]
                names = ("ContentType", "ContentEncoding", "CacheControl", "ContentDisposition")
                found[one["Key"].removeprefix(f"{self.prefix}/")] = (
                    got["Body"].read(),
                    *(got.get(name) for name in (*names, "ContentLanguage")),
                    got["Metadata"],
                    sorted((tag["Key"], tag["Value"]) for tag in tags),
                )
        return found


@pytest.fixture
def places(
    s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Place, Place, Path]]:
    """A prefix that is full, one that is empty, and the plan."""
    for name, value in s3_server.environ().items():
        monkeypatch.setenv(name, value)
    base = secrets.token_hex(6)
    full, empty = Place(s3_server, f"{base}/full"), Place(s3_server, f"{base}/empty")
    files = tmp_path / "files"
    (files / "deep").mkdir(parents=True)
    (files / "deep" / "one").write_bytes(b"1")
    (files / "deep" / "locked").write_bytes(b"2")
    (files / "deep" / "locked").chmod(0)
    (files / "link").symlink_to("deep/one")
    plan = tmp_path / "backup.yaml"
    plan.write_text(PLAN.format(store=tmp_path / "store", url=full.url, files=files))
    yield full, empty, plan
    for place in (full, empty):
        place.client.close()


def test_everything_that_objects_had_comes_back(
    places: tuple[Place, Place, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    full, empty, plan = places
    monkeypatch.setattr(uploads, "PART_BYTES", 6 << 20)
    for name in [*ODD, "empty"]:
        full.put(name, name.encode() if name != "empty" else b"")
    full.put("folder/", b"")
    full.put(
        "rich.csv",
        b"\x1f\x8b",
        ContentType="text/csv",
        ContentEncoding="gzip",
        CacheControl="max-age=60",
        ContentDisposition='attachment; filename="a.csv"',
        ContentLanguage="de",
        Metadata={"owner": "lake"},
        Tagging="team=a%20b&cost=low",
    )
    full.put("large", random.Random(1).randbytes((13 << 20) + 7))
    first, last = random.Random(2).randbytes(5 << 20), b"the last part"
    full.put_in_parts("parts", first, last, Metadata={"owner": "lake"}, ContentType="a/b")
    with Runner(load_plan(plan)) as runner:
        runner.backup("lake")
        assert runner.backup("lake").snapshot.read_bytes == 0
        planned = runner.restore("lake", empty.url, dry_run=True)
        assert (planned.written_files, empty.all()) == (len(ODD) + 5, {})
        report = runner.restore("lake", f"{empty.url}/")
        assert report.ok, report
        assert report.written_files == len(ODD) + 5
        assert empty.all() == full.all()
        assert len(full.all()) == len(ODD) + 5

        # A second time nothing is written but what is not right; what is there besides stays.
        empty.put("rich.csv", b"\x1f\x8b", ContentType="text/plain")
        empty.put("a b", b"spoiled")
        empty.put("besides", b"stays")
        report = runner.restore("lake", empty.url)
        # The etags of two tell of other parts than they came in, so they are stored again.
        assert (report.written_files, report.replaced_files) == (4, 4)
        there = empty.all()
        assert there.pop("besides")[0] == b"stays"
        assert there == full.all()


def test_files_become_objects_and_what_a_bucket_cannot_hold_is_said(
    places: tuple[Place, Place, Path],
) -> None:
    _, empty, plan = places
    with Runner(load_plan(plan)) as runner:
        runner.backup("tables")
        report = runner.restore("tables", empty.url, include=("deep/**",))
    assert report.ok
    assert {name: row[0] for name, row in empty.all().items()} == {
        "deep/one": b"1",
        "deep/locked": b"2",
    }


def test_the_command_line_restores_into_a_bucket_from_the_store_alone(
    places: tuple[Place, Place, Path], tmp_path: Path
) -> None:
    full, empty, plan = places
    full.put("a", b"1", ContentType="text/csv")
    with Runner(load_plan(plan)) as runner:
        runner.backup("lake")
    store = str(tmp_path / "store")
    command = [sys.executable, "-m", "backup_pipeline", "restore", "lake", "--store", store]
    command += ["--encryption", "none", "--json", "--to", empty.url]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["written_files"] == 1
    assert empty.all() == full.all()


def test_a_bucket_that_cannot_be_written_to_is_one_clear_error(
    places: tuple[Place, Place, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    full, empty, plan = places
    full.put("a", b"1")
    with Runner(load_plan(plan)) as runner:
        runner.backup("lake")
        with pytest.raises(StoreUnavailable, match="there is no bucket 'no-such-bucket'"):
            runner.restore("lake", "s3://no-such-bucket/x")
        with pytest.raises(UsageError, match="ftp://somewhere/x is no place to restore to"):
            runner.restore("lake", "ftp://somewhere/x")
        with pytest.raises(UsageError, match="is a bucket"):
            runner.restore_in_place("lake", empty.url)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not it")
        with pytest.raises(StoreUnavailable, match="access refused"):
            runner.restore("lake", empty.url)
    assert empty.all() == {}


def test_what_the_server_holds_is_compared_with_what_was_sent(
    places: tuple[Place, Place, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    full, empty, plan = places
    full.put("a", b"right")
    full.put("b", b"right too")
    real = uploads.Uploads._whole

    def spoiled(self: uploads.Uploads, key: str, content: bytes, more: Any) -> str:
        etag = real(self, key, content, more)
        return real(self, key, b"wrong", more) if key.endswith("/a") else etag

    monkeypatch.setattr(uploads.Uploads, "_whole", spoiled)
    with Runner(load_plan(plan)) as runner:
        runner.backup("lake")
        report = runner.restore("lake", empty.url)
    assert (report.ok, report.written_files, report.damage_count) == (False, 1, 1)
    assert report.damage[0]["path"] == "a"

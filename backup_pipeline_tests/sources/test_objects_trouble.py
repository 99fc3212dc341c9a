"""What goes wrong with a bucket while it is backed up: one clear error, and nothing lost before."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

from backup_pipeline.engine.errors import SourceError
from backup_pipeline.engine.operations.restore import restore
from backup_pipeline.s3_server import S3Server
from backup_pipeline.sources.bucket import Bucket
from backup_pipeline.sources.objects import ObjectsSource
from backup_pipeline_tests.sources.test_objects_backup import Kept

pytestmark = pytest.mark.services


@pytest.fixture
def kept(s3_server: S3Server) -> Iterator[Kept]:
    """A bucket of its own with one snapshot, and thirty objects more since."""
    bucket = f"trouble-{secrets.token_hex(4)}"
    client: Any = s3_server.client()
    client.create_bucket(Bucket=bucket)
    found = Kept(s3_server, bucket)
    for number in range(5):
        found.put(f"first/{number}", b"%d" % number)
    assert found.back_up().status == "complete"
    for number in range(30):
        found.put(f"more/{number:02d}", b"more %d" % number)
    yield found
    found.client.close()
    client.close()


def at_the_first_read(monkeypatch: pytest.MonkeyPatch, act: Callable[[], None]) -> None:
    """Let something happen once the listing is done and reading begins."""
    real, once = Bucket.read, iter([True])

    def then(bucket: Bucket, *wanted: Any) -> Any:
        if next(once, False):
            act()
        return real(bucket, *wanted)

    monkeypatch.setattr(Bucket, "read", then)
    monkeypatch.setattr("backup_pipeline.sources.ahead._THREADS", 1)


def the_first_snapshot_is_whole(kept: Kept, folder: Path) -> None:
    (snapshot,) = kept.repository.snapshots()
    assert restore(kept.repository, snapshot, folder).ok
    assert {path.name: path.read_bytes() for path in (folder / "first").iterdir()} == {
        str(number): b"%d" % number for number in range(5)
    }


def test_credentials_revoked_midway_end_the_run(
    kept: Kept, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    iam: Any = boto3.client(
        "iam",
        endpoint_url=s3_server.endpoint,
        region_name=s3_server.region,
        aws_access_key_id=s3_server.access_key,
        aws_secret_access_key=s3_server.secret_key,
    )
    name = f"reader-{secrets.token_hex(3)}"
    iam.create_user(UserName=name)
    resources = [f"arn:aws:s3:::{kept.bucket}", f"arn:aws:s3:::{kept.bucket}/*"]
    statement = {"Effect": "Allow", "Action": ["s3:Get*", "s3:List*"], "Resource": resources}
    iam.put_user_policy(
        UserName=name,
        PolicyName="read",
        PolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [statement]}),
    )
    key = iam.create_access_key(UserName=name)["AccessKey"]
    admin = kept.options
    kept.options = {
        **admin,
        "access_key_id": key["AccessKeyId"],
        "secret_access_key": key["SecretAccessKey"],
    }

    def refused() -> bool:
        try:
            list(ObjectsSource(kept.options).scan())
        except SourceError:
            return True
        return False

    def wait_until(wanted: bool) -> None:
        ends_at = time.monotonic() + 20
        while refused() is not wanted:
            assert time.monotonic() < ends_at, "the server does not take note"

    def revoke() -> None:
        iam.delete_access_key(UserName=name, AccessKeyId=key["AccessKeyId"])
        wait_until(True)

    wait_until(False)
    with monkeypatch.context() as patch:
        at_the_first_read(patch, revoke)
        with pytest.raises(SourceError, match="access refused") as caught:
            kept.back_up()
    assert key["SecretAccessKey"] not in str(caught.value)
    the_first_snapshot_is_whole(kept, tmp_path / "first")
    kept.options = admin
    kept.newest = kept.repository.snapshots()[-1]
    assert kept.back_up().status == "complete"
    assert len(kept.rows()) == 35
    iam.close()


def test_a_bucket_that_is_gone_midway_ends_the_run(
    kept: Kept, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def drop() -> None:
        for page in kept.client.get_paginator("list_objects_v2").paginate(Bucket=kept.bucket):
            for one in page.get("Contents", ()):
                kept.client.delete_object(Bucket=kept.bucket, Key=one["Key"])
        kept.client.delete_bucket(Bucket=kept.bucket)

    at_the_first_read(monkeypatch, drop)
    with pytest.raises(SourceError, match="there is no bucket"):
        kept.back_up()
    with pytest.raises(SourceError, match="there is no bucket"):
        kept.back_up()
    the_first_snapshot_is_whole(kept, tmp_path / "first")


def test_a_prefix_that_was_emptied_is_no_empty_dataset(kept: Kept, tmp_path: Path) -> None:
    for page in kept.client.get_paginator("list_objects_v2").paginate(Bucket=kept.bucket):
        for one in page.get("Contents", ()):
            kept.client.delete_object(Bucket=kept.bucket, Key=one["Key"])
    with pytest.raises(SourceError, match="there is nothing below"):
        kept.back_up()
    the_first_snapshot_is_whole(kept, tmp_path / "first")


@pytest.mark.faults
def test_many_keys_cost_a_listing_for_each_thousand_and_no_download_when_unchanged(
    s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counts requests, not time: 1,000 keys a page, and nothing else for what did not change."""
    from concurrent.futures import ThreadPoolExecutor

    import obstore

    kept = Kept(s3_server, "lake")
    store = ObjectsSource({**kept.options, "url": "s3://lake"})._bucket._obstore

    def put(number: int) -> None:
        name = f"{kept.prefix}{number % 100:02d}/{number:05d}"
        obstore.put(store, name, b"%d" % number, use_multipart=False)

    with ThreadPoolExecutor(32) as pool:
        list(pool.map(put, range(20_000)))
    snapshot = kept.back_up()
    assert (snapshot.status, snapshot.files) == ("complete", 20_000)
    requests: list[str] = []
    real = Bucket._paged

    def counted(bucket: Bucket, listing: str, prefix: str) -> Iterator[Any]:
        for page in real(bucket, listing, prefix):
            requests.append(listing)
            yield page

    def never(*_: Any) -> Any:
        raise AssertionError("content was read")

    monkeypatch.setattr(Bucket, "_paged", counted)
    monkeypatch.setattr(Bucket, "read", never)
    assert kept.back_up().read_bytes == 0
    assert len(requests) in (20, 21)
    assert ObjectsSource(kept.options).fingerprint() == snapshot.fingerprint

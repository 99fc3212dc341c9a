"""Objects through the engine: what is read again, what is told, and what comes back."""

from __future__ import annotations

import random
import secrets
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from backup_pipeline.engine.format.record import Snapshot
from backup_pipeline.engine.keys import PLAINTEXT
from backup_pipeline.engine.operations.backup import backup
from backup_pipeline.engine.operations.restore import restore
from backup_pipeline.engine.repository import Repository, unlock_store
from backup_pipeline.engine.store.memory import MemoryStore
from backup_pipeline.s3_server import S3Server
from backup_pipeline.sources.ahead import PART_BYTES
from backup_pipeline.sources.bucket import Bucket
from backup_pipeline.sources.objects import ObjectsSource

pytestmark = pytest.mark.services


class Kept:
    """A prefix full of objects, and a repository that keeps them."""

    def __init__(self, server: S3Server, bucket: str) -> None:
        self.client: Any = server.client()
        self.bucket = bucket
        self.prefix = f"{secrets.token_hex(6)}/"
        self.options = server.options(f"s3://{bucket}/{self.prefix}")
        unlocked = unlock_store(MemoryStore(), [PLAINTEXT], create=True)
        self.repository: Repository = unlocked.create("lake/events", tier="local")
        self.newest: Snapshot | None = None

    def put(self, name: str, content: bytes, **properties: Any) -> None:
        key = self.prefix + name
        self.client.put_object(Bucket=self.bucket, Key=key, Body=content, **properties)

    def back_up(self) -> Snapshot:
        """A full first, then incrementals."""
        self.newest = backup(
            self.repository,
            ObjectsSource(self.options),
            day=datetime.now(UTC).date(),
            kind="incremental" if self.newest else "full",
            parent=self.newest,
        )
        return self.newest

    def rows(self) -> dict[str, dict[str, Any]]:
        assert self.newest is not None
        table = self.repository.manifest(self.newest).table
        return {row["path"].decode(): row for row in table.to_pylist()}


@pytest.fixture
def kept(s3_server: S3Server) -> Iterator[Kept]:
    found = Kept(s3_server, "lake")
    yield found
    found.client.close()


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each object's bytes were asked for, by the last part of its key."""
    counted: Counter[str] = Counter()
    real = Bucket.read

    def counting(bucket: Bucket, key: str, *rest: Any) -> Any:
        counted[key.rpartition("/")[2]] += 1
        return real(bucket, key, *rest)

    monkeypatch.setattr(Bucket, "read", counting)
    return counted


def test_objects_come_back_as_files_with_all_their_bytes(kept: Kept, tmp_path: Path) -> None:
    contents = {
        f"{number % 9}/{number:03d}": random.Random(number).randbytes(number * 97)
        for number in range(300)
    }
    contents["large"] = random.Random(0).randbytes(3 * PART_BYTES + 5)
    for name, content in contents.items():
        kept.put(name, content)
    kept.put("empty/folder/", b"")
    snapshot = kept.back_up()
    assert snapshot.status == "complete"
    assert snapshot.files == len(contents)
    assert snapshot.bytes == snapshot.read_bytes == sum(map(len, contents.values()))
    assert restore(kept.repository, snapshot, tmp_path / "restored").ok
    restored = tmp_path / "restored"
    found = {
        path.relative_to(restored).as_posix(): path.read_bytes()
        for path in restored.rglob("*")
        if path.is_file()
    }
    assert found == contents
    assert (restored / "empty" / "folder").is_dir()


def test_unchanged_objects_are_never_read_again(kept: Kept, reads: Counter[str]) -> None:
    for number in range(30):
        kept.put(f"{number:02d}", b"content %d" % number)
    kept.back_up()
    assert reads == {f"{number:02d}": 1 for number in range(30)}
    reads.clear()
    snapshot = kept.back_up()
    assert reads == {}
    assert snapshot.read_bytes == 0
    kept.put("07", b"changed")
    kept.put("30", b"added")
    kept.client.delete_object(Bucket="lake", Key=f"{kept.prefix}11")
    kept.back_up()
    assert reads == {"07": 1, "30": 1}
    assert sorted(kept.rows()) == [f"{number:02d}" for number in range(31) if number != 11]


def test_properties_and_marks_are_in_the_manifest(kept: Kept) -> None:
    kept.put("a.csv", b"1,2", ContentType="text/csv", Metadata={"owner": "lake"})
    kept.back_up()
    (row,) = kept.rows().values()
    (found,) = kept.client.list_objects_v2(Bucket="lake", Prefix=kept.prefix)["Contents"]
    assert row["type"] == "object"
    assert row["content_type"] == "text/csv"
    assert row["metadata"] == [{"name": "owner", "value": "lake"}]
    assert row["etag"] == found["ETag"].strip('"')
    assert row["mtime_ns"] == int(found["LastModified"].timestamp() * 1000) * 1_000_000


@pytest.mark.parametrize("size", [50, 5_000_000])
def test_an_object_replaced_between_listing_and_reading_is_kept_as_it_is_now(
    kept: Kept, monkeypatch: pytest.MonkeyPatch, reads: Counter[str], size: int
) -> None:
    kept.put("a", b"x" * size)
    kept.put("b", b"other")
    counting, replaced = Bucket.read, iter([True])

    def replaced_meanwhile(bucket: Bucket, key: str, *rest: Any) -> Any:
        if key.endswith("/a") and next(replaced, False):
            kept.put("a", b"y" * size)
        return counting(bucket, key, *rest)

    monkeypatch.setattr(Bucket, "read", replaced_meanwhile)
    assert kept.back_up().status == "complete"
    reads.clear()
    assert kept.back_up().read_bytes == 0
    assert reads == {}


def test_one_unreadable_object_makes_the_snapshot_incomplete_and_is_named(
    s3_server: S3Server,
) -> None:
    bucket = f"guarded-{secrets.token_hex(4)}"
    client: Any = s3_server.client()
    client.create_bucket(Bucket=bucket)
    kept = Kept(s3_server, bucket)
    for name in ("open", "secret"):
        kept.put(name, name.encode())
    resource = f"arn:aws:s3:::{bucket}/{kept.prefix}secret"
    policy = (
        '{"Version":"2012-10-17","Statement":[{"Effect":"Deny","Principal":"*",'
        f'"Action":"s3:GetObject","Resource":"{resource}"}}]}}'
    )
    client.put_bucket_policy(Bucket=bucket, Policy=policy)
    try:
        snapshot = kept.back_up()
    finally:
        client.delete_bucket_policy(Bucket=bucket)
    assert snapshot.status == "incomplete"
    assert (snapshot.entries, snapshot.good_entries, snapshot.problem_count) == (2, 1, 1)
    (problem,) = snapshot.problems
    assert problem["path"] == "secret"
    assert "unreadable: access refused" in problem["reason"]
    # Once it can be read it is, and nothing else is read again.
    assert kept.back_up().status == "complete"
    assert kept.rows()["secret"]["state"] == "good"

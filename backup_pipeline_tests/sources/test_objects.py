"""The source of objects under an S3 prefix, on a real server."""

from __future__ import annotations

import random
import secrets
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from typing import Any

import pyarrow as pa
import pytest

from backup_pipeline.engine.errors import DayUnavailable, SourceError, UsageError
from backup_pipeline.engine.format.manifest import check_paths
from backup_pipeline.s3_server import S3Server
from backup_pipeline.sources import ahead, open_source
from backup_pipeline.sources import objects as module
from backup_pipeline.sources.ahead import PART_BYTES
from backup_pipeline.sources.base import Details, Unreadable, scan_schema
from backup_pipeline.sources.bucket import Bucket, Listed, Part
from backup_pipeline.sources.objects import ObjectsSource

pytestmark = pytest.mark.services

AWKWARD = ["a/x/y", "a-b/c", "a-b.c", "a.b/z", "b/1", "b.c", "b0", "c/d/e/f", "c/d-e", "Ä/ö", "~"]
ODD = ["%41", "a b", "a#b", "a*b?", "[x]", "it's", "ünïcode/☃", "q{}|", "tab\there", "a~b", "+=&"]


class Lake:
    """A fresh prefix and what is put there."""

    def __init__(self, server: S3Server) -> None:
        self.server = server
        self.client: Any = server.client()
        self.prefix = f"{secrets.token_hex(6)}/events"
        self.options = server.options(f"s3://lake/{self.prefix}")

    def put(self, name: str, content: bytes = b"", **properties: Any) -> None:
        self.client.put_object(
            Bucket="lake", Key=f"{self.prefix}/{name}", Body=content, **properties
        )

    def delete(self, name: str) -> None:
        self.client.delete_object(Bucket="lake", Key=f"{self.prefix}/{name}")

    def source(self, **options: Any) -> ObjectsSource:
        return ObjectsSource(self.options, **options)


@pytest.fixture
def lake(s3_server: S3Server) -> Iterator[Lake]:
    found = Lake(s3_server)
    yield found
    found.client.close()


def rows_of(source: ObjectsSource) -> list[dict[str, Any]]:
    return pa.Table.from_batches(list(source.scan())).to_pylist()


def read(
    source: ObjectsSource, row: dict[str, Any], buffer_bytes: int = 1 << 20
) -> tuple[bytes, Details]:
    reader = source.open(row["path"], row["type"], etag=row["etag"])
    whole, buffer = bytearray(), bytearray(buffer_bytes)
    while count := reader.read_into(memoryview(buffer)):
        whole += buffer[:count]
    return bytes(whole), reader.finish()


def announce(source: ObjectsSource, rows: list[dict[str, Any]]) -> None:
    source.prefetch([(row["path"], row["size"], row["etag"]) for row in rows])


def test_a_scan_lists_every_object_once_in_order(lake: Lake) -> None:
    for name in random.Random(2).sample(AWKWARD, len(AWKWARD)):
        lake.put(name, name.encode())
    lake.client.put_object(Bucket="lake", Key=f"{lake.prefix}-other/x", Body=b"not ours")
    for page_size in (None, 3):
        rows = rows_of(lake.source(page_size=page_size))
        assert [row["path"] for row in rows] == sorted(name.encode() for name in AWKWARD)
        assert {row["type"] for row in rows} == {"object"}
        assert {row["state"] for row in rows} == {"good"}
        assert all(row["size"] == len(row["path"]) for row in rows)
        assert all(row["etag"] and row["mtime_ns"] for row in rows)
        assert all(row["inode"] is row["mode"] is row["version_id"] is None for row in rows)


def test_more_objects_than_a_page_are_listed_and_read(lake: Lake) -> None:
    names = [f"{number % 7}/{number:05d}" for number in range(2300)]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda name: lake.put(name, name.encode()), names))
    source = lake.source()
    rows = rows_of(source)
    assert [row["path"].decode() for row in rows] == sorted(names)
    announce(source, rows)
    for row in rows:
        content, details = read(source, row)
        assert content == row["path"]
        assert details.steady


@pytest.mark.parametrize("announced", [True, False], ids=["announced", "not announced"])
def test_bytes_of_every_size_come_back(lake: Lake, announced: bool) -> None:
    sizes = [0, 1, 1000, PART_BYTES - 1, PART_BYTES, PART_BYTES + 1]
    sizes.append(5 * PART_BYTES + 12345)
    contents = {f"{size:09d}": random.Random(size).randbytes(size) for size in sizes}
    for name, content in contents.items():
        lake.put(name, content)
    source = lake.source()
    rows = rows_of(source)
    if announced:
        announce(source, rows)
    for row in rows:
        content, details = read(source, row, 1_000_003)
        assert content == contents[row["path"].decode()]
        assert details.steady
        assert details.size == row["size"]
        assert details.mark.items() <= row.items()


def test_content_type_and_metadata_are_kept(lake: Lake) -> None:
    for name in ("plain.csv", "odd#.csv"):
        lake.put(
            name,
            b"raw \x1f\x8b bytes",
            ContentType="text/csv; charset=utf-8",
            ContentEncoding="gzip",
            CacheControl="no-cache",
            Metadata={"owner": "lake", "run-id": "42"},
        )
    source = lake.source()
    for row in rows_of(source):
        content, details = read(source, row)
        assert content == b"raw \x1f\x8b bytes"
        assert details.content_type == "text/csv; charset=utf-8"
        assert details.metadata == (
            (":cache-control", "no-cache"),
            (":content-encoding", "gzip"),
            ("owner", "lake"),
            ("run-id", "42"),
        )
        assert details.mark == {}


def test_keys_of_any_characters_are_read(lake: Lake) -> None:
    for name in ODD:
        lake.put(name, name.encode())
    lake.put("large#", bytes(PART_BYTES + 1))
    source = lake.source()
    rows = rows_of(source)
    assert [row["path"] for row in rows] == sorted(name.encode() for name in [*ODD, "large#"])
    announce(source, rows)
    for row in rows:
        content, details = read(source, row)
        assert details.steady
        assert len(content) == row["size"]
        assert content == row["path"] or row["path"] == b"large#"


def test_folder_markers_are_recorded_as_folders(lake: Lake) -> None:
    lake.put("")
    lake.put("empty/")
    lake.put("folder/")
    lake.put("folder-a", b"1")
    lake.put("folder/a", b"1")
    source = lake.source()
    rows = rows_of(source)
    assert [(row["path"], row["type"], row["state"]) for row in rows] == [
        (b"empty", "directory", "good"),
        (b"folder", "directory", "good"),
        (b"folder-a", "object", "good"),
        (b"folder/a", "object", "good"),
    ]
    assert read(source, rows[0]) == (b"", Details())


class ListedOnly:
    """A bucket whose listing has keys that this server does not take."""

    def __init__(self, *keys: str, size: int = 1) -> None:
        self.listing = [Listed(key, size, 1_000_000, f"tag of {key}") for key in keys]
        self.read_keys: list[str] = []

    def pages(self, prefix: str) -> Iterator[list[Listed]]:
        yield [listed for listed in self.listing if listed.key.startswith(prefix)]

    def read(self, key: str, etag: str, offset: int, length: int | None) -> Part:
        self.read_keys.append(key)
        return Part(memoryview(b"1"), 1, 1_000_000, etag, None, ())


def source_listing(monkeypatch: pytest.MonkeyPatch, listed: ListedOnly) -> ObjectsSource:
    monkeypatch.setattr(module, "Bucket", lambda *_, **__: listed)
    return ObjectsSource({"url": "s3://bucket/p"})


def test_keys_that_make_no_path_get_one_and_are_read_by_their_key(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keys = ["p//", "p//a", "p/../../etc/passwd", "p/./b", "p/a//b", "p/a/b", "p/c/", "p/d\0"]
    listed = ListedOnly(*keys)
    source = source_listing(monkeypatch, listed)
    rows = rows_of(source)
    assert {row["path"].decode(): row["etag"][7:] for row in rows} == {
        "%/%": "p//",
        "%/a": "p//a",
        "%2E%2E/%2E%2E/etc/passwd": "p/../../etc/passwd",
        "%2E/b": "p/./b",
        "a/%/b": "p/a//b",
        "a/b": "p/a/b",
        "c/%": "p/c/",
        "d%00": "p/d\0",
    }
    check_paths(pa.Table.from_pylist(rows, schema=scan_schema()), "scan")
    for row in rows:
        read(source, row)
    assert sorted(listed.read_keys) == sorted(keys)


def test_two_keys_of_one_path_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    source = source_listing(monkeypatch, ListedOnly("p/a//b", "p/a/%/b"))
    with pytest.raises(SourceError, match="two objects have the same path"):
        list(source.scan())


def test_a_marker_gives_way_to_an_object_of_that_path(monkeypatch: pytest.MonkeyPatch) -> None:
    listed = ListedOnly("p/", "p/a", "p/a/", "p/b/", "p/b/c", size=0)
    rows = rows_of(source_listing(monkeypatch, listed))
    assert [(row["path"], row["type"]) for row in rows] == [
        (b"a", "object"),
        (b"b", "directory"),
        (b"b/c", "object"),
    ]


def test_a_single_object_is_a_dataset_too(lake: Lake) -> None:
    lake.put("model.pkl", b"weights")
    lake.put("model.pkl.md5", b"not ours")
    source = ObjectsSource({**lake.options, "url": f"{lake.options['url']}/model.pkl"})
    rows = rows_of(source)
    assert [row["path"] for row in rows] == [b"model.pkl"]
    announce(source, rows)
    assert read(source, rows[0])[0] == b"weights"
    assert source.describe().endswith("/events/model.pkl")


def test_a_whole_bucket_can_be_read(lake: Lake) -> None:
    lake.client.create_bucket(Bucket="whole-lake")
    lake.client.put_object(Bucket="whole-lake", Key="a/b", Body=b"1")
    source = ObjectsSource({**lake.options, "url": "s3://whole-lake"})
    (row,) = rows_of(source)
    assert row["path"] == b"a/b"
    assert read(source, row)[0] == b"1"


def test_what_is_excluded_is_left_out(lake: Lake) -> None:
    for name in ("a.csv", "a.tmp", "cache/x/y", "b/a.tmp", "b/c"):
        lake.put(name)
    source = open_source("objects", {**lake.options, "exclude": ("**/*.tmp", "cache")})
    assert isinstance(source, ObjectsSource)
    assert [row["path"] for row in rows_of(source)] == [b"a.csv", b"b/c"]


def test_the_fingerprint_follows_content_and_comes_from_the_listing_alone(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any) -> Any:
        raise AssertionError("content was read")

    monkeypatch.setattr(Bucket, "read", never)
    monkeypatch.setattr(Bucket, "newest", never)
    lake.put("a", b"1")
    lake.put("b", b"2")
    seen = [lake.source().fingerprint()]
    assert lake.source(page_size=1).fingerprint() == seen[0]
    edits: list[Callable[[], None]] = [
        lambda: lake.put("a", b"other"),
        lambda: lake.put("c"),
        lambda: lake.delete("c"),
        lambda: lake.put("b", b"3"),
    ]
    for edit in edits:
        edit()
        seen.append(lake.source().fingerprint())
    assert seen[2] != seen[1] != seen[0]
    assert seen[3] == seen[1]
    assert seen[4] not in seen[:4]


def test_an_object_replaced_since_it_was_listed_is_read_as_it_is_now(lake: Lake) -> None:
    for name in ("a", "odd#"):
        lake.put(name, b"listed")
    source = lake.source()
    rows = rows_of(source)
    for name in ("a", "odd#"):
        lake.put(name, b"newer and longer", Metadata={"version": "2"})
    announce(source, rows)
    newest = {row["path"]: row for row in rows_of(lake.source())}
    for row in rows:
        content, details = read(source, row)
        assert content == b"newer and longer"
        assert details.steady
        assert details.size == 16
        assert details.metadata == (("version", "2"),)
        now = newest[row["path"]]
        assert details.mark == {"etag": now["etag"], "mtime_ns": now["mtime_ns"]}


@pytest.mark.parametrize("name", ["large", "large#odd"])
def test_an_object_replaced_while_it_is_read_is_torn_and_then_read_again(
    lake: Lake, name: str
) -> None:
    old, new = (random.Random(seed).randbytes(6 * PART_BYTES) for seed in (1, 2))
    lake.put(name, old)
    source = lake.source()
    (row,) = rows_of(source)
    reader = source.open(row["path"], row["type"], etag=row["etag"])
    buffer = bytearray(1 << 20)
    assert reader.read_into(memoryview(buffer)) == 1 << 20
    lake.put(name, new)
    got = bytearray(buffer)
    while count := reader.read_into(memoryview(buffer)):
        got += buffer[:count]
    details = reader.finish()
    assert not details.steady
    assert len(got) < len(old)
    assert old.startswith(got)
    content, details = read(source, row)
    assert details.steady
    assert content == new


def test_an_object_replaced_at_every_turn_is_unreadable(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake.put("a", b"0")
    source = lake.source()
    (row,) = rows_of(source)
    real, turns = Bucket.read, iter(range(100))

    def replaced_first(bucket: Bucket, *wanted: Any) -> Any:
        lake.put("a", b"turn %d" % next(turns))
        return real(bucket, *wanted)

    monkeypatch.setattr(Bucket, "read", replaced_first)
    lake.put("a", b"begin")
    with pytest.raises(Unreadable, match="again and again") as caught:
        source.open(row["path"], "object", etag=row["etag"])
    assert caught.value.state == "unreadable"


@pytest.mark.parametrize("name", ["a", "odd#"])
def test_an_object_that_is_gone_has_vanished(lake: Lake, name: str) -> None:
    lake.put(name, b"1")
    lake.put("stays", b"2")
    source = lake.source()
    gone, stays = sorted(rows_of(source), key=lambda row: row["path"] == b"stays")
    lake.delete(name)
    announce(source, [gone, stays])
    with pytest.raises(Unreadable, match="gone") as caught:
        source.open(gone["path"], "object", etag=gone["etag"])
    assert caught.value.state == "vanished"
    assert read(source, stays)[0] == b"2"


@pytest.mark.parametrize("name", ["secret", "secret#"])
def test_an_object_that_is_refused_is_unreadable_and_the_others_are_read(
    lake: Lake, name: str
) -> None:
    guarded = f"guarded-{secrets.token_hex(4)}"
    lake.client.create_bucket(Bucket=guarded)
    for key in (name, "open"):
        lake.client.put_object(Bucket=guarded, Key=f"p/{key}", Body=b"1")
    deny = (
        '{"Version":"2012-10-17","Statement":[{"Effect":"Deny","Principal":"*",'
        f'"Action":"s3:GetObject","Resource":"arn:aws:s3:::{guarded}/p/{name}"}}]}}'
    )
    lake.client.put_bucket_policy(Bucket=guarded, Policy=deny)
    try:
        source = ObjectsSource({**lake.options, "url": f"s3://{guarded}/p"})
        rows = {row["path"].decode(): row for row in rows_of(source)}
        with pytest.raises(Unreadable, match="access refused") as caught:
            source.open(name.encode(), "object", etag=rows[name]["etag"])
        assert caught.value.state == "unreadable"
        assert read(source, rows["open"])[0] == b"1"
    finally:
        lake.client.delete_bucket_policy(Bucket=guarded)
        for key in (name, "open"):
            lake.client.delete_object(Bucket=guarded, Key=f"p/{key}")


def test_a_server_that_is_gone_ends_the_reading(lake: Lake) -> None:
    for name in ("a", "odd#"):
        lake.put(name, b"1")
    source = lake.source()
    rows = rows_of(source)
    away = ObjectsSource({**lake.options, "endpoint": "http://127.0.0.1:9"})
    for row in rows:
        with pytest.raises(SourceError, match="did not answer") as caught:
            away.open(row["path"], "object", etag=row["etag"])
        assert caught.value.hint
    with pytest.raises(SourceError, match="did not answer"):
        list(away.scan())


@pytest.mark.parametrize("wrong", ["access_key_id", "secret_access_key"])
def test_wrong_credentials_end_the_reading(lake: Lake, wrong: str) -> None:
    for name in ("a", "odd#"):
        lake.put(name, b"1")
    source = ObjectsSource({**lake.options, wrong: "not-the-right-one"})
    for act in (
        lambda: source.open(b"a", "object", etag="x"),
        lambda: source.open(b"odd#", "object", etag="x"),
        lambda: list(source.scan()),
        source.fingerprint,
    ):
        with pytest.raises(SourceError, match="access refused") as caught:
            act()
        assert lake.options["secret_access_key"] not in str(caught.value)


def test_an_empty_prefix_is_not_taken_for_an_empty_dataset(lake: Lake) -> None:
    with pytest.raises(SourceError, match="there is nothing below s3://lake/"):
        list(lake.source().scan())
    missing = ObjectsSource({**lake.options, "url": "s3://no-such-bucket/x"})
    with pytest.raises(SourceError, match="there is no bucket 'no-such-bucket'"):
        missing.fingerprint()


def test_the_past_is_not_made_up(lake: Lake) -> None:
    with pytest.raises(DayUnavailable, match="on 2026-11-01: versioning is off"):
        lake.source().as_of(date(2026, 11, 1))


@pytest.mark.parametrize(
    "options", [{}, {"url": "/data"}, {"url": "s3://A:SECRET@lake/x"}, {"url": "s3://lake?x=1"}]
)
def test_what_is_no_prefix_is_refused(options: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="is no prefix on S3") as caught:
        ObjectsSource(options)
    assert "SECRET" not in str(caught.value)


def test_reading_ahead_stays_within_its_bounds(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "BYTES_AHEAD", 10_000)
    for number in range(50):
        lake.put(f"{number:02d}", bytes(3000))
    source = lake.source()
    rows = rows_of(source)
    announce(source, rows)
    most = 0
    for row in rows[::3]:
        content, _ = read(source, row)
        assert len(content) == 3000
        most = max(most, source._ahead._begun_bytes)
        assert len(source._ahead._begun) <= 4
    assert 0 < most <= 10_000
    announce(source, [])
    assert source._ahead._begun_bytes == 0

"""Past days of a versioned bucket: the choice, what proves it, and real versions."""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from backup_pipeline.engine.errors import DayUnavailable, SourceError
from backup_pipeline.plan import load_plan
from backup_pipeline.runner import Runner
from backup_pipeline.s3_server import S3Server
from backup_pipeline.sources.base import Source
from backup_pipeline.sources.bucket import Bucket
from backup_pipeline.sources.objects import ObjectsSource
from backup_pipeline.sources.versions import Moment, Version, expired_by_rule, in_order

END = datetime(2026, 11, 21, tzinfo=UTC)
SECOND = 1_000_000_000


def line(text: str, *, sure: bool = True) -> Version:
    """``a=x -5 v1``: a version of key ``a``, 5 s before the day's end; ``a!``: a marker."""
    name, at, version_id = text.split()
    key, _, etag = name.rstrip("!").partition("=")
    moment = (int(END.timestamp()) + int(at)) * SECOND
    marker = name.endswith("!")
    latest = version_id.endswith("*")
    return Version(
        key, version_id.rstrip("*"), moment, 0, None if marker else etag or "e", latest, sure
    )


@pytest.mark.parametrize(
    ("lines", "chosen", "doubt"),
    [
        (["a=x -5 v1*"], ["a=x"], None),
        (["a=y 5 v2*", "a=x -5 v1"], ["a=x"], None),
        (["a=y 0 v2*", "a=x -1 v1"], ["a=x"], None),  # at the instant itself: the next day's
        (["a! -1 v2*", "a=x -5 v1"], [], None),
        (["a! 1 v2*", "a=x -5 v1"], ["a=x"], None),
        (["a=z -1 v3*", "a! -1 v2", "a=x -1 v1"], ["a=z"], None),  # the listing's order decides
        (["a=x -5 v2*", "a=w -3 v1"], ["a=x?"], None),  # uploads that overlapped
        (["a=x 5 v1*"], [], "nothing there shows"),
        (["a=x -5 null*"], ["a=x"], "nothing there shows"),
        (["a=x -5 null*", "b=x -4 v1*"], ["a=x", "b=x"], None),
        (["a=x -5 null*", "b=x -6 v1*"], ["a=x", "b=x"], "nothing there shows"),
        (["a=x 3 null*", "b=x -6 v1*"], ["b=x"], "something was written without a version"),
        (["b=x -6 v1*", "a=x -6 v1*"], ["b=x", "a=x"], "out of order"),
        (["a=x -6 v1"], ["a=x"], "out of order"),  # what is there now is missing
        (["a=x -6 v2*", "b=x -6 v1*", "a=y -6 v0"], ["a=x", "b=x", "a=y"], "out of order"),
    ],
)
def test_what_was_there_at_an_instant(
    lines: list[str], chosen: list[str], doubt: str | None
) -> None:
    moment = Moment(END)
    found = [
        f"{one.key}={one.etag}{'?' if reason else ''}"
        for one, reason in moment.choose(map(line, lines))
    ]
    assert found == chosen
    said = moment.doubt(False)
    assert said == doubt or (said is not None and doubt is not None and doubt in said)
    assert (moment.doubt(True) is None) == (doubt is None or doubt == "nothing there shows")


def test_a_server_that_lists_versions_and_markers_apart_is_put_in_order() -> None:
    versions = [line("a=x -5 v1"), line("b=y -2 v2"), line("c=z -1 v3*")]
    markers = [line("a! -3 m1*"), line("b! -2 m2*")]
    together = in_order(versions, markers, "VVVMM")
    assert [(one.key, one.version_id, one.sure) for one in together] == [
        ("a", "m1", True),
        ("a", "v1", True),
        ("b", "v2", False),
        ("b", "m2", False),
        ("c", "v3", True),
    ]
    reasons = {one.key: reason for one, reason in Moment(END).choose(together)}
    assert list(reasons) == ["b", "c"]
    assert "the order is not known" in str(reasons["b"])
    apart = [line("a! -3 m1*"), line("a=x -5 v1"), line("c=z -1 v3*")]
    assert in_order(apart[1:], apart[:1], "MVV") == apart


@pytest.mark.parametrize(
    ("rule", "days_later", "expired"),
    [
        ({}, 6, None),
        ({}, 7, 7),
        ({"Status": "Disabled"}, 70, None),
        ({"Filter": {"Prefix": "other/"}}, 70, None),
        ({"Filter": {"Prefix": "p/deep/"}}, 70, 7),
        ({"Filter": {"And": {"Prefix": "", "Tags": []}}}, 70, 7),
        ({"Prefix": "p"}, 70, 7),
        (
            {"NoncurrentVersionExpiration": {"NewerNoncurrentVersions": 3, "NoncurrentDays": 1}},
            1,
            1,
        ),
    ],
)
def test_a_lifecycle_rule_may_have_deleted_what_was_there(
    rule: dict[str, Any], days_later: int, expired: int | None
) -> None:
    whole = {"Status": "Enabled", "NoncurrentVersionExpiration": {"NoncurrentDays": 7}, **rule}
    assert expired_by_rule([whole], "p/", END, END + timedelta(days=days_later)) == expired


class Versioned:
    """A bucket that keeps versions, and days that end when a test says so."""

    def __init__(self, server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
        self.server = server
        self.client: Any = server.client()
        self.bucket = f"kept-{secrets.token_hex(4)}"
        self.client.create_bucket(Bucket=self.bucket)
        self.switch("Enabled")
        self.options = server.options(f"s3://{self.bucket}/p")
        self.ends: dict[date, datetime] = {}
        monkeypatch.setattr(Source, "end_of", lambda _, day: self.ends[day])

    def switch(self, status: str) -> None:
        self.client.put_bucket_versioning(
            Bucket=self.bucket, VersioningConfiguration={"Status": status}
        )

    def put(self, name: str, content: bytes, **properties: Any) -> None:
        key = f"p/{name}"
        self.client.put_object(Bucket=self.bucket, Key=key, Body=content, **properties)

    def delete(self, name: str) -> None:
        self.client.delete_object(Bucket=self.bucket, Key=f"p/{name}")

    def end(self, day: date) -> None:
        """Let a day end with the second that is under way."""
        self.ends[day] = datetime.fromtimestamp(int(time.time()) + 1, UTC)
        while datetime.now(UTC) < self.ends[day]:
            time.sleep(0.01)

    def source(self, **options: Any) -> ObjectsSource:
        return ObjectsSource({**self.options, **options})

    def contents(self, source: Source) -> dict[str, bytes]:
        found: dict[str, bytes] = {}
        rows = [row for batch in source.scan() for row in batch.to_pylist()]
        source.prefetch([(row["path"], row["size"], row["etag"]) for row in rows])
        for row in rows:
            reader = source.open(row["path"], row["type"], etag=row["etag"])
            buffer = bytearray(1 << 16)
            count = reader.read_into(memoryview(buffer))
            details = reader.finish()
            assert details.steady
            assert details.size == count == row["size"]
            found[row["path"].decode()] = bytes(buffer[:count])
        return found


@pytest.fixture
def versioned(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Versioned]:
    found = Versioned(s3_server, monkeypatch)
    yield found
    found.client.close()


DAYS = [date(2026, 11, day) for day in (17, 18, 19)]


@pytest.mark.services
def test_every_past_day_is_had_exactly_as_it_was(versioned: Versioned) -> None:
    chance, names = random.Random(3), ["a", "b/c", "b/d", "odd #%41", "z"]
    model: dict[str, bytes] = {}
    states: list[dict[str, bytes]] = []
    for number, day in enumerate(DAYS):
        for _ in range(12):
            name = chance.choice(names)
            if name in model and chance.random() < 0.4:
                versioned.delete(name)
                del model[name]
            else:
                model[name] = chance.randbytes(chance.randrange(1, 50))
                versioned.put(name, model[name])
        model["always"] = b"%d" % number
        versioned.put("always", model["always"])
        states.append(dict(model))
        versioned.end(day)
    for name in names:
        versioned.put(name, b"today")
    assert len({frozenset(state.items()) for state in states}) == 3
    for day, state in zip(DAYS, states, strict=True):
        assert versioned.contents(versioned.source().as_of(day)) == state


@pytest.mark.services
def test_a_missed_day_is_filled_exactly_through_the_plan_and_reads_only_what_differs(
    versioned: Versioned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = tmp_path / "backup.yaml"
    plan.write_text(
        "start: 2026-11-10\nencryption: none\n"
        f"stores: {{local: {tmp_path / 'store'}}}\n"
        "datasets:\n- asset: lake\n  source:\n    objects:\n"
        f"      url: {versioned.options['url']}\n      tags: true\n"
    )
    for name, value in versioned.server.environ().items():
        monkeypatch.setenv(name, value)
    versioned.put("steady", b"the same on every day", Tagging="team=a&cost=low")
    versioned.put("changed", b"as it was", ContentEncoding="gzip")
    versioned.put("deleted", b"gone since")
    versioned.end(DAYS[0])
    versioned.put("changed", b"as it is")
    versioned.delete("deleted")
    versioned.put("new", b"new")
    read: list[str] = []
    real = Bucket.read

    def counting(bucket: Bucket, key: str, *rest: Any) -> Any:
        read.append(key)
        return real(bucket, key, *rest)

    monkeypatch.setattr(Bucket, "read", counting)
    with Runner(load_plan(plan), clock=lambda: datetime(2026, 11, 20, 12, tzinfo=UTC)) as runner:
        today = runner.backup("lake").snapshot
        assert sorted(read) == ["p/changed", "p/new", "p/steady"]
        read.clear()
        past = runner.backup("lake", day=DAYS[0]).snapshot
        assert (past.timing, past.status, past.files) == ("exact", "complete", 3)
        assert sorted(read) == ["p/changed", "p/deleted"]
        entries = {entry.path: entry for entry in runner.ls("lake", day=DAYS[0])}
        runner.restore("lake", tmp_path / "past", day=DAYS[0])
        runner.restore("lake", tmp_path / "now", snapshot=today.id)
        repository, _ = runner.find("lake")
        rows = repository.manifest(past).table.to_pylist()
    past_files = {path.name: path.read_bytes() for path in (tmp_path / "past").iterdir()}
    assert past_files == {
        "steady": b"the same on every day",
        "changed": b"as it was",
        "deleted": b"gone since",
    }
    assert sorted(path.name for path in (tmp_path / "now").iterdir()) == [
        "changed",
        "new",
        "steady",
    ]
    assert len(entries) == 3
    kept = {
        row["path"]: {pair["name"]: pair["value"] for pair in row["metadata"] or ()} for row in rows
    }
    assert kept[b"steady"] == {":tag:cost": "low", ":tag:team": "a"}
    assert kept[b"changed"].pop(":version-id")
    assert kept[b"changed"] == {":content-encoding": "gzip"}


@pytest.mark.services
def test_a_bucket_that_keeps_no_versions_has_no_past(versioned: Versioned) -> None:
    versioned.put("a", b"1")
    versioned.end(DAYS[0])
    versioned.switch("Suspended")
    with pytest.raises(DayUnavailable, match="2026-11-17: versioning is suspended"):
        versioned.source().as_of(DAYS[0])
    versioned.put("a", b"2")
    versioned.switch("Enabled")
    with pytest.raises(DayUnavailable, match="something was written without a version on 20"):
        list(versioned.source().as_of(DAYS[0]).scan())
    plain = ObjectsSource(versioned.server.options("s3://lake/p"))
    with pytest.raises(DayUnavailable, match="versioning is off"):
        plain.as_of(DAYS[0])


@pytest.mark.services
def test_a_past_that_nothing_proves_is_taken_on_the_users_word_alone(versioned: Versioned) -> None:
    versioned.switch("Suspended")
    versioned.put("a", b"1")
    versioned.end(DAYS[0])
    versioned.switch("Enabled")
    with pytest.raises(DayUnavailable, match="nothing there shows that versioning was on"):
        list(versioned.source().as_of(DAYS[0]).scan())
    later = versioned.source(versions_kept_since="2026-11-18").as_of(DAYS[0])
    with pytest.raises(DayUnavailable, match="nothing there shows"):
        list(later.scan())
    sworn = versioned.source(versions_kept_since="2026-11-17").as_of(DAYS[0])
    assert versioned.contents(sworn) == {"a": b"1"}


@pytest.mark.parametrize(("status", "raised"), [(403, DayUnavailable), (503, SourceError)])
def test_a_bucket_that_may_not_be_asked_has_no_past_and_one_out_of_reach_may_have(
    monkeypatch: pytest.MonkeyPatch, status: int, raised: type[Exception]
) -> None:
    answer: Any = {"ResponseMetadata": {"HTTPStatusCode": status}, "Error": {"Code": "No"}}

    def refuse(_: Bucket) -> Any:
        raise SourceError("it says no") from ClientError(answer, "GetBucketVersioning")

    monkeypatch.setattr(Bucket, "versioning", refuse)
    with pytest.raises(raised, match="it says no"):
        ObjectsSource({"url": "s3://lake/p", "region": "us-east-1"}).as_of(DAYS[0])


@pytest.mark.services
def test_a_rule_that_deletes_old_versions_ends_the_past(versioned: Versioned) -> None:
    versioned.put("a", b"1")
    rule = {
        "ID": "trim",
        "Status": "Enabled",
        "Filter": {"Prefix": ""},
        "NoncurrentVersionExpiration": {"NoncurrentDays": 7},
    }
    versioned.client.put_bucket_lifecycle_configuration(
        Bucket=versioned.bucket, LifecycleConfiguration={"Rules": [rule]}
    )
    versioned.ends[DAYS[2]] = datetime.now(UTC) - timedelta(days=2)
    with pytest.raises(DayUnavailable, match="nothing was there"):
        list(versioned.source(versions_kept_since="2019-01-01").as_of(DAYS[2]).scan())
    versioned.ends[DAYS[0]] = datetime.now(UTC) - timedelta(days=7)
    with pytest.raises(DayUnavailable, match="deletes versions 7 days after"):
        versioned.source().as_of(DAYS[0])
    versioned.ends[DAYS[1]] = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=2)
    assert versioned.contents(versioned.source().as_of(DAYS[1])) == {"a": b"1"}


@pytest.mark.services
def test_a_server_that_loses_versions_between_pages_is_found_out(versioned: Versioned) -> None:
    for name in ("a", "a/b", "a-b", "b"):
        for number in range(3):
            versioned.put(name, b"%d" % number)
    versioned.end(DAYS[0])
    assert len(versioned.contents(versioned.source().as_of(DAYS[0]))) == 4
    for page_size in (1, 2, 3, 5):
        paged = ObjectsSource(versioned.options, page_size=page_size).as_of(DAYS[0])
        try:
            found = versioned.contents(paged)
        except DayUnavailable:
            continue
        assert found == dict.fromkeys(("a", "a/b", "a-b", "b"), b"2")


@pytest.mark.services
def test_versions_are_listed_in_pages(versioned: Versioned) -> None:
    want: dict[str, bytes] = {}
    for number in range(40):
        name = f"{number % 4}/{number:03d}"
        for turn in range(1 + number % 3):
            want[name] = b"%d of %d" % (turn, number)
            versioned.put(name, want[name])
        if number % 5 == 0:
            versioned.delete(name)
            del want[name]
    versioned.end(DAYS[0])
    for name in want:
        versioned.put(name, b"since")
    for page_size in (None, 7):
        source = ObjectsSource(versioned.options, page_size=page_size)
        assert versioned.contents(source.as_of(DAYS[0])) == want

"""Iceberg tables: any snapshot that was backed up opens at a new place and has the same rows."""

from __future__ import annotations

import io
import json
import random
import struct
import subprocess
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import fastavro
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.table import StaticTable, Table
from pyiceberg.transforms import BucketTransform, DayTransform, IdentityTransform
from pyroaring import BitMap

from backup_pipeline.engine.errors import DayUnavailable, SourceError, UsageError
from backup_pipeline.s3_server import S3Server
from backup_pipeline.sources import iceberg
from backup_pipeline.sources.iceberg import IcebergSource
from backup_pipeline.sources.iceberg_load import load, relocate
from backup_pipeline.sources.iceberg_paths import relative_path
from backup_pipeline_tests.sources.lake import Keeper, blocks, run, tree

PLACES = ["north", "a b", "50%/z", "ü", None]
SCHEMA = pa.schema([("id", pa.int64()), ("place", pa.string()), ("at", pa.timestamp("us"))])


class Lake:
    """A warehouse below a directory, its catalogue, and one table."""

    def __init__(self, root: Path, **properties: str) -> None:
        root.mkdir()
        self.root = root
        self.settings = {
            "name": "lake",
            "type": "sql",
            "uri": f"sqlite:///{root}/catalog.db",
            "warehouse": f"file://{root}/warehouse",
            **properties,
        }
        self.catalog = SqlCatalog(**self.settings)
        self.catalog.create_namespace("shop")
        self.catalog.create_table("shop.orders", SCHEMA, properties={"owner": "lake"})

    def table(self) -> Table:
        return self.catalog.load_table("shop.orders")

    def source(self) -> IcebergSource:
        return IcebergSource({"table": "shop.orders", "catalog": self.settings})

    def move_away(self) -> None:
        """What still referred to the old place would fail from now on."""
        (self.root / "warehouse").rename(self.root / "moved away")


@pytest.fixture
def lake(tmp_path: Path) -> Iterator[Lake]:
    found = Lake(tmp_path / "lake")
    yield found
    found.catalog.close()


def rows(chance: random.Random, count: int) -> pa.Table:
    start = datetime(2026, 11, 1)
    columns = {
        "id": [chance.randrange(1000) for _ in range(count)],
        "place": [chance.choice(PLACES) for _ in range(count)],
        "at": [start + timedelta(hours=chance.randrange(99)) for _ in range(count)],
    }
    return pa.table(columns, SCHEMA)


def described(table: Table | StaticTable) -> dict[str, Any]:
    """All that a user sees of a table's current snapshot."""
    current = table.current_snapshot()
    return {
        "rows": sorted(map(repr, table.scan().to_arrow().to_pylist())),
        "schema": repr(table.schema()),
        "spec": repr(table.spec()),
        "properties": dict(table.properties),
        "id": table.metadata.table_uuid,
        "snapshot": current.snapshot_id if current else None,
        "files": len(list(table.scan().plan_files())),
    }


def evolve(table: Table, chance: random.Random) -> None:
    with table.update_schema() as update:
        name = f"more{len(table.schema().fields)}"
        update.add_column(name, table.schema().find_field("place").field_type)


def partition(table: Table, chance: random.Random) -> None:
    transforms = [
        ("place", IdentityTransform(), "p"),
        ("at", DayTransform(), "d"),
        ("id", BucketTransform(4), "b"),
    ]
    taken = {field.name for field in table.spec().fields}
    with table.update_spec() as update:
        for source, transform, name in transforms:
            if name not in taken:
                update.add_field(source, transform, name)
                break


STEPS: list[Callable[[Table, random.Random], Any]] = [
    lambda table, chance: table.append(rows(chance, 5)),
    lambda table, chance: table.append(rows(chance, 9)),
    lambda table, chance: table.overwrite(rows(chance, 6)),
    lambda table, chance: table.delete(f"id < {chance.randrange(500)}"),
    lambda table, chance: table.overwrite(rows(chance, 3), overwrite_filter="id > 700"),
    evolve,
    partition,
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(2))
def test_any_snapshot_of_a_random_history_opens_at_a_new_place(
    lake: Lake, tmp_path: Path, seed: int
) -> None:
    chance, keeper, kept = random.Random(seed), Keeper(), []
    for _ in range(6):
        before = tree(lake.root)
        snapshot = keeper.back_up(lake.source())
        assert snapshot.status == "complete", snapshot.problems
        assert tree(lake.root) == before  # nothing was changed in the source
        kept.append((snapshot, described(lake.table())))
        for _ in range(2):
            chance.choice(STEPS)(lake.table(), chance)
    lake.move_away()
    for number, (snapshot, original) in enumerate(kept):
        restored = keeper.restore(snapshot, tmp_path / f"restored {number}%41")
        table = StaticTable.from_metadata(relocate(restored))
        assert described(table) == original
        uris = {task.file.file_path for task in table.scan().plan_files()}
        assert all(uri.startswith(f"file://{restored}/") for uri in uris)
    other = Lake(tmp_path / "other")
    registered = other.catalog.register_table("shop.restored", table.metadata_location)
    registered.append(registered.scan().to_arrow())
    assert len(registered.scan().to_arrow()) == 2 * len(kept[-1][1]["rows"])
    other.catalog.close()


@pytest.mark.services
@pytest.mark.filterwarnings("ignore")
def test_a_table_on_s3_is_restored_and_put_on_s3_again(s3_server: S3Server, tmp_path: Path) -> None:
    chance, keeper = random.Random(5), Keeper()
    access = {
        "s3.endpoint": s3_server.endpoint,
        "s3.region": s3_server.region,
        "s3.access-key-id": s3_server.access_key,
        "s3.secret-access-key": s3_server.secret_key,
    }
    lake = Lake(tmp_path / "lake", **access, warehouse=f"s3://lake/{tmp_path.name}")
    partition(lake.table(), chance)
    lake.table().append(rows(chance, 30))
    lake.table().delete("id < 300")
    snapshot = keeper.back_up(lake.source())
    assert snapshot.status == "complete", snapshot.problems
    assert snapshot.fingerprint == lake.source().fingerprint()
    assert keeper.back_up(lake.source()).read_bytes == 0
    original = described(lake.table())
    for root, location in (("local", None), ("remote", f"s3://lake/{tmp_path.name}-again")):
        restored = keeper.restore(snapshot, tmp_path / root)
        metadata = relocate(restored, location)
        if location:
            client: Any = s3_server.client()
            for file in restored.rglob("*"):
                if file.is_file():
                    key = f"{tmp_path.name}-again/{file.relative_to(restored).as_posix()}"
                    client.put_object(Bucket="lake", Key=key, Body=file.read_bytes())
        assert described(StaticTable.from_metadata(metadata, access)) == original
    wrong = {**lake.settings, "s3.secret-access-key": "not the right one"}
    with pytest.raises(SourceError, match=r"cannot be (opened|read)") as caught:
        list(IcebergSource({"table": "shop.orders", "catalog": wrong}).scan())
    assert "not the right one" not in str(caught.value)
    lake.catalog.close()


def test_files_are_read_once_and_listed_without_being_opened(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, keeper, chance = Counter[str](), Keeper(), random.Random(1)
    real = iceberg._Parts.read

    def counting(parts: Any, uri: str, *rest: Any) -> Any:
        opened[uri] += 1
        return real(parts, uri, *rest)

    monkeypatch.setattr(iceberg._Parts, "read", counting)
    for _ in range(4):
        lake.table().append(rows(chance, 5))
    source = lake.source()
    fingerprint = source.fingerprint()
    assert sum(len(batch) for batch in source.scan()) == 10
    assert not opened
    assert keeper.back_up(lake.source()).fingerprint == fingerprint
    assert keeper.back_up(lake.source()).read_bytes == 0
    lake.table().append(rows(chance, 5))
    assert lake.source().fingerprint() != fingerprint
    keeper.back_up(lake.source())
    assert set(opened.values()) == {1}


def rewritten(uri: str, change: Callable[[list[Any]], list[Any]], **more: str) -> bytes:
    """An Avro file's content with other rows."""
    with open(uri.removeprefix("file://"), "rb") as stream:
        reader = fastavro.reader(stream)
        found = list(reader)
        schema = json.loads(reader.metadata["avro.schema"])
        kept = {name: text for name, text in reader.metadata.items() if name[:5] != "avro."}
    written = io.BytesIO()
    fastavro.writer(written, schema, change(found), metadata={**kept, **more}, codec="deflate")
    return written.getvalue()


def test_ten_thousand_data_files_are_listed_without_loading_any(lake: Lake) -> None:
    lake.table().append(rows(random.Random(2), 5))
    snapshot = lake.table().current_snapshot()
    assert snapshot is not None
    [manifest] = snapshot.manifests(lake.table().io)

    def many(found: list[Any]) -> list[Any]:
        uri = found[0]["data_file"]["file_path"]
        return [
            {**found[0], "data_file": {**found[0]["data_file"], "file_path": f"{uri}-{number}"}}
            for number in range(10_000)
        ]

    content = rewritten(manifest.manifest_path, many)
    Path(manifest.manifest_path.removeprefix("file://")).write_bytes(content)
    # None of them is there: a listing that looked at any would fail.
    assert sum(len(batch) for batch in lake.source().scan()) == 10_003


def position_deletes(uri: str, position: int) -> bytes:
    """A Parquet file that names a file and a position in it."""
    ids = [{b"PARQUET:field_id": b"2147483546"}, {b"PARQUET:field_id": b"2147483545"}]
    fields = [
        pa.field("file_path", pa.string(), nullable=False, metadata=ids[0]),
        pa.field("pos", pa.int64(), nullable=False, metadata=ids[1]),
    ]
    written = io.BytesIO()
    pq.write_table(pa.table({"file_path": [uri], "pos": [position]}, pa.schema(fields)), written)
    return written.getvalue()


def deletion_vector(uri: str, position: int) -> bytes:
    """A Puffin file with a bitmap of the positions that are deleted."""
    vector = b"\xd1\xd3\x39\x64" + struct.pack("<QI", 1, 0) + BitMap([position]).serialize()
    blob = struct.pack(">i", len(vector)) + vector + struct.pack(">I", zlib.crc32(vector))
    described = {
        "type": "deletion-vector-v1",
        "fields": [],
        "snapshot-id": -1,
        "sequence-number": -1,
        "offset": 4,
        "length": len(blob),
        "properties": {"referenced-data-file": uri, "cardinality": "1"},
    }
    footer = json.dumps({"blobs": [described], "properties": {}}).encode()
    end = struct.pack("<i4s", len(footer), bytes(4))
    return b"".join([b"PFA1", blob, b"PFA1", footer, end, b"PFA1"])


def delete_by_position(table: Table, form: str, content: Callable[[str, int], bytes]) -> None:
    """Delete the third row as engines do that write merge-on-read."""
    snapshot = table.current_snapshot()
    assert snapshot is not None
    [manifest] = snapshot.manifests(table.io)
    [task] = table.scan().plan_files()
    uri = task.file.file_path
    deletes = Path(f"{uri.removeprefix('file://')}-deletes.{form.lower()}")
    deletes.write_bytes(content(uri, 2))

    def deleting(found: list[Any]) -> list[Any]:
        file = {**found[0]["data_file"], "content": 1, "file_path": f"file://{deletes}"}
        bounds = [{"key": 2147483546, "value": uri.encode()}]
        size = deletes.stat().st_size
        file.update(file_size_in_bytes=size, lower_bounds=bounds, upper_bounds=bounds)
        return [{**found[0], "data_file": {**file, "file_format": form}}]

    place = f"{manifest.manifest_path}-deletes.avro"
    written = rewritten(manifest.manifest_path, deleting, content="deletes")
    Path(place.removeprefix("file://")).write_bytes(written)
    row = {"manifest_path": place, "manifest_length": len(written), "content": 1}
    listed = rewritten(snapshot.manifest_list, lambda found: [*found, {**found[0], **row}])
    Path(snapshot.manifest_list.removeprefix("file://")).write_bytes(listed)


@pytest.mark.parametrize(
    ("form", "content"), [("PARQUET", position_deletes), ("PUFFIN", deletion_vector)]
)
def test_deleted_rows_stay_deleted_at_the_new_place(
    lake: Lake, tmp_path: Path, form: str, content: Callable[[str, int], bytes]
) -> None:
    lake.table().append(rows(random.Random(3), 6))
    delete_by_position(lake.table(), form, content)
    original, keeper = described(lake.table()), Keeper()
    assert len(original["rows"]) == 5
    snapshot = keeper.back_up(lake.source())
    assert snapshot.status == "complete", snapshot.problems
    lake.move_away()
    restored = keeper.restore(snapshot, tmp_path / "restored")
    assert described(StaticTable.from_metadata(relocate(restored))) == original
    assert described(StaticTable.from_metadata(relocate(restored))) == original  # twice is fine


def test_a_lost_file_is_named_and_a_dropped_table_told(lake: Lake) -> None:
    keeper, chance = Keeper(), random.Random(4)
    lake.table().append(rows(chance, 5))
    assert keeper.back_up(lake.source()).status == "complete"
    lake.table().append(rows(chance, 5))
    for task in lake.table().scan().plan_files():
        Path(task.file.file_path.removeprefix("file://")).unlink()
    snapshot = keeper.back_up(lake.source())
    # Of the two files an earlier snapshot holds one.
    assert (snapshot.status, snapshot.problem_count) == ("incomplete", 1)
    assert "the snapshot refers to it, and it is gone" in snapshot.problems[0]["reason"]
    found = lake.table().current_snapshot()
    assert found is not None
    Path(found.manifest_list.removeprefix("file://")).unlink()
    with pytest.raises(SourceError, match="cannot be read"):
        list(lake.source().scan())
    lake.catalog.drop_table("shop.orders")
    with pytest.raises(SourceError, match=r"has no table shop\.orders"):
        lake.source().fingerprint()


def days_of(lake: Lake, moments: list[datetime]) -> list[int]:
    """One snapshot for each moment, as the metadata then says, and their ids."""
    ids = []
    for number, _ in enumerate(moments):
        lake.table().append(rows(random.Random(number), 3))
        found = lake.table().current_snapshot()
        assert found is not None
        ids.append(found.snapshot_id)
    stamps = dict(zip(ids, [round(moment.timestamp() * 1000) for moment in moments], strict=True))
    files = sorted((lake.root / "warehouse/shop/orders/metadata").glob("*.metadata.json"))
    written: list[int] = []
    for file in files:
        content = json.loads(file.read_bytes())
        for one in (*content["snapshots"], *content["snapshot-log"]):
            one["timestamp-ms"] = stamps[one["snapshot-id"]]
        for one, moment in zip(content["metadata-log"], written, strict=True):
            one["timestamp-ms"] = moment
        first = stamps[ids[0]] - 1
        content["last-updated-ms"] = stamps.get(content.get("current-snapshot-id"), first)
        written.append(content["last-updated-ms"])
        file.write_text(json.dumps(content))
    return ids


def state_of(lake: Lake, day: int) -> int | None:
    source = lake.source()
    source.zone = ZoneInfo("Europe/Berlin")
    found = source.as_of(date(2026, 10, day))
    assert isinstance(found, IcebergSource) and found._pinned is not None
    return json.loads(found._pinned[1]).get("current-snapshot-id")


@pytest.mark.parametrize("logged", [True, False], ids=["metadata kept", "metadata deleted"])
def test_a_past_day_is_the_snapshot_of_then(lake: Lake, tmp_path: Path, logged: bool) -> None:
    zone = ZoneInfo("Europe/Berlin")
    midnight = datetime(2026, 10, 26, tzinfo=zone)  # after the 25-hour day
    moments = [
        datetime(2026, 10, 23, 12, tzinfo=UTC),
        midnight - timedelta(milliseconds=1),
        midnight,
        datetime(2026, 10, 29, 9, tzinfo=zone),
    ]
    ids = days_of(lake, moments)
    files = sorted((lake.root / "warehouse/shop/orders/metadata").glob("*.metadata.json"))
    for file in files[:-1] if not logged else ():
        file.unlink()
    expected = {23: 0, 24: 0, 25: 1, 26: 2, 27: 2, 28: 2, 29: 3, 30: 3}
    assert {day: ids.index(state_of(lake, day) or 0) for day in expected} == expected
    with pytest.raises(DayUnavailable, match="first snapshot that it knows is of 2026-10-23") as at:
        state_of(lake, 22)
    assert min(at.value.available) == date(2026, 10, 23)
    source, keeper = lake.source(), Keeper()
    source.zone = zone
    snapshot = keeper.back_up(source.as_of(date(2026, 10, 25)))
    original = sorted(map(repr, lake.table().scan(snapshot_id=ids[1]).to_arrow().to_pylist()))
    restored = StaticTable.from_metadata(relocate(keeper.restore(snapshot, tmp_path / "restored")))
    assert described(restored)["rows"] == original
    assert len(restored.metadata.snapshots) == 1


@pytest.mark.parametrize("logged", [True, False], ids=["metadata kept", "metadata deleted"])
def test_an_expired_day_is_refused_and_those_left_are_listed(lake: Lake, logged: bool) -> None:
    moments = [datetime(2026, 10, day, 12, tzinfo=UTC) for day in (20, 22, 24)]
    ids = days_of(lake, moments)
    lake.table().maintenance.expire_snapshots().by_id(ids[1]).commit()
    files = sorted((lake.root / "warehouse/shop/orders/metadata").glob("*.metadata.json"))
    for file in files[:-1] if not logged else ():
        file.unlink()
    with pytest.raises(DayUnavailable, match="of then has expired") as caught:
        state_of(lake, 22)
    assert date(2026, 10, 22) not in caught.value.available
    assert date(2026, 10, 24) in caught.value.available
    assert state_of(lake, 24) == ids[2]


def test_files_outside_of_the_table_have_a_place_of_their_own() -> None:
    cases = [
        ("s3://b/t", "s3://b/t/data/p=%2F/x", "data/p=%2F/x"),
        ("s3://b/t/", "s3a://b/t/data//x", "data/x"),
        ("file:///w/t", "/w/t/metadata/y", "metadata/y"),
        ("s3://b/t", "s3://b/tt/x", "outside/s3/b/tt/x"),
        ("/w/t", "file:/w/../x", "outside/file/w/%2E%2E/x"),
    ]
    assert [relative_path(location, uri) for location, uri, _ in cases] == [
        wanted for *_, wanted in cases
    ]


def test_a_place_that_is_taken_or_no_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "x").touch()
    for url, message in (
        (f"iceberg://{tmp_path}/taken", "is not empty"),
        ("iceberg://", "no place"),
        ("iceberg://host/place", "no place"),
    ):
        with pytest.raises(UsageError, match=message):
            load(str(tmp_path / "restored"), url, report=print)


def test_the_page_on_iceberg_works_as_it_is_shown(lake: Lake, tmp_path: Path) -> None:
    (written,), (restored,), (opened,) = (
        blocks("how-to/iceberg.md", language) for language in ("yaml", "sh", "python")
    )
    lake.table().append(rows(random.Random(6), 7))
    plan = tmp_path / "backup.yaml"
    plan.write_text(
        f"start: 2026-11-01\nencryption: none\nstores: {{local: {tmp_path / 'store'}}}\n"
        + written.replace("{env: CATALOG_URI}", lake.settings["uri"])
    )
    backed_up = run("-m", "backup_pipeline", "backup", "shop/orders", "--plan", str(plan))
    assert "4 files" in backed_up and "INCOMPLETE" not in backed_up
    lake.move_away()
    words = restored.replace("/tmp/", f"{tmp_path}/").split()[1:]
    said = run("-m", "backup_pipeline", *words, "--plan", str(plan))
    assert f"file://{tmp_path}/orders/metadata/" in said
    # What the page names by its pattern is what the command printed.
    assert run("-c", opened.replace("/tmp/", f"{tmp_path}/")) == "7\n"


def test_its_packages_are_loaded_only_when_it_is_opened_and_missed_with_a_hint() -> None:
    code = """
import sys
import backup_pipeline.runner
from backup_pipeline.sources import open_source
assert not {"pyiceberg", "fastavro", "deltalake"} & set(sys.modules)
sys.modules["fastavro"] = None
try:
    open_source("iceberg", {"metadata": "/nowhere.json"})
except Exception as error:
    print(error.hint)
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout == "pip install 'backup-pipeline[iceberg]'\n"

"""Delta tables: any version that was backed up comes back as it was, and no file is read twice."""

from __future__ import annotations

import json
import random
import shutil
import uuid
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake

from backup_pipeline.engine.errors import DayUnavailable, SourceError
from backup_pipeline.s3_server import S3Server
from backup_pipeline.sources import table_files
from backup_pipeline.sources.delta import DeltaSource
from backup_pipeline_tests.sources.lake import Keeper, blocks, run, tree

PLACES = ["north", "a b", "50%/z", "ü", "x=y:z", None]


def source(root: Path, **more: Any) -> DeltaSource:
    return DeltaSource({"path": str(root)}, **more)


def rows(chance: random.Random, count: int, more: bool = False) -> pa.Table:
    columns: dict[str, Any] = {
        "id": [chance.randrange(1000) for _ in range(count)],
        "place": pa.array([chance.choice(PLACES) for _ in range(count)], pa.string()),
        "text": [chance.randbytes(9).hex() for _ in range(count)],
    }
    if more:
        columns["more"] = [chance.random() for _ in range(count)]
    return pa.table(columns)


def described(table: DeltaTable) -> dict[str, Any]:
    """All that a user sees of a table at a version."""
    read = pa.table(table.to_pyarrow_table())
    protocol, metadata = table.protocol(), table.metadata()
    return {
        "version": table.version(),
        "rows": sorted(map(repr, read.to_pylist())),
        "schema": table.schema().to_json(),
        "partitions": metadata.partition_columns,
        "id": metadata.id,
        "properties": metadata.configuration,
        "reader": (protocol.min_reader_version, protocol.reader_features),
        "files": sorted(Path(uri).name for uri in table.file_uris()),
    }


def steps(root: str, options: dict[str, str] | None = None) -> list[Callable[[random.Random], Any]]:
    """What may happen to a table."""

    def table() -> DeltaTable:
        return DeltaTable(root, storage_options=options)

    def write(chance: random.Random, mode: Any, more: bool = False) -> None:
        content = rows(chance, chance.randrange(1, 9), more)
        write_deltalake(root, content, mode=mode, schema_mode="merge", storage_options=options)

    return [
        lambda chance: write(chance, "append"),
        lambda chance: write(chance, "append", more=True),
        lambda chance: write(chance, "overwrite", more=True),
        lambda chance: table().delete(f"id < {chance.randrange(500)}"),
        lambda chance: table().update(updates={"text": "'new'"}, predicate="id > 700"),
        lambda chance: table().optimize.compact(),
        lambda chance: table().create_checkpoint(),
        lambda chance: table().optimize.z_order(["id"]),
        lambda chance: (new := table().version()) and table().restore(chance.randrange(new)),
    ]


@pytest.mark.parametrize("seed", range(4))
def test_any_version_of_a_random_history_comes_back_as_it_was(tmp_path: Path, seed: int) -> None:
    chance, root, keeper = random.Random(seed), tmp_path / "table", Keeper()
    write_deltalake(
        root, rows(chance, 20), partition_by=["place"], configuration={"delta.appendOnly": "false"}
    )
    kept = []
    for _ in range(14):
        before = tree(root)
        snapshot = keeper.back_up(source(root))
        assert snapshot.status == "complete"
        assert tree(root) == before  # nothing was changed in the source
        kept.append((snapshot, described(DeltaTable(root))))
        for _ in range(chance.randrange(1, 3)):
            chance.choice(steps(str(root)))(chance)
    for number, (snapshot, original) in enumerate(kept):
        restored = keeper.restore(snapshot, tmp_path / f"restored-{number}")
        assert described(DeltaTable(restored)) == original
        names = {path for path in keeper.paths(snapshot) if not path.startswith("_delta_log/")}
        assert {Path(name).name for name in names} == set(original["files"])  # and no others
    write_deltalake(restored, rows(chance, 3), mode="append", schema_mode="merge")
    assert DeltaTable(restored).version() == kept[-1][1]["version"] + 1  # it can be written to


@pytest.mark.services
def test_a_table_on_s3_comes_back_as_it_was(s3_server: S3Server, tmp_path: Path) -> None:
    chance, keeper = random.Random(7), Keeper()
    options = s3_server.options(f"s3://lake/{tmp_path.name}/orders")
    storage = {
        "AWS_ENDPOINT_URL": s3_server.endpoint,
        "AWS_REGION": s3_server.region,
        "AWS_ACCESS_KEY_ID": s3_server.access_key,
        "AWS_SECRET_ACCESS_KEY": s3_server.secret_key,
        "AWS_ALLOW_HTTP": "true",
    }
    url, before = options["url"], ""
    write_deltalake(url, rows(chance, 20), partition_by=["place"], storage_options=storage)
    for number in range(5):
        snapshot = keeper.back_up(DeltaSource(options))
        assert snapshot.status == "complete", snapshot.problems
        assert snapshot.fingerprint == DeltaSource(options).fingerprint() != before
        before = snapshot.fingerprint
        restored = keeper.restore(snapshot, tmp_path / f"restored-{number}")
        original = DeltaTable(url, storage_options=storage)
        assert described(DeltaTable(restored)) == described(original)
        chance.choice(steps(url, storage)[:5])(chance)
        original.update_incremental()
        original.create_checkpoint()
    for wrong in ({"secret_access_key": "wrong"}, {"url": "s3://lake/nowhere"}):
        with pytest.raises(SourceError):
            list(DeltaSource({**options, **wrong}).scan())


def test_files_are_read_once_and_an_unchanged_table_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, keeper, opened = tmp_path / "table", Keeper(), Counter[str]()
    real = table_files._LocalFiles.open

    def counting(files: Any, name: str, size: int | None) -> Any:
        opened[name] += 1
        return real(files, name, size)

    monkeypatch.setattr(table_files._LocalFiles, "open", counting)
    for number in range(30):
        write_deltalake(root, pa.table({"a": [number]}), mode="append")
    fingerprint = source(root).fingerprint()
    assert not opened  # neither a fingerprint nor a listing opens a data file
    assert keeper.back_up(source(root)).fingerprint == fingerprint == source(root).fingerprint()
    assert keeper.back_up(source(root)).read_bytes == 0
    DeltaTable(root).create_checkpoint()
    write_deltalake(root, pa.table({"a": [30]}), mode="append")
    assert source(root).fingerprint() != fingerprint
    keeper.back_up(source(root))
    assert set(opened.values()) == {1}
    assert len([name for name in opened if not name.startswith("_delta_log/")]) == 31


def test_a_vacuumed_file_is_named_and_what_an_earlier_snapshot_holds_is_not_missed(
    tmp_path: Path,
) -> None:
    root, keeper = tmp_path / "table", Keeper()
    for number in range(4):
        write_deltalake(root, pa.table({"a": [number]}), mode="append")
    first = keeper.back_up(source(root, version=1))
    held = {path for path in keeper.paths(first) if path.startswith("part-")}
    DeltaTable(root).optimize.compact()
    pinned = source(root, version=3)
    DeltaTable(root).vacuum(0, dry_run=False, enforce_retention_duration=False)
    snapshot = keeper.back_up(pinned)
    assert (snapshot.status, snapshot.problem_count) == ("incomplete", 2)
    assert not held & {problem["path"] for problem in snapshot.problems}
    assert all("vacuumed" in problem["reason"] for problem in snapshot.problems)
    again = keeper.back_up(source(root))
    assert again.status == "complete"
    restored = keeper.restore(again, tmp_path / "restored")
    assert described(DeltaTable(restored)) == described(DeltaTable(root))


@pytest.mark.parametrize("gone", [False, True], ids=["written to", "deleted"])
def test_what_happens_to_the_table_after_the_scan_does_not_mix_versions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gone: bool
) -> None:
    root, keeper, chance = tmp_path / "table", Keeper(), random.Random(9)
    write_deltalake(root, rows(chance, 9), partition_by=["place"])
    earlier = keeper.back_up(source(root)), described(DeltaTable(root))
    write_deltalake(root, rows(chance, 9), mode="append")
    original = described(DeltaTable(root))
    real, first = table_files._LocalFiles.open, iter([True])

    def meanwhile(files: Any, name: str, size: int | None) -> Any:
        if next(first, False):
            if gone:
                shutil.rmtree(root)
            else:
                DeltaTable(root).optimize.compact()
                write_deltalake(root, rows(chance, 5), mode="overwrite")
        return real(files, name, size)

    monkeypatch.setattr(table_files._LocalFiles, "open", meanwhile)
    snapshot = keeper.back_up(source(root))
    assert snapshot.status == ("incomplete" if gone else "complete")
    for number, (one, wanted) in enumerate([earlier] if gone else [earlier, (snapshot, original)]):
        restored = keeper.restore(one, tmp_path / f"restored-{number}")
        assert described(DeltaTable(restored)) == wanted


def commit_at(root: Path, moments: list[datetime]) -> None:
    """Make one commit for each moment; the log says it was then, the files that it is now."""
    for number, moment in enumerate(moments):
        write_deltalake(root, pa.table({"a": [number]}), mode="append")
        commit = root / f"_delta_log/{number:020d}.json"
        actions = [json.loads(line) for line in commit.read_text().splitlines()]
        for action in actions:
            if "commitInfo" in action:
                action["commitInfo"]["timestamp"] = round(moment.timestamp() * 1000)
        commit.write_text("\n".join(json.dumps(action) for action in actions))


def version_of(source: DeltaSource, day: date) -> int:
    source.zone = ZoneInfo("Europe/Berlin")
    found = source.as_of(day)
    assert isinstance(found, DeltaSource) and found._version is not None
    return found._version


def test_a_past_day_is_its_newest_version_by_the_times_in_the_log(tmp_path: Path) -> None:
    root, zone = tmp_path / "table", ZoneInfo("Europe/Berlin")
    midnight = datetime(2026, 10, 26, tzinfo=zone)  # after the 25-hour day
    commit_at(
        root,
        [
            datetime(2026, 10, 23, 12, tzinfo=UTC),
            midnight - timedelta(milliseconds=1),
            midnight,
            datetime(2026, 10, 29, 0, 30, tzinfo=zone),
            datetime(2026, 10, 28, 23, tzinfo=zone),  # by a clock that is slow
            *(datetime(2026, 10, 30, hour, tzinfo=zone) for hour in range(3)),
        ],
    )
    expected = {23: 0, 24: 0, 25: 1, 26: 2, 27: 2, 28: 2, 29: 4, 30: 7, 31: 7}
    found = {day: version_of(source(root), date(2026, 10, day)) for day in expected}
    assert found == expected
    with pytest.raises(DayUnavailable, match="was made on 2026-10-23") as caught:
        source(root).as_of(date(2026, 10, 22))
    assert min(caught.value.available) == date(2026, 10, 23)
    keeper, today = Keeper(), source(root)
    today.zone = zone
    snapshot = keeper.back_up(today.as_of(date(2026, 10, 25)))
    restored = keeper.restore(snapshot, tmp_path / "restored")
    assert described(DeltaTable(restored)) == described(DeltaTable(root, version=1))


def test_a_day_before_what_the_log_remembers_is_refused(tmp_path: Path) -> None:
    root = tmp_path / "table"
    commit_at(root, [datetime(2026, 11, day, 12, tzinfo=UTC) for day in range(1, 7)])
    DeltaTable(root, version=3).create_checkpoint()
    for version in range(2):  # as the clean-up of a log does, once a checkpoint stands for them
        (root / f"_delta_log/{version:020d}.json").unlink()
    for day, why in ((1, "begins with version 2"), (3, "commit 0 is gone")):
        with pytest.raises(DayUnavailable, match=why) as caught:
            source(root).as_of(date(2026, 11, day))
        assert min(caught.value.available) == date(2026, 11, 4)
        assert "2026-11-04 can be had" in caught.value.message
    assert version_of(source(root), date(2026, 11, 4)) == 3
    keeper = Keeper()
    restored = keeper.restore(keeper.back_up(source(root)), tmp_path / "restored")
    assert described(DeltaTable(restored)) == described(DeltaTable(root))


def action(root: Path, **actions: Any) -> None:
    """Append actions to the newest commit, as a writer that knows more would have made them."""
    newest = max((root / "_delta_log").glob("*.json"))
    lines = [json.dumps({name: value}) for name, value in actions.items()]
    newest.write_text("\n".join([newest.read_text().rstrip(), *lines]))


ADD = {"partitionValues": {}, "size": 5, "modificationTime": 7, "dataChange": True}
PROTOCOL = {"minReaderVersion": 3, "minWriterVersion": 7, "writerFeatures": []}
VECTOR = {"offset": 1, "sizeInBytes": 36, "cardinality": 2}


def test_deletion_vectors_belong_to_the_version(tmp_path: Path) -> None:
    # The coded name and its file are the example of Delta's protocol.
    root, keeper = tmp_path / "table", Keeper()
    write_deltalake(root, pa.table({"a": [1]}))
    (root / "ab").mkdir()
    name = "ab/deletion_vector_d2c639aa-8816-431a-aaf6-d3fe2512ff61.bin"
    (root / name).write_bytes(b"vector" * 9)
    (root / "x y").write_bytes(b"12345")
    vector = {"storageType": "u", "pathOrInlineDv": "ab^-aqEH.-t@S}K{vb[*k^", **VECTOR}
    action(root, add={"path": "x%20y", **ADD, "deletionVector": vector})
    snapshot = keeper.back_up(source(root))
    assert (snapshot.status, name in keeper.paths(snapshot)) == ("complete", True)
    restored = keeper.restore(snapshot, tmp_path / "restored")
    assert (restored / name).read_bytes() == b"vector" * 9
    (root / "x y").write_bytes(b"123456")
    snapshot = Keeper().back_up(source(root))
    assert "it has 6 bytes, and the table says 5" in snapshot.problems[0]["reason"]


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        ({"add": {"path": "/elsewhere/x", **ADD}}, "absolute path: /elsewhere/x"),
        ({"add": {"path": "s3://b/x", **ADD}}, "absolute path: s3://b/x"),
        ({"add": {"path": "a/%2E%2E/%2E%2E/x", **ADD}}, "outside of itself"),
        ({"protocol": {**PROTOCOL, "readerFeatures": ["hologram"]}}, "uses hologram"),
        ({"protocol": {"minReaderVersion": 4, "minWriterVersion": 7}}, "reader version 4"),
        ({"protocol": {**PROTOCOL, "readerFeatures": ["catalogManaged"]}}, "by a catalogue"),
    ],
)
def test_what_cannot_be_had_whole_is_refused(
    tmp_path: Path, actions: dict[str, Any], message: str
) -> None:
    write_deltalake(tmp_path / "table", pa.table({"a": [1]}))
    action(tmp_path / "table", **actions)
    with pytest.raises(SourceError, match=message):
        list(source(tmp_path / "table").scan())


@pytest.mark.parametrize("version", [1, 3, 4])
@pytest.mark.parametrize("end", ["nothing", "blank", "no add", "all but one add", "half", "head"])
def test_a_commit_that_was_cut_is_refused(tmp_path: Path, version: int, end: str) -> None:
    root = tmp_path / "table"
    for _ in range(5):
        content = pa.table({"a": [1, 2], "place": ["x", "y"]})
        write_deltalake(root, content, mode="append", partition_by=["place"])
    commit = root / f"_delta_log/{version:020d}.json"
    whole = commit.read_bytes()
    info, add = whole.splitlines(keepends=True)[:2]
    left = {"nothing": b"", "blank": b"\n", "no add": info, "all but one add": info + add}
    commit.write_bytes(left.get(end, whole[: len(whole) // 2 if end == "half" else 20]))
    with pytest.raises(SourceError, match=f"{version}.json is (empty|damaged|cut short)") as caught:
        list(source(root).scan())
    assert "\nHINT: " in str(caught.value)
    if version == 1 and end in ("nothing", "head"):  # the search for a day reads it
        with pytest.raises(SourceError, match=f"{version}.json is (empty|damaged)"):
            source(root).as_of(date(2026, 1, 1))


def test_a_checkpoint_that_was_cut_is_refused(tmp_path: Path) -> None:
    root = tmp_path / "table"
    write_deltalake(root, pa.table({"a": [1]}))
    DeltaTable(root).create_checkpoint()
    [checkpoint] = (root / "_delta_log").glob("*.parquet")
    whole = checkpoint.read_bytes()
    for end in (0, 100, len(whole) - 1):
        checkpoint.write_bytes(whole[:end])
        with pytest.raises(SourceError, match=r"checkpoint\.parquet is damaged"):
            list(source(root).scan())


def test_a_sidecar_that_a_checkpoint_names_is_never_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, log = tmp_path / "table", tmp_path / "table/_delta_log"
    write_deltalake(root, pa.table({"a": [1]}))
    actions = [json.loads(line) for line in (log / f"{0:020d}.json").read_text().splitlines()]
    (log / "_sidecars").mkdir()
    adds = [action["add"] for action in actions if "add" in action]
    fields = ("path", "size", "modificationTime")
    rows = [{"add": {field: add[field] for field in fields}} for add in adds]
    pq.write_table(pa.Table.from_pylist(rows), log / "_sidecars/one.parquet")
    actions = [action for action in actions if "metaData" in action or "protocol" in action]
    actions.append({"sidecar": {"path": "one.parquet", "sizeInBytes": 1, "modificationTime": 1}})
    checkpoint = log / f"{0:020d}.checkpoint.{uuid.uuid4()}.json"
    checkpoint.write_text("\n".join(map(json.dumps, actions)))
    paths = [row["path"] for batch in source(root).scan() for row in batch.to_pylist()]
    assert b"_delta_log/_sidecars/one.parquet" in paths and len(paths) == 4

    real = table_files._LocalFiles.listing

    def forgetful(files: Any, folder: str, after: str = "") -> Any:
        return [one for one in real(files, folder, after) if not one.name.endswith("one.parquet")]

    monkeypatch.setattr(table_files._LocalFiles, "listing", forgetful)
    with pytest.raises(SourceError, match=r"names .*one\.parquet, which is not listed"):
        list(source(root).scan())


def spark_write(files: int, rows: int, mode: str = "Append") -> dict[str, Any]:
    """As Spark says what it wrote, the empty file of its first task with it."""
    metrics = {"numFiles": str(files), "numOutputRows": str(rows), "numOutputBytes": "1"}
    more = {"mode": mode, "partitionBy": "[]"}
    return {"operation": "WRITE", "operationParameters": more, "operationMetrics": metrics}


@pytest.mark.parametrize(
    ("info", "refused"),
    [
        (spark_write(2, 3), False),
        (spark_write(2, 4), True),
        (spark_write(1, 4), False),
        (spark_write(2, 4, "Overwrite"), False),
        ({**spark_write(2, 4), "operation": "MERGE"}, False),
        ({"operation": "WRITE", "operationParameters": None, "operationMetrics": None}, False),
    ],
)
def test_a_commit_is_held_against_what_it_says_only_where_that_is_sound(
    tmp_path: Path, info: dict[str, Any], refused: bool
) -> None:
    root = tmp_path / "table"
    write_deltalake(root, pa.table({"a": [1]}))
    add = {"path": "x", **ADD, "stats": json.dumps({"numRecords": 3})}
    lines = [json.dumps({"commitInfo": info}), json.dumps({"add": add})]
    (root / f"_delta_log/{1:020d}.json").write_text("\n".join(lines))
    if refused:
        with pytest.raises(SourceError, match="it names 1 of the 2 files it wrote"):
            list(source(root).scan())
    else:
        list(source(root).scan())


def test_what_is_no_table_or_is_gone_is_told(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="is no Delta table"):
        source(tmp_path).fingerprint()
    with pytest.raises(SourceError, match="is no directory"):
        list(source(tmp_path / "gone").scan())
    write_deltalake(tmp_path / "t", pa.table({"a": [1]}))
    with pytest.raises(SourceError, match="has no version 5 any more"):
        list(source(tmp_path / "t", version=5).scan())


def test_ten_thousand_files_are_listed_without_looking_at_any(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "table"
    write_deltalake(root, pa.table({"a": [1]}))
    lines = [
        json.dumps({"add": {"path": f"d={n % 9}/part-{n}", **ADD, "partitionValues": {}}})
        for n in range(10_000)
    ]
    (root / f"_delta_log/{1:020d}.json").write_text("\n".join(lines))
    monkeypatch.setattr(table_files._LocalFiles, "open", lambda *_: pytest.fail("opened"))
    with closing(source(root)) as found:
        assert sum(len(batch) for batch in found.scan()) == 10_003


def test_the_page_on_delta_works_as_it_is_shown(tmp_path: Path) -> None:
    (written,), (restored,), (opened,) = (
        blocks("how-to/delta.md", language) for language in ("yaml", "sh", "python")
    )
    plan = tmp_path / "backup.yaml"
    (tmp_path / "lake").mkdir()
    plan.write_text(
        f"start: 2026-11-01\nencryption: none\nstores: {{local: {tmp_path / 'store'}}}\n"
        + written.replace("/lake/orders}}", f"{tmp_path}/lake/orders}}}}")
    )
    write_deltalake(tmp_path / "lake" / "orders", pa.table({"a": [1, 2]}))
    write_deltalake(tmp_path / "lake" / "orders", pa.table({"a": [3]}), mode="append")
    run("-m", "backup_pipeline", "backup", "lake/orders", "--plan", str(plan))
    words = restored.replace("/tmp/", f"{tmp_path}/").split()[1:]
    run("-m", "backup_pipeline", *words, "--plan", str(plan))
    assert run("-c", opened.replace("/tmp/", f"{tmp_path}/")).startswith("1 ")

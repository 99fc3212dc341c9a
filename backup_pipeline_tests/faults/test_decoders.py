"""Every decoder behind its seal: forged, of any size and depth, it ends with a clear error, and
never with other bytes than were stored. What strangers change is in ``format/test_fuzz.py``."""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, seed, settings
from hypothesis import strategies as st

from backup_pipeline.engine.errors import BackupError, DamageError
from backup_pipeline.engine.format.document import decode_descriptor, decode_key_set
from backup_pipeline.engine.format.header import KEY_SET, STORE, canonical_json, decode_json, header
from backup_pipeline.engine.format.manifest import decode_segment, encode_segment, manifest_schema
from backup_pipeline.engine.format.pages import check_pages
from backup_pipeline.engine.format.record import Record, Snapshot
from backup_pipeline.engine.operations.restore import restore
from backup_pipeline.engine.operations.verify import verify
from backup_pipeline.engine.repository import Repository
from backup_pipeline.engine.state import RepositoryState
from backup_pipeline.engine.store.memory import MemoryStore
from backup_pipeline.plan.loading import load_plan
from backup_pipeline_tests.engine.repositories import make_repository, open_repository
from backup_pipeline_tests.faults.bombs import all_bombs
from backup_pipeline_tests.faults.forging import Forge
from backup_pipeline_tests.promises import Cases

pytestmark = pytest.mark.promise("decoders")

SPARE_BYTES = 768 << 20
numbers = st.integers(0, 5) | st.integers(-(1 << 63), (1 << 64) - 1)
values = st.recursive(
    st.none() | st.booleans() | numbers | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


def many(cases: Cases, usual: int) -> Any:
    quick = settings(
        max_examples=cases.scaled(usual),
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    return lambda test: seed(cases.seed)(quick(test))


@pytest.fixture(scope="module")
def forge(tmp_path_factory: pytest.TempPathFactory) -> Forge:
    return Forge(tmp_path_factory.mktemp("forge"))


@pytest.mark.faults
def test_what_claims_or_unfolds_to_gigabytes_is_refused_in_little_memory(
    tmp_path: Path, cases: Cases
) -> None:
    bombs = all_bombs()
    (tmp_path / "bombs").write_bytes(pickle.dumps(bombs))
    command = [sys.executable, "-m", "backup_pipeline_tests.faults.bombs", tmp_path / "bombs"]
    ended = subprocess.run([*command, str(SPARE_BYTES)], capture_output=True, check=True)
    told = json.loads(ended.stdout)
    assert [(decoder, name) for decoder, name, _ in told] == [one[1::-1] for one in bombs]
    accepted = [one for one in told if not one[2].startswith("refused: ")]
    assert accepted == []
    cases.add(len(bombs))


def stored(content: dict[str, bytes]) -> MemoryStore:
    """A store with these objects."""
    store = MemoryStore()
    for name, one in content.items():
        store.put(name, one)
    return store


def put(body: Any, forged: Any, draw: st.DrawFn) -> None:
    """Change one member, at any depth."""
    place = body
    while True:
        members = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not members:
            return
        member = draw(st.sampled_from(members))
        if isinstance(place[member], dict | list) and draw(st.booleans()):
            place = place[member]
        elif draw(st.integers(0, 4)):
            place[member] = draw(forged)
            return
        else:
            del place[member]
            return


@st.composite
def changed(draw: st.DrawFn, body: dict[str, Any]) -> dict[str, Any]:
    """A document's or record's body with some members of any value, or gone."""
    body = json.loads(json.dumps(body))
    for _ in range(draw(st.integers(1, 3))):
        put(body, values, draw)
    return body


def as_json(body: Any) -> bytes:
    """As a writer that minds nothing makes it."""
    return json.dumps(body).encode()


# -- documents with a right digest


def test_forged_documents_are_refused_or_open_nothing_else(cases: Cases) -> None:
    whole = make_repository(MemoryStore())
    store = whole.store
    documents = {one.name: bytes(store.get(one.name)) for one in store.list()}
    names = [name for name in documents if "log/" not in name and "/twin/" not in name]

    @many(cases, 400)
    @given(st.data())
    def check(data: st.DataObject) -> None:
        cases.add()
        name = data.draw(st.sampled_from(sorted(names)))
        text = as_json(data.draw(changed(json.loads(documents[name][48:]))))
        start = header(STORE if name.startswith("store") else KEY_SET)
        content = start + hashlib.sha256(start + text).digest() + text
        decode = decode_descriptor if name.startswith("store") else decode_key_set
        with suppress(BackupError):
            decode(content, name)
        store.heal(name, content)
        try:
            repository = open_repository(store)
            assert repository.keys == whole.keys
            assert verify(repository).damage or content == documents[name]
        except BackupError:
            # The twin is as it was, and either copy is enough.
            raise AssertionError(f"{name} closed the store") from None
        finally:
            store.heal(name, documents[name])

    check()


# -- records that a faulty writer sealed


def test_forged_records_are_refused_or_told(forge: Forge, tmp_path: Path, cases: Cases) -> None:
    said = forge.snapshot.record_body()
    bodies = [
        {**said, "id": "ab" * 16},
        {"type": "replacement", "replacements": {}, "reason": "", "at": ""},
        {"type": "condemn", "names": ["manifests/" + "0" * 64], "reason": "", "not_before": ""},
        {"type": "expire", "snapshots": [{"id": said["id"], "reason": ""}]},
        {"type": "note", "optional": True, "text": "x"},
    ]
    base = forge.names()
    prefix = forge.repository.prefix
    for name in base:
        if "/packs/" in name:
            bodies[1]["replacements"][name.removeprefix(prefix)] = [name.removeprefix(prefix)]
    for one in said["segments"]:
        bodies[1]["replacements"][f"manifests/{one['name']}"] = [one]

    @many(cases, 250)
    @given(st.data())
    def check(data: st.DataObject) -> None:
        cases.add()
        store = stored(base)
        body = data.draw(st.sampled_from(bodies).flatmap(changed))
        try:
            open_repository(store).log.append(body)
        except (BackupError, ValueError):
            return  # a writer that would not write it; a NaN is no JSON
        target = tmp_path / "target"
        try:
            repository = open_repository(store)
            for snapshot in repository.snapshots():
                report = restore(repository, snapshot, target)
                assert report.ok is not bool(report.damage)
                forge.check_contents(target)
                shutil.rmtree(target)
            verify(repository)
            again = make_checkpoint(repository)
            assert [one.id for one in again] == [one.id for one in repository.snapshots()]
        except BackupError:
            return
        finally:
            shutil.rmtree(target, ignore_errors=True)

    check()


def make_checkpoint(repository: Repository) -> list[Snapshot]:
    """What another reader makes of the state, once it went through a checkpoint."""
    text = canonical_json(repository.state.checkpoint())
    state = RepositoryState()
    state.apply(Record(128, "", decode_json(text, "it"), ""))
    return state.live()


# -- rows that a faulty writer sealed


def test_forged_rows_never_become_other_bytes(forge: Forge, tmp_path: Path, cases: Cases) -> None:
    @many(cases, 300)
    @given(st.data())
    def check(data: st.DataObject) -> None:
        cases.add()
        rows = [forge.row(b"%d" % number, number=number) for number in range(4)]
        for _ in range(data.draw(st.integers(1, 3))):
            forge_row(data.draw, data.draw(st.sampled_from(rows)))
        target = tmp_path / "target"
        try:
            snapshot = forge.snapshot_of(rows)
        except (pa.ArrowException, OverflowError, TypeError):
            return  # no writer can write it
        try:
            report = verify(forge.repository, snapshots=[snapshot])
            restored = restore(forge.repository, snapshot, target)
        except BackupError:
            return
        else:
            forge.check_contents(target)
            assert restored.ok is not bool(restored.damage)
            assert report.ok or report.damage
        finally:
            shutil.rmtree(target, ignore_errors=True)

    check()


def forge_row(draw: st.DrawFn, row: dict[str, Any]) -> None:
    """Change one thing of a row of a file with one chunk."""
    row["chunks"] = [dict(one) for one in row["chunks"]]
    near = st.integers(-1, 1)
    what = draw(st.sampled_from(["chunk", "near", "pack", "id", "twice", "holes", "size", "type"]))
    chunk = row["chunks"][0] if row["chunks"] else None
    count = st.integers(0, 3) | st.sampled_from([(1 << 32) - 1, 16 << 20, 1 << 24, 1 << 31])
    field = draw(st.sampled_from(["ordinal", "offset", "stored", "raw", "inner", "size"]))
    if what == "chunk" and chunk:
        chunk[field] = draw(count)
    elif what == "near" and chunk:
        chunk[field] = max(0, chunk[field] + draw(near))
    elif what == "pack" and chunk:
        chunk["pack"] = draw(st.binary(min_size=48, max_size=48))
    elif what == "id" and chunk:
        chunk["id"] = draw(st.binary(min_size=32, max_size=32))
    elif what == "twice":
        row["chunks"] *= draw(st.sampled_from([0, 2, 3]))
        row["size"] = sum(one["size"] for one in row["chunks"])
    elif what == "holes":
        hole = st.fixed_dictionaries({"offset": numbers, "length": numbers})
        row["holes"] = draw(st.lists(hole, min_size=1, max_size=3))
        row["size"] = draw(st.sampled_from([row["size"], (1 << 63) - 1, 1 << 40]))
    elif what == "size":
        row["size"] = draw(numbers)
    elif what == "type":
        row["type"] = draw(st.sampled_from(["file", "object", "symlink", "directory", "?"]))
        row["state"] = draw(st.sampled_from(["good", "torn", "vanished", "skipped", "?"]))
        row["link_target"] = draw(st.sampled_from([None, b"", b"x" * 5000, b"a\0"]))


@pytest.mark.parametrize(
    "holes",
    [
        [(0, 1 << 62), (0, 1 << 62), (0, 1 << 62), (0, 1 << 62)],  # these overflow to nothing
        [(-10, 5)],
        [(0, -5)],
        [(5, 5), (0, 5)],
        [(0, 6), (5, 6)],
        [((1 << 63) - 1, 1)],
    ],
)
def test_holes_that_no_file_has_are_damage(
    forge: Forge, tmp_path: Path, holes: list[tuple[int, int]]
) -> None:
    row = forge.row(b"a")
    row["holes"] = [{"offset": offset, "length": length} for offset, length in holes]
    total = row["size"] + sum(length for _, length in holes)
    row["size"] = (total + (1 << 63)) % (1 << 64) - (1 << 63)
    with pytest.raises(DamageError, match="a hole where none can be"):
        restore(forge.repository, forge.snapshot_of([row]), tmp_path)
    assert not any(tmp_path.iterdir())


# -- numbers and text that cannot be written again


@pytest.mark.parametrize(
    "text", ['{"a":1e999}', '{"a":-1e400}', '{"a":"\\ud800"}', '{"\\uDC00":1}', '{"a":NaN}']
)
def test_json_that_could_not_go_into_a_checkpoint_is_damage(text: str) -> None:
    with pytest.raises(DamageError, match="no JSON"):
        decode_json(text.encode(), "it")


def test_json_of_a_pair_of_surrogates_is_a_character() -> None:
    assert decode_json(b'{"a":"\\ud83d\\ude00"}', "it") == {"a": "\U0001f600"}


# -- pages


def test_the_pages_of_every_encoding_are_measured_and_fit() -> None:
    """As other writers make them: bounds must not refuse what is right."""
    count = 5000
    plain = {name: pa.nulls(count, kind) for name, kind in types().items()}
    plain["path"] = pa.array([b"%06d" % number for number in range(count)])
    plain["type"] = pa.array(["file"] * count)
    plain["state"] = pa.array(["good"] * count)
    plain["size"] = pa.array([0] * count, pa.int64())
    schema = manifest_schema()
    rows = pa.Table.from_arrays([plain[f.name] for f in schema], schema=schema)
    for options in (
        {"compression": "none"},
        {"compression": "gzip", "data_page_version": "2.0"},
        {"use_dictionary": True, "data_page_size": 100},
        {"use_dictionary": False, "write_statistics": True, "write_page_checksum": True},
        {"row_group_size": 17, "write_page_index": True},
    ):
        out = pa.BufferOutputStream()
        group = options.pop("row_group_size", count)
        with pq.ParquetWriter(out, manifest_schema(), **options) as writer:
            writer.write_table(rows, row_group_size=group)
            writer.add_key_value_metadata({"backup_pipeline": b'{"format":1}'})
        assert decode_segment(out.getvalue(), "it").equals(rows)


def types() -> dict[str, Any]:
    return {field.name: field.type for field in manifest_schema()}


def test_changed_page_headers_are_refused_or_harmless(cases: Cases) -> None:
    rows = manifest_schema().empty_table().to_pylist()
    rows = [{**dict.fromkeys(types()), "path": b"%03d" % n, "size": 0} for n in range(300)]
    table = pa.Table.from_pylist(
        [{**row, "type": "file", "state": "good"} for row in rows], schema=manifest_schema()
    )
    whole = bytes(encode_segment(table))

    @many(cases, 400)
    @given(st.lists(st.tuples(st.integers(4, len(whole) - 1), st.integers(0, 255)), max_size=4))
    @example([])
    def check(edits: list[tuple[int, int]]) -> None:
        cases.add()
        content = bytearray(whole)
        for at, byte in edits:
            content[at] = byte
        try:
            check_pages(content, "it")
            decode_segment(content, "it")
        except BackupError:
            assert edits

    check()


# -- plans


PIECES = (
    *("a", "stores", "datasets", "policies", "&x", "*x", "<<", "!!python/object", "'", '"', "\t"),
    *(": ", "- ", "{", "}", "[", "]", ",", "\n", "\n  ", "\n    ", "? ", "| ", "> ", "#", "---"),
)


def test_a_plan_of_any_text_is_refused_with_its_mistakes(tmp_path: Path, cases: Cases) -> None:
    plan = tmp_path / "plan.yaml"

    @many(cases, 300)
    @given(
        st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=40).map("".join)
        | st.dictionaries(st.sampled_from(["start", "stores", "datasets", "policies"]), values).map(
            json.dumps
        )
        | st.binary(max_size=60)
    )
    def check(text: str | bytes) -> None:
        cases.add()
        content = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
        plan.write_bytes(content)
        with pytest.raises(BackupError):
            load_plan(plan, environ={})

    check()

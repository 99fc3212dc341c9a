"""Decoders meet arbitrary bytes: nothing but a BackupError comes out, and memory stays bounded.

Stored bytes are changed as a stranger could change them. What is sealed is also forged with the
right key, as a faulty writer would: what decodes then must be usable, or be refused.
"""

from __future__ import annotations

import base64
import json
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from backup_pipeline.engine import keys as key_module
from backup_pipeline.engine.crypto import TAG_BYTES, sealer
from backup_pipeline.engine.errors import BackupError, DamageError, UsageError
from backup_pipeline.engine.format import pack
from backup_pipeline.engine.format import record as record_module
from backup_pipeline.engine.format.document import decode_descriptor, decode_key_set
from backup_pipeline.engine.format.header import PACK, RECORD, header
from backup_pipeline.engine.format.manifest import (
    check_rows,
    decode_segment,
    encode_segment,
    manifest_schema,
    merge,
)
from backup_pipeline.engine.format.record import Record, Snapshot, decode_record, encode_record
from backup_pipeline.engine.format.sealed import open_sealed, seal
from backup_pipeline.engine.keys import (
    KEY_FILE_PREFIX,
    DatasetKeys,
    KeyEncryptionKey,
    KeyFile,
    Passphrase,
    parse_key_file,
    unwrap,
)
from backup_pipeline.engine.state import RepositoryState
from backup_pipeline_tests.format.make_vectors import KEYS, RUN, SALT

HERE = Path(__file__).parent
VECTORS: dict[str, Any] = json.loads((HERE / "vectors_v1.json").read_text())
GOLDEN = HERE.parent / "repositories" / "v1-plaintext"
SEGMENT = max(GOLDEN.rglob("manifests/*"), key=lambda path: path.stat().st_size).read_bytes()
PACK_BYTES = {mode: base64.b64decode(VECTORS[mode]["pack"]["stored"]) for mode in KEYS}
START = pack.pack_header(RUN, SALT)

quick = settings(max_examples=150, deadline=None)
modes = st.sampled_from(sorted(KEYS))


@st.composite
def changed(draw: st.DrawFn, whole: bytes) -> bytes:
    """Bytes with some of them changed, cut out, doubled or cut off."""
    content = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(content) - 1)))
        how = draw(st.sampled_from(["flip", "write", "cut", "double", "end"]))
        size = draw(st.integers(1, 64))
        if how == "flip" and content:
            content[at] ^= 1 << draw(st.integers(0, 7))
        elif how == "write":
            content[at : at + size] = draw(st.binary(min_size=size, max_size=size))
        elif how == "cut":
            del content[at : at + size]
        elif how == "double":
            content[at:at] = content[at : at + size]
        else:
            del content[at:]
    return bytes(content)


def _peak_bytes(work: Any) -> int:
    tracemalloc.start()
    try:
        work()
    except BackupError:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return peak


# -- as a stranger changes them


@quick
@given(st.data(), modes, st.integers(0, 1))
def test_a_changed_record_is_damage(data: st.DataObject, mode: str, number: int) -> None:
    whole = base64.b64decode(VECTORS[mode]["records"][number]["stored"])
    content = data.draw(changed(whole))
    if content == whole:
        return
    with pytest.raises(BackupError):
        decode_record(KEYS[mode], content, number, "it")


@quick
@given(st.data(), st.sampled_from(["descriptor", "key_set"]))
def test_a_changed_document_is_damage(data: st.DataObject, which: str) -> None:
    whole = bytes.fromhex(VECTORS["documents"][which])
    content = data.draw(changed(whole))
    if content == whole:
        return
    with pytest.raises(BackupError):
        if which == "descriptor":
            decode_descriptor(content, "store")
        else:
            decode_key_set(content, "keys/00000000")


@quick
@given(st.data(), modes)
def test_a_changed_pack_gives_no_other_content(data: st.DataObject, mode: str) -> None:
    keys, whole = KEYS[mode], PACK_BYTES[mode]
    content = data.draw(changed(whole))
    try:
        offset, length = pack.index_range(keys, content[:64], content, len(content), "it")
        sealed = content[offset : offset + length]
        index = pack.decode_index(keys, content[:64], sealed, offset, "it")
    except BackupError:
        return
    # Only what lies between head and index can differ now, and its frames do not open.
    assert content[:64] + content[offset:] == whole[:64] + whole[offset:]
    assert sum(frame.stored for frame in index.frames) == offset - 64


@quick
@given(st.data(), modes)
def test_a_changed_segment_does_not_open(data: st.DataObject, mode: str) -> None:
    whole = bytes(seal(KEYS[mode], b"rows " * 1000, salt=SALT))
    content = data.draw(changed(whole))
    if content == whole:
        return
    with pytest.raises(BackupError):
        open_sealed(KEYS[mode], content, "it")


@quick
@given(changed(SEGMENT))
def test_changed_parquet_is_refused_or_has_possible_rows(content: bytes) -> None:
    # Beyond the digest in its name nothing guards plain Parquet; it must still not crash a reader.
    try:
        rows = decode_segment(content, "it")
        check_rows(rows, "it")
    except BackupError:
        return
    assert len(merge([rows])) <= len(rows)


@quick
@given(st.binary(max_size=80) | st.text(max_size=60).map(lambda t: (KEY_FILE_PREFIX + t).encode()))
def test_what_is_no_key_file_is_told(content: bytes) -> None:
    try:
        found = parse_key_file(content)
    except UsageError:
        return
    assert len(found.content) == 32


@quick
@given(st.binary(max_size=400), st.sampled_from([b"", header(RECORD), header(PACK)]), modes)
def test_arbitrary_bytes_are_refused_by_every_decoder(
    content: bytes, start: bytes, mode: str
) -> None:
    keys, whole = KEYS[mode], start + content
    for decode in (
        lambda: decode_record(keys, whole, 0, "it"),
        lambda: decode_descriptor(whole, "it"),
        lambda: decode_key_set(whole, "it"),
        lambda: pack.index_range(keys, whole[:64], whole, len(whole), "it"),
        lambda: pack.decode_index(keys, whole[:64], whole[64:], 64, "it"),
        lambda: open_sealed(keys, whole, "it"),
        lambda: decode_segment(whole, "it"),
    ):
        with pytest.raises(BackupError):
            decode()


# -- as a faulty writer forges them

values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 1 << 70) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)
ID, NAME = "0" * 32, "packs/" + "0" * 32 + "/" + "0" * 64
SEGMENT_SAYS = {
    "name": "0" * 64,
    "length": 1,
    "stored": 1,
    "rows": 1,
    "merkle": None,
    "origin": None,
}
TIME = "2026-11-22T02:00:00.000000Z"
SNAPSHOT: dict[str, Any] = {
    "type": "snapshot",
    **dict.fromkeys(("id", "chain", "run", "parent", "base"), ID),
    **dict.fromkeys(("started_at", "captured_at", "finished_at"), TIME),
    **dict.fromkeys(record_module._COUNTS, 1),
    **dict.fromkeys(("timing", "status", "fingerprint", "kind"), "exact"),
    "day": "2026-11-22",
    "problems": [],
    "changes": {},
    "segments": [SEGMENT_SAYS],
}
RUN_SAYS: dict[str, Any] = {"type": "run", "run": ID, "wraps": [{}], "foreign": {"1" * 32: [{}]}}
BODIES: list[dict[str, Any]] = [
    SNAPSHOT,
    RUN_SAYS,
    {"type": "keys", "key_set": "", "dataset": "d", "tier": "t", "created_at": TIME},
    {"type": "expire", "snapshots": [{"id": ID, "reason": ""}]},
    {"type": "pin", "snapshot": ID, "pinned": True, "reason": ""},
    {"type": "condemn", "names": [NAME]},
    {"type": "replacement", "replacements": {NAME: [NAME], "manifests/0": [SEGMENT_SAYS]}},
    {"type": "note", "optional": True},
    {
        "type": "checkpoint",
        "state": {
            **dict.fromkeys(("dataset", "tier", "created_at", "key_set"), "x"),
            "deployment": None,
            "runs": {ID: RUN_SAYS},
            "snapshots": [[3, SNAPSHOT]],
            "expired": {},
            "pinned": {},
            "condemned": {NAME: 4},
            "replacements": {NAME: [NAME]},
            "unknown": [[1, {"type": "note"}]],
        },
    },
]


@st.composite
def forged(draw: st.DrawFn) -> dict[str, Any]:
    """A record's body with one member, at any depth, of any value or gone."""
    body: Any = json.loads(json.dumps(draw(st.sampled_from(BODIES))))
    place, inner = body, True
    while inner:
        members: list[Any] = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not members:
            break
        member = draw(st.sampled_from(members))
        below = place[member]
        inner = isinstance(below, dict | list) and draw(st.booleans())
        if inner:
            place = below
        elif draw(st.booleans()):
            place[member] = draw(values)
        else:
            del place[member]
    return body


@settings(max_examples=600, deadline=None)
@given(forged(), modes)
def test_a_forged_record_is_refused_or_usable(body: dict[str, Any], mode: str) -> None:
    keys = KEYS[mode]
    record = decode_record(keys, encode_record(keys, 5, "ab" * 32, body, SALT), 5, "it")
    state = RepositoryState()
    try:
        state.apply(record)
        found = state.live()
    except BackupError:
        return
    assert all(isinstance(one, Snapshot) and one.segments is not None for one in found)
    state.unfinished_run(kind="full", chain=None, parent=None, base=None, operation="backup")
    again = RepositoryState()
    again.apply(Record(128, "", json.loads(json.dumps(state.checkpoint())), ""))
    assert again.checkpoint() == json.loads(json.dumps(state.checkpoint()))
    for said in state.runs.values():
        with pytest.raises(BackupError):
            keys.unwrap_run_key(RUN, said["wraps"])


def _sealed_index(keys: DatasetKeys, plain: bytes) -> bytes:
    out = bytearray(len(plain) + TAG_BYTES)
    box = sealer(keys.index, "pack index", START, encrypted=keys.encrypted)
    box.seal_into(0, plain, b"index1" + keys.dataset_id, memoryview(out))
    return bytes(out)


@quick
@given(
    st.lists(st.integers(0, 5) | st.integers(0, (1 << 32) - 1), max_size=12),
    st.binary(max_size=100),
    modes,
)
def test_a_forged_index_is_refused_or_fills_the_pack(
    numbers: list[int], rest: bytes, mode: str
) -> None:
    plain = struct.pack(f"<{len(numbers)}I", *numbers) + rest
    try:
        index = pack.decode_index(KEYS[mode], START, _sealed_index(KEYS[mode], plain), 200, "it")
    except DamageError:
        return
    assert sum(frame.stored for frame in index.frames) == 200 - 64
    for frame in index.frames:
        assert sum(size for size, _ in frame.members) == frame.raw


@quick
@given(st.data())
def test_forged_rows_are_refused_or_possible(data: st.DataObject) -> None:
    number = st.integers(0, 3) | st.integers(0, (1 << 32) - 1)
    chunk = st.fixed_dictionaries(
        {
            "pack": st.binary(min_size=48, max_size=48),
            **dict.fromkeys(("ordinal", "offset", "stored", "raw", "inner", "size"), number),
            "id": st.binary(min_size=32, max_size=32),
        }
    )
    row = st.fixed_dictionaries(
        {
            "path": st.binary(max_size=6),
            "type": st.sampled_from(["file", "object", "deleted", "?"]),
            "state": st.sampled_from(["good", "torn"]),
            "size": st.integers(-1, 3) | st.integers(-(1 << 63), (1 << 63) - 1),
            "chunks": st.none() | st.lists(chunk, max_size=2),
        }
    )
    rows = pa.Table.from_pylist(data.draw(st.lists(row, max_size=3)), schema=manifest_schema())
    found = decode_segment(encode_segment(rows), "it")
    assert found.equals(rows)
    try:
        check_rows(found, "it")
    except DamageError:
        return
    for one in found.to_pylist():
        assert not {b"", b".", b".."} & set(one["path"].split(b"/"))
        if one["state"] == "good" and one["type"] in ("file", "object"):
            assert one["size"] == sum(chunk["size"] for chunk in one["chunks"] or ())


@quick
@given(
    st.dictionaries(st.sampled_from(["name", "salt", "memory_kib", "iterations", "lanes"]), values)
)
def test_forged_derivations_are_refused_before_they_cost(kdf: dict[str, Any]) -> None:
    good = key_module.KeyEncryptionKey.new_parameters()
    said = {**good, "memory_kib": 8192, "iterations": 1, **kdf}
    for secret in (KeyFile(bytes(32)), Passphrase(b"x")):
        try:
            key = KeyEncryptionKey.from_secret(secret, said)
        except BackupError:
            continue
        assert len(key.key) == 32
        if isinstance(secret, Passphrase):
            assert said["memory_kib"] <= 1 << 20


@quick
@given(st.data())
def test_forged_wraps_are_refused(data: st.DataObject) -> None:
    kek, keys = KeyEncryptionKey(bytes(32)), KEYS["encrypted"]
    wraps = json.loads(json.dumps(keys.wrap([kek])))
    for entry in wraps:
        entry[data.draw(st.sampled_from(sorted(entry)))] = data.draw(values)
    try:
        found = DatasetKeys.unwrap([kek], keys.dataset_id, wraps)
    except BackupError:
        return
    assert found in (keys, DatasetKeys(keys.index, None))
    with pytest.raises(BackupError):
        unwrap([kek], "store", keys.dataset_id, wraps)


# -- bounds


@pytest.mark.parametrize("mode", sorted(KEYS))
def test_claims_cost_no_memory(mode: str) -> None:
    keys = KEYS[mode]
    bomb = zstandard.ZstdCompressor(level=19).compress(bytes(300 << 20))
    assert len(bomb) < 100_000
    for length, stored, content in (
        (300 << 20, len(bomb), bomb),  # more than the limit
        (1000, len(bomb), bomb),  # more than it says
        ((1 << 32) - 1, (1 << 32) - 1, b"{}"),
        (5, 100, b"{}"),
    ):
        plain = struct.pack("<II", length, stored) + content
        whole = _forged_record(keys, plain)
        with pytest.raises(DamageError):
            decode_record(keys, whole, 0, "it")
        assert _peak_bytes(lambda whole=whole: decode_record(keys, whole, 0, "it")) < 4 << 20
    for frames, members in ((1 << 31, 0), (0, 1 << 31), ((1 << 32) - 1, (1 << 32) - 1)):
        sealed = _sealed_index(keys, struct.pack("<II", frames, members))
        decode = lambda sealed=sealed: pack.decode_index(keys, START, sealed, 64, "it")  # noqa: E731
        with pytest.raises(DamageError):
            decode()
        assert _peak_bytes(decode) < 1 << 20


def _forged_record(keys: DatasetKeys, plain: bytes) -> bytes:
    head = encode_record(keys, 0, "", {}, SALT)[: record_module.HEAD_BYTES]
    out = bytearray(len(plain) + TAG_BYTES)
    box = sealer(keys.index, "record", head, encrypted=keys.encrypted)
    box.seal_into(0, plain, b"record" + keys.dataset_id, memoryview(out))
    return head + bytes(out)

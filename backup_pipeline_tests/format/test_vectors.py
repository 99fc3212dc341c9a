"""The bytes of the format: the engine writes them, and the independent reader reads them."""

from __future__ import annotations

import base64
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from backup_pipeline.engine.crypto import TAG_BYTES
from backup_pipeline.engine.errors import DamageError, UsageError
from backup_pipeline.engine.format import pack
from backup_pipeline.engine.format.header import RECORD, check_header, unknown_write_features
from backup_pipeline.engine.format.record import decode_record
from backup_pipeline.engine.format.sealed import START, open_sealed, open_sealed_range
from backup_pipeline_tests.format import make_vectors, reader

VECTORS: dict[str, Any] = json.loads((Path(__file__).parent / "vectors_v1.json").read_text())
MODES = ("encrypted", "plaintext")


def test_the_engine_still_writes_the_bytes_of_version_1() -> None:
    made = json.loads(json.dumps(make_vectors.make()))
    assert _comparable(made) == _comparable(VECTORS)


def _comparable(vectors: dict[str, Any]) -> dict[str, Any]:
    """Without what is compressed, where that was done by another zstd: its frames may differ."""
    found = json.loads(json.dumps(vectors))
    if VECTORS["zstd"] != make_vectors.ZSTD:
        del found["zstd"]
        for mode in MODES:
            del found[mode]["pack"], found[mode]["records"][1]["stored"]
    return found


def test_canonical_json_is_as_the_page_says() -> None:
    for one in VECTORS["canonical_json"]:
        assert reader.canonical(json.loads(one["value"])).hex() == one["canonical"]


def test_the_reader_derives_the_same_keys() -> None:
    said = VECTORS["keys"]
    index_key, kdf = bytes.fromhex(said["index_key"]), said["kdf"]
    kek = reader.kek_of_passphrase(said["passphrase"].encode(), kdf)
    assert kek.hex() == said["kek_of_passphrase"]
    assert reader.derive(kek, "key name")[:8].hex() == said["name_of_kek"]
    assert reader.kek_of_key_file(said["key_file"], kdf).hex() == said["kek_of_key_file"]
    assert reader.derive(index_key, "dataset id")[:16].hex() == said["dataset_id"]
    identity = reader.derive(index_key, "identity")
    assert identity.hex() == said["identity_key"]
    assert reader.keyed(identity, bytes.fromhex(said["chunk"])).hex() == said["chunk_id"]
    prefix = reader.derive(bytes.fromhex(said["name_key"]), "prefix", said["dataset"].encode())
    assert prefix[:16].hex() == said["prefix"]
    subject = bytes.fromhex(said["dataset_id"])
    assert reader.unwrap(kek, "index", subject, [said["wrap"]]) == index_key


def test_the_reader_reads_documents() -> None:
    said = VECTORS["documents"]
    descriptor = reader.decode_document(bytes.fromhex(said["descriptor"]), b"S")
    assert descriptor["kdf"] == VECTORS["keys"]["kdf"]
    key_set = reader.decode_document(bytes.fromhex(said["key_set"]), b"K")
    assert key_set["dataset"] == VECTORS["keys"]["dataset_id"]
    kek = bytes.fromhex(VECTORS["keys"]["kek_of_passphrase"])
    index = reader.unwrap(kek, "index", bytes.fromhex(key_set["dataset"]), key_set["wraps"])
    assert index.hex() == VECTORS["keys"]["index_key"]


def test_a_header_tells_damage_from_a_later_version() -> None:
    good = bytes.fromhex(VECTORS["headers"]["R"])
    check_header(good, RECORD, "it")
    later = bytes.fromhex(VECTORS["header_with_features"])
    with pytest.raises(UsageError, match="upgrade"):
        check_header(later, RECORD, "it")
    assert unknown_write_features(later) == 2
    for bit in range(8 * len(good)):
        flipped = bytearray(good)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(DamageError):
            check_header(flipped, RECORD, "it")
        with pytest.raises(reader.Damage):
            reader.check_header(bytes(flipped), b"R")


@pytest.mark.parametrize("mode", MODES)
def test_the_reader_opens_a_frame(mode: str) -> None:
    said = VECTORS[mode]["frame"]
    key = reader.derive(bytes.fromhex(said["secret"]), said["context"], bytes.fromhex(said["head"]))
    seal = reader.Seal(key, mode == "encrypted")
    sealed, binding = bytes.fromhex(said["sealed"]), bytes.fromhex(said["binding"])
    assert seal.open(said["number"], sealed, binding).hex() == said["content"]


@pytest.mark.parametrize("mode", MODES)
def test_records_say_what_was_put_in(mode: str) -> None:
    keys = make_vectors.KEYS[mode]
    for said in VECTORS[mode]["records"]:
        stored = base64.b64decode(said["stored"])
        record = decode_record(keys, stored, said["sequence"], "it")
        assert record.body == said["says"]
        assert record.previous == said["previous"]
        assert record.digest == hashlib.sha256(stored).hexdigest()
        seal = reader.Seal(reader.derive(keys.index, "record", stored[:104]), mode == "encrypted")
        plain = seal.open(0, stored[104:], b"record" + keys.dataset_id)
        length, packed = (int.from_bytes(plain[at : at + 4], "little") for at in (0, 4))
        assert json.loads(reader.unfold(plain[8 : 8 + packed], length)) == said["says"]


@pytest.mark.parametrize("mode", MODES)
def test_a_pack_and_its_index_agree(mode: str) -> None:
    keys, said = make_vectors.KEYS[mode], VECTORS[mode]["pack"]
    stored = base64.b64decode(said["stored"])
    start = stored[: pack.FRAMES_START]
    offset, length = pack.index_range(keys, start, stored, len(stored), "it")
    index = pack.decode_index(keys, start, stored[offset : offset + length], offset, "it")
    members = [identity for frame in index.frames for _, identity in frame.members]
    assert [one.hex() for one in members] == [one["id"] for one in said["chunks"]]
    box = pack.content_sealer(keys, make_vectors.CONTENT_KEY, start)
    contents = b""
    for frame in index.frames:
        sealed = stored[frame.offset : frame.offset + frame.stored]
        opened = box.open(frame.ordinal, sealed, pack.frame_binding(keys.dataset_id, frame.ordinal))
        contents += reader.unfold(bytes(opened), frame.raw)
    assert contents.hex() == "".join(one["content"] for one in said["chunks"])


@pytest.mark.parametrize("mode", MODES)
def test_a_range_of_a_segment_can_be_read(mode: str) -> None:
    keys = make_vectors.KEYS[mode]
    content = bytes(range(256)) * 4097
    stored = make_vectors.seal(keys, content, salt=make_vectors.SALT)
    assert hashlib.sha256(stored).hexdigest() == VECTORS[mode]["segment"]["sha256"]
    assert open_sealed(keys, stored, "it")[: len(content)] == content
    rest, step = memoryview(stored)[START:], (1 << 20) + TAG_BYTES
    last = open_sealed_range(keys, stored[:START], rest[step:], 1, len(rest), "it")
    assert last[: len(content) - (1 << 20)] == content[1 << 20 :]
    with pytest.raises(DamageError):  # a frame in another's place, and one that is not the last
        open_sealed_range(keys, stored[:START], rest[step:], 0, len(rest), "it")
    with pytest.raises(DamageError):
        open_sealed(keys, stored[: START + step], "it")


def test_index_columns_are_little_endian_on_every_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    there = pack._u32s([1, 2])
    assert there == b"\1\0\0\0\2\0\0\0"
    monkeypatch.setattr(sys, "byteorder", "big")
    assert pack._u32s([1]) == b"\0\0\0\1"  # swapped, as a big-endian machine needs it
    assert pack._from_u32s(b"\0\0\0\1") == [1]

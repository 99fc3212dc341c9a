"""Test vectors of format version 1, computed by the engine with fixed keys, salts and nonces.

python -m backup_pipeline_tests.format.make_vectors > vectors_v1.json
"""

from __future__ import annotations

import base64
import json
import sys
from hashlib import sha256
from typing import Any

import zstandard

from backup_pipeline.engine.crypto import TAG_BYTES, derive, identifier, sealer
from backup_pipeline.engine.format.document import (
    Descriptor,
    KeySet,
    encode_descriptor,
    encode_key_set,
)
from backup_pipeline.engine.format.header import (
    KEY_SET,
    MANIFEST,
    PACK,
    RECORD,
    STORE,
    canonical_json,
    header,
)
from backup_pipeline.engine.format.pack import (
    FRAMES_START,
    Frame,
    content_sealer,
    frame_binding,
    pack_header,
    seal_index,
)
from backup_pipeline.engine.format.record import encode_record, snapshot_digest
from backup_pipeline.engine.format.sealed import padded_size, seal
from backup_pipeline.engine.keys import DatasetKeys, KeyEncryptionKey, KeyFile, Passphrase, wrap

PASSPHRASE = b"correct horse battery staple"
KEY_FILE = bytes(range(32))
KDF = {
    "name": "argon2id",
    "memory_kib": 8192,
    "iterations": 1,
    "lanes": 2,
    "salt": bytes(range(16)).hex(),
}
STORE_ID, RUN = b"store id 16 byte", b"run id, 16 bytes"
NAME_KEY, CONTENT_KEY = b"name key, 32 bytes long, public.", b"content key, 32 bytes, of a run."
SALT, NONCE = bytes(range(100, 132)), bytes(range(12))
DATASET = "größe/vision"
ZSTD = ".".join(map(str, zstandard.ZSTD_VERSION))
KEYS = {
    "encrypted": DatasetKeys(
        b"index key, 32 bytes, of dataset.", b"content root, 32 bytes, dataset."
    ),
    "plaintext": DatasetKeys.generate(encrypted=False),
}
SNAPSHOT_SAYS = {
    "id": "00112233445566778899aabbccddeeff",
    "day": "2026-11-22",
    "captured_at": "2026-11-22T02:00:00.123456Z",
    "timing": "on-time",
    "status": "complete",
    "entries": 3,
    "bytes": 12345678901,
    "segments": [
        {
            "name": "ab" * 32,
            "length": 5000,
            "stored": 8256,
            "rows": 3,
            "merkle": None,
            "origin": None,
        }
    ],
    "not covered": True,
}
SMALL_BODY = {"type": "pin", "snapshot": "00" * 16, "pinned": True, "reason": "größer\n", "at": "…"}
LARGE_BODY = {
    "type": "expire",
    "snapshots": [{"id": f"{n:032x}", "reason": "not kept"} for n in range(40)],
    "at": "2026-11-22T02:00:00.123456Z",
}


def make() -> dict[str, Any]:
    """All vectors; bytes in hex, long ones in base64."""
    return {
        "zstd": ZSTD,
        "canonical_json": _canonical(),
        "headers": {
            kind.decode(): header(kind).hex() for kind in (STORE, KEY_SET, RECORD, MANIFEST, PACK)
        },
        "header_with_features": header(RECORD, read=0x80000001, write=2, optional=0x8000).hex(),
        "derive": {
            "key": KEY_FILE.hex(),
            "context": "pack frames",
            "salt": SALT.hex(),
            "derived": derive(KEY_FILE, "pack frames", SALT).hex(),
            "without_salt": derive(KEY_FILE, "identity").hex(),
        },
        "padded": {str(n): padded_size(n) for n in (0, 1, 4096, 4097, 1 << 20, 20_000_001)},
        "keys": _keys(),
        "documents": _documents(),
        "snapshot_digest": {
            "record": SNAPSHOT_SAYS,
            "digest": snapshot_digest(SNAPSHOT_SAYS),
        },
        **{name: _sealed(keys) for name, keys in KEYS.items()},
    }


def _canonical() -> list[dict[str, str]]:
    values: list[Any] = [
        {"b": [1, -2, 1 << 63], "a": {"z": None, "é": True}},
        {"text": 'quote " backslash \\ tab \t nul \0 delete \x7f größe 😀'},
    ]
    return [
        {"value": json.dumps(value), "canonical": canonical_json(value).hex()} for value in values
    ]


def _keys() -> dict[str, Any]:
    passphrase = KeyEncryptionKey.from_secret(Passphrase(PASSPHRASE), KDF)
    key_file = KeyEncryptionKey.from_secret(KeyFile(KEY_FILE), KDF)
    keys = KEYS["encrypted"]
    return {
        "kdf": KDF,
        "passphrase": PASSPHRASE.decode(),
        "kek_of_passphrase": passphrase.key.hex(),
        "name_of_kek": passphrase.name,
        "key_file": "backup-pipeline-key-1:" + base64.b64encode(KEY_FILE).decode(),
        "kek_of_key_file": key_file.key.hex(),
        "index_key": keys.index.hex(),
        "dataset_id": keys.dataset_id.hex(),
        "identity_key": keys.identity.hex(),
        "chunk": b"a chunk".hex(),
        "chunk_id": identifier(keys.identity)(b"a chunk").hex(),
        "name_key": NAME_KEY.hex(),
        "dataset": DATASET,
        "prefix": derive(NAME_KEY, "prefix", DATASET.encode())[:16].hex(),
        "wrap": wrap(passphrase, "index", keys.dataset_id, keys.index, NONCE),
    }


def _documents() -> dict[str, str]:
    kek = KeyEncryptionKey.from_secret(Passphrase(PASSPHRASE), KDF)
    keys = KEYS["encrypted"]
    assert keys.content is not None
    wraps = [
        {"kind": "of a later version", "purpose": "index"},
        wrap(kek, "index", keys.dataset_id, keys.index, NONCE),
        wrap(kek, "content", keys.dataset_id, keys.content, NONCE),
    ]
    return {
        "descriptor": encode_descriptor(Descriptor(STORE_ID, "aes-256-gcm", KDF)).hex(),
        "key_set": encode_key_set(
            KeySet("keys/00000000", STORE_ID, KDF, keys.dataset_id, wraps)
        ).hex(),
    }


def _sealed(keys: DatasetKeys) -> dict[str, Any]:
    content = bytes(range(256)) * 4097  # more than one frame
    segment = seal(keys, content, salt=SALT)
    box = sealer(keys.index, "pack index", SALT, encrypted=keys.encrypted)
    frame = bytearray(5 + TAG_BYTES)
    box.seal_into(7, b"hello", b"bound", memoryview(frame))
    return {
        "index_key": keys.index.hex(),
        "content_key": CONTENT_KEY.hex(),
        "frame": {
            "secret": keys.index.hex(),
            "context": "pack index",
            "head": SALT.hex(),
            "number": 7,
            "binding": b"bound".hex(),
            "content": b"hello".hex(),
            "sealed": frame.hex(),
        },
        "records": [
            {"sequence": at, "previous": before, "says": says, "stored": _base64(stored)}
            for at, before, says in ((0, "", SMALL_BODY), (1, "cd" * 32, LARGE_BODY))
            for stored in [encode_record(keys, at, before, says, SALT)]
        ],
        "segment": {
            "content": "bytes 0 to 255, 4097 times, then zeros",
            "stored_bytes": len(segment),
            "sha256": sha256(segment).hexdigest(),
            "head": segment[:64].hex(),
        },
        "pack": _pack(keys),
    }


def _pack(keys: DatasetKeys) -> dict[str, Any]:
    small, large = [b"one", b"two, longer"], b"compressible " * 100
    identify = identifier(keys.identity)
    start = pack_header(RUN, SALT)
    box = content_sealer(keys, CONTENT_KEY, start)
    packed = zstandard.ZstdCompressor(level=1).compress(large)
    out, frames = bytearray(start), list[Frame]()
    for contents, stored in ((small, b"".join(small)), ([large], packed)):
        frame = bytearray(len(stored) + TAG_BYTES)
        ordinal = len(frames)
        box.seal_into(ordinal, stored, frame_binding(keys.dataset_id, ordinal), memoryview(frame))
        members = tuple((len(one), identify(one)) for one in contents)
        raw = sum(size for size, _ in members)
        frames.append(Frame(ordinal, len(out), len(frame), raw, members))
        out += frame
    assert frames[0].offset == FRAMES_START
    out += seal_index(keys, start, frames)
    return {
        "run": RUN.hex(),
        "sha256": sha256(out).hexdigest(),
        "chunks": [
            {"content": content.hex(), "id": identify(content).hex()} for content in (*small, large)
        ],
        "stored": _base64(bytes(out)),
    }


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


if __name__ == "__main__":
    json.dump(make(), sys.stdout, indent=1, ensure_ascii=False)
    print()

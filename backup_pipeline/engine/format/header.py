"""The 16 bytes that open every stored object, and the JSON that follows in some of them."""

from __future__ import annotations

import json
import struct
from typing import Any, cast

from backup_pipeline.engine.crypto import Buffer
from backup_pipeline.engine.errors import DamageError, UsageError

__all__ = [
    "FORMAT_VERSION",
    "HEADER_BYTES",
    "KEY_SET",
    "MANIFEST",
    "PACK",
    "RECORD",
    "STORE",
    "canonical_json",
    "check_header",
    "decode_json",
    "header",
]

MAGIC = b"BKPL"
FORMAT_VERSION = 1
HEADER_BYTES = 16
_LAYOUT = struct.Struct("<4sBBHII")  # magic, type, version, reserved, required, optional

STORE, KEY_SET, RECORD, MANIFEST, PACK = b"S", b"K", b"R", b"M", b"P"

# Bits of features that a reader must know to read an object. Version 1 defines none.
KNOWN_REQUIRED_FEATURES = 0


def header(kind: bytes, *, required: int = 0, optional: int = 0) -> bytes:
    """The first 16 bytes of an object of this kind."""
    return _LAYOUT.pack(MAGIC, kind[0], FORMAT_VERSION, 0, required, optional)


def check_header(content: Buffer, kind: bytes, name: str) -> None:
    """Refuse what is not an object of this kind that this version can read.

    Raises:
        DamageError: Not such an object.
        UsageError: Written by a later version.
    """
    if len(content) < HEADER_BYTES:
        raise DamageError(f"{name} is cut short: {len(content)} bytes")
    magic, found, version, reserved, required, _ = _LAYOUT.unpack_from(content)
    if magic != MAGIC or found != kind[0] or reserved:
        raise DamageError(f"{name} does not begin as what it should be")
    unknown = required & ~KNOWN_REQUIRED_FEATURES
    if version != FORMAT_VERSION or unknown:
        raise UsageError(
            f"{name} has format version {version} and needs features {unknown:#x}; "
            f"this version reads format {FORMAT_VERSION}",
            "upgrade backup-pipeline",
        )


def canonical_json(value: Any) -> bytes:
    """JSON with sorted keys, no spaces, UTF-8: the same bytes for the same value."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def decode_json(content: Buffer, name: str) -> dict[str, Any]:
    """A JSON document with a mapping at its top.

    Raises:
        DamageError: It is not one.
    """
    try:
        value = json.loads(bytes(content))
    except (ValueError, RecursionError):
        raise DamageError(f"{name} holds no JSON") from None
    if not isinstance(value, dict):
        raise DamageError(f"{name} holds no mapping")
    return cast(dict[str, Any], value)

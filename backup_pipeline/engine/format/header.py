"""The 16 bytes that open every stored object, and the JSON that follows in some of them."""

from __future__ import annotations

import binascii
import json
import math
import re
import struct
from typing import Any, cast

from backup_pipeline.engine.crypto import Buffer
from backup_pipeline.engine.errors import DamageError, UsageError

__all__ = [
    "FORMAT_VERSION",
    "HEADER_BYTES",
    "KEY_SET",
    "MAGIC",
    "MANIFEST",
    "PACK",
    "PARITY",
    "RECORD",
    "STORE",
    "canonical_json",
    "check_features",
    "check_header",
    "decode_json",
    "header",
    "unknown_write_features",
]

MAGIC = b"BKPL"
FORMAT_VERSION = 1
HEADER_BYTES = 16
# magic, type, version | check | features: needed to read, needed to write, may be ignored
_BEGIN, _CHECK, _FEATURES = struct.Struct("<4sBB"), struct.Struct("<H"), struct.Struct("<IHH")

STORE, KEY_SET, RECORD, MANIFEST, PACK, PARITY = b"S", b"K", b"R", b"M", b"P", b"Y"

# Bits of features that must be known to read an object, or to write beside it. Version 1 has none.
KNOWN_READ_FEATURES = 0
KNOWN_WRITE_FEATURES = 0


def header(kind: bytes, *, read: int = 0, write: int = 0, optional: int = 0) -> bytes:
    """The first 16 bytes of an object of this kind.

    Args:
        kind: STORE, KEY_SET, RECORD, MANIFEST, PACK or PARITY.
        read: Features that a reader must know to read this object.
        write: Features that a writer must know to write to this store or repository.
        optional: Features that may be ignored.
    """
    begin = _BEGIN.pack(MAGIC, kind[0], FORMAT_VERSION)
    features = _FEATURES.pack(read, write, optional)
    # Without a check, one flipped bit would make damage look like a later version's work.
    return begin + _CHECK.pack(binascii.crc_hqx(begin + features, 0)) + features


def check_header(content: Buffer, kind: bytes, name: str) -> None:
    """Refuse what is not an object of this kind that this version can read.

    Raises:
        DamageError: Not such an object.
        UsageError: Written by a later version.
    """
    start = bytes(content[:HEADER_BYTES])
    if len(start) < HEADER_BYTES:
        raise DamageError(f"{name} is cut short: {len(start)} bytes")
    begin, features = start[: _BEGIN.size], start[_BEGIN.size + _CHECK.size :]
    magic, found, version = _BEGIN.unpack(begin)
    (check,) = _CHECK.unpack_from(start, _BEGIN.size)
    if magic != MAGIC or found != kind[0] or check != binascii.crc_hqx(begin + features, 0):
        raise DamageError(f"{name} does not begin as what it should be")
    check_features(version, _FEATURES.unpack(features)[0], name)


def check_features(version: int, read: int, name: str) -> None:
    """Refuse what only a later version can read.

    Raises:
        UsageError: Written by a later version.
    """
    unknown = read & ~KNOWN_READ_FEATURES
    if version != FORMAT_VERSION or unknown:
        raise UsageError(
            f"{name} has format version {version} and needs features {unknown:#x}; "
            f"this version reads format {FORMAT_VERSION}",
            "upgrade backup-pipeline",
        )


def unknown_write_features(content: Buffer) -> int:
    """Features of a checked header that a writer must know and we do not, as bits."""
    _, write, _ = _FEATURES.unpack_from(content, _BEGIN.size + _CHECK.size)
    return write & ~KNOWN_WRITE_FEATURES


_CANONICAL = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
)


def canonical_json(value: Any) -> bytes:
    """JSON with sorted keys, no spaces, UTF-8: the same bytes for the same value."""
    return _CANONICAL.encode(value).encode()


MOST_JSON_VALUES = 8_000_000
"""So many values and members a document may hold: each takes far more memory than its text."""
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def _no_constant(text: str) -> None:
    raise ValueError(f"{text} is no JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is no number")
    return value


def decode_json(content: Buffer, name: str) -> dict[str, Any]:
    """A JSON document with a mapping at its top.

    Raises:
        DamageError: It is not one.
    """
    whole = bytes(content)
    if sum(map(whole.count, (b",", b"[", b"{"))) > MOST_JSON_VALUES:
        raise DamageError(f"{name} holds too many values")
    try:
        value = json.loads(str(whole, "utf-8"), parse_constant=_no_constant, parse_float=_finite)
        if _SURROGATE.search(whole):
            canonical_json(value)  # or else a half of a character could not be written again
    except (ValueError, RecursionError):
        raise DamageError(f"{name} holds no JSON") from None
    if not isinstance(value, dict):
        raise DamageError(f"{name} holds no mapping")
    return cast("dict[str, Any]", value)

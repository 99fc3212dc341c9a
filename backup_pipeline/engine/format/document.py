"""Documents, the two clear kinds of stored objects: a store's descriptor and key sets.

header 16 | SHA-256 of the header and the JSON 32 | JSON

The digest tells accidents from a wrong key. What stands in a document is believed only as far as
its wraps open: they are bound to the id that the document states.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from backup_pipeline.engine.crypto import Buffer
from backup_pipeline.engine.errors import DamageError, UsageError
from backup_pipeline.engine.format.header import (
    HEADER_BYTES,
    KEY_SET,
    STORE,
    canonical_json,
    check_header,
    decode_json,
    header,
    unknown_write_features,
)

__all__ = [
    "ENCRYPTIONS",
    "TWIN",
    "Descriptor",
    "KeySet",
    "decode_descriptor",
    "decode_key_set",
    "encode_descriptor",
    "encode_key_set",
]

TWIN = ".twin"
SUBJECT_BYTES = 16
_DIGEST_BYTES = 32
_MOST_DOCUMENT_BYTES = 4 * 1024 * 1024
ENCRYPTIONS = ("aes-256-gcm", "none")


@dataclass(frozen=True, slots=True)
class Descriptor:
    """What a store says of itself.

    Attributes:
        store: Its id, 16 random bytes.
        encryption: One of ENCRYPTIONS.
        kdf: How a secret becomes a key here; None without encryption.
        write_features: Unknown features that a writer must know, as bits.
    """

    store: bytes
    encryption: str
    kdf: Mapping[str, Any] | None
    write_features: int = 0

    @property
    def encrypted(self) -> bool:
        """Whether what is stored is sealed with keys that are not in the store."""
        return self.encryption != "none"


@dataclass(frozen=True, slots=True)
class KeySet:
    """The wraps of a store's or a dataset's keys.

    Attributes:
        name: Its place in the store, such as ``keys/00000000``; in another it is refused.
        store: Id of the store it was written for.
        kdf: The store's key derivation, kept here too lest a lost descriptor lose everything.
        dataset: Id of the dataset whose keys these are; None in a store's own key set.
        wraps: One mapping each; kinds that a reader does not know are passed over.
        write_features: Unknown features that a writer must know, as bits.
    """

    name: str
    store: bytes
    kdf: Mapping[str, Any] | None
    dataset: bytes | None
    wraps: Sequence[Mapping[str, Any]]
    write_features: int = 0

    @property
    def subject(self) -> bytes:
        """What the wraps are bound to."""
        return self.store if self.dataset is None else self.dataset


def _encode(kind: bytes, body: Mapping[str, Any]) -> bytes:
    start, text = header(kind), canonical_json(body)
    return start + hashlib.sha256(start + text).digest() + text


def _decode(kind: bytes, content: Buffer, name: str) -> dict[str, Any]:
    check_header(content, kind, name)
    if len(content) > _MOST_DOCUMENT_BYTES:
        raise DamageError(f"{name} is too large: {len(content)} bytes")
    whole = bytes(content)
    start, digest = whole[:HEADER_BYTES], whole[HEADER_BYTES : HEADER_BYTES + _DIGEST_BYTES]
    text = whole[HEADER_BYTES + _DIGEST_BYTES :]
    if hashlib.sha256(start + text).digest() != digest:
        raise DamageError(f"{name} does not match its digest")
    return decode_json(text, name)


def encode_descriptor(descriptor: Descriptor) -> bytes:
    """The stored bytes of a store's descriptor."""
    body = {
        "format": "backup_pipeline store",
        "store": descriptor.store.hex(),
        "encryption": descriptor.encryption,
        "kdf": descriptor.kdf,
    }
    return _encode(STORE, body)


def decode_descriptor(content: Buffer, name: str) -> Descriptor:
    """Read a store's descriptor.

    Raises:
        DamageError: It is none.
        UsageError: Written by a later version.
    """
    body = _decode(STORE, content, name)
    encryption = body.get("encryption")
    if encryption not in ENCRYPTIONS:
        raise UsageError(f"{name} names the encryption {encryption!r}", "upgrade backup-pipeline")
    kdf = _mapping_or_none(body, "kdf", name)
    if (kdf is None) != (encryption == "none"):
        raise DamageError(f"{name} contradicts itself about encryption")
    return Descriptor(_id(body, "store", name), encryption, kdf, unknown_write_features(content))


def encode_key_set(key_set: KeySet) -> bytes:
    """The stored bytes of a key set."""
    body: dict[str, Any] = {
        "name": key_set.name,
        "store": key_set.store.hex(),
        "kdf": key_set.kdf,
        "wraps": list(key_set.wraps),
    }
    if key_set.dataset is not None:
        body["dataset"] = key_set.dataset.hex()
    return _encode(KEY_SET, body)


def decode_key_set(content: Buffer, name: str) -> KeySet:
    """Read a key set.

    Raises:
        DamageError: It is none, or belongs elsewhere.
        UsageError: Written by a later version.
    """
    body = _decode(KEY_SET, content, name)
    place = name.removesuffix(TWIN)
    if body.get("name") != place:
        raise DamageError(f"{name} is the key set {body.get('name')}, put in the place of another")
    found = body.get("wraps")
    if not isinstance(found, list):
        raise DamageError(f"{name} lists no wraps")
    wraps = cast("list[object]", found)
    if not all(isinstance(one, dict) for one in wraps):
        raise DamageError(f"{name} lists what is no wrap")
    return KeySet(
        place,
        _id(body, "store", name),
        _mapping_or_none(body, "kdf", name),
        _id(body, "dataset", name) if "dataset" in body else None,
        cast("list[dict[str, Any]]", wraps),
        unknown_write_features(content),
    )


def _id(body: Mapping[str, Any], field: str, name: str) -> bytes:
    try:
        value = bytes.fromhex(body[field])
    except (KeyError, TypeError, ValueError):
        value = b""
    if len(value) != SUBJECT_BYTES:
        raise DamageError(f"{name} states no {field} id")
    return value


def _mapping_or_none(body: Mapping[str, Any], field: str, name: str) -> dict[str, Any] | None:
    value = body.get(field)
    if value is not None and not isinstance(value, dict):
        raise DamageError(f"{name} states no usable {field}")
    return cast("dict[str, Any] | None", value)

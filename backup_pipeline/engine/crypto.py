"""Sealing, key derivation and keyed identities: every cryptographic choice of the format.

One key seals one thing: a sealing key is derived from a secret and a random 32-byte salt that is
used once, so the counter nonces 0, 1, 2 … never repeat under a key, and sealing is deterministic
given secret, salt and order.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable
from typing import Protocol, TypeAlias

from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from backup_pipeline.engine.errors import DamageError

__all__ = [
    "KEY_BYTES",
    "SALT_BYTES",
    "TAG_BYTES",
    "Buffer",
    "Sealer",
    "derive",
    "identifier",
    "new_salt",
    "sealer",
    "sha256_hex",
]

KEY_BYTES = 32
SALT_BYTES = 32
TAG_BYTES = 16

Buffer: TypeAlias = bytes | bytearray | memoryview


def new_salt() -> bytes:
    """32 fresh random bytes."""
    return secrets.token_bytes(SALT_BYTES)


def derive(key: bytes, context: str, salt: bytes = b"") -> bytes:
    """A 32-byte key for one purpose: keyed BLAKE3 of ``context``, a zero byte and ``salt``."""
    return blake3(context.encode() + b"\x00" + salt, key=key).digest()


def identifier(key: bytes) -> Callable[[Buffer], bytes]:
    """The function that names content: keyed BLAKE3, 32 bytes."""

    def identify(content: Buffer) -> bytes:
        return blake3(content, key=key).digest()

    return identify


def sha256_hex(*pieces: Buffer) -> str:
    """SHA-256 of the pieces one after the other, in hex."""
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()


class Sealer(Protocol):
    """Seals and opens the frames of one object."""

    def seal_into(self, ordinal: int, content: Buffer, bound: bytes, out: memoryview) -> None:
        """Write the sealed content (``len(content) + TAG_BYTES`` bytes) to ``out``."""
        ...

    def open(self, ordinal: int, sealed: Buffer, bound: bytes) -> bytearray:
        """The content of a sealed frame; DamageError if it is not what was sealed."""
        ...


def _nonce(ordinal: int) -> bytes:
    return ordinal.to_bytes(12, "big")


class _AesSealer:
    """AES-256-GCM with the ordinal as nonce."""

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(key)

    def seal_into(self, ordinal: int, content: Buffer, bound: bytes, out: memoryview) -> None:
        self._cipher.encrypt_into(_nonce(ordinal), content, bound, out)

    def open(self, ordinal: int, sealed: Buffer, bound: bytes) -> bytearray:
        size = len(sealed) - TAG_BYTES
        if size < 0:
            raise DamageError("a sealed frame is shorter than its tag")
        content = bytearray(size)
        try:
            self._cipher.decrypt_into(_nonce(ordinal), sealed, bound, content)
        except InvalidTag:
            raise DamageError("a sealed frame fails its authentication") from None
        return content


class _PlainSealer:
    """No secrecy: the content as it is, then 16 bytes of BLAKE3 against accidents."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def _tag(self, ordinal: int, content: Buffer, bound: bytes) -> bytes:
        digest = blake3(_nonce(ordinal), key=self._key)
        digest.update(len(bound).to_bytes(4, "little") + bound)
        digest.update(content)
        return digest.digest(TAG_BYTES)

    def seal_into(self, ordinal: int, content: Buffer, bound: bytes, out: memoryview) -> None:
        size = len(content)
        out[:size] = content
        out[size : size + TAG_BYTES] = self._tag(ordinal, content, bound)

    def open(self, ordinal: int, sealed: Buffer, bound: bytes) -> bytearray:
        size = len(sealed) - TAG_BYTES
        if size < 0:
            raise DamageError("a frame is shorter than its checksum")
        content = bytearray(memoryview(sealed)[:size])
        if not hmac.compare_digest(
            self._tag(ordinal, content, bound), bytes(memoryview(sealed)[size:])
        ):
            raise DamageError("a frame fails its checksum")
        return content


def sealer(key: bytes, context: str, salt: bytes, *, encrypted: bool) -> Sealer:
    """The sealer of one object, under a key of its own."""
    derived = derive(key, context, salt)
    return _AesSealer(derived) if encrypted else _PlainSealer(derived)

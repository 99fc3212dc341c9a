"""Keys: from a passphrase or key file to the keys of a store and of its datasets.

A *secret* (what the user holds) gives, with the store's salt, a key-encryption key. It opens the
*wraps* in which random keys are stored, so that changing the secret rewrites wraps and no data.
A dataset has two random keys, the same in every tier: the index key (identities, manifests, log)
and the content root, which wraps the content key of each run.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, TypeAlias

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from backup_pipeline.engine.crypto import KEY_BYTES, derive
from backup_pipeline.engine.errors import DamageError, UsageError, WrongKey

__all__ = [
    "PLAINTEXT",
    "DatasetKeys",
    "KeyEncryptionKey",
    "KeyFile",
    "Passphrase",
    "Plaintext",
    "Secret",
    "new_key_file",
    "parse_key_file",
    "unwrap",
    "wrap",
]

ARGON2_MEMORY_KIB = 64 * 1024  # RFC 9106, second recommended option: 64 MiB, 3 passes, 4 lanes
ARGON2_ITERATIONS = 3
ARGON2_LANES = 4
# What a reader accepts from a store that someone may have tampered with.
ARGON2_MOST_MEMORY_KIB = 1024 * 1024
ARGON2_MOST_ITERATIONS = 16
ARGON2_MOST_LANES = 16
KDF_SALT_BYTES = 16
KEY_FILE_PREFIX = "backup-pipeline-key-1:"


@dataclass(frozen=True, slots=True)
class Passphrase:
    """A secret that people remember; stretched with argon2id."""

    text: bytes

    def __repr__(self) -> str:
        return "Passphrase(…)"


@dataclass(frozen=True, slots=True)
class KeyFile:
    """A secret of 32 random bytes, kept in a file."""

    content: bytes

    def __repr__(self) -> str:
        return "KeyFile(…)"


@dataclass(frozen=True, slots=True)
class Plaintext:
    """Named absence of a secret: ``encryption: none``."""


PLAINTEXT = Plaintext()
Secret: TypeAlias = Passphrase | KeyFile | Plaintext


def new_key_file() -> str:
    """The text of a fresh key file."""
    return KEY_FILE_PREFIX + base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode() + "\n"


def parse_key_file(text: bytes, origin: str = "the key file") -> KeyFile:
    """Read a key file.

    Raises:
        UsageError: It is not one.
    """
    try:
        words = text.decode("ascii").strip()
        if not words.startswith(KEY_FILE_PREFIX):
            raise ValueError("no such prefix")
        content = base64.b64decode(words.removeprefix(KEY_FILE_PREFIX), validate=True)
        if len(content) != KEY_BYTES:
            raise ValueError("not 32 bytes")
    except (ValueError, binascii.Error, UnicodeDecodeError):
        raise UsageError(
            f"{origin} is not a key file",
            f"it holds one line, {KEY_FILE_PREFIX} and 32 bytes in base64; "
            "backup_pipeline.engine.keys.new_key_file() writes one",
        ) from None
    return KeyFile(content)


@dataclass(frozen=True, slots=True)
class KeyEncryptionKey:
    """What a secret becomes in one store."""

    key: bytes

    @property
    def name(self) -> str:
        """A short name by which a wrap says which key it is for; tells nothing of the key."""
        return derive(self.key, "key name")[:8].hex()

    @staticmethod
    def from_secret(secret: Secret, kdf: Mapping[str, Any]) -> KeyEncryptionKey:
        """Derive the key of this secret in the store with these derivation parameters."""
        salt = _kdf_salt(kdf)
        if isinstance(secret, KeyFile):
            return KeyEncryptionKey(derive(secret.content, "key file", salt))
        if isinstance(secret, Passphrase):
            memory, iterations, lanes = (
                _bounded(kdf, "memory_kib", 8 * 1024, ARGON2_MOST_MEMORY_KIB),
                _bounded(kdf, "iterations", 1, ARGON2_MOST_ITERATIONS),
                _bounded(kdf, "lanes", 1, ARGON2_MOST_LANES),
            )
            return KeyEncryptionKey(_argon2id(secret.text, salt, memory, iterations, lanes))
        raise AssertionError("plaintext stores have no key-encryption key")

    @staticmethod
    def new_parameters() -> dict[str, Any]:
        """Derivation parameters for a new store."""
        return {
            "name": "argon2id",
            "memory_kib": ARGON2_MEMORY_KIB,
            "iterations": ARGON2_ITERATIONS,
            "lanes": ARGON2_LANES,
            "salt": secrets.token_hex(KDF_SALT_BYTES),
        }


def _kdf_salt(kdf: Mapping[str, Any]) -> bytes:
    try:
        if kdf["name"] != "argon2id":
            raise ValueError("unknown derivation")
        salt = bytes.fromhex(kdf["salt"])
        if len(salt) != KDF_SALT_BYTES:
            raise ValueError("salt of another length")
    except (KeyError, TypeError, ValueError) as error:
        raise DamageError(f"the store's key derivation parameters are unusable: {error}") from None
    return salt


def _bounded(kdf: Mapping[str, Any], name: str, least: int, most: int) -> int:
    value = kdf.get(name)
    if not isinstance(value, int) or not least <= value <= most:
        raise DamageError(
            f"the store's key derivation asks for {name}={value!r}, outside {least} to {most}",
            "its descriptor was damaged or tampered with; compare it with another tier's",
        )
    return value


@lru_cache(maxsize=16)
def _argon2id(text: bytes, salt: bytes, memory_kib: int, iterations: int, lanes: int) -> bytes:
    from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

    return Argon2id(
        salt=salt, length=KEY_BYTES, iterations=iterations, lanes=lanes, memory_cost=memory_kib
    ).derive(text)


def wrap(kek: KeyEncryptionKey, purpose: str, subject: bytes, key: bytes) -> dict[str, Any]:
    """Seal a key for the holder of ``kek``.

    Args:
        purpose: What the key is for; bound to the wrap.
        subject: The store's or dataset's id; bound to the wrap.
        key: The 32-byte key.
    """
    nonce = secrets.token_bytes(12)
    sealed = AESGCM(derive(kek.key, "wrap")).encrypt(
        nonce, key, purpose.encode() + b"\x00" + subject
    )
    return {
        "kind": "symmetric",
        "key": kek.name,
        "purpose": purpose,
        "nonce": nonce.hex(),
        "commitment": derive(kek.key, "commitment", nonce + sealed).hex(),
        "sealed": sealed.hex(),
    }


def unwrap(
    keks: Sequence[KeyEncryptionKey],
    purpose: str,
    subject: bytes,
    wraps: Sequence[Mapping[str, Any]],
) -> bytes:
    """Open the first wrap of this purpose that one of our keys opens.

    Raises:
        WrongKey: None of them does.
    """
    names = {kek.name: kek for kek in keks}
    for entry in wraps:
        kek = names.get(str(entry.get("key")))
        if entry.get("kind") != "symmetric" or entry.get("purpose") != purpose or kek is None:
            continue
        try:
            nonce = bytes.fromhex(str(entry["nonce"]))
            sealed = bytes.fromhex(str(entry["sealed"]))
            commitment = bytes.fromhex(str(entry["commitment"]))
            if not hmac.compare_digest(derive(kek.key, "commitment", nonce + sealed), commitment):
                raise InvalidTag
            key = AESGCM(derive(kek.key, "wrap")).decrypt(
                nonce, sealed, purpose.encode() + b"\x00" + subject
            )
        except (KeyError, ValueError, InvalidTag):
            raise DamageError(f"the wrap of the {purpose} key is damaged") from None
        if len(key) != KEY_BYTES:
            raise DamageError(f"the wrap of the {purpose} key holds no key")
        return key
    raise WrongKey(
        "none of the keys given opens this store",
        "check BACKUP_PASSPHRASE or --key-file; the passphrase is the one the store was made with",
    )


Purpose: TypeAlias = Literal["store", "index", "content"]


@dataclass(frozen=True, slots=True)
class DatasetKeys:
    """The two keys of a dataset, and what follows from them.

    Attributes:
        index: Opens identities, manifests and the log.
        content: Wraps each run's content key; None for a holder of the index key alone.
        encrypted: False under ``encryption: none``, where both keys are public constants.
    """

    index: bytes
    content: bytes | None
    encrypted: bool = True

    def __repr__(self) -> str:
        return f"DatasetKeys({self.dataset_id.hex()})"

    @staticmethod
    def generate(*, encrypted: bool = True) -> DatasetKeys:
        """Fresh keys, or the public constants of a plaintext repository."""
        if encrypted:
            return DatasetKeys(secrets.token_bytes(KEY_BYTES), secrets.token_bytes(KEY_BYTES))
        public = b"backup_pipeline: no encryption. "
        return DatasetKeys(
            derive(public, "public index key"), derive(public, "public content key"), False
        )

    @property
    def dataset_id(self) -> bytes:
        """16 bytes that name this key set in associated data."""
        return derive(self.index, "dataset id")[:16]

    @property
    def identity(self) -> bytes:
        """Key of content identities."""
        return derive(self.index, "identity")

    @property
    def chunker_seed(self) -> int:
        """Seed of the content-defined chunker, from 1 to 2**62."""
        return int.from_bytes(derive(self.index, "chunker seed")[:8], "big") % (1 << 62) + 1

    def wrap_run_key(self, run: bytes, key: bytes) -> list[dict[str, Any]]:
        """The wraps of a run's content key: one under the content root."""
        if self.content is None:
            raise UsageError("a holder of the index key alone cannot start a symmetric run")
        root = KeyEncryptionKey(self.content)
        return [wrap(root, "run", self.dataset_id + run, key)]

    def unwrap_run_key(self, run: bytes, wraps: Sequence[Mapping[str, Any]]) -> bytes:
        """A run's content key.

        Raises:
            WrongKey: This holder may not read content.
        """
        if self.content is None:
            raise WrongKey("this key opens the index, not the content", "give the content key")
        return unwrap([KeyEncryptionKey(self.content)], "run", self.dataset_id + run, wraps)

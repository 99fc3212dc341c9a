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
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
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
    "do_beside_derivation",
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
NONCE_BYTES = 12
SYMMETRIC = "symmetric"
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
Purpose: TypeAlias = Literal["store", "index", "content", "run"]


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
        if isinstance(secret, KeyFile):
            return KeyEncryptionKey(derive(secret.content, "key file", _kdf_salt(kdf)))
        if isinstance(secret, Passphrase):
            return KeyEncryptionKey(_begun(secret, kdf).result())
        raise AssertionError("plaintext stores have no key-encryption key")

    @staticmethod
    def begin(passphrase: Passphrase, kdf: Mapping[str, Any]) -> None:
        """Begin what ``from_secret`` will be asked for; raises as it does."""
        _begun(passphrase, kdf)

    @staticmethod
    def refuse_weak(kdf: Mapping[str, Any]) -> None:
        """Refuse parameters weaker than ours, before a new key is wrapped under a passphrase.

        Someone who may write to an empty store could otherwise prepare it so, and guess cheaply.

        Raises:
            UsageError: They are weaker.
        """
        ours = KeyEncryptionKey.new_parameters()
        for name in ("memory_kib", "iterations"):
            found = kdf.get(name)
            if not isinstance(found, int) or found < ours[name]:
                raise UsageError(
                    f"the store was prepared with a weak key derivation: {name}={found!r}",
                    "another program prepared it; choose an empty place for the store",
                )

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
        name, salt = kdf["name"], bytes.fromhex(kdf["salt"])
        if len(salt) != KDF_SALT_BYTES or not isinstance(name, str):
            raise ValueError("salt of another length, or no name")
    except (KeyError, TypeError, ValueError) as error:
        raise DamageError(f"the store's key derivation parameters are unusable: {error}") from None
    if name != "argon2id":
        raise UsageError(f"the store derives its key with {name!r}", "upgrade backup-pipeline")
    return salt


def _bounded(kdf: Mapping[str, Any], name: str, least: int, most: int) -> int:
    value = kdf.get(name)
    if not isinstance(value, int) or not least <= value <= most:
        raise DamageError(
            f"the store's key derivation asks for {name}={value!r}, outside {least} to {most}",
            "its descriptor was damaged or tampered with; compare it with another tier's",
        )
    return value


def _begun(passphrase: Passphrase, kdf: Mapping[str, Any]) -> Future[bytes]:
    """The derivation of a passphrase with a store's parameters, finished or not."""
    return _argon2id(
        passphrase.text,
        _kdf_salt(kdf),
        _bounded(kdf, "memory_kib", 8 * 1024, ARGON2_MOST_MEMORY_KIB),
        _bounded(kdf, "iterations", 1, ARGON2_MOST_ITERATIONS),
        _bounded(kdf, "lanes", 1, ARGON2_MOST_LANES),
    )


_beside: list[Callable[[], None]] = []


def do_beside_derivation(work: Callable[[], None]) -> None:
    """Have something done in a thread while a passphrase is stretched, if one ever is.

    That takes some 0.2 s and none of Python's lock.
    """
    _beside.append(work)


@lru_cache(maxsize=16)
def _argon2id(
    text: bytes, salt: bytes, memory_kib: int, iterations: int, lanes: int
) -> Future[bytes]:
    """The stretched passphrase, by and by: a thread is at it."""
    from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

    function = Argon2id(
        salt=salt, length=KEY_BYTES, iterations=iterations, lanes=lanes, memory_cost=memory_kib
    )
    pool = ThreadPoolExecutor(1, "argon2id")
    stretched = pool.submit(function.derive, text)
    pool.shutdown(wait=False)
    while _beside:
        threading.Thread(target=_beside.pop()).start()
    return stretched


def wrap(
    kek: KeyEncryptionKey,
    purpose: Purpose,
    subject: bytes,
    key: bytes,
    nonce: bytes | None = None,
) -> dict[str, Any]:
    """Seal a key for the holder of ``kek``.

    Args:
        purpose: What the key is for; bound to the wrap.
        subject: The id of the store, dataset or run that the key is of; bound to the wrap.
        key: The 32-byte key.
        nonce: 12 bytes, for test vectors alone; random otherwise.
    """
    nonce = secrets.token_bytes(NONCE_BYTES) if nonce is None else nonce
    sealed = AESGCM(derive(kek.key, "wrap")).encrypt(nonce, key, _wrap_binding(purpose, subject))
    return {
        "kind": SYMMETRIC,
        "key": kek.name,
        "purpose": purpose,
        "nonce": nonce.hex(),
        "commitment": derive(kek.key, "commitment", nonce + sealed).hex(),
        "sealed": sealed.hex(),
    }


def _wrap_binding(purpose: str, subject: bytes) -> bytes:
    return purpose.encode() + b"\x00" + subject


def unwrap(
    keks: Sequence[KeyEncryptionKey],
    purpose: Purpose,
    subject: bytes,
    wraps: Sequence[Mapping[str, Any]],
) -> bytes:
    """Open a wrap of this purpose that one of our keys opens.

    Wraps of kinds that this version does not know are other holders' and passed over.

    Raises:
        WrongKey: None of the wraps is for one of our keys.
        DamageError: One is, and it is damaged.
    """
    names = {kek.name: kek for kek in keks}
    damaged = False
    for entry in wraps:
        kek = names.get(str(entry.get("key")))
        if entry.get("kind") != SYMMETRIC or entry.get("purpose") != purpose or kek is None:
            continue
        key = _open_wrap(kek, _wrap_binding(purpose, subject), entry)
        if key is not None:
            return key
        damaged = True
    if damaged:
        raise DamageError(f"the wrap of the {purpose} key is damaged or another's")
    kinds = sorted({str(entry.get("kind")) for entry in wraps} - {SYMMETRIC})
    raise WrongKey(
        f"none of the keys given opens the {purpose} key",
        f"some wraps are of kinds that this version does not know: {', '.join(kinds)}"
        if kinds
        else "check BACKUP_PASSPHRASE or --key-file; the key is the one the store was made with",
    )


def _open_wrap(kek: KeyEncryptionKey, binding: bytes, entry: Mapping[str, Any]) -> bytes | None:
    try:
        nonce, sealed, commitment = (
            bytes.fromhex(entry[field]) for field in ("nonce", "sealed", "commitment")
        )
        if len(nonce) != NONCE_BYTES:
            return None
        if not hmac.compare_digest(derive(kek.key, "commitment", nonce + sealed), commitment):
            return None
        key = AESGCM(derive(kek.key, "wrap")).decrypt(nonce, sealed, binding)
    except (KeyError, TypeError, ValueError, InvalidTag):
        return None
    return key if len(key) == KEY_BYTES else None


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

    @staticmethod
    def unwrap(
        keks: Sequence[KeyEncryptionKey], dataset_id: bytes, wraps: Sequence[Mapping[str, Any]]
    ) -> DatasetKeys:
        """The keys in a dataset's key set, or its index key alone where that is all we may have.

        Raises:
            WrongKey: None of the wraps is for one of our keys.
            DamageError: One is, and it is damaged or another dataset's.
        """
        index = unwrap(keks, "index", dataset_id, wraps)
        try:
            content = unwrap(keks, "content", dataset_id, wraps)
        except WrongKey:
            content = None
        keys = DatasetKeys(index, content)
        if keys.dataset_id != dataset_id:
            raise DamageError("a key set holds the keys of another dataset than it states")
        return keys

    def wrap(self, keks: Sequence[KeyEncryptionKey]) -> list[dict[str, Any]]:
        """The wraps of both keys for the holders of ``keks``."""
        assert self.content is not None
        return [
            one
            for kek in keks
            for one in (
                wrap(kek, "index", self.dataset_id, self.index),
                wrap(kek, "content", self.dataset_id, self.content),
            )
        ]

    @property
    def dataset_id(self) -> bytes:
        """16 bytes that name these keys in associated data."""
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

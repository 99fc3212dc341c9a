"""From a store and a user's secrets to the store's keys; a new store is prepared on the way."""

from __future__ import annotations

import secrets as random_source
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TypeVar

from backup_pipeline.engine.crypto import KEY_BYTES, derive
from backup_pipeline.engine.documents import (
    STORE_NAME,
    key_set_name,
    key_sets,
    put_twice,
    read_either,
)
from backup_pipeline.engine.errors import (
    BackupError,
    DamageError,
    NotFound,
    ObjectMissing,
    UsageError,
    WrongKey,
)
from backup_pipeline.engine.format.document import (
    Descriptor,
    KeySet,
    decode_descriptor,
    decode_key_set,
    encode_descriptor,
    encode_key_set,
)
from backup_pipeline.engine.keys import (
    KeyEncryptionKey,
    Passphrase,
    Plaintext,
    Secret,
    unwrap,
    wrap,
)
from backup_pipeline.engine.store import Store

__all__ = ["from_newest", "unlock"]

T = TypeVar("T")
STORE_ID_BYTES = 16
_PUBLIC_NAME_KEY = derive(b"backup_pipeline: no encryption. ", "public name key")


def unlock(
    store: Store, secrets: Sequence[Secret], *, create: bool
) -> tuple[Descriptor, list[KeyEncryptionKey], bytes]:
    """The store's descriptor, what the secrets become in it, and its name key.

    Args:
        store: The store.
        secrets: Passphrases and key files to try, or PLAINTEXT alone.
        create: Whether to prepare a store that holds nothing of ours yet.

    Raises:
        NotFound: Nothing of ours is there, and ``create`` is off.
        WrongKey: None of the secrets opens it.
        UsageError: It is encrypted and should not be, or the other way round.
    """
    descriptor = _descriptor(store, secrets, create=create)
    try:
        return _opened(store, secrets, descriptor, create=create)
    except (WrongKey, DamageError):
        # Another store's document may lie in the place of ours, and its twin be right.
        for other in (descriptor, *_twin_descriptor(store, descriptor)):
            for twin_first in (False, True):
                with suppress(WrongKey, DamageError, UsageError):
                    return _opened(store, secrets, other, create=False, twin_first=twin_first)
        raise


def _twin_descriptor(store: Store, descriptor: Descriptor) -> list[Descriptor]:
    """What the twin of the descriptor says, where that is something else."""
    with suppress(ObjectMissing, DamageError, UsageError):
        twin = read_either(store, STORE_NAME, decode_descriptor, twin_first=True)
        return [twin] if twin != descriptor else []
    return []


def _opened(
    store: Store,
    secrets: Sequence[Secret],
    descriptor: Descriptor,
    *,
    create: bool,
    twin_first: bool = False,
) -> tuple[Descriptor, list[KeyEncryptionKey], bytes]:
    """What ``unlock`` gives, of a store that this descriptor is of."""
    if not descriptor.encrypted:
        if not any(isinstance(secret, Plaintext) for secret in secrets):
            raise UsageError(
                f"{store.url} was made with `encryption: none`, but a key is given",
                "say `encryption: none`, or choose another store for encrypted backups",
            )
        return descriptor, [], _PUBLIC_NAME_KEY
    kdf = descriptor.kdf
    assert kdf is not None
    keks = [
        KeyEncryptionKey.from_secret(secret, kdf)
        for secret in secrets
        if not isinstance(secret, Plaintext)
    ]
    if not keks:
        raise WrongKey(
            f"{store.url} is encrypted and no key is given",
            "set BACKUP_PASSPHRASE or give --key-file",
        )
    found = key_sets(store, "keys/", mend=create, twin_first=twin_first)
    if not found:
        if store.list_names("repositories/"):
            raise DamageError(f"{store.url} has lost its key sets", "copy keys/ back into it")
        if not create:  # being prepared, or its preparation was interrupted
            raise _nothing_here(store)
        if any(isinstance(secret, Passphrase) for secret in secrets):
            KeyEncryptionKey.refuse_weak(kdf)
        found = [_first_key_set(store, descriptor, keks)]
    name_key = from_newest(
        found,
        lambda key_set: unwrap(keks, "store", descriptor.store, key_set.wraps),
        store.url,
    )
    return descriptor, keks, name_key


def _descriptor(store: Store, secrets: Sequence[Secret], *, create: bool) -> Descriptor:
    try:
        return read_either(store, STORE_NAME, decode_descriptor, mend=create)
    except (ObjectMissing, DamageError) as error:
        # The key sets say the same; the loss is verify's to report.
        folders = [f"repositories/{name}/" for name in store.list_names("repositories/")]
        for folder in ("", *folders):
            for key_set in key_sets(store, f"{folder}keys/"):
                encryption = "none" if key_set.kdf is None else "aes-256-gcm"
                return Descriptor(key_set.store, encryption, key_set.kdf)
        if isinstance(error, DamageError) or folders:
            raise DamageError(
                f"{store.url} has lost its descriptor and its key sets",
                "copy store and keys/ back into it",
            ) from None
    if not create:
        raise _nothing_here(store)
    store.probe().require()
    plain = any(isinstance(secret, Plaintext) for secret in secrets)
    descriptor = Descriptor(
        random_source.token_bytes(STORE_ID_BYTES),
        "none" if plain else "aes-256-gcm",
        None if plain else KeyEncryptionKey.new_parameters(),
    )
    return put_twice(store, STORE_NAME, encode_descriptor(descriptor), decode_descriptor)[0]


def _first_key_set(
    store: Store, descriptor: Descriptor, keks: Sequence[KeyEncryptionKey]
) -> KeySet:
    key = random_source.token_bytes(KEY_BYTES)
    wraps = [wrap(kek, "store", descriptor.store, key) for kek in keks]
    name = key_set_name("keys/", 0)
    content = encode_key_set(KeySet(name, descriptor.store, descriptor.kdf, None, wraps))
    return put_twice(store, name, content, decode_key_set)[0]


def _nothing_here(store: Store) -> NotFound:
    return NotFound(
        f"{store.url} holds no backups",
        "check the URL; the first backup of a plan prepares its stores",
    )


def from_newest(found: Sequence[KeySet], open_one: Callable[[KeySet], T], where: str) -> T:
    """What the newest of some key sets holds that one of our keys opens.

    Args:
        found: Key sets, newest first; at least one.
        open_one: Opens one, or raises WrongKey or DamageError.
        where: Whose they are, for messages.

    Raises:
        WrongKey: None of our keys opens any.
        DamageError: One is for our key, and it is damaged.
    """
    failure: BackupError | None = None
    for key_set in found:
        try:
            return open_one(key_set)
        except WrongKey as error:
            failure = failure or error
        except DamageError as error:
            failure = error
    assert failure is not None
    if isinstance(failure, DamageError):
        raise failure
    raise WrongKey(f"none of the keys given opens {where}", failure.hint)

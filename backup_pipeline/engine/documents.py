"""Documents in a store: each is kept twice, read from either copy, and written once.

Order of work: the twin, then the name that readers look at, so that whoever finds the name knows
that its twin was durable. Where two writers race, the first twin decides for both.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TypeVar

from backup_pipeline.engine.crypto import Buffer
from backup_pipeline.engine.errors import (
    BackupError,
    DamageError,
    ObjectExists,
    ObjectMissing,
    UsageError,
)
from backup_pipeline.engine.format.document import (
    TWIN,
    Descriptor,
    KeySet,
    decode_descriptor,
    decode_key_set,
)
from backup_pipeline.engine.store import Store

__all__ = [
    "STORE_NAME",
    "check_documents",
    "key_set_name",
    "key_sets",
    "put_twice",
    "read_either",
    "twin_of",
]

STORE_NAME = "store"
T = TypeVar("T")
Decode = Callable[[Buffer, str], T]


def twin_of(name: str) -> str:
    """Where a document's second copy is."""
    return name + TWIN


def key_set_name(folder: str, number: int) -> str:
    """Where a key set is."""
    return f"{folder}{number:08d}"


def put_twice(store: Store, name: str, content: bytes, decode: Decode[T]) -> tuple[T, bytes]:
    """Write a document; or, if another writer's came first, see that both of its copies are there.

    Returns:
        The document that counts, and its bytes.

    Raises:
        DamageError: The twin is damaged, or both copies are good and differ.
    """
    twin = twin_of(name)
    try:
        store.put(twin, content)
    except ObjectExists:
        content = bytes(store.get(twin))
    document = decode(content, twin)
    try:
        store.put(name, content)
    except ObjectExists:
        if _is_good(store, name, decode):
            raise DamageError(
                f"{store.url}: {name} and its twin are different documents",
                "the place was written to twice; choose an empty one, or remove the wrong copy",
            ) from None
        # A damaged copy is verify's to report; the twin stands for both.
    return document, content


def _is_good(store: Store, name: str, decode: Decode[T]) -> bool:
    try:
        decode(store.get(name), name)
    except DamageError:
        return False
    return True


def read_either(
    store: Store, name: str, decode: Decode[T], *, mend: bool = False, twin_first: bool = False
) -> T:
    """A document, from its first place or its twin.

    Args:
        store: Where.
        name: Its first place.
        decode: What kind it is.
        mend: Write the first copy where an interrupted ``put_twice`` left only the twin.
        twin_first: Prefer the twin, as when the other was of no use.

    Raises:
        ObjectMissing: Neither is there.
        UsageError: A later version wrote it.
        DamageError: Neither is good.
    """
    failures: list[BackupError] = []
    places = (name, twin_of(name))
    for place in reversed(places) if twin_first else places:
        try:
            content = store.get(place)
            document = decode(content, place)
        except (ObjectMissing, DamageError, UsageError) as error:
            failures.append(error)
            continue
        if mend and place != name and failures and isinstance(failures[0], ObjectMissing):
            with suppress(ObjectExists):
                store.put(name, content)
        return document
    for kind in (UsageError, DamageError):
        for failure in failures:
            if isinstance(failure, kind):
                raise failure
    raise failures[0]


def key_sets(
    store: Store, folder: str, *, mend: bool = False, twin_first: bool = False
) -> list[KeySet]:
    """The key sets of a folder that can be read, newest first; see ``read_either``.

    Raises:
        DamageError: There are some, and none is good.
        UsageError: A later version wrote the newest.
    """
    found: list[KeySet] = []
    failure: BackupError | None = None
    for name in sorted(_document_names(store, folder), reverse=True):
        try:
            one = read_either(
                store, folder + name, decode_key_set, mend=mend, twin_first=twin_first
            )
            found.append(one)
        except DamageError as error:
            failure = failure or error
    if failure is not None and not found:
        raise failure
    return found


def _document_names(store: Store, folder: str) -> set[str]:
    names = {name.removesuffix(TWIN) for name in store.list_names(folder)}
    return {name for name in names if len(name) == 8 and name.isascii() and name.isdigit()}


def check_documents(store: Store, prefix: str) -> Iterator[tuple[str, str]]:
    """What is wrong with the documents that a repository needs: (name, what).

    Args:
        store: Where.
        prefix: The repository's prefix.
    """
    stated: dict[str, bytes] = {}
    yield from _check_copies(store, STORE_NAME, decode_descriptor, stated)
    for folder in ("keys/", f"{prefix}keys/"):
        for name in sorted(_document_names(store, folder)):
            yield from _check_copies(store, folder + name, decode_key_set, stated)
    # Anyone can write a whole document; what most of them say is taken for the store's own.
    usual = Counter(stated.values()).most_common(1)
    for place, store_id in stated.items():
        if store_id != usual[0][0]:
            yield place, "is another store's"


def _check_copies(
    store: Store,
    name: str,
    decode: Callable[[Buffer, str], Descriptor | KeySet],
    stated: dict[str, bytes],
) -> Iterator[tuple[str, str]]:
    """What is wrong with a document's copies; the store that the good ones state is noted."""
    good: dict[bytes, bytes] = {}
    for place in (name, twin_of(name)):
        try:
            content = bytes(store.get(place))
            good[content] = stated[place] = decode(content, place).store
        except ObjectMissing:
            yield place, "missing"
        except (DamageError, UsageError) as error:
            yield place, error.message
    if len(good) > len(set(good.values())):
        yield name, "differs from its twin"

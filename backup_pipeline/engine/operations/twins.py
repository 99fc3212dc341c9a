"""Puts right what is kept twice, documents and records: the good copy heals the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeAlias

from backup_pipeline.engine.crypto import Buffer, sha256_hex
from backup_pipeline.engine.documents import STORE_NAME, twin_of
from backup_pipeline.engine.errors import DamageError, ObjectExists, ObjectMissing, UsageError
from backup_pipeline.engine.format.document import TWIN, decode_descriptor, decode_key_set
from backup_pipeline.engine.format.record import decode_record
from backup_pipeline.engine.repository import Repository

__all__ = ["Healed", "heal_documents", "heal_records"]

Healed: TypeAlias = tuple[str, str | None]
"""The name of a copy, and why it stays damaged; None where it was healed, or would be."""
Decode: TypeAlias = Callable[[Buffer, str], object]


def heal_documents(repository: Repository, names: Iterable[str], *, apply: bool) -> list[Healed]:
    """Heal copies of the descriptor and of key sets.

    Args:
        repository: Whose.
        names: Names of copies that are damaged, as verification tells them.
        apply: Whether to write; if not, only tell.
    """
    done: list[Healed] = []
    for name in sorted({one.removesuffix(TWIN) for one in names if not one.endswith("/")}):
        decode: Decode = decode_descriptor if name == STORE_NAME else decode_key_set
        copies = [(place, _content(repository, place)) for place in (twin_of(name), name)]
        good = [content for place, content in copies if _reads(decode, content, place)]
        # Of two that differ the one counts that the log names, else the twin: it came first.
        named = [one for one in good if sha256_hex(one or b"") == repository.state.key_set]
        done += _heal(repository, copies, (named or good or (None,))[0], decode, apply=apply)
    return done


def heal_records(repository: Repository, sequences: Iterable[int], *, apply: bool) -> list[Healed]:
    """Heal copies of log records; the arguments are as ``heal_documents`` takes them."""
    done: list[Healed] = []
    for sequence in sorted(set(sequences)):
        names = [repository.log.name(sequence, twin=twin) for twin in (False, True)]
        copies = [(name, _content(repository, name)) for name in names]
        decode = _record_decoder(repository, sequence)
        good = [content for name, content in copies if _reads(decode, content, name)]
        if len(set(good)) > 1:
            followed = _digest_before(repository, sequence + 1)
            good = [one for one in good if one and sha256_hex(one) == followed]
        done += _heal(repository, copies, good[0] if good else None, decode, apply=apply)
    return done


def _heal(
    repository: Repository,
    copies: list[tuple[str, bytes | None]],
    right: bytes | None,
    decode: Decode,
    *,
    apply: bool,
) -> list[Healed]:
    if right is None:
        return [(name, "no copy of it is good") for name, _ in copies]
    healed: list[Healed] = []
    for name, content in copies:
        if content == right:
            continue
        why = "a later version wrote it" if _is_later(decode, content, name) else None
        if apply and why is None:
            try:
                if content is None:
                    repository.store.put(name, right)
                else:
                    repository.store.heal(name, right)
            except ObjectExists:
                why = "another writer wrote it meanwhile"
        healed.append((name, why))
    return healed


def _content(repository: Repository, name: str) -> bytes | None:
    try:
        return bytes(repository.store.get(name))
    except (ObjectMissing, DamageError):
        return None


def _reads(decode: Decode, content: bytes | None, name: str) -> bool:
    """Whether a copy is good."""
    if content is None:
        return False
    try:
        decode(content, name)
    except (DamageError, UsageError):
        return False
    return True


def _is_later(decode: Decode, content: bytes | None, name: str) -> bool:
    """Whether only a later version can tell if a copy is good."""
    try:
        decode(content or b"", name)
    except UsageError:
        return True
    except DamageError:
        return False
    return False


def _record_decoder(repository: Repository, sequence: int) -> Decode:
    return lambda content, name: decode_record(repository.keys, content, sequence, name)


def _digest_before(repository: Repository, sequence: int) -> str | None:
    """What a record says of the one before it; None where it is not there."""
    if sequence >= repository.log.next_sequence:
        return None
    try:
        return repository.log.read(sequence).previous
    except (DamageError, UsageError):
        return None

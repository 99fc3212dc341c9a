"""Parity of packs: sidecars that heal rot up to a share of a pack by themselves."""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING, Final

import numpy as np

from backup_pipeline.engine.crypto import Buffer
from backup_pipeline.engine.errors import DamageError, ObjectMissing, UsageError
from backup_pipeline.engine.format.pack import RUN_BYTES
from backup_pipeline.engine.format.parity import (
    ParityTable,
    checksum,
    decode_parity,
    encode_parity,
)
from backup_pipeline.engine.galois import parity_of, recover

if TYPE_CHECKING:
    from backup_pipeline.engine.repository import Repository

__all__ = [
    "LEAST_SHARE",
    "MOST_SHARE",
    "check_parity",
    "from_parity",
    "make_parity",
    "parity_path",
    "share_of",
    "store_pack",
]

DATA_BLOCKS: Final = 128
"""Into how many blocks a pack is cut: of 128 KiB in packs of 16 MiB."""

LEAST_BLOCK_BYTES: Final = 4096
MOST_SHARE: Final = 0.5
LEAST_SHARE: Final = 1 / DATA_BLOCKS


def parity_path(repository: Repository, pack: bytes) -> str:
    """Where a pack's sidecar is stored."""
    return f"{repository.prefix}parity/{pack[:RUN_BYTES].hex()}/{pack[RUN_BYTES:].hex()}"


def store_pack(repository: Repository, name: bytes, pieces: list[Buffer]) -> int:
    """Store a pack, and its sidecar first where the repository is to have them.

    A pack that is there so has its sidecar, whatever stops the writer in between.

    Returns:
        How many bytes were stored.
    """
    stored = sum(map(len, pieces))
    if repository.parity:
        sidecar = make_parity(name, b"".join(pieces), repository.parity)
        repository.store.put(parity_path(repository, name), sidecar)
        stored += sum(map(len, sidecar))
    repository.store.put(repository.pack_path(name), pieces)
    return stored


def make_parity(name: bytes, content: Buffer, share: float) -> list[Buffer]:
    """The sidecar of a pack.

    Args:
        name: The pack's name.
        content: All of it.
        share: How much of it may rot, from LEAST_SHARE to MOST_SHARE.
    """
    size = len(content)
    block = max(LEAST_BLOCK_BYTES, -(-size // DATA_BLOCKS))
    count = max(1, -(-size // block))
    data = _blocks(content, count, block)
    parity = parity_of(data, max(1, math.ceil(count * share)))
    table = ParityTable(
        name[RUN_BYTES:],
        size,
        block,
        [checksum(row.data) for row in data],
        [checksum(row.data) for row in parity],
    )
    return encode_parity(table, [row.data for row in parity])


def from_parity(repository: Repository, pack: bytes) -> bytes | None:
    """A pack's own bytes, computed from what is left of it and of its sidecar.

    Returns:
        None where there is no sidecar, or too much is lost.
    """
    try:
        sidecar = repository.store.get(parity_path(repository, pack))
        table, parity = decode_parity(sidecar, parity_path(repository, pack))
        content = repository.store.get(repository.pack_path(pack))
    except (ObjectMissing, DamageError, UsageError):
        return None
    if table.pack != pack[RUN_BYTES:]:
        return None
    data = _blocks(memoryview(content)[: table.size], len(table.checksums), table.block)
    rotten = [
        number
        for number, (row, wanted) in enumerate(zip(data, table.checksums, strict=True))
        if checksum(row.data) != wanted
    ]
    good = {
        number: np.frombuffer(block, np.uint8)
        for number, block in enumerate(parity)
        if block is not None
    }
    if len(rotten) > len(good):
        return None
    recover(data, rotten, good)
    healed = data.reshape(-1)[: table.size].tobytes()
    return healed if hashlib.sha256(healed).digest() == table.pack else None


def share_of(repository: Repository, pack: bytes) -> float:
    """The share of a sidecar that is there, as far as it can be read; else the least."""
    path = parity_path(repository, pack)
    try:
        table, _ = decode_parity(repository.store.get(path), path)
    except (ObjectMissing, DamageError, UsageError):
        return LEAST_SHARE
    return len(table.parity) / len(table.checksums)


def check_parity(content: Buffer, pack: bytes, name: str) -> None:
    """See that a sidecar is all that it was.

    Raises:
        DamageError: Something of it is rotten.
        UsageError: A later version wrote it.
    """
    table, parity = decode_parity(content, name)
    whole = encode_parity(table, [block for block in parity if block is not None])
    if table.pack != pack[RUN_BYTES:] or b"".join(whole) != bytes(content):
        raise DamageError(f"{name} is rotten itself")


def _blocks(
    content: Buffer, count: int, block: int
) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    """Content in rows of one block each, zeros behind its end."""
    rows = np.zeros(count * block, np.uint8)
    rows[: len(content)] = np.frombuffer(content, np.uint8)
    return rows.reshape(count, block)

"""Parity sidecars: blocks from which up to as many rotten blocks of a pack can be computed.

    table | parity block … parity block | table again
    table = header 16 | SHA-256 of the pack 32 | pack size u64 | block size u32 | data blocks u16
            | parity blocks u16 | checksum 16 of each data block | of each parity block | digest 32

Checksums and digest are BLAKE3 without a key, over sealed bytes: whoever has no key can tell rot,
and mend it. The table is kept twice, for the sidecar rots like everything else.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from blake3 import blake3

from backup_pipeline.engine.crypto import Buffer
from backup_pipeline.engine.errors import DamageError
from backup_pipeline.engine.format.header import HEADER_BYTES, PARITY, check_header, header
from backup_pipeline.engine.format.pack import MOST_PACK_BYTES

__all__ = [
    "CHECKSUM_BYTES",
    "MOST_BLOCKS",
    "ParityTable",
    "checksum",
    "decode_parity",
    "encode_parity",
]

CHECKSUM_BYTES = 16
MOST_BLOCKS = 256  # data and parity blocks of one pack: as many as the field has elements
_DIGEST_BYTES = 32
_SIZES = struct.Struct("<32sQIHH")
_TABLE_START = HEADER_BYTES + _SIZES.size


@dataclass(frozen=True, slots=True)
class ParityTable:
    """What a sidecar says of its pack.

    Attributes:
        pack: SHA-256 of the pack.
        size: Its bytes.
        block: Bytes of a block; the last data block is padded with zeros.
        checksums: Of each data block.
        parity: Of each parity block.
    """

    pack: bytes
    size: int
    block: int
    checksums: Sequence[bytes]
    parity: Sequence[bytes]


def checksum(block: Buffer) -> bytes:
    """What tells whether a block is as it was."""
    return blake3(block).digest()[:CHECKSUM_BYTES]


def encode_parity(table: ParityTable, blocks: Sequence[Buffer]) -> list[Buffer]:
    """The sidecar of a pack, in pieces.

    Args:
        table: What it says.
        blocks: The parity blocks.
    """
    start = header(PARITY) + _SIZES.pack(
        table.pack, table.size, table.block, len(table.checksums), len(table.parity)
    )
    said = start + b"".join(table.checksums) + b"".join(table.parity)
    whole = said + blake3(said).digest()
    return [whole, *blocks, whole]


def decode_parity(content: Buffer, name: str) -> tuple[ParityTable, list[memoryview | None]]:
    """A sidecar's table, from either copy, and its parity blocks; None for those that are rotten.

    Raises:
        DamageError: Neither copy of the table is good.
        UsageError: A later version wrote it.
    """
    view = memoryview(content)
    for at in _table_places(bytes(content)):
        table = _table(view[at:])
        if table is None:
            continue
        length = _TABLE_START + CHECKSUM_BYTES * (len(table.checksums) + len(table.parity))
        first = length + _DIGEST_BYTES
        blocks: list[memoryview | None] = []
        for number, wanted in enumerate(table.parity):
            block = view[first + number * table.block : first + (number + 1) * table.block]
            blocks.append(block if checksum(block) == wanted else None)
        return table, blocks
    check_header(content, PARITY, name)  # a later version's is not damage
    raise DamageError(f"{name} has lost both copies of its table")


def _table_places(content: bytes) -> Iterator[int]:
    """Where a table may begin: at the start, and at the last places that look so."""
    yield 0
    at = len(content)
    while (at := content.rfind(header(PARITY), 1, at)) > 0:
        yield at


def _table(view: memoryview) -> ParityTable | None:
    if len(view) < _TABLE_START or bytes(view[:HEADER_BYTES]) != header(PARITY):
        return None
    pack, size, block, data, parity = _SIZES.unpack(view[HEADER_BYTES:_TABLE_START])
    end = _TABLE_START + CHECKSUM_BYTES * (data + parity)
    digest = bytes(view[end : end + _DIGEST_BYTES])
    if data + parity > MOST_BLOCKS or blake3(view[:end]).digest() != digest:
        return None
    if size > MOST_PACK_BYTES or not block or (data - 1) * block >= size or data * block < size:
        return None
    sums = [
        bytes(view[at : at + CHECKSUM_BYTES]) for at in range(_TABLE_START, end, CHECKSUM_BYTES)
    ]
    return ParityTable(pack, size, block, sums[:data], sums[data:])

"""Packs: immutable objects of sealed frames, each holding one large chunk or many small files.

    header 16 | run id 16 | salt 32 | frame … frame | sealed index | index length u32 | "KPBX" 4

The name of a pack is the SHA-256 of all its bytes. A frame is the zstd-compressed or, where that
gains nothing, the raw content of its members, sealed under a key derived from the run's content
key and the salt. The index is sealed under the index key; zeros at its end pad the pack's size.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Sequence
from dataclasses import dataclass

from backup_pipeline.engine.crypto import SALT_BYTES, TAG_BYTES, Buffer, Sealer, sealer
from backup_pipeline.engine.errors import DamageError
from backup_pipeline.engine.format.header import HEADER_BYTES, PACK, check_header, header
from backup_pipeline.engine.keys import DatasetKeys

__all__ = [
    "FRAMES_START",
    "ID_BYTES",
    "MOST_FRAME_BYTES",
    "MOST_PACK_BYTES",
    "PACK_NAME_BYTES",
    "RUN_BYTES",
    "TRAILER_BYTES",
    "Frame",
    "PackIndex",
    "content_sealer",
    "decode_index",
    "frame_binding",
    "index_range",
    "pack_header",
    "run_and_salt",
    "seal_index",
]

RUN_BYTES = 16
PACK_NAME_BYTES = RUN_BYTES + 32  # run id, then SHA-256 of the sealed pack
ID_BYTES = 32
FRAMES_START = HEADER_BYTES + RUN_BYTES + SALT_BYTES
MOST_PACK_BYTES = 64 * 1024 * 1024
MOST_FRAME_BYTES = 16 * 1024 * 1024  # decompressed; a reader refuses to unfold more
TRAILER = struct.Struct("<I4s")
TRAILER_BYTES = TRAILER.size
TRAILER_MAGIC = b"KPBX"
_COUNTS = struct.Struct("<II")


@dataclass(frozen=True, slots=True)
class Frame:
    """One sealed frame as the index lists it.

    Attributes:
        ordinal: Position among the frames, from 0.
        offset: Where it starts in the pack.
        stored: Sealed length, tag included.
        raw: Length once opened and decompressed; equal to ``stored - 16`` where not compressed.
        members: (size, id) of each member, one behind the other in the raw content.
    """

    ordinal: int
    offset: int
    stored: int
    raw: int
    members: tuple[tuple[int, bytes], ...]


@dataclass(frozen=True, slots=True)
class PackIndex:
    """What a pack says of itself."""

    run: bytes
    salt: bytes
    frames: tuple[Frame, ...]


def pack_header(run: bytes, salt: bytes) -> bytes:
    """The first 64 bytes of a pack."""
    return header(PACK) + run + salt


def run_and_salt(start: Buffer, name: str) -> tuple[bytes, bytes]:
    """The run id and salt in a pack's first 64 bytes."""
    check_header(start, PACK, name)
    if len(start) < FRAMES_START:
        raise DamageError(f"{name} is cut short")
    run_end = HEADER_BYTES + RUN_BYTES
    return bytes(start[HEADER_BYTES:run_end]), bytes(start[run_end:FRAMES_START])


def content_sealer(keys: DatasetKeys, content_key: bytes, salt: bytes) -> Sealer:
    """The sealer of a pack's frames."""
    return sealer(content_key, "pack frames", salt, encrypted=keys.encrypted)


def frame_binding(dataset_id: bytes, ordinal: int) -> bytes:
    """Associated data of a frame."""
    return b"frame1" + dataset_id + ordinal.to_bytes(4, "little")


def _index_sealer(keys: DatasetKeys, salt: bytes) -> Sealer:
    return sealer(keys.index, "pack index", salt, encrypted=keys.encrypted)


def _index_binding(dataset_id: bytes, run: bytes) -> bytes:
    return b"index1" + dataset_id + run


def padded_size(size_bytes: int) -> int:
    """The size that a pack of this many bytes is padded to: coarser the larger it is."""
    step = max(4096, 1 << max(0, size_bytes.bit_length() - 9))
    return (size_bytes + step - 1) // step * step


def seal_index(keys: DatasetKeys, run: bytes, salt: bytes, frames: Sequence[Frame]) -> bytes:
    """The sealed index and the trailer, padded so that the whole pack has a padded size."""
    sizes = array("I")
    ids: list[bytes] = []
    for frame in frames:
        for size, identity in frame.members:
            sizes.append(size)
            ids.append(identity)
    columns = [
        array("I", [frame.stored for frame in frames]),
        array("I", [frame.raw for frame in frames]),
        array("I", [len(frame.members) for frame in frames]),
        sizes,
    ]
    plain = bytearray(_COUNTS.pack(len(frames), len(sizes)))
    for column in columns:
        plain += column.tobytes()  # the machines we run on are little-endian, as the format is
    plain += b"".join(ids)
    frames_end = frames[-1].offset + frames[-1].stored if frames else FRAMES_START
    whole = frames_end + len(plain) + TAG_BYTES + TRAILER_BYTES
    plain += bytes(padded_size(whole) - whole)
    out = bytearray(len(plain) + TAG_BYTES + TRAILER_BYTES)
    view = memoryview(out)
    sealed = len(plain) + TAG_BYTES
    dataset_id = keys.dataset_id
    _index_sealer(keys, salt).seal_into(0, plain, _index_binding(dataset_id, run), view[:sealed])
    TRAILER.pack_into(out, sealed, sealed, TRAILER_MAGIC)
    return bytes(out)


def index_range(trailer: Buffer, pack_size: int, name: str) -> tuple[int, int]:
    """Offset and length of the sealed index, from a pack's last bytes.

    Raises:
        DamageError: The trailer is not one.
    """
    if len(trailer) < TRAILER_BYTES:
        raise DamageError(f"{name} is cut short")
    length, magic = TRAILER.unpack_from(trailer, len(trailer) - TRAILER_BYTES)
    offset = pack_size - TRAILER_BYTES - length
    if magic != TRAILER_MAGIC or offset < FRAMES_START or length < TAG_BYTES + _COUNTS.size:
        raise DamageError(f"{name} does not end as a pack should")
    return offset, length


def decode_index(
    keys: DatasetKeys, start: Buffer, sealed_index: Buffer, index_offset: int, name: str
) -> PackIndex:
    """Open and check a pack's index; the frames it lists lie within the pack.

    Raises:
        DamageError: It is not what was stored.
    """
    run, salt = run_and_salt(start, name)
    plain = _index_sealer(keys, salt).open(0, sealed_index, _index_binding(keys.dataset_id, run))
    frame_count, member_count = _COUNTS.unpack_from(plain)
    need = _COUNTS.size + 12 * frame_count + (4 + ID_BYTES) * member_count
    if need > len(plain):
        raise DamageError(f"the index of {name} lists more than it holds")
    place = _COUNTS.size
    columns: list[array[int]] = []
    for count in (frame_count, frame_count, frame_count, member_count):
        column = array("I")
        column.frombytes(plain[place : place + 4 * count])
        columns.append(column)
        place += 4 * count
    stored, raw, members, sizes = columns
    frames: list[Frame] = []
    offset, member = FRAMES_START, 0
    for ordinal in range(frame_count):
        last = member + members[ordinal]
        content = tuple(
            (sizes[i], bytes(plain[place + ID_BYTES * i : place + ID_BYTES * (i + 1)]))
            for i in range(member, min(last, member_count))
        )
        frame = Frame(ordinal, offset, stored[ordinal], raw[ordinal], content)
        if (
            last > member_count
            or frame.raw > MOST_FRAME_BYTES
            or sum(size for size, _ in content) != frame.raw
        ):
            raise DamageError(f"the index of {name} contradicts itself at frame {ordinal}")
        frames.append(frame)
        offset += frame.stored
        member = last
    if offset != index_offset or member != member_count:
        raise DamageError(f"the index of {name} does not cover its frames")
    return PackIndex(run, salt, tuple(frames))

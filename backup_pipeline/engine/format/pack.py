"""Packs: immutable objects of sealed frames, each holding one large chunk or many small files.

    header 16 | run id 16 | salt 32 | frame … frame | sealed index | sealed length of it 20 | "KPBX"

The name of a pack is the SHA-256 of all its bytes. A frame is the zstd-compressed or, where that
gains nothing, the raw content of its members, sealed under a key derived from the run's content
key and the pack's first 64 bytes. The index is sealed under the index key likewise; zeros at its
end pad the pack's size, and its length is sealed too, for it would tell how much is padding.
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Sequence
from dataclasses import dataclass

from backup_pipeline.engine.crypto import SALT_BYTES, TAG_BYTES, Buffer, Sealer, sealer
from backup_pipeline.engine.errors import DamageError
from backup_pipeline.engine.format.header import HEADER_BYTES, PACK, check_header, header
from backup_pipeline.engine.format.sealed import padded_size
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
    "run_of",
    "seal_index",
]

RUN_BYTES = 16
PACK_NAME_BYTES = RUN_BYTES + 32  # run id, then SHA-256 of the sealed pack
ID_BYTES = 32
FRAMES_START = HEADER_BYTES + RUN_BYTES + SALT_BYTES
MOST_PACK_BYTES = 64 * 1024 * 1024
MOST_FRAME_BYTES = 16 * 1024 * 1024  # decompressed; a reader refuses to unfold more
TRAILER_MAGIC = b"KPBX"
_LENGTH, _COUNTS = struct.Struct("<I"), struct.Struct("<II")
_SEALED_LENGTH_BYTES = _LENGTH.size + TAG_BYTES
TRAILER_BYTES = _SEALED_LENGTH_BYTES + len(TRAILER_MAGIC)
_LEAST_INDEX_BYTES = _COUNTS.size + TAG_BYTES


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
    """What a pack says of itself.

    Attributes:
        run: The run whose content key seals its frames.
        frames: All of them, one behind the other from byte 64 on.
    """

    run: bytes
    frames: tuple[Frame, ...]


def pack_header(run: bytes, salt: bytes) -> bytes:
    """The first 64 bytes of a pack."""
    return header(PACK) + run + salt


def run_of(start: Buffer, name: str) -> bytes:
    """The run whose content key seals a pack, from its first 64 bytes.

    Raises:
        DamageError: They are not a pack's.
    """
    check_header(start, PACK, name)
    if len(start) != FRAMES_START:
        raise DamageError(f"{name} is cut short")
    return bytes(start[HEADER_BYTES : HEADER_BYTES + RUN_BYTES])


def content_sealer(keys: DatasetKeys, content_key: bytes, start: bytes) -> Sealer:
    """The sealer of the frames of a pack that begins with these 64 bytes."""
    return sealer(content_key, "pack frames", start, encrypted=keys.encrypted)


def frame_binding(dataset_id: bytes, ordinal: int) -> bytes:
    """Associated data of a frame."""
    return b"frame1" + dataset_id + _LENGTH.pack(ordinal)


def _index_sealer(keys: DatasetKeys, start: Buffer) -> Sealer:
    return sealer(keys.index, "pack index", bytes(start), encrypted=keys.encrypted)


def _u32s(values: Sequence[int]) -> bytes:
    column = array("I", values)
    if sys.byteorder == "big":
        column.byteswap()
    return column.tobytes()


def _from_u32s(content: Buffer) -> list[int]:
    column = array("I")
    column.frombytes(content)
    if sys.byteorder == "big":
        column.byteswap()
    return column.tolist()


def seal_index(keys: DatasetKeys, start: bytes, frames: Sequence[Frame]) -> bytes:
    """The sealed index and the trailer, padded so that the whole pack has a padded size.

    Args:
        keys: The dataset's.
        start: The pack's first 64 bytes.
        frames: All of its frames.
    """
    members = [member for frame in frames for member in frame.members]
    plain = bytearray(_COUNTS.pack(len(frames), len(members)))
    plain += _u32s([frame.stored for frame in frames])
    plain += _u32s([frame.raw for frame in frames])
    plain += _u32s([len(frame.members) for frame in frames])
    plain += _u32s([size for size, _ in members])
    plain += b"".join([identity for _, identity in members])
    frames_end = frames[-1].offset + frames[-1].stored if frames else FRAMES_START
    whole = frames_end + len(plain) + TAG_BYTES + TRAILER_BYTES
    plain += bytes(padded_size(whole) - whole)
    sealed = len(plain) + TAG_BYTES
    out = bytearray(sealed + TRAILER_BYTES)
    view, box = memoryview(out), _index_sealer(keys, start)
    box.seal_into(0, plain, b"index1" + keys.dataset_id, view[:sealed])
    length = view[sealed : sealed + _SEALED_LENGTH_BYTES]
    box.seal_into(1, _LENGTH.pack(sealed), b"trail1" + keys.dataset_id, length)
    out[-len(TRAILER_MAGIC) :] = TRAILER_MAGIC
    return bytes(out)


def index_range(
    keys: DatasetKeys, start: Buffer, trailer: Buffer, pack_size: int, name: str
) -> tuple[int, int]:
    """Offset and length of the sealed index.

    Args:
        keys: The dataset's.
        start: The pack's first 64 bytes.
        trailer: The pack's last 24 bytes, or more of its end.
        pack_size: Its size in bytes.
        name: Its name, for messages.

    Raises:
        DamageError: The trailer is not this pack's.
    """
    run_of(start, name)
    end = bytes(trailer[-TRAILER_BYTES:])
    if len(end) < TRAILER_BYTES or not end.endswith(TRAILER_MAGIC) or pack_size > MOST_PACK_BYTES:
        raise DamageError(f"{name} does not end as a pack should")
    sealed_length = end[:_SEALED_LENGTH_BYTES]
    try:
        box = _index_sealer(keys, start)
        plain = box.open(1, sealed_length, b"trail1" + keys.dataset_id)
    except DamageError:
        raise DamageError(f"the trailer of {name} is not what was written") from None
    (length,) = _LENGTH.unpack(plain)
    offset = pack_size - TRAILER_BYTES - length
    if offset < FRAMES_START or length < _LEAST_INDEX_BYTES:
        raise DamageError(f"{name} is cut short")
    return offset, length


def decode_index(
    keys: DatasetKeys, start: Buffer, sealed_index: Buffer, index_offset: int, name: str
) -> PackIndex:
    """Open and check a pack's index; the frames it lists fill the pack up to the index.

    Raises:
        DamageError: It is not what was stored.
    """
    run = run_of(start, name)
    try:
        plain = _index_sealer(keys, start).open(0, sealed_index, b"index1" + keys.dataset_id)
    except DamageError as error:
        raise DamageError(f"the index of {name}: {error.message}") from None
    if len(plain) < _COUNTS.size:
        raise DamageError(f"the index of {name} is cut short")
    frame_count, member_count = _COUNTS.unpack_from(plain)
    if _COUNTS.size + 12 * frame_count + (4 + ID_BYTES) * member_count > len(plain):
        raise DamageError(f"the index of {name} lists more than it holds")
    place = _COUNTS.size
    columns: list[list[int]] = []
    for count in (frame_count, frame_count, frame_count, member_count):
        columns.append(_from_u32s(plain[place : place + 4 * count]))
        place += 4 * count
    stored, raw, members, sizes = columns
    ids = bytes(plain[place : place + ID_BYTES * member_count])
    listed = [ids[at : at + ID_BYTES] for at in range(0, len(ids), ID_BYTES)]
    frames: list[Frame] = []
    offset, member = FRAMES_START, 0
    for ordinal in range(frame_count):
        last = member + members[ordinal]
        content = tuple(zip(sizes[member:last], listed[member:last], strict=True))
        frame = Frame(ordinal, offset, stored[ordinal], raw[ordinal], content)
        if (
            last > member_count
            or offset + frame.stored > index_offset
            or frame.raw > MOST_FRAME_BYTES
            or not TAG_BYTES <= frame.stored <= frame.raw + TAG_BYTES
            or sum(size for size, _ in content) != frame.raw
        ):
            raise DamageError(f"the index of {name} contradicts itself at frame {ordinal}")
        frames.append(frame)
        offset += frame.stored
        member = last
    if offset != index_offset or member != member_count:
        raise DamageError(f"the index of {name} does not cover its frames")
    return PackIndex(run, tuple(frames))

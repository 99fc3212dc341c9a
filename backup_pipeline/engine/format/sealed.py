"""Sealed content in frames of 1 MiB, so that a range of it can be read: manifest segments.

header 16 | salt 32 | frame … frame        each frame: up to 1 MiB of content, then its tag

Zeros at the content's end pad its size; whoever reads it knows its length from elsewhere.
"""

from __future__ import annotations

from backup_pipeline.engine.crypto import (
    SALT_BYTES,
    TAG_BYTES,
    Buffer,
    Sealer,
    new_salt,
    sealer,
)
from backup_pipeline.engine.errors import DamageError
from backup_pipeline.engine.format.header import HEADER_BYTES, MANIFEST, check_header, header
from backup_pipeline.engine.keys import DatasetKeys

__all__ = [
    "FRAME_BYTES",
    "open_sealed",
    "open_sealed_range",
    "padded_size",
    "seal",
    "sealed_size",
]

FRAME_BYTES = 1024 * 1024
START = HEADER_BYTES + SALT_BYTES
_STEP = FRAME_BYTES + TAG_BYTES


def padded_size(size_bytes: int) -> int:
    """The size that so many bytes are padded to: in steps of 4 KiB, or 1/256 of large ones."""
    step = max(4096, 1 << max(0, size_bytes.bit_length() - 9))
    return (size_bytes + step - 1) // step * step


def _sealer(keys: DatasetKeys, start: Buffer) -> Sealer:
    return sealer(keys.index, "manifest", bytes(start), encrypted=keys.encrypted)


def _binding(keys: DatasetKeys, ordinal: int, *, last: bool) -> bytes:
    return (
        b"manif1" + keys.dataset_id + ordinal.to_bytes(4, "little") + (b"\x01" if last else b"\x00")
    )


def sealed_size(content_bytes: int) -> int:
    """Size in bytes of the sealed form of so much content, with its padding."""
    frames = max(1, -(-content_bytes // FRAME_BYTES))
    return START + content_bytes + frames * TAG_BYTES


def seal(keys: DatasetKeys, content: Buffer, *, salt: bytes | None = None) -> bytearray:
    """Seal content, padded, under the dataset's index key."""
    view, size = memoryview(content), padded_size(len(content))
    out = bytearray(sealed_size(size))
    start = header(MANIFEST) + (new_salt() if salt is None else salt)
    out[:START] = start
    target, box = memoryview(out), _sealer(keys, start)
    frames = max(1, -(-size // FRAME_BYTES))
    for ordinal in range(frames):
        first = ordinal * FRAME_BYTES
        wanted = min(size - first, FRAME_BYTES)
        piece: Buffer = view[first : first + wanted]
        if len(piece) < wanted:
            piece = bytes(piece) + bytes(wanted - len(piece))
        place = START + ordinal * _STEP
        bound = _binding(keys, ordinal, last=ordinal == frames - 1)
        box.seal_into(ordinal, piece, bound, target[place : place + wanted + TAG_BYTES])
    return out


def open_sealed(keys: DatasetKeys, sealed: Buffer, name: str) -> bytearray:
    """All the content and its padding.

    Raises:
        DamageError: It is not what was sealed.
    """
    start, rest = memoryview(sealed)[:START], memoryview(sealed)[START:]
    return open_sealed_range(keys, start, rest, 0, len(rest), name)


def open_sealed_range(
    keys: DatasetKeys, start: Buffer, frames: Buffer, first: int, whole_bytes: int, name: str
) -> bytearray:
    """The content of some neighbouring frames.

    Args:
        keys: The dataset's keys.
        start: The object's first 48 bytes.
        frames: Sealed frames, beginning with number ``first``.
        first: Number of the first frame given.
        whole_bytes: Length of all sealed frames of the object together.
        name: The object's name, for messages.

    Raises:
        DamageError: They are not what was sealed.
    """
    check_header(start, MANIFEST, name)
    box = _sealer(keys, start)
    count = max(1, -(-whole_bytes // _STEP))
    view, out = memoryview(frames), bytearray()
    for number, place in enumerate(range(0, max(1, len(view)), _STEP)):
        ordinal = first + number
        bound = _binding(keys, ordinal, last=ordinal == count - 1)
        try:
            out += box.open(ordinal, view[place : place + _STEP], bound)
        except DamageError as error:
            raise DamageError(f"{name}: {error.message} (frame {ordinal})") from None
    return out

"""Sealed content in frames of 1 MiB, so that a range of it can be read: manifest segments.

header 16 | salt 32 | frame … frame        each frame: up to 1 MiB of content, then its tag

Zeros at the content's end pad its size; whoever reads it knows its length from elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

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
    "Seal",
    "Sink",
    "Unsealed",
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


class Sink(Protocol):
    """Takes an object's content piece by piece, and gives what is stored of it.

    Attributes:
        size_bytes: How much content came so far.
    """

    size_bytes: int

    def write(self, content: Buffer) -> int:
        """Take in more content; the number of its bytes, as a file says it."""
        ...

    def finish(self) -> Sequence[Buffer]:
        """The object, in pieces."""
        ...


class Unsealed:
    """The content itself, as a repository without encryption stores it."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self.size_bytes = 0

    def write(self, content: Buffer) -> int:
        """Take in more content."""
        self._pieces.append(bytes(content))
        self.size_bytes += len(content)
        return len(content)

    def finish(self) -> Sequence[Buffer]:
        """All of it."""
        return self._pieces


class Seal:
    """Seals content that comes in pieces, padded, under the dataset's index key.

    Args:
        keys: The dataset's.
        salt: Sixteen bytes that no other object has; drawn where none are given.
    """

    def __init__(self, keys: DatasetKeys, *, salt: bytes | None = None) -> None:
        self._keys = keys
        start = header(MANIFEST) + (new_salt() if salt is None else salt)
        self._box = _sealer(keys, start)
        self._pieces: list[Buffer] = [start]
        self._waiting = bytearray()
        self._ordinal = 0
        self.size_bytes = 0

    def write(self, content: Buffer) -> int:
        """Take in more content."""
        self._waiting += content
        self.size_bytes += len(content)
        if len(self._waiting) > FRAME_BYTES:
            self._seal_frames()
        return len(content)

    def finish(self) -> Sequence[Buffer]:
        """The sealed object."""
        self._waiting += bytes(padded_size(self.size_bytes) - self.size_bytes)
        self._seal_frames()
        self._seal_frame(self._waiting, last=True)
        return self._pieces

    def _seal_frames(self) -> None:
        """Seal all that cannot be the last frame."""
        view, done = memoryview(self._waiting), 0
        while len(view) - done > FRAME_BYTES:
            self._seal_frame(view[done : done + FRAME_BYTES], last=False)
            done += FRAME_BYTES
        view.release()
        del self._waiting[:done]

    def _seal_frame(self, content: Buffer, *, last: bool) -> None:
        sealed = bytearray(len(content) + TAG_BYTES)
        bound = _binding(self._keys, self._ordinal, last=last)
        self._box.seal_into(self._ordinal, content, bound, memoryview(sealed))
        self._pieces.append(sealed)
        self._ordinal += 1


def seal(keys: DatasetKeys, content: Buffer, *, salt: bytes | None = None) -> bytes:
    """Seal content, padded, under the dataset's index key."""
    one = Seal(keys, salt=salt)
    one.write(content)
    return b"".join(one.finish())


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

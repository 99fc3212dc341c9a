"""Whether what stands at a path is what a manifest's row says; it is read to know."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa
from blake3 import blake3

from backup_pipeline.engine.folders import split
from backup_pipeline.engine.operations.assembly import extents
from backup_pipeline.engine.operations.metadata import mode_kept
from backup_pipeline.engine.operations.rows import MADE, Row, rows_of
from backup_pipeline.engine.operations.target import Target
from backup_pipeline.sources.file_reader import type_of

__all__ = ["has_content", "mismatch", "mismatches"]

_ZEROS_BYTES = 1 << 20


def has_content(
    place: Target,
    row: Row,
    chunks: Sequence[Any],
    identity_key: bytes,
    *,
    from_disk: bool = False,
) -> bool:
    """Whether the regular file at a row's path holds the row's bytes; False where it is closed.

    Args:
        place: The folder that the path is relative to.
        row: The row.
        chunks: Its chunks.
        identity_key: Names chunks.
        from_disk: Whether what the system remembers of the file is forgotten first, as far as it
            is on the disk already.
    """
    try:
        fd = place.open_read(row.path)
    except PermissionError:
        return False  # it can be replaced all the same
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_size != row.size:
            return False
        if from_disk:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        return _has_chunks(fd, row, chunks, identity_key) and _has_zeros(fd, row.holes or ())
    finally:
        os.close(fd)


def mismatch(
    place: Target, row: Row, chunks: Sequence[Any], identity_key: bytes, *, owners: bool
) -> str | None:
    """Why what stands at a path is not what the row says; None where it is.

    Args:
        place: The folder that the path is relative to.
        row: The row.
        chunks: Its chunks.
        identity_key: Names chunks.
        owners: Whether owners count.
    """
    folder, name = split(row.path)
    try:
        found = os.stat(name, dir_fd=place.folder(folder), follow_symlinks=False)
    except (FileNotFoundError, NotADirectoryError):
        return "is not there"
    kind = type_of(found.st_mode)
    if kind != ("file" if row.type == "object" else row.type):
        return f"is a {kind}, not a {row.type}"
    if row.mtime_ns is not None and found.st_mtime_ns != row.mtime_ns:
        return "has another time of modification"
    if owners and row.uid is not None and (row.uid, row.gid) != (found.st_uid, found.st_gid):
        return "belongs to another"
    if row.type == "symlink":
        return None if place.read_link(row.path) == row.link_target else "links elsewhere"
    mode = mode_kept(row.mode, row.uid, row.gid, found.st_uid, found.st_gid)
    if mode is not None and stat.S_IMODE(found.st_mode) != mode:
        return "has another mode"
    if row.type == "directory" or _is_closed(found):
        return None  # what its owner may not read was hashed before it was closed
    right = has_content(place, row, chunks, identity_key, from_disk=True)
    return None if right else "has other bytes"


def mismatches(
    place: Target, batches: Iterable[pa.Table], identity_key: bytes, *, owners: bool
) -> Iterator[tuple[bytes, str]]:
    """Paths that are not what their rows say, with the reason; see ``mismatch``."""
    inodes: dict[Any, int] = {}
    for table in batches:
        lists: Any = table.column("chunks").combine_chunks()
        for number, row in enumerate(rows_of(table)):
            if row.type not in MADE:
                continue
            chunks = lists[number].as_py() or ()
            reason = mismatch(place, row, chunks, identity_key, owners=owners)
            reason = reason or _unlinked(place, row, inodes)
            if reason is not None:
                yield row.path, reason


def _unlinked(place: Target, row: Row, inodes: dict[Any, int]) -> str | None:
    """Whether a further name of a file is one."""
    if (row.links or 1) < 2 or row.type != "file":
        return None
    found = place.lookup(row.path)
    key = (row.device, row.inode, row.size, row.mtime_ns)
    first = inodes.setdefault(key, found.st_ino if found else 0)
    return None if found and found.st_ino == first else "is no further name of its file"


def _has_chunks(fd: int, row: Row, chunks: Sequence[Any], identity_key: bytes) -> bool:
    at = 0
    for chunk in chunks:
        digest = blake3(key=identity_key)
        for offset, _, length in extents(row.holes, at, chunk["size"]):
            digest.update(os.pread(fd, length, offset))
        if digest.digest() != chunk["id"]:
            return False
        at += chunk["size"]
    return True


def _has_zeros(fd: int, holes: Any) -> bool:
    for hole in holes:
        at, end = hole["offset"], hole["offset"] + hole["length"]
        while at < end:
            try:
                at = os.lseek(fd, at, os.SEEK_DATA)
            except OSError:
                break  # nothing but a hole from here on
            content = os.pread(fd, max(0, min(_ZEROS_BYTES, end - at)), at)
            if content.strip(b"\0"):
                return False
            at += max(1, len(content))
    return True


def _is_closed(found: os.stat_result) -> bool:
    """Whether a file may not be read even by its owner."""
    return os.geteuid() != 0 and not found.st_mode & stat.S_IRUSR

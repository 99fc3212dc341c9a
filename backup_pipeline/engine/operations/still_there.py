"""Content that the source still holds: files that a manifest names, compared chunk by chunk."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from blake3 import blake3

from backup_pipeline.engine.errors import BackupError
from backup_pipeline.engine.format.manifest import CHUNK_TYPE
from backup_pipeline.sources.base import Reader, Source, Unreadable

_compute: Any = pc

__all__ = ["chunks_of_source"]


def chunks_of_source(
    open_source: Callable[[], Source],
    rows: Iterable[pa.Table],
    ids: set[bytes],
    identity_key: bytes,
    note: Callable[[str], None],
) -> Iterator[tuple[bytes, bytes]]:
    """Chunks that files of the source still hold, each once.

    A file that is still listed is read from its beginning, whatever its size; a chunk's id decides.
    So one that was changed in place or appended to gives what is left of the old content, and so
    does what only has an estimate of its size, such as a database's table.

    Args:
        open_source: Opens the source.
        rows: Manifest rows; ``path``, ``type`` and ``chunks``.
        ids: What is sought.
        identity_key: Names chunks.
        note: Is told why the source could not help.
    """
    wanted = pa.array(sorted(ids), CHUNK_TYPE.field("id").type)
    missing = set(ids)
    try:
        with closing(open_source()) as source:
            there = _listed(source)
            for table in rows:
                for row in _needing(table, wanted):
                    key = (row["path"], row["type"])
                    sought = missing & {chunk["id"] for chunk in row["chunks"]}
                    if not sought or key not in there:
                        continue
                    for identity, content in _pieces(source, row, there[key], identity_key):
                        if identity in missing:
                            missing.discard(identity)
                            yield identity, content
    except BackupError as error:
        note(f"the source could not help: {error.message}")


def _listed(source: Source) -> dict[tuple[bytes, str], str | None]:
    """Etag of what has bytes, by path and type."""
    found: dict[tuple[bytes, str], str | None] = {}
    for batch in source.scan():
        names = ("path", "type", "etag", "state")
        for path, type, etag, state in zip(
            *(batch.column(name).to_pylist() for name in names), strict=True
        ):
            if state == "good" and type in {"file", "object"}:
                found[path, type] = etag
    return found


def _needing(table: pa.Table, wanted: pa.Array) -> Iterator[dict[str, Any]]:
    """Rows that have a chunk that is sought."""
    lists: Any = table.column("chunks").combine_chunks()
    hits = pc.is_in(lists.flatten().field("id"), value_set=wanted)
    numbers: Any = _compute.list_parent_indices(lists).filter(hits).unique()
    return iter(table.take(numbers).to_pylist())


def _pieces(
    source: Source, row: dict[str, Any], etag: str | None, identity_key: bytes
) -> Iterator[tuple[bytes, bytes]]:
    """What a file has where a manifest's row has chunks, as far as it is the same."""
    try:
        reader = source.open(row["path"], row["type"], etag=etag)
    except Unreadable:
        return
    try:
        for chunk in row["chunks"]:
            content = _read(reader, chunk["size"])
            if blake3(content, key=identity_key).digest() == chunk["id"]:
                yield chunk["id"], content
    except Unreadable:
        return
    finally:
        _close(reader)


def _read(reader: Reader, size_bytes: int) -> bytes:
    """The next bytes of a file, as many as there are of those that are asked for."""
    content, filled = bytearray(size_bytes), 0
    while filled < size_bytes:
        count = reader.read_into(memoryview(content)[filled:])
        if not count:
            break
        filled += count
    return bytes(content[:filled])


def _close(reader: Reader) -> None:
    try:
        reader.finish()
    except Unreadable:
        return

"""The manifest: a snapshot's entries and their chunks as Arrow tables in Parquet segments.

A snapshot lists at most 16 segments, oldest first, each sorted by path. A row in a later segment
replaces the row of the same path in every earlier one; a row of type ``deleted`` removes it. So
an unchanged run reuses its parent's list, and a small change writes a small segment.

A segment's own metadata says which format it is of, and holds random bytes: two segments never have
the same name, so that a name which was condemned does not come back.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from backup_pipeline.engine.crypto import TAG_BYTES, new_salt
from backup_pipeline.engine.errors import DamageError
from backup_pipeline.engine.format.header import (
    FORMAT_VERSION,
    canonical_json,
    check_features,
    decode_json,
)
from backup_pipeline.engine.format.pack import (
    FRAMES_START,
    ID_BYTES,
    MOST_FRAME_BYTES,
    PACK_NAME_BYTES,
)
from backup_pipeline.engine.format.pages import check_pages

if TYPE_CHECKING:
    import pyarrow.parquet as pq

    from backup_pipeline.engine.crypto import Buffer
    from backup_pipeline.engine.format.sealed import Sink

__all__ = [
    "BATCH_ROWS",
    "CHUNK_TYPE",
    "DELETED",
    "MOST_SEGMENTS",
    "SegmentEncoder",
    "SegmentFile",
    "check_paths",
    "check_rows",
    "count_through",
    "decode_segment",
    "encode_segment",
    "manifest_schema",
    "merge",
    "merge_batches",
    "segments_to_merge",
]

DELETED = "deleted"
MOST_SEGMENTS = 16
MOST_SEGMENT_ROWS = 200_000_000
METADATA_KEY = b"backup_pipeline"

CHUNK_TYPE = pa.struct(
    [
        pa.field("pack", pa.binary(PACK_NAME_BYTES), nullable=False),
        pa.field("ordinal", pa.uint32(), nullable=False),
        pa.field("offset", pa.uint32(), nullable=False),
        pa.field("stored", pa.uint32(), nullable=False),
        pa.field("raw", pa.uint32(), nullable=False),
        pa.field("inner", pa.uint32(), nullable=False),
        pa.field("size", pa.uint32(), nullable=False),
        pa.field("id", pa.binary(ID_BYTES), nullable=False),
    ]
)
_PAIR = pa.struct(
    [pa.field("name", pa.binary(), nullable=False), pa.field("value", pa.binary(), nullable=False)]
)
_TEXT_PAIR = pa.struct(
    [pa.field("name", pa.string(), nullable=False), pa.field("value", pa.string(), nullable=False)]
)
_HOLE = pa.struct(
    [pa.field("offset", pa.int64(), nullable=False), pa.field("length", pa.int64(), nullable=False)]
)

_SCHEMA = pa.schema(
    [
        pa.field("path", pa.binary(), nullable=False),
        pa.field("type", pa.string(), nullable=False),
        pa.field("state", pa.string(), nullable=False),
        pa.field("reason", pa.string()),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("mtime_ns", pa.int64()),
        pa.field("ctime_ns", pa.int64()),
        pa.field("inode", pa.uint64()),
        pa.field("device", pa.uint64()),
        pa.field("links", pa.uint32()),
        pa.field("mode", pa.uint32()),
        pa.field("uid", pa.uint32()),
        pa.field("gid", pa.uint32()),
        pa.field("etag", pa.string()),
        pa.field("version_id", pa.string()),
        pa.field("link_target", pa.binary()),
        pa.field("content_type", pa.string()),
        pa.field("metadata", pa.list_(pa.field("element", _TEXT_PAIR, nullable=False))),
        pa.field("xattrs", pa.list_(pa.field("element", _PAIR, nullable=False))),
        pa.field("holes", pa.list_(pa.field("element", _HOLE, nullable=False))),
        pa.field("chunks", pa.list_(pa.field("element", CHUNK_TYPE, nullable=False))),
    ]
)

_SORTED_INTEGERS = ("size", "mtime_ns", "ctime_ns", "inode")
_DICTIONARY = (
    "type",
    "state",
    "reason",
    "device",
    "links",
    "mode",
    "uid",
    "gid",
    "content_type",
    "chunks.list.element.pack",
    "chunks.list.element.ordinal",
    "chunks.list.element.offset",
    "chunks.list.element.stored",
    "chunks.list.element.raw",
)
_ROW_GROUP_ROWS = 32_768
BATCH_ROWS = 16_384
"""How many rows a segment is read in at a time where not all are needed at once."""


def manifest_schema() -> pa.Schema:
    """Columns of a segment."""
    return _SCHEMA


class SegmentEncoder:
    """Makes the Parquet file of rows that come in order of path, a row group at a time.

    Args:
        sink: Where it goes as it grows; into memory where none is given.
        salt: Sixteen bytes that no other segment has; drawn where none are given.

    Attributes:
        rows: How many rows came so far.
    """

    def __init__(self, sink: Sink | None = None, salt: bytes | None = None) -> None:
        import pyarrow.parquet as pq

        self._salt = salt or new_salt()
        self._memory = pa.BufferOutputStream() if sink is None else None
        self._sink = self._memory or pa.PythonFile(_AsFile(sink), "w")
        self._writer = pq.ParquetWriter(
            self._sink,
            _SCHEMA,
            compression="zstd",
            compression_level=3,
            use_dictionary=list(_DICTIONARY),
            column_encoding={
                "path": "DELTA_BYTE_ARRAY",
                "chunks.list.element.inner": "DELTA_BINARY_PACKED",
                "chunks.list.element.size": "DELTA_BINARY_PACKED",
                **dict.fromkeys(_SORTED_INTEGERS, "DELTA_BINARY_PACKED"),
            },
            write_statistics=["path", "size"],
            store_schema=False,
        )
        self._waiting: list[pa.Table] = []
        self._waiting_rows = 0
        self.rows = 0

    def add(self, rows: pa.Table) -> None:
        """Take in the next rows."""
        self.rows += len(rows)
        self._waiting_rows += len(rows)
        self._waiting.append(rows)
        if self._waiting_rows >= _ROW_GROUP_ROWS:
            waiting = pa.concat_tables(self._waiting)
            whole = self._waiting_rows - self._waiting_rows % _ROW_GROUP_ROWS
            self._writer.write_table(waiting.slice(0, whole), row_group_size=_ROW_GROUP_ROWS)
            self._waiting = [waiting.slice(whole)]
            self._waiting_rows -= whole

    def finish(self) -> pa.Buffer | None:
        """Write the rest of the file; all of it, where it went into memory."""
        if self._waiting_rows or not self.rows:
            rows = pa.concat_tables([_SCHEMA.empty_table(), *self._waiting])
            self._writer.write_table(rows, row_group_size=_ROW_GROUP_ROWS)
        said = {"format": FORMAT_VERSION, "read": 0, "salt": self._salt.hex()}
        self._writer.add_key_value_metadata({METADATA_KEY: canonical_json(said)})
        self._writer.close()
        return self._memory.getvalue() if self._memory is not None else None


class _AsFile:
    """A sink as pyarrow writes to it."""

    closed = False

    def __init__(self, sink: Sink | None) -> None:
        assert sink is not None
        self.write = sink.write

    def flush(self) -> None:
        """The sink takes what it is given at once."""

    def close(self) -> None:
        """The sink is finished by its owner."""


def encode_segment(rows: pa.Table, salt: bytes | None = None) -> pa.Buffer:
    """The Parquet file of rows that are sorted by path."""
    encoder = SegmentEncoder(salt=salt)
    encoder.add(rows)
    file = encoder.finish()
    assert file is not None, "it went into memory"
    return file


class SegmentFile:
    """The Parquet file of a segment, opened; its rows are read whole or a batch at a time.

    Args:
        content: The file.
        name: Whose it is, for messages.

    Attributes:
        rows: How many rows it says it has.

    Raises:
        DamageError: It is no segment of this format.
        UsageError: A later version wrote it.
    """

    def __init__(self, content: Buffer | pa.Buffer, name: str) -> None:
        self._content = content
        self._name = name
        with self._readable():
            self._metadata = self._opened(None).metadata
            _check_metadata((self._metadata.metadata or {}).get(METADATA_KEY, b""), name)
        self.rows: int = self._metadata.num_rows
        if self.rows > MOST_SEGMENT_ROWS:
            raise DamageError(f"segment {name} claims {self.rows} rows")
        self._spans = check_pages(memoryview(content), name)

    def read(self, columns: Sequence[str] | None = None) -> pa.Table:
        """All rows, of all columns or of some."""
        wanted = _fields(columns)
        with self._readable():
            rows = self._opened(self._metadata).read(columns=wanted.names, use_threads=False)
            return _shaped(rows, wanted)

    def batches(
        self,
        columns: Sequence[str] | None = None,
        first: bytes = b"",
        last: bytes | None = None,
    ) -> Iterator[pa.Table]:
        """Rows in pieces of ``BATCH_ROWS`` at most, decoded as they are asked for.

        Args:
            columns: Those that are wanted.
            first: Row groups that end before this path are left out.
            last: So are those that begin behind this one.
        """
        wanted = _fields(columns)
        with self._readable():
            for batch in self._opened(self._metadata).iter_batches(
                BATCH_ROWS,
                row_groups=self._groups(first, last),
                columns=wanted.names,
                use_threads=False,
            ):
                yield _shaped(pa.Table.from_batches([batch]), wanted)

    def _groups(self, first: bytes, last: bytes | None) -> list[int]:
        """Numbers of the row groups that may hold paths from first to last."""
        groups: list[int] = []
        for number, span in enumerate(self._spans):
            if span is not None:
                behind = last is not None and span[0] > last
                if span[1] < first or behind:
                    continue
            groups.append(number)
        return groups

    def _opened(self, metadata: pq.FileMetaData | None) -> pq.ParquetFile:
        """The file, for one reading of it: a reader is not for several threads."""
        import pyarrow.parquet as pq

        return pq.ParquetFile(pa.BufferReader(self._content), metadata=metadata)

    @contextmanager
    def _readable(self) -> Generator[None]:
        try:
            yield
        except (pa.ArrowException, OSError, KeyError, ValueError) as error:
            raise DamageError(f"segment {self._name} is not readable: {error}") from None


def _fields(columns: Sequence[str] | None) -> pa.Schema:
    return _SCHEMA if columns is None else pa.schema([_SCHEMA.field(name) for name in columns])


def _shaped(rows: pa.Table, wanted: pa.Schema) -> pa.Table:
    return rows.select(wanted.names).cast(wanted)


def decode_segment(
    content: Buffer | pa.Buffer, name: str, columns: Sequence[str] | None = None
) -> pa.Table:
    """The rows of a segment; raises as ``SegmentFile`` does."""
    return SegmentFile(content, name).read(columns)


def _check_metadata(text: bytes, name: str) -> None:
    said = decode_json(text, f"the metadata of segment {name}")
    version, read = said.get("format"), said.get("read", 0)
    if not isinstance(version, int) or not isinstance(read, int):
        raise DamageError(f"segment {name} does not say its format")
    check_features(version, read, f"segment {name}")


def merge(segments: Sequence[pa.Table], *, keep_deleted: bool = False) -> pa.Table:
    """One table of the newest row of each path, sorted by path.

    Args:
        segments: Tables of sorted rows, oldest first.
        keep_deleted: Whether rows of type ``deleted`` stay, as when only newer segments merge.
    """
    if not segments:
        return _SCHEMA.empty_table()
    kept = [segments[-1]]
    newer: list[Any] = list(segments[-1].column("path").chunks)
    for table in reversed(segments[:-1]):
        if newer:
            value_set = pa.chunked_array(newer, type=pa.binary()).combine_chunks()
            replaced = pc.is_in(table.column("path"), value_set=value_set)
            newer.extend(table.column("path").chunks)
            table = table.filter(pc.invert(replaced))
        kept.append(table)
    whole = pa.concat_tables(kept)
    if not keep_deleted:
        whole = whole.filter(pc.not_equal(whole.column("type"), DELETED))
    if len(segments) > 1:
        order = pc.sort_indices(whole, sort_keys=[("path", "ascending")])
        whole = whole.take(order)
    return whole


def merge_batches(
    streams: Sequence[Iterator[pa.Table]], *, keep_deleted: bool = False
) -> Iterator[pa.Table]:
    """The newest row of each path, in order of path, a batch at a time.

    Args:
        streams: Each segment's rows in order of path, in batches, oldest segment first.
        keep_deleted: Whether rows of type ``deleted`` stay, as when only newer segments merge.
    """
    fronts = [_Front(stream) for stream in streams]
    while live := [front for front in fronts if front.fill()]:
        bound = min(front.last for front in live)
        parts = [part for front in live if len(part := front.take_through(bound))]
        rows = merge(parts, keep_deleted=keep_deleted)
        if len(rows):
            yield rows


class _Front:
    """What is next of one segment's rows."""

    def __init__(self, stream: Iterator[pa.Table]) -> None:
        self._stream = stream
        self._rows: pa.Table | None = None
        self.last = b""

    def fill(self) -> bool:
        """Have some rows at hand; whether there are any left."""
        while self._rows is None or not len(self._rows):
            self._rows = next(self._stream, None)
            if self._rows is None:
                return False
        self.last = self._rows.column("path")[-1].as_py()
        return True

    def take_through(self, path: bytes) -> pa.Table:
        """Take the rows at hand up to a path."""
        assert self._rows is not None
        count = count_through(self._rows, path)
        taken, self._rows = self._rows.slice(0, count), self._rows.slice(count)
        return taken


def count_through(rows: pa.Table, path: bytes) -> int:
    """How many of some sorted rows come up to a path, that path included."""
    paths = rows.column("path")
    low, high = 0, len(paths)
    while low < high:
        middle = (low + high) // 2
        if paths[middle].as_py() <= path:
            low = middle + 1
        else:
            high = middle
    return low


def segments_to_merge(rows: Sequence[int]) -> int:
    """How many of the newest segments to merge into one, so that sizes stay geometric.

    Args:
        rows: Row counts, oldest first, the new segment last.

    Returns:
        A number from 1 (merge nothing) to ``len(rows)``.
    """
    count, total = 1, rows[-1]
    while count < len(rows) and (
        rows[-count - 1] < 2 * total or len(rows) - count >= MOST_SEGMENTS
    ):
        count += 1
        total += rows[-count]
    return count


def check_rows(rows: pa.Table, name: str) -> None:
    """Refuse rows that no writer of this format makes.

    Raises:
        DamageError: A path is empty, absolute, climbs, or is out of order; a hole is not in its
            file; or the chunks and holes of a good entry do not add up to its size.
    """
    check_paths(rows, name)
    chunks, holes = (rows.column(column).combine_chunks() for column in ("chunks", "holes"))
    _check_chunks(chunks, name)
    held = _sums(chunks, "size") + _sums(holes, "length")
    with_bytes = pc.is_in(rows.column("type"), value_set=pa.array(["file", "object"]))
    good = pc.and_(with_bytes, pc.equal(rows.column("state"), "good"))
    _check_holes(rows.column("size").to_numpy(), holes, good.to_numpy(), name)
    wrong = (held != rows.column("size").to_numpy()) & good.to_numpy()
    if wrong.any():
        bad = rows.column("path")[int(wrong.argmax())].as_py()
        raise DamageError(f"segment {name} does not hold all bytes of {bad!r}")


def check_paths(rows: pa.Table, name: str) -> None:
    """Refuse rows whose paths no writer of this format makes.

    Raises:
        DamageError: A path is empty, absolute, climbs, or is out of order.
    """
    paths = rows.column("path").combine_chunks()
    if len(paths) > 1 and not pc.all(pc.less(paths[:-1], paths[1:])).as_py():
        raise DamageError(f"segment {name} is not sorted by path")
    pattern = r"(^|/)(\.\.?)?(/|$)"
    suspicious = pc.or_(
        pc.match_substring_regex(paths, pattern), pc.match_substring(paths, b"\x00")
    )
    if pc.any(suspicious).as_py():
        bad = paths.filter(suspicious)[0].as_py()
        raise DamageError(f"segment {name} holds the impossible path {bad!r}")


def _sums(lists: Any, field: str) -> np.ndarray[Any, Any]:
    """The sum of a field over each list; 0 where there is none."""
    counts = lists.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    values = lists.flatten().field(field).to_numpy(zero_copy_only=False).astype(np.int64)
    upto = np.concatenate([[0], np.cumsum(values)])
    ends = np.cumsum(counts)
    return upto[ends] - upto[ends - counts]


def _check_holes(sizes: Any, lists: Any, good: Any, name: str) -> None:
    """Refuse holes that reach out of their file, or do not ascend; a torn entry's may."""
    flat = lists.flatten()
    if not len(flat):
        return
    offset, length = (flat.field(field).to_numpy() for field in ("offset", "length"))
    counts = lists.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    row = np.repeat(np.arange(len(counts)), counts)
    size, good = sizes[row], good[row]
    negative = (offset < 0) | (length < 0)
    # Nothing here can overflow: no length is added before it is known to be in the file.
    wrong = good & ((offset > size) | (length > size - np.minimum(offset, size)))
    if not (wrong | negative).any():
        overlap = (row[1:] == row[:-1]) & (offset[1:] < offset[:-1] + length[:-1])
        wrong[1:] |= good[1:] & overlap
    if (wrong | negative).any():
        raise DamageError(f"segment {name} places a hole where none can be")


def _check_chunks(lists: Any, name: str) -> None:
    flat = lists.flatten()
    columns = {
        field: flat.field(field).to_numpy(zero_copy_only=False).astype(np.int64)
        for field in ("offset", "stored", "raw", "inner", "size")
    }
    wrong = (
        (columns["offset"] < FRAMES_START)
        | (columns["raw"] > MOST_FRAME_BYTES)
        | (columns["stored"] < TAG_BYTES)
        | (columns["stored"] > columns["raw"] + TAG_BYTES)
        | (columns["inner"] + columns["size"] > columns["raw"])
        | (columns["size"] == 0)
    )
    if wrong.any():
        raise DamageError(f"segment {name} places a chunk where none can be")

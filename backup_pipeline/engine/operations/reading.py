"""The reading half of a run: entries of a source into content for the packer and manifest rows."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from backup_pipeline.engine.chunk_index import ChunkIndex
from backup_pipeline.engine.chunker import SOLID_LIMIT_BYTES, SOLID_TARGET_BYTES, Chunker
from backup_pipeline.engine.format.manifest import CHUNK_TYPE, manifest_schema
from backup_pipeline.engine.format.pack import PACK_NAME_BYTES
from backup_pipeline.engine.operations.packing import Content, Packer
from backup_pipeline.engine.progress import Meter
from backup_pipeline.sources.base import GOOD, TORN, Details, Reader, Source, Unreadable

__all__ = ["EntryReader", "chunk_column", "rows_with_names"]

MOST_TRIES = 3
SOLID_BUFFER_BYTES = SOLID_TARGET_BYTES + SOLID_LIMIT_BYTES

# Chunks while a run is under way: packs by number, for their names are not known yet.
_NUMBERED = pa.struct([pa.field("pack", pa.uint32(), nullable=False), *list(CHUNK_TYPE)[1:]])


@dataclass(slots=True)
class _Pending:
    """Changed rows of one batch, waiting for their chunks.

    Attributes:
        last_task: All their content is in the packer's tasks up to this one; None while some of
            it stands in the buffer for small files and is in no task yet.
    """

    rows: pa.RecordBatch
    contents: list[Content | None]
    details: list[Details | None]
    states: dict[int, tuple[str, str]]
    last_task: int | None


class _Grew(Exception):
    """A file is larger now than its place among small files."""


class EntryReader:
    """Reads changed entries; finished rows come out in ``batches``, in order of path.

    Args:
        source: Where from.
        packer: Where content goes.
        index: Where chunks lie.
        chunker: Cuts large content.
        meter: Counts what was read.
    """

    def __init__(
        self, source: Source, packer: Packer, index: ChunkIndex, chunker: Chunker, meter: Meter
    ) -> None:
        self._source = source
        self._packer = packer
        self._index = index
        self._chunker = chunker
        self._meter = meter
        self._solid: memoryview | None = None
        self._solid_end = 0
        self._members: list[tuple[Content, int, int]] = []
        self._links: dict[tuple[int, int], tuple[Content, Details]] = {}
        self._pending: deque[_Pending] = deque()
        self.batches: list[pa.RecordBatch] = []
        self.read_bytes = 0
        self.size_drift_bytes = 0  # by how much files differ from their size in the scan
        self.problems: list[tuple[bytes, str, str]] = []

    def take(self, rows: pa.RecordBatch) -> None:
        """Read the entries of these rows of a scan."""
        columns = {name: rows.column(name).to_pylist() for name in _READ_COLUMNS}
        wanted = zip(*columns.values(), strict=True)
        self._source.prefetch(
            [
                (path, size, etag)
                for path, type, state, size, _, _, _, etag in wanted
                if state == GOOD and type in _WITH_BYTES
            ]
        )
        pending = _Pending(rows, [], [], {}, None)
        for number, values in enumerate(zip(*columns.values(), strict=True)):
            path, type, state, size, links, device, inode, etag = values
            content: Content | None = None
            details: Details | None = None
            if state == GOOD:
                try:
                    if type in _WITH_BYTES:
                        content, details = self._with_bytes(
                            path, type, size, etag, (device, inode) if (links or 0) > 1 else None
                        )
                        self.size_drift_bytes += details.size - size
                    else:
                        details = self._source.open(path, type).finish()
                    if not details.steady:
                        pending.states[number] = (TORN, "changed each time while it was read")
                except Unreadable as error:
                    pending.states[number] = (error.state, error.reason)
                    content = details = None
            pending.contents.append(content)
            pending.details.append(details)
            self._meter.add(size if type in _WITH_BYTES else 0, 1)
        self._note_problems(rows, pending.states)
        pending.last_task = None if self._members else self._packer.submitted
        self._pending.append(pending)
        self._settle()

    def finish(self) -> None:
        """Hand over what is left; all rows are in ``batches`` on return."""
        self._flush()
        self._packer.wait_through(self._packer.submitted)
        self._settle()
        if self._solid is not None:
            self._packer.buffers.give_back(self._solid)
            self._solid = None

    def _note_problems(self, rows: pa.RecordBatch, states: Mapping[int, tuple[str, str]]) -> None:
        for number, (state, reason) in states.items():
            self.problems.append((rows.column("path")[number].as_py(), state, reason))

    def _settle(self) -> None:
        done = self._packer.finished_through()
        while self._pending:
            last = self._pending[0].last_task
            if last is None or last > done:
                return
            self.batches.append(_finished(self._pending.popleft(), self._index, self._packer))

    def _with_bytes(
        self, path: bytes, type: str, size: int, etag: str | None, link: tuple[int, int] | None
    ) -> tuple[Content, Details]:
        if link is not None and link in self._links:
            return self._links[link]
        found = self._read(path, type, size, etag)
        if link is not None and found[1].steady:
            self._links[link] = found
        return found

    def _read(self, path: bytes, type: str, size: int, etag: str | None) -> tuple[Content, Details]:
        small, attempt = size < SOLID_LIMIT_BYTES, 1
        while True:
            reader = self._source.open(path, type, etag=etag)
            try:
                if small:
                    content, details = self._read_small(reader, size, attempt)
                else:
                    content, details = self._read_large(reader)
            except _Grew:
                small = False
                continue
            if details.steady or attempt == MOST_TRIES:
                self.read_bytes += details.size - sum(length for _, length in details.holes)
                return content, details
            attempt += 1

    def _read_small(self, reader: Reader, size: int, attempt: int) -> tuple[Content, Details]:
        if self._solid is None or self._solid_end >= SOLID_TARGET_BYTES:
            self._flush()
            self._solid = self._packer.buffers.take()
        start = end = self._solid_end
        room = self._solid[:SOLID_BUFFER_BYTES]
        try:
            while count := reader.read_into(room[end:]):
                end += count
                if end == len(room):
                    raise _Grew
                if end - start == size and attempt == 1:
                    break  # as the scan said; finish() sees whether there is more
        except (_Grew, Unreadable):
            _give_up(reader)
            raise
        details = reader.finish()
        content = Content()
        if end > start and (details.steady or attempt == MOST_TRIES):
            self._members.append((content, start, end - start))
            self._solid_end = end
        if self._solid_end >= SOLID_TARGET_BYTES:
            self._flush()
        return content, details

    def _flush(self) -> None:
        if self._solid is not None and self._members:
            self._packer.solid(self._solid, self._members)
            self._solid = None
            self._members = []
            for pending in self._pending:
                if pending.last_task is None:
                    pending.last_task = self._packer.submitted
        self._solid_end = 0

    def _read_large(self, reader: Reader) -> tuple[Content, Details]:
        content, packer = Content(), self._packer
        buffer = packer.buffers.take()
        filled, ended = 0, False
        try:
            while not ended:
                view = buffer
                while filled < len(view):
                    count = reader.read_into(view[filled:])
                    if count == 0:
                        ended = True
                        break
                    filled += count
                    self._meter.show()
                pieces = list(self._chunker.cut(view[:filled], last=ended))
                cut = pieces[-1][0] + pieces[-1][1] if pieces else 0
                following = packer.buffers.take()
                filled -= cut
                following[:filled] = view[cut : cut + filled]
                packer.chunks(buffer, content, pieces)
                buffer = following
        except BaseException:
            packer.buffers.give_back(buffer)
            _give_up(reader)
            raise
        packer.buffers.give_back(buffer)
        return content, reader.finish()


_READ_COLUMNS = ("path", "type", "state", "size", "links", "device", "inode", "etag")
_WITH_BYTES = frozenset({"file", "object"})


def _give_up(reader: Reader) -> None:
    try:
        reader.finish()
    except Unreadable:
        return  # the failure under way says more


def _finished(pending: _Pending, index: ChunkIndex, packer: Packer | None = None) -> pa.RecordBatch:
    """The batch with all of a manifest's columns, chunks by number of their pack."""
    count = len(pending.rows)
    columns: dict[str, Any] = {
        name: pending.rows.column(name) for name in pending.rows.schema.names
    }
    details = pending.details
    if pending.states:
        states, reasons = columns["state"].to_pylist(), columns["reason"].to_pylist()
        for number, (state, reason) in pending.states.items():
            states[number], reasons[number] = state, reason
        columns["state"], columns["reason"] = states, reasons
    columns["size"] = [
        size if one is None or content is None else one.size
        for size, one, content in zip(
            columns["size"].to_pylist(), details, pending.contents, strict=True
        )
    ]
    marks = [one.mark if one else _NO_MARK for one in details]
    for name in _MARKED:
        scanned = columns[name].to_pylist()
        seen = [mark.get(name, old) for mark, old in zip(marks, scanned, strict=True)]
        if seen != scanned:
            columns[name] = seen
    columns["link_target"] = [one.link_target if one else None for one in details]
    columns["content_type"] = [one.content_type if one else None for one in details]
    columns["metadata"] = [_pairs(one.metadata) if one else None for one in details]
    columns["xattrs"] = [_pairs(one.xattrs) if one else None for one in details]
    columns["holes"] = [
        [{"offset": o, "length": n} for o, n in one.holes] if one and one.holes else None
        for one in details
    ]
    columns["chunks"] = chunk_column(
        [c.ids if c else None for c in pending.contents], index, packer
    )
    arrays: list[pa.Array] = []
    fields: list[pa.Field] = []
    for wanted in manifest_schema():
        value = columns[wanted.name]
        type = pa.list_(_NUMBERED) if wanted.name == "chunks" else wanted.type
        arrays.append(value if isinstance(value, pa.Array) else pa.array(value, type))
        fields.append(pa.field(wanted.name, arrays[-1].type))
    assert all(len(array) == count for array in arrays)
    return pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields))


_NO_MARK: dict[str, int | str | None] = {}
_MARKED = ("mtime_ns", "ctime_ns", "inode", "mode", "uid", "gid", "etag", "version_id")


def _pairs(pairs: Sequence[tuple[Any, Any]]) -> list[dict[str, Any]] | None:
    return [{"name": name, "value": value} for name, value in pairs] if pairs else None


def chunk_column(
    ids: Sequence[Sequence[bytes] | None], index: ChunkIndex, packer: Packer | None = None
) -> pa.Array:
    """Lists of chunks, packs by number, from lists of ids."""
    flat = [identity for one in ids if one is not None for identity in one]
    places = index.places(flat)
    if places is None:  # some are claimed by tasks behind ours that are not done yet
        assert packer is not None
        packer.wait_through(packer.submitted)
        places = index.places(flat)
        assert places is not None
    fields = [pa.array(np.ascontiguousarray(column), pa.uint32()) for column in places.T]
    packed = pa.StructArray.from_arrays(
        [*fields, pa.array(flat, CHUNK_TYPE.field("id").type)], fields=list(_NUMBERED)
    )
    offsets = np.zeros(len(ids) + 1, np.int32)
    np.cumsum([len(one) if one is not None else 0 for one in ids], out=offsets[1:])
    absent = pa.array([one is None for one in ids], pa.bool_())
    return pa.ListArray.from_arrays(
        pa.array(offsets), packed, type=pa.list_(_NUMBERED), mask=absent
    )


def rows_with_names(batches: Sequence[pa.RecordBatch], names: Sequence[bytes]) -> pa.Table:
    """Finished batches as manifest rows: packs by name."""
    schema = manifest_schema()
    if not batches:
        return schema.empty_table()
    by_number = pa.array(names, pa.binary(PACK_NAME_BYTES))
    return pa.Table.from_batches([_with_names(batch, by_number, schema) for batch in batches])


def _with_names(batch: pa.RecordBatch, by_number: pa.Array, schema: pa.Schema) -> pa.RecordBatch:
    lists: Any = batch.column("chunks")
    packed = lists.values
    fields = [by_number.take(packed.field("pack"))] + [
        packed.field(i) for i in range(1, packed.type.num_fields)
    ]
    named = pa.StructArray.from_arrays(fields, fields=list(CHUNK_TYPE))
    chunks = pa.ListArray.from_arrays(
        lists.offsets, named, type=schema.field("chunks").type, mask=lists.is_null()
    )
    columns = [chunks if f.name == "chunks" else batch.column(f.name) for f in schema]
    return pa.RecordBatch.from_arrays(columns, schema=schema)

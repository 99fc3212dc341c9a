"""The reading half of a run: entries of a source into content for the packer and manifest rows."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from blake3 import blake3

from backup_pipeline.engine.chunk_index import ChunkIndex
from backup_pipeline.engine.chunker import SOLID_LIMIT_BYTES, SOLID_TARGET_BYTES, Chunker
from backup_pipeline.engine.format.manifest import CHUNK_TYPE, manifest_schema
from backup_pipeline.engine.format.pack import PACK_NAME_BYTES
from backup_pipeline.engine.operations.packing import Member, Packer
from backup_pipeline.engine.progress import Meter
from backup_pipeline.sources.base import GOOD, TORN, Details, Reader, Source, Unreadable

__all__ = ["EntryReader", "Older", "chunk_column", "with_names", "with_places"]

MOST_TRIES = 3
METERED_BYTES = 1024 * 1024
SOLID_BUFFER_BYTES = SOLID_TARGET_BYTES + SOLID_LIMIT_BYTES

# Chunks while a run is under way: packs by number, for their names are not known yet.
_NUMBERED = pa.struct([pa.field("pack", pa.uint32(), nullable=False), *list(CHUNK_TYPE)[1:]])


@dataclass(frozen=True, slots=True)
class Older:
    """What earlier snapshots have of some rows.

    Attributes:
        reference: Rows of the one that the run inherits from, or for a full of the newest.
        newest: Rows of the newest one, where that is another; else None.
    """

    reference: pa.Table | None = None
    newest: pa.Table | None = None


@dataclass(slots=True)
class _Pending:
    """Changed rows of one batch, waiting for their chunks.

    Attributes:
        rows: As the scan has them.
        older: What earlier snapshots have of them.
        contents: The chunks of each, as rows of the chunk index; None where there are no bytes.
        details: What was found where it is more than the scan says.
        last_task: All their content is in the packer's tasks up to this one; None while some of
            it stands in the buffer for small files and is in no task yet.
    """

    rows: pa.RecordBatch
    older: Older
    contents: list[list[int] | None]
    details: list[Details | None]
    states: dict[int, tuple[str, str]]
    last_task: int | None


class _Grew(Exception):
    """A file is larger now than its place among small files."""


class EntryReader:
    """Reads changed entries.

    Args:
        source: Where from.
        packer: Where content goes.
        index: Where chunks lie.
        chunker: Cuts large content.
        meter: Counts what was read.
        keep: Is given finished rows in order of path, what earlier snapshots have of them, and how
            each one's content looks, as soon as the packs with their content are stored.
    """

    def __init__(
        self,
        source: Source,
        packer: Packer,
        index: ChunkIndex,
        chunker: Chunker,
        meter: Meter,
        keep: Callable[[pa.Table, Older, Any], None],
    ) -> None:
        self._source = source
        self._packer = packer
        self._index = index
        self._chunker = chunker
        self._meter = meter
        self._identity_key = packer.identity_key
        self._solid: memoryview | None = None
        self._solid_end = 0
        self._members: list[Member] = []
        self._member_rows: list[int] = []
        self._links: dict[tuple[int, int], tuple[list[int], Details]] = {}
        self._keep = keep
        self._pending: deque[_Pending] = deque()
        self._placed: deque[tuple[pa.RecordBatch, Older, Any]] = deque()
        self.read_bytes = 0
        self.size_drift_bytes = 0  # by how much files differ from their size in the scan
        self.problems: list[tuple[bytes, str, str]] = []

    def take(self, rows: pa.RecordBatch, older: Older) -> None:
        """Read the entries of these rows of a scan.

        Args:
            rows: Of the scan.
            older: What earlier snapshots have of them.
        """
        columns = [rows.column(name).to_pylist() for name in _READ_COLUMNS]
        entries = list(zip(*columns, strict=True))
        self._source.prefetch(
            [
                (path, size, etag)
                for path, type, state, size, *_, etag in entries
                if state == GOOD and type in _WITH_BYTES
            ]
        )
        pending = _Pending(rows, older, [], [], {}, None)
        done_bytes = done_entries = 0
        for number, entry in enumerate(entries):
            content: list[int] | None = None
            details: Details | None = None
            if entry[2] == GOOD:
                try:
                    content, details = self._whole(entry) or self._parts(entry)
                    if details is not None and not details.steady:
                        pending.states[number] = (TORN, "changed each time while it was read")
                except Unreadable as error:
                    pending.states[number] = (error.state, error.reason)
            pending.contents.append(content)
            pending.details.append(details)
            done_entries += 1
            if entry[1] in _WITH_BYTES:
                done_bytes += entry[3]
            if done_bytes >= METERED_BYTES or number == len(entries) - 1:
                self._meter.add(done_bytes, done_entries)
                done_bytes = done_entries = 0
        self._note_problems(rows, pending.states)
        pending.last_task = None if self._members else self._packer.submitted
        self._pending.append(pending)
        self._place()
        self._name()

    def finish(self) -> None:
        """Hand all that was read to the packer."""
        self._flush()
        if self._solid is not None:
            self._packer.buffers.give_back(self._solid)
            self._solid = None

    def _note_problems(self, rows: pa.RecordBatch, states: Mapping[int, tuple[str, str]]) -> None:
        for number, (state, reason) in states.items():
            self.problems.append((rows.column("path")[number].as_py(), state, reason))

    def settle(self) -> None:
        """Keep the last rows; the packer is closed."""
        self._place()
        assert not self._pending, "all content is stored, so all rows have places"
        self._name()

    def _place(self) -> None:
        """Give finished rows the places of their chunks, packs by number."""
        done = self._packer.finished_through()
        while self._pending:
            pending = self._pending[0]
            if pending.last_task is None or pending.last_task > done:
                return
            batch = _finished(pending, self._index)
            if batch is None:  # a chunk was claimed by content behind ours that is not done yet
                return
            self._placed.append((batch, pending.older, _looks(pending, self._index)))
            self._pending.popleft()

    def _name(self) -> None:
        """Keep rows whose packs have their names."""
        while self._placed:
            batch, older, looks = self._placed[0]
            rows = with_names(batch, self._index)
            if rows is None:
                return
            self._keep(rows, older, looks)
            self._placed.popleft()

    def _whole(self, entry: _Entry) -> tuple[list[int], Details | None] | None:
        """Read a small file in one go, as most are; None where that cannot be done."""
        path, type, _, size, mtime_ns, ctime_ns, inode, _, links, _ = entry
        if type != "file" or size >= SOLID_LIMIT_BYTES or links != 1:
            return None
        buffer, start = self._room(), self._solid_end
        view = buffer[start : start + size]
        xattrs = self._source.read_whole(path, mtime_ns, ctime_ns, inode, view)
        if xattrs is None:
            return None
        self.read_bytes += size
        return self._small(view), Details(size=size, xattrs=xattrs) if xattrs else None

    def _parts(self, entry: _Entry) -> tuple[list[int] | None, Details]:
        """Read any entry, from opening it to closing it."""
        path, type, _, size, _, _, inode, device, links, etag = entry
        if type not in _WITH_BYTES:
            return None, self._source.open(path, type).finish()
        link = (device, inode) if (links or 0) > 1 else None
        found = self._links.get(link) if link is not None else None
        if found is None:
            found = self._read(path, type, size, etag)
            if link is not None and found[1].steady:
                self._links[link] = found
        self.size_drift_bytes += found[1].size - size
        return found

    def _read(
        self, path: bytes, type: str, size: int, etag: str | None
    ) -> tuple[list[int], Details]:
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

    def _read_small(self, reader: Reader, size: int, attempt: int) -> tuple[list[int], Details]:
        room = self._room()[:SOLID_BUFFER_BYTES]
        start = end = self._solid_end
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
        kept = details.steady or attempt == MOST_TRIES
        return self._small(room[start:end]) if kept else [], details

    def _room(self) -> memoryview:
        """The buffer for small files, which ends so far where the next one goes."""
        if self._solid is None or self._solid_end >= SOLID_TARGET_BYTES:
            self._flush()
            self._solid = self._packer.buffers.take()
        return self._solid

    def _small(self, content: memoryview) -> list[int]:
        """The chunk of a small file that was read to the buffer's end; it stays there if new."""
        size = len(content)
        if not size:
            return []
        identity = blake3(content, key=self._identity_key).digest()
        row, fresh = self._index.claim(identity)
        if fresh:
            self._members.append((size, identity))
            self._member_rows.append(row)
            self._solid_end += size
            if self._solid_end >= SOLID_TARGET_BYTES:
                self._flush()
        return [row]

    def _flush(self) -> None:
        if self._solid is not None and self._members:
            self._packer.solid(self._solid, self._members, self._member_rows)
            self._solid = None
            self._members, self._member_rows = [], []
            for pending in self._pending:
                if pending.last_task is None:
                    pending.last_task = self._packer.submitted
        self._solid_end = 0

    def _read_large(self, reader: Reader) -> tuple[list[int], Details]:
        content, packer = list[int](), self._packer
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


_Entry = tuple[bytes, str, str, int, int, int, int, int, int, str | None]
_READ_COLUMNS = (
    *("path", "type", "state", "size", "mtime_ns", "ctime_ns", "inode", "device", "links", "etag"),
)
_WITH_BYTES = frozenset({"file", "object"})
_MARKED = ("mtime_ns", "ctime_ns", "inode", "mode", "uid", "gid", "etag", "version_id")


def _give_up(reader: Reader) -> None:
    try:
        reader.finish()
    except Unreadable:
        return  # the failure under way says more


def _looks(pending: _Pending, index: ChunkIndex) -> Any:
    """How each entry's content begins to look; 0 where that is not known, or there is none."""
    looks = np.zeros(len(pending.contents), np.uint8)
    some = [number for number, content in enumerate(pending.contents) if content]
    looks[some] = index.looks([content[0] for content in pending.contents if content])
    return looks


def _finished(pending: _Pending, index: ChunkIndex) -> pa.RecordBatch | None:
    """The batch with all of a manifest's columns, chunks by number of their pack.

    Returns:
        None while the place of a chunk is not known yet.
    """
    chunks = chunk_column(pending.contents, index)
    if chunks is None:
        return None
    count, rows = len(pending.rows), pending.rows
    found: dict[str, Any] = {name: rows.column(name) for name in rows.schema.names}
    found["chunks"] = chunks
    where = [number for number, one in enumerate(pending.details) if one is not None]
    details = [one for one in pending.details if one is not None]
    for name, values in _seen(rows.take(pa.array(where, pa.int64())), details).items():
        column = found[name].to_pylist() if name in found else [None] * count
        for number, value in zip(where, values, strict=True):
            column[number] = value
        found[name] = column
    for number, (state, reason) in pending.states.items():
        for name, value in (("state", state), ("reason", reason)):
            if not isinstance(found[name], list):
                found[name] = found[name].to_pylist()
            found[name][number] = value
    arrays: list[pa.Array] = []
    fields: list[pa.Field] = []
    for wanted in manifest_schema():
        value = found.get(wanted.name)
        if value is None:
            value = pa.nulls(count, wanted.type)
        arrays.append(value if isinstance(value, pa.Array) else pa.array(value, wanted.type))
        fields.append(pa.field(wanted.name, arrays[-1].type))
    return pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields))


def _seen(rows: pa.RecordBatch, details: Sequence[Details]) -> dict[str, list[Any]]:
    """Columns of entries that were opened, where they say other than their rows of the scan."""
    seen: dict[str, list[Any]] = {}
    for name in _MARKED:
        scanned = rows.column(name).to_pylist()
        values = [one.mark.get(name, old) for one, old in zip(details, scanned, strict=True)]
        if values != scanned:
            seen[name] = values
    sizes = zip(rows.column("type").to_pylist(), rows.column("size").to_pylist(), strict=True)
    seen["size"] = [
        one.size if type in _WITH_BYTES else size
        for one, (type, size) in zip(details, sizes, strict=True)
    ]
    seen["link_target"] = [one.link_target for one in details]
    seen["content_type"] = [one.content_type for one in details]
    seen["metadata"] = [_pairs(one.metadata) for one in details]
    seen["xattrs"] = [_pairs(one.xattrs) for one in details]
    seen["holes"] = [[{"offset": o, "length": n} for o, n in one.holes] or None for one in details]
    return {
        name: values
        for name, values in seen.items()
        if name in rows.schema.names or any(value is not None for value in values)
    }


def _pairs(pairs: Sequence[tuple[Any, Any]]) -> list[dict[str, Any]] | None:
    return [{"name": name, "value": value} for name, value in pairs] if pairs else None


def chunk_column(contents: Sequence[Sequence[int] | None], index: ChunkIndex) -> pa.Array | None:
    """Lists of chunks, packs by number, from lists of rows of the chunk index.

    Returns:
        None while the place of any is not known.
    """
    flat = [row for content in contents if content for row in content]
    places = index.places(flat)
    if places is None:
        return None
    ids = pa.Array.from_buffers(
        CHUNK_TYPE.field("id").type, len(flat), [None, pa.py_buffer(index.ids(flat))]
    )
    fields = [pa.array(np.ascontiguousarray(column), pa.uint32()) for column in places.T]
    packed = pa.StructArray.from_arrays([*fields, ids], fields=list(_NUMBERED))
    offsets = np.zeros(len(contents) + 1, np.int32)
    np.cumsum([len(one) if one is not None else 0 for one in contents], out=offsets[1:])
    absent = pa.array([one is None for one in contents], pa.bool_())
    return pa.ListArray.from_arrays(
        pa.array(offsets), packed, type=pa.list_(_NUMBERED), mask=absent
    )


def with_names(batch: pa.RecordBatch, index: ChunkIndex) -> pa.Table | None:
    """Finished rows as manifest rows, packs by name.

    Returns:
        None while the name of a pack is not known.
    """
    schema = manifest_schema()
    lists: Any = batch.column("chunks")
    packed = lists.values
    numbers = packed.field("pack").dictionary_encode()
    names = index.names_of(numbers.dictionary.to_pylist())
    if names is None:
        return None
    by_code = pa.array(names, pa.binary(PACK_NAME_BYTES))
    fields = [by_code.take(numbers.indices)] + [
        packed.field(i) for i in range(1, packed.type.num_fields)
    ]
    named = pa.StructArray.from_arrays(fields, fields=list(CHUNK_TYPE))
    chunks = pa.ListArray.from_arrays(
        lists.offsets, named, type=schema.field("chunks").type, mask=lists.is_null()
    )
    columns = [chunks if f.name == "chunks" else batch.column(f.name) for f in schema]
    return pa.Table.from_batches([pa.RecordBatch.from_arrays(columns, schema=schema)])


def with_places(rows: pa.Table, index: ChunkIndex) -> pa.Table:
    """Manifest rows with every chunk where an index has it; it has all of them, packs named."""
    if not len(rows):
        return rows
    lists = rows.column("chunks").combine_chunks()
    ids = lists.flatten().field("id").to_pylist()
    known = [index.claim(identity)[0] for identity in ids]
    contents: list[list[int] | None] = []
    at = 0
    for count in lists.value_lengths().to_pylist():
        contents.append(None if count is None else known[at : at + count])
        at += count or 0
    where = rows.schema.get_field_index("chunks")
    numbered = chunk_column(contents, index)
    assert numbered is not None, "every chunk of these rows was brought or was there"
    table = rows.set_column(where, pa.field("chunks", numbered.type), numbered)
    [batch] = table.combine_chunks().to_batches()
    named = with_names(batch, index)
    assert named is not None, "the packer is closed, so all packs have names"
    return named

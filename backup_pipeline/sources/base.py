"""The contract of a source: the adapter that reads a dataset's bytes consistently.

What the engine relies on, and each source guarantees:

* ``scan`` yields every entry once, in ascending order of its path's bytes, in batches with the
  columns of :data:`SCAN_SCHEMA`. What cannot be listed is yielded too, with ``state`` other than
  ``good``; nothing is left out in silence.
* The change mark of an entry (:data:`MARK_COLUMNS`) differs whenever its content may differ,
  except for changes younger than ``clock_granularity_ns``, which the engine reads again by itself.
* The size of an entry that has an etag may be an estimate; it is never part of its change mark.
* ``open`` gives the bytes as they are at one moment, or says in ``Reader.finish`` that it could
  not: the entry is then read again and at last recorded as ``torn``.
* ``fingerprint`` is cheap and changes when the dataset does. It equals what ``scanned`` says of a
  scan of the same state: by that a sensor knows that the newest snapshot is of the present state.
* ``as_of`` answers for a past day exactly or raises ``DayUnavailable``; it never answers with
  another day's state.
* Scanning and reading change nothing in the source.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "GOOD",
    "MARK_COLUMNS",
    "SKIPPED",
    "TORN",
    "UNREADABLE",
    "VANISHED",
    "Details",
    "Fingerprint",
    "Reader",
    "Source",
    "Unreadable",
    "scan_schema",
]

GOOD = "good"
TORN = "torn"  # changed while it was read, each time
UNREADABLE = "unreadable"  # listed, but its bytes or its folder could not be read
VANISHED = "vanished"  # listed, then gone before it could be read
SKIPPED = "skipped"  # a socket, device or fifo: recorded, and it has no bytes to keep

# An entry is unchanged when all of these equal the parent snapshot's. The device is not among
# them: its number may differ after a restart of the same machine.
MARK_COLUMNS = ("type", "state", "size", "mtime_ns", "ctime_ns", "inode", "etag", "version_id")


def scan_schema() -> pa.Schema:
    """Columns of a scan's batches; a source leaves null what its system does not have."""
    import pyarrow as pa

    return pa.schema(
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
        ]
    )


class Unreadable(Exception):
    """An entry's bytes cannot be had; the snapshot will name it.

    Attributes:
        state: ``unreadable`` or ``vanished``.
    """

    def __init__(self, state: str, reason: str) -> None:
        super().__init__(reason)
        self.state = state
        self.reason = reason


class Fingerprint:
    """The fingerprint of a scan, fed batch by batch; how it is cut into batches does not matter.

    It is the BLAKE3 of two BLAKE3s per column, over all values of the paths and change marks one
    behind the other and over their lengths; a number's length is constant and left out.
    """

    def __init__(self) -> None:
        from blake3 import blake3

        self._blake3 = blake3
        self._columns = {name: (blake3(), blake3()) for name in ("path", *MARK_COLUMNS)}

    def update(self, batch: pa.RecordBatch) -> None:
        """Take in the next batch of a scan."""
        import pyarrow as pa
        import pyarrow.compute as pc

        for name, (values, lengths) in self._columns.items():
            column = batch.column(name)
            if pa.types.is_integer(column.type):
                values.update(_numbers(pc.fill_null(column, 0)))
            else:
                values.update(_bytes_of(column.drop_null()))
                lengths.update(_numbers(pc.fill_null(pc.binary_length(column), -1)))

    def hexdigest(self) -> str:
        """The fingerprint of what was taken in so far: 64 hex digits."""
        digests = [one.digest() for pair in self._columns.values() for one in pair]
        return self._blake3(b"".join(digests)).hexdigest()


def _numbers(column: pa.Array) -> memoryview:
    import numpy as np

    return column.to_numpy(zero_copy_only=False).view(np.uint8).data


def _bytes_of(column: pa.Array) -> memoryview:
    """All values of a column of text or bytes without nulls, one behind the other."""
    import numpy as np

    _, ends, values = column.buffers()
    if ends is None or values is None:
        return memoryview(b"")
    places = np.frombuffer(memoryview(ends), np.int32)
    first, last = places[column.offset], places[column.offset + len(column)]
    return memoryview(values)[first:last]


@dataclass(slots=True)
class Details:
    """What is known of an entry once it was read to its end.

    Attributes:
        steady: Whether nothing changed while it was read.
        size: Logical size in bytes.
        mark: Values to replace the scan's (column name to value), as seen when it was opened.
        holes: Ranges (offset, length) without stored bytes; the reader skipped them.
        xattrs: Extended attributes.
        link_target: Where a symbolic link points.
        content_type: Media type, for objects.
        metadata: User metadata, for objects.
    """

    steady: bool = True
    size: int = 0
    mark: dict[str, int | str | None] = field(default_factory=dict[str, "int | str | None"])
    holes: Sequence[tuple[int, int]] = ()
    xattrs: Sequence[tuple[bytes, bytes]] = ()
    link_target: bytes | None = None
    content_type: str | None = None
    metadata: Sequence[tuple[str, str]] = ()


class Reader(Protocol):
    """Bytes of one entry, from first to last, without its holes."""

    def read_into(self, buffer: memoryview) -> int:
        """Fill ``buffer`` from its start; returns the number of bytes, 0 at the end.

        May return less than fits before the end is reached.
        """
        ...

    def finish(self) -> Details:
        """Close, and tell what was read. Called once, after the last byte or to give up."""
        ...


class Source(Protocol):
    """A dataset as it can be read. See the module's docstring for the guarantees.

    Attributes:
        kind: What a plan calls it.
        supports_as_of: Whether ``as_of`` ever answers.
        clock_granularity_ns: How coarse the clock is that dates its entries.
        zone: Where days begin and end; ``open_source`` sets it to the plan's.
    """

    kind: str
    supports_as_of: bool
    clock_granularity_ns: int
    zone: tzinfo = UTC

    def describe(self) -> str:
        """Where this reads from, for messages; holds no secret."""
        ...

    def fingerprint(self) -> str:
        """A cheap value that changes when the dataset does (hex)."""
        ...

    def scan(self) -> Iterator[pa.RecordBatch]:
        """Every entry, in ascending order of path."""
        ...

    def scanned(self) -> str | None:
        """The fingerprint of the state that the last scan listed.

        None where it is the fingerprint of the listing itself, as :class:`Fingerprint` makes it.
        """
        return None

    def prefetch(self, entries: Sequence[tuple[bytes, int, str | None]]) -> None:
        """Announce (path, size, etag) of entries that will be opened next, in this order."""
        ...

    def read_whole(
        self, path: bytes, mtime_ns: int, ctime_ns: int, inode: int, buffer: memoryview
    ) -> Sequence[tuple[bytes, bytes]] | None:
        """Fill the buffer with a file that is still exactly as the last scan found it.

        The short way for small files, for a source that has one.

        Args:
            path: The file's.
            mtime_ns: Its time of modification in the scan, in ns.
            ctime_ns: Its time of change in the scan, in ns.
            inode: Its inode in the scan.
            buffer: As long as its size in the scan.

        Returns:
            Its extended attributes; None where it has to be opened instead.
        """
        return None

    def open(self, path: bytes, type: str, *, etag: str | None = None) -> Reader:
        """Open one entry of the last scan.

        Entries without bytes (directories, links) are opened too: their reader is empty and
        ``finish`` brings their details.

        Raises:
            Unreadable: It cannot be opened, or is gone.
        """
        ...

    def close(self) -> None:
        """Let go of what reading took: connections, temporary files. May be called twice."""
        return

    def end_of(self, day: date) -> datetime:
        """The instant at which a day ends where the plan counts its days, in UTC."""
        return datetime.combine(day + timedelta(days=1), time(), self.zone).astimezone(UTC)

    def as_of(self, day: date) -> Source:
        """This source as it was at the end of a past day; see ``end_of``.

        Raises:
            DayUnavailable: That state cannot be had exactly.
        """
        ...

"""A source whose entries are listed one by one and read as streams: the base of most kinds."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import islice
from typing import TYPE_CHECKING, BinaryIO

from backup_pipeline.engine.errors import DayUnavailable, SourceError
from backup_pipeline.sources.base import (
    GOOD,
    UNREADABLE,
    VANISHED,
    Details,
    Fingerprint,
    Reader,
    Source,
    Unreadable,
    scan_schema,
)

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Item", "ListedSource", "Listing", "batches"]

BATCH_ROWS = 8192


@dataclass(frozen=True, slots=True)
class Item:
    """One entry of a listing.

    Attributes:
        path: Where it goes in a restored directory; relative, with ``/`` between its parts.
        size: Logical size in bytes; an estimate where only reading tells.
        etag: Differs whenever the content may differ; None: the other marks say so.
        version_id: Which version of it this is, where the system keeps versions.
        mtime_ns: When it was written, in ns since 1970 (UTC).
        type: ``object``, or ``directory`` for an empty folder that is to be kept.
        state: ``good``; else what became of it, and ``reason`` says why.
        reason: Why it cannot be read.
    """

    path: str
    size: int = 0
    etag: str | None = None
    version_id: str | None = None
    mtime_ns: int | None = None
    type: str = "object"
    state: str = GOOD
    reason: str | None = None


class Listing(Source):
    """What is common to sources that list their entries one by one.

    A subclass gives ``items`` and ``open``; ``fingerprint`` and ``scanned`` where its system has
    something cheaper than a listing.
    """

    supports_as_of = False
    clock_granularity_ns = 0  # etags tell versions apart

    @abstractmethod
    def items(self) -> Iterable[Item]:
        """Every entry once, in ascending order of the path's UTF-8 bytes.

        Raises:
            SourceError: The dataset cannot be listed.
        """

    def fingerprint(self) -> str:
        """Over the listing; reads no content."""
        fingerprint = Fingerprint()
        for batch in self.scan():
            fingerprint.update(batch)
        return fingerprint.hexdigest()

    def scan(self) -> Iterator[pa.RecordBatch]:
        """Every entry, in ascending order of path."""
        return batches(self.items(), self.describe())

    def prefetch(self, entries: Sequence[tuple[bytes, int, str | None]]) -> None:
        """Nothing is read ahead."""

    def as_of(self, day: date) -> Source:
        """Only the present, where a subclass does not know better."""
        raise DayUnavailable(
            f"{self.describe()} only has its present state, not that of {day}",
            "back it up on the day itself, or say `late: accept` to store its present state",
        )


class ListedSource(Listing):
    """A listing each of whose entries is opened as a stream: ``items`` and ``stream`` are all that
    a subclass has to give."""

    @abstractmethod
    def stream(self, path: str) -> BinaryIO:
        """The bytes of an entry of the last listing, to be read from first to last.

        Raises:
            Unreadable: It cannot be opened, or is gone.
        """

    def details(self, path: str, size: int) -> Details:
        """What is known of an entry once its ``size`` bytes were read."""
        return Details(size=size)

    def open(self, path: bytes, type: str, *, etag: str | None = None) -> Reader:
        """Open one entry of the last scan.

        Raises:
            Unreadable: It cannot be opened, or is gone.
        """
        name = path.decode()
        return _StreamReader(self, name, self.stream(name) if type != "directory" else None)


class _StreamReader:
    """Reads a stream to its end and counts."""

    def __init__(self, source: ListedSource, path: str, stream: BinaryIO | None) -> None:
        self._source = source
        self._path = path
        self._stream = stream
        self._read = 0
        self._ended = stream is None

    def read_into(self, buffer: memoryview) -> int:
        """Fill the buffer; 0 at the end."""
        if self._stream is None:
            return 0
        try:
            # A raw stream may give less than fits; BinaryIO does not name readinto.
            count = int(self._stream.readinto(buffer) or 0)  # type: ignore[attr-defined]
            self._ended = count == 0
        except FileNotFoundError as error:
            raise Unreadable(VANISHED, str(error)) from error
        except OSError as error:
            raise Unreadable(UNREADABLE, str(error)) from error
        self._read += count
        return count

    def finish(self) -> Details:
        """Close, and tell what was read.

        Who reads a small entry stops at the size of the listing, which may be an estimate: where
        there is more behind it, the entry is to be read again, to its end.
        """
        if self._stream is not None:
            if not self._ended and self.read_into(memoryview(bytearray(1))):
                self._stream.close()
                return Details(steady=False, size=self._read - 1)
            self._stream.close()
        return self._source.details(self._path, self._read)


def batches(items: Iterable[Item], place: str) -> Iterator[pa.RecordBatch]:
    """Items as batches of a scan.

    Raises:
        SourceError: Two have one path, or they are not in order.
    """
    import pyarrow as pa

    schema, last, rest = scan_schema(), b"", iter(items)
    while rows := list(islice(rest, BATCH_ROWS)):
        paths = [item.path.encode() for item in rows]
        for path in paths:
            if path <= last:
                how = "twice" if path == last else "out of order"
                raise SourceError(f"{place} lists {path.decode()!r} {how}", "report it as a fault")
            last = path
        arrays = [
            pa.array(paths, field.type)
            if field.name == "path"
            else pa.array([getattr(item, field.name, None) for item in rows], field.type)
            for field in schema
        ]
        yield pa.RecordBatch.from_arrays(arrays, schema=schema)

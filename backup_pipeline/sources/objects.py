"""Objects below an S3 prefix: bytes, content type and user metadata of each."""

from __future__ import annotations

import re
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import date
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from backup_pipeline.engine.errors import DayUnavailable, SourceError, UsageError
from backup_pipeline.engine.store.s3_settings import S3Settings
from backup_pipeline.sources.base import (
    GOOD,
    SKIPPED,
    UNREADABLE,
    Details,
    Fingerprint,
    Source,
    Unreadable,
    scan_schema,
)
from backup_pipeline.sources.bucket import Bucket, Listed, Part, Replaced

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["ObjectsSource"]

PART_BYTES: Final = 8 << 20
"""Large objects are read in ranges of this size."""

_PARTS_AHEAD: Final = 3
_OBJECTS_AHEAD: Final = 32
_BYTES_AHEAD: Final = 64 << 20
_THREADS: Final = 16
_REOPENINGS: Final = 5
_BATCH_ROWS: Final = 8192


class ObjectsSource(Source):
    """Everything below ``s3://bucket/prefix/``, or the one object of that name.

    Consistency: each object by itself, and each is read in one version only (``If-Match``). An
    object that was replaced since it was listed is recorded as it is when it is read. Change
    marks are etag, size and time of writing, hence unchanged objects are never read again.

    Version ids are not part of the marks: plain listings have none, and listings of versions cost
    in proportion to all versions ever kept.

    Args:
        options: ``url``, and what a store on S3 takes: ``region``, ``endpoint``, ``addressing``,
            ``profile`` and credentials.
        exclude: Globs over paths relative to the prefix; what they match is left out.
        page_size: Keys per page of a listing; None leaves it to the server.

    Raises:
        UsageError: The options cannot be right.
    """

    kind = "objects"
    supports_as_of = False
    clock_granularity_ns = 0  # an etag tells versions apart that were written in one tick

    def __init__(
        self,
        options: Mapping[str, Any],
        *,
        exclude: Sequence[str] = (),
        page_size: int | None = None,
    ) -> None:
        rest = {name: value for name, value in options.items() if name != "url"}
        parts = urlsplit(str(options.get("url", "")))
        if parts.scheme != "s3" or parts.query or parts.fragment or parts.username:
            raise UsageError(
                f"source {parts.scheme}://{parts.hostname or ''}{parts.path} is no prefix on S3",
                "write s3://bucket/prefix",
            )
        self._settings = S3Settings.read(parts.netloc, parts.path, rest, free_prefix=True)
        self._prefix = self._settings.prefix
        self._exclude = _excluder(exclude)
        self._bucket = Bucket(self._settings, page_size=page_size)
        self._base = self._folder
        self._ahead = _ReadAhead(self._bucket)

    @property
    def _folder(self) -> str:
        whole = not self._prefix or self._prefix.endswith("/")
        return self._prefix if whole else f"{self._prefix}/"

    def describe(self) -> str:
        """The prefix as a URL."""
        return f"s3://{self._settings.bucket}/{self._prefix}"

    def fingerprint(self) -> str:
        """Over keys, sizes, etags and times of writing; reads no object."""
        fingerprint = Fingerprint()
        for batch in self.scan():
            fingerprint.update(batch)
        return fingerprint.hexdigest()

    def scan(self) -> Iterator[pa.RecordBatch]:
        """Every object below the prefix, in ascending order of path.

        Raises:
            SourceError: The prefix cannot be listed, or nothing is there: to S3 a prefix that was
                misspelt and one that was emptied look the same.
        """
        pages = self._pages()
        if self._settings.endpoint or self._settings.bucket.endswith("--x-s3"):
            # Not every server lists in the order of bytes, so all of it has to be seen first.
            pages = _sorted_pages(pages)
        last = None
        for page in pages:
            for listed in page:
                if last is not None and last >= listed.key.encode():
                    raise SourceError(
                        f"{self.describe()}: the server lists {listed.key!r} out of order",
                        "try again; if it stays so, this server's listings cannot be relied on",
                    )
                last = listed.key.encode()
            rows = [row for listed in page if (row := self._row(listed)) is not None]
            if rows:
                yield _batch(rows)

    def prefetch(self, entries: Sequence[tuple[bytes, int, str | None]]) -> None:
        """Begin to read what will be opened next, as far as memory is set aside for it."""
        self._ahead.announce([(self._key(path), size, etag) for path, size, etag in entries])

    def open(self, path: bytes, type: str, *, etag: str | None = None) -> ObjectReader:
        """Open one object, in the version that was listed or, if that is gone, the newest.

        Raises:
            Unreadable: It is gone, or refused.
            SourceError: The server does not answer.
        """
        key = self._key(path)
        for _ in range(_REOPENINGS):
            newest = None
            if etag is None:
                newest = self._bucket.newest(key)
                etag = newest.etag
            try:
                first = self._ahead.first(key, newest.size if newest else None, etag)
                return ObjectReader(self._ahead, key, first, listed=newest is None)
            except Replaced:
                etag = None
        raise Unreadable(UNREADABLE, "it was replaced again and again while it was read")

    def as_of(self, day: date) -> Source:
        """A listing has only the present."""
        raise DayUnavailable(
            f"{self.describe()} only has its present state, not that of {day}",
            "back it up on the day itself, or say `late: accept` to store its present state",
        )

    def _key(self, path: bytes) -> str:
        return self._base + path.decode()

    def _pages(self) -> Iterator[list[Listed]]:
        self._base, found = self._folder, False
        for page in self._bucket.pages(self._folder):
            found = found or bool(page)
            yield page
        if found:
            return
        single = next(iter(self._bucket.pages(self._prefix)), []) if self._prefix else []
        if not single or single[0].key != self._prefix or self._prefix.endswith("/"):
            raise SourceError(
                f"there is nothing below {self.describe()}",
                "check the url in the plan; an empty prefix is never taken for an empty dataset",
            )
        self._base = self._prefix.rpartition("/")[0]
        self._base += "/" if self._base else ""
        yield single[:1]

    def _row(self, listed: Listed) -> tuple[Any, ...] | None:
        path = listed.key[len(self._base) :].encode()
        if self._exclude is not None and self._exclude(path):
            return None
        type, state, reason = "object", GOOD, None
        if not path:
            if listed.size == 0:
                return None  # the prefix's own folder marker
            state, reason = UNREADABLE, "it is stored under the prefix itself and has no path"
        elif path.endswith(b"/") and listed.size == 0:
            type, state = "folder marker", SKIPPED
            reason = "a folder marker has no bytes to keep"
        return (path, type, state, reason, listed.size, listed.modified_ns, listed.etag)


class ObjectReader:
    """Reads one version of one object, some ranges ahead."""

    def __init__(self, ahead: _ReadAhead, key: str, first: Part, *, listed: bool) -> None:
        self._ahead = ahead
        self._key = key
        self._first = first
        self._listed = listed
        self._rest = first.content
        self._read = 0
        self._asked = len(first.content)
        self._coming: deque[Future[Part]] = deque()
        self._steady = True

    def read_into(self, buffer: memoryview) -> int:
        """Fill the buffer; 0 at the end."""
        self._ask()
        if not self._rest and self._coming:
            try:
                self._rest = self._coming.popleft().result().content
            except Replaced:
                self._steady = False
                self._drop()
        count = min(len(self._rest), len(buffer))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        self._read += count
        return count

    def finish(self) -> Details:
        """Let go of what was read ahead, and tell what was read."""
        self._drop()
        self._rest = memoryview(b"")
        first = self._first
        mark: dict[str, int | str | None] = {}
        if not self._listed:
            mark = {"etag": first.etag, "mtime_ns": first.modified_ns}
        return Details(
            steady=self._steady and self._read == first.size,
            size=self._read,
            mark=mark,
            content_type=first.content_type,
            metadata=first.metadata,
        )

    def _ask(self) -> None:
        while self._steady and self._asked < self._first.size and len(self._coming) < _PARTS_AHEAD:
            length = min(PART_BYTES, self._first.size - self._asked)
            self._coming.append(self._ahead.part(self._key, self._first.etag, self._asked, length))
            self._asked += length

    def _drop(self) -> None:
        for part in self._coming:
            part.cancel()
        self._coming.clear()


class _ReadAhead:
    """Reads in other threads what will be wanted next, within bounds."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self._threads: ThreadPoolExecutor | None = None
        self._announced: deque[tuple[str, int, str | None]] = deque()
        self._begun: OrderedDict[tuple[str, str], tuple[Future[Part], int]] = OrderedDict()
        self._begun_bytes = 0

    def announce(self, entries: Sequence[tuple[str, int, str | None]]) -> None:
        """Take note of (key, size, etag) in the order in which they will be opened."""
        while self._begun:
            self._forget(next(iter(self._begun)))
        self._announced = deque(entries)
        self._begin()

    def first(self, key: str, size: int | None, etag: str) -> Part:
        """Return an object's first part, or all of it; raises as ``Bucket.read`` does."""
        begun = self._begun.get((key, etag))
        while self._begun and begun is not None and next(iter(self._begun)) != (key, etag):
            self._forget(next(iter(self._begun)))  # it was passed over
        if begun is None:
            size = self._pass_over(key) if size is None else size
            small = size is not None and size <= PART_BYTES
            part = self.part(key, etag, 0, None if small else PART_BYTES)
        else:
            part = begun[0]
        self._begin()
        try:
            return part.result()
        finally:
            self._forget((key, etag))
            self._begin()

    def part(self, key: str, etag: str, offset: int, length: int | None) -> Future[Part]:
        """Begin to read some bytes."""
        if self._threads is None:
            self._threads = ThreadPoolExecutor(_THREADS, "read-ahead")
        return self._threads.submit(self._bucket.read, key, etag, offset, length)

    def _begin(self) -> None:
        while self._announced and len(self._begun) < _OBJECTS_AHEAD:
            key, size, etag = self._announced[0]
            held_bytes = min(size, PART_BYTES)
            if self._begun and self._begun_bytes + held_bytes > _BYTES_AHEAD:
                return
            self._announced.popleft()
            if etag is not None and (key, etag) not in self._begun:
                part = self.part(key, etag, 0, None if size <= PART_BYTES else PART_BYTES)
                self._begun[key, etag] = (part, held_bytes)
                self._begun_bytes += held_bytes

    def _pass_over(self, key: str) -> int | None:
        """Return the size that was announced for ``key``; what came before it was not wanted."""
        if not any(announced == key for announced, _, _ in self._announced):
            return None
        while self._announced:
            announced, size, _ = self._announced.popleft()
            if announced == key:
                return size
        return None

    def _forget(self, which: tuple[str, str]) -> None:
        begun = self._begun.pop(which, None)
        if begun is not None:
            begun[0].cancel()
            self._begun_bytes -= begun[1]


def _sorted_pages(pages: Iterator[list[Listed]]) -> Iterator[list[Listed]]:
    everything = [listed for page in pages for listed in page]
    everything.sort(key=_bytes_of_key)
    for start in range(0, len(everything), _BATCH_ROWS):
        yield everything[start : start + _BATCH_ROWS]


def _bytes_of_key(listed: Listed) -> bytes:
    return listed.key.encode()


def _excluder(globs: Sequence[str]) -> Callable[[bytes], bool] | None:
    if not globs:
        return None
    from backup_pipeline.engine.manifest import glob_pattern

    patterns = [re.compile(glob_pattern(glob).encode()) for glob in globs]
    return lambda path: any(pattern.search(path) for pattern in patterns)


def _batch(rows: list[tuple[Any, ...]]) -> pa.RecordBatch:
    import pyarrow as pa

    names = ("path", "type", "state", "reason", "size", "mtime_ns", "etag")
    columns = dict(zip(names, zip(*rows, strict=True), strict=True))
    arrays = [
        pa.array(columns[field.name], field.type)
        if field.name in columns
        else pa.nulls(len(rows), field.type)
        for field in scan_schema()
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=scan_schema())

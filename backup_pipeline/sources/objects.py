"""Objects below an S3 prefix: bytes, content type, headers, tags and user metadata of each."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from datetime import date
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from backup_pipeline.engine.errors import SourceError, UsageError
from backup_pipeline.engine.store.s3_settings import S3Settings
from backup_pipeline.sources.ahead import PART_BYTES, ReadAhead
from backup_pipeline.sources.base import (
    GOOD,
    UNREADABLE,
    Details,
    Fingerprint,
    Reader,
    Source,
    Unreadable,
    scan_schema,
)
from backup_pipeline.sources.bucket import Bucket, Listed, Part, Replaced
from backup_pipeline.sources.exclusion import excluder
from backup_pipeline.sources.properties import KEY

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["ObjectsSource", "open_objects"]

_PARTS_AHEAD: Final = 3
_REOPENINGS: Final = 5
_BATCH_ROWS: Final = 8192
_NO_PATH = re.compile(r"(?:^|/)\.{0,2}(?:/|$)|\0")
_PERCENT: Final = {"": "%", ".": "%2E", "..": "%2E%2E"}
_OURS: Final = ("url", "tags", "versions_kept_since")


class ObjectsSource(Source):
    """Everything below ``s3://bucket/prefix/``, or the one object of that name.

    Consistency: each object by itself, and each is read in one version only (``If-Match``). An
    object that was replaced since it was listed is recorded as it is when it is read. Change
    marks are etag, size and time of writing, hence unchanged objects are never read again.

    A key whose segments make no path (``a//b``) gets one with percent signs. A marker of a folder
    (an empty object whose key ends in a slash) is recorded as that folder.

    Version ids are not part of the marks: plain listings have none, and listings of versions cost
    in proportion to all versions ever kept. They answer ``as_of``; see ``past_objects``.

    Args:
        options: ``url``, and what a store on S3 takes: ``region``, ``endpoint``, ``addressing``,
            ``profile`` and credentials; ``tags`` and ``versions_kept_since``.
        exclude: Globs over paths relative to the prefix; what they match is left out.
        page_size: Keys per page of a listing; None leaves it to the server.

    Raises:
        UsageError: The options cannot be right.
    """

    kind = "objects"
    supports_as_of = True
    clock_granularity_ns = 0  # an etag tells versions apart that were written in one tick

    def __init__(
        self,
        options: Mapping[str, Any],
        *,
        exclude: Sequence[str] = (),
        page_size: int | None = None,
    ) -> None:
        rest = {name: value for name, value in options.items() if name not in _OURS}
        parts = urlsplit(str(options.get("url", "")))
        if parts.scheme != "s3" or parts.query or parts.fragment or parts.username:
            raise UsageError(
                f"source {parts.scheme}://{parts.hostname or ''}{parts.path} is no prefix on S3",
                "write s3://bucket/prefix",
            )
        self._settings = S3Settings.read(parts.netloc, parts.path, rest, free_prefix=True)
        self._options, self._exclude_globs, self._page_size = options, exclude, page_size
        tags = bool(options.get("tags"))
        bucket = Bucket(self._settings, page_size=page_size, tags=tags)
        self._read_from(bucket, self._settings.prefix, exclude)

    def _read_from(self, bucket: Any, prefix: str, exclude: Sequence[str]) -> None:
        self._prefix = prefix
        self._exclude = excluder(exclude)
        self._bucket = bucket
        self._base = self._folder
        self._odd: dict[bytes, str] = {}
        self._ahead = ReadAhead(bucket)

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
        yield from self._listing().to_batches(max_chunksize=_BATCH_ROWS)

    def prefetch(self, entries: Sequence[tuple[bytes, int, str | None]]) -> None:
        """Begin to read what will be opened next, as far as memory is set aside for it."""
        self._ahead.announce([(self._key(path), size, etag) for path, size, etag in entries])

    def open(self, path: bytes, type: str, *, etag: str | None = None) -> Reader:
        """Open one object, in the version that was listed or, if that is gone, the newest.

        Raises:
            Unreadable: It is gone, or refused.
            SourceError: The server does not answer.
        """
        if type == "directory":
            return _FolderReader()
        key = self._key(path)
        for _ in range(_REOPENINGS):
            newest: Listed | None = None if etag is not None else self._bucket.newest(key)
            wanted = newest.etag if newest is not None else str(etag)
            try:
                first = self._ahead.first(key, newest.size if newest else None, wanted)
                odd = self._odd.get(path)
                more = [(KEY, odd)] if odd is not None else []
                return ObjectReader(self._ahead, key, first, listed=newest is None, more=more)
            except Replaced:
                etag = None
        raise Unreadable(UNREADABLE, "it was replaced again and again while it was read")

    def as_of(self, day: date) -> Source:
        """The versions that were there at the day's end, of a bucket that keeps versions.

        Raises:
            DayUnavailable: It keeps none, or not all that were there then.
            SourceError: The server does not answer.
        """
        from backup_pipeline.sources.past_objects import PastObjects

        past = PastObjects(self._options, exclude=self._exclude_globs, page_size=self._page_size)
        past.zone = self.zone
        past.go_back_to(day)
        return past

    def _key(self, path: bytes) -> str:
        return self._base + (self._odd.get(path) or path.decode())

    def _listing(self) -> pa.Table:
        """Everything, sorted: not every server lists in the order of bytes."""
        import pyarrow as pa

        self._odd = {}
        pages: list[pa.RecordBatch] = []
        markers: dict[bytes, Listed] = {}
        for page in self._pages():
            rows: list[tuple[bytes, Listed]] = []
            for listed in page:
                path = self._path(listed)
                if self._exclude is not None and self._exclude(path):
                    continue
                if listed.size == 0 and listed.key.endswith("/"):
                    markers[path] = listed
                else:
                    rows.append((path, listed))
            pages.append(_batch(rows, "object"))
        objects = pa.Table.from_batches(pages, schema=scan_schema())
        markers.pop(b"", None)
        folders = _without(_batch(list(markers.items()), "directory"), objects)
        return _sorted(pa.concat_tables([objects, folders]).combine_chunks(), self.describe())

    def _path(self, listed: Listed) -> bytes:
        """Return the path for a key: the same but where that would be none.

        A folder's marker gets the folder's path. Segments that are empty, ``.`` or ``..`` cannot
        be restored to any directory and are written with percent signs.
        """
        rest = listed.key[len(self._base) :]
        if listed.size == 0 and (not rest or rest.endswith("/")):
            rest = rest[:-1]
            if not rest:
                return b""  # the marker of the prefix itself
        if not _NO_PATH.search(rest):
            return rest.encode()
        segments = [_PERCENT.get(segment, segment) for segment in rest.split("/")]
        path = "/".join(segments).replace("\0", "%00").encode()
        self._odd[path] = rest
        return path

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
        self._base = self._prefix[: self._prefix.rfind("/") + 1]
        yield single[:1]


def open_objects(
    options: Mapping[str, Any], *, exclude: Sequence[str] = (), day: date | None = None
) -> Source:
    """Open the prefix that a plan names.

    A URL that stands in the environment may be of another kind than the plan could tell.
    """
    from backup_pipeline.plan.sourcekinds import BUILT_IN
    from backup_pipeline.plan.urlkinds import SCHEMES
    from backup_pipeline.sources import load_named

    kind = SCHEMES.get(str(options.get("url", "")).partition("://")[0], "objects")
    if kind != "objects":
        found = BUILT_IN[kind]
        return load_named(found.opens, found.extra)(options, exclude=exclude, day=day)
    return ObjectsSource(options, exclude=exclude)


class _FolderReader:
    """A folder's marker has neither bytes nor details."""

    def read_into(self, buffer: memoryview) -> int:
        """There is nothing."""
        return 0

    def finish(self) -> Details:
        """There is nothing."""
        return Details()


class ObjectReader:
    """Reads one version of one object, some ranges ahead."""

    def __init__(
        self,
        ahead: ReadAhead,
        key: str,
        first: Part,
        *,
        listed: bool,
        more: Sequence[tuple[str, str]] = (),
    ) -> None:
        self._ahead = ahead
        self._more = more
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
            metadata=tuple(sorted((*self._more, *first.metadata))),
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


def _batch(rows: Sequence[tuple[bytes, Listed]], type: str) -> pa.RecordBatch:
    import pyarrow as pa

    columns: dict[str, Any] = {
        "path": [path for path, _ in rows],
        "type": [type] * len(rows),
        "state": [UNREADABLE if listed.reason else GOOD for _, listed in rows],
        "reason": [listed.reason for _, listed in rows],
        "size": [listed.size for _, listed in rows],
        "mtime_ns": [listed.modified_ns for _, listed in rows],
        "etag": [listed.etag for _, listed in rows],
        "version_id": [listed.version_id for _, listed in rows],
    }
    arrays = [
        pa.array(columns[field.name], field.type)
        if field.name in columns
        else pa.nulls(len(rows), field.type)
        for field in scan_schema()
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=scan_schema())


def _without(folders: pa.RecordBatch, objects: pa.Table) -> pa.Table:
    """Leave out folders whose path is an object's too."""
    import pyarrow as pa
    import pyarrow.compute as pc

    table = pa.Table.from_batches([folders])
    taken = pc.is_in(objects.column("path"), value_set=folders.column("path"))
    names = objects.filter(taken).column("path").combine_chunks()
    return table.filter(pc.invert(pc.is_in(table.column("path"), value_set=names)))


def _sorted(rows: pa.Table, place: str) -> pa.Table:
    import pyarrow.compute as pc

    def ascending(paths: Any) -> bool:
        return bool(pc.all(pc.less(paths[:-1], paths[1:])).as_py())

    if len(rows) > 1 and not ascending(rows.column("path")):
        rows = rows.take(pc.sort_indices(rows, sort_keys=[("path", "ascending")]))
        if not ascending(rows.column("path")):
            raise SourceError(
                f"{place}: two objects have the same path",
                "keys with empty segments are written with percent signs: rename one of the two",
            )
    return rows

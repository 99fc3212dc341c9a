"""The files of a table in a lake: below a directory of this machine, or below a prefix on S3."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol
from urllib.parse import urlsplit

from backup_pipeline.engine.errors import SourceError, UsageError
from backup_pipeline.engine.store.s3_settings import S3Settings
from backup_pipeline.sources.base import UNREADABLE, VANISHED, Details, Reader, Unreadable

__all__ = ["Found", "TableFiles", "WholeReader", "open_table_files"]

_ANY_VERSION = ""  # a table's files never change, so none is asked for by its etag


@dataclass(frozen=True, slots=True)
class Found:
    """One file of a listing.

    Attributes:
        name: Its path below the table's root, with ``/`` between its parts.
        size: Length in bytes.
        mtime_ns: When it was written, in ns since 1970 (UTC).
        mark: Differs where another file may have taken its name.
    """

    name: str
    size: int
    mtime_ns: int
    mark: str


class TableFiles(Protocol):
    """What a table is read with; nothing of it writes."""

    def describe(self) -> str:
        """Where the table is, for messages; holds no secret."""
        ...

    def listing(self, folder: str, after: str = "") -> list[Found]:
        """All files below a folder, in ascending order; none where the folder is not there.

        Args:
            folder: Path below the root, without a slash at its end.
            after: Only those whose name is greater.

        Raises:
            SourceError: It cannot be listed.
        """
        ...

    def read(self, name: str) -> bytes:
        """All bytes of a small file.

        Raises:
            Unreadable: It is gone, or refused.
        """
        ...

    def announce(self, entries: Sequence[tuple[str, int]]) -> None:
        """Take note of the names and sizes that will be opened next, in this order."""
        ...

    def open(self, name: str, size: int | None) -> Reader:
        """Open one file.

        Args:
            name: Its path below the root.
            size: The length that the table gives it; None where the table does not say.

        Raises:
            Unreadable: It is gone, refused, or of another length.
        """
        ...


def open_table_files(options: Mapping[str, Any]) -> TableFiles:
    """The files of the table that ``path`` or ``url`` names.

    Args:
        options: One of the two, and for S3 what a store takes: ``region``, ``endpoint``,
            ``profile``, ``addressing`` and credentials.

    Raises:
        UsageError: The options cannot be right.
    """
    rest = {name: value for name, value in options.items() if name not in ("path", "url")}
    url, path = options.get("url"), options.get("path")
    if bool(url) == bool(path):
        raise UsageError("a table has a path or a url", "write a directory or s3://bucket/prefix")
    if path:
        return _LocalFiles(Path(str(path)))
    parts = urlsplit(str(url))
    if parts.scheme != "s3" or parts.query or parts.fragment or parts.username:
        raise UsageError(
            f"{parts.scheme}://{parts.hostname or ''}{parts.path} is no prefix on S3",
            "write s3://bucket/prefix",
        )
    return _BucketFiles(S3Settings.read(parts.netloc, parts.path, rest, free_prefix=True))


class WholeReader:
    """Reads a stream from first to last.

    Args:
        stream: The bytes; closed at the end.
        size: How many there are.
    """

    def __init__(self, stream: BinaryIO, size: int) -> None:
        self._stream = stream
        self._size = size
        self._read = 0

    def read_into(self, buffer: memoryview) -> int:
        """Fill the buffer; 0 at the end."""
        try:
            # A raw stream may give less than fits; BinaryIO does not name readinto.
            count = int(self._stream.readinto(buffer) or 0)  # type: ignore[attr-defined]
        except OSError as error:
            raise Unreadable(UNREADABLE, error.strerror or str(error)) from error
        self._read += count
        return count

    def finish(self) -> Details:
        """Close, and tell what was read."""
        self._stream.close()
        return Details(steady=self._read == self._size, size=self._read)


class _LocalFiles(TableFiles):
    def __init__(self, root: Path) -> None:
        self._root = root

    def describe(self) -> str:
        return str(self._root)

    def listing(self, folder: str, after: str = "") -> list[Found]:
        if not self._root.is_dir():
            raise SourceError(f"{self._root} is no directory", "is it mounted, and spelt right?")
        try:
            found = [one for one in self._below(folder) if one.name > after]
        except PermissionError as error:
            raise SourceError(f"{error.filename}: access refused", "check its owner") from error
        except OSError as error:
            raise SourceError(f"{self._root} cannot be listed: {error}") from error
        return sorted(found, key=lambda one: one.name)

    def _below(self, folder: str) -> Iterator[Found]:
        try:
            with os.scandir(self._root / folder) as entries:
                for entry in entries:
                    name = f"{folder}/{entry.name}"
                    if entry.is_dir():
                        yield from self._below(name)
                        continue
                    try:
                        status = entry.stat()
                    except FileNotFoundError:
                        continue  # a clean-up of the log is under way
                    mark = f"{status.st_size}-{status.st_mtime_ns}"
                    yield Found(name, status.st_size, status.st_mtime_ns, mark)
        except FileNotFoundError:
            return

    def read(self, name: str) -> bytes:
        with self._stream(name) as stream:
            return stream.read()

    def announce(self, entries: Sequence[tuple[str, int]]) -> None:
        return

    def open(self, name: str, size: int | None) -> Reader:
        stream = self._stream(name)
        found = os.fstat(stream.fileno()).st_size
        if size not in (None, found):
            stream.close()
        _require_size(found, size)
        return WholeReader(stream, found)

    def _stream(self, name: str) -> BinaryIO:
        try:
            return open(self._root / name, "rb", buffering=0)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise Unreadable(VANISHED, "it is gone") from error
        except OSError as error:
            raise Unreadable(UNREADABLE, error.strerror or str(error)) from error


class _BucketFiles(TableFiles):
    def __init__(self, settings: S3Settings) -> None:
        from backup_pipeline.sources.ahead import ReadAhead
        from backup_pipeline.sources.bucket import Bucket

        self._settings = settings
        self._bucket = Bucket(settings)
        self._ahead = ReadAhead(self._bucket)
        prefix = settings.prefix.rstrip("/")
        self._prefix = f"{prefix}/" if prefix else ""

    def describe(self) -> str:
        return f"s3://{self._settings.bucket}/{self._prefix}".rstrip("/")

    def listing(self, folder: str, after: str = "") -> list[Found]:
        skipped = len(self._prefix)
        pages = self._bucket.pages(
            f"{self._prefix}{folder}/", after=f"{self._prefix}{after}" if after else ""
        )
        return [
            Found(one.key[skipped:], one.size, one.modified_ns, one.etag)
            for page in pages
            for one in page
        ]

    def read(self, name: str) -> bytes:
        return bytes(self._bucket.read(self._prefix + name, _ANY_VERSION, 0, None).content)

    def announce(self, entries: Sequence[tuple[str, int]]) -> None:
        self._ahead.announce([(self._prefix + name, size, _ANY_VERSION) for name, size in entries])

    def open(self, name: str, size: int | None) -> Reader:
        from backup_pipeline.sources.objects import ObjectReader

        key = self._prefix + name
        first = self._ahead.first(key, size, _ANY_VERSION)
        _require_size(first.size, size)
        return ObjectReader(self._ahead, key, first, listed=True)


def _require_size(found: int, wanted: int | None) -> None:
    if wanted not in (None, found):
        reason = f"it has {found} bytes, and the table says {wanted}"
        raise Unreadable(UNREADABLE, reason)

"""Iceberg tables: one snapshot as a whole, its metadata and exactly the files it refers to."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

import fastavro
from pyiceberg.catalog import load_catalog
from pyiceberg.exceptions import NoSuchTableError
from pyiceberg.io import FileIO
from pyiceberg.table import StaticTable, Table

from backup_pipeline.engine.errors import DayUnavailable, SourceError, UsageError
from backup_pipeline.sources.ahead import ReadAhead
from backup_pipeline.sources.base import UNREADABLE, VANISHED, Reader, Source, Unreadable
from backup_pipeline.sources.bucket import Part
from backup_pipeline.sources.iceberg_days import States, as_it_was
from backup_pipeline.sources.iceberg_paths import metadata_path, relative_path, snapshot_of
from backup_pipeline.sources.listing import Item, Listing
from backup_pipeline.sources.objects import ObjectReader
from backup_pipeline.sources.table_files import WholeReader

__all__ = ["IcebergSource", "open_iceberg"]

_MOST_DAYS: Final = 400
_DELETED: Final = 2  # the status of a file that this commit took out
_NAMES_OF_SECRETS = ("key", "token", "password", "secret", "credential")


def open_iceberg(options: Mapping[str, Any], *, exclude: Sequence[str], day: date | None) -> Source:
    """An Iceberg table as a plan declares it; see :class:`IcebergSource`."""
    return IcebergSource(options)


class IcebergSource(Listing):
    """One snapshot of an Iceberg table, the current one when it was scanned.

    Consistency: the snapshot as a whole, pinned by its id and by the metadata file that names it.
    Commits meanwhile change nothing of it. Its files are immutable, so none is read a second time.

    An entry is a file below the table's location: the metadata file, the snapshot's manifest list,
    its manifests, and the data, delete and statistics files that they refer to. What only other
    snapshots refer to is left out. Iceberg's metadata holds absolute locations: restored elsewhere,
    they are rewritten by ``restore --into iceberg:///new/place``, see ``iceberg_load``.

    A file that the snapshot refers to and that is gone (the snapshot expired meanwhile) makes the
    backup incomplete and is named, unless an earlier one holds it.

    Args:
        options: ``table`` with ``catalog`` (a mapping of pyiceberg's catalogue properties and the
            catalogue's ``name``, or only the name of one that pyiceberg's own settings know), or
            ``metadata``, the location of a metadata file, with ``properties`` of its file system.
        pinned: Location and content of the metadata to read; None: the table's at each scan.

    Raises:
        UsageError: The options cannot be right.
    """

    kind = "iceberg"
    supports_as_of = True

    def __init__(
        self, options: Mapping[str, Any], *, pinned: tuple[str, bytes] | None = None
    ) -> None:
        if ("table" in options) == ("metadata" in options):
            raise UsageError("source iceberg has a table or a metadata", "name one of the two")
        self._options = options
        self._pinned = pinned
        self._scanned: str | None = None
        self._uris: dict[str, str] = {}
        self._held: dict[str, bytes] = {}
        self._sizes: dict[str, int] = {}
        self._catalog: Any = None
        self._ahead: ReadAhead | None = None

    def describe(self) -> str:
        """The table's name or the place of its metadata."""
        return str(self._options.get("table") or self._options["metadata"])

    def fingerprint(self) -> str:
        """Of the table's id and the place of its metadata; asks the catalogue only."""
        table = self._load()
        if self._pinned is not None:
            return _fingerprint(str(table.metadata.table_uuid), self._pinned[0])
        return _fingerprint(str(table.metadata.table_uuid), table.metadata_location)

    def scanned(self) -> str | None:
        """The fingerprint of the metadata that was listed."""
        return self._scanned

    def items(self) -> Iterable[Item]:
        """The metadata file and all that its current snapshot refers to; reads no data file.

        Raises:
            SourceError: The table cannot be found or its metadata not be read.
        """
        table = self._load()
        location, content = self._pinned or self._metadata(table)
        metadata = json.loads(content)
        self._ahead = ReadAhead(_Parts(table.io, self._sizes))  # type: ignore[arg-type]
        self._uris, self._held = {}, {}
        path = metadata_path(location)
        digest = hashlib.sha256(content).hexdigest()
        found = {path: Item(path, len(content), etag=digest)}
        self._held[path] = content
        for uri, size in _files(metadata, self._read_all(table.io)):
            path = relative_path(metadata["location"], uri)
            other = self._uris.setdefault(path, uri)
            if other != uri:
                raise SourceError(f"{self.describe()}: {other} and {uri} would have one path")
            self._sizes[uri] = size
            found[path] = Item(path, size, etag=f"{metadata['table-uuid']}-{size}")
        self._scanned = _fingerprint(metadata["table-uuid"], location)
        return sorted(found.values(), key=lambda item: item.path.encode())

    def _load(self) -> Table:
        """The table as its catalogue has it now."""
        properties = self._options.get("properties") or {}
        catalog = self._options.get("catalog") or {}
        try:
            if "metadata" in self._options:
                return StaticTable.from_metadata(str(self._options["metadata"]), properties)
            if self._catalog is None:
                self._catalog = _catalog(catalog)
            return self._catalog.load_table(str(self._options["table"]))
        except NoSuchTableError as error:
            raise SourceError(
                f"the catalogue has no table {self.describe()}", "was it dropped or renamed?"
            ) from error
        except Exception as error:  # catalogues raise what their clients raise
            raise SourceError(
                f"{self.describe()} cannot be opened: {self._without_secrets(error)}",
                "check the catalogue's address and credentials, and the table's name",
            ) from error

    def _without_secrets(self, error: Exception) -> str:
        text = " ".join(str(error).split()) or type(error).__name__
        given = {
            **_mapping(self._options.get("catalog")),
            **_mapping(self._options.get("properties")),
        }
        for name, value in given.items():
            if any(word in name for word in _NAMES_OF_SECRETS) and str(value):
                text = text.replace(str(value), "…")
        return text

    def _metadata(self, table: Table) -> tuple[str, bytes]:
        return table.metadata_location, self._read_all(table.io)(table.metadata_location)

    def _read_all(self, files: FileIO) -> Callable[[str], bytes]:
        def read(uri: str) -> bytes:
            try:
                with files.new_input(uri).open() as stream:
                    return stream.read()
            except OSError as error:
                raise SourceError(
                    f"{self.describe()}: {uri} cannot be read: {self._without_secrets(error)}",
                    "a snapshot whose metadata is lost is lost; was it expired meanwhile?",
                ) from error

        return read

    def prefetch(self, entries: Sequence[tuple[bytes, int, str | None]]) -> None:
        """Begin to read what will be opened next."""
        assert self._ahead is not None, "scanned first"
        uris = [(self._uris.get(path.decode()), size) for path, size, _ in entries]
        self._ahead.announce([(uri, size, "") for uri, size in uris if uri is not None])

    def open(self, path: bytes, type: str, *, etag: str | None = None) -> Reader:
        """Open one file of the snapshot.

        Raises:
            Unreadable: It is gone, refused, or not as long as the metadata says.
        """
        name = path.decode()
        if name in self._held:
            return _held(self._held[name])
        assert self._ahead is not None, "scanned first"
        uri = self._uris[name]
        first = self._ahead.first(uri, self._sizes[uri], "")
        if first.size != self._sizes[uri]:
            reason = f"it has {first.size} bytes, and the table says {self._sizes[uri]}"
            raise Unreadable(UNREADABLE, reason)
        return ObjectReader(self._ahead, uri, first, listed=True)

    # -- past days

    def as_of(self, day: date) -> Source:
        """The table as it was at the day's end: its snapshot and, where it is kept, its metadata.

        Raises:
            DayUnavailable: The table was not there yet, or the day's snapshot expired.
        """
        table = self._load()
        location, content = self._metadata(table)
        states, end_ms = States(json.loads(content), location), _ms(self.end_of(day))
        pinned = self._kept_metadata(table, states.metadata_before(end_ms))
        if pinned is not None:
            current = snapshot_of(json.loads(pinned[1]))
            if current is not None and current["snapshot-id"] not in states.snapshots:
                raise self._unavailable(day, states)
        else:
            snapshot_id = states.snapshot_before(end_ms)
            if snapshot_id is None:
                raise self._unavailable(day, states)
            pinned = as_it_was(states.metadata, location, snapshot_id)
        found = IcebergSource(self._options, pinned=pinned)
        found.zone = self.zone
        return found

    def _kept_metadata(self, table: Table, location: str | None) -> tuple[str, bytes] | None:
        """A metadata file that the table knows of; it may have been deleted after a commit."""
        if location is None or not table.io.new_input(location).exists():
            return None
        return location, self._read_all(table.io)(location)

    def _unavailable(self, day: date, states: States) -> DayUnavailable:
        days = list(self._days(states))
        first = datetime.fromtimestamp(states.first_ms / 1000, UTC).astimezone(self.zone)
        why = (
            f"the first snapshot that it knows is of {first:%Y-%m-%d}"
            if states.first_ms >= _ms(self.end_of(day))
            else "its snapshot of then has expired"
        )
        listed = ", ".join(map(str, days[:8])) + (" …" if len(days) > 8 else "")
        return DayUnavailable(
            f"{self.describe()} does not know how it was on {day}: {why}"
            + (f"; past days that can be had: {listed}" if days else ""),
            "`history.expire.max-snapshot-age-ms` says how long a table keeps snapshots",
            available=days,
        )

    def _days(self, states: States) -> Iterator[date]:
        """Past days whose snapshot is still there, from the table's own log."""
        yesterday = datetime.now(self.zone).date() - timedelta(days=1)
        first = datetime.fromtimestamp(states.first_ms / 1000, UTC).astimezone(self.zone).date()
        day = max(first, yesterday - timedelta(days=_MOST_DAYS))
        while day <= yesterday:
            if states.snapshot_before(_ms(self.end_of(day))) is not None:
                yield day
            day += timedelta(days=1)


class _Parts:
    """Reads parts of files as :class:`ReadAhead` wants them, through pyiceberg's file system."""

    def __init__(self, files: FileIO, sizes: Mapping[str, int]) -> None:
        self._files = files
        self._sizes = sizes

    def read(self, uri: str, etag: str, offset: int, length: int | None) -> Part:
        try:
            found = self._files.new_input(uri)
            size = len(found) if length is not None else 0
            with found.open() as stream:
                if offset:
                    stream.seek(offset)
                content = stream.read() if length is None else stream.read(length)
        except FileNotFoundError as error:
            reason = "the snapshot refers to it, and it is gone: expired, or deleted by hand"
            raise Unreadable(VANISHED, reason) from error
        except OSError as error:
            raise Unreadable(UNREADABLE, " ".join(str(error).split())) from error
        whole = size if length is not None else len(content)
        return Part(memoryview(content), whole, 0, etag, None, ())


def _files(metadata: Mapping[str, Any], read: Callable[[str], bytes]) -> Iterator[tuple[str, int]]:
    """URIs and sizes of all files that the current snapshot refers to; some come twice."""
    current = snapshot_of(metadata)
    if current is None:
        return
    if "manifest-list" not in current:
        raise SourceError(
            f"{metadata['location']}: snapshot {current['snapshot-id']} has no manifest list",
            "it was written by a very old Iceberg; any new commit to the table will do",
        )
    listed = read(current["manifest-list"])
    yield current["manifest-list"], len(listed)
    for manifest in _rows(listed):
        yield manifest["manifest_path"], manifest["manifest_length"]
        for entry in _rows(read(manifest["manifest_path"])):
            if entry["status"] != _DELETED:
                yield entry["data_file"]["file_path"], entry["data_file"]["file_size_in_bytes"]
    for name in ("statistics", "partition-statistics"):
        for one in metadata.get(name, ()):
            if one["snapshot-id"] == current["snapshot-id"]:
                yield one["statistics-path"], one["file-size-in-bytes"]


def _rows(content: bytes) -> Iterator[Any]:
    """The rows of an Avro file."""
    try:
        yield from fastavro.reader(io.BytesIO(content))
    except (ValueError, EOFError, KeyError) as error:
        raise SourceError(f"a manifest of the table is damaged: {error}") from error


def _catalog(given: Any) -> Any:
    """A catalogue by its name in pyiceberg's own settings, or by its properties."""
    if isinstance(given, str):
        return load_catalog(given)
    # A catalogue in a database tells its tables from others' by its name.
    properties = {"name": "default", **given}
    return load_catalog(**{name: str(value) for name, value in properties.items()})


def _held(content: bytes) -> Reader:
    return WholeReader(io.BytesIO(content), len(content))


def _fingerprint(table_uuid: str, location: str) -> str:
    return hashlib.sha256(f"iceberg {table_uuid} {location}".encode()).hexdigest()


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _ms(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)

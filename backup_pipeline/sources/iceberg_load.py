"""A restored Iceberg table at a new place: the locations in its metadata are rewritten.

Iceberg names every file by its absolute location: in the metadata file, in manifest lists and
manifests (Avro), in position deletes (Parquet) and in deletion vectors (Puffin). All of them are
rewritten here, and the new metadata file, which makes a table of them, is written last. Snapshots
that were not backed up are taken out of it. Data files are left as they are.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import fastavro

from backup_pipeline.engine.errors import DamageError, UsageError
from backup_pipeline.sources.iceberg_paths import METADATA, relative_path, snapshot_of

__all__ = ["load", "relocate"]

_POSITION_DELETES: Final = 1
_FILE_PATH: Final = 2147483546  # the reserved field id of a position delete's column of paths
_PUFFIN: Final = b"PFA1"
_PLACES: Final = (
    "write.data.path",
    "write.metadata.path",
    "write.object-storage.path",
    "write.folder-storage.path",
)


def load(directory: str, url: str, *, report: Callable[[str], None]) -> dict[str, Any]:
    """Make a table of a restored directory, for ``restore --into``.

    Args:
        directory: What was restored.
        url: ``iceberg:///new/place``: the directory itself, or one that is not there yet.
        report: Is told how far it is.

    Returns:
        ``metadata``: the location of the new table's metadata, to open or to register.

    Raises:
        UsageError: The place is taken, or no directory of this machine.
        DamageError: What was restored is no table.
    """
    parts = urlsplit(url)
    if parts.netloc or not parts.path.strip("/"):
        raise UsageError(
            f"{url} is no place for an Iceberg table",
            "write iceberg:///new/place; restored to the place that it will have, a table on S3 is"
            " rewritten by backup_pipeline.sources.iceberg_load.relocate(directory, location)",
        )
    place = Path(os.path.abspath(parts.path))
    if place != Path(directory).absolute():
        if place.exists() and any(place.iterdir()):
            raise UsageError(f"{place} is not empty", "name a directory that is not there yet")
        report(f"copying the table to {place}")
        shutil.copytree(directory, place, dirs_exist_ok=True)
    report(f"rewriting the locations in its metadata to {place}")
    location = relocate(place)
    return {"summary": f"an Iceberg table: {location}", "metadata": location}


def relocate(directory: str | Path, location: str | None = None) -> str:
    """Rewrite a restored table's metadata so that it is a table at another location.

    Args:
        directory: Where it was restored.
        location: Where readers will find it, such as ``s3://lake/orders``, once the directory has
            been copied there; default: the directory itself.

    Returns:
        The location of the table's metadata file, for ``StaticTable.from_metadata`` or a
        catalogue's ``register_table``.

    Raises:
        DamageError: The directory holds no restored table, or not all of its metadata.
        UsageError: It has files whose locations cannot be rewritten.
    """
    root = Path(directory).absolute()
    found = sorted((root / METADATA).glob("*.metadata.json"))
    if len(found) != 1:
        raise DamageError(
            f"{root} is no restored Iceberg table: it has {len(found)} metadata files",
            "restore a whole snapshot of it into an empty directory",
        )
    metadata = json.loads(found[0].read_bytes())
    # Iceberg takes locations literally, so nothing is written with percent signs.
    new = (location or f"file://{root}").rstrip("/")
    if metadata["location"].rstrip("/") != new:
        _Moving(root, metadata["location"], new).run(metadata)
        _write(found[0], json.dumps(metadata).encode())
    return f"{new}/{METADATA}/{found[0].name}"


class _Moving:
    """The rewriting of one table.

    Args:
        root: The directory that holds its files.
        old: Its location so far.
        new: Its location from now on.
    """

    def __init__(self, root: Path, old: str, new: str) -> None:
        self._root = root
        self._old = old
        self._new = new
        self._rewritten: dict[str, int] = {}

    def run(self, metadata: dict[str, Any]) -> None:
        """Rewrite all files that name others, and the metadata itself in memory."""
        current = snapshot_of(metadata)
        if metadata.get("encryption-keys"):
            raise UsageError("an encrypted Iceberg table cannot be moved", "restore it in place")
        kept = current["snapshot-id"] if current is not None else None
        if current is not None:
            self._manifest_list(current["manifest-list"])
        metadata["location"] = self._new
        metadata["snapshots"] = (
            [{**current, "manifest-list": self._moved(current["manifest-list"])}]
            if current is not None
            else []
        )
        metadata["snapshot-log"] = [
            one for one in metadata.get("snapshot-log", ()) if one["snapshot-id"] == kept
        ][-1:]
        metadata["metadata-log"] = []
        metadata["refs"] = {
            name: ref
            for name, ref in metadata.get("refs", {}).items()
            if ref["snapshot-id"] == kept
        }
        for name in ("statistics", "partition-statistics"):
            metadata[name] = [
                {**one, "statistics-path": self._moved(one["statistics-path"])}
                for one in metadata.get(name, ())
                if one["snapshot-id"] == kept
            ]
        properties = metadata.get("properties", {})
        metadata["properties"] = {
            name: value for name, value in properties.items() if name not in _PLACES
        }

    def _path(self, uri: str) -> Path:
        return self._root / relative_path(self._old, uri)

    def _moved(self, uri: str) -> str:
        return f"{self._new}/{relative_path(self._old, uri)}"

    def _manifest_list(self, uri: str) -> None:
        def change(row: dict[str, Any]) -> None:
            row["manifest_length"] = self._manifest(row["manifest_path"])
            row["manifest_path"] = self._moved(row["manifest_path"])

        self._avro(uri, change)

    def _manifest(self, uri: str) -> int:
        def change(row: dict[str, Any]) -> None:
            file = row["data_file"]
            if file.get("content", 0) == _POSITION_DELETES and row["status"] != 2:
                file["file_size_in_bytes"] = self._deletes(file)
                for bounds in ("lower_bounds", "upper_bounds"):
                    if file.get(bounds):
                        file[bounds] = [one for one in file[bounds] if one["key"] != _FILE_PATH]
            if file.get("referenced_data_file"):
                file["referenced_data_file"] = self._moved(file["referenced_data_file"])
            file["file_path"] = self._moved(file["file_path"])

        return self._avro(uri, change)

    def _avro(self, uri: str, change: Callable[[dict[str, Any]], None]) -> int:
        path = self._path(uri)
        with self._opened(path) as stream:
            reader = fastavro.reader(stream)
            rows: list[Any] = list(reader)
            kept = {name: text for name, text in reader.metadata.items() if name[:5] != "avro."}
            schema, codec = json.loads(reader.metadata["avro.schema"]), reader.codec
        for row in rows:
            change(row)
        written = io.BytesIO()
        fastavro.writer(written, schema, rows, codec=codec, metadata=kept)
        return _write(path, written.getvalue())

    def _deletes(self, file: Mapping[str, Any]) -> int:
        """Rewrite one file of position deletes or deletion vectors; returns its new length."""
        uri, form = file["file_path"], str(file["file_format"]).upper()
        if uri not in self._rewritten:
            if form == "PARQUET":
                self._rewritten[uri] = self._parquet_deletes(self._path(uri))
            elif form == "PUFFIN":
                self._rewritten[uri] = self._puffin(self._path(uri))
            else:
                raise UsageError(
                    f"position deletes in {form} cannot be moved: {uri}",
                    "restore the table in its old place, or rewrite its deletes (compaction)",
                )
        return self._rewritten[uri]

    def _parquet_deletes(self, path: Path) -> int:
        import pyarrow as pa
        from pyarrow import parquet

        pq: Any = parquet
        with self._opened(path) as stream:
            rows: Any = pq.read_table(stream)
        at = rows.schema.get_field_index("file_path")
        names = [self._moved(one) for one in rows.column(at).to_pylist()]
        field = rows.schema.field(at)
        rows = rows.set_column(at, field, pa.array(names, field.type))
        written = io.BytesIO()
        pq.write_table(rows, written)
        return _write(path, written.getvalue())

    def _puffin(self, path: Path) -> int:
        """The vectors stand before the footer, so their places in the file stay."""
        with self._opened(path) as stream:
            content = stream.read()
        length, flags = struct.unpack("<i4s", content[-12:-4])
        start = len(content) - 12 - length
        if content[-4:] != _PUFFIN or content[start - 4 : start] != _PUFFIN:
            raise DamageError(f"{path} is no Puffin file")
        if flags[0] & 1:
            raise UsageError(f"the compressed footer of {path} cannot be rewritten")
        footer = json.loads(content[start : start + length])
        for blob in footer["blobs"]:
            named = blob.get("properties", {})
            if "referenced-data-file" in named:
                named["referenced-data-file"] = self._moved(named["referenced-data-file"])
        payload = json.dumps(footer).encode()
        end = struct.pack("<i4s", len(payload), flags)
        return _write(path, b"".join([content[:start], payload, end, _PUFFIN]))

    def _opened(self, path: Path) -> Any:
        try:
            return path.open("rb")
        except FileNotFoundError as error:
            raise DamageError(
                f"{path} is not there, and the table's metadata refers to it",
                "restore a whole, complete snapshot of it",
            ) from error


def _write(path: Path, content: bytes) -> int:
    """Replace a file in one step; returns its length."""
    beside = path.with_name(f".{path.name}.new")
    beside.write_bytes(content)
    os.replace(beside, path)
    return len(content)

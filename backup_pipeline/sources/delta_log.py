"""What a Delta table's log says: which files make up a version, and when it was committed.

After the Delta transaction log protocol
(https://github.com/delta-io/delta/blob/master/PROTOCOL.md): the files of a version are what its
checkpoint lists, with the actions of the commits behind it applied in their order. No I/O.
"""

from __future__ import annotations

import io
import json
import re
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import unquote

from backup_pipeline.engine.errors import SourceError
from backup_pipeline.sources.table_files import Found

__all__ = [
    "LOG",
    "DataFile",
    "Gap",
    "Log",
    "State",
    "checkpoint_actions",
    "commit_actions",
    "committed_ms",
    "whole_commit",
]

LOG: Final = "_delta_log"

_COMMIT = re.compile(r"_delta_log/(\d{20})\.json")
_CHECKPOINT = re.compile(
    r"_delta_log/(\d{20})\.checkpoint\."
    r"(?:parquet|(\d{10})\.(\d{10})\.parquet|[0-9a-fA-F-]{36}\.(?:parquet|json))"
)
_ABSOLUTE = re.compile(r"/|[A-Za-z][A-Za-z0-9+.-]*:/")
# All that a version refers to is known for these; see the protocol's list of table features.
_READER_FEATURES: Final = frozenset(
    {
        "columnMapping",
        "deletionVectors",
        "timestampNtz",
        "typeWidening",
        "typeWidening-preview",
        "v2Checkpoint",
        "vacuumProtocolCheck",
        "variantShredding-preview",
        "variantType",
        "variantType-preview",
    }
)
_OF_A_CATALOG: Final = frozenset({"catalogManaged", "catalogOwned", "catalogOwned-preview"})
_NEWEST_READER: Final = 3
_Z85: Final = (
    "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"
)
_UUID_CHARACTERS: Final = 20
# Modes of a write that takes no file out, and the names of its metrics by delta-rs and Spark.
_PLAIN_MODES: Final = ("Append", "ErrorIfExists")
_FILES_WRITTEN: Final = ("num_added_files", "numFiles", "numAddedFiles")
_ROWS_WRITTEN: Final = ("num_added_rows", "numOutputRows")


class Gap(Exception):
    """The log has not all that a version is made of: it was cleaned up, or is damaged."""


@dataclass(frozen=True, slots=True)
class DataFile:
    """One file that a version refers to.

    Attributes:
        name: Its path below the table's root.
        size: Length in bytes; an estimate where ``exact`` is False.
        modified_ms: When it was written, in ms since 1970; None where the log does not say.
        exact: Whether the log gives its length.
    """

    name: str
    size: int
    modified_ms: int | None
    exact: bool = True


@dataclass(frozen=True, slots=True)
class Log:
    """A listing of the log's folder.

    Attributes:
        commits: By version.
        checkpoints: Complete ones by version, each as its parts.
    """

    commits: Mapping[int, Found]
    checkpoints: Mapping[int, tuple[Found, ...]]

    @classmethod
    def of(cls, listing: Iterable[Found]) -> Log:
        """Tell commits and complete checkpoints from all else in the folder."""
        commits: dict[int, Found] = {}
        whole: dict[int, tuple[Found, ...]] = {}
        parts: dict[tuple[int, int], list[Found]] = {}
        for found in listing:
            if match := _COMMIT.fullmatch(found.name):
                commits[int(match[1])] = found
            elif match := _CHECKPOINT.fullmatch(found.name):
                if match[3] is None:
                    whole[int(match[1])] = (found,)
                else:
                    parts.setdefault((int(match[1]), int(match[3])), []).append(found)
        for (version, count), found_parts in parts.items():
            if len(found_parts) == count:
                whole.setdefault(version, tuple(found_parts))
        return cls(commits, whole)

    @property
    def newest(self) -> int | None:
        """The newest version; None where there is no commit."""
        return max(self.commits, default=None)

    def makes(self, version: int) -> tuple[tuple[Found, ...], list[Found]]:
        """The newest checkpoint at or before a version, and the commits behind it up to it.

        Raises:
            Gap: Some of them are not there any more.
        """
        base = max((one for one in self.checkpoints if one <= version), default=-1)
        behind = range(base + 1, version + 1)
        missing = [one for one in behind if one not in self.commits]
        if missing:
            raise Gap(f"commit {missing[0]} is gone from its log")
        return self.checkpoints.get(base, ()), [self.commits[one] for one in behind]


@dataclass(slots=True)
class State:
    """A version, as its actions are applied one by one.

    Attributes:
        table_id: The table's own id; a table that was made anew has another.
        protocol: The newest action of this name.
        sidecars: Names of further checkpoint files that a checkpoint refers to.
    """

    table_id: str | None = None
    protocol: Mapping[str, Any] = field(default_factory=dict[str, Any])
    sidecars: list[str] = field(default_factory=list[str])
    _files: dict[tuple[str, str], Mapping[str, Any]] = field(
        default_factory=dict[tuple[str, str], Mapping[str, Any]]
    )

    def apply(self, action: Mapping[str, Any]) -> None:
        """Take in the next action of a checkpoint or commit."""
        if (add := action.get("add")) is not None:
            self._files[_identity(add)] = add
        elif (remove := action.get("remove")) is not None:
            self._files.pop(_identity(remove), None)
        elif (metadata := action.get("metaData")) is not None:
            self.table_id = metadata["id"]
        elif (protocol := action.get("protocol")) is not None:
            self.protocol = protocol
        elif (sidecar := action.get("sidecar")) is not None:
            self.sidecars.append(f"{LOG}/_sidecars/{unquote(sidecar['path'])}")

    def require_known(self, place: str) -> None:
        """Make sure that all a version refers to is known.

        Raises:
            SourceError: The table needs a reader that knows more.
        """
        features = set(self.protocol.get("readerFeatures") or ())
        writers = set(self.protocol.get("writerFeatures") or ())
        if (features | writers) & _OF_A_CATALOG:
            raise SourceError(
                f"{place} is managed by a catalogue, which may hold commits that its log has not",
                "back up a copy of it (a deep clone) that no catalogue manages",
            )
        unknown: list[str] = sorted(features - _READER_FEATURES)
        if int(self.protocol.get("minReaderVersion", 1)) > _NEWEST_READER:
            unknown = [*unknown, f"reader version {self.protocol['minReaderVersion']}"]
        if unknown:
            raise SourceError(
                f"{place} uses {', '.join(unknown)} of Delta, which this version does not know",
                "update backup-pipeline; it would not know all that the table refers to",
            )

    def files(self, place: str) -> list[DataFile]:
        """What the version refers to: data files and files of deletion vectors.

        Raises:
            SourceError: It refers to files that are not below the table's root.
        """
        found: dict[str, DataFile] = {}
        for add in self._files.values():
            name = _below(add["path"], place)
            found[name] = DataFile(name, add["size"], add.get("modificationTime"))
            vector = add.get("deletionVector")
            if vector is not None and vector["storageType"] != "i":
                file = _vector_file(vector, place)
                known = found.get(file.name)
                if known is None or known.size < file.size:
                    found[file.name] = file
        return list(found.values())


def _identity(file: Mapping[str, Any]) -> tuple[str, str]:
    """What tells one logical file from another: its path, and which rows are deleted from it."""
    vector = file.get("deletionVector")
    if vector is None:
        return file["path"], ""
    return file["path"], f"{vector['storageType']}{vector['pathOrInlineDv']}@{vector.get('offset')}"


def _below(path: str, place: str) -> str:
    """The path as the log writes it (with percent signs) as one below the table's root."""
    if _ABSOLUTE.match(path):
        raise SourceError(
            f"{place} refers to a file by an absolute path: {path}",
            "it is a shallow clone, or its files were added by path: back up the table that owns"
            " them, or a deep clone",
        )
    name = unquote(path)
    if any(part in ("", ".", "..") for part in name.split("/")):
        raise SourceError(f"{place} refers to a file outside of itself: {path}")
    return name


def _vector_file(vector: Mapping[str, Any], place: str) -> DataFile:
    where: str = vector["pathOrInlineDv"]
    # In the file each vector has its length before it and a checksum behind it.
    end = (vector.get("offset") or 0) + vector["sizeInBytes"] + 8
    if vector["storageType"] == "p":
        return DataFile(_below(where, place), end, None, exact=False)
    prefix, coded = where[:-_UUID_CHARACTERS], where[-_UUID_CHARACTERS:]
    folder = f"{prefix}/" if prefix else ""
    name = f"{folder}deletion_vector_{uuid.UUID(bytes=_z85(coded))}.bin"
    return DataFile(name, end, None, exact=False)


def _z85(text: str) -> bytes:
    """Decodes Z85 (ZeroMQ RFC 32): five characters are four bytes."""
    words = [text[start : start + 5] for start in range(0, len(text), 5)]
    numbers: list[int] = []
    for word in words:
        number = 0
        for character in word:
            number = number * 85 + _Z85.index(character)
        numbers.append(number)
    return b"".join(number.to_bytes(4, "big") for number in numbers)


def commit_actions(name: str, content: bytes) -> Iterator[Mapping[str, Any]]:
    """The actions of a commit, in their order.

    Raises:
        Gap: It has none, or ends within one.
    """
    lines = [line for line in content.splitlines() if line.strip()]
    if not lines:
        raise Gap(f"{name} is empty")
    for line in lines:
        try:
            yield json.loads(line)
        except ValueError as error:
            raise Gap(f"{name} is damaged: {error}") from error


def whole_commit(name: str, content: bytes) -> list[Mapping[str, Any]]:
    """The actions of a commit, held against what it says that it wrote.

    Only of plain writes it is known what their metrics count. Spark counts empty files as well,
    which it then leaves out, so fewer files will do if they have all the rows.

    Raises:
        Gap: It has none, ends within one, or has fewer than it says.
    """
    actions = list(commit_actions(name, content))
    info: Mapping[str, Any] = next(filter(None, (one.get("commitInfo") for one in actions)), {})
    mode = (info.get("operationParameters") or {}).get("mode")
    if info.get("operation") == "WRITE" and mode in _PLAIN_MODES:
        adds = [add for one in actions if (add := one.get("add")) is not None]
        files, rows = (_metric(info, names) for names in (_FILES_WRITTEN, _ROWS_WRITTEN))
        if len(adds) < files and sum(map(_rows, adds)) < rows:
            raise Gap(f"{name} is cut short: it names {len(adds)} of the {files} files it wrote")
    return actions


def _metric(info: Mapping[str, Any], names: Iterable[str]) -> int:
    """A count under the first of its names that a writer used; 0 where there is none."""
    metrics = info.get("operationMetrics") or {}
    return int(next((metrics[name] for name in names if name in metrics), 0))


def _rows(add: Mapping[str, Any]) -> int:
    """How many rows a file has; 0 where the log does not say."""
    return json.loads(add.get("stats") or "{}").get("numRecords") or 0


def checkpoint_actions(name: str, content: bytes) -> Iterator[Mapping[str, Any]]:
    """The actions of a checkpoint, of one of its parts, or of a sidecar.

    Raises:
        Gap: It is damaged.
    """
    if name.endswith(".json"):
        yield from commit_actions(name, content)
        return
    try:
        yield from _parquet_actions(content)
    except (ValueError, OSError) as error:  # Arrow's errors are of these
        raise Gap(f"{name} is damaged: {error}") from error


def _parquet_actions(content: bytes) -> Iterator[Mapping[str, Any]]:
    import pyarrow.parquet as pq

    file: Any = pq.ParquetFile(io.BytesIO(content))
    has: set[str] = set(file.schema_arrow.names)
    for batch in file.iter_batches(columns=_wanted(has)):
        for row in batch.to_pylist():
            yield from ({key: value} for key, value in row.items() if value is not None)


def _wanted(has: set[str]) -> list[str]:
    columns = [name for name in ("metaData", "protocol", "sidecar") if name in has]
    if "add" in has:
        parts = ("path", "size", "modificationTime", "deletionVector")
        columns += [f"add.{part}" for part in parts]
    return columns


def committed_ms(name: str, content: bytes) -> int | None:
    """When a commit says that it was made, in ms since 1970; None where it does not say.

    Raises:
        Gap: It is damaged.
    """
    for action in commit_actions(name, content):
        info = action.get("commitInfo")
        if info is not None:
            stamp = info.get("inCommitTimestamp") or info.get("timestamp")
            return int(stamp) if stamp is not None else None
    return None

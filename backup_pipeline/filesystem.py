"""Snapshots as an fsspec file system, read without a restore: ``backup://<dataset>@<which>/<path>``.

    pd.read_parquet("backup://vision/train_images@2026-11-20/labels.parquet")

*Which* is what ``backup-pipeline diff`` takes too: ``latest``, a day, an ISO time or the beginning
of an id, each with a tier before it if need be (``cloud:2026-11-20``). What it means is looked up
once for each file system object, so that all reads of one see one snapshot; ``invalidate_cache``
looks again. Symbolic links are followed within the snapshot.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from fsspec.spec import AbstractBufferedFile, AbstractFileSystem

from backup_pipeline.engine.errors import NotFound, UsageError
from backup_pipeline.runner.opening import PLAN_VARIABLE, plan_file, secrets_of, store_options

if TYPE_CHECKING:
    from backup_pipeline.engine.operations.content import EntryContent, SnapshotContent
    from backup_pipeline.engine.operations.rows import Row
    from backup_pipeline.runner import Reader

__all__ = ["BackupFileSystem"]

_TYPES = {"file": "file", "object": "file", "directory": "directory", "symlink": "link"}


class BackupFileSystem(AbstractFileSystem):
    """Reads snapshots of a plan, or of one store.

    Args:
        plan: The plan's file; default: BACKUP_PLAN, or ./backup.yaml.
        store: A store's URL instead of a plan; its key comes from BACKUP_PASSPHRASE or
            ``key_file``.
        key_file: A file that holds the store's key.
        encryption: ``none`` for a store that was made without encryption.
        endpoint: S3 endpoint of the store.
        region: S3 region of the store.
        tier: The tier to read from where an address names none.
        options: Those of every fsspec file system.

    Raises:
        UsageError: Neither a plan nor a store can be found, or both are given.
    """

    protocol = "backup"
    root_marker = ""

    def __init__(
        self,
        plan: str | os.PathLike[str] | None = None,
        *,
        store: str | None = None,
        key_file: str | None = None,
        encryption: str | None = None,
        endpoint: str | None = None,
        region: str | None = None,
        tier: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if plan is not None and store is not None:
            raise UsageError("a plan and a store are both given", "give plan= or store=")
        self._tier = tier
        self._lock = threading.Lock()
        self._contents: dict[tuple[str, str], SnapshotContent] = {}
        self._reader = _open_reader(plan, store, key_file, encryption, endpoint, region)

    @classmethod
    def _address(cls, path: str) -> str:
        return str(cls._strip_protocol(path))

    # -- what is where

    def info(self, path: str, **kwargs: Any) -> dict[str, Any]:
        """What an address is: ``name``, ``type``, ``size`` in bytes, and of entries more."""
        path = self._address(path)
        dataset, which, inner = _parts(path)
        if which is None:
            if path and not any(key.startswith(f"{path}/") for key in self._reader.datasets()):
                self._require(path)
            return _folder(path)
        content = self._content(dataset, which)
        if not inner:
            return _folder(path)
        try:
            folder, slash, name = os.fsencode(inner).rpartition(b"/")
            place = content.follow(folder) + slash + name if slash else name
            return _described(path, content, content.find(place))
        except NotFound as error:
            raise _missing(error) from None

    def ls(self, path: str, detail: bool = True, **kwargs: Any) -> list[Any]:
        """What is right below an address: datasets, their days, folders and files."""
        path = self._address(path)
        dataset, which, inner = _parts(path)
        if which is None:
            found = list(self._above(path))
            if not found:
                found = [self.info(path)]
        else:
            found = self._entries(dataset, which, inner)
        return found if detail else [one["name"] for one in found]

    def _above(self, path: str) -> Iterator[dict[str, Any]]:
        """Folders that hold datasets, and the days of a dataset."""
        known = self._reader.datasets()
        start = f"{path}/" if path else ""
        below = [key[len(start) :] for key in known if key.startswith(start)]
        for name in dict.fromkeys(key.partition("/")[0] for key in below):
            yield _folder(start + name)
        if path in known:
            days = {snapshot.day for snapshot in self._reader.snapshots(path, self._tier)}
            for day in sorted(days):
                yield _folder(f"{path}@{day}")

    def _entries(self, dataset: str, which: str, inner: str) -> list[dict[str, Any]]:
        content = self._content(dataset, which)
        try:
            place = content.follow(os.fsencode(inner)) if inner else b""
            if place and content.find(place).type != "directory":
                return [self.info(f"{dataset}@{which}/{inner}")]
        except NotFound as error:
            raise _missing(error) from None
        start = f"{dataset}@{which}/{inner}/" if inner else f"{dataset}@{which}/"
        return [
            _described(start + os.fsdecode(row.path).rpartition("/")[2], content, row)
            for row in content.children(place)
        ]

    def modified(self, path: str) -> datetime:
        """When an entry was modified, as its source said."""
        found = self.info(path)
        if found.get("mtime") is None:
            raise FileNotFoundError(f"nothing says when {path} was modified")
        return datetime.fromtimestamp(found["mtime"], UTC)

    def invalidate_cache(self, path: str | None = None) -> None:
        """Look up anew which snapshots addresses mean."""
        with self._lock:
            found, self._contents = self._contents, {}
        for content in found.values():
            content.close()
        super().invalidate_cache(path)

    # -- bytes

    def _open(
        self,
        path: str,
        mode: str = "rb",
        block_size: int | str | None = None,
        autocommit: bool = True,
        cache_options: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> _File:
        if mode != "rb":
            raise NotImplementedError("snapshots are read, and never written to")
        dataset, which, inner = _parts(self._address(path))
        if which is None or not inner:
            self.info(path)
            raise IsADirectoryError(path)
        content = self._content(dataset, which)
        try:
            found = content.open(content.follow(os.fsencode(inner)))
        except NotFound as error:
            raise _missing(error) from None
        size = self.blocksize if block_size in (None, "default") else block_size
        return _File(self, path, found, size, cache_options, **kwargs)

    def _require(self, dataset: str) -> None:
        known = self._reader.datasets()
        if dataset not in known:
            raise FileNotFoundError(f"there is no dataset {dataset}; known: {', '.join(known)}")

    def _content(self, dataset: str, which: str) -> SnapshotContent:
        key = (dataset, which)
        with self._lock:
            if key not in self._contents:
                self._require(dataset)
                try:
                    found = self._reader.content(dataset, which, tier=self._tier)
                except NotFound as error:
                    raise _missing(error) from None
                self._contents[key] = found
            return self._contents[key]


class _File(AbstractBufferedFile):
    """A file of a snapshot, read in ranges through fsspec's caches."""

    def __init__(
        self,
        fs: BackupFileSystem,
        path: str,
        content: EntryContent,
        block_size: Any,
        cache_options: dict[str, Any] | None,
        **kwargs: Any,
    ) -> None:
        self._content = content
        super().__init__(
            fs, path, "rb", block_size, cache_options=cache_options, size=content.size, **kwargs
        )

    def _fetch_range(self, start: int, end: int) -> bytes:
        return self._content.read(start, end)


def _open_reader(
    plan: str | os.PathLike[str] | None,
    store: str | None,
    key_file: str | None,
    encryption: str | None,
    endpoint: str | None,
    region: str | None,
) -> Reader:
    from backup_pipeline.runner import Runner

    if store is not None:
        options = store_options(store, endpoint, region)
        return Runner.for_store(options, None, secrets_of(key_file, encryption))
    if any((key_file, encryption, endpoint, region)):
        raise UsageError("a plan names its own stores and keys", "give store=, or leave them out")
    from backup_pipeline.plan import load_plan

    try:
        path = plan_file(None if plan is None else os.fspath(plan))
    except UsageError:
        raise UsageError(
            "no plan is given to read backups by",
            f"give plan= or store= as a storage option, or set {PLAN_VARIABLE}",
        ) from None
    return Runner(load_plan(path))


def _parts(path: str) -> tuple[str, str | None, str]:
    """Dataset, which of its snapshots (None: none is named yet), and the path in it."""
    dataset, at, rest = path.partition("@")
    which, _, inner = rest.partition("/")
    return dataset, (which or "latest") if at else None, inner


def _folder(path: str) -> dict[str, Any]:
    return {"name": path, "type": "directory", "size": 0}


def _described(name: str, content: SnapshotContent, row: Row) -> dict[str, Any]:
    more: dict[str, Any] = {}
    if row.type == "symlink":
        more = {"islink": True, "destination": os.fsdecode(row.link_target or b"")}
        with suppress(NotFound):  # one that leads to nothing is told as it is
            row = content.find(content.follow(row.path))
    return {
        "name": name,
        "type": _TYPES.get(row.type, "other"),
        "size": row.size,
        "mtime": None if row.mtime_ns is None else row.mtime_ns / 1e9,
        "mode": row.mode,
        "state": row.state,
        **more,
    }


def _missing(error: NotFound) -> FileNotFoundError:
    hint = f" ({error.hint})" if error.hint else ""
    return FileNotFoundError(f"{error.message}{hint}")

"""What a snapshot builds on: its entries are readable, and the packs that they need are there.

A snapshot that refers to its parent's chunks is restorable only if these are still stored. One
listing of the packs tells which are missing or cut short; a byte that flipped inside a pack is
found by verify, which reads them. Why the listing has a bound: docs/decisions/foundations.md.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice, takewhile

import numpy as np
import pyarrow as pa

from backup_pipeline.engine.errors import DamageError, UnsoundParent
from backup_pipeline.engine.format.manifest import manifest_schema
from backup_pipeline.engine.format.record import Snapshot
from backup_pipeline.engine.repository import Repository
from backup_pipeline.engine.segments import Entries, ahead
from backup_pipeline.engine.store import StoredObject

__all__ = ["MOST_LISTED", "Foundation", "foundation_rows"]

MOST_LISTED = 10_000
"""How many packs one run looks at: ten requests of an object store, some 160 GiB of content."""

_PLACES = ("path", "type", "chunks")


class Foundation:
    """A snapshot that another is about to build on; it is looked at while the source is scanned.

    Args:
        repository: Where it is.
        snapshot: Which.
    """

    def __init__(self, repository: Repository, snapshot: Snapshot) -> None:
        self._repository = repository
        self._snapshot = snapshot
        pool = ThreadPoolExecutor(1, "foundation")
        self._opened = pool.submit(repository.segments.entries, snapshot)
        self._checked = pool.submit(self._check_packs)
        pool.shutdown(wait=False)

    def require(self) -> None:
        """Return once it is known that the packs are there.

        Raises:
            UnsoundParent: The manifest or packs that it needs are lost; a full must begin a new
                chain.
        """
        try:
            self._checked.result()
        except DamageError as error:
            raise self._unsound(error.message) from None

    def entries(self) -> Iterator[pa.Table]:
        """All columns of the entries in order of path, in batches; raises as ``require`` does."""
        return ahead(self._batches(None))

    def chunks(self) -> Iterator[pa.ChunkedArray]:
        """The chunks of the entries, as a chunk index takes them; raises as ``require`` does."""
        return (rows.column("chunks") for rows in self._batches(_PLACES))

    def _batches(self, columns: tuple[str, ...] | None) -> Iterator[pa.Table]:
        try:
            yield from self._entries().batches(columns)
        except DamageError as error:
            raise self._unsound(error.message) from None

    def _entries(self) -> Entries:
        return self._opened.result()

    def _check_packs(self) -> None:
        """Refuse a snapshot with a pack that is missing or ends before the last frame needed."""
        needed: dict[bytes, int] = {}
        for rows in self._entries().batches(_PLACES):
            for name, end in _ends_in_packs(rows):
                needed[name] = max(end, needed.get(name, 0))
        ends = {self._repository.pack_path(name): end for name, end in needed.items()}
        for path, size in self._looked_at(sorted(ends)):
            if size is None or size < ends[path]:
                what = "missing" if size is None else f"cut short to {size} bytes"
                raise DamageError(f"{path} is {what}")

    def _looked_at(self, paths: list[str]) -> Iterator[tuple[str, int | None]]:
        """Those of some sorted paths that one run looks at, with their sizes in the store.

        Where there are more packs than it looks at, it begins anywhere, so that each has its turn.
        """
        if not paths:
            return
        first = secrets.choice(paths)

        def turn(path: str) -> tuple[bool, str]:
            return path < first, path

        listed = list(islice(self._listed_from(first, paths[0]), MOST_LISTED))
        sizes = {one.name: one.size_bytes for one in listed}
        end = turn(listed[-1].name) if len(listed) == MOST_LISTED else (True, paths[-1])
        yield from ((path, sizes.get(path)) for path in paths if turn(path) <= end)

    def _listed_from(self, first: str, lowest: str) -> Iterator[StoredObject]:
        """Packs in the store from one on, then those from the lowest up to it."""
        store, folder = self._repository.store, f"{self._repository.prefix}packs/"
        yield from store.list(folder, after=first[:-1])
        if first != lowest:
            before = store.list(folder, after=lowest[:-1])
            yield from takewhile(lambda one: one.name < first, before)

    def _unsound(self, reason: str) -> UnsoundParent:
        one = self._snapshot
        return UnsoundParent(
            f"snapshot {one.id[:12]} of {one.dataset} in tier {one.tier} is damaged"
            f" and nothing can build on it: {reason}",
            "begin a new chain with --kind full; `backup-pipeline verify` tells what else is"
            " damaged",
        )


def foundation_rows(repository: Repository, snapshot: Snapshot) -> pa.Table:
    """All entries of a snapshot that another is about to build on; raises as ``Foundation``."""
    foundation = Foundation(repository, snapshot)
    rows = pa.concat_tables([manifest_schema().empty_table(), *foundation.entries()])
    foundation.require()
    return rows


def _ends_in_packs(rows: pa.Table) -> Iterator[tuple[bytes, int]]:
    """The packs that some entries need, each with where the last needed frame ends."""
    chunks = rows.column("chunks").combine_chunks().flatten()
    names = chunks.field("pack").dictionary_encode()
    ends = chunks.field("offset").to_numpy().astype(np.int64) + chunks.field("stored").to_numpy()
    last = np.zeros(len(names.dictionary), np.int64)
    np.maximum.at(last, names.indices.to_numpy(zero_copy_only=False), ends)
    return zip(names.dictionary.to_pylist(), last.tolist(), strict=True)

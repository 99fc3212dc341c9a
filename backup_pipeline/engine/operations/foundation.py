"""What a snapshot builds on: its entries are readable, and the packs that they need are there.

A snapshot that refers to its parent's chunks is restorable only if these are still stored. One
listing of the packs tells which are missing or cut short; a byte that flipped inside a pack is
found by verify, which reads them.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from backup_pipeline.engine.errors import DamageError, UnsoundParent
from backup_pipeline.engine.format.record import Snapshot
from backup_pipeline.engine.repository import Repository

__all__ = ["foundation_rows"]


def foundation_rows(repository: Repository, snapshot: Snapshot) -> pa.Table:
    """The entries of a snapshot that another is about to build on.

    Args:
        repository: Where it is.
        snapshot: Which.

    Raises:
        UnsoundParent: Its manifest or packs that it needs are lost; a full must begin a new chain.
    """
    try:
        rows = repository.manifest(snapshot).table
    except DamageError as error:
        raise _unsound(snapshot, error.message) from None
    chunks = rows.column("chunks").combine_chunks().flatten()
    if not len(chunks):
        return rows
    names = chunks.field("pack").dictionary_encode()
    ends = chunks.field("offset").to_numpy().astype(np.int64) + chunks.field("stored").to_numpy()
    needed = np.zeros(len(names.dictionary), np.int64)
    np.maximum.at(needed, names.indices.to_numpy(zero_copy_only=False), ends)
    sizes = {
        found.name: found.size_bytes
        for found in repository.store.list(f"{repository.prefix}packs/")
    }
    for name, end in zip(names.dictionary.to_pylist(), needed.tolist(), strict=True):
        path = repository.pack_path(name)
        size = sizes.get(path)
        if size is None or size < end:
            what = "missing" if size is None else f"cut short to {size} bytes"
            raise _unsound(snapshot, f"{path} is {what}")
    return rows


def _unsound(snapshot: Snapshot, reason: str) -> UnsoundParent:
    return UnsoundParent(
        f"snapshot {snapshot.id[:12]} of {snapshot.dataset} in tier {snapshot.tier} is damaged"
        f" and nothing can build on it: {reason}",
        "begin a new chain with --kind full; `backup-pipeline verify` tells what else is damaged",
    )

"""Repositories to test with, and their verbs with what tests seldom vary left out."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

from backup_pipeline.engine.format.record import Snapshot
from backup_pipeline.engine.keys import PLAINTEXT, KeyFile
from backup_pipeline.engine.operations.backup import backup
from backup_pipeline.engine.operations.copy import copy
from backup_pipeline.engine.repository import Repository, unlock_store
from backup_pipeline.engine.store import Store
from backup_pipeline.sources.files import FilesSource

DATASET = "vision/train_images"
DAY = date(2026, 11, 22)
KEY = KeyFile(b"tests keep no secrets. really: .")


def make_repository(
    store: Store, *, tier: str = "local", encrypted: bool = True, like: Repository | None = None
) -> Repository:
    """The dataset's repository in a store; with the keys of another tier's, if one is given."""
    unlocked = unlock_store(store, [KEY if encrypted else PLAINTEXT], create=True)
    return unlocked.create(DATASET, tier=tier, keys=like.keys if like else None)


def open_repository(store: Store, *, encrypted: bool = True) -> Repository:
    """The same, as another process finds it."""
    return unlock_store(store, [KEY if encrypted else PLAINTEXT]).repository(DATASET)


def chain_of(repository: Repository, kind: str) -> dict[str, Any]:
    """``kind``, ``parent`` and ``base`` of the next snapshot of a repository.

    A dependent kind without a complete full to build on becomes a full, as in a plan.
    """
    good = [one for one in repository.snapshots() if one.status == "complete"]
    fulls = [one for one in good if one.kind == "full"]
    if kind == "full" or not fulls:
        return {"kind": "full"}
    parent = fulls[-1]
    if kind == "incremental":
        parent = [one for one in good if one.chain == fulls[-1].chain][-1]
    return {"kind": kind, "parent": parent, "base": fulls[-1]}


def back_up(repository: Repository, root: Path, kind: str = "incremental") -> Snapshot:
    """One backup of a folder; a full where there is none to build on."""
    return backup(repository, FilesSource(root), day=DAY, **chain_of(repository, kind))


def copy_over(
    source: Repository, snapshot: Snapshot, target: Repository, kind: str = "incremental"
) -> Snapshot:
    """One copy of a snapshot; a full where there is none to build on."""
    return copy(source, snapshot, target, **chain_of(target, kind))

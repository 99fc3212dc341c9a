"""A small store with every kind of stored thing in it, to be damaged in every way."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from pathlib import Path

from backup_pipeline.engine.format.record import Snapshot
from backup_pipeline.engine.keys import PLAINTEXT, KeyFile, Secret
from backup_pipeline.engine.operations.backup import backup
from backup_pipeline.engine.repository import Repository, unlock_store
from backup_pipeline.engine.store import Store
from backup_pipeline.engine.store.memory import MemoryStore
from backup_pipeline.sources.files import FilesSource

DATASET = "vision/train_images"
KEY = KeyFile(b"tests keep no secrets. really: .")


@dataclass
class Whole:
    """A store as it was made.

    Attributes:
        names: Everything stored: name to bytes.
        secret: What opens it.
        needs: Name of a stored thing to the snapshots that cannot be restored without it.
        trees: Snapshot id to its files.
    """

    names: dict[str, bytes]
    secret: Secret
    needs: dict[str, set[str]]
    trees: dict[str, dict[str, bytes]]

    def store(self) -> MemoryStore:
        """A copy of it that may be damaged."""
        store = MemoryStore()
        for name, content in self.names.items():
            store.put(name, content)
        return store

    def open(self, store: Store) -> Repository:
        """The repository in a copy."""
        return unlock_store(store, [self.secret]).repository(DATASET)

    def kind(self, name: str) -> str:
        """What kind of thing a name is of; those of one kind could be taken for another."""
        parts = name.removesuffix(".twin").split("/")
        return "keys" if "keys" in parts else parts[2] if len(parts) > 2 else parts[0]


def make_store(root: Path, *, encrypted: bool) -> Whole:
    """A full, an incremental on it, and another full, in two chains."""
    secret: Secret = KEY if encrypted else PLAINTEXT
    store = MemoryStore()
    repository = unlock_store(store, [secret], create=True).create(DATASET, tier="local")
    whole = Whole({}, secret, {}, {})
    made: list[Snapshot] = []
    for number, kind in enumerate(("full", "incremental", "full")):
        (root / f"{number}.bin").write_bytes(b"%d " % number * 5000)
        chain = {"parent": made[0], "base": made[0]} if kind == "incremental" else {}
        source = FilesSource(root)
        snapshot = backup(repository, source, day=date(2026, 11, 22), kind=kind, **chain)
        whole.trees[snapshot.id] = {one.name: one.read_bytes() for one in root.iterdir()}
        made.append(snapshot)
    for snapshot in made:
        segments = {repository.segment_path(segment.name) for segment in snapshot.segments}
        chunks = repository.manifest(snapshot).table.column("chunks").combine_chunks().flatten()
        packs = {repository.pack_path(name) for name in chunks.field("pack").to_pylist()}
        for name in segments | packs:
            whole.needs.setdefault(name, set()).add(snapshot.id)
    whole.names = {one.name: bytes(store.get(one.name)) for one in store.list()}
    return whole

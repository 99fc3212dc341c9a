"""A local store with every kind of stored object in it, to be damaged one by one and put right."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from backup_pipeline.engine.errors import DamageError
from backup_pipeline.engine.format.record import Snapshot
from backup_pipeline.engine.keys import PLAINTEXT, KeyFile, Secret
from backup_pipeline.engine.log import EPOCH_RECORDS
from backup_pipeline.engine.operations.backup import backup
from backup_pipeline.engine.operations.restore import restore
from backup_pipeline.engine.operations.verify import verify
from backup_pipeline.engine.repository import Repository, unlock_store
from backup_pipeline.engine.store.local import LocalStore
from backup_pipeline.engine.store.memory import MemoryStore
from backup_pipeline.sources.files import FilesSource

FIRST, SECOND = "vision/train_images", "tabular/labels"
KEY = KeyFile(b"tests keep no secrets. really: .")
AT = {"reason": "a test", "at": "2026-11-22T02:00:00.000000Z"}
DAY = date(2026, 11, 22)


@dataclass
class Everything:
    """A store in a folder, and what is in it.

    Attributes:
        root: The folder.
        secret: What opens it.
        names: Every object that the first dataset needs: name to bytes.
        others: Those of the second dataset alone.
        kinds: What each of both is.
        trees: Live snapshots of the first dataset: id to files.
        needs: Name to the snapshots that do not restore without it.
    """

    root: Path
    secret: Secret
    names: dict[str, bytes]
    others: dict[str, bytes]
    kinds: dict[str, str]
    trees: dict[str, dict[str, bytes]]
    needs: dict[str, set[str]]

    @property
    def encrypted(self) -> bool:
        """Whether it is."""
        return self.secret is not PLAINTEXT

    def open(self, dataset: str = FIRST) -> Repository:
        """The dataset's repository, as another process finds it."""
        return unlock_store(LocalStore(self.root), [self.secret]).repository(dataset)

    def stored(self, name: str) -> bytes:
        """The bytes of an object as it was made."""
        return self.names.get(name) or self.others[name]

    @contextmanager
    def damaged(self, changes: dict[str, bytes | None]) -> Iterator[None]:
        """Within it some objects have other bytes, or are not there (None)."""
        for name, content in changes.items():
            self._write(name, content)
        try:
            yield
        finally:
            for name in changes:
                self._write(name, self.names.get(name, self.others.get(name)))

    def _write(self, name: str, content: bytes | None) -> None:
        path = self.root / name
        path.unlink(missing_ok=True)
        if content is not None:
            path.write_bytes(content)

    def named(self) -> set[str]:
        """What ``verify`` finds fault with."""
        report = verify(self.open())
        found = {one["name"] for one in report.damage}
        assert report.ok == (not found)
        return found

    def stood_for(self, names: Iterable[str]) -> set[str]:
        """The packs in whose place some of these are, and which are gone."""
        repository = self.open()
        return {
            repository.prefix + old
            for old, standing in repository.state.replacements.items()
            if any(repository.prefix + str(new) in names for new in standing)
        }

    def restorable(self, scratch: Path) -> set[str]:
        """Snapshots that restore in full; fails where anything restored is wrong."""
        found: set[str] = set()
        repository = self.open()
        for snapshot in repository.snapshots():
            target = scratch / snapshot.id
            try:
                report = restore(repository, snapshot, target)
            except DamageError:
                assert not target.exists() or not any(target.iterdir())
                continue
            back = {one.name: one.read_bytes() for one in target.iterdir()}
            shutil.rmtree(target)
            wanted = self.trees[snapshot.id]
            assert back.items() <= wanted.items()
            assert report.ok == (back == wanted)
            if report.ok:
                found.add(snapshot.id)
        return found


def make_everything(place: Path, *, encrypted: bool, tier: str = "local") -> Everything:
    """Two datasets; of the first: two chains, all kinds of records, a checkpoint and what follows,
    the last pack with parity.

    Args:
        place: An empty folder.
        encrypted: Whether it is.
        tier: What it is called.
    """
    secret: Secret = KEY if encrypted else PLAINTEXT
    store, source = MemoryStore(), place / "source"
    source.mkdir()
    unlocked = unlock_store(store, [secret], create=True)
    first = unlocked.create(FIRST, tier=tier)
    trees: dict[str, dict[str, bytes]] = {}

    def take(kind: str, parent: Snapshot | None = None, base: Snapshot | None = None) -> Snapshot:
        (source / f"{len(trees)}.bin").write_bytes(os.urandom(2000) + b"%d " % len(trees) * 900)
        made = backup(first, FilesSource(source), day=DAY, kind=kind, parent=parent, base=base)
        trees[made.id] = {one.name: one.read_bytes() for one in source.iterdir()}
        return made

    full = take("full")
    take("incremental", full, full)
    expired, replaced = take("full"), take("full")
    _append_all_kinds(first, full, expired, replaced)
    del trees[expired.id]
    while first.log.next_sequence <= EPOCH_RECORDS:
        first.log.append({"type": "pin", "snapshot": full.id, "pinned": True, **AT})
    first.parity = 0.1
    take("incremental", replaced, replaced)
    names = {one.name: bytes(store.get(one.name)) for one in store.list()}
    second = unlocked.create(SECOND, tier=tier)
    backup(second, FilesSource(source), day=DAY, kind="full")
    others = {one.name: bytes(store.get(one.name)) for one in store.list()}
    others = {name: content for name, content in others.items() if name not in names}
    root = place / "store"
    for name, content in (*names.items(), *others.items()):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    kinds = {**_kinds(first, names), **_kinds(second, others)}
    return Everything(root, secret, names, others, kinds, trees, _needs(first))


def _append_all_kinds(
    repository: Repository, pinned: Snapshot, expired: Snapshot, replaced: Snapshot
) -> None:
    """Records of all kinds, and what they speak of done: the objects that one snapshot was made
    of are gone, and others stand for them."""
    store, append = repository.store, repository.log.append
    prefix = repository.prefix
    append({"type": "pin", "snapshot": pinned.id, "pinned": True, **AT})
    gone = {"id": expired.id, "reason": "a test"}
    append({"type": "expire", "snapshots": [gone], "at": AT["at"]})
    segment = replaced.segments[0]
    anew = repository.put_segment(repository.segment(segment))
    [pack] = [one.name for one in store.list(f"{prefix}packs/{replaced.run}/")]
    other = pack.replace(replaced.run, pinned.run)
    store.put(other, bytes(store.get(pack)))
    old = [pack.removeprefix(prefix), f"manifests/{segment.name}"]
    standing = {old[0]: [other.removeprefix(prefix)], old[1]: [anew.to_json()]}
    append({"type": "replacement", "replacements": standing, **AT})
    append({"type": "condemn", "names": old, "not_before": AT["at"], **AT})
    append({"type": "note", "optional": True, "text": "of a later version"})
    for name in old:
        store.delete(prefix + name)


def _kinds(repository: Repository, names: dict[str, bytes]) -> dict[str, str]:
    """What each object is: records by their type, twins of records and documents as such."""
    found: dict[str, str] = {}
    for name in names:
        parts = name.removesuffix(".twin").removeprefix(repository.prefix).split("/")
        kind = {"keys": "key set"}.get(parts[0], parts[0].removesuffix("s"))
        if name.startswith("keys/"):
            kind = "key set of the store"
        if parts[0] in ("log", "twin"):
            kind = f"{repository.log.read(int(parts[2])).type} record"
        found[name] = kind + (" twin" if parts[0] == "twin" or name.endswith(".twin") else "")
    return found


def _needs(repository: Repository) -> dict[str, set[str]]:
    needs: dict[str, set[str]] = {}
    for snapshot in repository.snapshots():
        standing = repository.state.replacements
        names: set[str] = set()
        for segment in snapshot.segments:
            place = f"manifests/{segment.name}"
            now = [f"manifests/{one['name']}" for one in standing.get(place, ())]
            names.update(repository.prefix + one for one in now or [place])
        chunks = repository.manifest(snapshot).table.column("chunks").combine_chunks().flatten()
        names.update(repository.pack_path(name) for name in set(chunks.field("pack").to_pylist()))
        for name in names:
            needs.setdefault(name, set()).add(snapshot.id)
    return needs

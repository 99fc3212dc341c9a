"""A small, rich dataset with a history in two tiers, and what must hold after any fault.

Everything is cut small, so that a few hundred kilobytes make many chunks, frames, packs and
segments, and a case takes a fraction of a second.
"""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from backup_pipeline.engine import chunker
from backup_pipeline.engine.format.record import Snapshot
from backup_pipeline.engine.operations import packing, prune, reading, stash
from backup_pipeline.engine.operations.restore import restore
from backup_pipeline.engine.operations.verify import verify
from backup_pipeline.engine.repository import Repository
from backup_pipeline.engine.store import Store
from backup_pipeline.engine.store.memory import MemoryStore
from backup_pipeline_tests.engine.repositories import (
    back_up,
    copy_over,
    make_repository,
    open_repository,
)
from backup_pipeline_tests.engine.trees import State, state_of

__all__ = ["Scene", "clone", "cut_small", "fast_folder", "same_state"]

KIB = 1 << 10
_SMALL = {
    "CHUNK_LEAST_BYTES": 4 * KIB,
    "CHUNK_NORMAL_BYTES": 8 * KIB,
    "CHUNK_MOST_BYTES": 32 * KIB,
    "SOLID_LIMIT_BYTES": 12 * KIB,
    "SOLID_TARGET_BYTES": 32 * KIB,
    "SOLID_BUFFER_BYTES": 44 * KIB,
    "PACK_TARGET_BYTES": 8 * KIB,
}


def cut_small() -> None:
    """Make chunks, frames, packs and the grace of this process small, for good."""
    prune.PRUNE_GRACE = timedelta(0)
    for module in (chunker, packing, reading, stash):
        for name, value in _SMALL.items():
            if hasattr(module, name):
                setattr(module, name, value)


@contextmanager
def small_pieces() -> Iterator[None]:
    """Make chunks, frames, packs and the grace small within it."""
    modules = (chunker, packing, reading, stash)
    old = [
        (one, name, getattr(one, name)) for one in modules for name in _SMALL if hasattr(one, name)
    ]
    old.append((prune, "PRUNE_GRACE", prune.PRUNE_GRACE))
    cut_small()
    try:
        yield
    finally:
        for module, name, value in old:
            setattr(module, name, value)


@contextmanager
def fast_folder() -> Iterator[Path]:
    """A folder in memory, where there is one, that is gone afterwards."""
    memory = Path("/dev/shm")
    place = memory if memory.is_dir() and os.access(memory, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="backup-pipeline-faults-", dir=place) as folder:
        yield Path(folder)


def clone(store: MemoryStore) -> MemoryStore:
    """The same names and bytes; neither sees what happens to the other."""
    other = MemoryStore(store.url.removeprefix("memory://"))
    other._stored = dict(store._stored)
    return other


def plant(root: Path, seed: int) -> None:
    """A tree with large, small, empty and sparse files, links, folders and odd names."""
    chance = random.Random(seed)
    root.mkdir()
    (root / "large").write_bytes(chance.randbytes(300 * KIB))
    (root / "text").write_bytes(b"".join(b"%d squared is %d\n" % (i, i * i) for i in range(4000)))
    for folder in ("a", "b/deep", "empty"):
        (root / folder).mkdir(parents=True)
    for number in range(24):
        name = root / "ab"[number % 2] / f"{number:02d}"
        name.write_bytes(chance.randbytes(chance.choice((0, 100, 3000, 9000))))
    (root / "b" / "deep" / "größe\n").write_bytes(b"odd name")
    with (root / "sparse").open("wb") as file:
        file.truncate(200 * KIB)
        file.seek(100 * KIB)
        file.write(b"an island")
    (root / "link").symlink_to("a/00")
    (root / "again").hardlink_to(root / "large")
    (root / "a" / "00").chmod(0o640)


def edit(root: Path, seed: int) -> None:
    """Change some of it, by the seed: grown, rewritten, added, deleted, of another type."""
    chance = random.Random(seed)
    with (root / "large").open("r+b") as file:
        file.seek(chance.randrange(200 * KIB))
        file.write(chance.randbytes(20 * KIB))
    (root / f"new-{seed % 5}").write_bytes(chance.randbytes(60 * KIB))
    (root / "b" / f"small-{seed}").write_bytes(b"few bytes %d" % seed)
    victims = sorted(path for path in (root / "a").iterdir() if path.is_file())
    for path in victims[:1]:
        path.unlink()
    for path in victims[1:2]:
        path.write_bytes(chance.randbytes(5000))
    for path in victims[2:3]:
        path.unlink()
        path.mkdir()


def same_state(found: State, expected: State) -> bool:
    """Whether a restored tree is the one that was backed up; holes may be filled."""

    def plain(state: State) -> dict[bytes, tuple[object, ...]]:
        return {
            path: (one.type, one.mode, one.mtime_ns, one.size, one.digest, one.link_target)
            for path, one in state.items()
        }

    return plain(found) == plain(expected)


@dataclass
class Scene:
    """Two tiers with some history, and a source that has changed since.

    Attributes:
        folder: Where all of it lies, and where restores go.
        local: The first tier: a full, then three incrementals.
        cloud: The second tier: a full and an incremental, copied of the second and third of these.
        states: What each snapshot stood for, by id.
        now: What the source holds now.
        newest: Id of the newest snapshot of the first tier, which the second one lacks.
        copied: Id of the newest snapshot of the second tier.
        old_names: What the stores held before the last operations on them.
    """

    folder: Path
    local: Store
    cloud: Store
    states: dict[str, State] = field(default_factory=dict[str, State])
    now: State = field(default_factory=State)
    newest: str = ""
    copied: str = ""
    old_names: frozenset[str] = frozenset()
    restores: int = 0

    @property
    def source(self) -> Path:
        """The dataset."""
        return self.folder / "source"

    @classmethod
    def build(cls, folder: Path, local: Store, cloud: Store, *, seed: int) -> Scene:
        """Make the history."""
        scene = cls(folder, local, cloud)
        plant(scene.source, seed)
        first = make_repository(local)
        second = make_repository(cloud, tier="cloud", like=first)
        for number in range(4):
            if number:
                edit(scene.source, seed + number)
            if number == 2:
                scene.old_names = frozenset(one.name for s in (local, cloud) for one in s.list())
            snapshot = scene.note(back_up(first, scene.source))
            scene.newest = snapshot.id
            if number in {1, 2}:
                scene.copied = scene.note(copy_over(first, snapshot, second)).id
        edit(scene.source, seed + 10)
        scene.now = state_of(scene.source)
        return scene

    def note(self, snapshot: Snapshot, state: State | None = None) -> Snapshot:
        """Remember what a snapshot stands for: a state, or what the source holds now."""
        self.states[snapshot.id] = state_of(self.source) if state is None else state
        return snapshot

    def restores_right(self, repository: Repository, snapshot: Snapshot, state: State) -> bool:
        """Whether a snapshot restores to exactly a state."""
        self.restores += 1
        place = self.folder / f"restored-{self.restores}"
        try:
            return restore(repository, snapshot, place).ok and same_state(state_of(place), state)
        finally:
            shutil.rmtree(place, ignore_errors=True)

    def check(self, store: Store, earlier: set[str], *, all_of_them: bool = True) -> Repository:
        """Fail unless every snapshot that was committed earlier is there and restores.

        Args:
            store: One of the tiers.
            earlier: Ids of snapshots.
            all_of_them: Restore each; else only the newest.
        """
        repository = open_repository(store)
        found = {one.id: one for one in repository.snapshots()}
        assert earlier <= found.keys(), "a committed snapshot is gone"
        known = [one for key, one in found.items() if key in self.states]
        for one in known if all_of_them else known[-1:]:
            assert self.restores_right(repository, one, self.states[one.id]), one
        return repository

    def check_sound(self, store: Store, *, mended: bool = True) -> None:
        """Fail unless ``verify`` finds nothing.

        Args:
            store: One of the tiers.
            mended: Whether something was appended to the log since it was interrupted; else its
                newest record may wait for its twin.
        """
        repository = open_repository(store)
        waits = repository.log.name(repository.log.next_sequence - 1, twin=True)
        damage = verify(repository).damage
        assert [one for one in damage if mended or one["name"] != waits] == []

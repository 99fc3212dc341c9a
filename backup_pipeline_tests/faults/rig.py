"""A dataset, two tiers, and the real program working on them until something stops it.

After whatever happened: what was committed is there and restores, and ``verify`` finds nothing.
"""

from __future__ import annotations

import json
import random
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from backup_pipeline.engine.errors import NotFound
from backup_pipeline.engine.format.record import Snapshot
from backup_pipeline.engine.keys import new_key_file, parse_key_file
from backup_pipeline.engine.operations.verify import verify
from backup_pipeline.engine.repository import Repository, unlock_store
from backup_pipeline.engine.store import open_store
from backup_pipeline_tests.engine.trees import state_of
from backup_pipeline_tests.faults.scene import Scene, edit, plant

__all__ = ["COMMANDS", "DATASET", "Rig", "local_stores"]

DATASET = "vision/a"
PLAN = """\
start: {day}
stores: {stores}
keys: {{main: {{key_file: {{file: key}}}}}}
policies:
  default:
    tiers:
      - {{name: local, every: day, kind: incremental, full_every: 4 weeks, keep: {{daily: 7}}}}
      - {{name: cloud, every: day, kind: incremental, full_every: 4 weeks, keep: {{daily: 7}}}}
datasets: [{{asset: vision/a, source: source}}]
"""


class Rig:
    """A dataset, two tiers, and the program that may be killed while it works on them.

    Args:
        folder: Where the dataset, the plan and restores lie.
        stores: What ``open_store`` needs for the tiers ``local`` and ``cloud``.
        seed: Of the dataset.
    """

    def __init__(self, folder: Path, stores: dict[str, Any], seed: int) -> None:
        self.stores = stores
        self.seed = seed
        self.scene = Scene(folder, open_store(stores["local"]), open_store(stores["cloud"]))
        self.known: dict[str, list[str]] = {"local": [], "cloud": []}
        self.damaged: set[str] = set()
        plant(self.scene.source, seed)
        text = new_key_file()
        self._key = parse_key_file(text.encode())
        (folder / "key").write_text(text)
        day = datetime.now(UTC).date()
        (folder / "backup.yaml").write_text(PLAN.format(day=day, stores=json.dumps(stores)))

    def change(self) -> None:
        """Something new to back up."""
        self.seed += 1
        edit(self.scene.source, self.seed)

    def repository(self, tier: str) -> Repository | None:
        """A tier's repository, as another process finds it."""
        try:
            return unlock_store(open_store(self.stores[tier]), [self._key]).repository(DATASET)
        except NotFound:
            return None

    def take_note(self, tier: str) -> list[Snapshot]:
        """Snapshots that came since this was called last; each must restore."""
        repository, known, states = self.repository(tier), self.known[tier], self.scene.states
        if repository is None:
            assert not known, "a whole repository is gone"
            return []
        found = repository.snapshots()
        assert [one.id for one in found[: len(known)]] == known, "a committed snapshot is gone"
        for one in found[len(known) :]:
            origin = (one.origin or {}).get("snapshot")
            states[one.id] = states[origin] if origin else state_of(self.scene.source)
            known.append(one.id)
        for one in found[-1:]:
            assert self.scene.restores_right(repository, one, states[one.id]), one
        return found

    def forget_expired(self, tier: str) -> None:
        """Expect no longer what has expired; the newest must not have."""
        repository = self.repository(tier)
        assert repository is not None
        live = [one.id for one in repository.snapshots()]
        assert self.known[tier][-1] in live
        self.known[tier] = [one for one in self.known[tier] if one in live]

    def unfinished(self, tier: str) -> set[str]:
        """Runs that stored something, committed nothing, and build on what the next one does."""
        repository = self.repository(tier)
        if repository is None:
            return set()
        runs, found = repository.state.runs, repository.snapshots()
        newest = found[-1].id if found else None
        return {
            name
            for name, body in runs.items()
            if name not in {one.run for one in found} and body.get("parent") == newest
        }

    def damage(self, tier: str) -> None:
        """Flip a bit of a pack and of a segment; lose a pack, a record and another's twin."""
        repository = self.repository(tier)
        assert repository is not None
        store = repository.store
        names = [one.name for one in store.list(repository.prefix)]
        chance = random.Random(self.seed)
        packs = chance.sample([name for name in names if "/packs/" in name], 2)
        listed = {segment.name for one in repository.snapshots() for segment in one.segments}
        stood = repository.state.replacements
        listed |= {
            one["name"] for name in stood if name.startswith("manifests/") for one in stood[name]
        }
        listed -= {name.partition("/")[2] for name in stood}
        segment = repository.segment_path(chance.choice(sorted(listed)))
        for name in (packs[0], segment):
            content = bytearray(store.get(name))
            content[len(content) // 2] ^= 1
            store.heal(name, content)
        store.delete(packs[1])
        for twin in (False, True):
            number = chance.randrange(repository.log.next_sequence // 2) * 2 + twin
            store.delete(
                repository.log.name(min(number, repository.log.next_sequence - 1), twin=twin)
            )
        # What only the lost segment refers to shows once that is back.
        self.damaged = self._damage_in(tier) | {*packs, segment}

    def check_no_worse(self, tier: str) -> None:
        """Fail where something is damaged that ``damage`` had not damaged."""
        assert self._damage_in(tier) - self.damaged == set()

    def _damage_in(self, tier: str) -> set[str]:
        repository = self.repository(tier)
        assert repository is not None
        waits = repository.log.name(repository.log.next_sequence - 1, twin=True)
        return {one["name"] for one in verify(repository).damage} - {waits}

    def check_sound(self, tier: str, *, mended: bool) -> None:
        """Fail unless ``verify`` finds nothing; see ``Scene.check_sound``."""
        repository = self.repository(tier)
        if repository is not None:
            waits = repository.log.name(repository.log.next_sequence - 1, twin=True)
            damage = verify(repository).damage
            assert [one for one in damage if mended or one["name"] != waits] == []

    def check_all(self, tier: str) -> None:
        """Fail unless every snapshot restores and all is sound."""
        repository = self.repository(tier)
        assert repository is not None
        for one in repository.snapshots():
            assert self.scene.restores_right(repository, one, self.scene.states[one.id]), one
        self.check_sound(tier, mended=True)


COMMANDS = {
    "backup": ("local", ("backup", DATASET, "--tier", "local")),
    "prune": ("local", ("prune", DATASET, "--tier", "local", "--apply")),
    "repair": ("local", ("repair", DATASET, "--tier", "local", "--no-source", "--apply")),
    "copy": ("cloud", ("copy", DATASET, "--from", "local", "--to", "cloud", "--force")),
}


def local_stores(folder: Path, other: Path | None = None) -> dict[str, Any]:
    """Two stores below a folder; the second below another, if one is given."""
    return {
        "local": {"url": (folder / "local").as_uri()},
        "cloud": {"url": ((other or folder) / "cloud").as_uri()},
    }

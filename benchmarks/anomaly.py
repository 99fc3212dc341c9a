"""How many days of normal life the anomaly gate calls suspicious, and which attacks it catches.

    python -m benchmarks.anomaly --seeds 8

prints the table of docs/how-to/anomalies.md: trees that live sixty days, backed up daily into
memory, and each attack tried on a copy of the tree and of the store every few days.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from backup_pipeline.engine.format.record import Snapshot
from backup_pipeline.engine.judgement import Explained, Gate
from backup_pipeline.engine.keys import KeyFile
from backup_pipeline.engine.operations.backup import backup
from backup_pipeline.engine.repository import Repository, unlock_store
from backup_pipeline.engine.store.memory import MemoryStore
from backup_pipeline.engine.suspicions import findings_of
from backup_pipeline.sources.files import FilesSource
from benchmarks.life import ATTACKS, Life, kept_aside

__all__ = ["Tally", "live_through", "main"]

DATASET = "anomaly/life"
DAYS = 60
FULL_EVERY = 28
_KEY = KeyFile(b"benchmarks keep no secrets here.")


@dataclass(slots=True)
class Tally:
    """What was seen.

    Attributes:
        days: Backups of normal life.
        alarms: Those among them that were suspicious: day and rules.
        tried: How often each attack was tried, by whether the dataset was known by then.
        caught: How often it was caught by the first backup after it.
    """

    days: int = 0
    alarms: list[tuple[int, list[str]]] = field(default_factory=list[tuple[int, list[str]]])
    tried: Counter[tuple[str, bool]] = field(default_factory=Counter[tuple[str, bool]])
    caught: Counter[tuple[str, bool]] = field(default_factory=Counter[tuple[str, bool]])


def live_through(seed: int, every: int, tally: Tally, folder: Path) -> None:
    """Let one tree live, and attack copies of it every so many days.

    Args:
        seed: Of its life.
        every: Days between attacks.
        tally: Is filled.
        folder: Where the tree may be.
    """
    life, store = Life(folder / f"tree{seed}", seed), MemoryStore()
    repository = unlock_store(store, [_KEY], create=True).create(DATASET, tier="local")
    for day in range(DAYS + 1):
        if day:
            life.live()
        if day and day % every == seed % every:
            for name, attack in ATTACKS.items():

                def strike(name: str = name, attack: Callable[..., None] = attack) -> None:
                    attack(life, random.Random(seed * 1000 + life.day))
                    copy = unlock_store(_duplicate(store), [_KEY]).repository(DATASET)
                    what = (name, life.day > 14)
                    tally.tried[what] += 1
                    tally.caught[what] += bool(_rules(_back_up(copy, life)))

                kept_aside(life, folder / f"aside{seed}", strike)
        rules = _rules(_back_up(repository, life))
        tally.days += 1
        if rules:
            tally.alarms.append((day, rules))


def _rules(snapshot: Snapshot) -> list[str]:
    return [str(one["rule"]) for one in findings_of(snapshot.anomaly)]


def _back_up(repository: Repository, life: Life) -> Snapshot:
    snapshots = repository.snapshots()
    chain: dict[str, Any] = {"kind": "full"}
    if snapshots and life.day % FULL_EVERY:
        base = next(one for one in reversed(snapshots) if one.kind == "full")
        chain = {"kind": "incremental", "parent": snapshots[-1], "base": base}
    why = Explained("materialization", "exported anew") if life.explained else None
    gate = Gate(explained=why)
    return backup(repository, FilesSource(life.root), day=life.date, gate=gate, **chain)


def _duplicate(store: MemoryStore) -> MemoryStore:
    other = MemoryStore()
    for one in store.list():
        other.put(one.name, store.get(one.name))
    return other


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=8, help="how many lives")
    parser.add_argument("--every", type=int, default=4, help="days between attacks")
    given = parser.parse_args()
    tally = Tally()
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(given.seeds):
            live_through(seed, given.every, tally, Path(folder))
    print(f"| {tally.days} days of normal life | {len(tally.alarms)} suspicious | |")
    print("|---|---|---|\n| **Attack** | **first 14 days** | **later** |")
    for name in ATTACKS:
        cells = (f"{tally.caught[name, known]} of {tally.tried[name, known]}" for known in (0, 1))
        print(f"| {name} | {' | '.join(cells)} |")
    for day, rules in tally.alarms:
        print(f"false alarm on day {day}: {', '.join(rules)}")


if __name__ == "__main__":
    main()

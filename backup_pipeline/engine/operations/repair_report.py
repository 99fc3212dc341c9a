"""What a repair found, did and could not do."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from backup_pipeline.engine.format.record import Snapshot
from backup_pipeline.engine.manifest import printable

__all__ = ["MOST_LISTED", "RepairReport"]

MOST_LISTED = 1000
"""How many things of a kind are listed; the counts tell of all."""


def _list() -> list[dict[str, Any]]:
    return []


@dataclass(slots=True)
class RepairReport:
    """What a repair found, and did or, without ``applied``, would do.

    Attributes:
        applied: Whether anything was written.
        ok: Nothing is damaged any more; without ``applied``, nothing was.
        damage: What was found: name and what is wrong.
        mended: What was, or would be, put right: name and how.
        left: What stays damaged: name and why.
        lost: Files that no tier has whole: path, logical bytes, and the snapshots that need it.
        lost_snapshots: Snapshots that no tier can list any more.
        elsewhere: Bytes of content that were had, by tier; of this one, from other packs.
        from_source_bytes: Bytes of content that the source still held.
        stored_bytes: Bytes of new packs and of parity that was added.
        parity_added: Packs that had no sidecar in a tier with parity, and got, or would get, one.
        notes: What could not help, and why.
    """

    dataset: str
    tier: str
    applied: bool
    ok: bool = True
    damage: list[dict[str, Any]] = field(default_factory=_list)
    damage_count: int = 0
    mended: list[dict[str, Any]] = field(default_factory=_list)
    mended_count: int = 0
    left: list[dict[str, Any]] = field(default_factory=_list)
    left_count: int = 0
    lost: list[dict[str, Any]] = field(default_factory=_list)
    lost_count: int = 0
    lost_bytes: int = 0
    lost_snapshots: list[dict[str, Any]] = field(default_factory=_list)
    elsewhere: dict[str, int] = field(default_factory=dict[str, int])
    from_source_bytes: int = 0
    stored_bytes: int = 0
    parity_added: int = 0
    notes: list[str] = field(default_factory=list[str])
    duration_s: float = 0.0
    _found: set[str] = field(default_factory=set[str], repr=False)
    _settled: set[str] = field(default_factory=set[str], repr=False)
    _lost: dict[tuple[bytes, int], dict[str, Any]] = field(
        default_factory=dict[tuple[bytes, int], dict[str, Any]], repr=False
    )

    def to_json(self) -> dict[str, Any]:
        """Fields by name."""
        return {name: value for name, value in asdict(self).items() if not name.startswith("_")}

    def find(self, name: str, what: str) -> None:
        """Note what is damaged, each name once."""
        if name not in self._found:
            self._found.add(name)
            self.damage_count += 1
            _add(self.damage, {"name": name, "what": what})

    def mend(self, name: str, how: str) -> None:
        """Note what was put right, or would be."""
        self.mended_count += 1
        self._settled.add(name)
        _add(self.mended, {"name": name, "how": how})

    def leave(self, name: str, why: str) -> None:
        """Note what stays damaged."""
        self.left_count += 1
        self._settled.add(name)
        _add(self.left, {"name": name, "why": why})

    def leave_rest(self) -> None:
        """Note as damaged for good what nothing was done about."""
        for one in [one for one in self.damage if one["name"] not in self._settled]:
            self.leave(one["name"], one["what"])

    def lose(self, path: bytes, size_bytes: int, snapshot: Snapshot) -> None:
        """Note a file that a snapshot has and nobody can give any more."""
        known: dict[str, Any] | None = self._lost.get((path, size_bytes))
        if known is None:
            known = {"path": printable(path), "bytes": size_bytes, "snapshots": list[str]()}
            self._lost[path, size_bytes] = known
            self.lost_count += 1
            self.lost_bytes += size_bytes
            _add(self.lost, known)
        known["snapshots"].append(snapshot.id)

    def lose_snapshot(self, snapshot: Snapshot) -> None:
        """Note a snapshot of which nobody can tell any more what it held."""
        _add(self.lost_snapshots, {"snapshot": snapshot.id, "day": snapshot.day.isoformat()})


def _add(items: list[dict[str, Any]], item: dict[str, Any]) -> None:
    if len(items) < MOST_LISTED:
        items.append(item)

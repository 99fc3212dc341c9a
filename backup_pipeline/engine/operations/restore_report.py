"""What a restore did and could not do."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from backup_pipeline.engine.manifest import printable

__all__ = ["MOST_NAMED", "Outcome", "RestoreReport"]

MOST_NAMED = 100


@dataclass(slots=True)
class Outcome:
    """What any restore says of itself, or under ``dry_run`` of what it would do.

    Attributes:
        ok: Whether every wanted entry is there and right.
        entries: Entries wanted.
        files: Files or objects among them.
        bytes: Their logical bytes.
        written_files: Files written.
        written_bytes: Their logical bytes.
        fetched_bytes: Sealed bytes asked of stores for them.
        copied_bytes: Logical bytes that were copied from what stood there instead.
        elsewhere: Bytes that were had elsewhere for damaged packs, by tier; of this one where
            another of its packs held the same.
        damaged_packs: Packs of which something was lost.
        damage: Entries that could not be restored, with the reason.
        notices: What else is worth knowing.
        duration_s: Seconds it took.
        speed_bytes_per_s: S = D / T.
        estimate: Under ``dry_run``: from where it would be read, how long that takes, and by which
            rate that is said.
    """

    snapshot: str
    dataset: str
    tier: str
    day: str
    target: str
    dry_run: bool
    ok: bool = True
    entries: int = 0
    files: int = 0
    bytes: int = 0
    written_files: int = 0
    written_bytes: int = 0
    fetched_bytes: int = 0
    copied_bytes: int = 0
    elsewhere: dict[str, int] = field(default_factory=dict[str, int])
    damaged_packs: int = 0
    damage: list[dict[str, str]] = field(default_factory=list[dict[str, str]])
    damage_count: int = 0
    notices: list[str] = field(default_factory=list[str])
    duration_s: float = 0.0
    speed_bytes_per_s: float = 0.0
    estimate: dict[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """Fields by name."""
        return asdict(self)

    def notice(self, text: str) -> None:
        """Add a notice, up to a number that people still read."""
        if len(self.notices) < MOST_NAMED:
            self.notices.append(text)
        elif len(self.notices) == MOST_NAMED:
            self.notices.append("and more")

    def lose(self, path: bytes, reason: str) -> None:
        """Note an entry that could not be restored."""
        self.ok = False
        self.damage_count += 1
        if len(self.damage) < MOST_NAMED:
            self.damage.append({"path": printable(path), "reason": reason})


@dataclass(slots=True)
class RestoreReport(Outcome):
    """What a restore did, or under ``dry_run`` would do; its speed is over the bytes wanted.

    Attributes:
        skipped_files: Files that were there and right already.
        replaced_files: Other files and links that were, or would be, replaced.
    """

    skipped_files: int = 0
    replaced_files: int = 0

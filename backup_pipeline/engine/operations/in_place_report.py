"""What a restore in place did, or would do."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = ["InPlaceReport"]

MOST_NAMED = 100


@dataclass(slots=True)
class InPlaceReport:
    """What a restore in place did, or under ``dry_run`` would do.

    Attributes:
        ok: Whether all that was wanted is in place, and was read back right.
        aside: Where what was replaced is kept.
        kept: Whether something is kept there, to be undone or accepted.
        verified: Whether what was put in place was read back and is right; unchanged files are
            judged by size and time unless all were to be read.
        entries: Entries wanted.
        files: Files among them.
        bytes: Their logical bytes.
        same_files: Files that stood there and were right.
        written_files: Files put in place.
        written_bytes: Their logical bytes.
        fetched_bytes: Sealed bytes asked of stores for them.
        copied_bytes: Logical bytes copied from what stood there instead.
        retouched: Files and folders that got another owner, mode, time or attributes only.
        kept_files: Files that were replaced or removed, and are kept aside.
        kept_bytes: Their bytes.
        removed_files: Files among those that the snapshot does not have.
        extra_files: Files that the snapshot does not have and that stay.
        extra_bytes: Their bytes.
        extras: Some of the paths that the snapshot does not have.
        elsewhere: Bytes that were had from other tiers for damaged packs, by tier.
        damaged_packs: Packs of which something was lost.
        damage: Entries that could not be restored, with the reason; what stood there stays.
        mismatches: Paths that were not right when they were read back, with the reason.
        notices: What else is worth knowing.
        duration_s: Seconds it took.
        speed_bytes_per_s: Bytes put in place a second.
        estimate: Under ``dry_run``: from where it would be read, how long that takes, and by which
            rate that is said.
    """

    snapshot: str
    dataset: str
    tier: str
    day: str
    target: str
    dry_run: bool
    aside: str = ""
    ok: bool = True
    kept: bool = False
    verified: bool = False
    entries: int = 0
    files: int = 0
    bytes: int = 0
    same_files: int = 0
    written_files: int = 0
    written_bytes: int = 0
    fetched_bytes: int = 0
    copied_bytes: int = 0
    retouched: int = 0
    kept_files: int = 0
    kept_bytes: int = 0
    removed_files: int = 0
    extra_files: int = 0
    extra_bytes: int = 0
    extras: list[str] = field(default_factory=list[str])
    elsewhere: dict[str, int] = field(default_factory=dict[str, int])
    damaged_packs: int = 0
    damage: list[dict[str, str]] = field(default_factory=list[dict[str, str]])
    damage_count: int = 0
    mismatches: list[dict[str, str]] = field(default_factory=list[dict[str, str]])
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

    def lose(self, path: str, reason: str) -> None:
        """Note an entry that could not be restored."""
        self.ok = False
        self.damage_count += 1
        if len(self.damage) < MOST_NAMED:
            self.damage.append({"path": path, "reason": reason})

    def differ(self, path: str, reason: str) -> None:
        """Note what was not right when it was read back."""
        self.ok = False
        if len(self.mismatches) < MOST_NAMED:
            self.mismatches.append({"path": path, "reason": reason})

    def took(self, seconds: float) -> None:
        """Note how long it took."""
        self.duration_s = seconds
        if seconds:
            self.speed_bytes_per_s = self.written_bytes / seconds

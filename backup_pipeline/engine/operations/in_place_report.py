"""What a restore in place did, or would do."""

from __future__ import annotations

from dataclasses import dataclass, field

from backup_pipeline.engine.manifest import printable
from backup_pipeline.engine.operations.restore_report import MOST_NAMED, Outcome

__all__ = ["InPlaceReport"]


@dataclass(slots=True)
class InPlaceReport(Outcome):
    """What a restore in place did, or under ``dry_run`` would do.

    It is ``ok`` where all that was wanted is in place, and was read back right; what stood where
    damage is stays. Files written are those put in place, and its speed is over them.

    Attributes:
        aside: Where what was replaced is kept.
        kept: Whether something is kept there, to be undone or accepted.
        verified: Whether what was put in place was read back and is right; unchanged files are
            judged by size and time unless all were to be read.
        same_files: Files that stood there and were right.
        retouched: Files and folders that got another owner, mode, time or attributes only.
        kept_files: Files that were replaced or removed, and are kept aside.
        kept_bytes: Their bytes.
        removed_files: Files among those that the snapshot does not have.
        extra_files: Files that the snapshot does not have and that stay.
        extra_bytes: Their bytes.
        extras: Some of the paths that the snapshot does not have.
        mismatches: Paths that were not right when they were read back, with the reason.
    """

    aside: str = ""
    kept: bool = False
    verified: bool = False
    same_files: int = 0
    retouched: int = 0
    kept_files: int = 0
    kept_bytes: int = 0
    removed_files: int = 0
    extra_files: int = 0
    extra_bytes: int = 0
    extras: list[str] = field(default_factory=list[str])
    mismatches: list[dict[str, str]] = field(default_factory=list[dict[str, str]])

    def differ(self, path: bytes, reason: str) -> None:
        """Note what was not right when it was read back."""
        self.ok = False
        if len(self.mismatches) < MOST_NAMED:
            self.mismatches.append({"path": printable(path), "reason": reason})

    def took(self, seconds: float) -> None:
        """Note how long it took."""
        self.duration_s = seconds
        if seconds:
            self.speed_bytes_per_s = self.written_bytes / seconds

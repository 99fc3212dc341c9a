"""What the runner's verbs answer, as values that turn into JSON."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from backup_pipeline.engine.format.record import Snapshot

__all__ = ["Result", "TierStatus", "iso"]


def iso(moment: datetime) -> str:
    """An aware UTC time as ``2026-11-22T02:00:03Z``."""
    return moment.isoformat().replace("+00:00", "Z")


@dataclass(frozen=True, slots=True)
class Result:
    """Answer of a backup or a copy.

    Attributes:
        snapshot: The day's snapshot: just made, or the one that was there.
        created: False where a closed day already had it and nothing was read.
        reason: Why this kind, or why nothing was read.
        notices: What the user should know beside it, such as a store that was out of reach.
    """

    snapshot: Snapshot
    created: bool
    reason: str
    notices: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Fields by name, the snapshot's below ``snapshot``."""
        return {
            "created": self.created,
            "reason": self.reason,
            "notices": list(self.notices),
            "snapshot": self.snapshot.to_json(),
        }


@dataclass(frozen=True, slots=True)
class TierStatus:
    """How one dataset stands in one tier.

    Attributes:
        dataset: The dataset's key.
        tier: The tier's name.
        store: The store's URL, without secrets.
        snapshots: Number of snapshots, incomplete ones included.
        stored_bytes: Bytes that they added to the store.
        newest: The newest good snapshot, by the time its source was read.
        age_s: Seconds since that time, or since the plan's start where there is no good snapshot;
            None where the store could not be asked.
        rpo_s: Tolerated age in seconds; None where the plan sets none.
        fresh: Whether the age is within it; False where the store could not be asked or the log
            is damaged.
        missing_days: Closed cadence days of the last ``STATUS_DAYS`` days without a good snapshot.
        late_days: Days whose best snapshot is marked late.
        suspicious: Snapshots that were flagged and that nobody cleared, in words.
        error: Why the store could not be asked, or what is damaged.
    """

    dataset: str
    tier: str
    store: str
    snapshots: int = 0
    stored_bytes: int = 0
    newest: Snapshot | None = None
    age_s: float | None = None
    rpo_s: float | None = None
    fresh: bool = False
    missing_days: list[date] = field(default_factory=list[date])
    late_days: list[date] = field(default_factory=list[date])
    suspicious: list[str] = field(default_factory=list[str])
    error: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Fields by name; days as ``YYYY-MM-DD``."""
        return {
            "dataset": self.dataset,
            "tier": self.tier,
            "store": self.store,
            "snapshots": self.snapshots,
            "stored_bytes": self.stored_bytes,
            "newest": self.newest.to_json() if self.newest else None,
            "age_s": self.age_s,
            "rpo_s": self.rpo_s,
            "fresh": self.fresh,
            "missing_days": [day.isoformat() for day in self.missing_days],
            "late_days": [day.isoformat() for day in self.late_days],
            "suspicious": list(self.suspicious),
            "error": self.error,
        }

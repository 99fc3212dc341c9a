"""What is known of one dataset in one tier, and by what evidence, as values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any

from backup_pipeline.cost.formulas import integrity
from backup_pipeline.posture.witness import SET_BACK

__all__ = ["LockFacts", "Point", "Proof", "TierPosture", "iso"]


def iso(moment: datetime | None) -> str | None:
    """An aware UTC time as ``2026-11-22T02:00:03Z``."""
    return None if moment is None else moment.isoformat().replace("+00:00", "Z")


@dataclass(frozen=True, slots=True)
class Proof:
    """What one look at stored bytes, or one restore, showed.

    Attributes:
        at: When it ended (UTC).
        ok: Whether nothing was found wrong.
        errors: How many things were found wrong.
        coverage: Share of the bytes that were looked at, from 0 to 1.
        day: The day of the snapshot that it was about; None where it was about all of them.
        whole_s: Seconds that a restore of the whole takes at the measured speed; None of a
            verification.
    """

    at: datetime
    ok: bool
    errors: int = 0
    coverage: float = 1.0
    day: date | None = None
    whole_s: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Fields by name."""
        return {
            "at": iso(self.at),
            "ok": self.ok,
            "errors": self.errors,
            "coverage": self.coverage,
            "day": self.day.isoformat() if self.day else None,
            "whole_s": self.whole_s,
        }


@dataclass(frozen=True, slots=True)
class LockFacts:
    """What keeps stored bytes from being deleted.

    Attributes:
        mode: ``compliance`` or ``governance``, as the bucket's default retention says.
        days: Days for which the bucket locks what is written.
        until: When the first thing that the newest snapshot needs may be deleted (UTC).
        planned: The lock that the plan asks for, in words; None where it asks for none.
    """

    mode: str | None = None
    days: int | None = None
    until: datetime | None = None
    planned: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Fields by name."""
        return {
            "mode": self.mode,
            "days": self.days,
            "until": iso(self.until),
            "planned": self.planned,
        }


@dataclass(frozen=True, slots=True)
class Point:
    """One snapshot, as trends draw it.

    Attributes:
        day: The day it stands for.
        captured_at: When its source was read (UTC).
        bytes: Logical bytes of the dataset.
        stored_bytes: Bytes that it added to the store.
        changed: Entries added, changed and deleted since the snapshot before it.
        duration_s: Seconds that its run took.
        good_entries: Entries whose bytes are all there.
        entries: Entries that the source listed.
    """

    day: date
    captured_at: datetime
    bytes: int
    stored_bytes: int
    changed: int
    duration_s: float
    good_entries: int
    entries: int

    def to_json(self) -> dict[str, Any]:
        """Fields by name."""
        return {
            "day": self.day.isoformat(),
            "captured_at": iso(self.captured_at),
            "bytes": self.bytes,
            "stored_bytes": self.stored_bytes,
            "changed": self.changed,
            "duration_s": self.duration_s,
            "good_entries": self.good_entries,
            "entries": self.entries,
        }


@dataclass(frozen=True, slots=True)
class TierPosture:
    """How one dataset stands in one tier.

    Attributes:
        dataset: The dataset's key.
        tier: The tier's name.
        store: The store's URL, without secrets.
        media: What kind of medium the store is on, such as ``disk``.
        site: Where the store is.
        snapshots: Number of live snapshots.
        stored_bytes: Bytes that they added to the store.
        newest: The newest good snapshot's capture (UTC); None where there is none.
        newest_id: Its id.
        newest_day: The day that it stands for.
        newest_bytes: Its logical bytes.
        incomplete: How many entries the newest snapshot lacks; 0 where it is whole.
        age_s: Seconds since ``newest``, or since the plan's start; None where nobody could ask.
        rpo_s: Tolerated age; None where the plan sets none.
        fresh: Whether the age is within it.
        next_run: When the plan next runs this tier (UTC).
        due: Days of the window whose snapshot should be there by now.
        missing_days: Those of them that have no good one, and had none that expired.
        late_days: Days whose best snapshot is marked late.
        good_entries: Entries read whole, over all snapshots of the window: N_good.
        entries: Entries listed, over all snapshots of the window: N_total.
        verified: The last verification; None where none is known.
        drilled: The last restore drill; None where none is known.
        rto_s: Tolerated seconds of a restore; None where the plan states none.
        lock: What keeps its bytes from being deleted.
        trend: The window's snapshots, oldest first.
        flags: What else a person should know of it, one sentence each.
        error: Why it could not be asked, or what is damaged.
        reachable: Whether it could be asked at all.
    """

    dataset: str
    tier: str
    store: str
    media: str
    site: str
    snapshots: int = 0
    stored_bytes: int = 0
    newest: datetime | None = None
    newest_id: str | None = None
    newest_day: date | None = None
    newest_bytes: int = 0
    incomplete: int = 0
    age_s: float | None = None
    rpo_s: float | None = None
    fresh: bool = False
    next_run: datetime | None = None
    due: Sequence[date] = ()
    missing_days: Sequence[date] = ()
    late_days: Sequence[date] = ()
    good_entries: int = 0
    entries: int = 0
    verified: Proof | None = None
    drilled: Proof | None = None
    rto_s: float | None = None
    lock: LockFacts = field(default_factory=LockFacts)
    trend: Sequence[Point] = ()
    flags: Sequence[str] = ()
    error: str | None = None
    reachable: bool = True

    @property
    def due_days(self) -> int:
        """How many snapshots should be there."""
        return len(self.due)

    @property
    def good_days(self) -> int:
        """How many of them are."""
        return len(self.due) - len(self.missing_days)

    @property
    def integrity(self) -> float | None:
        """I = N_good / N_total over the window; None where nothing was listed in it."""
        return integrity(self.good_entries, self.entries) if self.entries else None

    @property
    def margin_s(self) -> float | None:
        """Seconds left until the RPO is broken; negative, by how far it is."""
        if self.rpo_s is None or self.age_s is None:
            return None
        return self.rpo_s - self.age_s

    @property
    def rto_met(self) -> bool | None:
        """Whether a restore of the whole, as the last drill measured it, keeps the RTO."""
        measured = self.drilled.whole_s if self.drilled else None
        if self.rto_s is None or measured is None:
            return None
        return measured <= self.rto_s

    def _flagged(self, what: str) -> list[str]:
        return [flag.removeprefix(what) for flag in self.flags if flag.startswith(what)]

    def _newest_json(self) -> dict[str, Any] | None:
        if self.newest is None or self.newest_day is None:
            return None
        return {
            "id": self.newest_id,
            "day": self.newest_day.isoformat(),
            "captured_at": iso(self.newest),
            "bytes": self.newest_bytes,
        }

    def to_json(self, *, trend: bool = True) -> dict[str, Any]:
        """Fields by name, and what follows from them."""
        return {
            "dataset": self.dataset,
            "tier": self.tier,
            "store": self.store,
            "media": self.media,
            "site": self.site,
            "snapshots": self.snapshots,
            "stored_bytes": self.stored_bytes,
            "newest": self._newest_json(),
            "incomplete_entries": self.incomplete,
            "age_s": self.age_s,
            "rpo_s": self.rpo_s,
            "margin_s": self.margin_s,
            "fresh": self.fresh,
            "next_run": iso(self.next_run),
            "due_days": self.due_days,
            "good_days": self.good_days,
            "missing_days": [day.isoformat() for day in self.missing_days],
            "late_days": [day.isoformat() for day in self.late_days],
            "good_entries": self.good_entries,
            "entries": self.entries,
            "integrity": self.integrity,
            "verified": self.verified.to_json() if self.verified else None,
            "drilled": self.drilled.to_json() if self.drilled else None,
            "rto_s": self.rto_s,
            "rto_met": self.rto_met,
            "lock": self.lock.to_json(),
            "suspicious": self._flagged("suspicious: "),
            "set_back": self._flagged(SET_BACK),
            "error": self.error,
            **({"trend": [point.to_json() for point in self.trend]} if trend else {}),
        }

"""How a consistent set stands in a tier: its newest whole cut, and the days that lack one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Any

from backup_pipeline.engine.errors import BackupError
from backup_pipeline.plan.cadence import cadence_days, day_closes_at, local_day
from backup_pipeline.runner.cuts import Cut, best_cuts
from backup_pipeline.runner.planned import PlanReader
from backup_pipeline.runner.standing import STATUS_DAYS

if TYPE_CHECKING:
    from backup_pipeline.plan import ConsistentSet, Plan

__all__ = ["SetStanding", "SetStatus", "missing_cuts", "set_tiers"]


@dataclass(frozen=True, slots=True)
class SetStatus:
    """How one set stands in one tier.

    Attributes:
        set: The set's name.
        tier: The tier's name.
        members: Keys of its datasets.
        newest: The newest whole cut of all of today's members.
        age_s: Seconds since it was read, or since the plan's start where there is none.
        rpo_s: The least that a member tolerates in this tier.
        fresh: Whether the age is within it.
        missing_days: Closed cadence days without a whole cut, of the last 60 and since the first.
        lacking: For each of these days that has part of a cut, the members that it lacks.
        error: Why the tier could not be asked.
    """

    set: str
    tier: str
    members: tuple[str, ...]
    newest: Cut | None = None
    age_s: float | None = None
    rpo_s: float | None = None
    fresh: bool = False
    missing_days: list[date] = field(default_factory=list[date])
    lacking: Mapping[date, Sequence[str]] = field(default_factory=dict[date, "Sequence[str]"])
    error: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Fields by name; days as ``YYYY-MM-DD``."""
        return {
            "set": self.set,
            "tier": self.tier,
            "members": list(self.members),
            "newest": self.newest.to_json() if self.newest else None,
            "age_s": self.age_s,
            "rpo_s": self.rpo_s,
            "fresh": self.fresh,
            "missing_days": [day.isoformat() for day in self.missing_days],
            "lacking": {day.isoformat(): list(keys) for day, keys in self.lacking.items()},
            "error": self.error,
        }


def set_tiers(plan: Plan, one: ConsistentSet) -> list[str]:
    """The tiers that all members have, in order: in any other there is no whole cut to be had."""
    members = [plan.dataset(key).tiers for key in one.members]
    return [name for name in members[0] if all(name in tiers for tiers in members)]


def missing_cuts(
    cadence: Sequence[date], cuts: Sequence[Cut], expired: set[date]
) -> tuple[list[date], dict[date, tuple[str, ...]]]:
    """Which days lack a whole cut, and what those that have part of one lack.

    Days before the set's first cut are not missed: nobody knows that it was declared then.

    Args:
        cadence: The tier's closed days.
        cuts: All that the tier tells of, whole or not.
        expired: Days of which a member had a snapshot that retention let go.
    """
    first = min((one.day for one in cuts), default=date.max)
    whole = best_cuts(cuts)
    missing = [day for day in cadence if day >= first and day not in {*whole, *expired}]
    part: dict[date, tuple[str, ...]] = {}
    for one in cuts:
        if one.day in missing and len(one.missing) < len(part.get(one.day, one.members)):
            part[one.day] = one.missing
    return missing, part


class SetStanding(PlanReader):
    """All that ``PlanReader`` can do, and how sets stand."""

    def set_status(self, name: str | None = None, tier: str | None = None) -> list[SetStatus]:
        """How each set stands in each tier that all of its members have.

        Args:
            name: One set alone.
            tier: One tier alone.

        Raises:
            UsageError: There is no such set.
        """
        chosen = list(self.plan.sets.values()) if name is None else [self.plan.consistent_set(name)]
        return [
            self._set_status(one, place)
            for one in chosen
            for place in set_tiers(self.plan, one)
            if tier in (None, place)
        ]

    def _set_status(self, one: ConsistentSet, tier: str) -> SetStatus:
        plan, now = self.plan, self._clock()
        specs = [plan.dataset(key) for key in one.members]
        given = [spec.rpo[tier].total_seconds() for spec in specs if tier in spec.rpo]
        rpo_s = min(given, default=None)
        try:
            cuts = self.cuts(one.name, tier)
            expired = {
                day
                for key in one.members
                for repository in self.repositories(key, tier)
                for day in repository.state.days_expired()
            }
        except BackupError as error:
            return SetStatus(one.name, tier, one.members, rpo_s=rpo_s, error=error.message)
        today = local_day(now, plan.zone)
        first = max(plan.start, today - timedelta(days=STATUS_DAYS))
        cadence = cadence_days(specs[0].tiers[tier], first, today, plan.zone)
        closed = [day for day in cadence if day_closes_at(day, plan.zone) <= now]
        missing, lacking = missing_cuts(closed, cuts, expired)
        full = [cut for cut in cuts if cut.whole and set(one.members) <= set(cut.members)]
        newest = max(full, key=lambda cut: (cut.captured_at, cut.id), default=None)
        start = datetime.combine(plan.start, datetime.min.time(), plan.zone)
        age_s = (now - (newest.captured_at if newest else start)).total_seconds()
        return SetStatus(
            set=one.name,
            tier=tier,
            members=one.members,
            newest=newest,
            age_s=age_s,
            rpo_s=rpo_s,
            fresh=rpo_s is None or age_s <= rpo_s,
            missing_days=missing,
            lacking=lacking,
        )

"""What is known of every dataset in all of its tiers, as values."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from backup_pipeline.cost.formulas import integrity
from backup_pipeline.posture.tier import TierPosture, iso

if TYPE_CHECKING:
    from backup_pipeline.posture.copies import Copies
    from backup_pipeline.posture.coverage import Coverage
    from backup_pipeline.runner.setstanding import SetStatus

__all__ = ["DatasetPosture", "Posture"]


@dataclass(frozen=True, slots=True)
class DatasetPosture:
    """How one dataset stands in all of its tiers.

    Attributes:
        key: Its key.
        policy: Name of its policy.
        tiers: In the policy's order.
        copies: Its copies against 3-2-1-1-0.
    """

    key: str
    policy: str
    tiers: Sequence[TierPosture]
    copies: Copies

    @property
    def fresh(self) -> bool:
        """Whether every tier keeps its RPO."""
        return all(tier.fresh for tier in self.tiers)

    def to_json(self) -> dict[str, Any]:
        """Fields by name; tiers stand in a list of their own."""
        return {
            "dataset": self.key,
            "policy": self.policy,
            "fresh": self.fresh,
            "copies": self.copies.to_json(),
        }


@dataclass(frozen=True, slots=True)
class Posture:
    """How all datasets of a plan stand.

    Attributes:
        at: When the stores were asked (UTC).
        days: Length of the window in days.
        plan: The plan's file; None where it has none.
        deployment: The plan's deployment.
        timezone: The zone whose days count.
        encryption: As the plan says.
        datasets: In the plan's order.
        sets: How each consistent set stands in each of its tiers.
        coverage: What of the asset graph no policy protects; None where nobody knows the graph.
        took_s: Seconds that it took to ask.
    """

    at: datetime
    days: int
    timezone: str
    datasets: Sequence[DatasetPosture]
    plan: str | None = None
    deployment: str | None = None
    encryption: str = "aes-256-gcm"
    sets: Sequence[SetStatus] = ()
    coverage: Coverage | None = None
    took_s: float = 0.0

    @property
    def tiers(self) -> list[TierPosture]:
        """All datasets × tiers."""
        return [tier for dataset in self.datasets for tier in dataset.tiers]

    @property
    def fresh(self) -> bool:
        """Whether every tier of every dataset, and every set, keeps its RPO."""
        return all(one.fresh for one in [*self.tiers, *self.sets])

    @property
    def begins(self) -> datetime:
        """When the window begins (UTC)."""
        return self.at - timedelta(days=self.days)

    @property
    def integrity(self) -> float | None:
        """I = N_good / N_total over all tiers' snapshots of the window."""
        total = sum(tier.entries for tier in self.tiers)
        return integrity(sum(tier.good_entries for tier in self.tiers), total) if total else None

    @property
    def summary(self) -> dict[str, Any]:
        """The figures that stand at the top, and that plot over time."""
        tiers = self.tiers
        return {
            "datasets": len(self.datasets),
            "datasets_protected": _count(_is_protected(one) for one in self.datasets),
            "tiers": len(tiers),
            "rpo_missed": _count(not tier.fresh for tier in tiers),
            "rto_missed": _count(tier.rto_met is False for tier in tiers),
            "rto_unknown": _count(
                tier.rto_s is not None and tier.rto_met is None for tier in tiers
            ),
            "copies_met": _count(one.copies.met for one in self.datasets),
            "due_days": sum(tier.due_days for tier in tiers),
            "good_days": sum(tier.good_days for tier in tiers),
            "missing_days": sum(len(tier.missing_days) for tier in tiers),
            "late_days": sum(len(tier.late_days) for tier in tiers),
            "integrity": self.integrity,
            "bytes": sum(one.tiers[0].newest_bytes for one in self.datasets if one.tiers),
            "stored_bytes": sum(tier.stored_bytes for tier in tiers),
            "unprotected_assets": len(self.coverage.unprotected) if self.coverage else None,
        }

    def to_json(self, *, trend: bool = True) -> dict[str, Any]:
        """Fields by name.

        Args:
            trend: Whether each tier lists its snapshots of the window.
        """
        return {
            "at": iso(self.at),
            "window_days": self.days,
            "plan": self.plan,
            "deployment": self.deployment,
            "timezone": self.timezone,
            "fresh": self.fresh,
            "summary": self.summary,
            "datasets": [dataset.to_json() for dataset in self.datasets],
            "tiers": [tier.to_json(trend=trend) for tier in self.tiers],
            "sets": [one.to_json() for one in self.sets],
            "coverage": self.coverage.to_json() if self.coverage else None,
            "took_s": self.took_s,
        }


def _is_protected(dataset: DatasetPosture) -> bool:
    """Whether there is a good snapshot in every tier, and each keeps its RPO."""
    return dataset.fresh and all(tier.newest is not None for tier in dataset.tiers)


def _count(truths: Iterable[bool]) -> int:
    return sum(1 for truth in truths if truth)

"""How a dataset stands in a tier: its newest good snapshot, its age, and the days it lacks."""

from __future__ import annotations

from collections.abc import Set
from datetime import date, datetime, time, timedelta
from typing import TYPE_CHECKING

from backup_pipeline.engine.errors import BackupError
from backup_pipeline.plan.cadence import cadence_days, day_closes_at, last_due_day, local_day
from backup_pipeline.runner.days import best_by_day, is_good
from backup_pipeline.runner.results import TierStatus

if TYPE_CHECKING:
    from backup_pipeline.engine.repository import Repository
    from backup_pipeline.plan import Dataset, Plan, Tier
    from backup_pipeline.runner.places import Place

__all__ = ["STATUS_DAYS", "missed_days", "standing", "tier_status", "unreachable"]

STATUS_DAYS = 60
"""How far back missing and late days are listed; what is older is retention's concern."""


def tier_status(plan: Plan, dataset: Dataset, place: Place, now: datetime) -> TierStatus:
    """How a dataset stands in one tier at this moment."""
    try:
        return standing(plan, dataset, place, place.find(), now)
    except BackupError as error:
        return unreachable(dataset, place, error)


def unreachable(dataset: Dataset, place: Place, error: BackupError) -> TierStatus:
    """What can be said of a tier that could not be asked."""
    return TierStatus(
        place.dataset,
        place.tier,
        place.store,
        rpo_s=_rpo_s(dataset, place),
        error=error.message,
    )


def standing(
    plan: Plan, dataset: Dataset, place: Place, repository: Repository | None, now: datetime
) -> TierStatus:
    """How a dataset stands in one tier, by its repository; None where there is none yet."""
    rpo_s = _rpo_s(dataset, place)
    snapshots = repository.snapshots() if repository else []
    lost = "; ".join(repository.log.lost.values()) if repository else ""
    good = [one for one in snapshots if is_good(one)]
    newest = max(good, key=lambda one: (one.captured_at, one.sequence), default=None)
    age_s = (now - (newest.captured_at if newest else _start(plan))).total_seconds()
    best = best_by_day(good)
    rules = dataset.tiers[place.tier]
    oldest = local_day(now, plan.zone) - timedelta(days=STATUS_DAYS)
    missed = missed_days(plan, dataset, rules, {*best, *_expired(repository)}, now)
    return TierStatus(
        dataset=place.dataset,
        tier=place.tier,
        store=place.store,
        snapshots=len(snapshots),
        stored_bytes=sum(one.stored_bytes for one in snapshots),
        newest=newest,
        age_s=age_s,
        rpo_s=rpo_s,
        fresh=not lost and (rpo_s is None or age_s <= rpo_s),
        missing_days=[day for day in missed if day >= oldest],
        late_days=sorted(
            day for day, one in best.items() if one.timing == "late" and day >= oldest
        ),
        suspicious=_suspicious(repository),
        error=f"damaged: {lost}" if lost else None,
    )


def _suspicious(repository: Repository | None) -> list[str]:
    waiting = repository.state.suspicions.open() if repository else []
    return [f"{one.id[:12]} of {one.day}: {'; '.join(one.says)}" for one in waiting]


def _rpo_s(dataset: Dataset, place: Place) -> float | None:
    rpo = dataset.rpo.get(place.tier)
    return rpo.total_seconds() if rpo else None


def _start(plan: Plan) -> datetime:
    """When the plan's first day begins: a plan that has just started is not late yet."""
    return datetime.combine(plan.start, time(), plan.zone)


def _expired(repository: Repository | None) -> set[date]:
    return repository.state.days_expired() if repository else set()


def missed_days(
    plan: Plan, dataset: Dataset, rules: Tier, had: Set[date], now: datetime
) -> list[date]:
    """Cadence days of a tier that are over, whose run was due, and that it does not have."""
    due = last_due_day(rules, plan.start, now, plan.zone, dataset.holds)
    if due is None:
        return []
    return [
        day
        for day in cadence_days(rules, plan.start, due)
        if day not in had and day_closes_at(day, plan.zone) <= now
    ]

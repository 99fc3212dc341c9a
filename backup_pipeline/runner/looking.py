"""One look at how each repository stands: what a posture is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

from backup_pipeline.engine.errors import BackupError, StoreUnavailable
from backup_pipeline.plan.cadence import (
    cadence_days,
    day_closes_at,
    local_day,
    next_run_time,
    run_time,
)
from backup_pipeline.plan.resolve import RPO_SLACK
from backup_pipeline.posture.copies import Origin, judge_copies, whereabouts
from backup_pipeline.posture.model import DatasetPosture
from backup_pipeline.posture.tier import LockFacts, Point, TierPosture
from backup_pipeline.posture.witness import SET_BACK, Claim, Holding, is_forgotten, testimony
from backup_pipeline.runner.evidence import proofs
from backup_pipeline.runner.standing import standing, unreachable

if TYPE_CHECKING:
    from backup_pipeline.engine.format.record import Snapshot
    from backup_pipeline.engine.repository import Repository
    from backup_pipeline.plan import Dataset, Plan, Tier
    from backup_pipeline.runner.places import Place

__all__ = ["Look", "StoreFacts", "by_dataset", "holding_of"]


class StoreFacts:
    """What is known of a store before its repositories are opened."""

    def __init__(
        self,
        url: str,
        settings: Mapping[str, str],
        *,
        lock: tuple[str, int] | None = None,
        error: BackupError | None = None,
    ) -> None:
        self.url, self.settings, self.lock, self.error = url, settings, lock, error


class Look:
    """One look at all repositories, at one moment."""

    def __init__(self, plan: Plan, now: datetime, days: int) -> None:
        self._plan, self._now, self._days = plan, now, days
        self._holdings: dict[tuple[str, str], Holding] = {}
        self._claims: list[Claim] = []

    def testified(self, tiers: Sequence[TierPosture], more: Sequence[Claim]) -> list[TierPosture]:
        """The same tiers, flagged where others know more of them than they do themselves.

        Args:
            tiers: All that were looked at.
            more: What others than the tiers say.
        """
        found: dict[tuple[str, str], list[Claim]] = {}
        for claim in (*self._claims, *more):
            holding = self._holdings.get((claim.dataset, claim.tier))
            if holding is not None and is_forgotten(claim, holding):
                found.setdefault((claim.dataset, claim.tier), []).append(claim)
        return [
            replace(tier, flags=[*tier.flags, SET_BACK + testimony(claims)])
            if (claims := found.get((tier.dataset, tier.tier)))
            else tier
            for tier in tiers
        ]

    def tier(self, place: Place, store: StoreFacts) -> TierPosture:
        dataset = self._plan.dataset(place.dataset)
        repository: Repository | None = None
        error = store.error
        if error is None:
            try:
                repository = place.find()
            except BackupError as found:
                error = found
                if isinstance(found, StoreUnavailable):
                    store.error = found  # the next ones need not wait for it again
        now = self._now
        if error is None:
            status = standing(self._plan, dataset, place, repository, now)
        else:
            status = unreachable(dataset, place, error)
        rules = dataset.tiers[place.tier]
        spec = self._plan.stores[rules.store]
        where = whereabouts(store.url, store.settings)
        known = _all_snapshots(repository)
        recent = [one for one in known if one.captured_at >= now - timedelta(days=self._days)]
        due = self._due(dataset, rules) if error is None else []
        missing = [day for day in status.missing_days if day in due]
        newest_attempt = max(known, key=lambda one: one.captured_at, default=None)
        newest = status.newest
        verified, drilled = proofs(repository)
        if repository is not None:
            self._holdings[place.dataset, place.tier] = holding_of(repository)
            self._claims += _claims(dataset, place.tier, known)
        return TierPosture(
            dataset=place.dataset,
            tier=place.tier,
            store=place.store,
            media=spec.media or where.media,
            site=spec.site or where.site,
            snapshots=status.snapshots,
            stored_bytes=status.stored_bytes,
            newest=newest.captured_at if newest else None,
            newest_id=newest.id if newest else None,
            newest_day=newest.day if newest else None,
            newest_bytes=newest.bytes if newest else 0,
            incomplete=_lacks(newest_attempt),
            age_s=status.age_s,
            rpo_s=status.rpo_s,
            fresh=status.fresh,
            next_run=next_run_time(rules, self._plan.start, now, self._plan.zone, dataset.holds),
            due=due,
            missing_days=missing,
            late_days=[day for day in status.late_days if not due or day >= due[0]],
            good_entries=sum(one.good_entries for one in recent),
            entries=sum(one.entries for one in recent),
            verified=verified,
            drilled=drilled,
            rto_s=dataset.rto.total_seconds() if dataset.rto else None,
            lock=self._lock(dataset, place.tier, store, repository),
            trend=[_point(one) for one in sorted(recent, key=lambda one: one.captured_at)],
            flags=[f"suspicious: {text}" for text in status.suspicious],
            error=status.error,
            reachable=error is None,
        )

    def _due(self, dataset: Dataset, rules: Tier) -> list[date]:
        """Days of the window whose snapshot should be there: the day is closed, its run was due,
        and had the time that a run may take."""
        zone, slack = self._plan.zone, RPO_SLACK[rules.every]
        today = local_day(self._now, zone)
        first = max(self._plan.start, today - timedelta(days=self._days))

        def expected(day: date) -> datetime:
            run = run_time(rules, day, zone, dataset.holds)
            return max(day_closes_at(day, zone), run + slack)

        days = cadence_days(rules, first, today, zone)
        return [day for day in days if expected(day) <= self._now]

    def _lock(
        self, dataset: Dataset, tier: str, store: StoreFacts, repository: Repository | None
    ) -> LockFacts:
        """The store's own lock, counted from the oldest thing without which nothing opens."""
        asked = dataset.tiers[tier].lock
        planned = f"{asked.mode}, {asked.days} days" if asked else None
        if store.lock is None or repository is None or not repository.state.created_at:
            return LockFacts(planned=planned)
        mode, days = store.lock
        created = datetime.fromisoformat(repository.state.created_at)
        return LockFacts(mode, days, created + timedelta(days=days), planned)


def _all_snapshots(repository: Repository | None) -> list[Snapshot]:
    """Also those that expired, as far as the log still tells of them: a trend is of what was."""
    if repository is None:
        return []
    return [repository.state.snapshot(key) for key in repository.state.snapshots]


def holding_of(repository: Repository) -> Holding:
    """What a repository's log knows."""
    state = repository.state
    known = _all_snapshots(repository)
    # A log that lost its first records does not say when it began.
    began = datetime.fromisoformat(state.created_at) if state.created_at else None
    return Holding(
        created_at=began or datetime.min.replace(tzinfo=UTC),
        ids={one.id for one in known},
        days={one.day for one in state.live()},
        expired_days=state.days_expired(),
        newest=max((one.captured_at for one in known), default=None),
    )


def _claims(dataset: Dataset, tier: str, known: Sequence[Snapshot]) -> list[Claim]:
    """What a tier's copies say of the tiers that they came from."""
    return [
        Claim(
            dataset.key,
            one.origin["tier"],
            one.origin["snapshot"],
            # A whole dataset's copy may stand in for another day than its origin's.
            one.day if dataset.holds == "slice" else None,
            one.captured_at,
            f"tier {tier}",
        )
        for one in known
        if one.origin is not None
    ]


def _lacks(newest: Snapshot | None) -> int:
    if newest is None or newest.status == "complete":
        return 0
    return max(1, newest.entries - newest.good_entries)


def _point(one: Snapshot) -> Point:
    counts = (one.changes.get(name) for name in ("added", "changed", "deleted"))
    return Point(
        one.day,
        one.captured_at,
        one.bytes,
        one.stored_bytes,
        sum(count for count in counts if isinstance(count, int)),
        one.duration_s,
        min(one.good_entries, one.entries),
        one.entries,
    )


def by_dataset(plan: Plan, tiers: Sequence[TierPosture], now: datetime) -> list[DatasetPosture]:
    found: dict[str, list[TierPosture]] = {}
    for tier in tiers:
        found.setdefault(tier.dataset, []).append(tier)
    return [
        DatasetPosture(
            key,
            plan.dataset(key).policy,
            members,
            judge_copies(_origin(plan.dataset(key)), members, now),
        )
        for key, members in found.items()
    ]


def _origin(dataset: Dataset) -> Origin:
    """Where the dataset itself is, as its source's options tell."""
    source = dataset.source
    settings = {
        name: value
        for name in ("endpoint", "region")
        if isinstance(value := source.options.get(name), str)
    }
    return whereabouts(source.place, settings)

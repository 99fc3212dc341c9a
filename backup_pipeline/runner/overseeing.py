"""Asks every dataset × tier of a plan how it is protected: one opening of each repository."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

from backup_pipeline.engine.errors import (
    BackupError,
    NotFound,
    StoreUnavailable,
    UsageError,
)
from backup_pipeline.plan.cadence import (
    cadence_days,
    day_closes_at,
    local_day,
    next_run_time,
    run_time,
)
from backup_pipeline.plan.resolve import RPO_SLACK
from backup_pipeline.posture.copies import Origin, judge_copies, whereabouts
from backup_pipeline.posture.model import (
    DatasetPosture,
    LockFacts,
    Point,
    Posture,
    TierPosture,
)
from backup_pipeline.runner.evidence import proofs
from backup_pipeline.runner.setstanding import SetStanding
from backup_pipeline.runner.standing import STATUS_DAYS, standing, unreachable

if TYPE_CHECKING:
    from backup_pipeline.engine.format.record import Snapshot
    from backup_pipeline.engine.repository import Repository
    from backup_pipeline.plan import Dataset, Plan, Tier
    from backup_pipeline.runner.places import Place

__all__ = ["WINDOW_DAYS", "Overseer"]

WINDOW_DAYS = 30
"""How far back a posture looks, unless it is told otherwise."""

ASKED_AT_ONCE = 8
"""Repositories that are opened at the same time: opening waits for the store far more than it
computes."""


class Overseer(SetStanding):
    """All that ``SetStanding`` can do, and how a plan's datasets are protected."""

    def posture(
        self, dataset: str | None = None, tier: str | None = None, *, days: int = WINDOW_DAYS
    ) -> Posture:
        """How each dataset stands in each tier, and by what evidence; nothing is read of content.

        A store that is out of reach is asked once, and its tiers say so.

        Args:
            dataset: One dataset only.
            tier: One tier only.
            days: Length of the window that missing days, I and trends are about.

        Raises:
            UsageError: The dataset or tier is not known, or the window is none.
        """
        if not 1 <= days <= STATUS_DAYS:
            raise UsageError(
                f"a window of {days} days cannot be shown",
                f"take 1 to {STATUS_DAYS} days; what is older is retention's concern",
            )
        self.notices.clear()
        began_s, now = time.monotonic(), self._clock().astimezone(UTC)
        places = self.all_places(dataset, tier)
        stores = {
            name: self._ask_store(name)
            for name in dict.fromkeys(self._store_of(place) for place in places)
        }
        look = _Look(self.plan, now, days)

        def ask(place: Place) -> TierPosture:
            return look.tier(place, stores[self._store_of(place)])

        with ThreadPoolExecutor(ASKED_AT_ONCE, "posture") as pool:
            tiers = list(pool.map(ask, places))
        return Posture(
            at=now,
            days=days,
            timezone=self.plan.timezone,
            datasets=_by_dataset(self.plan, tiers, now),
            plan=self.plan.file,
            deployment=self.plan.deployment,
            encryption=self.plan.encryption,
            sets=() if dataset else self.set_status(tier=tier),
            took_s=time.monotonic() - began_s,
        )

    def _store_of(self, place: Place) -> str:
        return self.plan.dataset(place.dataset).tier(place.tier).store

    def _ask_store(self, name: str) -> _StoreFacts:
        """Open a store once, before its repositories are asked side by side."""
        url, settings = self.plan.stores[name].display_url, {}
        try:
            settings = self.plan.stores[name].options(self._environ)
            url = settings["url"]
            self.unlock(name)
            return _StoreFacts(url, settings, lock=self._stores.store(name).default_lock())
        except NotFound:
            return _StoreFacts(url, settings)
        except BackupError as error:
            # What is wrong with the store as such, a key that does not open it, say, is wrong
            # for all of its repositories.
            return _StoreFacts(url, settings, error=error)


class _StoreFacts:
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


class _Look:
    """One look at all repositories, at one moment."""

    def __init__(self, plan: Plan, now: datetime, days: int) -> None:
        self._plan, self._now, self._days = plan, now, days

    def tier(self, place: Place, store: _StoreFacts) -> TierPosture:
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
        self, dataset: Dataset, tier: str, store: _StoreFacts, repository: Repository | None
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


def _by_dataset(plan: Plan, tiers: Sequence[TierPosture], now: datetime) -> list[DatasetPosture]:
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

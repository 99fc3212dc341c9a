"""What a plan's backups cost, by what is stored and by how its datasets were seen to change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from backup_pipeline.cost.formulas import Cost, backup_cost, restore_cost
from backup_pipeline.cost.prices import (
    DAYS_PER_MONTH,
    StoragePrices,
    Usage,
    monthly_cost,
    prices_of,
)
from backup_pipeline.engine.errors import NotFound
from backup_pipeline.runner.days import is_good
from backup_pipeline.runner.planned import PlanReader

if TYPE_CHECKING:
    from backup_pipeline.cost.rebuild import Verdict
    from backup_pipeline.cost.simulate import Measured, Running
    from backup_pipeline.engine.format.record import Snapshot
    from backup_pipeline.plan import Dataset
    from backup_pipeline.plan.places import StoreSpec

__all__ = ["Accountant", "Bill", "measure", "store_prices"]

MOST_SHARE = 0.999  # of a dataset that counts as changed: a day may rewrite it, and no more
LEAST_INTERVAL_DAYS = 1 / 24
HISTORY = timedelta(days=90)


@dataclass(frozen=True, slots=True)
class Bill:
    """What one dataset costs in one tier.

    Attributes:
        dataset: Its key.
        tier: The tier.
        prices: Which prices were taken.
        stored_bytes: What its repository holds now.
        objects: In how many objects.
        month: C of a month as things are.
        year: C of a month a year from now, if it grows as it did.
    """

    dataset: str
    tier: str
    prices: StoragePrices
    stored_bytes: int
    objects: int
    month: Cost
    year: Cost

    def to_json(self) -> dict[str, Any]:
        """Fields by name."""
        return {
            "dataset": self.dataset,
            "tier": self.tier,
            "prices": self.prices.name,
            "currency": self.prices.currency,
            "stored_bytes": self.stored_bytes,
            "objects": self.objects,
            "month": {**asdict(self.month), "total": self.month.total},
            "in_a_year": {**asdict(self.year), "total": self.year.total},
        }


def store_prices(store: StoreSpec) -> StoragePrices:
    """The prices that a plan gives a store; else those of its kind: S3 Standard, or a disk."""
    if store.prices is not None:
        return store.prices
    return prices_of("s3-standard" if store.display_url.startswith("s3://") else "local-disk")


def measure(snapshots: Sequence[Snapshot], daily_change: float | None = None) -> Measured:
    """How a dataset is, by the good snapshots of one tier.

    What is new from one snapshot to the next is what an incremental or a differential stored, by
    how well the last full was compressed.

    Args:
        snapshots: All that there are.
        daily_change: The share that is new each day, where it is known already.

    Raises:
        NotFound: There is no good full, or none that builds on one that is still there.
    """
    from backup_pipeline.cost.simulate import Measured

    good = sorted((one for one in snapshots if is_good(one)), key=lambda one: one.captured_at)
    fulls = [one for one in good if one.kind == "full" and one.bytes and one.stored_bytes]
    if not fulls:
        raise NotFound(
            "a good full is needed to measure by", "back up first, or say --size and --change"
        )
    full, newest = fulls[-1], good[-1]
    recent = [one for one in good if one.captured_at >= newest.captured_at - HISTORY]
    compression = full.stored_bytes / full.bytes
    if daily_change is None:
        daily_change = _daily_change(recent, compression)
    took = (full.finished_at - full.started_at).total_seconds()
    span = (newest.captured_at - recent[0].captured_at) / timedelta(days=1)
    grown = newest.bytes - recent[0].bytes
    return Measured(
        data_bytes=newest.bytes,
        daily_change=daily_change,
        compression=compression,
        growth_bytes=grown / span if span >= 1 else 0.0,
        backup_bytes_per_s=full.read_bytes / took if took > 0 and full.read_bytes else None,
    )


def _daily_change(snapshots: Sequence[Snapshot], compression: float) -> float:
    """The share that is new each day, so that it comes to what was stored since the parents."""
    known = {one.id: one for one in snapshots}
    unchanged, days = 1.0, 0.0
    for one in snapshots:
        before = known.get((one.base if one.kind == "differential" else one.parent) or "")
        if one.kind != "full" and before is not None and one.bytes:
            share = one.stored_bytes / compression / one.bytes
            unchanged *= 1 - min(MOST_SHARE, share)
            interval = (one.captured_at - before.captured_at) / timedelta(days=1)
            days += max(interval, LEAST_INTERVAL_DAYS)
    if not days:
        raise NotFound(
            "a snapshot and the one it builds on are needed to tell how much changes",
            "back up once more, or say --change",
        )
    return 1 - unchanged ** (1 / days)


class Accountant(PlanReader):
    """All that ``PlanReader`` can do, and what it costs."""

    def measured(self, dataset: str, daily_change: float | None = None) -> Measured:
        """How a dataset is, by its first tier's history; see ``measure``."""
        first = self.plan.dataset(dataset).first_tier
        return measure(self.snapshots(dataset, first.name), daily_change)

    def bills(self, dataset: str | None, tier: str | None, running: Running) -> list[Bill]:
        """What each dataset costs in each tier, by what its store holds now.

        A tier out of reach, or one that holds nothing, is left out; the former is a notice.
        """
        found: list[Bill] = []
        for place in self.all_places(dataset, tier):
            repositories = self.repositories(place.dataset, place.tier)
            for repository in repositories:
                spec = self.plan.dataset(place.dataset)
                prices = store_prices(self.plan.stores[spec.tier(place.tier).store])
                sizes = [one.size_bytes for one in repository.store.list(repository.prefix)]
                found.append(
                    _bill(place.dataset, place.tier, prices, sizes, repository.snapshots(), running)
                )
        return found

    def rebuilds(
        self,
        bills: Sequence[Bill],
        durations_s: Mapping[str, Sequence[float]],
        price_per_hour: float,
        running: Running,
    ) -> list[Verdict]:
        """For each dataset whose computing is known: had it better be rebuilt than backed up.

        Args:
            bills: What ``bills`` said.
            durations_s: By dataset, how long the runs took that computed it.
            price_per_hour: Of the machines that compute.
            running: As for ``bills``.
        """
        found: list[Verdict] = []
        for key in dict.fromkeys(one.dataset for one in bills):
            spec = self.plan.dataset(key)
            mine = [one for one in bills if one.dataset == key]
            good = [one for one in self.snapshots(key, mine[0].tier) if is_good(one)]
            good.sort(key=lambda one: one.captured_at)
            verdict = _rebuild(spec, mine, durations_s.get(key, ()), price_per_hour, running, good)
            found += [verdict] if verdict is not None else []
        return found


def _rebuild(
    spec: Dataset,
    bills: Sequence[Bill],
    durations_s: Sequence[float],
    price_per_hour: float,
    running: Running,
    good: Sequence[Snapshot],
) -> Verdict | None:
    """One dataset's verdict: all its tiers' backups against computing it again."""
    from backup_pipeline.cost.rebuild import rebuild_or_restore, recomputed

    history = recomputed(durations_s)
    if history is None:
        return None
    speed = _reading_speed(good)
    first = next((one for one in bills if one.tier == spec.first_tier.name), bills[0])
    yearly = running.restores_per_year
    return rebuild_or_restore(
        spec.key,
        history,
        price_per_hour=price_per_hour,
        keeping_month=sum(one.month.store + one.month.backup for one in bills),
        restoring_once=12 * first.month.restore / yearly if yearly else 0.0,
        restore_s=good[-1].bytes / speed if good and speed else None,
        losses_per_year=yearly,
        rto_s=spec.rto.total_seconds() if spec.rto is not None else None,
    )


def _reading_speed(good: Sequence[Snapshot]) -> float | None:
    """Bytes a second of the last full that read something: about what a restore reaches too."""
    for one in reversed(good):
        took_s = (one.finished_at - one.started_at).total_seconds()
        if one.kind == "full" and one.read_bytes and took_s > 0:
            return one.read_bytes / took_s
    return None


def _bill(
    dataset: str,
    tier: str,
    prices: StoragePrices,
    sizes: Sequence[int],
    snapshots: Sequence[Snapshot],
    running: Running,
) -> Bill:
    good = sorted((one for one in snapshots if is_good(one)), key=lambda one: one.captured_at)
    newest = good[-1] if good else None
    month = timedelta(days=DAYS_PER_MONTH)
    recent = [one for one in good if newest and one.captured_at > newest.captured_at - month]
    share = 1.0
    growth = 0.0
    if newest is not None and newest.bytes:
        span = (newest.captured_at - good[0].captured_at) / timedelta(days=1)
        growth = (newest.bytes - good[0].bytes) / span * 365 / newest.bytes if span >= 1 else 0.0
        share = min(1.0, sum(sizes) / newest.bytes)
    restored = (newest.bytes * share if newest else 0) * running.restores_per_year / 12
    took_s = sum((one.finished_at - one.started_at).total_seconds() for one in recent)
    usage = Usage(
        stored_bytes=sum(sizes),
        objects=len(sizes),
        writes=len(recent) * 8 + sum(one.stored_bytes for one in recent) / 2**24,
        reads=len(recent) * 12,
        restored_bytes=restored,
        restore_reads=restored / 2**23,
        egress=running.egress,
    )
    speed = _reading_speed(good)
    cost = monthly_cost(prices, usage) + Cost(
        backup=backup_cost(1, took_s, running.backup_per_hour),
        restore=restore_cost(restored / speed if speed else 0.0, running.restore_per_hour),
    )
    return Bill(
        dataset, tier, prices, sum(sizes), len(sizes), cost, cost.times(max(0.0, 1 + growth))
    )

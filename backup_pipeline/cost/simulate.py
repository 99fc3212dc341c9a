"""What a policy stores, writes and deletes over a year, by how a dataset was seen to change.

A pure simulation, a day at a time: runs at the policy's cadence, chains that end, retention by the
same decision that ``expire`` uses, and deletion of what no snapshot needs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from backup_pipeline.cost.formulas import Cost, backup_cost, restore_cost, window_needed
from backup_pipeline.cost.prices import DAYS_PER_MONTH, StoragePrices, Usage, monthly_cost
from backup_pipeline.plan.model import Every, Keep, Kind
from backup_pipeline.plan.retention import decide

__all__ = ["CADENCE", "Measured", "Outcome", "Policy", "Running", "simulate"]

CADENCE: dict[Every, timedelta] = {
    "hour": timedelta(hours=1),
    "day": timedelta(days=1),
    "week": timedelta(days=7),
    "month": timedelta(days=DAYS_PER_MONTH),
}
"""How far apart the runs of each cadence are."""

PACK_BYTES = 16 * 2**20
"""What a stored object holds at most: its number follows."""

_START = date(2024, 1, 1)
_UTC = ZoneInfo("UTC")


@dataclass(frozen=True, slots=True)
class Measured:
    """How a dataset is, by its own history.

    Attributes:
        data_bytes: D, its logical bytes now.
        daily_change: The share of its bytes that is new from one day to the next, from 0 to 1.
        compression: Stored bytes for each new one.
        growth_bytes: By how much it grows each day.
        backup_bytes_per_s: How fast a full reads it; None where it is not known.
        restore_bytes_per_s: How fast it restores; None where it is not known.
    """

    data_bytes: float
    daily_change: float
    compression: float = 1.0
    growth_bytes: float = 0.0
    backup_bytes_per_s: float | None = None
    restore_bytes_per_s: float | None = None


@dataclass(frozen=True, slots=True)
class Policy:
    """What is compared with others: one tier's rules.

    Attributes:
        every: Its cadence.
        kind: The kind of its snapshots.
        full_every: When a chain ends; None for fulls.
        keep: What retention keeps.
    """

    every: Every
    kind: Kind
    full_every: timedelta | None
    keep: Keep


@dataclass(frozen=True, slots=True)
class Running:
    """What running costs besides the store.

    Attributes:
        backup_per_hour: P_backup, the price of an hour of backing up.
        restore_per_hour: P_restore, the price of an hour of a restore, people's time included.
        restores_per_year: How often all of it is restored, drills counted by their share.
        egress: The share of what is restored that leaves the seller's network.
    """

    backup_per_hour: float = 0.0
    restore_per_hour: float = 0.0
    restores_per_year: float = 1.0
    egress: float = 1.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a policy: means over the last month, once retention has come to rest.

    Attributes:
        usage: What a month does to the store.
        snapshots: How many are kept.
        runs: How many there are in a month.
        longest_run_s: The longest run; None where no speed is known.
        window_s: What it must fit into: the time until the next run.
        recovery_point_s: How old the newest good snapshot gets.
        restore_s: How long restoring all of it takes; None where no speed is known.
    """

    usage: Usage
    snapshots: float
    runs: float
    longest_run_s: float | None
    window_s: float
    recovery_point_s: float
    restore_s: float | None

    @property
    def fits(self) -> bool:
        """Whether its runs end before the next ones begin, as far as that is known."""
        return self.longest_run_s is None or self.longest_run_s <= self.window_s

    def recovery_time_s(self, prices: StoragePrices) -> float | None:
        """How long it takes until all is back, with the wait for archived objects."""
        return None if self.restore_s is None else self.restore_s + prices.wait.total_seconds()

    def cost(self, prices: StoragePrices, running: Running) -> Cost:
        """C of a month at a store of these prices."""
        store = monthly_cost(prices, self.usage)
        took = self.runs * (self.longest_run_s or 0.0)  # an upper bound: most are shorter
        restores = running.restores_per_year / 12
        return store + Cost(
            backup=backup_cost(1, took, running.backup_per_hour),
            restore=restores * restore_cost(self.restore_s or 0.0, running.restore_per_hour),
        )


@dataclass(slots=True)
class _Run:
    """One simulated snapshot, as retention looks at it."""

    id: str
    day: date
    captured_at: datetime
    sequence: int
    base: str | None
    chain: int
    stored_bytes: float
    status: str = "complete"
    timing: str = "on-time"

    @property
    def finished_at(self) -> datetime:
        return self.captured_at


@dataclass(slots=True)
class _Totals:
    """What happened in the month that counts."""

    days: int = 0
    stored: float = 0.0
    snapshots: float = 0.0
    runs: int = 0
    written: float = 0.0
    deleted: float = 0.0
    deleted_byte_days: float = 0.0
    largest_read: float = 0.0
    members: list[int] = field(default_factory=list[int])


def simulate(
    measured: Measured, policy: Policy, running: Running = Running(), *, days: int = 730
) -> Outcome:
    """Live through a policy.

    Args:
        measured: How the dataset is.
        policy: The rules.
        running: How often it is restored, and over which network.
        days: How long; means are taken over the last month.
    """
    live: list[_Run] = []
    held: list[_Run] = []  # runs whose packs are still stored
    totals = _Totals()
    began: float = -math.inf  # when the chain began, in days
    before: float = -math.inf
    step = CADENCE[policy.every] / timedelta(days=1)
    chain, sequence, base = 0, 0, None
    at = 0.0
    last_month = days - round(DAYS_PER_MONTH)
    for day in range(days):
        counts = day >= last_month
        while at < day + 1:
            size = max(0.0, measured.data_bytes + measured.growth_bytes * (at - days))
            full_after = policy.full_every / timedelta(days=1) if policy.full_every else 0.0
            full = policy.kind == "full" or at - began >= full_after - 1e-9
            if full:
                began, chain = at, chain + 1
            since = at - (began if policy.kind == "differential" else before)
            share = 1.0 if full else _changed(measured, size, since)
            new = _Run(
                id=str(sequence),
                day=_START + timedelta(days=day),
                captured_at=datetime.combine(_START, time(), UTC) + timedelta(days=at),
                sequence=sequence,
                base=None if full else base,
                chain=chain,
                stored_bytes=size * share * measured.compression,
            )
            base = new.id if full else base
            live.append(new)
            held.append(new)
            if counts:
                totals.runs += 1
                totals.written += new.stored_bytes
                totals.largest_read = max(totals.largest_read, size)
            before, at, sequence = at, at + step, sequence + 1
        live = _kept(live, policy.keep, day)
        needed = _needed(live, held, policy.kind)
        if counts:
            totals.days += 1
            totals.snapshots += len(live)
            totals.stored += sum(one.stored_bytes for one in needed)
            going = {one.sequence for one in held} - {one.sequence for one in needed}
            for one in held:
                if one.sequence in going:
                    age = (_START + timedelta(days=day) - one.day).days
                    totals.deleted += one.stored_bytes
                    totals.deleted_byte_days += one.stored_bytes * age
        held = needed
    return _outcome(measured, policy, running, totals)


def _changed(measured: Measured, size: float, days: float) -> float:
    """The share of bytes that is new after some days: changes fall on changed bytes, too."""
    if not size or days <= 0:
        return 0.0
    grown = min(1.0, max(0.0, measured.growth_bytes * days / size))
    return min(1.0, grown + 1 - (1 - min(1.0, measured.daily_change)) ** days)


def _kept(live: Sequence[_Run], keep: Keep, day: int) -> list[_Run]:
    now = datetime.combine(_START, time(), UTC) + timedelta(days=day + 1)
    verdicts = decide(live, keep, now=now, zone=_UTC)
    return [one.snapshot for one in verdicts if one.kept]


def _needed(live: Sequence[_Run], held: Sequence[_Run], kind: Kind) -> list[_Run]:
    """Runs whose packs some live snapshot may need.

    A full's and a differential's are its own; an incremental's may be any of its chain's before.
    """
    if kind != "incremental":
        alive = {one.sequence for one in live}
        return [one for one in held if one.sequence in alive]
    upto: dict[int, int] = {}
    for one in live:
        upto[one.chain] = max(upto.get(one.chain, -1), one.sequence)
    return [one for one in held if one.sequence <= upto.get(one.chain, -1)]


def _outcome(measured: Measured, policy: Policy, running: Running, totals: _Totals) -> Outcome:
    days = max(1, totals.days)
    months = days / DAYS_PER_MONTH
    stored = totals.stored / days
    age = totals.deleted_byte_days / totals.deleted if totals.deleted else 0.0
    restored = measured.data_bytes * measured.compression * running.restores_per_year / 12
    # Each run writes its record twice, a run record twice, a segment, and its packs.
    writes = (totals.runs * 8 + totals.written / PACK_BYTES) / months
    usage = Usage(
        stored_bytes=stored,
        objects=stored / PACK_BYTES + totals.snapshots / days * 5,
        writes=writes,
        reads=totals.runs * 12 / months,
        deleted_bytes=totals.deleted / months,
        deleted_age=timedelta(days=age),
        restored_bytes=restored,
        restore_reads=restored / (8 * 2**20),
        egress=running.egress,
    )
    window = CADENCE[policy.every].total_seconds()
    read, back = measured.backup_bytes_per_s, measured.restore_bytes_per_s
    longest = window_needed(totals.largest_read, read) if read else None
    return Outcome(
        usage=usage,
        snapshots=totals.snapshots / days,
        runs=totals.runs / months,
        longest_run_s=longest,
        window_s=window,
        recovery_point_s=window + (longest or 0.0),
        restore_s=window_needed(measured.data_bytes, back) if back else None,
    )

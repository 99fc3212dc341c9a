"""Which snapshots retention keeps, and why: a pure decision, in doubt for keeping.

Grandfather, father, son: each rule of ``keep`` counts the newest periods that have a good snapshot
and keeps one of each, the best of the period's newest day. Periods without a snapshot do not count,
so a month in which nothing ran costs no history.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Generic, Protocol, TypeVar
from zoneinfo import ZoneInfo

from backup_pipeline.plan.cadence import cadence_days, local_day, window
from backup_pipeline.plan.model import Dataset, Keep, Tier
from backup_pipeline.plan.values import show_duration

__all__ = ["Expected", "Protection", "Retained", "Verdict", "awaited_days", "decide", "worth"]

_TIMING_RANK = {"late": 0, "on-time": 1, "exact": 2}


class Retained(Protocol):
    """What the decision needs to know of a snapshot."""

    @property
    def id(self) -> str: ...
    @property
    def day(self) -> date: ...
    @property
    def status(self) -> str: ...
    @property
    def timing(self) -> str: ...
    @property
    def base(self) -> str | None: ...
    @property
    def captured_at(self) -> datetime: ...
    @property
    def finished_at(self) -> datetime: ...
    @property
    def sequence(self) -> int: ...


S = TypeVar("S", bound=Retained)


@dataclass(frozen=True, slots=True)
class Verdict(Generic[S]):
    """What becomes of one snapshot.

    Attributes:
        snapshot: Which.
        kept: Whether it stays.
        reasons: Why it stays, all of them; or the one why it goes.
    """

    snapshot: S
    kept: bool
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Protection:
    """What keeps snapshots beside the rules.

    Attributes:
        legal_hold: Why the whole dataset is held; None where it is not.
        pinned: Snapshot id to the words of its pin.
        lock: How long after its end a snapshot's objects are locked in the store.
        awaited: Days whose best snapshot later tiers have still to copy, with these tiers.
        cuts: Of a member of a consistent set: ids of the snapshots of each day's best whole cut.
            They stand for their periods before all others, as their siblings do in the other
            members' repositories, so that a cut is kept, or goes, as one.
        suspicious: Snapshots that nobody cleared: when their source was read, and their day. What
            is no younger than the oldest of them may be the last that is sound.
    """

    legal_hold: str | None = None
    pinned: Mapping[str, str] = field(default_factory=dict[str, str])
    lock: timedelta | None = None
    awaited: Mapping[date, Sequence[str]] = field(default_factory=dict[date, Sequence[str]])
    cuts: frozenset[str] = frozenset()
    suspicious: Sequence[tuple[datetime, date]] = ()


def decide(
    snapshots: Sequence[S],
    keep: Keep,
    *,
    now: datetime,
    zone: ZoneInfo,
    protection: Protection | None = None,
    slices: bool = False,
    keep_slices: timedelta | None = None,
) -> list[Verdict[S]]:
    """Says of every snapshot of a repository whether it stays, and why.

    Args:
        snapshots: Those that are not expired.
        keep: How many of each generation.
        now: The present (aware).
        zone: Whose hours count.
        protection: Pins, locks, holds, and days that later tiers wait for.
        slices: Whether each day's snapshots are the only copy of that day: ``keep`` then counts
            the versions of each slice by when they were read, and a slice goes as a whole, by
            ``keep_slices`` alone.
        keep_slices: How long after its day ended a slice stays; None is for ever.

    Returns:
        One verdict for each, in order of day, then of the time it was read.
    """
    protection = protection or Protection()
    reasons: dict[str, list[str]] = {one.id: [] for one in snapshots}
    overdue: dict[date, str] = {}
    days = _by_day(snapshots)
    if slices:
        for day, versions in days.items():
            gone = _slice_is_over(day, keep_slices, now, zone)
            if gone is not None:
                overdue[day] = gone
            else:
                _note_rules(versions, keep, reasons, zone, by_day=False, cuts=protection.cuts)
                _note_last_good(versions, reasons, "the newest good version of its slice")
    else:
        _note_rules(snapshots, keep, reasons, zone, by_day=True, cuts=protection.cuts)
        _note_last_good(snapshots, reasons, "the newest good one")
    cuts = protection.cuts
    best = {
        day: max(members, key=lambda one: (one.id in cuts, _rank(one)))
        for day, members in days.items()
    }
    _note_protection(snapshots, best, protection, reasons, now)
    _note_bases(snapshots, reasons)
    return [
        Verdict(
            one,
            bool(reasons[one.id]),
            tuple(reasons[one.id]) or (overdue.get(one.day) or _beyond(one, best[one.day], keep),),
        )
        for one in sorted(snapshots, key=lambda one: (one.day, one.captured_at, one.sequence))
    ]


def _by_day(snapshots: Iterable[S]) -> dict[date, list[S]]:
    days: dict[date, list[S]] = {}
    for one in snapshots:
        days.setdefault(one.day, []).append(one)
    return days


def _rank(one: Retained) -> tuple[bool, int, datetime, int]:
    """The day's snapshot is the greatest: complete, then exact, on time, late, then newest."""
    timing = _TIMING_RANK.get(one.timing, 0)
    return one.status == "complete", timing, one.captured_at, one.sequence


def _note_rules(
    snapshots: Sequence[Retained],
    keep: Keep,
    reasons: Mapping[str, list[str]],
    zone: ZoneInfo,
    *,
    by_day: bool,
    cuts: frozenset[str] = frozenset(),
) -> None:
    def day(one: Retained) -> date:
        return one.day if by_day else local_day(one.captured_at, zone)

    def hour(one: Retained) -> Hashable:
        local = one.captured_at.astimezone(zone)
        return local.date(), local.hour, local.utcoffset()

    periods: tuple[tuple[str, int, Callable[[Retained], Hashable]], ...] = (
        ("last", keep.last, lambda one: one.id),
        ("hourly", keep.hourly, hour),
        ("daily", keep.daily, day),
        ("weekly", keep.weekly, lambda one: day(one).isocalendar()[:2]),
        ("monthly", keep.monthly, lambda one: (day(one).year, day(one).month)),
        ("yearly", keep.yearly, lambda one: day(one).year),
    )
    in_days = {"daily", "weekly", "monthly", "yearly"}
    for name, count, period in periods:

        def order(one: Retained, by: bool = name in in_days) -> tuple[date, datetime, int]:
            newest = day(one) if by else date.min
            return newest, one.captured_at, one.sequence

        groups: dict[Hashable, list[Retained]] = {}
        for one in sorted(snapshots, key=order, reverse=True):
            groups.setdefault(period(one), []).append(one)
        found = 0
        for members in groups.values():
            if found == count:
                break
            of_cuts = [one for one in members if one.id in cuts] if name in in_days else []
            chosen = _of_period(of_cuts or members, day if name in in_days else None)
            if chosen.status == "complete":
                found += 1
                reasons[chosen.id].append(f"{name} {found} of {count}")
            else:
                reasons[chosen.id].append(f"{name}, though incomplete: its period has no good one")


def _of_period(members: Sequence[Retained], day: Callable[[Retained], date] | None) -> Retained:
    """What stands for a period: of its newest day that has a good snapshot, the best."""
    good = [one for one in members if one.status == "complete"] or list(members)
    if day is None:
        return good[0]
    newest = max(day(one) for one in good)
    return max((one for one in good if day(one) == newest), key=_rank)


def _note_last_good(
    snapshots: Sequence[Retained], reasons: Mapping[str, list[str]], words: str
) -> None:
    """Never the last good one; and while something newer is incomplete, that may be all there is
    of what came since."""
    good = [one for one in snapshots if one.status == "complete"]
    last = max(good, key=lambda one: (one.captured_at, one.sequence), default=None)
    if last is not None:
        reasons[last.id].append(words)
    for one in snapshots:
        if one.status != "complete" and (last is None or one.captured_at > last.captured_at):
            reasons[one.id].append("incomplete, and newer than any good one")


def _note_protection(
    snapshots: Sequence[Retained],
    best: Mapping[date, Retained],
    protection: Protection,
    reasons: Mapping[str, list[str]],
    now: datetime,
) -> None:
    oldest = min(protection.suspicious, default=None)
    for one in snapshots:
        said = reasons[one.id]
        if oldest is not None and one.captured_at <= oldest[0]:
            said.append(f"not younger than the suspicious snapshot of {oldest[1]}, not cleared yet")
        if protection.legal_hold is not None:
            said.append(f"legal hold: {protection.legal_hold}")
        if one.id in protection.pinned:
            said.append(f"pinned: {protection.pinned[one.id]}")
        if protection.lock is not None and one.finished_at + protection.lock > now:
            said.append(f"locked until {one.finished_at + protection.lock:%Y-%m-%d}")
        waiting = protection.awaited.get(one.day)
        if waiting and best[one.day] is one:
            said.append(f"tier {', '.join(waiting)} has still to copy {one.day}")


def _note_bases(snapshots: Sequence[Retained], reasons: Mapping[str, list[str]]) -> None:
    """A full stays while a snapshot of its chain does: what it stores is needed all the same, and
    the next run builds on it."""
    dependents: dict[str, int] = {}
    for one in snapshots:
        if one.base is not None and reasons[one.id]:
            dependents[one.base] = dependents.get(one.base, 0) + 1
    for identity, count in dependents.items():
        if identity in reasons:
            noun = "kept snapshot builds" if count == 1 else "kept snapshots build"
            reasons[identity].append(f"{count} {noun} on it")


def _slice_is_over(
    day: date, keep_slices: timedelta | None, now: datetime, zone: ZoneInfo
) -> str | None:
    if keep_slices is None or window(day, zone)[1] + keep_slices > now:
        return None
    return f"its slice is older than keep_slices, {show_duration(keep_slices)}"


def _beyond(one: Retained, best: Retained, keep: Keep) -> str:
    if best is not one:
        return f"{one.day} is served by {best.id[:12]}"
    rules = ((name, getattr(keep, name)) for name in Keep.__slots__)
    return "beyond keep: " + ", ".join(f"{name} {count}" for name, count in rules if count)


# -- days that are not there


@dataclass(frozen=True, slots=True)
class Expected:
    """A good snapshot that a day would have, as far as retention cares.

    Attributes:
        id: Made from the day; equals no snapshot's.
    """

    id: str
    day: date
    captured_at: datetime
    finished_at: datetime
    status: str = "complete"
    timing: str = "exact"
    base: str | None = None
    sequence: int = -1


def _expected(day: date) -> Expected:
    moment = datetime(day.year, day.month, day.day, 12, tzinfo=UTC)
    return Expected(f"expected {day}", day, moment, moment)


def worth(
    days: Iterable[date], snapshots: Sequence[Retained], keep: Keep, *, zone: ZoneInfo
) -> set[date]:
    """Returns those of some days without a good snapshot that retention would keep one of.

    Args:
        days: Days that lack a good snapshot.
        snapshots: What the tier has.
        keep: The tier's retention.
        zone: Whose hours count.
    """
    missing = [_expected(day) for day in days]
    reasons: dict[str, list[str]] = {one.id: [] for one in [*snapshots, *missing]}
    _note_rules([*snapshots, *missing], keep, reasons, zone, by_day=True)
    return {one.day for one in missing if reasons[one.id]}


def awaited_days(
    dataset: Dataset,
    tier: Tier,
    stored: Mapping[str, Sequence[Retained] | None],
    *,
    start: date,
    now: datetime,
    zone: ZoneInfo,
) -> dict[date, list[str]]:
    """Returns days that later tiers have still to copy from this tier, with these tiers' names.

    A later tier waits for each cadence day that it lacks and would keep. One that cannot be asked
    is taken to lack all of them.

    Args:
        dataset: The dataset.
        tier: The tier whose snapshots are looked at.
        stored: Each tier's snapshots; None where it cannot be asked.
        start: The plan's first day.
        now: The present (aware).
        zone: The plan's.
    """
    awaited: dict[date, list[str]] = {}
    own = _good_days(stored.get(tier.name) or ())
    for later in dataset.tiers.values():
        if later.name == tier.name or later.reads_source:
            continue
        there = list(stored.get(later.name) or ())
        cadence, had = cadence_days(later, start, local_day(now, zone)), _good_days(there)
        source = _good_days(stored.get(later.from_) or ())
        lacking = [day for day in cadence if day not in had]
        for day in worth(lacking, there, later.keep, zone=zone):
            wanted = _taken_for(day, own, later)
            if wanted is None:
                continue
            if later.from_ == tier.name or wanted not in source:
                names = awaited.setdefault(wanted, [])
                if later.name not in names:
                    names.append(later.name)
    return awaited


def _taken_for(day: date, own: set[date], later: Tier) -> date | None:
    """The day of this tier that a later tier would take for one of its own."""
    if day in own:
        return day
    if later.if_missed != "nearest" or not own:
        return None
    return min(own, key=lambda other: (abs((other - day).days), other))


def _good_days(snapshots: Iterable[Retained]) -> set[date]:
    return {one.day for one in snapshots if one.status == "complete"}

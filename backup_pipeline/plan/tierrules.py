"""What must hold between the tiers of one policy, or of one dataset with its override."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import time, timedelta

from backup_pipeline.plan.cadence import DAY_CLOSING_GRACE, interval
from backup_pipeline.plan.model import Tier
from backup_pipeline.plan.problems import Findings, Path, closest, one_of
from backup_pipeline.plan.schema import StoreWritten, TierWritten
from backup_pipeline.plan.values import show_duration

__all__ = ["TierGroup", "check_tiers", "store_identity"]

_FIRST_COPY_TIME = time(DAY_CLOSING_GRACE.seconds // 3600, DAY_CLOSING_GRACE.seconds // 60 % 60)


@dataclass(frozen=True, slots=True)
class TierGroup:
    """The tiers that are looked at together, and where each was written.

    Attributes:
        written: As written, overrides applied.
        tiers: The same with defaults.
        place: Where a key of a tier stands; without a key, the tier itself.
        left_out: Tiers that the dataset switches off.
        known: Names of tiers that were written, refused ones included.
        stores: The plan's usable stores.
        store_names: Names of its stores, refused ones included.
        holds_slices: Whether the dataset's first tier waits for days to close as well.
    """

    written: Sequence[TierWritten]
    tiers: Mapping[str, Tier]
    place: Callable[[str, str | None], Path]
    left_out: frozenset[str]
    known: Sequence[str]
    stores: Mapping[str, StoreWritten]
    store_names: Sequence[str]
    holds_slices: bool = False

    @property
    def first(self) -> str:
        """Name of the tier that reads the source."""
        return next(iter(self.tiers))


def check_tiers(group: TierGroup, findings: Findings) -> None:
    """Reports every rule that these tiers break."""
    for written in group.written:
        tier = group.tiers[written.name]
        _check_days(group, written, tier, findings)
        _check_time(group, written, tier, findings)
        _check_kind(group, written, tier, findings)
        _check_keep_and_lock(group, written, tier, findings)
        _check_origin(group, tier, findings)
        _check_meeting(group, tier, findings)
        _check_store(group, tier, findings)
    _check_cycles(group, findings)
    _check_sharing(group, findings)


def _check_days(group: TierGroup, written: TierWritten, tier: Tier, findings: Findings) -> None:
    every = group.place(tier.name, "every")
    weekday = group.place(tier.name, "weekday")
    day_of_month = group.place(tier.name, "day_of_month")
    if written.weekday is not None and written.day_of_month is not None:
        findings.report(
            day_of_month,
            "day_of_month together with weekday: a tier's days follow one of them",
            "keep weekday for every: week, day_of_month for every: month",
            needs=[weekday],
        )
        return
    if written.weekday is not None and tier.every != "week":
        message = f"weekday goes with every: week, not with every: {tier.every}"
        findings.report(weekday, message, "set every: week, or remove it", needs=[every])
    if written.day_of_month is not None and tier.every != "month":
        message = f"day_of_month goes with every: month, not with every: {tier.every}"
        findings.report(day_of_month, message, "set every: month, or remove it", needs=[every])


def _check_time(group: TierGroup, written: TierWritten, tier: Tier, findings: Findings) -> None:
    at, every = group.place(tier.name, "at"), group.place(tier.name, "every")
    if tier.every == "hour":
        if written.at is not None and written.at.hour:
            message = "an hourly tier runs every hour: only the minute can be set"
            findings.report(at, message, f'write at: ":{written.at.minute:02}"', needs=[every])
        if not tier.reads_source:
            message = "a copying tier takes closed days, so once a day is the most"
            needs = [group.place(tier.name, "from")]
            findings.report(every, message, "write every: day", needs=needs)
        return
    waits = group.holds_slices or not tier.reads_source
    if waits and tier.at < _FIRST_COPY_TIME:
        message = f"it waits for the day before, which closes at {_FIRST_COPY_TIME:%H:%M}"
        suggestion = f'write "{_FIRST_COPY_TIME:%H:%M}" or later'
        findings.report(at, message, suggestion, needs=[every, group.place(tier.name, "from")])


def _check_kind(group: TierGroup, written: TierWritten, tier: Tier, findings: Findings) -> None:
    path = group.place(tier.name, "full_every")
    needs = [group.place(tier.name, "kind"), group.place(tier.name, "every")]
    given = written.full_every
    if tier.kind == "full":
        if given is not None:
            message = "every snapshot of a full tier is a full"
            findings.report(path, message, "remove full_every, or change kind", needs=needs)
        return
    if given is None:
        if tier.every == "month":
            findings.report(
                path,
                f"kind {tier.kind} needs full_every: every chain must end",
                "write full_every: 26 weeks, or kind: full",
                needs=needs,
            )
        return
    least = max(interval(tier.every), timedelta(days=1))
    if given < timedelta(days=1):
        message = f"{show_duration(given)} is less than a day: chains end by days"
        findings.report(path, message, "write 1 day or more", needs=needs)
    elif given <= least and tier.every != "hour":
        message = f"{show_duration(given)} is not longer than a {tier.every}: all would be full"
        findings.report(path, message, "write a longer time, or kind: full", needs=needs)


def _check_keep_and_lock(
    group: TierGroup, written: TierWritten, tier: Tier, findings: Findings
) -> None:
    keep = written.keep
    if keep is not None and not any(keep.model_dump().values()):
        path = group.place(tier.name, "keep")
        partly = [(*path, name) for name in type(keep).model_fields]
        findings.report(path, "it keeps nothing", "write such as {daily: 7}", needs=partly)
    store = group.stores.get(tier.store)
    if written.lock is None or store is None or not isinstance(store.url, str):
        return
    if not store.url.startswith("s3://"):
        path = group.place(tier.name, "lock")
        message = f"store '{tier.store}' cannot lock: only an object store refuses deletion"
        findings.report(path, message, "remove lock, or use an s3:// store")


def _check_origin(group: TierGroup, tier: Tier, findings: Findings) -> None:
    path = group.place(tier.name, "from")
    if tier.name == group.first:
        if not tier.reads_source:
            message = f"'{tier.name}' is the first tier, and the first tier reads the source"
            findings.report(path, message, "remove from, or put another tier first")
        return
    if tier.reads_source or tier.from_ in group.tiers:
        return
    if tier.from_ in group.left_out:
        message = f"tier '{tier.name}' copies '{tier.from_}', which is left out here"
        findings.report(group.place(tier.from_, None), message, f"set from for '{tier.name}'")
    elif tier.from_ not in group.known:
        names = [name for name in group.tiers if name != tier.name]
        suggestion = one_of(tier.from_, ["source", *names])
        findings.report(path, f"there is no tier '{tier.from_}' to copy", suggestion)


def _check_cycles(group: TierGroup, findings: Findings) -> None:
    told: set[str] = set()
    for name in group.tiers:
        way = [name]
        while (origin := group.tiers[way[-1]].from_) in group.tiers and origin not in way:
            way.append(origin)
        cycle = way[way.index(origin) :] if origin in way else []
        # The first tier's own `from` has been refused already, and with it any way back to it.
        if cycle and not told.intersection(cycle) and group.first not in cycle:
            told.update(cycle)
            chain = " from ".join([*cycle, origin])
            message = f"tiers copy each other in a circle: {chain}"
            findings.report(group.place(cycle[0], "from"), message, f"copy '{group.first}'")


def _check_meeting(group: TierGroup, tier: Tier, findings: Findings) -> None:
    """A tier may copy days only that the other one has."""
    origin = group.tiers.get(tier.from_)
    if origin is None or tier.if_missed == "nearest" or origin.every in ("hour", "day"):
        return
    same = (origin.every, origin.weekday, origin.day_of_month)
    if same == (tier.every, tier.weekday, tier.day_of_month):
        return
    days = f"{origin.weekday}s" if origin.every == "week" else f"day {origin.day_of_month}"
    names = ("every", "weekday", "day_of_month")
    findings.report(
        group.place(tier.name, "from"),
        f"'{tier.name}' copies '{origin.name}', which has only {days}: their days need not meet",
        f"copy '{group.first}', or write if_missed: nearest",
        needs=[group.place(side, name) for side in (tier.name, origin.name) for name in names],
    )


def _check_store(group: TierGroup, tier: Tier, findings: Findings) -> None:
    if tier.store in group.store_names:
        return
    stated = next(item for item in group.written if item.name == tier.name).store is not None
    path = group.place(tier.name, "store" if stated else "name")
    message = f"tier '{tier.name}' needs store '{tier.store}', which is not defined"
    near = closest(tier.store, group.store_names)
    suggestion = f"did you mean '{near}'?" if near else "define it under stores, or name another"
    needs = [("stores",), group.place(tier.name, "store")]
    findings.report(path, message, suggestion, needs=needs)


def _check_sharing(group: TierGroup, findings: Findings) -> None:
    """A dataset has one repository in a store, so two of its tiers need two places."""
    owners: dict[object, Tier] = {}
    for tier in group.tiers.values():
        store = group.stores.get(tier.store)
        identity = tier.store if store is None else store_identity(store)
        owner = owners.setdefault(identity, tier)
        if owner is tier:
            continue
        where = f"store '{tier.store}'"
        if owner.store != tier.store:
            where = f"one place, which stores '{owner.store}' and '{tier.store}' both name"
        findings.report(
            group.place(tier.name, "store"),
            f"tiers '{owner.name}' and '{tier.name}' of one dataset are in {where}",
            "give one of them a store with another path or prefix",
            needs=_places(group, (owner.name, tier.name), "store"),
        )


def _places(group: TierGroup, names: Iterable[str], key: str) -> list[Path]:
    return [group.place(name, key) for name in names]


def store_identity(store: StoreWritten) -> object:
    """Returns what is equal for two stores exactly where they are one place."""
    if not isinstance(store.url, str):
        return (store.url, store.endpoint)
    scheme, _, place = store.url.partition("://") if "://" in store.url else ("file", "", store.url)
    endpoint = store.endpoint if scheme == "s3" else None
    return (scheme, place.rstrip("/"), endpoint)

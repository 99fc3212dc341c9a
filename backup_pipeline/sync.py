"""Tells Dagster's event log what the stores hold: the log is a cache, the stores are the truth."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any

import dagster as dg

from backup_pipeline.engine.errors import BackupError
from backup_pipeline.engine.format.record import Snapshot
from backup_pipeline.metadata import (
    DATASET,
    HISTORY_DAYS,
    SNAPSHOT_TAG,
    STATUS_TAG,
    complete_evaluation,
    key,
    mentioned,
    short,
    snapshot_metadata,
    snapshot_tags,
)
from backup_pipeline.posture.witness import Claim, Holding, is_forgotten, testimony
from backup_pipeline.runner import Runner
from backup_pipeline.runs import Record
from backup_pipeline.translator import TierAsset

__all__ = ["EXPIRED", "Stored", "SyncReport", "claim_of", "list_stored", "sync_tiers"]

EXPIRED = "expired"
PAGE = 1000
"""Materializations read from the event log at a time."""


@dataclass(frozen=True)
class Stored:
    """What a tier's store holds.

    Attributes:
        snapshots: In commit order.
        holding: What its log knows, those that expired too.
    """

    snapshots: Sequence[Snapshot]
    holding: Holding


Listing = Callable[[TierAsset], Stored | None]


@dataclass
class SyncReport:
    """What a sync did.

    Attributes:
        reported: Snapshots that the log did not know and now knows.
        known: Snapshots that it knew.
        expired: Days that it had and the store no longer has.
        errors: Tiers that could not be listed, or that know less than the log does.
    """

    reported: int = 0
    known: int = 0
    expired: int = 0
    errors: list[str] = field(default_factory=list)

    def sentence(self) -> str:
        """The report as one line."""
        return (
            f"{self.reported} snapshots reported, {self.known} were known, {self.expired} days"
            f" have expired, {len(self.errors)} tiers could not be listed or were set back"
        )


def sync_tiers(
    instance: dg.DagsterInstance,
    record: Record,
    assets: Sequence[TierAsset],
    listing: Listing,
    *,
    expired: bool = True,
    lost: bool = False,
    reasons: Mapping[tuple[str, str], str] | None = None,
) -> SyncReport:
    """Report the snapshots that the event log does not know; a second sync reports nothing.

    Args:
        instance: Whose event log.
        record: Writes an event to it, as a run's; see ``recorder``.
        assets: Datasets × tiers to look at.
        listing: Gives what a tier's store holds of a dataset; None where it has no repository of
            it.
        expired: Whether days that the store no longer has are reported as expired. Green
            partitions cannot be wiped in open-source Dagster; what they say can be put right.
        lost: Whether days of which the store's own log has never heard are reported so, too.
            If not, they are errors: nothing that expired is forgotten.
        reasons: Why days expired, by dataset and day, where it is known.
    """
    report = SyncReport()
    for asset in assets:
        place = f"{asset.dataset.key} in tier {asset.tier.name}"
        try:
            found = listing(asset)
        except BackupError as error:
            # Nothing is said of a tier that cannot be asked: silence is not expiry.
            report.errors.append(f"{place}: {error}")
            continue
        if found is None:
            # An unmounted disk looks just like this, so it is not expiry either.
            days = instance.get_materialized_partitions(asset.asset_key)
            if days:
                report.errors.append(
                    f"{place}: the event log knows {len(days)} days, and the store has no"
                    " repository of it; is it mounted, and the right one?"
                )
            continue
        told = _sync_one(instance, record, asset, found, report)
        if not expired:
            continue
        held = {one.day.isoformat() for one in found.snapshots}
        gone = {day: claim for day, claim in told.items() if day not in held}
        forgotten = [one for one in gone.values() if not lost and is_forgotten(one, found.holding)]
        for day, claim in gone.items():
            if claim not in forgotten:
                record(_expiry(asset, day, (reasons or {}).get((asset.dataset.key, day))))
                report.expired += 1
        if forgotten:
            report.errors.append(f"{place}: {testimony(forgotten)}")
    return report


def list_stored(runner: Runner, asset: TierAsset) -> Stored | None:
    """What a tier's store holds for ``sync_tiers``; None where it has no repository."""
    from backup_pipeline.runner.looking import holding_of

    (place,) = runner.places(asset.dataset.key, asset.tier.name)
    repository = place.find()
    if repository is None:
        return None
    return Stored(list(repository.snapshots()), holding_of(repository))


def _sync_one(
    instance: dg.DagsterInstance,
    record: Record,
    asset: TierAsset,
    stored: Stored,
    report: SyncReport,
) -> dict[str, Claim]:
    """Report what the log does not know; what it knew of each day that had not expired."""
    known, newest = _known(instance, asset)
    sizes: dict[date, int] = {}
    snapshots = [one.to_json() for one in stored.snapshots]
    best = _best_by_day(snapshots)
    shown = {day: told.snapshot if told else EXPIRED for day, told in newest.items()}
    for snapshot in _in_reporting_order(snapshots, best):
        day = date.fromisoformat(snapshot["day"])
        sizes[day] = sizes.get(day, 0) + int(snapshot["stored_bytes"])
        is_best = best[snapshot["day"]]["id"] == snapshot["id"]
        latest = shown.get(snapshot["day"])
        if short(snapshot["id"]) in known:
            report.known += 1
            # What the day shows has to be its best snapshot, also where another came last.
            if not is_best or latest == short(snapshot["id"]):
                continue
        else:
            report.reported += 1
        _report(record, asset, snapshot, _last_days(sizes, day))
        shown[snapshot["day"]] = short(snapshot["id"])
    return {day: told for day, told in newest.items() if told is not None}


def claim_of(asset: TierAsset, materialization: dg.AssetMaterialization) -> Claim | None:
    """What a materialization says that a tier holds; None where it says that it has expired.

    What is incomplete, or says no time, counts as captured before all others: nobody misses it.
    """
    tags = materialization.tags or {}
    if tags.get(STATUS_TAG) == EXPIRED or not materialization.partition:
        return None
    said = mentioned(materialization.metadata, "captured_at")
    captured_s = float(said) if said is not None and tags.get(STATUS_TAG) == "complete" else 0.0
    return Claim(
        asset.dataset.key,
        asset.tier.name,
        tags.get(SNAPSHOT_TAG, ""),
        date.fromisoformat(materialization.partition),
        datetime.fromtimestamp(captured_s, UTC),
        "the event log",
    )


def _known(
    instance: dg.DagsterInstance, asset: TierAsset
) -> tuple[set[str], dict[str, Claim | None]]:
    """Ids that the log knows, and each day's newest materialization; None: it said expired."""
    known: set[str] = set()
    newest: dict[str, Claim | None] = {}
    for materialization in _materializations(instance, asset.asset_key):
        tags = materialization.tags or {}
        snapshot = tags.get(SNAPSHOT_TAG)
        if snapshot:
            known.add(snapshot)
        if materialization.partition and (snapshot or tags.get(STATUS_TAG) == EXPIRED):
            newest.setdefault(materialization.partition, claim_of(asset, materialization))
    return known, newest


def _materializations(
    instance: dg.DagsterInstance, asset_key: dg.AssetKey
) -> Iterator[dg.AssetMaterialization]:
    """All of them, newest first."""
    cursor: str | None = None
    while True:
        page = instance.fetch_materializations(asset_key, limit=PAGE, cursor=cursor)
        for record in page.records:
            if record.asset_materialization:
                yield record.asset_materialization
        if not page.has_more:
            return
        cursor = page.cursor


_TIMINGS = {"exact": 2, "on-time": 1, "late": 0}


def _rank(snapshot: Mapping[str, Any]) -> tuple[bool, int, str, int]:
    """Complete first, then exact, on time, late, then newest read, then highest sequence."""
    return (
        snapshot["status"] == "complete",
        _TIMINGS.get(snapshot["timing"], 0),
        snapshot["captured_at"],
        snapshot["sequence"],
    )


def _best_by_day(snapshots: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    best: dict[str, Mapping[str, Any]] = {}
    for snapshot in snapshots:
        present = best.get(snapshot["day"])
        if present is None or _rank(snapshot) > _rank(present):
            best[snapshot["day"]] = snapshot
    return best


def _in_reporting_order(
    snapshots: Sequence[Mapping[str, Any]], best: Mapping[str, Mapping[str, Any]]
) -> list[Mapping[str, Any]]:
    """By the time the source was read, a day's best last: Dagster shows what was reported last."""
    ids = {one["id"] for one in best.values()}
    return sorted(
        snapshots,
        key=lambda one: (one["day"], one["id"] in ids, one["captured_at"], one["sequence"]),
    )


def _last_days(stored: Mapping[date, int], last: date) -> dict[date, int]:
    return {day: size for day, size in stored.items() if 0 <= (last - day).days < HISTORY_DAYS}


def _report(
    record: Record, asset: TierAsset, snapshot: Mapping[str, Any], stored: Mapping[date, int]
) -> None:
    said = snapshot_metadata(snapshot, reason="found in the store by sync", stored=stored)
    tags = snapshot_tags(snapshot) | {"dagster/data_version": snapshot["digest"]}
    record(
        dg.AssetMaterialization(
            asset_key=asset.asset_key, partition=snapshot["day"], metadata=said, tags=tags
        )
    )
    record(complete_evaluation(asset.asset_key, snapshot))


def _expiry(asset: TierAsset, day: str, reason: str | None) -> dg.AssetMaterialization:
    why = {key("reason"): reason} if reason else {}
    return dg.AssetMaterialization(
        asset_key=asset.asset_key,
        partition=day,
        description=f"The store no longer holds a snapshot of {day}.",
        metadata={
            DATASET: asset.dataset.key,
            key("tier"): asset.tier.name,
            key("day"): day,
            key("status"): EXPIRED,
            **why,
        },
        tags={STATUS_TAG: EXPIRED},
    )

"""Tells Dagster's event log what the stores hold: the log is a cache, the stores are the truth."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
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
    short,
    snapshot_metadata,
    snapshot_tags,
)
from backup_pipeline.runner import Runner
from backup_pipeline.runs import Record
from backup_pipeline.translator import TierAsset

__all__ = ["EXPIRED", "SyncReport", "list_stored", "sync_tiers"]

EXPIRED = "expired"
PAGE = 1000
"""Materializations read from the event log at a time."""

Listing = Callable[[TierAsset], Sequence[Snapshot] | None]


@dataclass
class SyncReport:
    """What a sync did.

    Attributes:
        reported: Snapshots that the log did not know and now knows.
        known: Snapshots that it knew.
        expired: Days that it had and the store no longer has.
        errors: Tiers that could not be listed.
    """

    reported: int = 0
    known: int = 0
    expired: int = 0
    errors: list[str] = field(default_factory=list)

    def sentence(self) -> str:
        """The report as one line."""
        return (
            f"{self.reported} snapshots reported, {self.known} were known, {self.expired} days"
            f" have expired, {len(self.errors)} tiers could not be listed"
        )


def sync_tiers(
    instance: dg.DagsterInstance,
    record: Record,
    assets: Sequence[TierAsset],
    listing: Listing,
    *,
    expired: bool = True,
    reasons: Mapping[tuple[str, str], str] | None = None,
) -> SyncReport:
    """Report the snapshots that the event log does not know; a second sync reports nothing.

    Args:
        instance: Whose event log.
        record: Writes an event to it, as a run's; see ``recorder``.
        assets: Datasets × tiers to look at.
        listing: Gives the snapshots of a dataset in a tier, in commit order; None where the store
            has no repository of it.
        expired: Whether days that the store no longer has are reported as expired. Green
            partitions cannot be wiped in open-source Dagster; what they say can be put right.
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
        _sync_one(
            instance,
            record,
            asset,
            [one.to_json() for one in found],
            expired,
            reasons or {},
            report,
        )
    return report


def list_stored(runner: Runner, asset: TierAsset) -> list[Snapshot] | None:
    """What a tier's store holds for ``sync_tiers``; None where it has no repository."""
    (place,) = runner.places(asset.dataset.key, asset.tier.name)
    repository = place.find()
    return None if repository is None else list(repository.snapshots())


def _sync_one(
    instance: dg.DagsterInstance,
    record: Record,
    asset: TierAsset,
    snapshots: Sequence[Mapping[str, Any]],
    expired: bool,
    reasons: Mapping[tuple[str, str], str],
    report: SyncReport,
) -> None:
    known, newest = _known(instance, asset.asset_key)
    stored: dict[date, int] = {}
    best = _best_by_day(snapshots)
    for snapshot in _in_reporting_order(snapshots, best):
        day = date.fromisoformat(snapshot["day"])
        stored[day] = stored.get(day, 0) + int(snapshot["stored_bytes"])
        is_best = best[snapshot["day"]]["id"] == snapshot["id"]
        latest = newest.get(snapshot["day"])
        if short(snapshot["id"]) in known:
            report.known += 1
            # What the day shows has to be its best snapshot, also where another came last.
            if not is_best or latest == short(snapshot["id"]):
                continue
        else:
            report.reported += 1
        _report(record, asset, snapshot, _last_days(stored, day))
        newest[snapshot["day"]] = short(snapshot["id"])
    if expired:
        gone = [day for day, latest in newest.items() if day not in best and latest != EXPIRED]
        for day in gone:
            record(_expiry(asset, day, reasons.get((asset.dataset.key, day))))
        report.expired += len(gone)


def _known(instance: dg.DagsterInstance, asset_key: dg.AssetKey) -> tuple[set[str], dict[str, str]]:
    """Ids that the log knows, and each day's newest materialization: an id, or expired."""
    known: set[str] = set()
    newest: dict[str, str] = {}
    for materialization in _materializations(instance, asset_key):
        tags = materialization.tags or {}
        snapshot = tags.get(SNAPSHOT_TAG)
        word = EXPIRED if tags.get(STATUS_TAG) == EXPIRED else snapshot
        if snapshot:
            known.add(snapshot)
        if materialization.partition and word:
            newest.setdefault(materialization.partition, word)
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

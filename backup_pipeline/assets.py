"""Tiers as day-partitioned assets: one run makes sure that a tier has its snapshot of a day."""

from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from typing import Any

import dagster as dg
from pydantic import Field

from backup_pipeline.anomalies import record_anomaly, upstream_news
from backup_pipeline.checks import complete_spec
from backup_pipeline.engine.errors import BackupError
from backup_pipeline.metadata import (
    FORCE_TAG,
    HISTORY_DAYS,
    completeness,
    snapshot_metadata,
    snapshot_tags,
    stored_by_day,
)
from backup_pipeline.resources import Wiring, failure
from backup_pipeline.restore_job import RestorableDays
from backup_pipeline.translator import TierAsset

__all__ = [
    "BackupConfig",
    "build_backup_asset",
    "expected_of",
    "latest_storage_id",
    "materialized",
    "retry_policy",
    "sentence_of",
]

HISTORY_EVENTS = 1000
"""How many materializations are read for the picture: an hourly tier makes 720 in its 30 days."""

RETRY_DELAY_S = 30.0


class BackupConfig(dg.Config):
    """What a run of a backup asset may be told in the Launchpad."""

    force: bool = Field(
        default=False,
        description="Make another snapshot although the day is closed and has a good one.",
    )
    kind: str | None = Field(
        default=None,
        description="full, differential or incremental; by default as the tier's rules say.",
    )
    explained: str | None = Field(
        default=None,
        description="Why much may have changed, so that the check `anomaly` does not fail for it.",
    )


def build_backup_asset(asset: TierAsset, wiring: Wiring) -> dg.AssetsDefinition:
    """The asset of one dataset in one tier.

    Args:
        asset: Which dataset and tier.
        wiring: The plan and its names.
    """

    @dg.multi_asset(
        name=asset.label,
        specs=[asset.spec],
        check_specs=[complete_spec(asset)],
        required_resource_keys={wiring.resource},
        pool=asset.pool,
        op_tags=dict(asset.dataset.run.tags),
        retry_policy=retry_policy(asset),
    )
    def backup(context: dg.AssetExecutionContext, config: BackupConfig) -> dg.MaterializeResult:
        # Taken before the source is read: what is materialized while we read counts as news.
        upstream = latest_storage_id(context.instance, asset.dataset_asset)
        try:
            answer = wiring.resource_of(context).run(
                "backup",
                {
                    "dataset": asset.dataset.key,
                    "tier": asset.tier.name,
                    "day": context.partition_key,
                    "kind": config.kind,
                    "force": config.force or context.run.tags.get(FORCE_TAG) == "true",
                    "explained": config.explained,
                    "upstream": upstream_news(context.instance, asset, upstream),
                },
                now=wiring.now,
                log=context.log.info,
            )
        except BackupError as error:
            raise failure(error) from None
        context.log.info(sentence_of(asset, answer))
        if answer["snapshot"]["status"] == "complete":
            RestorableDays([answer["snapshot"]["day"]]).offer(context, wiring)
        seen = upstream if asset.tier.from_ == "source" else None
        expected = expected_of(context, asset, wiring, answer)
        return materialized(context, asset, answer, seen, expected=expected)

    return backup


def retry_policy(asset: TierAsset) -> dg.RetryPolicy | None:
    """Retries as the plan's ``run.retries`` says; only for errors that may pass by themselves."""
    retries = asset.dataset.run.retries
    if not retries:
        return None
    return dg.RetryPolicy(
        max_retries=retries,
        delay=RETRY_DELAY_S,
        backoff=dg.Backoff.EXPONENTIAL,
        jitter=dg.Jitter.PLUS_MINUS,
    )


def latest_storage_id(instance: dg.DagsterInstance, asset_key: dg.AssetKey) -> str | None:
    """Which event was an asset's latest materialization; None where there is none."""
    records = instance.fetch_materializations(asset_key, limit=1).records
    return str(records[0].storage_id) if records else None


def materialized(
    context: dg.AssetExecutionContext,
    asset: TierAsset,
    answer: Mapping[str, Any],
    upstream: str | None,
    checks: Sequence[dg.AssetCheckResult] = (),
    expected: Mapping[str, Any] | None = None,
) -> dg.MaterializeResult:
    """What a run says of one dataset's snapshot.

    Args:
        context: The run.
        asset: The dataset in its tier.
        answer: A backup's answer as JSON.
        upstream: Which materialization of the dataset's own asset it was taken after.
        checks: Results of further checks, beside ``complete``.
        expected: What the plan's expectations of the manifest came to.
    """
    record_anomaly(context, asset, answer)
    snapshot = answer["snapshot"]
    stored = _history(context.instance, asset, date.fromisoformat(snapshot["day"]))
    if answer["created"]:
        day = date.fromisoformat(snapshot["day"])
        stored[day] = stored.get(day, 0) + int(snapshot["stored_bytes"])
    passed, sentence, said = completeness(snapshot, expected)
    return dg.MaterializeResult(
        asset_key=asset.asset_key,
        metadata=snapshot_metadata(
            snapshot,
            reason=answer.get("reason"),
            notices=answer.get("notices") or (),
            stored=stored,
        ),
        # A snapshot that was there before says nothing of what the dataset is like now.
        tags=snapshot_tags(snapshot, upstream=upstream if answer["created"] else None),
        data_version=dg.DataVersion(snapshot["digest"]),
        check_results=[
            dg.AssetCheckResult(
                check_name="complete",
                asset_key=asset.asset_key,
                passed=passed,
                description=sentence,
                metadata=said,
            ),
            *checks,
        ],
    )


def expected_of(
    context: dg.AssetExecutionContext,
    asset: TierAsset,
    wiring: Wiring,
    answer: Mapping[str, Any],
) -> Mapping[str, Any] | None:
    """What the plan's expectations of the manifest came to; None where it has none."""
    if asset.dataset.completeness is None:
        return None
    place = {"dataset": asset.dataset.key, "tier": asset.tier.name}
    try:
        return wiring.resource_of(context).run(
            "complete", {**place, "snapshot": answer["snapshot"]["id"]}, now=wiring.now
        )
    except BackupError as error:
        # The snapshot is made and committed: that nobody could look at it is the check's to say.
        return {"tests": [{"name": "completeness", "passed": False, "reason": str(error)}]}


def _history(instance: dg.DagsterInstance, asset: TierAsset, last: date) -> dict[date, int]:
    """Bytes stored per day of the last days, as the event log knows them."""
    days = [(last - timedelta(days=back)).isoformat() for back in range(HISTORY_DAYS)]
    records = instance.fetch_materializations(
        dg.AssetRecordsFilter(asset_key=asset.asset_key, asset_partitions=days),
        limit=HISTORY_EVENTS,
    ).records
    return stored_by_day(
        [record.asset_materialization for record in records if record.asset_materialization]
    )


def sentence_of(asset: TierAsset, answer: Mapping[str, Any]) -> str:
    """One line of what a backup came to."""
    snapshot = answer["snapshot"]
    verb = "made" if answer["created"] else "kept"
    return (
        f"{asset.dataset.key} in tier {asset.tier.name}: {verb} {snapshot['kind']} snapshot"
        f" {snapshot['id'][:12]} of {snapshot['day']}, {snapshot['timing']}, {snapshot['status']}:"
        f" {answer.get('reason')}"
    )

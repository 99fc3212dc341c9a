"""The change sensor: one for all datasets; a changed fingerprint asks for a run into today."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import dagster as dg

from backup_pipeline.assets import latest_storage_id
from backup_pipeline.metadata import (
    FINGERPRINT_TAG,
    REPOSITORY_TAG,
    SNAPSHOT_TAG,
    STATUS_TAG,
    UPSTREAM_TAG,
    mentioned,
)
from backup_pipeline.plan.cadence import local_day
from backup_pipeline.translator import TierAsset
from backup_pipeline.watching import LATEST_EVENTS, TRIGGER_TAG, Subject, Watch

__all__ = ["ChangeWatch"]


@dataclass(frozen=True, slots=True)
class _Known:
    """What the event log says of a dataset's newest good snapshot in its first tier."""

    fingerprint: str | None = None
    snapshot: str | None = None
    upstream: str | None = None
    captured_at: datetime | None = None


class ChangeWatch(Watch):
    """One tick of the change sensor."""

    trigger = "change"
    units = "datasets"
    interval = timedelta(minutes=1)
    description = "Backs a dataset up when it changed, at most as often as its policy allows."

    @staticmethod
    def watched(asset: TierAsset) -> bool:
        """Whether changes of its dataset start a backup in this tier."""
        return asset.first and asset.today and asset.dataset.on_change is not None

    def subjects(self) -> list[Subject]:
        """The watched datasets, in the plan's order."""
        return [
            Subject(job, asset) for job in self.jobs for asset in job.assets if self.watched(asset)
        ]

    def look_at(self, subject: Subject) -> dg.RunRequest | None:
        """A run into today for a dataset that is not as its newest good snapshot says."""
        asset = subject.asset
        known = self._known(asset)
        if self._too_soon(asset, known):
            return None
        today = local_day(self.now, self.wiring.plan.zone)
        upstream = latest_storage_id(self.instance, asset.dataset_asset)
        if known.upstream is not None and upstream is not None and upstream != known.upstream:
            # The dataset's own asset was materialized since: no need to look at its files.
            return self.request(subject, today, since=known.snapshot, news=f"event:{upstream}")
        fingerprint = self.fingerprint(subject)
        if fingerprint is None or fingerprint == known.fingerprint:
            return None
        if upstream is None:
            # No run of Dagster's writes this dataset: give its lineage the version that we saw.
            version = {"dagster/data_version": fingerprint}
            self.observations.append(dg.AssetObservation(asset.dataset_asset, tags=version))
        return self.request(subject, today, since=known.snapshot, news=fingerprint)

    def _known(self, asset: TierAsset) -> _Known:
        """The newest good capture among the latest materializations of the first tier."""
        records = self.instance.fetch_materializations(asset.asset_key, limit=LATEST_EVENTS).records
        newest = _Known()
        for record in records:
            materialization = record.asset_materialization
            tags = (materialization.tags or {}) if materialization else {}
            if materialization is None or tags.get(STATUS_TAG) != "complete":
                continue
            if asset.together is not None and mentioned(materialization.metadata, "cut") is None:
                continue  # its set could not be captured then: there is still something to do
            captured = mentioned(materialization.metadata, "captured_at")
            if captured is None:
                continue
            moment = datetime.fromtimestamp(float(captured), UTC)
            if newest.captured_at is None or moment > newest.captured_at:
                newest = _Known(
                    tags.get(FINGERPRINT_TAG),
                    tags.get(SNAPSHOT_TAG),
                    tags.get(UPSTREAM_TAG),
                    moment,
                )
        return newest

    def _too_soon(self, asset: TierAsset, known: _Known) -> bool:
        """Whether the last capture, or attempt at one, is less than ``at_most_every`` ago."""
        assert asset.dataset.on_change is not None
        pause = asset.dataset.on_change.at_most_every
        if known.captured_at is not None and timedelta(0) <= self.now - known.captured_at < pause:
            return True
        ours = {REPOSITORY_TAG: asset.repository, TRIGGER_TAG: self.trigger}
        records = self.instance.get_run_records(dg.RunsFilter(tags=ours), limit=1)
        # Runs are dated by Dagster's clock, whatever clock the plan is told.
        return bool(records) and datetime.now(UTC) - records[0].create_timestamp < pause

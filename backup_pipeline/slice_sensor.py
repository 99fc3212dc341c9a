"""The slice sensor: a past slice that was written again asks for a new version of its day."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from typing import Any

import dagster as dg

from backup_pipeline.metadata import FINGERPRINT_TAG, SNAPSHOT_TAG, STATUS_TAG
from backup_pipeline.runner import Runner
from backup_pipeline.translator import TierAsset
from backup_pipeline.watching import LATEST_EVENTS, Subject, Watch

__all__ = ["SliceWatch"]


class SliceWatch(Watch):
    """One tick of the slice sensor."""

    trigger = "slice"
    units = "slices"
    # A slice is listed for each day that is looked at: hourly is soon enough for what is days old.
    interval = timedelta(hours=1)
    description = (
        "Backs a day's slice up again when it was written again, as far back as"
        " slices_checked says."
    )

    @staticmethod
    def watched(asset: TierAsset) -> bool:
        """Whether it is a first tier of slices."""
        return asset.first and asset.dataset.holds == "slice"

    def subjects(self) -> list[Subject]:
        """The closed days of each dataset that are checked, the newest first."""
        with Runner(self.wiring.plan, **self._clock()) as runner:
            newest = runner.last_closed_day()
        return [
            Subject(job, asset, day)
            for job in self.jobs
            for asset in job.assets
            if self.watched(asset)
            for day in _days(newest, asset.dataset.slices_checked)
            if day >= self.wiring.plan.start
        ]

    def look_at(self, subject: Subject) -> dg.RunRequest | None:
        """A run for a slice that is not as its newest good snapshot says."""
        assert subject.day is not None
        known = self._known(subject.asset, subject.day)
        if known is None:
            return None  # the day was missed, or is not in the event log: not for us
        fingerprint, snapshot = known
        present = self.fingerprint(subject)
        if present is None or present == fingerprint:
            return None
        return self.request(subject, subject.day, since=snapshot, news=present)

    def pause_after(self, attempts: int) -> timedelta:
        """Twice as long after each attempt, up to a day: nobody waits for what is days old."""
        return min(self.interval * 2 ** min(attempts - 1, 10), timedelta(days=1))

    def _clock(self) -> dict[str, Any]:
        now: datetime | None = self.wiring.now
        return {} if now is None else {"clock": lambda: now}

    def _known(self, asset: TierAsset, day: date) -> tuple[str, str | None] | None:
        """Fingerprint and id of the newest good snapshot of a day that the event log tells of."""
        records = self.instance.fetch_materializations(
            dg.AssetRecordsFilter(asset_key=asset.asset_key, asset_partitions=[day.isoformat()]),
            limit=LATEST_EVENTS,
        ).records
        for record in records:
            materialization = record.asset_materialization
            tags = (materialization.tags or {}) if materialization else {}
            if tags.get(STATUS_TAG) == "complete" and FINGERPRINT_TAG in tags:
                return tags[FINGERPRINT_TAG], tags.get(SNAPSHOT_TAG)
        return None


def _days(newest: date, span: timedelta) -> list[date]:
    """Closed days within a span, the newest first."""
    return [newest - timedelta(days=age) for age in range(max(1, span.days))]

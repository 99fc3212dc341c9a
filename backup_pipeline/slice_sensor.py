"""The slice sensor: a past slice that was written again asks for a new version of its day."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from datetime import date, datetime, timedelta
from typing import Any

import dagster as dg

from backup_pipeline.engine.errors import BackupError
from backup_pipeline.jobs import TierJob
from backup_pipeline.metadata import FINGERPRINT_TAG, SNAPSHOT_TAG, STATUS_TAG, short
from backup_pipeline.resources import Wiring
from backup_pipeline.runner import Runner
from backup_pipeline.runs import busy_repositories, companions, run_tags, step_checks
from backup_pipeline.sensors import TICK_BUDGET_S, TRIGGER_TAG, Fingerprints
from backup_pipeline.translator import TierAsset

__all__ = ["SliceWatch", "build_slice_sensor"]

TICK_INTERVAL_S = 3600
"""A slice is listed for each day that is looked at: hourly is soon enough for what is days old."""

TRIGGER = "slice"


def build_slice_sensor(jobs: Sequence[TierJob], wiring: Wiring) -> dg.SensorDefinition | None:
    """One sensor for all datasets of slices; None where there is none.

    Args:
        jobs: The tiers' jobs.
        wiring: The plan.
    """
    chosen = [job for job in jobs if any(map(_watched, job.assets))]
    if not chosen:
        return None

    def take(words: str) -> str:
        dataset, _, day = words.rpartition("@")
        return Runner(wiring.plan).fingerprint(dataset, date.fromisoformat(day))

    fingerprints = Fingerprints(take)

    @dg.sensor(
        name=wiring.named("slice_sensor"),
        jobs=[job.job for job in chosen],
        minimum_interval_seconds=TICK_INTERVAL_S,
        default_status=(
            dg.DefaultSensorStatus.RUNNING
            if wiring.plan.automation
            else dg.DefaultSensorStatus.STOPPED
        ),
        description="Backs a day's slice up again when it was written again, as far back as"
        " slices_checked says.",
    )
    def slice_sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        watch = SliceWatch(wiring, chosen, context.instance, fingerprints.take)
        answer = watch.tick(context.cursor)
        for line in watch.problems:
            context.log.warning(line)
        return answer

    return slice_sensor


def _watched(asset: TierAsset) -> bool:
    return asset.first and asset.dataset.holds == "slice"


class SliceWatch:
    """One tick of the slice sensor.

    Args:
        wiring: The plan.
        jobs: The jobs that hold datasets of slices.
        instance: Its event log and runs.
        fingerprint: Gives the fingerprint of ``dataset@day``, without reading content.
        budget_s: Seconds after which no further slice is looked at; the next tick goes on there.
    """

    def __init__(
        self,
        wiring: Wiring,
        jobs: Sequence[TierJob],
        instance: dg.DagsterInstance,
        fingerprint: Callable[[str], str],
        *,
        budget_s: float = TICK_BUDGET_S,
    ) -> None:
        self._wiring = wiring
        self._jobs = jobs
        self._instance = instance
        self._fingerprint = fingerprint
        self._budget_s = budget_s
        self.problems: list[str] = []

    def tick(self, cursor: str | None) -> dg.SensorResult:
        """Look at past slices from where the last tick ended, as far as time allows."""
        slices = self._in_turn(cursor)
        busy = busy_repositories(self._instance, self._jobs)
        requests: list[dg.RunRequest] = []
        ends_at, looked, following = time.monotonic() + self._budget_s, 0, ""
        for job, asset, day in slices:
            if looked and time.monotonic() > ends_at:
                following = _words(asset, day)
                break
            looked += 1
            if asset.repository not in busy:
                request = self._look_at(job, asset, day)
                if request is not None:
                    requests.append(request)
        skipped = None if requests else f"{looked} of {len(slices)} slices looked at, all as before"
        return dg.SensorResult(
            run_requests=requests, skip_reason=skipped, cursor=json.dumps({"next": following})
        )

    def _in_turn(self, cursor: str | None) -> list[tuple[TierJob, TierAsset, date]]:
        with Runner(self._wiring.plan, **self._clock()) as runner:
            newest = runner.last_closed_day()
        start = self._wiring.plan.start
        slices = [
            (job, asset, day)
            for job in self._jobs
            for asset in job.assets
            if _watched(asset)
            for day in _days(newest, asset.dataset.slices_checked)
            if day >= start
        ]
        first = _next_in(cursor)
        at = next((n for n, (_, one, day) in enumerate(slices) if _words(one, day) == first), 0)
        return slices[at:] + slices[:at]

    def _clock(self) -> dict[str, Any]:
        now: datetime | None = self._wiring.now
        return {} if now is None else {"clock": lambda: now}

    def _look_at(self, job: TierJob, asset: TierAsset, day: date) -> dg.RunRequest | None:
        """A run for a slice that is not as its newest good snapshot says."""
        known = self._known(asset, day)
        if known is None:
            return None  # the day was missed, or is not in the event log: not for us
        words = _words(asset, day)
        try:
            present = short(self._fingerprint(words))
        except TimeoutError:
            self.problems.append(f"{words}: its fingerprint takes long; still at it")
            return None
        except (BackupError, OSError) as error:
            self.problems.append(f"{words}: the slice cannot be looked at: {error}")
            return None
        fingerprint, snapshot = known
        if present == fingerprint:
            return None
        change = hashlib.sha256(f"{snapshot}\0{present}".encode()).hexdigest()[:32]
        step = companions(asset, job.assets)
        return dg.RunRequest(
            run_key=f"{asset.repository}:{day}:{change}",
            job_name=job.name,
            partition_key=day.isoformat(),
            asset_selection=[one.asset_key for one in step],
            asset_check_keys=[check for one in step for check in step_checks(one)],
            tags=run_tags(asset, {TRIGGER_TAG: TRIGGER}),
        )

    def _known(self, asset: TierAsset, day: date) -> tuple[str, str | None] | None:
        """Fingerprint and id of the newest good snapshot of a day that the event log tells of."""
        records = self._instance.fetch_materializations(
            dg.AssetRecordsFilter(asset_key=asset.asset_key, asset_partitions=[day.isoformat()]),
            limit=1,
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


def _words(asset: TierAsset, day: date) -> str:
    return f"{asset.dataset.key}@{day}"


def _next_in(cursor: str | None) -> str | None:
    try:
        content: Any = json.loads(cursor or "{}")
    except ValueError:
        return None
    return content.get("next") if isinstance(content, dict) else None

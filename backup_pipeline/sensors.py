"""The change sensor: one for all datasets; a changed fingerprint asks for a run into today."""

import hashlib
import json
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import dagster as dg

from backup_pipeline.assets import latest_storage_id
from backup_pipeline.engine.errors import BackupError
from backup_pipeline.event_log import asset_places
from backup_pipeline.jobs import TierJob
from backup_pipeline.metadata import (
    FINGERPRINT_TAG,
    REPOSITORY_TAG,
    SNAPSHOT_TAG,
    STATUS_TAG,
    UPSTREAM_TAG,
    key,
    mentioned,
    short,
)
from backup_pipeline.plan.cadence import local_day
from backup_pipeline.resources import Wiring
from backup_pipeline.runner import Runner
from backup_pipeline.runs import busy_repositories, companions, run_tags, step_checks
from backup_pipeline.translator import TierAsset

__all__ = ["TICK_BUDGET_S", "Fingerprints", "Watch", "build_change_sensor", "watched"]

TICK_BUDGET_S = 40.0
"""Dagster ends a tick after 60 s; a fingerprint that is being taken cannot be interrupted."""

TICK_INTERVAL_S = 60

LATEST_EVENTS = 20
"""How many materializations are searched for the newest good capture: a backfill or a sync may
have reported older days since."""

PATIENCE_S = 10.0
"""How long a tick waits for one fingerprint; a slower one goes on and is taken by a later tick."""

TRIGGER = "change"
TRIGGER_TAG = key("trigger")
CHANGE_TAG = key("change")


def watched(asset: TierAsset) -> bool:
    """Whether changes of its dataset start a backup in this tier."""
    return asset.first and asset.today and asset.dataset.on_change is not None


def build_change_sensor(jobs: Sequence[TierJob], wiring: Wiring) -> dg.SensorDefinition | None:
    """One sensor for all datasets with ``on_change``; None where no dataset has it.

    Args:
        jobs: The tiers' jobs.
        wiring: The plan.
    """
    chosen = [job for job in jobs if any(watched(asset) for asset in job.assets)]
    if not chosen:
        return None
    running = wiring.plan.automation

    def fingerprint(dataset: str, instance: dg.DagsterInstance) -> str:
        places = partial(asset_places, instance)
        return Runner(wiring.plan, places=places).fingerprint(dataset)

    fingerprints = Fingerprints(fingerprint)

    @dg.sensor(
        name=wiring.named("change_sensor"),
        jobs=[job.job for job in chosen],
        minimum_interval_seconds=TICK_INTERVAL_S,
        default_status=(
            dg.DefaultSensorStatus.RUNNING if running else dg.DefaultSensorStatus.STOPPED
        ),
        description="Backs a dataset up when it changed, at most as often as its policy allows.",
    )
    def change_sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        def take(dataset: str) -> str:
            return fingerprints.take(dataset, context.instance)

        watch = Watch(wiring, chosen, context.instance, take)
        answer = watch.tick(context.cursor)
        for line in watch.problems:
            context.log.warning(line)
        return answer

    return change_sensor


class Fingerprints:
    """Takes fingerprints without letting a slow one hold up the tick.

    A file system that hangs cannot be interrupted, only left alone: its thread goes on by itself,
    no second one is begun for the same dataset, and its answer is taken when it is there.

    Args:
        take: Gives a dataset's fingerprint by its key and what else it is asked with; may be slow.
        patience_s: How long to wait for one.
    """

    def __init__(self, take: Callable[..., str], *, patience_s: float = PATIENCE_S) -> None:
        self._take = take
        self._patience_s = patience_s
        self._running: dict[str, Future[str]] = {}

    def take(self, dataset: str, *more: Any) -> str:
        """The fingerprint of a dataset.

        Raises:
            TimeoutError: It is still being taken.
            BackupError: The source cannot be read.
        """
        future = self._running.get(dataset)
        if future is None:
            future = self._running[dataset] = Future()
            # A daemon thread does not keep the code server from ending.
            threading.Thread(target=self._run, args=(dataset, more, future), daemon=True).start()
        try:
            answer = future.result(timeout=self._patience_s)
        finally:
            if future.done():
                del self._running[dataset]
        return answer

    def _run(self, dataset: str, more: tuple[Any, ...], future: "Future[str]") -> None:
        try:
            future.set_result(self._take(dataset, *more))
        except BaseException as error:
            future.set_exception(error)


@dataclass(frozen=True, slots=True)
class _Known:
    """What the event log says of a dataset's newest good snapshot in its first tier."""

    fingerprint: str | None = None
    snapshot: str | None = None
    upstream: str | None = None
    captured_at: datetime | None = None


class Watch:
    """One tick of the change sensor.

    Args:
        wiring: The plan.
        jobs: The jobs that hold watched datasets.
        instance: Its event log and runs.
        fingerprint: Gives a dataset's fingerprint by its key, without reading content.
        budget_s: Seconds after which no further dataset is looked at; the next tick goes on there.
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
        self._now = wiring.now or datetime.now(UTC)
        self.problems: list[str] = []

    def tick(self, cursor: str | None) -> dg.SensorResult:
        """Look at the datasets from where the last tick ended, as far as time allows."""
        pairs = self._in_turn(cursor)
        busy = busy_repositories(self._instance, self._jobs)
        requests: list[dg.RunRequest] = []
        observations: list[dg.AssetObservation] = []
        ends_at = time.monotonic() + self._budget_s
        following = pairs[0][1].dataset.key if pairs else None
        looked = 0
        for job, asset in pairs:
            if looked and time.monotonic() > ends_at:
                following = asset.dataset.key
                break
            looked += 1
            if asset.repository in busy:
                continue
            found = self._look_at(job, asset)
            if found is not None:
                busy.add(asset.repository)  # one run captures all members of a set
                requests.append(found[0])
                observations += found[1]
        else:
            # All were looked at: the next tick begins elsewhere, so that no dataset is always last.
            following = pairs[1][1].dataset.key if len(pairs) > 1 else following
        skipped = None
        if not requests:
            skipped = f"{looked} of {len(pairs)} datasets looked at, none to back up"
        return dg.SensorResult(
            run_requests=requests,
            skip_reason=skipped,
            cursor=json.dumps({"next": following}),
            asset_events=observations,
        )

    def _in_turn(self, cursor: str | None) -> list[tuple[TierJob, TierAsset]]:
        pairs = [(job, asset) for job in self._jobs for asset in job.assets if watched(asset)]
        first = _next_in(cursor)
        start = next(
            (number for number, (_, one) in enumerate(pairs) if one.dataset.key == first), 0
        )
        return pairs[start:] + pairs[:start]

    def _look_at(
        self, job: TierJob, asset: TierAsset
    ) -> tuple[dg.RunRequest, list[dg.AssetObservation]] | None:
        """What to ask for one dataset; None where there is nothing to do, or not yet."""
        known = self._known(asset)
        if self._too_soon(asset, known):
            return None
        upstream = latest_storage_id(self._instance, asset.dataset_asset)
        if known.upstream is not None and upstream is not None and upstream != known.upstream:
            # The dataset's own asset was materialized since: no need to look at its files.
            news = f"event:{upstream}"
            return self._request(job, asset, known, news), []
        try:
            fingerprint = short(self._fingerprint(asset.dataset.key))
        except TimeoutError:
            self.problems.append(f"{asset.dataset.key}: its fingerprint takes long; still at it")
            return None
        except (BackupError, OSError) as error:
            self.problems.append(f"{asset.dataset.key}: no fingerprint: {error}")
            return None
        if fingerprint == known.fingerprint:
            return None
        request = self._request(job, asset, known, fingerprint)
        if upstream is not None:
            return request, []
        # No run of Dagster's writes this dataset: give its lineage the version that we saw.
        version = {"dagster/data_version": fingerprint}
        return request, [dg.AssetObservation(asset.dataset_asset, tags=version)]

    def _request(self, job: TierJob, asset: TierAsset, known: _Known, news: str) -> dg.RunRequest:
        """A run into today.

        Its key names the last good snapshot and the attempt: a dataset that goes from A to B and
        back to A is backed up each time, and a run that failed is tried again.
        """
        change = hashlib.sha256(f"{known.snapshot}\0{news}".encode()).hexdigest()[:32]
        tags = run_tags(asset, {TRIGGER_TAG: TRIGGER, CHANGE_TAG: change})
        day = local_day(self._now, self._wiring.plan.zone).isoformat()
        attempt = self._instance.get_runs_count(
            dg.RunsFilter(tags={REPOSITORY_TAG: asset.repository, CHANGE_TAG: change})
        )
        step = companions(asset, job.assets)
        return dg.RunRequest(
            run_key=f"{asset.repository}:{day}:{change}:{attempt}",
            job_name=job.name,
            partition_key=day,
            asset_selection=[one.asset_key for one in step],
            # Left out, Dagster adds every check of the asset, the expensive ones too.
            asset_check_keys=[check for one in step for check in step_checks(one)],
            tags=tags,
        )

    def _known(self, asset: TierAsset) -> _Known:
        """The newest good capture among the latest materializations of the first tier."""
        records = self._instance.fetch_materializations(
            asset.asset_key, limit=LATEST_EVENTS
        ).records
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
        if known.captured_at is not None and timedelta(0) <= self._now - known.captured_at < pause:
            return True
        records = self._instance.get_run_records(
            dg.RunsFilter(tags={REPOSITORY_TAG: asset.repository, TRIGGER_TAG: TRIGGER}), limit=1
        )
        # Runs are dated by Dagster's clock, whatever clock the plan is told.
        return bool(records) and datetime.now(UTC) - records[0].create_timestamp < pause


def _next_in(cursor: str | None) -> str | None:
    try:
        content: Any = json.loads(cursor or "{}")
    except ValueError:
        return None
    return content.get("next") if isinstance(content, dict) else None

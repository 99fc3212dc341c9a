"""What the sensors that look at datasets share: turns, a tick's time, runs until one succeeds."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cache, partial
from typing import Any, ClassVar

import dagster as dg

from backup_pipeline.engine.errors import BackupError
from backup_pipeline.event_log import Writes
from backup_pipeline.metadata import REPOSITORY_TAG, key, short
from backup_pipeline.resources import Wiring
from backup_pipeline.runner import Runner
from backup_pipeline.runs import TierJob, busy_repositories, companions, run_tags, step_checks
from backup_pipeline.translator import TierAsset

__all__ = ["Fingerprints", "Subject", "Watch", "build_sensor"]

TICK_BUDGET_S = 40.0
"""Dagster ends a tick after 60 s; a fingerprint that is being taken cannot be interrupted."""

PATIENCE_S = 10.0
"""How long a tick waits for one fingerprint; a slower one goes on and is taken by a later tick."""

LATEST_EVENTS = 20
"""How many materializations are searched for the newest good capture: a backfill or a sync may
have reported older days since, and what is incomplete does not count."""

TRIGGER_TAG = key("trigger")
CHANGE_TAG = key("change")


@dataclass(frozen=True, slots=True)
class Subject:
    """What is looked at: a dataset in its first tier, or one day's slice of it."""

    job: TierJob
    asset: TierAsset
    day: date | None = None

    @property
    def name(self) -> str:
        """The dataset's key; of a slice, with its day."""
        dataset = self.asset.dataset.key
        return dataset if self.day is None else f"{dataset}@{self.day}"


class Fingerprints:
    """Takes fingerprints without letting a slow one hold up the tick.

    A file system that hangs cannot be interrupted, only left alone: its thread goes on by itself,
    no second one is begun for the same subject, and its answer is taken when it is there.

    Args:
        patience_s: How long to wait for one.
    """

    def __init__(self, *, patience_s: float = PATIENCE_S) -> None:
        self._patience_s = patience_s
        self._running: dict[str, Future[str]] = {}

    def take(self, name: str, compute: Callable[[], str]) -> str:
        """The fingerprint of a subject.

        Args:
            name: The subject's.
            compute: Gives it; may be slow.

        Raises:
            TimeoutError: It is still being taken.
            BackupError: The source cannot be read.
        """
        future = self._running.get(name)
        if future is None:
            future = self._running[name] = Future()
            # A daemon thread does not keep the code server from ending.
            threading.Thread(target=_run, args=(compute, future), daemon=True).start()
        try:
            answer = future.result(timeout=self._patience_s)
        finally:
            if future.done():
                del self._running[name]
        return answer


def _run(compute: Callable[[], str], future: Future[str]) -> None:
    try:
        future.set_result(compute())
    except BaseException as error:
        future.set_exception(error)


class Watch(ABC):
    """One tick of a sensor that looks at datasets and asks for backups of what changed.

    Args:
        wiring: The plan.
        jobs: The jobs that hold watched datasets.
        instance: Its event log and runs.
        fingerprint: Gives a subject's fingerprint, without reading content.
        budget_s: Seconds after which nothing further is looked at; the next tick goes on there.
    """

    trigger: ClassVar[str]
    """The value of the tag that says which sensor asked; also the sensor's name."""
    units: ClassVar[str]
    interval: ClassVar[timedelta]
    description: ClassVar[str]

    def __init__(
        self,
        wiring: Wiring,
        jobs: Sequence[TierJob],
        instance: dg.DagsterInstance,
        fingerprint: Callable[[Subject], str],
        *,
        budget_s: float = TICK_BUDGET_S,
    ) -> None:
        self.wiring = wiring
        self.jobs = jobs
        self.instance = instance
        self.now = wiring.now or datetime.now(UTC)
        self.observations: list[dg.AssetObservation] = []
        self.problems: list[str] = []
        self._fingerprint = fingerprint
        self._budget_s = budget_s

    @staticmethod
    @abstractmethod
    def watched(asset: TierAsset) -> bool:
        """Whether a dataset, in this tier, is for this sensor."""

    @abstractmethod
    def subjects(self) -> list[Subject]:
        """All that is to be looked at, in a constant order."""

    @abstractmethod
    def look_at(self, subject: Subject) -> dg.RunRequest | None:
        """What to ask for; None where there is nothing to do, or not yet."""

    def tick(self, cursor: str | None) -> dg.SensorResult:
        """Look at the subjects from where the last tick ended, as far as time allows."""
        subjects = self._in_turn(cursor)
        busy = busy_repositories(self.instance, self.jobs)
        asked: set[tuple[str, date | None]] = set()
        requests: list[dg.RunRequest] = []
        ends_at = time.monotonic() + self._budget_s
        # Where all are looked at, the next tick begins elsewhere, so that none is always last.
        following = subjects[1 % len(subjects)].name if subjects else None
        looked = 0
        for subject in subjects:
            if looked and time.monotonic() > ends_at:
                following = subject.name
                break
            looked += 1
            repository = subject.asset.repository
            if repository in busy or (repository, subject.day) in asked:
                continue  # one run captures all members of a set
            request = self.look_at(subject)
            if request is not None:
                asked.add((repository, subject.day))
                requests.append(request)
        skipped = None
        if not requests:
            skipped = f"{looked} of {len(subjects)} {self.units} looked at, none to back up"
        return dg.SensorResult(
            run_requests=requests,
            skip_reason=skipped,
            cursor=json.dumps({"next": following}),
            asset_events=self.observations,
        )

    def fingerprint(self, subject: Subject) -> str | None:
        """A subject's fingerprint as tags hold it; None, and one problem more, if there is none."""
        try:
            return short(self._fingerprint(subject))
        except TimeoutError:
            self.problems.append(f"{subject.name}: its fingerprint takes long; still at it")
        except (BackupError, OSError) as error:
            self.problems.append(f"{subject.name}: no fingerprint: {error}")
        return None

    def request(
        self, subject: Subject, day: date, *, since: str | None, news: str
    ) -> dg.RunRequest | None:
        """A run into a day; None where it is too soon to try the same again.

        Its key names the last good snapshot and the attempt: a dataset that goes from A to B and
        back to A is backed up each time, and a run that failed is tried again.

        Args:
            subject: What changed.
            day: The partition.
            since: The last good snapshot.
            news: What it is now.
        """
        asset, job = subject.asset, subject.job
        change = hashlib.sha256(f"{since}\0{news}".encode()).hexdigest()[:32]
        attempts = dg.RunsFilter(tags={REPOSITORY_TAG: asset.repository, CHANGE_TAG: change})
        attempt = self.instance.get_runs_count(attempts)
        for latest in self.instance.get_run_records(attempts, limit=1) if attempt else ():
            # Runs are dated by Dagster's clock, whatever clock the plan is told.
            if datetime.now(UTC) - latest.create_timestamp < self.pause_after(attempt):
                return None
        step = companions(asset, job.assets)
        return dg.RunRequest(
            run_key=f"{asset.repository}:{day}:{change}:{attempt}",
            job_name=job.name,
            partition_key=day.isoformat(),
            asset_selection=[one.asset_key for one in step],
            # Left out, Dagster adds every check of the asset, the expensive ones too.
            asset_check_keys=[check for one in step for check in step_checks(one)],
            tags=run_tags(asset, {TRIGGER_TAG: self.trigger, CHANGE_TAG: change}),
        )

    def pause_after(self, attempts: int) -> timedelta:
        """How long to wait before the same change is tried again."""
        del attempts
        return timedelta(0)

    def _in_turn(self, cursor: str | None) -> list[Subject]:
        subjects, first = self.subjects(), _next_in(cursor)
        at = next((number for number, one in enumerate(subjects) if one.name == first), 0)
        return subjects[at:] + subjects[:at]


def build_sensor(
    kind: type[Watch], jobs: Sequence[TierJob], wiring: Wiring
) -> dg.SensorDefinition | None:
    """One sensor for all datasets of a kind; None where there is none.

    Args:
        kind: What looks at them.
        jobs: The tiers' jobs.
        wiring: The plan.
    """
    chosen = [job for job in jobs if any(kind.watched(asset) for asset in job.assets)]
    if not chosen:
        return None
    running = wiring.plan.automation
    fingerprints, written = Fingerprints(), Writes()

    @dg.sensor(
        name=wiring.named(f"{kind.trigger}_sensor"),
        jobs=[job.job for job in chosen],
        minimum_interval_seconds=int(kind.interval.total_seconds()),
        default_status=(
            dg.DefaultSensorStatus.RUNNING if running else dg.DefaultSensorStatus.STOPPED
        ),
        description=kind.description,
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        writes = cache(partial(written.take, context.instance))

        def take(subject: Subject) -> str:
            dataset = subject.asset.dataset.key
            runner = Runner(wiring.plan, writes=writes)
            return fingerprints.take(subject.name, lambda: runner.fingerprint(dataset, subject.day))

        watch = kind(wiring, chosen, context.instance, take)
        answer = watch.tick(context.cursor)
        for line in watch.problems:
            context.log.warning(line)
        return answer

    return sensor


def _next_in(cursor: str | None) -> str | None:
    try:
        content: Any = json.loads(cursor or "{}")
    except ValueError:
        return None
    return content.get("next") if isinstance(content, dict) else None

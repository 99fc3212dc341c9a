"""The alert sensor: tells the plan's receivers what the posture, runs and checks show."""

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any

import dagster as dg

from backup_pipeline.checks import COMPLETE, FRESH
from backup_pipeline.metadata import REPOSITORY_TAG
from backup_pipeline.overview import ALL_WELL, CONDITIONS, posture_key
from backup_pipeline.posture.alerts import Delivery, tell
from backup_pipeline.posture.conditions import Condition
from backup_pipeline.resources import Wiring
from backup_pipeline.translator import TierAsset

__all__ = ["build_alert_sensor"]

TICK_INTERVAL_S = 120
RUNS_PER_TICK = 100
"""Finished runs that one tick looks at; more are left to the next, oldest first."""

BLIND_AFTER = timedelta(hours=3)
"""The posture is materialized every hour: without one for so long, nobody looks."""

_IN_POSTURE = (COMPLETE, FRESH, ALL_WELL)
"""Checks whose failure the posture tells of already."""

_ENDED = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE]

Tell = Callable[[Sequence[Condition], Mapping[str, Any]], Delivery]


@dataclass
class Memory:
    """What a tick hands to the next one, as the sensor's cursor.

    Attributes:
        since: Up to when finished runs were looked at, as a timestamp.
        seen: Ids of runs that ended at that very moment.
        failing: What failed in Dagster and has not succeeded since, by a key.
        told: What each receiver was told.
    """

    since: float
    seen: list[str] = field(default_factory=list)
    failing: dict[str, dict[str, Any]] = field(default_factory=dict)
    told: Mapping[str, Any] = field(default_factory=dict)

    @staticmethod
    def read(cursor: str | None, now: float) -> "Memory":
        """What the last tick handed over; a new one begins at the present."""
        try:
            return Memory(**json.loads(cursor or "null"))
        except (TypeError, ValueError):
            return Memory(now)

    def write(self) -> str:
        """Itself as a cursor."""
        return json.dumps(vars(self))


def build_alert_sensor(
    assets: Sequence[TierAsset], jobs: Iterable[str], wiring: Wiring
) -> dg.SensorDefinition | None:
    """The sensor; None where the plan tells nobody.

    Args:
        assets: The plan's datasets × tiers.
        jobs: Names of the plan's jobs.
        wiring: The plan.
    """
    if wiring.plan.alerts is None:
        return None
    names = set(jobs)
    running = wiring.plan.automation

    @dg.sensor(
        name=wiring.named("alert_sensor"),
        minimum_interval_seconds=TICK_INTERVAL_S,
        default_status=(
            dg.DefaultSensorStatus.RUNNING if running else dg.DefaultSensorStatus.STOPPED
        ),
        description="Tells the plan's receivers of what needs a person, and when it is over.",
    )
    def alert_sensor(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        now = datetime.now(UTC)

        def to_all(found: Sequence[Condition], told: Mapping[str, Any]) -> Delivery:
            return tell(wiring.plan, found, told, environ=os.environ, now=wiring.now or now)

        watch = _Watch(assets, names, wiring, context.instance, now)
        memory = Memory.read(context.cursor, now.timestamp())
        done, failures = watch.tick(memory, to_all)
        for line in failures:
            context.log.error(line)
        context.update_cursor(memory.write())
        return dg.SkipReason("; ".join([*done, *failures]) or "nothing new to tell")

    return alert_sensor


class _Watch:
    """One tick: what is the case, from the event log alone; no store is asked."""

    def __init__(
        self,
        assets: Sequence[TierAsset],
        jobs: set[str],
        wiring: Wiring,
        instance: dg.DagsterInstance,
        now: datetime,
    ) -> None:
        self._jobs, self._wiring, self._instance, self._now = jobs, wiring, instance, now
        self._by_repository = {asset.repository: asset for asset in assets}
        self._by_key = {asset.asset_key: asset for asset in assets}

    def tick(self, memory: Memory, to_all: Tell) -> tuple[list[str], list[str]]:
        """Look, tell, and remember; what was done, and what could not be."""
        self._follow_runs(memory)
        found = [*self._posture(), *(_condition(k, said) for k, said in memory.failing.items())]
        delivery = to_all(found, memory.told)
        memory.told = delivery.state
        return list(delivery.done), [failure.message for failure in delivery.failures]

    def _posture(self) -> list[Condition]:
        """What the posture last said; that nobody looks, where it is old."""
        records = self._instance.fetch_materializations(posture_key(self._wiring), limit=1).records
        if not records:
            return []
        newest = records[0]
        age = self._now - datetime.fromtimestamp(newest.timestamp, UTC)
        materialization = newest.asset_materialization
        entry = materialization.metadata.get(CONDITIONS) if materialization else None
        said: Any = entry.value if entry is not None else []
        found = [_condition(str(one["key"]), one) for one in said]
        if age > BLIND_AFTER:
            text = f"nobody has looked since {self._now - age:%Y-%m-%d %H:%M} UTC"
            found.append(Condition("blind", "failed", "the posture", text))
        return found

    def _follow_runs(self, memory: Memory) -> None:
        """What failed in runs that have ended since the last tick, and what succeeded again."""
        records = self._instance.get_run_records(
            dg.RunsFilter(
                statuses=_ENDED,
                # A moment more, for the filter leaves out what ended at that very time.
                updated_after=datetime.fromtimestamp(memory.since - 1, UTC),
            ),
            limit=RUNS_PER_TICK + len(memory.seen),
            order_by="update_timestamp",
            ascending=True,
        )
        for record in records:
            run, ended = record.dagster_run, record.update_timestamp.timestamp()
            if run.run_id in memory.seen or ended < memory.since - 1:
                continue
            memory.seen = [
                *(memory.seen if ended - memory.since < 1 else ()),
                run.run_id,
            ]
            memory.since = max(memory.since, ended)
            self._follow_run(run, memory.failing)

    def _follow_run(self, run: dg.DagsterRun, failing: dict[str, dict[str, Any]]) -> None:
        subjects = self._subjects(run)
        for subject_key, subject in subjects.items():
            name = f"run:{subject_key}"
            if run.status == dg.DagsterRunStatus.SUCCESS:
                failing.pop(name, None)
            else:
                says = f"run {run.run_id[:8]} of {run.job_name} failed"
                failing.setdefault(name, {"kind": "failed", "subject": subject, "says": says})
        if subjects:
            self._follow_checks(run, failing)

    def _subjects(self, run: dg.DagsterRun) -> dict[str, str]:
        """What a run is about, whoever launched it; nothing where it is none of ours."""
        chosen = [self._by_repository.get(run.tags.get(REPOSITORY_TAG, ""))]
        if chosen == [None]:
            checked = {check.asset_key for check in run.asset_check_selection or ()}
            selected = checked | set(run.asset_selection or ())
            chosen = [self._by_key.get(one) for one in sorted(selected)]
        about = {
            asset.repository: f"{asset.dataset.key} in {asset.tier.name}"
            for asset in chosen
            if asset is not None
        }
        if not about and run.job_name in self._jobs:
            return {run.job_name: f"job {run.job_name}"}
        return about

    def _follow_checks(self, run: dg.DagsterRun, failing: dict[str, dict[str, Any]]) -> None:
        entries = self._instance.all_logs(
            run.run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION
        )
        for entry in entries:
            event = entry.dagster_event
            if event is None:
                continue
            check: Any = event.event_specific_data
            asset = self._by_key.get(check.asset_key)
            if check.check_name in _IN_POSTURE or asset is None:
                continue
            name = f"check:{check.check_name}:{asset.repository}"
            day = getattr(check, "partition", None)
            before = failing.get(name)
            if not check.passed:
                failing[name] = before or {
                    "kind": "failed",
                    "subject": f"{asset.dataset.key} in {asset.tier.name}",
                    "says": _check_words(check, day),
                    "partition": day,
                }
            elif before is not None and str(day or "") >= str(before.get("partition") or ""):
                del failing[name]


def _check_words(check: Any, day: str | None) -> str:
    when = f" of {day}" if day else ""
    return f"check {check.check_name}{when} failed: {check.description or 'it says no more'}"


def _condition(name: str, said: Mapping[str, Any]) -> Condition:
    day = said.get("day")
    return Condition(
        name,
        said["kind"],
        str(said["subject"]),
        str(said["says"]),
        date.fromisoformat(day) if day else None,
    )

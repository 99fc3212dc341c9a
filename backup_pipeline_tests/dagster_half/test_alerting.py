"""The alert sensor: told once, and once more when it is over, to a real receiver."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any

import dagster as dg
import pytest

import backup_pipeline.alerting as alerting
from backup_pipeline.plan import load_plan
from backup_pipeline.runs import run_tags
from backup_pipeline.translator import lay_out
from backup_pipeline_tests.dagster_half.project import Project, first_failure
from backup_pipeline_tests.posture.receivers import Hook, hook

Make = Callable[..., Project]


class Sensor:
    """Ticks the plan's alert sensor, with its cursor kept in between."""

    def __init__(self, one: Project, receiver: Hook) -> None:
        self._one, self._receiver = one, receiver
        self._cursor: str | None = None
        self.sensor = one.defs.resolve_sensor_def("backup_alert_sensor")

    def tick(self) -> tuple[str, list[dict[str, Any]]]:
        """What the tick said, and what the receiver took."""
        before = len(self._receiver.taken)
        context = dg.build_sensor_context(instance=self._one.instance, cursor=self._cursor)
        answer = self.sensor.evaluate_tick(context)
        self._cursor = answer.cursor
        return str(answer.skip_message), self._receiver.taken[before:]


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hook]:
    with hook() as found:
        monkeypatch.setenv("HOOK", found.url)
        yield found


@pytest.fixture
def one(project: Make) -> Project:
    return project(
        tiers=[{"name": "local", "kind": "full"}],
        start="2026-11-01",
        alerts={"to": [{"env": "HOOK"}]},
    )


def tagged(one: Project) -> dict[str, str]:
    """What the plan's schedules put on a run."""
    (asset,) = lay_out(load_plan(one.document), name="backup")
    return run_tags(asset)


def look(one: Project) -> None:
    job = one.defs.resolve_job_def("backup_posture_job")
    result = job.execute_in_process(instance=one.instance, raise_on_error=False)
    assert result.success, first_failure(result)


def test_what_the_posture_shows_is_told_once_and_told_again_when_it_is_over(
    one: Project, receiver: Hook
) -> None:
    sensor = Sensor(one, receiver)
    assert sensor.tick() == ("nothing new to tell", [])
    one.at("2026-11-03T12:00:00")
    look(one)
    receiver.refuses = True
    said, taken = sensor.tick()
    assert "environment variable HOOK was not told" in said and taken == []
    assert "a-long-secret" not in said
    receiver.refuses = False
    said, (told,) = sensor.tick()
    assert told["title"] == "Backups of all datasets: 3 need a person"
    assert "RPO broken: vision/a in local: there is no good snapshot" in told["message"]
    assert "missed day: vision/a in local: 2026-11-02 has no good snapshot" in told["message"]
    look(one)
    assert sensor.tick() == ("nothing new to tell", [])
    assert one.back_up("local", "2026-11-03").success
    look(one)
    said, (told,) = sensor.tick()
    assert told["title"] == "Backups of all datasets: 1 recovered"
    assert told["message"].startswith("recovered: vision/a in local: there is no good snapshot")


def test_a_backup_that_failed_is_told_and_so_is_the_next_that_did_not(
    one: Project, receiver: Hook
) -> None:
    sensor = Sensor(one, receiver)
    sensor.tick()
    source = one.root / "datasets/vision/a"
    shutil.move(source, one.root / "away")
    assert not one.back_up("local", "2026-11-01", tags=tagged(one)).success
    assert not one.back_up("local", "2026-11-01", tags=tagged(one)).success
    _, (told,) = sensor.tick()
    assert told["title"] == "Backups of all datasets: 1 needs a person"
    assert "failed: vision/a in local: run " in told["message"]
    assert sensor.tick()[1] == []
    shutil.move(one.root / "away", source)
    assert one.back_up("local", "2026-11-01", tags=tagged(one)).success
    _, (told,) = sensor.tick()
    assert told["title"] == "Backups of all datasets: 1 recovered"
    assert sensor.tick()[1] == []


def test_a_failed_check_is_told_until_it_passes(one: Project, receiver: Hook) -> None:
    assert one.back_up("local", "2026-11-01").success
    sensor = Sensor(one, receiver)
    sensor.tick()
    (pack, *_) = sorted(
        (path for path in (one.root / "stores/local").rglob("*") if path.is_file()),
        key=lambda path: -path.stat().st_size,
    )
    content = pack.read_bytes()
    pack.write_bytes(content[:-1] + b"x")
    tags = tagged(one)
    assert not one.check("matches", "local", "2026-11-01", tags=tags).passed
    _, (told,) = sensor.tick()
    assert "check matches of 2026-11-01 failed" in told["message"]
    pack.write_bytes(content)
    assert one.check("matches", "local", "2026-11-01", tags=tags).passed
    _, (told,) = sensor.tick()
    assert told["title"] == "Backups of all datasets: 1 recovered"


def test_it_is_told_when_nobody_looks(
    one: Project, receiver: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert one.back_up("local", "2026-11-01").success
    look(one)
    sensor = Sensor(one, receiver)
    assert sensor.tick()[1] == []

    class Later(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime.now(tz) + timedelta(hours=4)

    monkeypatch.setattr(alerting, "datetime", Later)
    _, (told,) = sensor.tick()
    assert "the posture: nobody has looked since" in told["message"]


def test_other_peoples_runs_are_none_of_its_business(one: Project, receiver: Hook) -> None:
    sensor = Sensor(one, receiver)
    sensor.tick()

    @dg.op
    def fails() -> None:
        raise ValueError

    @dg.job
    def theirs() -> None:
        fails()

    theirs.execute_in_process(instance=one.instance, raise_on_error=False)
    assert sensor.tick()[1] == []


def test_a_plan_that_tells_nobody_has_no_sensor(project: Make) -> None:
    names = {sensor.name for sensor in project().defs.sensors or ()}
    assert "backup_alert_sensor" not in names


def test_a_cursor_of_another_version_begins_anew() -> None:
    for cursor in ("", "[]", '{"next": 1}', "no json"):
        assert alerting.Memory.read(cursor, 7.0) == alerting.Memory(7.0)

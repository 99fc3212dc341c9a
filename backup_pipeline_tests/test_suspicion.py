"""Suspicious snapshots by the runner and the command line: kept, shown, explained, cleared."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from backup_pipeline.cli import main
from backup_pipeline.engine.errors import NotFound, UsageError
from backup_pipeline.engine.suspicions import findings_of
from backup_pipeline.plan import load_plan
from backup_pipeline.runner import Runner

DATASET = "vision/a"


class Clock:
    """The time, until it is set on."""

    def __init__(self) -> None:
        # In two days it is the present: what expires compares it with the store's.
        self.now = datetime.now(UTC) - timedelta(days=2, minutes=1)

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A folder with a plan of two tiers and twenty tables."""
    (tmp_path / "data").mkdir()
    for number in range(20):
        write(tmp_path, number)
    (tmp_path / "backup.yaml").write_text(
        json.dumps(
            {
                "start": (datetime.now(UTC) - timedelta(days=3)).date().isoformat(),
                "encryption": "none",
                "stores": {name: f"file://{tmp_path}/{name}" for name in ("local", "cloud")},
                "policies": {
                    "default": {
                        "tiers": [
                            {"name": "local", "keep": {"last": 1}},
                            {"name": "cloud", "every": "day", "keep": {"last": 1}},
                        ]
                    }
                },
                "datasets": [{"asset": DATASET, "source": str(tmp_path / "data")}],
            }
        )
    )
    yield tmp_path


def write(place: Path, number: int, rows: int = 300) -> None:
    (place / "data" / f"{number}.csv").write_text("".join(f"{i};row\n" for i in range(rows)))


def delete(place: Path, first: int, end: int) -> None:
    for number in range(first, end):
        (place / "data" / f"{number}.csv").unlink()


@pytest.fixture
def runner(place: Path) -> Iterator[Runner]:
    clock = Clock()
    with Runner(load_plan(place / "backup.yaml"), clock=clock) as made:
        made.clock = clock  # pyright: ignore[reportAttributeAccessIssue]
        yield made


def next_day(runner: Runner) -> None:
    runner.clock.now += timedelta(days=1)  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]


def later_on(runner: Runner) -> None:
    runner.clock.now += timedelta(minutes=1)  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]


def kept(runner: Runner, tier: str) -> list[bool]:
    return [verdict.kept for verdict in runner.expire(DATASET, tier, apply=True).verdicts]


def test_a_flag_stops_expiry_in_every_tier_until_it_is_cleared(place: Path, runner: Runner) -> None:
    runner.backup(DATASET)
    next_day(runner)
    runner.backup(DATASET, "cloud")
    delete(place, 0, 8)
    flagged = runner.backup(DATASET)
    later_on(runner)
    assert any("suspicious" in text for text in flagged.notices)
    write(place, 15, 310)
    later = runner.backup(DATASET)  # the day's newest, and all that the cloud gets of the day
    assert not findings_of(later.snapshot.anomaly)
    next_day(runner)
    assert runner.backup(DATASET, "cloud").snapshot.origin == {
        "tier": "local",
        "snapshot": later.snapshot.id,
        "digest": later.snapshot.digest,
    }
    assert kept(runner, "local") == [True, True, True] and kept(runner, "cloud") == [True, True]
    assert all(one.suspicious for one in runner.status())
    answer = runner.clear(DATASET, flagged.snapshot.id[:8], reason="known", by="somebody")
    assert set(answer.tiers) == {"local", "cloud"}
    assert not any(one.suspicious for one in runner.status())
    assert kept(runner, "local") == [True, False, True]  # its chain's full, and the newest


def test_what_the_newest_snapshot_is_like_is_told_to_who_restores(
    place: Path, runner: Runner
) -> None:
    sound = runner.backup(DATASET).snapshot
    next_day(runner)
    delete(place, 0, 8)
    flagged = runner.backup(DATASET).snapshot
    runner.notices.clear()
    assert runner.find(DATASET)[1].id == flagged.id
    assert any(sound.id[:12] in text and "suspicious" in text for text in runner.notices)
    runner.notices.clear()
    runner.find(DATASET, snapshot=sound.id)
    assert not runner.notices


def test_a_tier_out_of_reach_is_cleared_by_the_next_copy(place: Path, runner: Runner) -> None:
    runner.backup(DATASET)
    delete(place, 0, 8)
    flagged = runner.backup(DATASET).snapshot
    runner.copy(DATASET, from_tier="local", to_tier="cloud")
    shutil.move(place / "cloud", place / "away")
    with Runner(load_plan(place / "backup.yaml")) as other:
        answer = other.clear(DATASET, flagged.id, reason="known", by="somebody")
        assert answer.tiers == ("local",)
    shutil.move(place / "away", place / "cloud")
    with Runner(load_plan(place / "backup.yaml")) as other:
        assert [one.suspicious != [] for one in other.status()] == [False, True]
        write(place, 15, 310)
        other.backup(DATASET)
        other.copy(DATASET, from_tier="local", to_tier="cloud")
        assert not any(one.suspicious for one in other.status())


@pytest.mark.parametrize(
    ("identity", "reason", "error"),
    [("0000", "known", NotFound), ("", "known", NotFound), ("any", "  ", UsageError)],
)
def test_a_clear_that_nobody_can_mean_is_refused(
    place: Path, runner: Runner, identity: str, reason: str, error: Any
) -> None:
    runner.backup(DATASET)
    delete(place, 0, 8)
    flagged = runner.backup(DATASET).snapshot.id
    with pytest.raises(error):
        runner.clear(DATASET, flagged if identity == "any" else identity, reason=reason, by="x")
    assert runner.suspicions(DATASET)


def test_the_command_line_shows_clears_and_takes_back(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    assert main(["backup", "--tier", "local"]) == 0
    delete(place, 0, 8)
    assert main(["backup", "--tier", "local", "--explained", " "]) == 2
    assert main(["backup", "--tier", "local"]) == 1
    assert "suspicious: 8 of 20 files are gone" in capsys.readouterr().err
    assert main(["status", "--no-dagster"]) == 1
    capsys.readouterr()
    main(["snapshots", "--json"])
    flagged = next(one for one in json.loads(capsys.readouterr().out) if one["flag"])
    assert flagged["flag"] == "suspicious"
    assert main(["clear", flagged["id"]]) == 2
    assert main(["clear", flagged["id"][:8], "--reason", "known", "--by", "me", "--json"]) == 0
    main(["snapshots", "--json"])
    assert "cleared by me: known" in capsys.readouterr().out
    assert main(["clear", DATASET, flagged["id"], "--reason", "no", "--undo"]) == 0
    main(["snapshots"])
    assert "SUSPICIOUS" in capsys.readouterr().out
    delete(place, 8, 14)
    assert main(["backup", "--tier", "local", "--explained", "all of it goes"]) == 0

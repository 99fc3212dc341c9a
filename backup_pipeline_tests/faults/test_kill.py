"""Killed with SIGKILL at any moment, the program loses nothing that it had committed.

The real command runs in a process group of its own and dies right before or after one of its
store's calls, one of its fsyncs, links or removals, or after some time. Then all that was committed
restores, the next run succeeds and takes up what was left, and ``verify`` finds nothing.
"""

from __future__ import annotations

import json
import random
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from backup_pipeline.engine.errors import NotFound
from backup_pipeline.engine.format.record import Snapshot
from backup_pipeline.engine.keys import new_key_file, parse_key_file
from backup_pipeline.engine.operations.verify import verify
from backup_pipeline.engine.repository import Repository, unlock_store
from backup_pipeline.engine.store import open_store
from backup_pipeline.s3_server import S3Server
from backup_pipeline_tests.engine.trees import state_of
from backup_pipeline_tests.faults.launcher import KILLED, Launcher
from backup_pipeline_tests.faults.scene import Scene, edit, fast_folder, plant
from backup_pipeline_tests.promises import Cases

DATASET = "vision/a"
MOMENTS_PER_ROUND = 25
PLAN = """\
start: {day}
stores: {stores}
keys: {{main: {{key_file: {{file: key}}}}}}
policies:
  default:
    tiers:
      - {{name: local, every: day, kind: incremental, full_every: 4 weeks, keep: {{daily: 7}}}}
      - {{name: cloud, every: day, kind: incremental, full_every: 4 weeks, keep: {{daily: 7}}}}
datasets: [{{asset: vision/a, source: source}}]
"""


class Rig:
    """A dataset, two tiers, and the program that may be killed while it works on them.

    Args:
        folder: Where the dataset, the plan and restores lie.
        stores: What ``open_store`` needs for the tiers ``local`` and ``cloud``.
        seed: Of the dataset.
    """

    def __init__(self, folder: Path, stores: dict[str, Any], seed: int) -> None:
        self.stores = stores
        self.seed = seed
        self.scene = Scene(folder, open_store(stores["local"]), open_store(stores["cloud"]))
        self.known: dict[str, list[str]] = {"local": [], "cloud": []}
        plant(self.scene.source, seed)
        text = new_key_file()
        self._key = parse_key_file(text.encode())
        (folder / "key").write_text(text)
        day = datetime.now(UTC).date()
        (folder / "backup.yaml").write_text(PLAN.format(day=day, stores=json.dumps(stores)))

    def change(self) -> None:
        """Something new to back up."""
        self.seed += 1
        edit(self.scene.source, self.seed)

    def repository(self, tier: str) -> Repository | None:
        """A tier's repository, as another process finds it."""
        try:
            return unlock_store(open_store(self.stores[tier]), [self._key]).repository(DATASET)
        except NotFound:
            return None

    def take_note(self, tier: str) -> list[Snapshot]:
        """Snapshots that came since this was called last; each must restore."""
        repository, known, states = self.repository(tier), self.known[tier], self.scene.states
        if repository is None:
            assert not known, "a whole repository is gone"
            return []
        found = repository.snapshots()
        assert [one.id for one in found[: len(known)]] == known, "a committed snapshot is gone"
        for one in found[len(known) :]:
            origin = (one.origin or {}).get("snapshot")
            states[one.id] = states[origin] if origin else state_of(self.scene.source)
            known.append(one.id)
        for one in found[-1:]:
            assert self.scene.restores_right(repository, one, states[one.id]), one
        return found

    def unfinished(self, tier: str) -> set[str]:
        """Runs that stored something, committed nothing, and build on what the next one does."""
        repository = self.repository(tier)
        if repository is None:
            return set()
        runs, found = repository.state.runs, repository.snapshots()
        newest = found[-1].id if found else None
        return {
            name
            for name, body in runs.items()
            if name not in {one.run for one in found} and body.get("parent") == newest
        }

    def check_sound(self, tier: str, *, mended: bool) -> None:
        """Fail unless ``verify`` finds nothing; see ``Scene.check_sound``."""
        repository = self.repository(tier)
        if repository is not None:
            waits = repository.log.name(repository.log.next_sequence - 1, twin=True)
            damage = verify(repository).damage
            assert [one for one in damage if mended or one["name"] != waits] == []

    def check_all(self, tier: str) -> None:
        """Fail unless every snapshot restores and all is sound."""
        repository = self.repository(tier)
        assert repository is not None
        for one in repository.snapshots():
            assert self.scene.restores_right(repository, one, self.scene.states[one.id]), one
        self.check_sound(tier, mended=True)


COMMANDS = {
    "backup": ("local", ("backup", DATASET, "--tier", "local")),
    "copy": ("cloud", ("copy", DATASET, "--from", "local", "--to", "cloud", "--force")),
}


@contextmanager
def places(where: str, request: pytest.FixtureRequest) -> Iterator[tuple[Path, dict[str, Any]]]:
    """A folder, and two stores below it or on a server."""
    with fast_folder() as folder:
        stores: dict[str, Any] = {
            "local": {"url": (folder / "local").as_uri()},
            "cloud": {"url": (folder / "cloud").as_uri()},
        }
        if where == "s3":
            server: S3Server = request.getfixturevalue("s3_server")
            for tier in stores:
                options = server.options(f"s3://backups/{secrets.token_hex(6)}/{tier}")
                stores[tier] = {name: options[name] for name in ("url", "endpoint", "region")}
        yield folder, stores


def kill_again_and_again(
    verb: str, where: str, request: pytest.FixtureRequest, cases: Cases, count: int, seed: int
) -> None:
    """So many moments, one after the other, in one repository that begins empty."""
    chance = random.Random(f"{seed} {verb} {where}")
    tier, command = COMMANDS[verb]
    with places(where, request) as (folder, stores):
        environ: dict[str, str] = {}
        if where == "s3":
            environ = request.getfixturevalue("s3_server").environ()
            environ.pop("AWS_ENDPOINT_URL")
            for name, value in environ.items():
                request.getfixturevalue("monkeypatch").setenv(name, value)
        rig = Rig(folder, stores, seed)
        with Launcher(folder, environ) as launch:
            if verb == "copy":
                launch(*COMMANDS["backup"][1], good=True)
                rig.take_note("local")
            events, seconds = FIRST_EVENTS, FIRST_SECONDS
            for number in range(count):
                at = (number + chance.random()) / count
                if number % 4 == 3:
                    ran = launch(*command, kill_after_s=chance.random() * seconds)
                else:
                    event = 1 + int(at * (events - 1))
                    ran = launch(*command, kill_at=chance.choice((event, -event)))
                assert ran.code in {KILLED, 0}, ran.said
                cases.add(ran.code == KILLED)
                rig.take_note(tier)
                rig.check_sound(tier, mended=False)
                left = rig.unfinished(tier)
                ran = launch(*command, good=True)
                events, seconds = ran.events, ran.seconds
                newest = rig.take_note(tier)[-1]
                assert not left or newest.run in left, "what was left was not taken up"
                rig.change()
                if verb == "copy":
                    launch(*COMMANDS["backup"][1], good=True)
                    rig.take_note("local")
            rig.check_all(tier)


FIRST_EVENTS, FIRST_SECONDS = 60, 0.2  # of a run before any was measured


@pytest.mark.faults
@pytest.mark.promise("committed")
@pytest.mark.parametrize("round", range(2))
@pytest.mark.parametrize("where", ["local", pytest.param("s3", marks=pytest.mark.services)])
@pytest.mark.parametrize("verb", COMMANDS)
def test_killed_at_any_moment_it_loses_nothing_that_was_committed(
    verb: str, where: str, round: int, request: pytest.FixtureRequest, cases: Cases
) -> None:
    count = cases.scaled(MOMENTS_PER_ROUND)
    kill_again_and_again(verb, where, request, cases, count, cases.seed + round)
    assert cases.count >= count * 3 // 4, "too many moments came after the end"


@pytest.mark.promise("committed")
@pytest.mark.parametrize("verb", COMMANDS)
def test_killed_at_some_moments_it_loses_nothing_that_was_committed(
    verb: str, request: pytest.FixtureRequest, cases: Cases
) -> None:
    kill_again_and_again(verb, "local", request, cases, cases.scaled(6), cases.seed)
    assert cases.count

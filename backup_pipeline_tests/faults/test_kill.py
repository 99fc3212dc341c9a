"""Killed with SIGKILL at any moment, the program loses nothing that it had committed.

The real command runs in a process group of its own and dies right before or after one of its
store's calls, one of its fsyncs, links or removals, or after some time. Then all that was committed
restores, the next run succeeds and takes up what was left, and ``verify`` finds nothing.
"""

from __future__ import annotations

import random
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from backup_pipeline.s3_server import S3Server
from backup_pipeline_tests.faults.launcher import KILLED, Launcher
from backup_pipeline_tests.faults.rig import COMMANDS, DATASET, Rig, local_stores
from backup_pipeline_tests.faults.scene import fast_folder
from backup_pipeline_tests.promises import Cases

MOMENTS_PER_ROUND = 13  # two rounds of four verbs in two places: 208
FIRST_EVENTS, FIRST_SECONDS = 60, 0.2  # of a run before any was measured


@contextmanager
def places(where: str, request: pytest.FixtureRequest) -> Iterator[tuple[Path, dict[str, Any]]]:
    """A folder, and two stores below it or on a server."""
    with fast_folder() as folder:
        stores = local_stores(folder)
        if where == "s3":
            server: S3Server = request.getfixturevalue("s3_server")
            for tier in stores:
                options = server.options(f"s3://backups/{secrets.token_hex(6)}/{tier}")
                stores[tier] = {name: options[name] for name in ("url", "endpoint", "region")}
        yield folder, stores


def prepare_copy(rig: Rig, launch: Launcher) -> None:
    """Something to copy."""
    launch(*COMMANDS["backup"][1], good=True)
    rig.take_note("local")


def prepare_prune(rig: Rig, launch: Launcher) -> None:
    """Something to delete, and something to condemn: an older chain, and one older than that."""
    for kind in ("full", "incremental"):
        launch(*COMMANDS["backup"][1], "--kind", kind, good=True)
        rig.take_note("local")
        rig.change()
    launch("expire", DATASET, "--tier", "local", "--apply", good=True)
    rig.forget_expired("local")


def prepare_repair(rig: Rig, launch: Launcher) -> None:
    """Something to heal from another tier, which is whole."""
    launch(*COMMANDS["backup"][1], good=True)
    launch(*COMMANDS["copy"][1], good=True)
    rig.take_note("local")
    rig.damage("local")


PREPARE: dict[str, Callable[[Rig, Launcher], None]] = {
    "backup": lambda rig, launch: None,
    "copy": prepare_copy,
    "prune": prepare_prune,
    "repair": prepare_repair,
}


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
            PREPARE[verb](rig, launch)
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
                if verb == "repair":
                    rig.check_no_worse(tier)
                else:
                    rig.take_note(tier)
                    rig.check_sound(tier, mended=False)
                left = rig.unfinished(tier)
                ran = launch(*command, good=True)
                events, seconds = ran.events, ran.seconds
                newest = rig.take_note(tier)[-1]
                if verb == "repair":
                    rig.check_sound(tier, mended=True)
                assert not left or newest.run in left, "what was left was not taken up"
                rig.change()
                PREPARE[verb](rig, launch)
            launch(*command, good=True)
            rig.take_note(tier)
            rig.check_all(tier)


@pytest.mark.faults
@pytest.mark.promise("committed")
@pytest.mark.parametrize("round", range(2))
@pytest.mark.parametrize("where", ["local", pytest.param("s3", marks=pytest.mark.services)])
@pytest.mark.parametrize("verb", PREPARE)
def test_killed_at_any_moment_it_loses_nothing_that_was_committed(
    verb: str, where: str, round: int, request: pytest.FixtureRequest, cases: Cases
) -> None:
    count = cases.scaled(MOMENTS_PER_ROUND)
    kill_again_and_again(verb, where, request, cases, count, cases.seed + round)
    assert cases.count >= count // 2, "too many moments came after the end"


@pytest.mark.promise("committed")
@pytest.mark.parametrize("verb", PREPARE)
def test_killed_at_some_moments_it_loses_nothing_that_was_committed(
    verb: str, request: pytest.FixtureRequest, cases: Cases
) -> None:
    kill_again_and_again(verb, "local", request, cases, cases.scaled(6), cases.seed)
    assert cases.count

"""With less and less room, a run fails with one clear error and costs nothing that is there."""

from __future__ import annotations

import random
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from backup_pipeline_tests.engine.trees import state_of
from backup_pipeline_tests.faults.launcher import Launcher, Ran
from backup_pipeline_tests.faults.mounts import BLOCK_BYTES, full_but_for, mounted_memory
from backup_pipeline_tests.faults.rig import COMMANDS, DATASET, Rig, local_stores
from backup_pipeline_tests.faults.scene import fast_folder, same_state
from backup_pipeline_tests.promises import Cases

LEVELS = 25
MIB = 1 << 20
ROOM_BYTES, ROOM_FILES = 64 * MIB, 20_000
FEW_FILES = 40  # more than any run here makes


def expect_clear(ran: Ran, place: Path) -> None:
    """Exit code 3, and an error that names the place and says what to do."""
    assert ran.code == 3, ran.said
    assert "Traceback" not in ran.said
    assert ran.said.count("HINT:") == 1, ran.said
    assert str(place) in ran.said, ran.said
    assert "free some space" in ran.said, ran.said


def expect_tidy(place: Path) -> None:
    """No unfinished file takes room."""
    assert not list(place.rglob(".tmp-*"))


def filled(
    place: Path, number: int, levels: int, needed_bytes: int
) -> AbstractContextManager[None]:
    """One level: by bytes from none to all that is needed; every fifth by files instead."""
    share = number / levels
    if number % 5 == 4:
        return full_but_for(place, files=int(share * FEW_FILES))
    blocks = int(share * needed_bytes) // BLOCK_BYTES
    return full_but_for(place, free_bytes=blocks * BLOCK_BYTES)


@pytest.mark.faults
@pytest.mark.promise("committed")
@pytest.mark.parametrize("verb", ["backup", "copy"])
def test_a_store_that_is_full_is_said_and_harms_nothing(verb: str, cases: Cases) -> None:
    tier, command = COMMANDS[verb]
    chance = random.Random(cases.seed)
    with fast_folder() as folder, mounted_memory(ROOM_BYTES, ROOM_FILES) as memory:
        stores = local_stores(memory if tier == "local" else folder, memory)
        rig = Rig(folder, stores, cases.seed)
        with Launcher(folder, {}) as launch:
            for one in ("backup", "copy") if verb == "copy" else ("backup",):
                launch(*COMMANDS[one][1], good=True)
                rig.take_note(COMMANDS[one][0])
            levels, failed, needed_bytes = cases.scaled(LEVELS), 0, MIB // 4
            for number in sorted(range(levels), key=lambda _: chance.random()):
                rig.change()
                if verb == "copy":
                    launch(*COMMANDS["backup"][1], good=True)
                    rig.take_note("local")
                with filled(memory, number, levels, needed_bytes):
                    ran = launch(*command)
                    if ran.code != 0:
                        expect_clear(ran, memory)
                        expect_tidy(memory)
                        failed += 1
                    rig.take_note(tier)
                launch(*command, good=True)
                rig.take_note(tier)
                rig.check_sound(tier, mended=True)
                cases.add()
            rig.check_all(tier)
    assert failed > levels // 4


@pytest.mark.faults
@pytest.mark.promise("errors")
def test_a_target_that_is_full_is_said_and_the_restore_goes_on_later(cases: Cases) -> None:
    with fast_folder() as folder, mounted_memory(ROOM_BYTES, ROOM_FILES) as memory:
        rig = Rig(folder, local_stores(folder), cases.seed)
        state = state_of(rig.scene.source)
        levels, failed = cases.scaled(10), 0
        with Launcher(folder, {}) as launch:
            launch(*COMMANDS["backup"][1], good=True)
            for number in range(levels):
                target = memory / f"target-{number}"
                command = ("restore", DATASET, "--to", str(target))
                with filled(memory, number, levels, MIB):
                    ran = launch(*command)
                    if ran.code != 0:
                        expect_clear(ran, target)
                        failed += 1
                launch(*command, good=True)
                assert same_state(state_of(target), state)
                cases.add()
    assert failed > levels // 4

"""Power that goes out in the middle of a run costs nothing that had been acknowledged.

The store lies on an ext4 file system of its own, which is shut down right before or after one of
the program's calls: what was not synced by then never reaches the disk. Every third time the power
goes out only after the program has ended well.
"""

from __future__ import annotations

import random

import pytest

from backup_pipeline_tests.faults.launcher import KILLED, Launcher
from backup_pipeline_tests.faults.mounts import lose_power, mounted_disk
from backup_pipeline_tests.faults.rig import COMMANDS, Rig, local_stores
from backup_pipeline_tests.faults.scene import fast_folder
from backup_pipeline_tests.promises import Cases

MOMENTS = 25
DISK_BYTES = 96 << 20


@pytest.mark.faults
@pytest.mark.promise("committed")
@pytest.mark.parametrize("verb", ["backup", "copy"])
def test_a_power_cut_costs_nothing_that_was_acknowledged(verb: str, cases: Cases) -> None:
    tier, command = COMMANDS[verb]
    chance = random.Random(f"{cases.seed} {verb}")
    with fast_folder() as folder, mounted_disk(DISK_BYTES) as disk:
        stores = local_stores(disk.place if tier == "local" else folder, disk.place)
        rig = Rig(folder, stores, cases.seed)
        with Launcher(folder, {}) as launch:
            moments, events = cases.scaled(MOMENTS), 60
            for number in range(moments):
                if verb == "copy":
                    launch(*COMMANDS["backup"][1], good=True)
                    rig.take_note("local")
                known = len(rig.known[tier])
                if number % 3 == 2:
                    events = launch(*command, good=True).events
                    lose_power(disk.place)
                else:
                    event = 1 + int((number + chance.random()) / moments * (events - 1))
                    at = chance.choice((event, -event))
                    ran = launch(*command, kill_at=at, power_of=disk.place)
                    assert ran.code in {KILLED, 0}, ran.said
                disk.pull_out()
                disk.plug_in()
                found = rig.take_note(tier)
                if number % 3 == 2:
                    assert len(found) == known + 1, "what was acknowledged is gone"
                launch(*command, good=True)
                rig.take_note(tier)
                rig.check_sound(tier, mended=True)
                rig.change()
                cases.add()
            rig.check_all(tier)

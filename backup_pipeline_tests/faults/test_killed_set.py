"""Killed between its members' commits, a set's backup leaves no false cut."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from backup_pipeline.engine.keys import new_key_file
from backup_pipeline.plan import load_plan
from backup_pipeline.runner import Runner
from backup_pipeline_tests.faults.launcher import KILLED, Launcher
from backup_pipeline_tests.faults.scene import fast_folder
from backup_pipeline_tests.promises import Cases

MEMBERS = ("vision/a", "vision/b", "vision/c")
CAPTURE = ("backup", "--set", "champion", "--plan", "backup.yaml")
FIRST_EVENT, STEP = 100, 5
"""Of the events of a run: before it there is no commit; and fewer than a commit has."""


def generation(folder: Path, number: int) -> None:
    for key in MEMBERS:
        path = folder / "data" / key / "state"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{number} " * (number + 1))


def whole_and_partial(folder: Path, name: str) -> tuple[set[int], int]:
    """Generations of the whole cuts, each restored and found to be one; and how many are not."""
    found: set[int] = set()
    with Runner(load_plan(folder / "backup.yaml")) as runner:
        cuts = runner.cuts("champion")
        for cut in (one for one in cuts if one.whole):
            texts: set[str] = set()
            for key in cut.members:
                to = folder / "back" / name / cut.id / key
                assert runner.restore(key, to, snapshot=cut.found[key].id).ok
                texts.add((to / "state").read_text())
            assert len(texts) == 1, "a cut of two generations"
            found.add(int(texts.pop().split()[0]))
    return found, sum(not one.whole for one in cuts)


@pytest.mark.faults
@pytest.mark.promise("committed")
def test_killed_between_two_members_commits_a_set_has_no_false_cut(cases: Cases) -> None:
    with fast_folder() as folder:
        (folder / "key").write_text(new_key_file())
        plan = {
            "start": datetime.now(UTC).date().isoformat(),
            "stores": {"local": str(folder / "store")},
            "keys": {"main": {"key_file": {"file": "key"}}},
            "datasets": [{"assets": list(MEMBERS), "source": "data/{asset}"}],
            "sets": {"champion": {"members": list(MEMBERS)}},
        }
        (folder / "backup.yaml").write_text(json.dumps(plan))
        generation(folder, 0)
        good, found, partial = {0}, set[int](), 0
        with Launcher(folder, {}) as launch:
            launch(*CAPTURE, good=True)
            for number in range(1, 1 + cases.scaled(2)):
                generation(folder, number)
                for at in range(FIRST_EVENT + number, 10_000, STEP):
                    ran = launch(*CAPTURE, kill_at=at if number % 2 else -at)
                    assert ran.code in {KILLED, 0}, ran.said
                    cases.add(ran.code == KILLED)
                    found, parts = whole_and_partial(folder, f"{number}-{at}")
                    assert good <= found <= {*good, number}
                    partial += parts
                    if ran.code == 0:
                        break
                assert number in found, "a run that came to its end made no cut"
                good.add(number)
        assert cases.count
        assert partial, "no kill fell between two commits"

"""Which promise a test proves, with how many cases and from which seed, for docs/reliability.md.

    @pytest.mark.promise("committed")
    def test_a_process_that_is_killed_loses_nothing(cases: Cases) -> None:
        chance = random.Random(cases.seed)
        for _ in range(cases.scaled(200)):
            ...
            cases.add()

Every test with the mark is a row of the table that ``python -m benchmarks.reliability`` makes of
a run's JUnit XML; the fixture is only needed where one test runs through many cases. Variants of
one parametrized test are added up in one row.

BACKUP_FAULT_CASES scales the numbers (0.1 for a tenth, 10 for ten times as many) and
BACKUP_FAULT_SEED begins elsewhere; the seed is printed where a test fails.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

__all__ = ["PROMISES", "Cases", "cases", "pytest_collection_modifyitems"]

PROMISES = {
    "committed": "Committed means restorable: no crash, full disk, power cut or failing store"
    " costs a snapshot that was committed, and the next run succeeds",
    "errors": "Whatever a store does, an operation ends with success or one clear error, in"
    " bounded time",
    "damage": "Damage is named by `verify`, and wrong bytes are never restored",
    "decoders": "Whatever bytes are read, decoding ends with a clear error in bounded memory",
    "target": "A restore writes nothing outside its target",
    "deletion": "Nothing is deleted by surprise",
    "repair": "A repair heals what can be healed and never makes things worse",
    "concurrency": "Those who work at the same time lose nothing of each other's",
    "endurance": "What the policy promises is there, whatever happened on the way",
    "format": "What was stored once stays readable",
}
"""Key of the mark: what is promised. Rows of the table come in this order."""

DEFAULT_SEED = 20261122


class Cases:
    """How many cases a test runs through, and from which seed.

    Attributes:
        count: Cases so far.
        seed: For the test's own ``random.Random``.
    """

    def __init__(self, seed: int, scale: float) -> None:
        self.count = 0
        self.seed = seed
        self._scale = scale

    def add(self, count: int = 1) -> None:
        """Count cases that were run."""
        self.count += count

    def scaled(self, usual: int) -> int:
        """How many cases to run where so many are usual; at least one."""
        return max(1, round(usual * self._scale))


@pytest.fixture
def cases(request: pytest.FixtureRequest) -> Iterator[Cases]:
    """Counts the cases of one test."""
    seed = int(os.environ.get("BACKUP_FAULT_SEED") or DEFAULT_SEED)
    found = Cases(seed, float(os.environ.get("BACKUP_FAULT_CASES") or 1))
    print(f"BACKUP_FAULT_SEED={seed} repeats this")
    yield found
    request.node.user_properties.append(("cases", found.count))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Write each test's promise into the report of the run."""
    for item in items:
        for mark in item.iter_markers("promise"):
            [key] = mark.args
            if key not in PROMISES:
                raise pytest.UsageError(f"{item.nodeid}: no promise {key!r} in {__name__}")
            item.user_properties.append(("promise", key))

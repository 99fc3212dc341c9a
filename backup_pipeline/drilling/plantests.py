"""A plan's tests of a dataset's restored copy: what they need of it, and what they say."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from backup_pipeline.drilling.functions import call
from backup_pipeline.drilling.tables import judge_tables
from backup_pipeline.engine.manifest import matching
from backup_pipeline.engine.operations.drill_report import Outcome
from backup_pipeline.plan.drilltests import DrillTest, TableTest

__all__ = ["PlanTests"]


class PlanTests:
    """The tests of one dataset.

    Args:
        tests: As the plan declares them.
    """

    def __init__(self, tests: Sequence[DrillTest]) -> None:
        self._tests = tests

    def wanted(self, paths: Sequence[bytes], sampled: Sequence[bool]) -> list[int]:
        """As ``Tests`` says: what functions need, and of each kind of table at least one."""
        found: set[int] = set()
        for test in self._tests:
            about = _matching(paths, [test.table] if isinstance(test, TableTest) else test.needs)
            if isinstance(test, TableTest) and test.take == "sample":
                about = [] if any(sampled[i] for i in about) else about[:1]
            found.update(about)
        return sorted(found)

    def run(self, place: Path, paths: Sequence[bytes], restored: Sequence[bytes]) -> list[Outcome]:
        """As ``Tests`` says."""
        return [self._run(test, place, paths, restored) for test in self._tests]

    def _run(
        self, test: DrillTest, place: Path, paths: Sequence[bytes], restored: Sequence[bytes]
    ) -> Outcome:
        if isinstance(test, TableTest):
            names = [os.fsdecode(restored[i]) for i in _matching(restored, [test.table])]
            return judge_tables(test, place, names, len(_matching(paths, [test.table])))
        needed = len(_matching(restored, test.needs))
        missing = [glob for glob in test.needs if not _matching(restored, [glob])]
        if missing:
            reason = f"no file of the snapshot matches {', '.join(missing)}"
            return Outcome(test.check, False, reason)
        return call(test.check, place, needed)


def _matching(paths: Sequence[bytes], globs: Sequence[str]) -> list[int]:
    """Which of the paths any of the globs match."""
    mask = matching(pa.array(paths, pa.binary()), globs)
    return [i for i, yes in enumerate(mask.to_pylist()) if yes] if mask is not None else []

"""Whether a snapshot is as complete as its plan expects: its manifest beside the one before."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from backup_pipeline.runner.days import is_good

if TYPE_CHECKING:
    from backup_pipeline.engine.format.record import Snapshot
    from backup_pipeline.engine.operations.expected import CompletenessReport
    from backup_pipeline.engine.repository import Repository
    from backup_pipeline.plan import Completeness

__all__ = ["complete"]


def complete(
    repository: Repository, found: Snapshot, rules: Completeness | None, folders: list[str]
) -> CompletenessReport:
    """Hold a snapshot's manifest against what a plan expects of it.

    Args:
        repository: Where the snapshot is.
        found: The snapshot.
        rules: What the plan expects; None where it says nothing.
        folders: May hold the modules that the plan names.
    """
    from backup_pipeline.engine.operations.expected import CompletenessReport, Expected, expect

    report = CompletenessReport(
        found.id, found.dataset, found.tier, found.day.isoformat(), found.status
    )
    if rules is None:
        return report
    before = _before(repository, found)
    report.compared_with = before.id if before is not None else None
    expected = Expected(rules.shrink, rules.emptied == "accept", rules.paths)
    report.tests += expect(repository, found, before, expected)
    if rules.suite is not None:
        sys.path.extend(folder for folder in folders if folder not in sys.path)
        from backup_pipeline.drilling.manifests import judge_manifest

        report.tests.append(judge_manifest(rules.suite, repository, found, before))
    return report


def _before(repository: Repository, snapshot: Snapshot) -> Snapshot | None:
    """The good snapshot before one, by when the source was read."""
    here = (snapshot.captured_at, snapshot.sequence)
    earlier = [
        one
        for one in repository.snapshots()
        if is_good(one) and (one.captured_at, one.sequence) < here
    ]
    return max(earlier, key=lambda one: (one.captured_at, one.sequence), default=None)

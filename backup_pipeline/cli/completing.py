"""The verb that holds manifests against what the plan expects of them: complete."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

import click

from backup_pipeline.cli.call import Call
from backup_pipeline.cli.options import DAY, SNAPSHOT, TIER, day_or_none, verb
from backup_pipeline.engine.errors import NotFound

if TYPE_CHECKING:
    from backup_pipeline.engine.operations.expected import CompletenessReport

__all__ = ["complete"]


@verb(bare=False, content=True, pandas=True)
@TIER
@DAY
@SNAPSHOT
def complete(call: Call, tier: str | None, day: datetime | None, snapshot: str | None) -> int:
    """Hold a snapshot against what the plan's completeness expects of it.

    Without a dataset: all of them. Without --tier: every tier. Without --day or --snapshot: the
    newest good snapshot.
    """
    if snapshot is not None and call.dataset is None:
        raise click.UsageError("a snapshot is one dataset's: name the dataset")
    reports: list[CompletenessReport] = []
    with call.runner() as runner:
        places = runner.all_places(call.dataset, tier)
        wanted = [(one.dataset, one.tier) for one in places]
        if snapshot is not None:
            wanted = [(call.wanted(runner), tier)]
        for key, name in wanted:
            try:
                found = runner.complete(key, name, day=day_or_none(day), snapshot=snapshot)
            except NotFound:
                # A tier that has nothing yet is no failure, unless it was asked for by name.
                if tier is not None or snapshot is not None:
                    raise
                continue
            reports.append(found)
        if not reports:
            raise NotFound(
                "there is no snapshot to look at" + (f" of {day.date()}" if day else ""),
                "list what there is with `backup-pipeline snapshots`",
            )
        good = all(one.ok for one in reports)
        document = {"ok": good, "snapshots": [one.to_json() for one in reports]}
        call.answer(document, lambda: _show(reports))
    return 0 if good else 1


def _show(reports: list[CompletenessReport]) -> None:
    for report in reports:
        where = f"{report.dataset} in {report.tier}, {report.day} (snapshot {report.snapshot[:12]})"
        print(f"{where}: {'as expected' if report.ok else 'NOT AS EXPECTED'}")
        if report.status != "complete":
            print("  it is incomplete: `backup-pipeline snapshots` says what could not be read")
        for one in report.tests:
            print(f"  {'good' if one.passed else 'BAD'}: {one.name}: {one.reason}")
        if not report.tests:
            print("  the plan expects nothing more: see `completeness`")

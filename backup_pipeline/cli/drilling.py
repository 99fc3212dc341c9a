"""The verb that proves a restore: drill."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from backup_pipeline.cli.call import Call, explain
from backup_pipeline.cli.each_tier import Failures, in_tier, require_some, wanted_tiers
from backup_pipeline.cli.options import DAY, SNAPSHOT, TIER, day_or_none, verb
from backup_pipeline.cli.restoring import SHOWN_LINES

if TYPE_CHECKING:
    from backup_pipeline.engine.operations.drill import DrillReport
    from backup_pipeline.runner import Reader

__all__ = ["drill"]


@verb(bare=True, content=True, pandas=True)
@TIER
@DAY
@SNAPSHOT
@click.option(
    "--sample",
    metavar="all|N%",
    help="How much to restore; default: as the plan says, 5% with --store.",
)
@click.option("--no-tests", is_flag=True, help="Leave out the plan's tests of the restored copy.")
def drill(
    call: Call,
    tier: str | None,
    day: datetime | None,
    snapshot: str | None,
    sample: str | None,
    no_tests: bool,
) -> int:
    """Restore a sample to scratch; compare, time and test it.

    Without a dataset: all of them. Without --tier: every tier. Without --day or --snapshot: the
    newest good snapshot. Drills take turns, so that everything is drilled in the end.
    """
    from backup_pipeline.runner import parse_share

    if sample is not None:
        parse_share(sample)
    reports: list[DrillReport] = []
    failures: Failures = []
    with call.reader() as reader:
        for key, name in wanted_tiers(call, reader, tier, selected=snapshot is not None):
            with in_tier(key, name, failures, named=tier is not None or snapshot is not None):
                for which, share in _chosen(reader, key, name, day, snapshot, sample):
                    found = reader.drill(
                        key, name, snapshot=which, sample=share, tests=not no_tests
                    )
                    reports.append(found)
                    for text in reader.notices:
                        call.notice(text)
                    reader.notices.clear()
        require_some("drill", [*reports, *failures], day)
        call.answer(_document(reports, failures), lambda: _show(reports, failures))
    if not all(report.ok for report in reports):
        return 1
    return max((error.exit_code for _, _, error in failures), default=0)


def _chosen(
    reader: Reader,
    key: str,
    tier: str | None,
    day: datetime | None,
    snapshot: str | None,
    sample: str | None,
) -> list[tuple[str, str | float | None]]:
    """Pairs of snapshot and share: what was asked for, else what is due."""
    if day is not None or snapshot is not None:
        _, found = reader.find(key, tier=tier, day=day_or_none(day), snapshot=snapshot)
        return [(found.id, sample)]
    due = reader.to_drill(key, tier, sample=sample)
    return [(one.id, reader.share_of_each(key, sample)) for one in due]


def _document(reports: list[DrillReport], failures: Failures) -> dict[str, Any]:
    return {
        "ok": all(report.ok for report in reports) and not failures,
        "drills": [report.to_json() for report in reports],
        "errors": [
            {"dataset": key, "tier": tier, "error": explain(error)} for key, tier, error in failures
        ],
    }


def _show(reports: list[DrillReport], failures: Failures) -> None:
    for report in reports:
        _show_one(report)
    for key, tier, error in failures:
        print(f"{key} in {tier}: could not be drilled: {error}")


def _show_one(report: DrillReport) -> None:
    from backup_pipeline.cli.tables import count, share
    from backup_pipeline.engine.progress import human_bytes, human_seconds

    print(
        f"{report.dataset} in {report.tier}, {report.day} (snapshot {report.snapshot[:12]}):"
        f" {'good' if report.ok else 'FAILED'}"
    )
    result = "equal to the manifest" if report.equal else f"{report.mismatch_count} DIFFER"
    print(
        f"  bytes: {count(report.files, 'file')}, {human_bytes(report.bytes)}"
        f" ({share(report.sample_fraction)}) restored, {result}"
    )
    for one in report.mismatches[:SHOWN_LINES]:
        print(f"    {one['path']}: {one['reason']}")
    print(f"  time: {report.time_sentence()}")
    for test in report.tests:
        took = human_seconds(test.elapsed_s)
        print(f"  test: {test.name}: {'passed' if test.passed else 'FAILED'} in {took}")
        print(f"    {test.reason}")
    if report.verified_share is not None:
        since = f", since {report.oldest_verified_at[:10]}" if report.oldest_verified_at else ""
        print(f"  verified by drills, as it is now: {share(report.verified_share)}{since}")
    if report.covers_in_s is not None and report.covers_in_s:
        print(f"  at this pace everything is drilled in {human_seconds(report.covers_in_s)}")

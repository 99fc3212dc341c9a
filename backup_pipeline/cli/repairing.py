"""The verb that puts damage right: repair."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from backup_pipeline.cli.call import Call, explain
from backup_pipeline.cli.options import TIER, verb
from backup_pipeline.engine.errors import BackupError, NotFound

if TYPE_CHECKING:
    from backup_pipeline.engine.operations.repair import RepairReport

__all__ = ["repair"]

SHOWN_LINES = 20


@verb(bare=False, content=True)
@TIER
@click.option("--apply", is_flag=True, help="Do it; else it is only said what would be.")
@click.option(
    "--from-source/--no-source",
    default=True,
    show_default=True,
    help="Whether content may be had from the dataset itself, where it still is.",
)
@click.option(
    "--read-data",
    metavar="all|N%",
    default="all",
    show_default=True,
    help="How much of the stored content to read to find damage.",
)
def repair(call: Call, tier: str | None, apply: bool, from_source: bool, read_data: str) -> int:
    """Put right what is damaged, from wherever it still is.

    Without a dataset: all of them. Without --tier: every tier. What one tier lost is had from the
    others, from other packs of the same tier, and from the dataset itself. What nobody has any
    more is named file by file.
    """
    from backup_pipeline.runner import parse_share

    parse_share(read_data)
    reports: list[RepairReport] = []
    failures: list[tuple[str, str, BackupError]] = []
    with call.runner() as runner:
        for place in runner.all_places(call.dataset, tier):
            try:
                report = runner.repair(
                    place.dataset,
                    place.tier,
                    apply=apply,
                    from_source=from_source,
                    read_data=read_data,
                )
            except NotFound:
                if tier is not None and call.dataset is not None:
                    raise
                continue
            except BackupError as error:
                failures.append((place.dataset, place.tier, error))
                continue
            report.notes += [one for one in runner.notices if one not in report.notes]
            reports.append(report)
        runner.notices.clear()  # the reports have them
        call.answer(_document(reports, failures), lambda: _show(reports, failures))
    if not all(report.ok for report in reports):
        return 1
    return max((error.exit_code for _, _, error in failures), default=0)


def _document(
    reports: list[RepairReport], failures: list[tuple[str, str, BackupError]]
) -> dict[str, Any]:
    return {
        "ok": all(report.ok for report in reports) and not failures,
        "tiers": [report.to_json() for report in reports],
        "errors": [
            {"dataset": key, "tier": tier, "error": explain(error)} for key, tier, error in failures
        ],
    }


def _show(reports: list[RepairReport], failures: list[tuple[str, str, BackupError]]) -> None:
    for report in reports:
        _show_one(report)
    for key, tier, error in failures:
        print(f"{key} in {tier}: could not be repaired: {error}")


def _show_one(report: RepairReport) -> None:
    from backup_pipeline.cli.tables import count
    from backup_pipeline.engine.progress import human_bytes, human_seconds

    if report.parity_added:
        got = "got" if report.applied else "would get"
        packs = count(report.parity_added, "pack")
        print(f"{report.dataset} in {report.tier}: {packs} {got} the parity that they lacked")
    if not report.damage_count:
        print(f"{report.dataset} in {report.tier}: nothing is damaged")
        return
    state = "REPAIRED" if report.ok else "DAMAGED" if report.applied else "WOULD BE REPAIRED"
    if not report.applied and (report.left_count or report.lost_snapshots):
        state = "WOULD BE REPAIRED IN PART"
    print(
        f"{report.dataset} in {report.tier}: {state};"
        f" {count(report.damage_count, 'thing')} damaged, {report.mended_count} put right,"
        f" {report.left_count} left, in {human_seconds(report.duration_s)}"
    )
    for one in report.mended[:SHOWN_LINES]:
        print(f"  {one['name']}: {one['how']}")
    for one in report.left[:SHOWN_LINES]:
        print(f"  STAYS DAMAGED: {one['name']}: {one['why']}")
    for tier, size_bytes in report.elsewhere.items():
        print(f"  had from tier {tier}: {human_bytes(size_bytes)}")
    if report.from_source_bytes:
        print(f"  had from the dataset itself: {human_bytes(report.from_source_bytes)}")
    for note in report.notes[:SHOWN_LINES]:
        print(f"  note: {note}")
    for one in report.lost_snapshots[:SHOWN_LINES]:
        print(f"  LOST: snapshot {one['snapshot'][:12]} of {one['day']}: no tier can list it")
    if report.lost_count:
        size = human_bytes(report.lost_bytes)
        print(f"  LOST: {count(report.lost_count, 'file')}, {size}")
    for one in report.lost[:SHOWN_LINES]:
        needed = ", ".join(name[:12] for name in one["snapshots"][:SHOWN_LINES])
        print(f"    {one['path']} ({human_bytes(one['bytes'])}) in {needed}")
    if not report.applied:
        print(
            f"  nothing was written: backup-pipeline repair {report.dataset}"
            f" --tier {report.tier} --apply"
        )

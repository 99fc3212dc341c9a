"""How the verb ``restore`` works in place, and how that ends."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from backup_pipeline.cli.call import Call
from backup_pipeline.engine.errors import UsageError

if TYPE_CHECKING:
    from datetime import date

    from backup_pipeline.engine.operations.in_place_report import InPlaceReport
    from backup_pipeline.engine.operations.undo import EndReport

__all__ = ["check_options", "end", "restore_in_place", "show_estimate"]

SHOWN_LINES = 20


def check_options(
    *, to: str | None, in_place: bool, undo: bool, accept: bool, delete: bool, checksum: bool
) -> None:
    """Refuse options that do not go together.

    Raises:
        UsageError: They do not.
    """
    if sum((in_place, undo, accept)) > 1:
        raise click.UsageError("give one of --in-place, --undo and --accept")
    if (delete or checksum) and not in_place:
        raise click.UsageError("--delete and --checksum go with --in-place")
    if to == "" or (to is None and not (in_place or undo or accept)):
        raise click.UsageError("restore needs --to DIR, or --in-place; DIR is not empty")


def end(call: Call, to: str | None, day: date | None, *, accepted: bool) -> int:
    """Undo or accept the restore in place that was begun where a dataset lives, or in a folder."""
    from backup_pipeline.engine.operations.undo import accept, undo

    if to is not None:
        root = Path(to).absolute()
    elif call.store is not None:
        raise UsageError(
            "without a plan it is not known where it was restored", "name the folder: --to DIR"
        )
    else:
        with call.reader() as reader:
            root = reader.home(call.wanted(reader), day)
    report = accept(root) if accepted else undo(root)
    call.answer(report.to_json(), lambda: _show_end(report))
    return 0


def _show_end(report: EndReport) -> None:
    from backup_pipeline.cli.tables import count
    from backup_pipeline.engine.progress import human_bytes

    what = f"{count(report.files, 'file')}, {human_bytes(report.bytes)}"
    if report.done == "accepted":
        print(f"accepted {report.dataset} of {report.day} in {report.target}: {what} dropped")
    else:
        print(f"undone in {report.target}, which is as it was: {what} put back")
    if report.since is not None:
        print(f"  what was changed after the restore is kept in {report.since}")
        print("  take what you need of it, then drop it with --accept")
    for notice in report.notices[:SHOWN_LINES]:
        print(f"  note: {notice}")


def restore_in_place(call: Call, to: str | None, wish: dict[str, Any]) -> int:
    """Restore in place; ``wish`` is what ``Reader.restore_in_place`` takes, its time as text."""
    from backup_pipeline.runner import parse_time

    with call.reader() as reader:
        if wish["at"] is not None:
            wish["at"] = parse_time(wish["at"], reader.zone)
        report = reader.restore_in_place(call.wanted(reader), to, **wish)
        reader.notices.clear()  # the report has them
        call.answer(report.to_json(), lambda: _show(report, named=to is not None))
    return 0 if report.ok else 1


def _show(report: InPlaceReport, *, named: bool) -> None:
    from backup_pipeline.cli.tables import count
    from backup_pipeline.engine.progress import human_bytes, human_seconds

    what = f"{report.dataset} of {report.day} (snapshot {report.snapshot[:12]}, {report.tier})"
    if report.dry_run:
        print(f"would make {report.target} equal to {what}")
    elif not report.kept and report.ok:
        print(f"{report.target} is equal to {what} already")
    else:
        took = human_seconds(report.duration_s)
        print(f"made {report.target} equal to {what} in {took}")
    print(
        f"  {'to put' if report.dry_run else 'put'} in place:"
        f" {count(report.written_files, 'file')}, {human_bytes(report.written_bytes)};"
        f" fetched: {human_bytes(report.fetched_bytes)},"
        f" copied from what is there: {human_bytes(report.copied_bytes)};"
        f" right already: {count(report.same_files, 'file')}"
    )
    if report.retouched:
        print(f"  another mode, owner or time only: {report.retouched}")
    if report.extra_files:
        verb = "--delete moves them aside, too"
        print(
            f"  not in the snapshot, and left there: {count(report.extra_files, 'file')},"
            f" {human_bytes(report.extra_bytes)} ({verb})"
        )
    _show_kept(report, named)
    show_estimate(report.estimate)
    for notice in report.notices[:SHOWN_LINES]:
        print(f"  note: {notice}")
    for title, found in (("NOT RESTORED", report.damage), ("NOT RIGHT", report.mismatches)):
        if found:
            print(f"  {title}: {count(len(found), 'entry', 'entries')}")
        for one in found[:SHOWN_LINES]:
            print(f"    {one['path']}: {one['reason']}")


def _show_kept(report: InPlaceReport, named: bool) -> None:
    from backup_pipeline.cli.tables import count
    from backup_pipeline.engine.progress import human_bytes

    kept = f"{count(report.kept_files, 'file')}, {human_bytes(report.kept_bytes)}"
    gone = f", {report.removed_files} of them not in the snapshot" if report.removed_files else ""
    if report.dry_run:
        print(f"  to keep aside until you accept it: {kept}{gone}")
    elif report.kept:
        state = "read back, and right" if report.verified else "NOT verified"
        where = f" --to {report.target}" if named else ""
        print(f"  what was put in place: {state}")
        print(f"  kept aside: {kept}{gone}, in {report.aside}")
        print(f"  put it back: backup-pipeline restore {report.dataset} --undo{where}")
        print(f"  or drop it:  backup-pipeline restore {report.dataset} --accept{where}")


def show_estimate(estimate: dict[str, Any] | None) -> None:
    """Print from where a restore would read, and how long it would take."""
    from backup_pipeline.engine.progress import human_bytes, human_seconds

    if estimate is None:
        return
    rate = estimate["rate"]
    speed = f"{human_bytes(rate['bytes_per_s'])}/s"
    said = f"at {speed}, which is assumed: nothing was restored from there yet"
    if rate["said_by"] == "measured":
        said = f"at {speed}, as measured with {rate['dataset']} on {rate['measured_at'][:10]}"
    then = f"; what is damaged there from {', '.join(estimate['then'])}" if estimate["then"] else ""
    print(f"  from tier {estimate['tier']} ({estimate['store']}){then}")
    print(f"  it would take about {human_seconds(estimate['seconds'])}, {said}")

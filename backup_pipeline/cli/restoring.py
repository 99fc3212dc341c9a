"""The verbs that read stored bytes back: restore and verify."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from backup_pipeline.cli.call import Call, explain
from backup_pipeline.cli.each_tier import Failures, in_tier, require_some, wanted_tiers
from backup_pipeline.cli.loading import Loading
from backup_pipeline.cli.options import AT, DAY, INCLUDE, SNAPSHOT, TIER, day_or_none, verb
from backup_pipeline.cli.sets import SET, refuse_both, restore_set
from backup_pipeline.engine.errors import BackupError

if TYPE_CHECKING:
    from backup_pipeline.engine.operations.restore import RestoreReport
    from backup_pipeline.engine.operations.verify import VerifyReport

__all__ = ["SHOWN_LINES", "restore", "verify"]

SHOWN_LINES = 20


@verb(bare=True, content=True)
@click.option(
    "--to",
    metavar="DIR|URL",
    help="The directory to restore to, made if need be; or s3://bucket/prefix.",
)
@SET
@TIER
@DAY
@AT
@SNAPSHOT
@click.option(
    "--before-change",
    "changed",
    metavar="GLOB",
    multiple=True,
    help="The newest snapshot from before the newest change of these files. May be repeated.",
)
@INCLUDE
@click.option("--into", metavar="URL", help="A database to load what was restored into.")
@click.option("--in-place", is_flag=True, help="Make where the dataset lives, or DIR, equal to it.")
@click.option("--delete", is_flag=True, help="In place: move aside what the snapshot has not.")
@click.option("--checksum", is_flag=True, help="In place: read every file to know if it differs.")
@click.option("--undo", is_flag=True, help="Put back what a restore in place replaced.")
@click.option("--accept", is_flag=True, help="Drop what a restore in place replaced.")
@click.option("--dry-run", is_flag=True, help="Only say what would be done, and how long it takes.")
def restore(
    call: Call,
    to: str | None,
    set_name: str | None,
    tier: str | None,
    day: datetime | None,
    at: str | None,
    snapshot: str | None,
    changed: tuple[str, ...],
    include: tuple[str, ...],
    into: str | None,
    in_place: bool,
    delete: bool,
    checksum: bool,
    undo: bool,
    accept: bool,
    dry_run: bool,
) -> int:
    """Restore a snapshot, or some of its files, or a consistent set as a whole.

    Without a selector: the newest good snapshot. Files that are there and right are kept, so an
    interrupted restore goes on where it stopped; what is there besides stays.

    With --in-place only what differs is moved, and what was there is kept until you --accept the
    new state, or --undo it.
    """
    from backup_pipeline.cli import in_place as place
    from backup_pipeline.runner import parse_time

    refuse_both(
        call,
        set_name,
        snapshot=snapshot,
        include=include,
        into=into,
        in_place=in_place,
        undo=undo,
        accept=accept,
        before_change=changed,
    )
    place.check_options(
        to=to, in_place=in_place, undo=undo, accept=accept, delete=delete, checksum=checksum
    )
    if into is not None and (in_place or undo or accept):
        raise click.UsageError("--into loads what is restored with --to")
    if undo or accept:
        return place.end(call, to, day_or_none(day), accepted=accept)
    if in_place:
        wish = {
            "tier": tier,
            "day": day_or_none(day),
            "at": at,
            "snapshot": snapshot,
            "changed": changed,
            "include": include,
            "delete": delete,
            "checksum": checksum,
            "dry_run": dry_run,
        }
        return place.restore_in_place(call, to, wish)
    assert to is not None
    loading = Loading(into, partly=bool(include) or dry_run)
    with call.reader() as reader:
        if set_name is not None:
            return restore_set(
                call,
                reader,
                set_name,
                to,
                tier=tier,
                day=day_or_none(day),
                at=parse_time(at, reader.zone) if at else None,
                dry_run=dry_run,
                show_member=lambda one: _show_restore(one, loading),
            )
        report = reader.restore(
            call.wanted(reader),
            to,
            tier=tier,
            day=day_or_none(day),
            at=parse_time(at, reader.zone) if at else None,
            snapshot=snapshot,
            changed=changed,
            include=include,
            dry_run=dry_run,
        )
        reader.notices.clear()  # the report has them
        loaded = loading.run(to, whole=report.ok)
        call.answer({**report.to_json(), **loaded}, lambda: _show_restore(report, loading))
    return 0 if report.ok else 1


def _show_restore(report: RestoreReport, loading: Loading) -> None:
    from backup_pipeline.cli.in_place import show_estimate
    from backup_pipeline.cli.tables import count
    from backup_pipeline.engine.progress import human_bytes, human_seconds

    what = f"{report.dataset} of {report.day} (snapshot {report.snapshot[:12]}, {report.tier})"
    size = f"{count(report.files, 'file')}, {human_bytes(report.bytes)}"
    if report.dry_run:
        print(f"would restore {what} to {report.target}: {size}")
    else:
        right = report.written_files + report.skipped_files
        share = "" if report.ok else f"{right} of "
        took = human_seconds(report.duration_s)
        print(f"restored {what} to {report.target}: {share}{size} in {took}")
    verb = "to write" if report.dry_run else "written"
    print(
        f"  {verb}: {count(report.written_files, 'file')}, {human_bytes(report.written_bytes)};"
        f" already right: {count(report.skipped_files, 'file')};"
        f" replaced: {count(report.replaced_files, 'file')}"
    )
    print(
        f"  {'to fetch' if report.dry_run else 'fetched'}: {human_bytes(report.fetched_bytes)};"
        f" copied from what is there: {human_bytes(report.copied_bytes)}"
    )
    show_estimate(report.estimate)
    for tier, size_bytes in report.elsewhere.items():
        where = f"{tier} itself, by parity or from other packs," if tier == report.tier else tier
        print(f"  had from tier {where} for damaged packs: {human_bytes(size_bytes)}")
    for notice in report.notices[:SHOWN_LINES]:
        print(f"  note: {notice}")
    if report.damaged_packs:
        print(f"  {count(report.damaged_packs, 'pack')} damaged in tier {report.tier}")
    loading.show()
    if report.ok:
        return
    print(f"  NOT RESTORED: {count(report.damage_count, 'entry', 'entries')}")
    for one in report.damage[:SHOWN_LINES]:
        print(f"    {one['path']}: {one['reason']}")
    print("  no tier that could be asked has them whole; `backup-pipeline snapshots` lists others")


@verb(bare=True, content=True)
@TIER
@DAY
@SNAPSHOT
@click.option(
    "--read-data",
    metavar="all|N%",
    default="all",
    show_default=True,
    help="How much of the stored content to read back.",
)
def verify(
    call: Call, tier: str | None, day: datetime | None, snapshot: str | None, read_data: str
) -> int:
    """Compare what is stored with its digests.

    Without a dataset: all of them. Without --tier: every tier. With --day or --snapshot: only what
    that snapshot needs.
    """
    from backup_pipeline.runner import parse_share

    parse_share(read_data)
    reports: list[VerifyReport] = []
    failures: Failures = []
    with call.reader() as reader:
        for key, name in wanted_tiers(call, reader, tier, selected=snapshot is not None):
            with in_tier(key, name, failures, named=tier is not None or snapshot is not None):
                reports.append(
                    reader.verify(
                        key,
                        tier=name,
                        day=day_or_none(day),
                        snapshot=snapshot,
                        read_data=read_data,
                    )
                )
        require_some("verify", [*reports, *failures], day)
        call.answer(_document(reports, failures), lambda: _show_verify(reports, failures))
    if not all(report.ok for report in reports):
        return 1
    return max((error.exit_code for _, _, error in failures), default=0)


def _document(
    reports: list[VerifyReport], failures: list[tuple[str, str, BackupError]]
) -> dict[str, Any]:
    """Sums over the tiers, and each tier's own report."""
    sums = {
        name: sum(getattr(report, name) for report in reports)
        for name in (
            "snapshots",
            "packs_total",
            "packs_checked",
            "bytes_total",
            "bytes_checked",
            "damage_count",
        )
    }
    total = sums["bytes_total"]
    return {
        "ok": all(report.ok for report in reports) and not failures,
        **sums,
        "coverage": sums["bytes_checked"] / total if total else 1.0,
        "integrity": min((report.integrity for report in reports), default=0.0),
        "damage": [one for report in reports for one in report.damage],
        "tiers": [report.to_json() for report in reports],
        "errors": [
            {"dataset": key, "tier": tier, "error": explain(error)} for key, tier, error in failures
        ],
    }


def _show_verify(reports: list[VerifyReport], failures: list[tuple[str, str, BackupError]]) -> None:
    from backup_pipeline.cli.tables import count, share
    from backup_pipeline.engine.progress import human_bytes, human_seconds

    for report in reports:
        state = "good" if report.ok else "DAMAGED"
        print(
            f"{report.dataset} in {report.tier}: {state}, {count(report.snapshots, 'snapshot')},"
            f" {report.packs_checked} of {count(report.packs_total, 'pack')} read"
            f" ({share(report.coverage)} of {human_bytes(report.bytes_total)})"
            f" in {human_seconds(report.duration_s)}"
        )
        for one in report.damage[:SHOWN_LINES]:
            print(f"  {one['name']}: {one['what']}")
            needed = ", ".join(name[:12] for name in one.get("snapshots", ())[:SHOWN_LINES])
            if needed:
                print(f"    needed by {needed}")
        if report.without_parity:
            print(
                f"  {count(report.without_parity, 'pack')} of a tier with parity without any:"
                f" backup-pipeline repair {report.dataset} --tier {report.tier} --apply"
            )
        if not report.ok:
            print(
                f"  see what can be put right: backup-pipeline repair {report.dataset}"
                f" --tier {report.tier}"
            )
    for key, tier, error in failures:
        print(f"{key} in {tier}: could not be verified: {error}")

"""What the verbs say of consistent sets: backup, restore, snapshots and status with ``--set``."""

from __future__ import annotations

from datetime import date, datetime
from typing import TYPE_CHECKING, Any

import click

from backup_pipeline.cli.call import Call
from backup_pipeline.engine.errors import StoreError

if TYPE_CHECKING:
    from backup_pipeline.runner import Result
    from backup_pipeline.runner.cuts import Cut, SetReader, SetRestoreReport
    from backup_pipeline.runner.setbackup import SetResult
    from backup_pipeline.runner.setstanding import SetStatus

__all__ = [
    "SET",
    "list_cuts",
    "missing_cuts",
    "refuse_both",
    "restore_set",
    "show_sets",
    "tell_set",
]

SHOWN_LINES = 20
SET = click.option(
    "--set", "set_name", metavar="NAME", help="A consistent set as a whole, not one dataset."
)


def refuse_both(call: Call, set_name: str | None, **others: Any) -> None:
    """Refuse what does not go with ``--set``."""
    if set_name is None:
        return
    if call.dataset:
        raise click.UsageError(f"--set {set_name} and dataset {call.dataset} are both given")
    for name, value in others.items():
        if value:
            option = name.replace("_", "-")
            raise click.UsageError(f"--{option} is about one dataset and goes not with --set")


def tell_set(call: Call, result: SetResult, tell: Any) -> int:
    """Say what a backup of a set came to.

    Args:
        call: The call.
        result: What it came to.
        tell: Says what one member's backup came to.

    Returns:
        The exit code.
    """
    for one in result.results.values():
        member: Result = one
        tell(call, member)
    for key, error in result.errors.items():
        call.notice(f"{key}: {error}", "error")
    for text in result.notices:
        call.notice(text)
    head = f"set {result.set} of {result.day} in {result.tier}"
    if result.cut is not None:
        names = ", ".join(result.cut.members)
        call.say(f"{head}: cut {result.cut.id[:12]} of {names}")
        call.say(f"  {result.reason}")
    else:
        call.say(f"{head}: NO CUT; its members' snapshots are ordinary ones")
        call.notice(f"{head}: {result.reason}", "error")
    if result.thaw_error is not None:
        call.notice(str(result.thaw_error), "error")
    return result.exit_code


def list_cuts(call: Call, reader: SetReader, name: str, tier: str | None, day: date | None) -> int:
    """List the cuts of a set, whole or not; without a tier, wherever the members are."""
    from backup_pipeline.cli.tables import count, moment, print_table

    cuts = reader.cuts(name, tier, day=day)

    def show() -> None:
        rows = [
            (
                one.id[:12],
                one.day,
                f"{len(one.found)} of {len(one.members)}",
                one.timing,
                moment(one.captured_at, reader.zone),
                one.proof,
                "whole" if one.whole else "NOT WHOLE",
                ", ".join(one.missing) or "–",
            )
            for one in cuts
        ]
        if rows:
            headings = "cut day >members timing read proof state lacks"
            print_table(headings.split(), rows)
        print(f"{count(sum(one.whole for one in cuts), 'whole cut')} of set {name}")

    call.answer([one.to_json() for one in cuts], show)
    return 0


def restore_set(
    call: Call,
    reader: SetReader,
    name: str,
    to: str,
    *,
    tier: str | None,
    day: date | None,
    at: datetime | None,
    dry_run: bool,
    show_member: Any,
) -> int:
    """Restore one whole cut, each member into a folder of its own."""
    report = reader.restore_set(name, to, tier=tier, day=day, at=at, dry_run=dry_run)
    reader.notices.clear()  # the members' reports have them

    def show() -> None:
        for one in report.members.values():
            show_member(one)
        _show_end(report, report.cut)

    call.answer(report.to_json(), show)
    if report.ok:
        return 0
    return max([1, *(error.exit_code for error in report.errors.values())])


def _show_end(report: SetRestoreReport, cut: Cut) -> None:
    for key, error in report.errors.items():
        print(f"NOT RESTORED: {key}: {error}")
    verb = "would be restored" if report.dry_run else "is restored"
    if report.ok:
        print(f"set {cut.set} of {cut.day} (cut {cut.id[:12]}) {verb} to {report.target}")
        return
    bad = [key for key in cut.members if key not in report.members or not report.members[key].ok]
    print(f"set {cut.set} of {cut.day} is NOT WHOLE in {report.target}: {', '.join(bad)}")


def missing_cuts(call: Call, sets: list[SetStatus]) -> int:
    """Say which days lack a whole cut, and what of it is missing.

    Raises:
        BackupError: A tier could not be asked.
    """
    from backup_pipeline.cli.tables import print_table

    unknown = next((one for one in sets if one.error is not None), None)
    if unknown is not None:
        raise StoreError(f"set {unknown.set} in tier {unknown.tier}: {unknown.error}")
    found = [
        {
            "set": one.set,
            "tier": one.tier,
            "day": day.isoformat(),
            "lacks": list(one.lacking.get(day, one.members)),
        }
        for one in sets
        for day in one.missing_days
    ]

    def show() -> None:
        if found:
            rows = [(one["set"], one["tier"], one["day"], ", ".join(one["lacks"])) for one in found]
            print_table(["set", "tier", "day", "lacks"], rows)
        else:
            print("no day lacks its whole cut")

    call.answer(found, show)
    return 1 if found else 0


def show_sets(sets: list[SetStatus]) -> None:
    """The table of sets below that of tiers."""
    from backup_pipeline.cli.tables import print_table
    from backup_pipeline.engine.progress import human_seconds
    from backup_pipeline.runner import describe_days

    if not sets:
        return
    print()
    rows = [
        (
            one.set,
            one.tier,
            "fresh" if one.fresh else "STALE" if one.error is None else "UNKNOWN",
            "never" if one.newest is None else human_seconds(max(0.0, one.age_s or 0.0)),
            "–" if one.rpo_s is None else human_seconds(one.rpo_s),
            len(one.members),
            one.newest.id[:12] if one.newest else "–",
            len(one.missing_days),
        )
        for one in sets
    ]
    headings = "set tier state >age >rpo >members cut >missing"
    print_table(headings.split(), rows)
    for one in sets:
        if one.error is not None:
            print(f"set {one.set} in {one.tier}: {one.error}")
        if one.missing_days:
            days = describe_days(one.missing_days)
            print(f"set {one.set} in {one.tier} lacks whole cuts of {days}")
        for day, keys in list(one.lacking.items())[-SHOWN_LINES:]:
            print(f"  {day}: {', '.join(keys)} missing")

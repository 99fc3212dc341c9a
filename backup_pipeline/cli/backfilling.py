"""The verbs about missed days: missing and backfill."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

import click

from backup_pipeline.cli.call import Call
from backup_pipeline.cli.options import TIER, day_or_none, verb
from backup_pipeline.cli.sets import SET, missing_cuts, refuse_both
from backup_pipeline.engine.errors import StoreUnavailable

if TYPE_CHECKING:
    from backup_pipeline.runner.missing import BackfillReport, Missed, Unasked

__all__ = ["backfill", "missing"]

_FORMAT = click.DateTime(["%Y-%m-%d"])
_WAYS = {"copy": "a copy from", "source": "the state of that day, from", "late": "late, from"}


def _span(function: Callable[..., int]) -> Callable[..., int]:
    for name, default in (("until", "the newest that is over"), ("since", "the plan's first")):
        option = click.option(
            f"--{name}",
            type=_FORMAT,
            metavar="YYYY-MM-DD",
            help=f"The {'first' if name == 'since' else 'last'} day; default: {default}.",
        )
        function = option(function)
    return function


@verb(bare=False)
@SET
@TIER
@_span
def missing(
    call: Call,
    set_name: str | None,
    tier: str | None,
    since: datetime | None,
    until: datetime | None,
) -> int:
    """Say which days were missed, and where each could still come from.

    A missed day is over, its run was due, and the tier has no good snapshot of it, or, of a set, no
    whole cut. Exit code 1 where any was missed that is wanted back, 3 where a tier cannot be asked.
    """
    refuse_both(call, set_name, since=since, until=until)
    with call.runner() as runner:
        if set_name is not None:
            return missing_cuts(call, runner.set_status(set_name, tier))
        found = runner.missing(
            call.dataset, tier, since=day_or_none(since), until=day_or_none(until)
        )
        unasked = list(runner.unasked)
        _answer_missed(call, found, unasked)
    return _exit_code(any(not one.expendable for one in found), unasked)


@verb(bare=False, content=True)
@TIER
@_span
@click.option("--missing", "missed", is_flag=True, help="All days that were missed.")
@click.option("--exact-only", is_flag=True, help="Leave days that could only be had late.")
@click.option("--dry-run", is_flag=True, help="Only say what would be filled, and from where.")
def backfill(
    call: Call,
    tier: str | None,
    since: datetime | None,
    until: datetime | None,
    missed: bool,
    exact_only: bool,
    dry_run: bool,
) -> int:
    """Fill the days that were missed, as far as they can be had.

    First what can be had exactly, from the first tier on; then what can only be had late, where
    the policy accepts that. Interrupted, it goes on where it ended when it is run again. Exit code
    1 where days stay missing that are wanted back, 3 where a tier cannot be asked.
    """
    if not (missed or since or until):
        raise click.UsageError("which days? give --missing, or --since and --until")
    first, last = day_or_none(since), day_or_none(until)
    with call.runner() as runner:
        if dry_run:
            found = runner.missing(call.dataset, tier, since=first, until=last)
            unasked = list(runner.unasked)
            _answer_missed(call, found, unasked)
            lost = any(one.way is None and not one.expendable for one in found)
            return _exit_code(lost, unasked)
        report = runner.backfill(
            call.dataset,
            tier,
            since=first,
            until=last,
            exact_only=exact_only,
            tell=lambda one, said: call.say(f"{one.dataset} in {one.tier}: {one.day}: {said}"),
        )
        runner.notices[:] = report.notices
        call.answer(report.to_json(), lambda: _show_report(report))
    return _exit_code(any(not one.expendable for one in report.left), report.unasked)


def _exit_code(missed: bool, unasked: Sequence[Unasked]) -> int:
    return 1 if missed else StoreUnavailable.exit_code if unasked else 0


def _answer_missed(call: Call, found: Sequence[Missed], unasked: Sequence[Unasked]) -> None:
    document = {
        "missed": [one.to_json() for one in found],
        "unasked": [one.to_json() for one in unasked],
    }
    call.answer(document, lambda: _show_missed(found))


def _show_missed(found: Sequence[Missed]) -> None:
    from backup_pipeline.cli.tables import count, print_table
    from backup_pipeline.runner.missing import by_run

    rows = [
        (run[0].dataset, run[0].tier, _days(run), len(run), _how(run[0])) for run in by_run(found)
    ]
    if rows:
        print_table(["dataset", "tier", "days", ">count", "can-be-filled-by"], rows)
    print(count(len(found), "missed day"))


def _days(run: Sequence[Missed]) -> str:
    return str(run[0].day) if len(run) == 1 else f"{run[0].day} to {run[-1].day}"


def _how(one: Missed) -> str:
    if one.way is None:
        return f"nothing: {one.reason}"
    if one.way == "nearest":
        return "the nearest day, marked late"
    late = ", marked late" if one.late and one.way == "copy" else ""
    return f"{_WAYS[one.way]} {one.origin}{late}"


def _show_report(report: BackfillReport) -> None:
    from backup_pipeline.cli.tables import count

    late = sum(one.snapshot.timing == "late" for one in report.filled)
    print(f"{count(len(report.filled), 'day')} filled, {late} of them late")
    if report.left:
        print(f"{count(len(report.left), 'day')} stay missing:")
        _show_missed(report.left)

"""The verbs that keep and let go: expire, prune, pin, unpin and why."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from backup_pipeline.cli.call import Call, explain
from backup_pipeline.cli.options import DAY, SNAPSHOT, TIER, day_or_none, verb
from backup_pipeline.engine.errors import BackupError, NotFound

if TYPE_CHECKING:
    from backup_pipeline.engine.operations.prune import PruneReport
    from backup_pipeline.runner import Runner
    from backup_pipeline.runner.keeping import ExpireReport

__all__ = ["expire", "pin", "prune", "unpin", "why"]

_APPLY = click.option("--apply", is_flag=True, help="Do it; else it is only said what would be.")


@verb(bare=False, content=True)
@TIER
@_APPLY
def expire(call: Call, tier: str | None, apply: bool) -> int:
    """Say which snapshots retention lets go, and why; --apply expires them.

    Without a dataset: all of the plan's. What expires is no longer offered for restore; its bytes
    stay until prune deletes them.
    """
    with call.runner() as runner:
        return _each(
            call,
            runner,
            tier,
            lambda dataset, name: runner.expire(dataset, name, apply=apply),
            _show_expiry,
        )


@verb(bare=False, content=True)
@TIER
@_APPLY
def prune(call: Call, tier: str | None, apply: bool) -> int:
    """Say what no snapshot needs any more; --apply deletes it, after a grace.

    What it finds is condemned in the log, and deleted by the first prune after the grace of three
    days. Backups may run meanwhile.
    """
    with call.runner() as runner:
        return _each(
            call,
            runner,
            tier,
            lambda dataset, name: runner.prune(dataset, name, apply=apply),
            _show_prune,
        )


def _each(
    call: Call,
    runner: Runner,
    tier: str | None,
    do: Callable[[str, str], Any],
    show: Callable[[Any], None],
) -> int:
    """One place after the other; one that fails does not stop the rest."""
    document: list[dict[str, Any]] = []
    worst = 0
    for place in runner.all_places(call.dataset, tier):
        try:
            report = do(place.dataset, place.tier)
        except NotFound as error:
            call.notice(error.message)
            continue
        except BackupError as error:
            place_words = {"dataset": place.dataset, "tier": place.tier}
            document.append({**place_words, "error": explain(error)})
            call.notice(f"{place.dataset} in {place.tier}: {error}", "error")
            worst = max(worst, error.exit_code)
            continue
        for text in runner.notices:
            call.notice(text)
        runner.notices.clear()
        document.append(report.to_json())
        if not call.json:
            call.progress.clear()
            show(report)
    call.answer(document, lambda: None)
    return worst


def _show_expiry(report: ExpireReport) -> None:
    from backup_pipeline.cli.tables import count, print_table

    rows = [
        (
            "keep" if verdict.kept else "expire",
            verdict.snapshot.id[:12],
            verdict.snapshot.day,
            verdict.snapshot.kind,
            verdict.snapshot.timing,
            "; ".join(verdict.reasons),
        )
        for verdict in report.verdicts
    ]
    gone = len(report.expired)
    did = "expired" if report.applied else "would expire"
    print(
        f"{report.dataset} in {report.tier}: {count(len(rows) - gone, 'snapshot')} kept,"
        f" {gone:,} {did}"
    )
    if rows:
        print_table(["verdict", "id", "day", "kind", "timing", "why"], rows)
    if gone and not report.applied:
        print("nothing was changed; --apply does it")


def _show_prune(report: PruneReport) -> None:
    from backup_pipeline.cli.tables import count
    from backup_pipeline.engine.progress import human_bytes

    def sized(what: str, words: str) -> str:
        number, size = getattr(report, f"{what}_objects"), getattr(report, f"{what}_bytes")
        return f"  {words}: {count(number, 'object')}, {human_bytes(size)}"

    applied = report.applied
    print(f"{report.dataset} in {report.tier}:")
    print(sized("needed", "needed"))
    if report.running_objects:
        print(sized("running", "of runs that may be at work"))
    print(sized("deleted", "deleted" if applied else "would be deleted now"))
    if report.waiting_objects:
        print(sized("waiting", "condemned before, waiting") + f", until {report.next_deletion}")
    print(sized("condemned", "condemned now" if applied else "would be condemned"))
    for text in report.refused:
        print(f"  not deleted: {text}")
    if report.unknown_count:
        print(f"  unknown, not touched: {count(report.unknown_count, 'object')}")
        for name in report.unknown[:10]:
            print(f"    {name}")
    if not applied:
        print("nothing was changed; --apply does it")


def _reason(default: str) -> Callable[[Any], Any]:
    return click.option("--reason", default=default, metavar="TEXT", help="Why, for later.")


@verb(bare=False, content=True)
@TIER
@DAY
@SNAPSHOT
@_reason("pinned by hand")
def pin(
    call: Call, tier: str | None, day: datetime | None, snapshot: str | None, reason: str
) -> int:
    """Exempt a snapshot from expiry.

    Name it by --snapshot, or by --day: the day's best is meant.
    """
    return _pin(call, tier, day, snapshot, reason, pinned=True)


@verb(bare=False, content=True)
@TIER
@DAY
@SNAPSHOT
@_reason("unpinned by hand")
def unpin(
    call: Call, tier: str | None, day: datetime | None, snapshot: str | None, reason: str
) -> int:
    """Let a pinned snapshot expire again."""
    return _pin(call, tier, day, snapshot, reason, pinned=False)


def _pin(
    call: Call,
    tier: str | None,
    day: datetime | None,
    snapshot: str | None,
    reason: str,
    *,
    pinned: bool,
) -> int:
    with call.runner() as runner:
        found = runner.pin(
            call.wanted(runner),
            tier,
            day=day_or_none(day),
            snapshot=snapshot,
            reason=reason,
            pinned=pinned,
        )
        words = "is pinned" if pinned else "is pinned no more"

        def show() -> None:
            print(f"{found.dataset} in {found.tier}: {found.id[:12]} of {found.day} {words}")

        call.answer({"pinned": pinned, "reason": reason, "snapshot": found.to_json()}, show)
    return 0


@verb(bare=False, dataset=False, content=True)
@click.argument("words", nargs=-1, metavar="[DATASET] THING")
@TIER
def why(call: Call, words: Sequence[str], tier: str | None) -> int:
    """Say why a snapshot or a stored object is kept.

    THING is a snapshot's id, a day, or the name of a pack or a segment; a beginning will do.
    """
    if not 1 <= len(words) <= 2:
        raise click.UsageError("why needs the id of a snapshot, a day, or a stored object's name")
    with call.runner() as runner:
        call.dataset = words[0] if len(words) == 2 else None
        said = runner.why(call.wanted(runner), words[-1], tier)
        call.answer(said, lambda: print("\n".join(said)))
    return 0

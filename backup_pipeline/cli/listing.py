"""The verbs that list: snapshots, ls and diff."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from backup_pipeline.cli.call import Call
from backup_pipeline.cli.options import AT, DAY, INCLUDE, SNAPSHOT, TIER, day_or_none, verb
from backup_pipeline.cli.sets import SET, list_cuts, refuse_both

if TYPE_CHECKING:
    from backup_pipeline.engine.manifest import Entry
    from backup_pipeline.engine.operations.diff import Change

__all__ = ["diff", "ls", "snapshots"]

_MARKS = {"added": "+", "deleted": "-", "changed": "M", "metadata": "m"}


@verb(bare=True)
@SET
@TIER
@DAY
def snapshots(call: Call, set_name: str | None, tier: str | None, day: datetime | None) -> int:
    """List snapshots, or the cuts of a consistent set.

    Without a dataset: those of all datasets of the plan or the store.
    """
    from backup_pipeline.cli.tables import count, moment, print_table
    from backup_pipeline.engine.progress import human_bytes

    refuse_both(call, set_name)
    with call.reader() as reader:
        if set_name is not None:
            return list_cuts(call, reader, set_name, tier, day_or_none(day))
        found = [
            snapshot
            for snapshot in reader.snapshots(call.dataset, tier)
            if day is None or snapshot.day == day.date()
        ]
        zone = reader.zone
        keys = dict.fromkeys(one.dataset for one in found)
        flags = {k: v for key in keys for k, v in reader.suspicions_in(key, tier).items()}

        def show() -> None:
            rows = [
                (
                    one.id[:12],
                    one.dataset,
                    one.tier,
                    one.day,
                    one.kind,
                    one.timing,
                    moment(one.captured_at, zone),
                    f"{one.files:,}",
                    human_bytes(one.bytes),
                    human_bytes(one.stored_bytes),
                    one.status + (f", {_flag(flags[one.id])}" if one.id in flags else ""),
                )
                for one in found
            ]
            headings = "id dataset tier day kind timing read >files >bytes >stored status"
            if rows:
                print_table(headings.split(), rows)
            print(count(len(rows), "snapshot"))

        call.answer([one.to_json() | {"flag": flags.get(one.id)} for one in found], show)
    return 0


def _flag(said: str) -> str:
    """``SUSPICIOUS``, or ``cleared``; --json says by whom and why."""
    return said.upper() if said == "suspicious" else said.partition(" ")[0]


@verb(bare=True, content=True)
@TIER
@DAY
@AT
@SNAPSHOT
@INCLUDE
def ls(
    call: Call,
    tier: str | None,
    day: datetime | None,
    at: str | None,
    snapshot: str | None,
    include: tuple[str, ...],
) -> int:
    """List what a snapshot holds.

    Without a selector: the newest good snapshot.
    """
    from backup_pipeline.runner import parse_time

    with call.reader() as reader:
        entries = reader.ls(
            call.wanted(reader),
            tier=tier,
            day=day_or_none(day),
            at=parse_time(at, reader.zone) if at else None,
            snapshot=snapshot,
            include=include,
        )
        call.answer_each(entries, _entry_line)
    return 0


def _entry_line(entry: Entry) -> str:
    said = entry.to_json()
    time = ""
    if entry.mtime_ns is not None:
        time = f"{datetime.fromtimestamp(entry.mtime_ns // 10**9, UTC):%Y-%m-%d %H:%M:%S}"
    link = f" -> {said['link_target']}" if said["link_target"] is not None else ""
    state = "" if entry.state == "good" else f"  [{entry.state}]"
    slash = "/" if entry.type == "directory" else ""
    mode = said["mode"] or "-"
    return f"{mode:>6} {entry.size:>14,} {time:>19} {said['path']}{slash}{link}{state}"


@verb(bare=True, dataset=False, content=True)
@click.argument("words", nargs=-1, metavar="[DATASET] [A [B]]")
@TIER
def diff(call: Call, words: tuple[str, ...], tier: str | None) -> int:
    """Say what differs between two snapshots.

    A and B are ids, days, ISO times or `latest`; `cloud:2026-11-22` names the tier too. Without B,
    the newest good snapshot; without both, it and the one before it.
    """
    with call.reader() as reader:
        named = list(words)
        if named and (call.dataset is None or named[0] == call.dataset):
            call.dataset = named.pop(0)
        if len(named) > 2:
            raise click.UsageError(f"two snapshots are compared, not {len(named)}")
        a, b = [*named, None, None][:2]
        changes = reader.diff(call.wanted(reader), a, b, tier=tier)
        if not call.answer_each(changes, _change_line):
            call.say("no difference")
    return 0


def _change_line(change: Change) -> str:
    before = "" if change.old_bytes is None else f"{change.old_bytes:,}"
    after = "" if change.new_bytes is None else f"{change.new_bytes:,}"
    sizes = f"{before} -> {after}" if before and after and before != after else after or before
    return f"{_MARKS.get(change.change, '?')} {change.to_json()['path']}  {sizes}"

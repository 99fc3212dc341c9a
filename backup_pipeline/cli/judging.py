"""The verb that clears what was suspicious."""

from __future__ import annotations

import getpass
import socket
from collections.abc import Sequence

import click

from backup_pipeline.cli.call import Call
from backup_pipeline.cli.options import verb

__all__ = ["clear"]


@verb(bare=False, dataset=False)
@click.argument("words", nargs=-1, metavar="[DATASET] SNAPSHOT")
@click.option("--reason", metavar="TEXT", help="Why it is as it should be, for later.")
@click.option("--by", metavar="NAME", help="Who says so; default: you, on this machine.")
@click.option("--undo", is_flag=True, help="Take it back: the snapshot is suspicious again.")
def clear(call: Call, words: Sequence[str], reason: str | None, by: str | None, undo: bool) -> int:
    """Say that a suspicious snapshot is as it should be.

    Older snapshots may expire again, and what changed counts as usual from now on. It is written
    into the log of every tier that knows of it, with who, when and why.
    """
    if not 1 <= len(words) <= 2:
        raise click.UsageError("clear needs the id of a snapshot; `snapshots` shows which are")
    if reason is None or not reason.strip():
        raise click.UsageError("clear needs --reason TEXT, for whoever asks later")
    with call.runner() as runner:
        call.dataset = words[0] if len(words) == 2 else None
        answer = runner.clear(
            call.wanted(runner),
            words[-1],
            reason=reason,
            by=by or f"{_user()}@{socket.gethostname()}",
            cleared=not undo,
        )

        def show() -> None:
            what = "is cleared" if answer.cleared else "is suspicious again"
            where = ", ".join(answer.tiers)
            print(f"{answer.dataset}: {answer.snapshot[:12]} of {answer.day} {what} in {where}")
            for text in answer.says:
                print(f"  it was flagged for: {text}")

        call.answer(answer.to_json(), show)
    return 0


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may give its user no name
        return "unknown"

"""The verb that shows the whole on real data: demo."""

from __future__ import annotations

import click

from backup_pipeline.cli.call import Call
from backup_pipeline.cli.options import verb

__all__ = ["demo"]


@verb(bare=False, dataset=False)
@click.option("--directory", metavar="DIR", help="Where it works; default: below .demo.")
@click.option("--keep", is_flag=True, help="Leave its stores there to look at.")
def demo(call: Call, directory: str | None, keep: bool) -> int:
    """Show the whole of it on real data.

    Backs real datasets up for some days through all tiers, damages a byte and mends it, deletes
    everything but the stores, and restores from them. This verb alone needs Dagster, and the
    `demo` extra of the package.
    """
    from backup_pipeline.demo import run_demo

    lines: list[str] = []
    code = run_demo(directory, keep=keep, say=lines.append if call.json else call.say)
    call.answer({"ok": code == 0, "report": lines}, lambda: None)
    return code

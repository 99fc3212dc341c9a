"""Tables and figures as people read them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import datetime, tzinfo
from typing import TYPE_CHECKING, Any

from backup_pipeline.engine.progress import human_bytes, human_seconds

if TYPE_CHECKING:
    from backup_pipeline.engine.format.record import Snapshot

__all__ = ["count", "describe_snapshot", "moment", "print_table", "share"]

DRAWN_ROWS = 1000
"""Longer tables are not drawn: that takes a second for each thousand rows or two."""


def count(number: int, what: str, many: str | None = None) -> str:
    """``1 file``, ``12,345 files``."""
    return f"{number:,} {what if number == 1 else many or what + 's'}"


def share(fraction: float) -> str:
    """A share in percent; what is not quite all is never rounded up to it."""
    percent = fraction * 100
    return "100 %" if fraction >= 1 else f"{min(percent, 99.99):.4g} %"


def moment(time: datetime, zone: tzinfo) -> str:
    """A time to the second in a zone."""
    return f"{time.astimezone(zone):%Y-%m-%d %H:%M:%S}"


def print_table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print rows below their headings; headings that begin with ``>`` are numbers."""
    texts = [[str(cell) for cell in row] for row in rows]
    if sys.stdout.isatty() and len(rows) <= DRAWN_ROWS:
        _draw(columns, texts)
    else:
        _print_plainly(columns, texts)


def _draw(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        right = column.startswith(">")
        table.add_column(
            column.removeprefix(">"),
            justify="right" if right else "left",
            no_wrap=right,
            header_style="bold",
        )
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    Console(highlight=False).print(table)


def _print_plainly(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """No column is cut: a program may read it."""
    right = [column.startswith(">") for column in columns]
    lines = [[column.removeprefix(">") for column in columns], *rows]
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    for line in lines:
        cells = [
            cell.rjust(width) if numbers else cell.ljust(width)
            for cell, width, numbers in zip(line, widths, right, strict=True)
        ]
        print(" ".join(cells).rstrip())


def describe_snapshot(snapshot: Snapshot) -> str:
    """A snapshot in one sentence."""
    figures = f"{count(snapshot.files, 'file')}, {human_bytes(snapshot.bytes)}"
    state = "" if snapshot.status == "complete" else f", {snapshot.status.upper()}"
    return (
        f"{snapshot.dataset} in {snapshot.tier}: {snapshot.kind} {snapshot.id[:12]} of"
        f" {snapshot.day} ({snapshot.timing}{state}), {figures},"
        f" {human_bytes(snapshot.read_bytes)} read, {human_bytes(snapshot.stored_bytes)} stored"
        f" in {human_seconds(snapshot.duration_s)}"
    )

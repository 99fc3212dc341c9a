"""Shows how far a verb has come: a bar on a terminal, now and then a line elsewhere."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from backup_pipeline.engine.progress import Progress

__all__ = ["LINE_INTERVAL_S", "ProgressDisplay"]

LINE_INTERVAL_S = 5.0
"""Without a terminal: seconds between two lines, so that a log stays readable."""


class ProgressDisplay:
    """Takes the engine's reports, several a second.

    Args:
        lines_to: Where lines go if standard error is no terminal.
    """

    def __init__(self, lines_to: TextIO) -> None:
        self._lines_to = lines_to
        self._bar: Any = None
        self._task: Any = None
        self._next_line_s = time.monotonic() + LINE_INTERVAL_S
        self._terminal = sys.stderr.isatty()

    def __call__(self, progress: Progress) -> None:
        """Show a moment."""
        if self._terminal:
            self._draw(progress)
        elif time.monotonic() >= self._next_line_s:
            self._next_line_s = time.monotonic() + LINE_INTERVAL_S
            print(progress.line(), file=self._lines_to, flush=True)

    def _draw(self, progress: Progress) -> None:
        if self._bar is None:
            self._bar = _new_bar()
            self._task = self._bar.add_task("", total=None, figures="")
            self._bar.start()
        total = progress.total_bytes or progress.total_entries
        done = progress.done_bytes if progress.total_bytes else progress.done_entries
        _, _, figures = progress.line().partition(": ")
        self._bar.update(
            self._task,
            description=progress.operation,
            total=total,
            completed=min(done, total) if total else None,
            figures=figures,
        )
        self._bar.refresh()

    def clear(self) -> None:
        """Take the bar away, so that a line may be printed."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = self._task = None

    def close(self) -> None:
        """Take the bar away for good."""
        self.clear()


def _new_bar() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bar

    # No thread of its own: a bar that refreshes itself would take the engine's time.
    return Bar(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[figures]}"),
        console=Console(stderr=True),
        auto_refresh=False,
        transient=True,
    )

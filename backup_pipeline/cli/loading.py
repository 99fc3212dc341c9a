"""What ``restore --into`` adds to a restore: the copy is loaded into a database."""

from __future__ import annotations

import sys
from typing import Any

import click

__all__ = ["Loading"]


class Loading:
    """Loads what was restored.

    Args:
        url: The database; None loads nothing.
        partly: Whether only a part is restored, or nothing at all.

    Raises:
        UsageError: Nothing that is installed loads into such a system.
    """

    def __init__(self, url: str | None, *, partly: bool) -> None:
        self.url = url
        self._said: dict[str, Any] | None = None
        if url is None:
            return
        if partly:
            raise click.UsageError(
                "--into loads whole snapshots; leave --include and --dry-run out"
            )
        from backup_pipeline.sources.loading import find_loader

        self._load = find_loader(url)

    def run(self, directory: str, *, whole: bool) -> dict[str, Any]:
        """Load the directory, and give what a JSON answer says of it besides.

        Raises:
            BackupError: It could not be loaded; the directory stays.
        """
        if self.url is None:
            return {}
        if whole:
            self._said = self._load(directory, _say) or {}
        return {"loaded": self._said}

    def show(self) -> None:
        """Print what was loaded."""
        if self.url is None:
            return
        if self._said is None:
            print("NOT LOADED: the restored copy is not whole")
            return
        print(f"loaded {self._said.pop('summary', 'it')}")
        for notice in self._said.get("notices", ()):
            print(f"  note: {notice}")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)

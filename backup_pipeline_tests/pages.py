"""A page of the documentation whose blocks of code a test takes one after another and runs."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from backup_pipeline.cli import main
from backup_pipeline.plan import Plan, load_plan
from backup_pipeline_tests.clock import set_clock

__all__ = ["DOCS", "Page", "contents", "fences"]

DOCS = Path(__file__).parents[1] / "docs"
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)


def fences(text: str) -> list[tuple[str, str]]:
    """Every block of code of a page, with its language."""
    return _FENCE.findall(text)


def contents(root: Path) -> dict[str, bytes]:
    """Every file below a directory with its bytes."""
    found = (path for path in sorted(root.rglob("*")) if path.is_file())
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in found}


class Page:
    """A page that is followed from its first block to its last, in a directory of its own.

    On leaving, no block may be left: what a page shows, its test runs.

    Args:
        name: The page below ``docs``.
        root: Where the plan is written and commands are run.
        patch: Sets the clock of the commands, and their passphrase.
        places: What a reader puts in: a place of the page, and the test's own.
        now: What the clock shows.
        section: How the heading of the one section begins that is followed.
    """

    def __init__(
        self,
        name: str,
        root: Path,
        patch: pytest.MonkeyPatch,
        places: Mapping[str, str] | None = None,
        *,
        now: str = "2026-11-22T12:00:00",
        section: str = "",
    ) -> None:
        self.root = root
        self._text = (DOCS / name).read_text()
        if section:
            (self._text,) = re.findall(rf"^## {section}.*?(?=^## |\Z)", self._text, re.M | re.S)
        self._left = fences(self._text)
        self._places = dict(places or {})
        assert not [place for place in self._places if place not in self._text]
        set_clock(patch, datetime.fromisoformat(now))
        patch.setenv("BACKUP_PASSPHRASE", "only for this test")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: object, trace: TracebackType | None
    ) -> None:
        assert kind or not self._left, f"not run: {self._left}"

    def own(self, text: str) -> str:
        """A text of the page with the test's own places in it."""
        for place, own in self._places.items():
            text = text.replace(place, own)
        return text

    def take(self, language: str) -> str:
        """The next block, which has to be in this language."""
        shown, code = self._left.pop(0)
        assert shown == language, code
        return self.own(code)

    def inline(self, code: str) -> str:
        """A piece of code that stands in the page's prose."""
        assert f"`{code}`" in self._text, code
        return self.own(code)

    def plan(self, before: str = "") -> Plan:
        """Write the next block, which is a plan, or the rest of one, and hold it valid."""
        (self.root / "backup.yaml").write_text(before + self.take("yaml"))
        return load_plan(self.root / "backup.yaml")

    def shell(self, code: int = 0) -> str:
        """Run the next block's commands; what they said."""
        shown, lines = self._left.pop(0)
        assert shown in ("sh", "bash"), lines
        return "".join(self.run(self.own(line), code) for line in lines.splitlines())

    def run(self, line: str, code: int = 0) -> str:
        """Run one command; what it said."""
        command, *words = shlex.split(line, comments=True)
        assert command == "backup-pipeline", line
        said = io.StringIO()
        streams = contextlib.redirect_stdout(said), contextlib.redirect_stderr(said)
        with contextlib.chdir(self.root), streams[0], streams[1]:
            ended = main(words)
        assert ended == code, f"{line}\n{said.getvalue()}"
        return said.getvalue()

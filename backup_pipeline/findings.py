"""What a look at stores, keys, sources and the Dagster instance found, and what to do about it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

__all__ = ["Finding", "good", "note", "problem"]

Level = Literal["good", "note", "problem"]
_MARKS: dict[Level, str] = {"good": "ok  ", "note": "note", "problem": "BAD "}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        level: ``good``; ``note`` for what works and could be better; ``problem`` for what has to
            be put right.
        area: What was looked at, such as ``store cloud``.
        message: What was found.
        next: What to do about it.
    """

    level: Level
    area: str
    message: str
    next: str | None = None

    def line(self) -> str:
        """The finding for people; what to do stands on lines of its own."""
        text = f"{_MARKS[self.level]} {self.area}: {self.message}"
        return text + "".join(f"\n       {line}" for line in (self.next or "").splitlines())

    def to_json(self) -> dict[str, Any]:
        """Fields by name."""
        return asdict(self)


def good(area: str, message: str) -> Finding:
    """What is as it should be."""
    return Finding("good", area, message)


def note(area: str, message: str, next: str | None = None) -> Finding:
    """What works and could be better."""
    return Finding("note", area, message, next)


def problem(area: str, message: str, next: str | None = None) -> Finding:
    """What has to be put right."""
    return Finding("problem", area, message, next)

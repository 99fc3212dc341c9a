"""What is news to a receiver: each condition is told once, and once more when it is over. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Any

from backup_pipeline.posture.conditions import MISSED_DAYS, Condition
from backup_pipeline.posture.tier import iso

__all__ = ["News", "Told", "message", "news"]

Told = Mapping[str, Mapping[str, Any]]
"""What a receiver was told and is not over: a condition's key to its line, day and since when."""

MOST_LINES = 30

_UNSEEN = ("unreachable:",)
"""Conditions under which nothing else can be said of their subject."""


@dataclass(frozen=True, slots=True)
class News:
    """What a receiver does not know yet.

    Attributes:
        new: Conditions that have come.
        over: Lines of those that are over.
        told: What it will have been told once this has reached it.
    """

    new: Sequence[Condition] = ()
    over: Sequence[str] = ()
    told: Told = field(default_factory=dict[str, Mapping[str, Any]])

    def __bool__(self) -> bool:
        return bool(self.new or self.over)


def news(told: Told, found: Sequence[Condition], now: datetime, *, today: date) -> News:
    """Compare what a receiver was told with what is the case.

    What was told of a tier that nobody can ask now is neither news nor over. A missed day that is
    long past has not recovered: it is let go of without a word.

    Args:
        told: What it was told before.
        found: What is the case, of the kinds that it wants to know.
        now: The present (UTC).
        today: The local day.
    """
    current = {one.key: one for one in found}
    unseen = {one.subject for one in found if one.key.startswith(_UNSEEN)}
    long_past = (today - timedelta(days=MISSED_DAYS)).isoformat()
    kept: dict[str, Mapping[str, Any]] = {}
    over: list[str] = []
    for key, said in told.items():
        if key in current or said.get("subject") in unseen:
            kept[key] = said
        elif said.get("day") is None or str(said["day"]) >= long_past:
            over.append(str(said.get("line", key)))
    new = [one for one in current.values() if one.key not in told]
    for one in new:
        kept[one.key] = {
            "line": one.line,
            "subject": one.subject,
            "day": one.day.isoformat() if one.day else None,
            "since": iso(now),
        }
    return News(new, over, kept)


_WORDS = {
    "rpo_missed": "RPO broken",
    "failed": "failed",
    "at_risk": "RPO at risk",
    "missed_day": "missed day",
}


def message(said: News, name: str) -> tuple[str, str]:
    """The title and text of what is told.

    Args:
        said: What is new, and what is over.
        name: Whose backups they are.
    """
    parts: list[str] = []
    if said.new:
        parts.append(f"{len(said.new)} {'needs' if len(said.new) == 1 else 'need'} a person")
    if said.over:
        parts.append(f"{len(said.over)} recovered")
    lines = [f"{_WORDS[one.kind]}: {one.line}" for one in said.new]
    lines += [f"recovered: {line}" for line in said.over]
    left = len(lines) - MOST_LINES
    if left > 0:
        lines = [*lines[:MOST_LINES], f"and {left} more: backup-pipeline status"]
    return f"Backups of {name}: {', '.join(parts)}", "\n".join(lines)

"""What a dataset's days are like: the largest share of each sort of change, day by day.

It is what the log adds up to, so it outlives the snapshots that it came from. A day's largest share
is kept, not its sum or its mean: taking in the same snapshot twice then changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Any, cast

from backup_pipeline.engine.measure import Measure

__all__ = ["EXPLAINED", "MILLION", "PROFILE_DAYS", "UNEXPLAINED", "Profile"]

PROFILE_DAYS = 60
"""How far back a dataset is known: eight weekends, and two first days of a month."""

UNEXPLAINED, EXPLAINED = "unexplained", "explained"
MILLION = 1_000_000


@dataclass(slots=True)
class Profile:
    """Largest shares by day.

    Attributes:
        days: Day to sort (``explained`` by a materialization or a person, or ``unexplained``) to
            the shares by name, ``bytes`` (all of the dataset's, in millions) among them.
    """

    days: dict[str, dict[str, dict[str, float]]] = field(
        default_factory=dict[str, dict[str, dict[str, float]]]
    )

    def take(self, day: date, measure: Measure, *, explained: bool) -> None:
        """Take a snapshot's measure in."""
        sort = EXPLAINED if explained else UNEXPLAINED
        known = self.days.setdefault(day.isoformat(), {}).setdefault(sort, {})
        for name, value in {**measure.shares(), "bytes": measure.bytes / MILLION}.items():
            if value > known.get(name, 0.0):
                known[name] = value
        newest = date.fromisoformat(max(self.days))
        oldest = (newest - timedelta(days=PROFILE_DAYS)).isoformat()
        for old in [one for one in self.days if one < oldest]:
            del self.days[old]

    def shares(self, name: str, sorts: Iterable[str] = (UNEXPLAINED, EXPLAINED)) -> list[float]:
        """One share of every day that has any of these sorts, oldest first; 0 where it was 0."""
        wanted = tuple(sorts)
        return [
            max(said[sort].get(name, 0.0) for sort in wanted if sort in said)
            for _, said in sorted(self.days.items())
            if any(sort in said for sort in wanted)
        ]

    def on_weekday(self, name: str, weekday: int) -> list[float]:
        """One share of every day that is this day of the week (Monday is 0)."""
        return [
            max(shares.get(name, 0.0) for shares in said.values())
            for day, said in sorted(self.days.items())
            if date.fromisoformat(day).weekday() == weekday
        ]

    def to_json(self) -> dict[str, Any]:
        """The days, as a checkpoint keeps them: in millionths, and without zeros."""
        return {
            day: {
                sort: {name: round(value * MILLION) for name, value in shares.items() if value}
                for sort, shares in sorts.items()
            }
            for day, sorts in sorted(self.days.items())
        }

    @staticmethod
    def from_json(said: object) -> Profile:
        """What ``to_json`` gave; what has another shape is passed over: a profile is a help, and
        no snapshot depends on it."""
        profile = Profile()
        for day, sorts in _items(said):
            try:
                date.fromisoformat(day)
            except ValueError:
                continue
            for sort, shares in _items(sorts):
                numbers = {
                    name: value / MILLION
                    for name, value in _items(shares)
                    if isinstance(value, int) and value > 0
                }
                if sort in (UNEXPLAINED, EXPLAINED):
                    profile.days.setdefault(day, {})[sort] = numbers
        return profile


def _items(value: object) -> list[tuple[str, Any]]:
    return list(cast("dict[str, Any]", value).items()) if isinstance(value, dict) else []

"""How a day is written in a path: ``{day}``, or ``{day:%Y/%m/%d}`` and its like; pure functions."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import date

__all__ = ["day_problem", "fill_day", "has_day"]

_PLACEHOLDER = re.compile(r"\{day(?::([^{}]*))?\}")
_DIRECTIVE = re.compile(r"%(-?[A-Za-z]|%|$|.)")
_WRITE: Mapping[str, Callable[[date], str]] = {
    "Y": lambda day: f"{day.year:04d}",
    "m": lambda day: f"{day.month:02d}",
    "d": lambda day: f"{day.day:02d}",
    "j": lambda day: f"{day.timetuple().tm_yday:03d}",
    "-m": lambda day: str(day.month),
    "-d": lambda day: str(day.day),
    "-j": lambda day: str(day.timetuple().tm_yday),
    "%": lambda _: "%",
}
_KNOWN = ", ".join(f"%{name}" for name in _WRITE)
_ENOUGH = ({"Y", "m", "d"}, {"Y", "j"})
_TIMES = ("H", "I", "M", "S", "-H", "-I", "p")


def has_day(text: str) -> bool:
    """Whether a day stands in a text."""
    return _PLACEHOLDER.search(text) is not None


def fill_day(text: str, day: date) -> str:
    """Writes a day wherever one stands in a text.

    Args:
        text: Such as ``year={day:%Y}/month={day:%m}/day={day:%d}``.
        day: The day.
    """

    def fill(match: re.Match[str]) -> str:
        if match[1] is None:
            return day.isoformat()
        return _DIRECTIVE.sub(lambda found: _WRITE[found[1]](day), match[1])

    return _PLACEHOLDER.sub(fill, text)


def day_problem(text: str) -> tuple[str, str] | None:
    """What is wrong with how a day stands in a text, and what to write; None if nothing is.

    Two days must never be written alike, or one would be backed up as the other.
    """
    said: set[str] = set()
    for match in _PLACEHOLDER.finditer(text):
        if match[1] is None:
            said |= {"Y", "m", "d"}
            continue
        names = [found[1] for found in _DIRECTIVE.finditer(match[1])]
        for name in names:
            if name in _TIMES:
                return f"%{name} is no part of a day", "end the path at the day: hours lie below it"
            if name not in _WRITE:
                return f"'%{name}' is not known in {match[0]}", f"known: {_KNOWN}"
        if not set(names) - {"%"}:
            return f"{match[0]} writes no day", "such as {day:%Y/%m/%d}, or {day}"
        said |= {name.lstrip("-") for name in names}
    if said and not any(enough <= said for enough in _ENOUGH):
        return (
            f"'{text}' does not tell one day from another",
            "name year, month and day, such as year={day:%Y}/month={day:%m}/day={day:%d}",
        )
    return None

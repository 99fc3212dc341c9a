"""Reads the plan's human forms: durations, sizes, shares, times of day, dates and zones."""

from __future__ import annotations

import re
import zoneinfo
from collections.abc import Callable
from datetime import date, time, timedelta
from functools import cache
from typing import Annotated, Any

from pydantic import PlainValidator
from pydantic_core import PydanticCustomError

from backup_pipeline.plan.problems import closest, one_of

__all__ = [
    "Clock",
    "Day",
    "Duration",
    "Name",
    "ParityShare",
    "Share",
    "Size",
    "Zone",
    "choice",
    "mistake",
    "parse_duration",
    "parse_parity",
    "parse_share",
    "parse_size",
    "show_duration",
]

_UNIT_SECONDS = {
    "second": 1,
    "minute": 60,
    "hour": 3600,
    "day": 86400,
    "week": 7 * 86400,
    "month": 30 * 86400,
    "year": 365 * 86400,
}
_UNIT_NAMES = {
    **{name: name for name in _UNIT_SECONDS},
    **{name + "s": name for name in _UNIT_SECONDS},
    "s": "second",
    "sec": "second",
    "secs": "second",
    "min": "minute",
    "mins": "minute",
    "h": "hour",
    "hr": "hour",
    "hrs": "hour",
    "d": "day",
    "w": "week",
    "y": "year",
}
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]+)\s*(?:,|and\b)?\s*")
_MAX_DURATION = timedelta(days=365 * 1000)

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)\Z")
_SIZE_UNITS = {
    "b": 1,
    **{f"{letter}b": 1000**power for power, letter in enumerate("kmgtp", 1)},
    **{f"{letter}ib": 1024**power for power, letter in enumerate("kmgtp", 1)},
}
_SHARE = re.compile(r"(\d+(?:\.\d+)?)\s*%\Z")
_CLOCK = re.compile(r"(\d{1,2}):(\d{2})(?::00)?\Z")
_MINUTE = re.compile(r":(\d{2})\Z")
_DAY = re.compile(r"(\d{4})-(\d{2})-(\d{2})\Z")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,39}\Z")


def mistake(message: str, suggestion: str | None = None) -> PydanticCustomError:
    """Makes the error by which a value is refused, with what is allowed instead."""
    return PydanticCustomError("plan", "{message}", {"message": message, "suggestion": suggestion})


def choice(*allowed: str, meant: dict[str, str] | None = None) -> PlainValidator:
    """Makes the check that a value is one of a few words.

    Args:
        allowed: The words, as they are kept.
        meant: What some wrong words are usually meant for.
    """

    def check(value: Any) -> str:
        word = _shown(value)
        if isinstance(value, str) and value.strip().lower() in allowed:
            return value.strip().lower()
        intended = (meant or {}).get(word.lower())
        suggestion = f"did you mean '{intended}'?" if intended else one_of(word, allowed)
        raise mistake(f"'{word}' is not one of {', '.join(allowed)}", suggestion)

    return PlainValidator(check)


def parse_duration(value: Any) -> timedelta:
    """Reads a duration such as ``4 weeks``, ``26 hours`` or ``1 hour 30 minutes``.

    A month counts 30 days and a year 365.
    """
    example = "write a number and a unit, such as '26 hours' or '4 weeks'"
    if isinstance(value, timedelta):
        value = f"{value.total_seconds():f} seconds"
    if isinstance(value, int | float) and not isinstance(value, bool):
        raise mistake(f"{value} has no unit", f"did you mean '{value} days' or '{value} hours'?")
    if not isinstance(value, str) or not value.strip():
        raise mistake("not a duration", example)
    text, position, seconds = value.strip(), 0, 0.0
    while position < len(text):
        part = _DURATION_PART.match(text, position)
        if part is None:
            raise mistake(f"'{text}' is not a duration", example)
        unit = _UNIT_NAMES.get(part[2].lower())
        if unit is None:
            raise mistake(f"'{part[2]}' is not a unit of time", one_of(part[2], _UNIT_SECONDS))
        seconds += float(part[1]) * _UNIT_SECONDS[unit]
        position = part.end()
    if seconds <= 0:
        raise mistake(f"'{text}' is no time at all", example)
    if seconds > _MAX_DURATION.total_seconds():
        raise mistake(f"'{text}' is longer than a thousand years")
    return timedelta(seconds=seconds)


def show_duration(duration: timedelta) -> str:
    """Writes a duration in the largest unit that fits, such as ``4 weeks``."""
    seconds = duration.total_seconds()
    for unit in ("week", "day", "hour", "minute"):
        count = seconds / _UNIT_SECONDS[unit]
        if count >= 1 and count == int(count):
            return f"{int(count)} {unit}{'' if count == 1 else 's'}"
    return f"{seconds:g} seconds"


def parse_size(value: Any) -> int:
    """Reads a size in bytes, such as ``500 GiB``."""
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    match = _SIZE.match(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise mistake(f"'{_shown(value)}' is not a size", "write such as '500 GiB'")
    unit = match[2].lower()
    if unit not in _SIZE_UNITS:
        letter = (unit or "g")[0].upper()
        known = f"{letter.lower()}ib" in _SIZE_UNITS
        example = f"{match[1]} {letter if known else 'G'}iB"
        raise mistake(f"'{match[0]}' has no known unit of size", f"write such as '{example}'")
    size_bytes = int(float(match[1]) * _SIZE_UNITS[unit])
    if size_bytes <= 0:
        raise mistake(f"'{match[0]}' leaves no room at all", "write such as '500 GiB'")
    return size_bytes


def parse_share(value: Any) -> float:
    """Reads a share such as ``5%`` as a fraction above 0 and up to 1."""
    example = "write such as '5%'"
    if isinstance(value, int | float) and not isinstance(value, bool):
        if isinstance(value, float) and 0 < value < 1:
            return value
        raise mistake(f"{value} is not a share", f"did you mean '{value}%'?")
    match = _SHARE.match(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise mistake(f"'{_shown(value)}' is not a share", example)
    fraction = float(match[1]) / 100
    if not 0 < fraction <= 1:
        raise mistake(f"'{match[0]}' is not between 0% and 100%", example)
    return fraction


def parse_parity(value: Any) -> float:
    """Reads the share of a pack that may rot and heal by itself: from 1 % to 50 %."""
    share = parse_share(value)
    if not 0.01 <= share <= 0.5:
        raise mistake(f"parity of {_shown(value)} is of no use", "between 1% and 50%, such as 5%")
    return share


def _parse_clock(value: Any) -> time:
    if isinstance(value, int | float):
        # YAML 1.1 readers make 02:00 the number 120, and 2:00 too.
        raise mistake(f"{value} is not a time of day", 'put it in quotes: at: "02:00"')
    minute = _MINUTE.match(value) if isinstance(value, str) else None
    if minute is not None and int(minute[1]) < 60:
        return time(0, int(minute[1]))
    match = _CLOCK.match(value) if isinstance(value, str) else None
    if match is None or int(match[1]) > 23 or int(match[2]) > 59:
        raise mistake(f"'{_shown(value)}' is not a time of day", 'write hours and minutes: "02:00"')
    return time(int(match[1]), int(match[2]))


def _parse_day(value: Any) -> date:
    example = "write year-month-day, such as 2026-11-22"
    match = _DAY.match(value) if isinstance(value, str) else None
    if match is None:
        raise mistake(f"'{_shown(value)}' is not a day", example)
    try:
        day = date(int(match[1]), int(match[2]), int(match[3]))
    except ValueError:
        raise mistake(f"'{value}' is not in the calendar", example) from None
    if day.year < 1970:
        raise mistake(f"'{value}' is before 1970", example)
    return day


def _parse_zone(value: Any) -> str:
    example = "write a name such as Europe/Berlin or UTC"
    if not isinstance(value, str):
        raise mistake(f"'{_shown(value)}' is not a time zone", example)
    if value in _zones():
        return value
    near = closest(value, _zones())
    raise mistake(
        f"'{value}' is not a known time zone", f"did you mean '{near}'?" if near else example
    )


@cache
def _zones() -> frozenset[str]:
    return frozenset(zoneinfo.available_timezones()) - {"localtime", "Factory"}


def check_name(value: Any) -> str:
    """Checks a name of a store, tier or key: it becomes part of names in Dagster."""
    if isinstance(value, str) and _NAME.match(value):
        return value
    text = _shown(value)
    fixed = re.sub(r"[^A-Za-z0-9_]+", "_", text).strip("_0123456789")[:40]
    rule = "a letter, then letters, digits and _, 40 at most"
    raise mistake(f"'{text}' is not a name: {rule}", f"write '{fixed}'" if fixed else None)


def _shown(value: Any) -> str:
    """Shortens a refused value for a message."""
    if isinstance(value, dict | list):
        return "a mapping" if isinstance(value, dict) else "a list"
    text = "null" if value is None else str(value)
    if isinstance(value, bool):
        text = text.lower()
    return text if len(text) <= 60 else text[:57] + "..."


def _plain(parse: Callable[[Any], Any]) -> PlainValidator:
    return PlainValidator(parse)


Duration = Annotated[timedelta, _plain(parse_duration)]
Size = Annotated[int, _plain(parse_size)]
Share = Annotated[float, _plain(parse_share)]
ParityShare = Annotated[float, _plain(parse_parity)]
Clock = Annotated[time, _plain(_parse_clock)]
Day = Annotated[date, _plain(_parse_day)]
Zone = Annotated[str, _plain(_parse_zone)]
Name = Annotated[str, _plain(check_name)]

"""Human forms of durations, sizes and shares."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from pydantic_core import PydanticCustomError

from backup_pipeline.plan.values import parse_duration, parse_share, parse_size, show_duration

HOUR = timedelta(hours=1)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("26 hours", 26 * HOUR),
        ("1h", HOUR),
        ("4 weeks", timedelta(weeks=4)),
        ("1 day 12 hours", 36 * HOUR),
        ("1 hour and 30 minutes", 1.5 * HOUR),
        ("90 min", 1.5 * HOUR),
        ("0.5 days", 12 * HOUR),
        ("2 YEARS", timedelta(days=730)),
        (timedelta(hours=3), 3 * HOUR),
    ],
)
def test_durations_are_read(text: Any, value: timedelta) -> None:
    assert parse_duration(text) == value


@pytest.mark.parametrize(
    "text", ["", "hours", "5", 5, True, None, "-1 day", "0 days", "1 fortnight", "9e9 years", [1]]
)
def test_what_is_no_duration_is_refused(text: Any) -> None:
    with pytest.raises(PydanticCustomError):
        parse_duration(text)


@pytest.mark.parametrize("value", [HOUR, 26 * HOUR, timedelta(weeks=4), timedelta(seconds=90)])
def test_durations_are_written_as_they_are_read(value: timedelta) -> None:
    assert parse_duration(show_duration(value)) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [("500 GiB", 500 * 2**30), ("1.5TB", 1.5e12), ("10 kB", 10_000), (4096, 4096), ("7 B", 7)],
)
def test_sizes_are_read(text: Any, value: float) -> None:
    assert parse_size(text) == value


@pytest.mark.parametrize("text", ["500", "5 G", "-1 GiB", "0 GiB", "many", 0, -5, True, None, 1.5])
def test_what_is_no_size_is_refused(text: Any) -> None:
    with pytest.raises(PydanticCustomError):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "value"), [("5%", 0.05), ("0.5 %", 0.005), ("100%", 1), (0.2, 0.2)]
)
def test_shares_are_read(text: Any, value: float) -> None:
    assert parse_share(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["5", 5, 1.5, "0%", "101%", "-1%", True, None, "five"])
def test_what_is_no_share_is_refused(text: Any) -> None:
    with pytest.raises(PydanticCustomError):
        parse_share(text)

"""Policies that ship with the package and can be used by name without being defined."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["PRESETS"]

_THREE_COPIES: Mapping[str, Any] = {
    "tiers": [
        {"name": "local", "every": "day", "kind": "full", "keep": {"daily": 7}},
        {
            "name": "cloud",
            "every": "week",
            "weekday": "sunday",
            "kind": "incremental",
            "full_every": "12 weeks",
            "keep": {"weekly": 12},
        },
        {"name": "offsite", "every": "month", "kind": "full", "keep": {"monthly": 12}},
    ],
}

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "training-data": _THREE_COPIES,
    "company-files": _THREE_COPIES,
    "stream": {
        "tiers": [
            {
                "name": "local",
                "every": "hour",
                "kind": "incremental",
                "full_every": "1 day",
                "keep": {"daily": 3},
            },
            {"name": "cloud", "every": "day", "kind": "full", "keep": {"daily": 30}},
            {"name": "offsite", "every": "month", "kind": "full", "keep": {"monthly": 12}},
        ],
    },
}
"""By name, as a plan would write them under ``policies``."""

"""Rules."""

from __future__ import annotations
from typing import Any


def check_rules(checked: Any, content: Any, findings: Any) -> None: ...

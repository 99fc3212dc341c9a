"""Shares of what is stored, as a person writes them."""

from __future__ import annotations

import re

from backup_pipeline.engine.errors import UsageError

__all__ = ["parse_share"]


def parse_share(text: str | float) -> float:
    """``all`` as 1.0, ``5%`` as 0.05; a float is a share already.

    Raises:
        UsageError: It is neither.
    """
    if isinstance(text, float) and 0 <= text <= 1:
        return text
    words = str(text).strip().lower()
    number = words.removesuffix("%").strip()
    share: float | None = 1.0 if words == "all" else None
    if words.endswith("%") and re.fullmatch(r"\d+(\.\d+)?", number):
        share = float(number) / 100
    if share is None or share > 1:
        raise UsageError(f"{text!r} is no share of what is stored", "say all, or 5%")
    return share

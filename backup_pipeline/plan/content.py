"""Tells apart the plain values that plans are made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeGuard

__all__ = ["is_list", "is_mapping"]


def is_mapping(value: object) -> TypeGuard[dict[str, Any]]:
    """Tells whether a plain value is a mapping; its keys are text, as ``document`` made sure."""
    return isinstance(value, Mapping)


def is_list(value: object) -> TypeGuard[list[Any]]:
    """Tells whether a plain value is a list."""
    return isinstance(value, list)

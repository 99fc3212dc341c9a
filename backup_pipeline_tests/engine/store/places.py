"""The places on which the conformance suite opens stores."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from backup_pipeline.engine.store import Store


@dataclass(frozen=True)
class Place:
    """Somewhere to store.

    Attributes:
        kind: What the store is.
        open: Opens another store object on the same contents.
    """

    kind: str
    open: Callable[[], Store]

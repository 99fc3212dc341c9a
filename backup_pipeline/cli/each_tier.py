"""What verbs share that go through several tiers: which ones, and what fails in one of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any

from backup_pipeline.cli.call import Call
from backup_pipeline.engine.errors import BackupError, NotFound

if TYPE_CHECKING:
    from backup_pipeline.runner import Reader

__all__ = ["Failures", "in_tier", "require_some", "wanted_tiers"]

Failures = list[tuple[str, str, BackupError]]
"""Dataset, tier, and what went wrong there."""


@contextmanager
def in_tier(key: str, tier: str | None, failures: Failures, *, named: bool) -> Iterator[None]:
    """Note what fails in one tier, and go on with the next.

    Args:
        key: The dataset.
        tier: The tier.
        failures: Where it is noted.
        named: Whether this tier was asked for: one that has nothing yet is no failure otherwise.
    """
    try:
        yield
    except NotFound:
        if named:
            raise
    except BackupError as error:
        failures.append((key, tier or "", error))


def require_some(verb: str, found: Sequence[Any], day: datetime | None) -> None:
    """Refuse to have done nothing.

    Raises:
        NotFound: Nothing was there to do it with.
    """
    if not found:
        raise NotFound(
            f"there is nothing to {verb}" + (f" of {day.date()}" if day else ""),
            "list what there is with `backup-pipeline snapshots`",
        )


def wanted_tiers(
    call: Call, reader: Reader, tier: str | None, *, selected: bool
) -> list[tuple[str, str | None]]:
    """Pairs of dataset and tier to look at; None for the tier where a snapshot's id tells it."""
    if selected:
        return [(call.wanted(reader), tier)]
    return [(place.dataset, place.tier) for place in reader.all_places(call.dataset, tier)]

"""Whether this machine's clock may be trusted with a deletion."""

from __future__ import annotations

from datetime import datetime

from backup_pipeline.engine.errors import UsageError
from backup_pipeline.engine.repository import Repository
from backup_pipeline.engine.store.base import CLOCK_TOLERANCE

__all__ = ["require_clock"]


def require_clock(repository: Repository, now: datetime) -> None:
    """Refuse to expire or to delete by a clock that is wrong.

    Args:
        repository: Whose store and newest record are compared.
        now: This machine's time.

    Raises:
        UsageError: It is more than ``CLOCK_TOLERANCE`` from the store's, or behind the newest
            record by more than that.
    """
    place = f"{repository.dataset} in tier {repository.tier}"
    skew_s = (now - repository.store.now()).total_seconds()
    if abs(skew_s) > CLOCK_TOLERANCE.total_seconds():
        raise UsageError(
            f"{place}: this machine's clock is {abs(skew_s):.0f} seconds"
            f" {'ahead of' if skew_s > 0 else 'behind'} the store's",
            "nothing was expired or deleted; set the clock right and run it again",
        )
    newest = repository.state.newest_moment()
    if newest is not None and newest - now > CLOCK_TOLERANCE:
        raise UsageError(
            f"{place}: this machine's clock says {now:%Y-%m-%d %H:%M} and the newest record was"
            f" written at {newest:%Y-%m-%d %H:%M} (UTC)",
            "nothing was expired or deleted; one of the machines that write here has a wrong clock",
        )

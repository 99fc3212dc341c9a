"""Whether a tier's log still knows what others saw in it.

Whoever can write to a store can set a whole repository back to an earlier, genuine state; nothing
in the store itself shows that. The other tiers and Dagster's event log remember what was there.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass
from datetime import date, datetime

__all__ = ["SET_BACK", "Claim", "Holding", "is_forgotten", "testimony"]

SET_BACK = "set back: "
"""How a flag begins that is made of testimonies."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What somebody else says that a tier holds, or held.

    Attributes:
        dataset: The dataset's key.
        tier: The tier.
        snapshot: The snapshot's id.
        day: The day that it stands for; None where the witness cannot tell for sure.
        captured_at: When its source was read (UTC).
        by: Who says so, such as ``tier cloud``.
    """

    dataset: str
    tier: str
    snapshot: str
    day: date | None
    captured_at: datetime
    by: str


@dataclass(frozen=True, slots=True)
class Holding:
    """What a tier's own log knows.

    Attributes:
        created_at: When the repository was made (UTC).
        ids: Snapshots, those that expired too, as far as the log still names them.
        days: Days of those that are live.
        expired_days: Days that had a good snapshot, and have none any more because it expired.
        newest: When the newest of ``ids`` was captured; None where there is none.
    """

    created_at: datetime
    ids: Set[str]
    days: Set[date]
    expired_days: Set[date]
    newest: datetime | None


def is_forgotten(claim: Claim, holding: Holding) -> bool:
    """Whether a log that knows all that it should would know of this snapshot.

    A log names snapshots until some time after they expired, and their days for ever. What was
    captured before the repository was made is another's: whoever makes one anew is told what is
    missing in other ways.
    """
    if claim.snapshot in holding.ids or claim.captured_at < holding.created_at:
        return False
    if claim.day in holding.expired_days:
        return False
    newest_is_lost = holding.newest is None or claim.captured_at > holding.newest
    return newest_is_lost or (claim.day is not None and claim.day not in holding.days)


def testimony(claims: Sequence[Claim]) -> str:
    """One sentence for some forgotten snapshots of one tier."""
    newest = max(claims, key=lambda one: one.captured_at)
    by = " and ".join(sorted({one.by for one in claims}))
    count = len({one.snapshot for one in claims})
    many = f"{count} snapshots, the last of them" if count > 1 else "a snapshot"
    return (
        f"{by} {'tell' if ' and ' in by else 'tells'} of {many} read"
        f" {newest.captured_at:%Y-%m-%d %H:%M} UTC ({newest.snapshot[:12]}), and the log of this"
        " tier does not: it was set back, or its newest records are lost"
    )

"""Short words for what a posture says, the same on the terminal, on the page and in Dagster."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backup_pipeline.engine.progress import human_seconds

if TYPE_CHECKING:
    from backup_pipeline.posture.tier import Proof, TierPosture

__all__ = ["duration", "proof_day", "rpo_word", "rto_word", "share"]


def duration(seconds: float) -> str:
    """``1 h 5 min``, and ``26 h`` where it is that to the minute."""
    return human_seconds(seconds).removesuffix(" 0 min").removesuffix(" 0 s")


def share(fraction: float | None) -> str:
    """A share in percent; what is not quite all is never rounded up to it."""
    if fraction is None:
        return "–"
    return "100 %" if fraction >= 1 else f"{min(fraction * 100, 99.99):.4g} %"


def rpo_word(tier: TierPosture) -> str:
    """Whether the RPO is kept: ``fresh``, ``STALE``, or ``UNKNOWN`` where nobody could ask."""
    if tier.error is not None:
        return "UNKNOWN"
    return "fresh" if tier.fresh else "STALE"


def rto_word(tier: TierPosture) -> str:
    """The restore time that the last drill measured, and whether it keeps the RTO."""
    measured = tier.drilled.whole_s if tier.drilled else None
    if measured is None:
        return "not measured" if tier.rto_s is not None else "–"
    kept = {True: "kept", False: "MISSED", None: "measured"}[tier.rto_met]
    return f"{kept} {duration(measured)}"


def proof_day(proof: Proof | None) -> str:
    """The day of the last verification or drill, and whether it found something."""
    if proof is None:
        return "never"
    return f"{proof.at:%Y-%m-%d}" if proof.ok else f"{proof.at:%Y-%m-%d} FAILED"

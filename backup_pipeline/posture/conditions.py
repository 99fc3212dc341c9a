"""What of a posture needs a person, now or soon: pure decisions, each with a name of its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal, get_args

from backup_pipeline.plan.cadence import local_day
from backup_pipeline.posture.words import duration

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

    from backup_pipeline.posture.model import Posture
    from backup_pipeline.posture.tier import Proof, TierPosture
    from backup_pipeline.runner.setstanding import SetStatus

__all__ = ["KINDS", "MISSED_DAYS", "Condition", "Kind", "at_risk", "conditions"]

Kind = Literal["missed_day", "failed", "at_risk", "rpo_missed"]
KINDS: tuple[Kind, ...] = get_args(Kind)

MISSED_DAYS = 7
"""How long a missed day asks for a person. It can be backfilled or accepted; what nobody has done
about it in a week stays in the tables and stops calling."""


@dataclass(frozen=True, slots=True)
class Condition:
    """One thing that needs a person.

    Attributes:
        key: Tells it apart: the same condition has the same key at every look.
        kind: Which alerts it belongs to.
        subject: The dataset and tier, or what else it is about.
        says: What is the matter, in one sentence.
        day: For a missed day: which; it then ends by itself once the day is long past.
    """

    key: str
    kind: Kind
    subject: str
    says: str
    day: date | None = None

    @property
    def line(self) -> str:
        """What it is about, and what is the matter."""
        return f"{self.subject}: {self.says}"

    def to_json(self) -> dict[str, Any]:
        """Fields by name."""
        return {
            "key": self.key,
            "kind": self.kind,
            "subject": self.subject,
            "says": self.says,
            "day": self.day.isoformat() if self.day else None,
        }


def conditions(posture: Posture, *, share: float | None = None) -> list[Condition]:
    """Everything of a posture that needs a person; the worst first.

    Args:
        posture: What was found.
        share: The share of an RPO from which its age counts as a risk, besides the next run's.
    """
    from zoneinfo import ZoneInfo

    zone = ZoneInfo(posture.timezone)
    found = [one for tier in posture.tiers for one in _of_tier(tier, posture.at, zone, share)]
    found += [_of_set(one) for one in posture.sets if not one.fresh and one.error is None]
    order = {kind: number for number, kind in enumerate(("rpo_missed", "failed", "at_risk"))}
    return sorted(found, key=lambda one: order.get(one.kind, len(order)))


def _of_tier(
    tier: TierPosture, now: datetime, zone: ZoneInfo, share: float | None
) -> Iterator[Condition]:
    subject = f"{tier.dataset} in {tier.tier}"

    def found(kind: Kind, what: str, says: str, day: date | None = None) -> Condition:
        return Condition(f"{what}:{tier.dataset}:{tier.tier}", kind, subject, says, day)

    if tier.error is not None:
        what = "damaged" if tier.reachable else "unreachable"
        yield found("failed", what, tier.error)
        if not tier.reachable:
            return
    if not tier.fresh and tier.error is None:
        yield found("rpo_missed", "rpo", _rpo_words(tier))
    else:
        risk = at_risk(tier, share)
        if risk is not None:
            yield found("at_risk", "at_risk", risk)
    if tier.incomplete:
        says = f"the newest snapshot is incomplete: {tier.incomplete} entries could not be read"
        yield found("failed", "incomplete", says)
    for flag in tier.flags:
        yield found("failed", f"flag {' '.join(flag.split()[:2])}", flag)
    if tier.verified is not None and not tier.verified.ok:
        yield found("failed", "verify", _proof_words("verification", tier.verified))
    if tier.drilled is not None and not tier.drilled.ok:
        yield found("failed", "drill", _proof_words("restore drill", tier.drilled))
    first = local_day(now, zone) - timedelta(days=MISSED_DAYS)
    for day in tier.missing_days:
        if day >= first:
            yield found("missed_day", f"missed {day}", f"{day} has no good snapshot", day)


def _of_set(one: SetStatus) -> Condition:
    """A broken RPO of a set; a tier that could not be asked is told by its members."""
    age, rpo = duration(max(0.0, one.age_s or 0.0)), duration(one.rpo_s or 0.0)
    what = f"the newest whole cut is {age} old" if one.newest else "there is no whole cut"
    return Condition(
        f"rpo:set:{one.set}:{one.tier}",
        "rpo_missed",
        f"set {one.set} in {one.tier}",
        f"{what}; the RPO of {rpo} is broken",
    )


def _rpo_words(tier: TierPosture) -> str:
    rpo = duration(tier.rpo_s or 0)
    over = duration(max(0.0, -(tier.margin_s or 0)))
    if tier.newest is None:
        return f"there is no good snapshot; the RPO of {rpo} is broken by {over}"
    age = duration(max(0.0, tier.age_s or 0))
    return f"the newest good snapshot is {age} old; the RPO of {rpo} is broken by {over}"


def _proof_words(what: str, proof: Proof) -> str:
    errors = f"{proof.errors} errors" if proof.errors != 1 else "1 error"
    return f"the last {what}, on {proof.at:%Y-%m-%d}, found {errors}"


def at_risk(tier: TierPosture, share: float | None = None) -> str | None:
    """Why a tier's RPO, kept now, will be broken unless somebody acts; None if it will not.

    It will be where the age that it has at the next scheduled run, before that run brings anything,
    is more than the RPO: the run before has brought nothing, or the cadence cannot keep the RPO.

    Args:
        tier: How it stands.
        share: The share of the RPO from which the age counts as a risk as well.
    """
    if tier.rpo_s is None or tier.age_s is None or not tier.fresh:
        return None
    left = duration(max(0.0, tier.margin_s or 0))
    rpo = duration(tier.rpo_s)
    if tier.next_run is not None and tier.newest is not None:
        then_s = (tier.next_run - tier.newest).total_seconds()
        if then_s > tier.rpo_s:
            return (
                f"the RPO of {rpo} breaks in {left}, before the next run at"
                f" {tier.next_run:%Y-%m-%d %H:%M} UTC"
            )
    if share is not None and tier.age_s > share * tier.rpo_s:
        return f"{tier.age_s / tier.rpo_s:.0%} of the RPO of {rpo} has passed; it breaks in {left}"
    return None

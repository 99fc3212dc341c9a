"""A dataset's copies against 3-2-1-1-0, judged from evidence: pure, no I/O.

Three copies (the dataset itself is one), on two kinds of media, one of them off site, one that
nobody can delete, and no error at the last verification of any. The rule is Peter Krogh's 3-2-1
(*The DAM Book*, 2005), with the two figures that practice has added since.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from backup_pipeline.posture.words import share

if TYPE_CHECKING:
    from backup_pipeline.posture.tier import TierPosture

__all__ = ["HERE", "Copies", "Origin", "Rule", "judge_copies", "whereabouts"]

HERE = "here"
"""The site of local paths, and of servers on this machine, unless the plan says otherwise."""

DISK = "disk"
OBJECTS = "object storage"
_LOOPBACK = ("127.", "localhost", "[::1]", "::1", "0.0.0.0")


@dataclass(frozen=True, slots=True)
class Origin:
    """Where the dataset itself is: kind of medium, and site."""

    media: str
    site: str


@dataclass(frozen=True, slots=True)
class Rule:
    """One figure of the rule.

    Attributes:
        name: ``copies``, ``media``, ``offsite``, ``locked`` or ``errors``.
        needed: What the rule asks for.
        found: What there is; None where it is not known.
        met: Whether that is enough; what is not known is not met.
        says: By what evidence, in one sentence.
    """

    name: str
    needed: int
    found: int | None
    met: bool
    says: str


@dataclass(frozen=True, slots=True)
class Copies:
    """A dataset's copies against all five figures."""

    rules: Sequence[Rule]

    @property
    def met(self) -> bool:
        """Whether all five are."""
        return all(rule.met for rule in self.rules)

    @property
    def figures(self) -> str:
        """What there is, written as the rule is: ``3-2-1-0-?``."""
        return "-".join("?" if rule.found is None else str(rule.found) for rule in self.rules)

    def to_json(self) -> dict[str, Any]:
        """The figures, and each rule by its name."""
        return {
            "met": self.met,
            "figures": self.figures,
            "rules": {
                rule.name: {
                    "needed": rule.needed,
                    "found": rule.found,
                    "met": rule.met,
                    "says": rule.says,
                }
                for rule in self.rules
            },
        }


def whereabouts(url: str, settings: Mapping[str, str]) -> Origin:
    """What kind of medium a URL or path is on, and where, as far as it tells.

    Args:
        url: A store's URL, or a source's.
        settings: ``endpoint`` and ``region``, where there are any.
    """
    scheme = urlsplit(url).scheme if "://" in url else "file"
    if scheme == "memory":
        return Origin("memory", HERE)
    if scheme != "s3":
        return Origin(DISK, HERE)
    endpoint = urlsplit(settings.get("endpoint", "")).netloc
    if endpoint.startswith(_LOOPBACK):
        return Origin(OBJECTS, HERE)
    place = settings.get("region") or "its region"
    return Origin(OBJECTS, f"{endpoint} {place}" if endpoint else f"AWS {place}")


def judge_copies(origin: Origin, tiers: Sequence[TierPosture], now: datetime) -> Copies:
    """A dataset's copies against 3-2-1-1-0.

    A tier counts where it could be asked just now, its log is whole, and it has a good snapshot.

    Args:
        origin: Where the dataset itself is.
        tiers: How it stands in each tier.
        now: The present (UTC).
    """
    held = [tier for tier in tiers if tier.newest is not None and tier.error is None]
    names = ", ".join(tier.tier for tier in held)
    media = sorted({origin.media, *(tier.media for tier in held)})
    away = [tier for tier in held if tier.site != origin.site]
    locked = [tier for tier in held if tier.lock.until is not None and tier.lock.until > now]
    return Copies(
        (
            Rule(
                "copies",
                3,
                1 + len(held),
                len(held) >= 2,
                f"the dataset itself, and {names}" if held else "the dataset itself alone",
            ),
            Rule("media", 2, len(media), len(media) >= 2, ", ".join(media)),
            Rule(
                "offsite",
                1,
                len(away),
                bool(away),
                ", ".join(f"{tier.tier} ({tier.site})" for tier in away)
                or f"every copy is at the dataset's own site ({origin.site})",
            ),
            Rule("locked", 1, len(locked), bool(locked), _lock_words(held, locked)),
            _errors(held),
        )
    )


def _lock_words(held: Sequence[TierPosture], locked: Sequence[TierPosture]) -> str:
    if locked:
        return ", ".join(
            f"{tier.tier} ({tier.lock.mode}, until {tier.lock.until:%Y-%m-%d})" for tier in locked
        )
    for tier in held:
        if tier.lock.days is not None:
            return (
                f"{tier.tier}'s bucket locks for {tier.lock.days} days, and its oldest records"
                " are older: they may be deleted"
            )
        if tier.lock.planned is not None:
            return f"the plan asks {tier.tier} for a lock, and nothing shows that there is one"
    return "no store refuses to delete"


def _errors(held: Sequence[TierPosture]) -> Rule:
    never = [tier.tier for tier in held if tier.verified is None]
    found = sum(tier.verified.errors for tier in held if tier.verified)
    if not held:
        return Rule("errors", 0, None, False, "there is nothing to verify")
    if never and not found:
        return Rule("errors", 0, None, False, f"never verified: {', '.join(never)}")
    bad = [tier.tier for tier in held if tier.verified and not tier.verified.ok]
    if bad or found:
        return Rule("errors", 0, found, False, f"the last verification failed: {', '.join(bad)}")
    oldest = min(tier.verified.at for tier in held if tier.verified)
    least = min(tier.verified.coverage for tier in held if tier.verified)
    says = f"every copy was verified, the first on {oldest:%Y-%m-%d}, at least {share(least)} of it"
    return Rule("errors", 0, 0, True, says)

"""Chooses a new snapshot's kind and what it may depend on: a pure decision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Literal, Protocol, cast

from backup_pipeline.engine.errors import UsageError
from backup_pipeline.plan.problems import one_of
from backup_pipeline.plan.values import show_duration

__all__ = ["KINDS", "Choice", "SnapshotLike", "TierLike", "choose_kind"]

Kind = Literal["full", "differential", "incremental"]
KINDS: tuple[Kind, ...] = ("full", "differential", "incremental")


class SnapshotLike(Protocol):
    """What the choice needs to know of a snapshot."""

    @property
    def id(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def chain(self) -> str: ...
    @property
    def day(self) -> date: ...
    @property
    def status(self) -> str: ...
    @property
    def sequence(self) -> int: ...


class TierLike(Protocol):
    """What the choice needs to know of a tier."""

    @property
    def name(self) -> str: ...
    @property
    def kind(self) -> Kind: ...
    @property
    def full_every(self) -> timedelta | None: ...


@dataclass(frozen=True, slots=True)
class Choice:
    """What a new snapshot shall be.

    Attributes:
        kind: ``full``, ``differential`` or ``incremental``.
        parent_id: The snapshot it builds on; None for a full.
        base_id: Its chain's full; None for a full.
        reason: Why, for people.
    """

    kind: Kind
    parent_id: str | None
    base_id: str | None
    reason: str


def choose_kind(
    tier: TierLike, history: Sequence[SnapshotLike], day: date, requested: str | None = None
) -> Choice:
    """Chooses the kind of the next snapshot of a repository.

    Parents are chosen by commit order (``sequence``), not by day, because concurrent backfills
    commit days out of order. Only complete snapshots count: what depends on an incomplete one could
    hide what that one missed.

    Args:
        tier: The tier.
        history: The repository's snapshots that are not expired, in any order.
        day: The day that the new snapshot will stand for.
        requested: A kind that the user asked for.

    Raises:
        UsageError: ``requested`` is no kind, or the tier does not allow it.
    """
    if requested is not None and requested not in KINDS:
        raise UsageError(f"'{requested}' is not a kind", one_of(requested, KINDS))
    good = sorted((s for s in history if s.status == "complete"), key=lambda s: s.sequence)
    if requested == "full":
        return _full("a full was asked for")
    if tier.kind == "full":
        return _in_full_tier(tier, good, day, requested)
    return _in_dependent_tier(tier, good, day, cast("Kind", requested or tier.kind))


def _full(reason: str) -> Choice:
    return Choice("full", None, None, reason)


def _in_full_tier(
    tier: TierLike, good: Sequence[SnapshotLike], day: date, requested: str | None
) -> Choice:
    if requested == "incremental":
        raise UsageError(
            f"tier {tier.name} is full: its snapshots depend at most on a full of the same day",
            "ask for full or differential, or set `kind: incremental` for the tier",
        )
    today = [s for s in good if s.kind == "full" and s.day == day]
    if today:
        base = today[-1]
        return Choice("differential", base.id, base.id, f"{day} has its full already")
    if requested == "differential":
        return _full(f"a differential was asked for, but {day} has no good full to build on")
    return _full(f"every day of tier {tier.name} has a full")


def _in_dependent_tier(
    tier: TierLike, good: Sequence[SnapshotLike], day: date, kind: Kind
) -> Choice:
    fulls = [s for s in good if s.kind == "full"]
    if not fulls:
        return _full(f"tier {tier.name} has no good full yet")
    base = fulls[-1]
    age_days = (day - base.day).days
    if tier.full_every is not None and timedelta(days=age_days) >= tier.full_every:
        limit = show_duration(tier.full_every)
        return _full(f"the chain's full is {age_days} days old and full_every is {limit}")
    if kind == "differential":
        return Choice(kind, base.id, base.id, f"builds on the full of {base.day}")
    parent = [s for s in good if s.chain == base.chain][-1]
    return Choice(kind, parent.id, base.id, f"builds on {parent.kind} {parent.id} of {parent.day}")

"""Expire and pin: records that take snapshots out of what is offered, or keep them in it.

Nothing is deleted here: what only expired snapshots need is prune's to find.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

from backup_pipeline.engine.errors import BackupError, Conflict, NotFound
from backup_pipeline.engine.format.record import Snapshot, to_iso
from backup_pipeline.engine.operations.clocks import require_clock
from backup_pipeline.engine.repository import Repository, utc_now

__all__ = ["expire", "pin"]

MOST_ATTEMPTS = 20

Choose = Callable[[Sequence[Snapshot]], Mapping[str, str]]


class _Overtaken(Exception):
    """Another writer's record came first; what was decided may be wrong by now."""


def _overtaken() -> None:
    raise _Overtaken


def expire(
    repository: Repository,
    choose: Choose,
    *,
    slices: bool = False,
    clock: Callable[[], datetime] = utc_now,
) -> dict[str, str]:
    """Expire snapshots.

    Args:
        repository: Where.
        choose: Given the live snapshots, returns the ids of those that go, each with the reason.
            Asked again whenever another writer's record came first.
        slices: Whether a day's last good snapshot may go, which the slice's age decides.
        clock: Tells the time.

    Returns:
        What expired: id to reason.

    Raises:
        UsageError: This machine's clock is wrong.
        BackupError: ``choose`` named the last good snapshot, a pinned one, or one no younger than
            a suspicious one that nobody cleared.
        Conflict: Other writers kept coming first.
    """
    for _ in range(MOST_ATTEMPTS):
        repository.refresh()
        require_clock(repository, clock())
        going = dict(choose(repository.snapshots()))
        if not going:
            return {}
        _refuse_the_precious(repository, going, slices=slices)
        entries = [{"id": identity, "reason": reason} for identity, reason in going.items()]
        body = {"type": "expire", "snapshots": entries, "at": to_iso(clock())}
        try:
            repository.log.append(body, _overtaken)
        except _Overtaken:
            continue
        return going
    raise Conflict(
        f"{MOST_ATTEMPTS} other writers came first while {repository.dataset} in tier"
        f" {repository.tier} was to expire snapshots",
        "nothing expired; run it again",
    )


def _refuse_the_precious(repository: Repository, going: Mapping[str, str], *, slices: bool) -> None:
    """Hold whoever decides to what may never be decided."""
    good = [one for one in repository.snapshots() if one.status == "complete"]
    last = max(good, key=lambda one: (one.captured_at, one.sequence), default=None)
    pinned = sorted(going.keys() & repository.state.pinned.keys())
    wrong = f"{pinned[0][:12]}, which is pinned" if pinned else None
    for one in repository.snapshots():
        if one.id in going and repository.state.suspicions.holds(one.captured_at):
            wrong = f"{one.id[:12]}, no younger than a suspicious one that nobody cleared"
    if last is not None and last.id in going and not slices:
        wrong = f"{last.id[:12]}, the last good one"
    if wrong is not None:
        raise BackupError(
            f"{repository.dataset} in tier {repository.tier}: snapshot {wrong}, was to expire",
            "nothing expired; this is a mistake in backup-pipeline: please report it",
        )


def pin(
    repository: Repository,
    snapshot: str,
    *,
    pinned: bool,
    reason: str,
    clock: Callable[[], datetime] = utc_now,
) -> None:
    """Exempt a snapshot from expiry, or no longer.

    Args:
        repository: Where.
        snapshot: Its whole id.
        pinned: Whether it is to be kept.
        reason: Why, for whoever asks later.
        clock: Tells the time.

    Raises:
        NotFound: It is not there, or has expired.
    """

    def recheck() -> None:
        if snapshot in repository.state.expired or snapshot not in repository.state.snapshots:
            raise NotFound(
                f"{repository.dataset} in tier {repository.tier} has no snapshot {snapshot[:12]}"
                " any more",
                "list what there is with `backup-pipeline snapshots`",
            )

    repository.refresh()
    recheck()
    repository.log.append(
        {
            "type": "pin",
            "snapshot": snapshot,
            "pinned": pinned,
            "reason": reason,
            "at": to_iso(clock()),
        },
        recheck,
    )

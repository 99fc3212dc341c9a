"""Rebuild or restore: which is cheaper, and in time, for what Dagster can compute."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from backup_pipeline.cost.formulas import restore_cost

__all__ = ["Recomputed", "Verdict", "rebuild_or_restore", "recomputed"]


@dataclass(frozen=True, slots=True)
class Recomputed:
    """How long it took to compute a dataset, by Dagster's run history.

    Attributes:
        runs: How many runs are known.
        median_s: How long the middle one took.
        slowest_s: How long the slowest took.
    """

    runs: int
    median_s: float
    slowest_s: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """The two ways beside each other, over a year.

    Attributes:
        dataset: The dataset's key.
        rebuild_s: How long computing it again takes, by the slowest run that is known.
        restore_s: How long restoring it takes; None where no speed is known.
        rebuild_year: What losing it costs in a year without a backup.
        backup_year: What its backups cost in a year, restores included.
        losses_to_pay: How often a year it has to be lost for its backups to pay; None: never.
        choice: ``backup`` or ``rebuild``.
        reason: Why.
    """

    dataset: str
    rebuild_s: float
    restore_s: float | None
    rebuild_year: float
    backup_year: float
    losses_to_pay: float | None
    choice: str
    reason: str


def recomputed(durations_s: Sequence[float]) -> Recomputed | None:
    """What the durations of past runs come to; None where there are none."""
    if not durations_s:
        return None
    return Recomputed(len(durations_s), median(durations_s), max(durations_s))


def rebuild_or_restore(
    dataset: str,
    history: Recomputed,
    *,
    price_per_hour: float,
    keeping_month: float,
    restoring_once: float,
    restore_s: float | None,
    losses_per_year: float,
    rto_s: float | None,
) -> Verdict:
    """Compare computing a dataset again with keeping backups of it.

    Computing again gives the dataset as its inputs and code make it now. Where they are not kept
    as they were, it gives another one: that is not for a formula to know.

    Args:
        dataset: Its key.
        history: How long computing took.
        price_per_hour: Of the machines that compute; the same price as of a backup's hour.
        keeping_month: C_store + C_backup of a month.
        restoring_once: What one restore costs.
        restore_s: How long one takes; None where no speed is known.
        losses_per_year: How often it is lost and needed.
        rto_s: The promised time to recover; None where there is none.
    """
    once = restore_cost(history.median_s, price_per_hour)
    rebuild_year = losses_per_year * once
    backup_year = 12 * keeping_month + losses_per_year * restoring_once
    gain = once - restoring_once
    pays = 12 * keeping_month / gain if gain > 0 else None
    slow = rto_s is not None and history.slowest_s > rto_s
    too_slow = rto_s is not None and restore_s is not None and restore_s > rto_s
    if slow and not too_slow:
        choice, reason = "backup", "computing it again takes longer than the RTO"
    elif rebuild_year < backup_year:
        choice, reason = "rebuild", "computing it again costs less than keeping backups of it"
    else:
        choice, reason = "backup", "keeping backups costs less than computing it again"
    return Verdict(
        dataset,
        history.slowest_s,
        restore_s,
        rebuild_year,
        backup_year,
        pays,
        choice,
        reason,
    )

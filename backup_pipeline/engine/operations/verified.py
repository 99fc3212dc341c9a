"""Puts a verification into the log of what was verified: when, how much, and what was wrong."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from backup_pipeline.engine.format.record import to_iso
from backup_pipeline.engine.operations.verify import VerifyReport
from backup_pipeline.engine.repository import Repository, utc_now

__all__ = ["record_verification"]


def record_verification(
    repository: Repository,
    report: VerifyReport,
    snapshot: str | None,
    *,
    clock: Callable[[], datetime] = utc_now,
) -> None:
    """Write down what a verification looked at and found: one record in the repository's log.

    Args:
        repository: What was verified.
        report: What was found.
        snapshot: Id of the one snapshot that it was about; None for all.
        clock: Tells the time.

    Raises:
        BackupError: The log cannot be written to.
    """
    repository.log.append(
        {
            "type": "verify",
            "optional": True,
            "at": to_iso(clock()),
            "snapshot": snapshot,
            "packs_total": report.packs_total,
            "packs_checked": report.packs_checked,
            "bytes_total": report.bytes_total,
            "bytes_checked": report.bytes_checked,
            "errors": max(report.damage_count, len(report.damage)),
        }
    )

"""The two ends of a restore in place: put back what was, or drop what was kept."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from backup_pipeline.engine.errors import NotFound, UsageError
from backup_pipeline.engine.folders import SIDE_FOLDER
from backup_pipeline.engine.operations import in_place
from backup_pipeline.engine.operations.moves import Moves
from backup_pipeline.engine.operations.side import Begun, Side, begun_in

__all__ = ["EndReport", "accept", "undo"]


@dataclass(slots=True)
class EndReport:
    """What undoing or accepting a restore in place did.

    Attributes:
        done: ``undone`` or ``accepted``.
        files: Files that were put back, or dropped.
        bytes: Their bytes.
        since: Where things are kept that were changed after the restore; None where there are none.
        notices: What else is worth knowing.
    """

    done: str
    target: str
    dataset: str
    snapshot: str
    day: str
    files: int = 0
    bytes: int = 0
    since: str | None = None
    notices: list[str] = field(default_factory=list[str])

    def to_json(self) -> dict[str, Any]:
        """Fields by name."""
        return asdict(self)


def undo(root: Path) -> EndReport:
    """Put a folder back to what it was before the restore in place that was begun in it.

    What was changed after the restore is not lost: it is moved to a folder that is named.

    Raises:
        NotFound: None was begun.
        UsageError: What was is dropped already.
        BackupError: Something could not be put back; run it again once that is put right.
    """
    begun = _begun(root)
    if begun.phase == "undone" or (begun.phase, begun.ended) == ("dropping", "accepted"):
        raise UsageError(
            f"what the restore in {root} replaced is not kept any more",
            "`--accept` removes what is left of it",
        )
    report = _report("undone", root, begun)
    with Side(root) as side:
        if begun.phase in {"staging", "dropping"}:
            if begun.phase == "staging":
                report.files = report.bytes = 0
            in_place.drop(side, begun)
            return report
        begun.phase = "undoing"
        side.write_state(begun)
        with Moves(side) as moves:
            moves.undo(side.steps())
            report.notices += moves.notices
        in_place.settle()
        if side.has_since():
            report.since = str(side.since)
            begun.phase = "undone"
            side.write_state(begun)
            side.drop(also_since=False)
        else:
            in_place.drop(side, begun)
    return report


def accept(root: Path) -> EndReport:
    """Drop what a restore in place replaced; it cannot be undone any more.

    Raises:
        NotFound: None was begun.
        UsageError: It was interrupted.
    """
    begun = _begun(root)
    if begun.phase not in {"done", "undone", "dropping"}:
        raise UsageError(
            f"the restore in {root} was interrupted, and what it replaced may be needed",
            "run the same command again to finish it, or put back what was with --undo",
        )
    report = _report("accepted", root, begun)
    with Side(root) as side:
        begun.phase, begun.ended = "dropping", begun.ended or "accepted"
        side.write_state(begun)
        before = root.stat()
        side.drop()
        os.utime(root, ns=(before.st_atime_ns, before.st_mtime_ns))
    return report


def _begun(root: Path) -> Begun:
    begun = begun_in(root)
    if begun is None:
        with suppress(OSError):
            (root / SIDE_FOLDER).rmdir()  # begun by a process that ended at once
        raise NotFound(
            f"no restore in place was begun in {root}",
            "name the directory that was restored: --to DIR",
        )
    return begun


def _report(done: str, root: Path, begun: Begun) -> EndReport:
    return EndReport(
        done,
        str(root),
        begun.dataset,
        begun.snapshot,
        begun.day,
        begun.kept_files,
        begun.kept_bytes,
    )

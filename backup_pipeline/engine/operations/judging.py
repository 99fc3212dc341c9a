"""What a snapshot's record says of anomalies: measured, judged, carried by copies, and cleared."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import date, datetime
from typing import Any

from backup_pipeline.engine.errors import NotFound
from backup_pipeline.engine.format.record import Snapshot, to_iso
from backup_pipeline.engine.judgement import Gate, judge
from backup_pipeline.engine.measure import Measure
from backup_pipeline.engine.operations.change import ChangeMeter
from backup_pipeline.engine.repository import Repository, utc_now
from backup_pipeline.engine.suspicions import CLEAR

__all__ = ["Watch", "carried", "clear"]

SAMPLE = 32
"""How many of a segment's small files are looked at in a first backup. It is compared with nothing,
and judged by nothing: all that later ones ask of it is how true its names are."""


class Watch:
    """Watches a run for what is unusual.

    Args:
        repository: Where the run writes to.
        gate: What it is judged by.
        day: The day that the snapshot stands for.
        reference: What the snapshot inherits from; None for a full.

    Attributes:
        compared: The snapshot that what is read is held against.
        meter: Takes in what changed.
        looked_at: How many small files of a segment are to be looked at; None: all.
    """

    def __init__(
        self, repository: Repository, gate: Gate, day: date, reference: Snapshot | None
    ) -> None:
        self._repository = repository
        self._gate = gate
        self._day = day
        newest = next(reversed(repository.snapshots()), None)
        differs = reference is not None and newest is not None and reference.id != newest.id
        self.compared: Snapshot | None = None
        if not gate.slices:
            self.compared = newest if newest is None or _newer(newest, reference) else reference
        self.aside = self.compared if differs and self.compared is newest else None
        sampled = self.compared is None and not gate.slices
        self.looked_at = SAMPLE if sampled else None
        self.meter = ChangeMeter(pairing=self.compared is not None, sampled=sampled)

    def verdict(self, identity: str, files: int, size_bytes: int) -> dict[str, Any]:
        """What the record of the snapshot with this id says."""
        before = self.compared
        measure = self.meter.finish(
            files_before=before.files if before else 0,
            files=files,
            bytes_before=before.bytes if before else 0,
            bytes=size_bytes,
        )
        said: dict[str, Any] = {"snapshot": identity, "measure": measure.to_json()}
        explained = self._gate.explained
        if explained is not None:
            said["explained"] = {"by": explained.by, "reason": explained.reason}
        if before is not None and self._day < before.day:
            return {
                **said,
                "skipped": f"it stands for a day before {before.day}, its predecessor's",
            }
        if self._gate.off:
            return {**said, "skipped": "the plan has `anomaly` switched off"}
        return said | self._findings(measure)

    def _findings(self, measure: Measure) -> dict[str, Any]:
        profile = self._repository.state.suspicions.profile
        found = judge(measure, profile, self._gate, self._day)
        return {"findings": [one.to_json() for one in found]} if found else {}


def _newer(newest: Snapshot, reference: Snapshot | None) -> bool:
    """Whether the newest snapshot says more of what is usual than what a run inherits from."""
    return reference is None or newest.status == "complete"


def carried(source: Repository, snapshot: Snapshot) -> Callable[[str], dict[str, Any] | None]:
    """What the record of a copy says: what its origin's does, and what was suspicious there."""
    suspicions = source.state.suspicions
    said = dict(snapshot.anomaly or {})
    own = str(said.get("snapshot", snapshot.id))
    waiting = [one.to_json() for one in suspicions.open() if one.id != own]
    if waiting:
        said |= {"snapshot": own, "open": waiting}
    if own in suspicions.cleared:
        said["cleared"] = dict(suspicions.cleared[own])
    return lambda _: said or None


def clear(
    repository: Repository,
    snapshot: str,
    *,
    cleared: bool,
    reason: str,
    by: str,
    clock: Callable[[], datetime] = utc_now,
) -> None:
    """Say that a suspicious snapshot is as it should be, or take that back.

    Args:
        repository: Where.
        snapshot: Its id in the tier that read the source.
        cleared: Whether it is as it should be.
        reason: Why, for whoever asks later.
        by: Who says so.
        clock: Tells the time.

    Raises:
        NotFound: The log knows of no such suspicion.
    """

    def recheck() -> None:
        if snapshot not in repository.state.suspicions.flagged:
            raise NotFound(
                f"{repository.dataset} in tier {repository.tier} has no suspicious snapshot"
                f" {snapshot[:12]}",
                "`backup-pipeline snapshots` shows which are",
            )

    repository.refresh()
    recheck()
    body: Mapping[str, Any] = {
        "type": CLEAR,
        "optional": True,
        "snapshot": snapshot,
        "cleared": cleared,
        "reason": reason,
        "by": by,
        "at": to_iso(clock()),
    }
    repository.log.append(body, recheck)

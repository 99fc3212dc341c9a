"""Which snapshot of an Iceberg table was current at a past time: decisions over its metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

__all__ = ["States", "as_it_was"]


class States:
    """What a table's metadata tells of its past.

    Args:
        metadata: The content of its metadata file.
        location: Where that file is.
    """

    def __init__(self, metadata: Mapping[str, Any], location: str) -> None:
        self.metadata = metadata
        self.snapshots: dict[int, Mapping[str, Any]] = {
            one["snapshot-id"]: one for one in metadata.get("snapshots", ())
        }
        self._log = [
            (int(one["timestamp-ms"]), int(one["snapshot-id"]))
            for one in metadata.get("snapshot-log", ())
        ]
        files = [
            (int(one["timestamp-ms"]), str(one["metadata-file"]))
            for one in metadata.get("metadata-log", ())
        ]
        self._files = [*files, (int(metadata["last-updated-ms"]), location)]

    @property
    def first_ms(self) -> int:
        """The time of the oldest state that is known."""
        return min([self._files[0][0], *(moment for moment, _ in self._log)])

    def metadata_before(self, end_ms: int) -> str | None:
        """The metadata file that was in force just before a time; None where none is known."""
        later = next((at for at, one in enumerate(self._files) if one[0] >= end_ms), None)
        at = len(self._files) if later is None else later
        return self._files[at - 1][1] if at else None

    def snapshot_before(self, end_ms: int) -> int | None:
        """The snapshot that was current just before a time, by the log of snapshots.

        Some writers drop expired snapshots from the middle of that log, and it then seems as if
        the one before them had lasted longer. So the next must follow on the one that is found.

        Returns:
            None where it expired, or none is known.
        """
        later = next((at for at, one in enumerate(self._log) if one[0] >= end_ms), None)
        at = len(self._log) if later is None else later
        if at == 0 or self._log[at - 1][1] not in self.snapshots:
            return None
        found = self._log[at - 1][1]
        following = self._log[at][1] if at < len(self._log) else None
        if following is None:
            return found if found == self.metadata.get("current-snapshot-id") else None
        after = self.snapshots.get(following)
        if after is None or after.get("parent-snapshot-id") != found:
            return None
        return found


def as_it_was(metadata: Mapping[str, Any], location: str, snapshot_id: int) -> tuple[str, bytes]:
    """Metadata whose current snapshot is an earlier one, where the file of then is gone.

    The schema is the snapshot's; properties, partitioning for new files and sort order are those
    of now.

    Returns:
        A location beside the original's, and the content.
    """
    snapshot = next(one for one in metadata["snapshots"] if one["snapshot-id"] == snapshot_id)
    log = list(metadata.get("snapshot-log", ()))
    last = max((at for at, one in enumerate(log) if one["snapshot-id"] == snapshot_id), default=-1)
    content = {
        **metadata,
        "current-snapshot-id": snapshot_id,
        "current-schema-id": snapshot.get("schema-id", metadata.get("current-schema-id")),
        "last-updated-ms": snapshot["timestamp-ms"],
        "snapshot-log": log[: last + 1],
        "refs": {"main": {"snapshot-id": snapshot_id, "type": "branch"}},
    }
    base = location.removesuffix(".metadata.json")
    return f"{base}-at-{snapshot_id}.metadata.json", json.dumps(content).encode()

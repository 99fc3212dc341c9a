"""What all parts of a repair share: where it works, who can help, and the record at its end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import pyarrow as pa

from backup_pipeline.engine.crypto import Buffer
from backup_pipeline.engine.errors import Conflict, DamageError
from backup_pipeline.engine.format.record import to_iso
from backup_pipeline.engine.operations.donors import Chunk, Donors
from backup_pipeline.engine.operations.repair_report import RepairReport
from backup_pipeline.engine.operations.still_there import chunks_of_source
from backup_pipeline.engine.progress import Meter
from backup_pipeline.engine.repository import Repository
from backup_pipeline.sources.base import Source

__all__ = ["UNWRITABLE", "Mending"]

UNWRITABLE = "it is to be had, but the log is damaged and cannot be written to"


class Mending:
    """One repair's means.

    Args:
        repository: What is repaired.
        donors: Who may hold what it lost.
        source: Opens the dataset's source.
        apply: Whether to write.
        clock: Tells the times that records say.
        meter: Is told the progress.
        result: What was found and done.
    """

    def __init__(
        self,
        repository: Repository,
        donors: Donors,
        source: Callable[[], Source] | None,
        apply: bool,
        clock: Callable[[], datetime],
        meter: Meter,
        result: RepairReport,
    ) -> None:
        self.repository = repository
        self.donors = donors
        self.source = source
        self.apply = apply
        self.clock = clock
        self.meter = meter
        self.result = result

    @property
    def writes(self) -> bool:
        """Whether anything new can be referred to."""
        return self.apply and not self.repository.log.lost

    def live_rows(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """Rows of all segments of live snapshots, each once; of those that can be read."""
        unique = {
            segment.name: segment
            for snapshot in self.repository.snapshots()
            for segment in snapshot.segments
        }
        for segment in unique.values():
            try:
                rows = self.repository.segments.rows(segment)
            except DamageError:
                continue
            yield from rows.batches(columns)

    def is_condemned(self, name: str) -> bool:
        """Whether a thing, or all of its run, will be deleted."""
        return self.repository.state.is_condemned(name)

    def bring(self, chunks: Sequence[Chunk], add: Callable[[bytes, Buffer], None]) -> set[bytes]:
        """Have chunks from siblings, from this tier's other packs, or from the source."""
        brought: set[bytes] = set()
        if not chunks:
            return brought
        newest = next(iter(reversed(self.repository.snapshots())), None)
        for found in self.donors.chunks(chunks, snapshot=newest):
            brought.add(found.id)
            add(found.id, found.content)
            self.meter.add(len(found.content), 0)
        self.donors.require()
        rest = {chunk.id for chunk in chunks} - brought
        if rest and self.source is not None:
            rows = self.live_rows(("path", "type", "chunks"))
            for identity, content in chunks_of_source(
                self.source, rows, rest, self.repository.keys.identity, self.donors.note
            ):
                brought.add(identity)
                add(identity, content)
                self.result.from_source_bytes += len(content)
        return brought

    def record(self, replaced: Mapping[str, list[Any]], refers: set[str], reason: str) -> None:
        """Say what is to be read instead; from then on it is."""
        repository = self.repository
        before = {name: repository.state.replacements.get(name) for name in replaced}

        def recheck() -> None:
            state = repository.state
            gone = sorted(name for name in {*refers, *replaced} if self.is_condemned(name))
            changed = [name for name in before if state.replacements.get(name) != before[name]]
            if gone or changed:
                what = f"condemned {gone[0]}" if gone else f"repaired {changed[0]}"
                raise Conflict(
                    f"another process {what} while {repository.dataset} was repaired",
                    "run the repair again",
                )

        repository.refresh()
        recheck()
        body = {
            "type": "replacement",
            "replacements": dict(replaced),
            "reason": reason,
            "at": to_iso(self.clock()),
        }
        repository.log.append(body, recheck)
        repository.forget()

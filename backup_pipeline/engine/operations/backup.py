"""Backup: read what changed in a source and commit a snapshot of all of it.

Order of work, safe when stopped at any point: the run's record, packs, segments, and last the
snapshot's record. Until that is in the log nothing refers to what was written, and the next run
of the same work takes it up again.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from datetime import date, datetime

import pyarrow as pa
import pyarrow.compute as pc

from backup_pipeline import __version__
from backup_pipeline.engine.chunk_index import ChunkIndex
from backup_pipeline.engine.chunker import Chunker
from backup_pipeline.engine.format.manifest import manifest_schema
from backup_pipeline.engine.format.record import Snapshot
from backup_pipeline.engine.manifest import printable
from backup_pipeline.engine.operations.committing import (
    MOST_PROBLEMS,
    Changes,
    NewRows,
    begin_run,
    commit,
    newest_entries,
    take_up_packs,
)
from backup_pipeline.engine.operations.compare import Comparison
from backup_pipeline.engine.operations.foundation import Foundation
from backup_pipeline.engine.operations.packing import Packer
from backup_pipeline.engine.operations.reading import EntryReader
from backup_pipeline.engine.progress import Meter, Report
from backup_pipeline.engine.repository import Repository, utc_now
from backup_pipeline.engine.segments import ahead
from backup_pipeline.sources.base import GOOD, SKIPPED, Fingerprint, Source

__all__ = ["backup"]

MOST_SKIPPED_SHOWN = 10


class _Totals:
    """Sums over the scan."""

    def __init__(self) -> None:
        self.entries = 0
        self.files = 0
        self.bytes = 0
        self.bad: dict[bytes, tuple[str, str]] = {}
        self.skipped: list[tuple[bytes, str]] = []

    def add(self, batch: pa.RecordBatch) -> None:
        type = batch.column("type")
        self.entries += len(batch)
        self.files += pc.sum(pc.is_in(type, value_set=pa.array(["file", "object"]))).as_py()
        self.bytes += pc.sum(batch.column("size")).as_py()
        states = pa.array([GOOD, SKIPPED])
        bad = batch.filter(pc.invert(pc.is_in(batch.column("state"), value_set=states)))
        for path, state, reason in zip(
            *(bad.column(name).to_pylist() for name in ("path", "state", "reason")), strict=True
        ):
            self.bad[path] = (state, reason or "")
        skipped = batch.filter(pc.equal(batch.column("state"), SKIPPED))
        self.skipped += zip(
            *(skipped.column(name).to_pylist() for name in ("path", "reason")), strict=True
        )


def backup(
    repository: Repository,
    source: Source,
    *,
    day: date,
    kind: str,
    parent: Snapshot | None = None,
    base: Snapshot | None = None,
    timing: str = "on-time",
    clock: Callable[[], datetime] = utc_now,
    report: Report | None = None,
    notice: Callable[[str], None] | None = None,
) -> Snapshot:
    """Back a source up.

    Args:
        repository: Where to.
        source: Where from.
        day: The day that the snapshot stands for.
        kind: ``full`` reads everything; ``incremental`` refers to ``parent``, ``differential``
            to ``base``.
        parent: The snapshot to compare with, for an incremental.
        base: The full that the chain began with, for both dependent kinds.
        timing: ``exact``, ``on-time`` or ``late``.
        clock: Gives the times that the snapshot says.
        report: Is told the progress.
        notice: Is told of entries that are recorded without bytes: sockets, devices and fifos.

    Returns:
        The committed snapshot; ``incomplete`` where some entries could not be read.

    Raises:
        SourceError: The source cannot be read at all.
        StoreError: The store failed; nothing was committed.
        UnsoundParent: ``parent`` or ``base`` is damaged; nothing was committed.
    """
    one = _Backup(repository, source, kind, parent, base, clock, report)
    snapshot = one.run(day, timing)
    if notice is not None:
        for text in _skipped_notices(one.totals.skipped):
            notice(text)
    return snapshot


def _skipped_notices(skipped: Sequence[tuple[bytes, str]]) -> list[str]:
    """One sentence for each of the first few skipped entries, and how many more there are."""
    shown = [
        f"{printable(path)} is recorded and skipped: {reason}"
        for path, reason in skipped[:MOST_SKIPPED_SHOWN]
    ]
    more = len(skipped) - len(shown)
    return [*shown, f"{more} more entries are recorded and skipped"] if more else shown


class _Backup:
    """One run of the verb."""

    def __init__(
        self,
        repository: Repository,
        source: Source,
        kind: str,
        parent: Snapshot | None,
        base: Snapshot | None,
        clock: Callable[[], datetime],
        report: Report | None,
    ) -> None:
        self.repository = repository
        self.source = source
        self.kind = kind
        self.parent = parent
        self.base = base
        self.clock = clock
        self.reference = parent if kind == "incremental" else base
        if kind == "full":
            self.reference = None
        self.foundation: Foundation | None = None
        self.meter = Meter(f"backup {repository.dataset} to {repository.tier}", report)
        self.totals = _Totals()
        self.changes = Changes()
        self.new = NewRows(repository)
        self.fingerprint = Fingerprint()

    def run(self, day: date, timing: str) -> Snapshot:
        """Read, store and commit."""
        repository = self.repository
        started = self.clock()
        # Counted as the caller saw them who chose parent and base, then brought up to date.
        known_condemned = len(repository.state.condemned)
        repository.refresh()
        foundation = self.foundation = self._foundation()
        index = ChunkIndex(foundation.chunks if foundation is not None else None)
        run = begin_run(
            repository,
            operation="backup",
            kind=self.kind,
            parent=self.parent,
            base=self.base,
            day=day,
            now=started,
        )
        if run.taken_up:
            self.meter.enter("taking up an interrupted run")
            take_up_packs(repository, run, index)

        def announce() -> None:
            if foundation is not None:
                foundation.require()
            if not run.taken_up:
                repository.log.append(run.body)

        scan_started_ns = time.time_ns()
        captured = self.clock()
        packer = Packer(repository, run.id, run.content_key, index, announce)
        try:
            reader = EntryReader(
                self.source,
                packer,
                index,
                Chunker(repository.keys.chunker_seed),
                self.meter,
                self._keep,
            )
            comparison = self._scan(reader)
            reader.finish()
            packer.close()
            reader.settle()
            if foundation is not None:
                foundation.require()
        except BaseException:
            packer.abandon()
            raise
        self.meter.enter("committing")
        self.changes.note("deleted", comparison.deleted)
        if self.reference is not None:
            segments, segment_bytes = self.new.store(self.reference.segments, comparison.deleted)
        else:
            segments, segment_bytes = self.new.store(())
        bad = {
            **self.totals.bad,
            **{path: (state, reason) for path, state, reason in reader.problems},
        }
        total = self.totals.bytes + reader.size_drift_bytes
        snapshot = Snapshot(
            id=secrets.token_hex(16),
            dataset=repository.dataset,
            tier=repository.tier,
            day=day,
            kind=self.kind,
            chain=run.chain,
            parent=self.parent.id if self.parent else None,
            base=self.base.id if self.base else None,
            run=run.id.hex() if packer.packs or run.taken_up else "",
            started_at=started,
            captured_at=captured,
            finished_at=self.clock(),
            timing=timing,
            status="incomplete" if bad else "complete",
            entries=self.totals.entries,
            good_entries=self.totals.entries - len(bad),
            files=self.totals.files,
            bytes=total,
            read_bytes=reader.read_bytes,
            stored_bytes=packer.stored_bytes + segment_bytes,
            deduplicated_bytes=max(0, total - packer.new_raw_bytes),
            problems=[
                {"path": printable(path), "reason": f"{state}: {reason}"}
                for path, (state, reason) in list(bad.items())[:MOST_PROBLEMS]
            ],
            problem_count=len(bad),
            fingerprint=self.fingerprint.hexdigest(),
            segments=segments,
            changes=self.changes.to_json(),
            scan_started_ns=scan_started_ns,
            deployment=repository.deployment,
            writer=__version__,
        )
        return commit(repository, snapshot, known_condemned)

    def _foundation(self) -> Foundation | None:
        if self.reference is None:
            return None
        return Foundation(self.repository, self.reference)

    def _comparison(self) -> Comparison:
        """What the scan is held against: the reference, or for a full what came before it."""
        if self.foundation is None or self.reference is None:
            before = ahead(newest_entries(self.repository))
            return Comparison(before, None, 0, trusting=False)
        granularity = self.source.clock_granularity_ns
        trusted = self.reference.scan_started_ns if granularity else None
        self.meter.total_bytes = self.reference.bytes
        self.meter.total_entries = self.reference.entries
        return Comparison(self.foundation.entries(), trusted, granularity)

    def _scan(self, reader: EntryReader) -> Comparison:
        """Hold the scan against what came before and read what may differ."""
        comparison = self._comparison()
        self.meter.enter("reading")
        for batch in self.source.scan():
            self.fingerprint.update(batch)
            self.totals.add(batch)
            unchanged, older = comparison.match(batch)
            if not unchanged.all():
                reader.take(batch.filter(pa.array(~unchanged)), older)
            quiet = pc.sum(batch.column("size").filter(pa.array(unchanged))).as_py() or 0
            self.meter.add(quiet, int(unchanged.sum()))
        comparison.finish()
        return comparison

    def _keep(self, rows: pa.Table, older: pa.Table | None) -> None:
        """Count what changed of the rows that were read, and keep those that differ."""
        same = self.changes.note_rows(
            rows, manifest_schema().empty_table() if older is None else older
        )
        self.new.add(rows if self.reference is None else rows.filter(pa.array(~same)))

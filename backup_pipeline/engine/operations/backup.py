"""Backup: read what changed in a source and commit a snapshot of all of it.

Order of work, safe when stopped at any point: the run's record, packs, segments, and last the
snapshot's record. Until that is in the log nothing refers to what was written, and the next run
of the same work takes it up again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from backup_pipeline.engine.chunk_index import ChunkIndex
from backup_pipeline.engine.chunker import Chunker
from backup_pipeline.engine.format.record import Snapshot
from backup_pipeline.engine.judgement import Gate
from backup_pipeline.engine.manifest import printable
from backup_pipeline.engine.operations.committing import (
    MOST_PROBLEMS,
    newest_entries,
    take_up_packs,
)
from backup_pipeline.engine.operations.compare import Comparison
from backup_pipeline.engine.operations.foundation import Foundation
from backup_pipeline.engine.operations.judging import Watch
from backup_pipeline.engine.operations.packing import Packer
from backup_pipeline.engine.operations.reading import EntryReader, Older
from backup_pipeline.engine.operations.work import Prepared, Work
from backup_pipeline.engine.progress import Meter, Report
from backup_pipeline.engine.repository import Repository, utc_now
from backup_pipeline.engine.segments import ahead
from backup_pipeline.sources.base import GOOD, SKIPPED, Fingerprint, Source

__all__ = ["backup", "prepare"]

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
    gate: Gate | None = None,
    clock: Callable[[], datetime] = utc_now,
    report: Report | None = None,
    notice: Callable[[str], None] | None = None,
) -> Snapshot:
    """Back a source up: ``prepare``, and commit.

    Args are those of ``prepare``.

    Returns:
        The committed snapshot; ``incomplete`` where some entries could not be read.

    Raises:
        SourceError: The source cannot be read at all.
        StoreError: The store failed; nothing was committed.
        UnsoundParent: ``parent`` or ``base`` is damaged; nothing was committed.
        Conflict: A prune condemned what the snapshot refers to.
    """
    return prepare(
        repository,
        source,
        day=day,
        kind=kind,
        parent=parent,
        base=base,
        timing=timing,
        gate=gate,
        clock=clock,
        report=report,
        notice=notice,
    ).commit()


def prepare(
    repository: Repository,
    source: Source,
    *,
    day: date,
    kind: str,
    parent: Snapshot | None = None,
    base: Snapshot | None = None,
    timing: str = "on-time",
    gate: Gate | None = None,
    clock: Callable[[], datetime] = utc_now,
    report: Report | None = None,
    notice: Callable[[str], None] | None = None,
) -> Prepared:
    """Read a source and store it, up to the record that commits the snapshot.

    Args:
        repository: Where to.
        source: Where from.
        day: The day that the snapshot stands for.
        kind: ``full`` reads everything; ``incremental`` refers to ``parent``, ``differential``
            to ``base``.
        parent: The snapshot to compare with, for an incremental.
        base: The full that the chain began with, for both dependent kinds.
        timing: ``exact``, ``on-time`` or ``late``.
        gate: What makes the snapshot suspicious; default: what is unusual for the dataset.
        clock: Gives the times that the snapshot says.
        report: Is told the progress.
        notice: Is told of entries that are recorded without bytes: sockets, devices and fifos.

    Returns:
        What is to be committed; ``incomplete`` where some entries could not be read.

    Raises:
        SourceError: The source cannot be read at all.
        StoreError: The store failed; nothing was committed.
        UnsoundParent: ``parent`` or ``base`` is damaged; nothing was committed.
    """
    work = Work(repository, "backup", kind, parent, base, day, timing, clock)
    one = _Backup(work, source, gate or Gate(), clock, report)
    prepared = one.run()
    if notice is not None:
        for text in _skipped_notices(one.totals.skipped):
            notice(text)
    return prepared


def _skipped_notices(skipped: Sequence[tuple[bytes, str]]) -> list[str]:
    """One sentence for each of the first few skipped entries, and how many more there are."""
    shown = [
        f"{printable(path)} is recorded and skipped: {reason}"
        for path, reason in skipped[:MOST_SKIPPED_SHOWN]
    ]
    more = len(skipped) - len(shown)
    return [*shown, f"{more} more entries are recorded and skipped"] if more else shown


@dataclass(frozen=True, slots=True)
class _Read:
    """What reading the source came to."""

    deleted: list[tuple[bytes, int]]
    problems: list[tuple[bytes, str, str]]
    read_bytes: int
    size_drift_bytes: int
    packs: int
    stored_bytes: int
    new_raw_bytes: int


class _Backup:
    """One run of the verb."""

    def __init__(
        self,
        work: Work,
        source: Source,
        gate: Gate,
        clock: Callable[[], datetime],
        report: Report | None,
    ) -> None:
        self.work = work
        self.watch = Watch(work.repository, gate, work.day, work.reference)
        self.source = source
        self.clock = clock
        repository = work.repository
        self.meter = Meter(f"backup {repository.dataset} to {repository.tier}", report)
        self.totals = _Totals()
        self.fingerprint = Fingerprint()

    def run(self) -> Prepared:
        """Read and store."""
        scan_started_ns, captured_at = time.time_ns(), self.clock()
        read = self._read()
        self.meter.enter("committing")
        problems = {path: (state, reason) for path, state, reason in read.problems}
        bad = {**self.totals.bad, **problems}
        total = self.totals.bytes + read.size_drift_bytes
        return self.work.prepare(
            read.deleted,
            wrote_packs=read.packs > 0,
            stored_bytes=read.stored_bytes,
            anomaly=lambda identity: self.watch.verdict(identity, self.totals.files, total),
            captured_at=captured_at,
            status="incomplete" if bad else "complete",
            entries=self.totals.entries,
            good_entries=self.totals.entries - len(bad),
            files=self.totals.files,
            bytes=total,
            read_bytes=read.read_bytes,
            deduplicated_bytes=max(0, total - read.new_raw_bytes),
            problems=[
                {"path": printable(path), "reason": f"{state}: {reason}"}
                for path, (state, reason) in list(bad.items())[:MOST_PROBLEMS]
            ],
            problem_count=len(bad),
            fingerprint=self.source.scanned() or self.fingerprint.hexdigest(),
            scan_started_ns=scan_started_ns,
        )

    def _read(self) -> _Read:
        """Read and store what changed; what was needed for it is given up on return."""
        work, repository, run = self.work, self.work.repository, self.work.run
        foundation = Foundation(repository, work.reference) if work.reference else None
        index = ChunkIndex(foundation.chunks if foundation is not None else None)
        if run.taken_up:
            self.meter.enter("taking up an interrupted run")
            take_up_packs(repository, run, index)

        def announce() -> None:
            if foundation is not None:
                foundation.require()
            if not run.taken_up:
                repository.log.append(run.body)

        looked_at = self.watch.looked_at
        packer = Packer(repository, run.id, run.content_key, index, announce, looked_at=looked_at)
        chunker = Chunker(repository.keys.chunker_seed)
        try:
            reader = EntryReader(self.source, packer, index, chunker, self.meter, self._keep)
            comparison = self._comparison(foundation)
            self._scan(reader, comparison)
            reader.finish()
            packer.close()
            reader.settle()
            if foundation is not None:
                foundation.require()
        except BaseException:
            packer.abandon()
            raise
        return _Read(
            comparison.deleted,
            reader.problems,
            reader.read_bytes,
            reader.size_drift_bytes,
            packer.packs,
            packer.stored_bytes,
            packer.new_raw_bytes,
        )

    def _comparison(self, foundation: Foundation | None) -> Comparison:
        """What the scan is held against: the reference, or for a full what came before it."""
        reference = self.work.reference
        if foundation is None or reference is None:
            before = ahead(newest_entries(self.work.repository))
            return Comparison(before, None, 0, trusting=False, gone=self._gone())
        granularity = self.source.clock_granularity_ns
        trusted = reference.scan_started_ns if granularity else None
        self.meter.total_bytes = reference.bytes
        self.meter.total_entries = reference.entries
        return Comparison(foundation.entries(), trusted, granularity, gone=self._gone())

    def _gone(self) -> Callable[[pa.Table], None] | None:
        """Who is told what the scan lacks; nobody, where the watch has a comparison of its own."""
        if self.watch.compared is None or self.watch.aside is not None:
            return None
        return self.watch.meter.gone

    def _aside(self) -> Comparison | None:
        """What the scan is held against to be judged, where that is not what it builds on."""
        aside = self.watch.aside
        if aside is None:
            return None
        before = ahead(newest_entries(self.work.repository))
        return Comparison(before, None, 0, trusting=False, gone=self.watch.meter.gone)

    def _keep(self, rows: pa.Table, older: Older, looks: Any) -> None:
        """Keep finished rows, and watch them."""
        same = self.work.keep(rows, older.reference)
        if self.watch.compared is None:
            self.watch.meter.take(rows, None, looks)
        elif self.watch.aside is not None:
            self.watch.meter.take(rows, older.newest, looks)
        else:
            self.watch.meter.take(rows, older.reference, looks, same)

    def _scan(self, reader: EntryReader, comparison: Comparison) -> None:
        """Hold the scan against what came before and read what may differ."""
        self.meter.enter("reading")
        aside = self._aside()
        for batch in self.source.scan():
            self.fingerprint.update(batch)
            match = comparison.match(batch)
            batch, unchanged = match.batch, match.unchanged
            self.totals.add(batch)
            newest = aside.match(batch).older if aside is not None else None
            if not unchanged.all():
                reader.take(batch.filter(pa.array(~unchanged)), Older(match.older, newest))
            quiet = pc.sum(batch.column("size").filter(pa.array(unchanged))).as_py() or 0
            self.meter.add(quiet, int(unchanged.sum()))
        comparison.finish()
        if aside is not None:
            aside.finish()

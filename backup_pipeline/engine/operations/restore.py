"""Restore: write a snapshot's entries below a directory, every chunk checked before it is written.

A batch of the manifest after the other, in order of path: its folders; files that are right already
are kept; chunks pack by pack; then hard links and symbolic links. Last the folders' own metadata.
What stops it costs nothing: run it again and it keeps what is right.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from backup_pipeline.engine.errors import NotFound
from backup_pipeline.engine.folders import split
from backup_pipeline.engine.format.manifest import BATCH_ROWS
from backup_pipeline.engine.format.record import Snapshot
from backup_pipeline.engine.manifest import printable
from backup_pipeline.engine.operations.assembly import Assembly
from backup_pipeline.engine.operations.donors import Donors
from backup_pipeline.engine.operations.fallback import MOST_LOST, Fallback, readable
from backup_pipeline.engine.operations.frames import Fetcher, FramePlan, Loss
from backup_pipeline.engine.operations.metadata import (
    found_of,
    set_link_metadata,
    set_metadata,
)
from backup_pipeline.engine.operations.refusals import (
    BELOW_REFUSED,
    Refusals,
    RefusedFolders,
    refusal,
)
from backup_pipeline.engine.operations.restore_plan import MADE, WITH_BYTES, Planner, Work
from backup_pipeline.engine.operations.restore_report import RestoreReport
from backup_pipeline.engine.operations.rows import Row, rows_of
from backup_pipeline.engine.operations.selection import Batches, select
from backup_pipeline.engine.operations.standing import Standing
from backup_pipeline.engine.operations.target import Target
from backup_pipeline.engine.progress import Meter, Report
from backup_pipeline.engine.repository import Repository
from backup_pipeline.engine.segments import ahead

__all__ = ["RestoreReport", "restore", "restore_chosen", "restore_rows"]


def restore(
    repository: Repository,
    snapshot: Snapshot,
    target: Path,
    *,
    include: Sequence[str] = (),
    dry_run: bool = False,
    donors: Donors | None = None,
    report: Report | None = None,
) -> RestoreReport:
    """Restore a snapshot, or what globs match of it.

    Args:
        repository: Where it is.
        snapshot: Which.
        target: Directory to restore to; entries there that are not in the snapshot stay.
        include: Globs over whole paths; none means everything.
        dry_run: Only tell.
        donors: Who may hold what is missing or damaged here; without them it is lost.
        report: Is told the progress.

    Returns:
        What was done; ``ok`` is False where stored bytes were damaged that nobody else has, and
        those files are named and not written.

    Raises:
        NotFound: No glob matches.
        BackupError: Something in the target is in the way; nothing was changed.
    """
    repository, snapshot, entries, donors, notice = readable(repository, snapshot, donors)
    chosen = select(entries, include)
    if chosen is None:
        raise NotFound(
            f"nothing in snapshot {snapshot.id[:12]} of {snapshot.dataset} matches"
            f" {', '.join(include)}",
            "`backup-pipeline ls` lists its paths; globs match whole paths, ** crosses folders",
        )
    result = restore_chosen(
        repository,
        snapshot,
        chosen,
        target,
        dry_run=dry_run,
        report=report,
        donors=donors,
        total_bytes=None if include else snapshot.bytes,
    )
    if notice is not None:
        result.notices.insert(0, notice)
    return result


def restore_rows(
    repository: Repository,
    snapshot: Snapshot,
    rows: pa.Table,
    target: Path,
    *,
    dry_run: bool = False,
    report: Report | None = None,
    donors: Donors | None = None,
) -> RestoreReport:
    """Restore some rows of a snapshot's manifest; see ``restore``."""
    slices = [rows.slice(at, BATCH_ROWS) for at in range(0, len(rows), BATCH_ROWS)]
    return restore_chosen(
        repository,
        snapshot,
        lambda: iter(slices),
        target,
        dry_run=dry_run,
        report=report,
        donors=donors,
    )


def restore_chosen(
    repository: Repository,
    snapshot: Snapshot,
    batches: Batches,
    target: Path,
    *,
    dry_run: bool = False,
    report: Report | None = None,
    donors: Donors | None = None,
    standing: Target | None = None,
    total_bytes: int | None = None,
) -> RestoreReport:
    """Restore chosen entries of a snapshot; see ``restore``.

    Args:
        repository: Where it is.
        snapshot: Which.
        batches: The rows; read twice.
        target: Directory to restore to.
        dry_run: Only tell.
        report: Is told the progress.
        donors: Who may hold what is missing or damaged here.
        standing: Where older states of the files stand, to copy equal parts from; default: the
            target itself, for large files.
        total_bytes: Their logical bytes, where known: then progress tells the time left.
    """
    result = RestoreReport(
        snapshot.id,
        snapshot.dataset,
        snapshot.tier,
        snapshot.day.isoformat(),
        str(target),
        dry_run,
    )
    place = Target(target, create=not dry_run)
    try:
        fallback = Fallback(donors, snapshot, result.notice) if donors is not None else None
        keys = repository.keys
        near = Standing(standing, keys, least_bytes=1) if standing else Standing(place, keys)
        run = _Restore(repository, batches, place, result, report, fallback, near)
        run.meter.total_bytes = total_bytes
        run.run()
        if donors is not None and fallback is not None and fallback.packs:
            fallback.tell()
            result.damaged_packs = len(fallback.packs)
            result.elsewhere = dict(donors.bytes_from)
        return result
    finally:
        place.close()


class _Restore:
    """One run of the verb."""

    def __init__(
        self,
        repository: Repository,
        batches: Batches,
        target: Target,
        result: RestoreReport,
        report: Report | None,
        fallback: Fallback | None,
        standing: Standing,
    ) -> None:
        self.standing = standing
        self.repository = repository
        self.fallback = fallback
        self.batches = batches
        self.target = target
        self.result = result
        self.owners = os.geteuid() == 0
        self.assembly = Assembly(target, owners=self.owners, done=self._done, lost=self._lost)
        self.folders: list[pa.Table] = []
        self.refused = RefusedFolders()
        self.meter = Meter(f"restore {result.dataset} {result.day}", report)

    def run(self) -> None:
        """Do it."""
        result = self.result
        tolerant = self.fallback is not None
        at = Refusals(self.target, b"")
        planner = Planner(self.target, self.repository.keys.identity, at, self.refused)
        self.meter.enter("comparing with what is there")
        with at:
            planner.survey(self.batches())
        self.meter.enter("comparing" if result.dry_run else "writing")
        with (
            closing(ahead(self.batches())) as batches,
            Fetcher(self.repository, tolerant=tolerant) as fetcher,
        ):
            for table in batches:
                with at:
                    work = planner.plan(table)
                self._count(work)
                if result.dry_run:
                    self._tell_reading(work, table)
                else:
                    self._write(work, table, fetcher)
        if not result.dry_run:
            self._finish()
        result.duration_s = self.meter.elapsed_s
        if result.duration_s:
            result.speed_bytes_per_s = result.bytes / result.duration_s
        self.meter.show(now=True)

    def _count(self, work: Work) -> None:
        """Tell what a batch of rows comes to."""
        result, rows = self.result, work.rows
        result.entries += len(rows)
        for number in work.lost:
            row = rows[number]
            result.lose(row.path, f"{row.state} when it was backed up: {row.reason}")
        for number, reason in work.refused:
            result.lose(rows[number].path, reason)
        for row in rows:
            if row.state == "skipped" or row.type not in MADE:
                result.notice(f"{printable(row.path)}: a {row.type} is not restored")
            elif row.state == "torn":
                result.notice(f"{printable(row.path)}: it changed while it was backed up")
            if row.type in WITH_BYTES:
                result.files += 1
                result.bytes += row.size
        result.written_files += len(work.wanted) + len(work.links)
        result.written_bytes += sum(rows[number].size for number in work.wanted)
        right = [row for number in work.right if (row := rows[number]).type in WITH_BYTES]
        result.skipped_files += len(right)
        result.replaced_files += work.replaced
        self.meter.add(sum(row.size for row in right), len(right))

    def _write(self, work: Work, table: pa.Table, fetcher: Fetcher) -> None:
        """The folders of a batch, its files, what was right, and its links."""
        self.folders.append(table.filter(pc.equal(table.column("type"), "directory")))
        with Refusals(self.target, b"") as at:
            self._make_folders(work, at)
        self._write_files(work, table, fetcher)
        with Refusals(self.target, b"") as at:
            for number in work.right:
                row = work.rows[number]
                at.path = row.path
                if row.type == "symlink":
                    self._link_metadata(row)
                else:
                    self._metadata(row, self.target.open_read(at.path))
            self._write_links(work, at)

    def _make_folders(self, work: Work, at: Refusals) -> None:
        """Make a batch's folders; what belongs below one that cannot be made is given up."""
        known = {number for number, _ in work.refused}
        for number, row in enumerate(work.rows):
            if row.type == "directory" and number not in known:
                at.path = row.path
                self._make_folder(row, there=number in work.in_place)
        above = None
        for number in work.wanted:
            row = work.rows[number]
            folder, _ = split(row.path)
            if folder != above and not self.refused.holds(folder):
                at.path = row.path
                try:
                    self.target.make_folders_above(row.path)
                except OSError as error:
                    if refusal(error) is None:
                        raise
                    self.refused.add(folder)
                above = folder
        if self.refused:
            self._give_up(work)

    def _make_folder(self, row: Row, *, there: bool) -> None:
        if self.refused.holds(row.path):
            self.result.lose(row.path, BELOW_REFUSED)
        elif not self._try(row.path, partial(self.target.make_folder, row.path, there=there)):
            self.refused.add(row.path)

    def _give_up(self, work: Work) -> None:
        """Leave out what belongs below a folder that is not there."""
        rows, holds = work.rows, self.refused.holds
        for number in work.wanted:
            if holds(rows[number].path):
                self.assembly.failed.add(rows[number].path)
                self._lost(rows[number], BELOW_REFUSED)
        for number, _ in work.links:
            if holds(rows[number].path):
                self.result.lose(rows[number].path, BELOW_REFUSED)
                self.result.written_files -= 1
        for number in work.symlinks:
            if holds(rows[number].path):
                self.result.lose(rows[number].path, BELOW_REFUSED)
        work.wanted = [number for number in work.wanted if not holds(rows[number].path)]
        work.links = [link for link in work.links if not holds(rows[link[0]].path)]
        work.symlinks = [number for number in work.symlinks if not holds(rows[number].path)]

    def _tell_reading(self, work: Work, table: pa.Table) -> None:
        """What would be fetched for a batch, and what copied."""
        plan, had = _frames_of(work, table), set[tuple[int, int]]()
        for number, at, content in self.standing.pieces(work.rows, work.wanted, table):
            had.add((number, at))
            self.result.copied_bytes += len(content)
        plan.leave_out(had)
        self.result.fetched_bytes += plan.stored_bytes()

    def _copy_near(self, work: Work, table: pa.Table, plan: FramePlan) -> None:
        """Put what stands nearby already; the rest is fetched."""
        had: set[tuple[int, int]] = set()
        for number, at, content in self.standing.pieces(work.rows, work.wanted, table):
            self.assembly.put([(number, at, content)])
            had.add((number, at))
            self.result.copied_bytes += len(content)
            self.meter.add(len(content), 0)
        if had:
            plan.leave_out(had)
        self.result.fetched_bytes += plan.stored_bytes()

    def _write_files(self, work: Work, table: pa.Table, fetcher: Fetcher) -> None:
        plan, assembly = _frames_of(work, table), self.assembly
        rows = [work.rows[number] for number in work.wanted]
        beside = {place for place, number in enumerate(work.wanted) if number in work.in_place}
        try:
            assembly.begin(rows, plan.row_bytes, beside)
            self._copy_near(work, table, plan)
            lost: list[Loss] = []
            for content in fetcher.contents(plan):
                assembly.put(content.pieces)
                lost += content.lost
                if len(lost) >= MOST_LOST:
                    self._have_elsewhere(lost, rows)
                self.meter.add(sum(len(piece) for _, _, piece in content.pieces), 0)
            self._have_elsewhere(lost, rows)
        except BaseException:
            assembly.abandon()
            raise

    def _have_elsewhere(self, lost: list[Loss], rows: Sequence[Row]) -> None:
        """Put pieces from other places, and give up the files that lack one for good."""
        if lost and self.fallback is not None:
            had: set[tuple[int, int]] = set()
            for number, at, piece in self.fallback.pieces(lost, rows):
                had.add((number, at))
                self.assembly.put([(number, at, piece)])
                self.meter.add(len(piece), 0)
            lost[:] = [loss for loss in lost if (loss.row, loss.piece.at) not in had]
        for loss in lost:
            self.assembly.fail(loss.row, loss.error.message)
        lost.clear()

    def _write_links(self, work: Work, at: Refusals) -> None:
        for number, first in work.links:
            at.path = work.rows[number].path
            if not self._link(first, at.path, there=number in work.in_place):
                self.result.written_files -= 1
        for number in work.symlinks:
            row = work.rows[number]
            at.path = row.path
            points_to = row.link_target or b""
            there = number in work.in_place
            if self._try(at.path, partial(self.target.symlink, points_to, at.path, there=there)):
                self._link_metadata(row)

    def _lost(self, row: Row, reason: str) -> None:
        self.result.lose(row.path, reason)
        self.result.written_files -= 1
        self.result.written_bytes -= row.size

    def _done(self, row: Row, notices: list[str]) -> None:
        if notices:
            self._tell(row, notices)
        self.meter.add(0, 1)

    def _tell(self, row: Row, notices: list[str]) -> None:
        for notice in notices:
            self.result.notice(f"{printable(row.path)}: {notice}")

    def _finish(self) -> None:
        """The folders' own metadata, from the deepest up."""
        with Refusals(self.target, b"") as at:
            while self.folders:
                for row in reversed(rows_of(self.folders.pop())):
                    if self.refused.holds(row.path):
                        continue
                    at.path = row.path
                    self._metadata(row, os.dup(self.target.folder(row.path)))

    def _link(self, first: bytes, path: bytes, *, there: bool) -> bool:
        if first in self.assembly.failed:
            self.result.lose(path, "its bytes are those of a file that is not there")
            return False
        return self._try(path, partial(self.target.link, first, path, there=there))

    def _try(self, path: bytes, make: Callable[[], None]) -> bool:
        """Make a folder or link; whether the target can hold it."""
        try:
            make()
        except OSError as error:
            reason = refusal(error)
            if reason is None:
                raise
            self.result.lose(path, reason)
            return False
        return True

    def _link_metadata(self, row: Row) -> None:
        folder, name = split(row.path)
        fd = self.target.folder(folder)
        self._tell(row, set_link_metadata(name, fd, row, owners=self.owners))

    def _metadata(self, row: Row, fd: int) -> None:
        try:
            self._tell(row, set_metadata(fd, row, found_of(fd), owners=self.owners, fresh=False))
        finally:
            os.close(fd)


def _frames_of(work: Work, table: pa.Table) -> FramePlan:
    """The frames of a batch's wanted files."""
    return FramePlan(table.select(["chunks"]).take(pa.array(work.wanted, pa.int64())))

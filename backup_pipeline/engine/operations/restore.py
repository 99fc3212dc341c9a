"""Restore: write a snapshot's entries below a directory, every chunk checked before it is written.

Order of work: folders; files that are right already are kept; chunks pack by pack; then links,
hard links and last the folders' own metadata. What stops it costs nothing: run it again and it
keeps what is right.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import zstandard
from blake3 import blake3

from backup_pipeline.engine.errors import DamageError, NotFound
from backup_pipeline.engine.folders import split
from backup_pipeline.engine.format.record import Snapshot
from backup_pipeline.engine.manifest import printable
from backup_pipeline.engine.operations.assembly import CANNOT_HOLD, Assembly, Refusals
from backup_pipeline.engine.operations.frames import (
    Fetch,
    FetchedFrame,
    FramePlan,
    fetch_bytes,
    open_frame,
)
from backup_pipeline.engine.operations.metadata import set_link_metadata, set_metadata
from backup_pipeline.engine.operations.packing import thread_count
from backup_pipeline.engine.operations.restore_plan import WITH_BYTES, Work, plan
from backup_pipeline.engine.operations.rows import Row, rows_of
from backup_pipeline.engine.operations.target import Target
from backup_pipeline.engine.progress import Meter, Report
from backup_pipeline.engine.repository import Repository

__all__ = ["RestoreReport", "restore", "restore_rows"]

MOST_NOTICES = 100


@dataclass(slots=True)
class RestoreReport:
    """What a restore did, or under ``dry_run`` would do.

    Attributes:
        ok: Whether every wanted entry is there and right.
        entries: Entries wanted.
        files: Files or objects among them.
        bytes: Their logical bytes.
        written_files: Files written.
        written_bytes: Their logical bytes.
        skipped_files: Files that were there and right already.
        replaced_files: Other files and links that were, or would be, replaced.
        damage: Entries that could not be restored, with the reason.
        notices: What else is worth knowing.
        duration_s: Seconds it took.
        speed_bytes_per_s: S = D / T over the bytes wanted.
    """

    snapshot: str
    dataset: str
    tier: str
    day: str
    target: str
    dry_run: bool
    ok: bool = True
    entries: int = 0
    files: int = 0
    bytes: int = 0
    written_files: int = 0
    written_bytes: int = 0
    skipped_files: int = 0
    replaced_files: int = 0
    damage: list[dict[str, str]] = field(default_factory=list[dict[str, str]])
    damage_count: int = 0
    notices: list[str] = field(default_factory=list[str])
    duration_s: float = 0.0
    speed_bytes_per_s: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Fields by name."""
        return asdict(self)

    def notice(self, text: str) -> None:
        """Add a notice, up to a number that people still read."""
        if len(self.notices) < MOST_NOTICES:
            self.notices.append(text)
        elif len(self.notices) == MOST_NOTICES:
            self.notices.append("and more")

    def lose(self, path: bytes, reason: str) -> None:
        """Note an entry that could not be restored."""
        self.ok = False
        self.damage_count += 1
        if len(self.damage) < MOST_NOTICES:
            self.damage.append({"path": printable(path), "reason": reason})


def restore(
    repository: Repository,
    snapshot: Snapshot,
    target: Path,
    *,
    include: Sequence[str] = (),
    dry_run: bool = False,
    report: Report | None = None,
) -> RestoreReport:
    """Restore a snapshot, or what globs match of it.

    Args:
        repository: Where it is.
        snapshot: Which.
        target: Directory to restore to; entries there that are not in the snapshot stay.
        include: Globs over whole paths; none means everything.
        dry_run: Only tell.
        report: Is told the progress.

    Returns:
        What was done; ``ok`` is False where stored bytes were damaged, and those files are named
        and not written.

    Raises:
        NotFound: No glob matches.
        BackupError: Something in the target is in the way; nothing was changed.
    """
    rows = repository.manifest(snapshot).select(include, parents=True)
    if include and not len(rows):
        raise NotFound(
            f"nothing in snapshot {snapshot.id[:12]} of {snapshot.dataset} matches"
            f" {', '.join(include)}",
            "`backup-pipeline ls` lists its paths; globs match whole paths, ** crosses folders",
        )
    return restore_rows(repository, snapshot, rows, target, dry_run=dry_run, report=report)


def restore_rows(
    repository: Repository,
    snapshot: Snapshot,
    rows: pa.Table,
    target: Path,
    *,
    dry_run: bool = False,
    report: Report | None = None,
) -> RestoreReport:
    """Restore some rows of a snapshot's manifest; see ``restore``."""
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
        return _Restore(repository, rows, place, result, report).run()
    finally:
        place.close()


class _Restore:
    """One run of the verb."""

    def __init__(
        self,
        repository: Repository,
        table: pa.Table,
        target: Target,
        result: RestoreReport,
        report: Report | None,
    ) -> None:
        self.repository = repository
        self.target = target
        self.result = result
        self.identity_key = repository.keys.identity
        self.owners = os.geteuid() == 0
        self.table = table
        self.lists = table.column("chunks").combine_chunks()
        self.rows = list(rows_of(table))
        self.assembly = Assembly(target, owners=self.owners, done=self._done, lost=self._lost)
        self.lock = threading.Lock()
        self.meter = Meter(f"restore {result.dataset} {result.day}", report)
        self.local = threading.local()

    def run(self) -> RestoreReport:
        """Do it."""
        result = self.result
        result.entries = len(self.rows)
        self.meter.enter("comparing with what is there")
        work = self._plan()
        if not result.dry_run:
            self.meter.enter("writing")
            self._write(work)
            self._finish(work)
        result.duration_s = self.meter.elapsed_s
        if result.duration_s:
            result.speed_bytes_per_s = result.bytes / result.duration_s
        self.meter.show(now=True)
        return result

    def _plan(self) -> Work:
        """Sort out what is to be done; changes nothing.

        Raises:
            BackupError: Something is in the way, or cannot be looked at.
        """
        result = self.result
        with Refusals(self.target, b"") as at:
            work = plan(self.rows, self.lists, self.target, self.identity_key, at)
        for number in work.lost:
            row = self.rows[number]
            result.lose(row.path, f"{row.state} when it was backed up: {row.reason}")
        for row in self.rows:
            if row.state == "skipped":
                result.notice(f"{printable(row.path)}: a {row.type} is not restored")
            elif row.state == "torn":
                result.notice(f"{printable(row.path)}: it changed while it was backed up")
            if row.type in WITH_BYTES:
                result.files += 1
                result.bytes += row.size
        result.written_files = len(work.wanted) + len(work.links)
        result.written_bytes = sum(self.rows[number].size for number in work.wanted)
        right = [row for number in work.right if (row := self.rows[number]).type in WITH_BYTES]
        result.skipped_files = len(right)
        result.replaced_files = work.replaced
        self.meter.total_bytes = result.bytes
        self.meter.total_entries = result.entries
        self.meter.add(sum(row.size for row in right), len(right))
        return work

    def _write(self, work: Work) -> None:
        """Folders, then files, chunks pack by pack."""
        with Refusals(self.target, b"") as at:
            for row in self.rows:
                at.path = row.path
                if row.type == "directory":
                    self.target.make_folder(row.path)
            for number in work.wanted:
                at.path = self.rows[number].path
                self.target.make_folders_above(at.path)
        counts = self.lists.value_lengths().fill_null(0).to_pylist()
        wanted = pa.array(work.wanted, pa.int64())
        frames = FramePlan(self.table.select(["chunks"]).take(wanted))
        failures: list[BaseException] = []
        slots = threading.Semaphore(thread_count() * 2)

        def fetch(one: Fetch) -> None:
            try:
                if not failures:
                    self._fetch(one)
            except BaseException as error:
                failures.append(error)
            finally:
                slots.release()

        try:
            for number in work.wanted:
                beside = number in work.in_place
                self.assembly.add(self.rows[number], counts[number], beside=beside)
            with ThreadPoolExecutor(thread_count()) as pool:
                for one in frames.fetches():
                    slots.acquire()
                    if failures:
                        break
                    pool.submit(fetch, one)
            if failures:
                raise failures[0]
        except BaseException:
            self.assembly.abandon()
            raise

    def _fetch(self, fetch: Fetch) -> None:
        decompressor = getattr(self.local, "zstd", None)
        if decompressor is None:
            decompressor = self.local.zstd = zstandard.ZstdDecompressor()
        try:
            sealed = fetch_bytes(self.repository, fetch)
            sealer = self.repository.pack_sealer(fetch.pack)
        except DamageError as error:
            if len(fetch.frames) == 1:
                self._lose(fetch.frames[0], error.message)
                return
            for frame in fetch.frames:  # of a pack that was cut short, some may still be had
                self._fetch(Fetch(fetch.pack, frame.offset, frame.stored, (frame,)))
            return
        for frame in fetch.frames:
            start = frame.offset - fetch.offset
            part = sealed[start : start + frame.stored]
            try:
                raw = open_frame(
                    self.repository,
                    sealer,
                    fetch.pack,
                    part,
                    frame.ordinal,
                    frame.raw,
                    decompressor,
                )
            except DamageError as error:
                self._lose(frame, error.message)
                continue
            self._put(frame, memoryview(raw))

    def _put(self, frame: FetchedFrame, raw: memoryview) -> None:
        known: dict[tuple[int, int], bool] = {}
        done = 0
        for piece in frame.pieces:
            content = raw[piece.inner : piece.inner + piece.size]
            key = (piece.inner, piece.size)
            if key not in known:
                known[key] = blake3(content, key=self.identity_key).digest() == piece.id
            if known[key]:
                self.assembly.put(piece.row, piece.at, content)
                done += piece.size
            else:
                self.assembly.fail(piece.row, f"a chunk in frame {frame.ordinal} has another id")
        self.meter.add(done, 0)

    def _lose(self, frame: FetchedFrame, reason: str) -> None:
        for piece in frame.pieces:
            self.assembly.fail(piece.row, reason)

    def _lost(self, row: Row, reason: str) -> None:
        with self.lock:
            self.result.lose(row.path, reason)
            self.result.written_files -= 1
            self.result.written_bytes -= row.size

    def _done(self, row: Row, notices: list[str]) -> None:
        self._tell(row, notices)
        self.meter.add(0, 1)

    def _tell(self, row: Row, notices: list[str]) -> None:
        for notice in notices:
            self.result.notice(f"{printable(row.path)}: {notice}")

    def _finish(self, work: Work) -> None:
        """Metadata of files that were right, links, and the folders' own from the deepest up."""
        target, result = self.target, self.result
        with Refusals(target, b"") as at:
            for number in work.right:
                row = self.rows[number]
                at.path = row.path
                if row.type == "symlink":
                    self._link_metadata(row)
                else:
                    self._metadata(row, target.open_read(at.path))
            for number, first in work.links:
                at.path = self.rows[number].path
                if not self._link(self.rows[first].path, at.path):
                    result.written_files -= 1
            for number in work.symlinks:
                row = self.rows[number]
                at.path = row.path
                points_to = row.link_target or b""
                if self._try(at.path, partial(target.symlink, points_to, at.path)):
                    self._link_metadata(row)
            for row in reversed(self.rows):
                if row.type == "directory":
                    at.path = row.path
                    self._metadata(row, os.dup(target.folder(at.path)))

    def _link(self, first: bytes, path: bytes) -> bool:
        if first in self.assembly.failed:
            self.result.lose(path, "its bytes are those of a file that is not there")
            return False
        return self._try(path, partial(self.target.link, first, path))

    def _try(self, path: bytes, make: Callable[[], None]) -> bool:
        """Make a link; whether the target can hold one."""
        try:
            make()
        except OSError as error:
            if error.errno not in CANNOT_HOLD:
                raise
            self.result.lose(path, f"the target cannot hold it: {error.strerror}")
            return False
        return True

    def _link_metadata(self, row: Row) -> None:
        folder, name = split(row.path)
        fd = self.target.folder(folder)
        self._tell(row, set_link_metadata(name, fd, row, owners=self.owners))

    def _metadata(self, row: Row, fd: int) -> None:
        try:
            self._tell(row, set_metadata(fd, row, owners=self.owners, fresh=False))
        finally:
            os.close(fd)

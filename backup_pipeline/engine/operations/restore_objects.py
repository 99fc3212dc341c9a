"""Restore into an S3 prefix: objects again, with content type, headers, tags and user metadata.

A few hundred MiB at a time are restored to a scratch directory, with all that a restore checks and
has elsewhere, then stored and compared with what the server says it holds. What is there besides
stays.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from backup_pipeline.engine.errors import NotFound
from backup_pipeline.engine.format.record import Snapshot
from backup_pipeline.engine.manifest import matching
from backup_pipeline.engine.operations.donors import Donors
from backup_pipeline.engine.operations.fallback import readable
from backup_pipeline.engine.operations.restore import restore_rows
from backup_pipeline.engine.operations.restore_report import RestoreReport
from backup_pipeline.engine.operations.rows import COLUMNS
from backup_pipeline.engine.progress import Meter, Report
from backup_pipeline.engine.repository import Repository
from backup_pipeline.engine.scratch import ScratchFolder
from backup_pipeline.engine.segments import Entries
from backup_pipeline.engine.store.s3_settings import S3Settings
from backup_pipeline.engine.store.uploads import Refused, Stored, Uploads, Wanted
from backup_pipeline.sources.properties import KEY, split_pairs

__all__ = ["restore_objects"]

BATCH_BYTES = 256 << 20
BATCH_ROWS = 4096
_THREADS = 16
_WITH_BYTES = pa.array(["file", "object"])
_FILES_ALONE = ("mode", "uid", "gid", "xattrs", "links", "inode", "device", "mtime_ns")


def restore_objects(
    repository: Repository,
    snapshot: Snapshot,
    settings: S3Settings,
    *,
    include: Sequence[str] = (),
    dry_run: bool = False,
    donors: Donors | None = None,
    scratch: Path | None = None,
    report: Report | None = None,
) -> RestoreReport:
    """Restore a snapshot, or what globs match of it, below an S3 prefix.

    Args:
        repository: Where it is.
        snapshot: Which.
        settings: The bucket, and the prefix that keys will begin with.
        include: Globs over whole paths; none means everything.
        dry_run: Only tell.
        donors: Who may hold what is missing or damaged here.
        scratch: A directory with room for 256 MiB, or for the largest object if that is more.
        report: Is told the progress.

    Raises:
        NotFound: No glob matches.
        StoreError: The bucket cannot be written to; what was stored so far stays.
    """
    repository, snapshot, entries, donors, notice = readable(repository, snapshot, donors)
    result = RestoreReport(
        snapshot.id,
        snapshot.dataset,
        snapshot.tier,
        snapshot.day.isoformat(),
        settings.url,
        dry_run,
    )
    if notice is not None:
        result.notice(notice)
    meter = Meter(f"restore {snapshot.dataset} {snapshot.day}", report)
    meter.enter("comparing with what is there")
    uploads = Uploads(settings)
    run = _Restore(repository, snapshot, donors, uploads, result, meter)
    with closing(ScratchFolder(scratch)) as place:
        meter.enter("comparing" if dry_run else "writing")
        for rows in _batches(entries, include):
            run.batch(rows, place.path)
    if include and not result.entries:
        raise NotFound(
            f"nothing in snapshot {snapshot.id[:12]} of {snapshot.dataset} matches"
            f" {', '.join(include)}",
            "`backup-pipeline ls` lists its paths; globs match whole paths, ** crosses folders",
        )
    run.finish()
    return result


@dataclass(frozen=True, slots=True)
class _Goal:
    """One object that is to be there in the end."""

    number: int
    path: bytes
    key: str
    etag: str | None
    wanted: Wanted


class _Restore:
    """One run of the verb."""

    def __init__(
        self,
        repository: Repository,
        snapshot: Snapshot,
        donors: Donors | None,
        uploads: Uploads,
        result: RestoreReport,
        meter: Meter,
    ) -> None:
        self._repository = repository
        self._snapshot = snapshot
        self._donors = donors
        self._uploads = uploads
        self._result = result
        self._meter = meter
        self._others = 0

    def batch(self, rows: pa.Table, place: Path) -> None:
        """Restore one batch of rows."""
        result = self._result
        result.entries += len(rows)
        goals = list(self._goals(rows))
        result.files += len(goals)
        result.bytes += sum(goal.wanted.size for goal in goals)
        with ThreadPoolExecutor(_THREADS, "restore") as pool:
            there = list(pool.map(self._is_there, goals))
        missing = [goal for goal, right in zip(goals, there, strict=True) if not right]
        result.skipped_files += len(goals) - len(missing)
        for goal in missing:
            if goal.key in self._uploads.present():
                result.replaced_files += 1
        if result.dry_run:
            result.written_files += len(missing)
            result.written_bytes += sum(goal.wanted.size for goal in missing)
        elif missing:
            self._write(rows.take(pa.array([goal.number for goal in missing])), missing, place)
        self._meter.add(sum(goal.wanted.size for goal in goals), len(rows))

    def finish(self) -> None:
        """Tell what has no place in a bucket."""
        result = self._result
        if self._others:
            result.notice(f"{self._others} folders, links and the like are not kept in a bucket")
        result.duration_s = self._meter.elapsed_s
        if result.duration_s:
            result.speed_bytes_per_s = result.bytes / result.duration_s
        self._meter.show(now=True)

    def _goals(self, rows: pa.Table) -> Iterator[_Goal]:
        names = ("path", "type", "state", "reason", "size", "mode", "etag", "content_type")
        columns = [rows.column(name).to_pylist() for name in (*names, "metadata")]
        for number, row in enumerate(zip(*columns, strict=True)):
            path, type, state, reason, size, mode, etag, content_type, pairs = row
            marker = type == "directory" and mode is None  # a key that ends in a slash
            if type not in ("file", "object") and not marker:
                self._others += 1
            elif state not in ("good", "torn"):
                self._result.lose(path, f"{state} when it was backed up: {reason}")
            else:
                kept = [(pair["name"], pair["value"]) for pair in pairs or ()]
                headers, tags, metadata = split_pairs(kept)
                own = dict(kept).get(KEY) or path.decode("utf-8", "surrogateescape")
                key = self._uploads.prefix + own + ("/" if marker else "")
                wanted = Wanted(size, content_type, headers, tags, metadata)
                yield _Goal(number, path, key, etag, wanted)

    def _is_there(self, goal: _Goal) -> bool:
        """Whether the key holds the same already: one that was interrupted goes on."""
        found = self._uploads.present().get(goal.key)
        if found is None or goal.etag is None or found != (goal.wanted.size, goal.etag):
            return False
        return self._uploads.has_properties(goal.key, goal.wanted)

    def _write(self, rows: pa.Table, goals: Sequence[_Goal], place: Path) -> None:
        """Have the rows' content in the scratch directory, and store it."""
        full = rows.filter(pc.is_in(rows.column("type"), value_set=_WITH_BYTES))
        folder = Path(tempfile.mkdtemp(dir=place))
        try:
            part = restore_rows(
                self._repository, self._snapshot, _bare(full), folder, donors=self._donors
            )
            self._take_over(part)
            with ThreadPoolExecutor(_THREADS, "upload") as pool:
                outcomes = list(pool.map(partial(self._store, folder), goals))
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        for goal, outcome in zip(goals, outcomes, strict=True):
            if isinstance(outcome, Stored):
                self._result.written_files += 1
                self._result.written_bytes += goal.wanted.size
            elif outcome is not None:
                self._result.lose(goal.path, outcome)

    def _store(self, folder: Path, goal: _Goal) -> Stored | str | None:
        """Store one object; what is wrong if that fails; None where its content is lost."""
        file = folder / goal.path.decode("utf-8", "surrogateescape")
        if goal.wanted.size and not file.is_file():
            return None
        try:
            return self._uploads.store(goal.key, file if goal.wanted.size else None, goal.wanted)
        except Refused as error:
            return str(error)

    def _take_over(self, part: RestoreReport) -> None:
        result = self._result
        result.ok = result.ok and part.ok
        result.damage += part.damage
        result.damage_count += part.damage_count
        result.damaged_packs += part.damaged_packs
        for tier, size_bytes in part.elsewhere.items():
            result.elsewhere[tier] = result.elsewhere.get(tier, 0) + size_bytes
        for text in part.notices:
            result.notice(text)


def _batches(entries: Entries, include: Sequence[str]) -> Iterator[pa.Table]:
    """The rows that are wanted, cut so that each part fits into the scratch directory."""
    columns = (*COLUMNS, "etag", "content_type", "metadata")
    for rows in entries.batches(columns):
        wanted = rows.filter(matching(rows.column("path"), include)) if include else rows
        start, held_bytes = 0, 0
        for number, size in enumerate(wanted.column("size").to_pylist()):
            full = held_bytes + size > BATCH_BYTES or number - start == BATCH_ROWS
            if full and number > start:
                yield wanted.slice(start, number - start)
                start, held_bytes = number, 0
            held_bytes += size
        if start < len(wanted):
            yield wanted.slice(start)


def _bare(rows: pa.Table) -> pa.Table:
    """Rows for content alone: owners, modes and links mean nothing on the way to a bucket."""
    for name in _FILES_ALONE:
        where = rows.schema.get_field_index(name)
        field = rows.schema.field(where)
        rows = rows.set_column(where, field, pa.nulls(len(rows), field.type))
    return rows.select(list(COLUMNS))

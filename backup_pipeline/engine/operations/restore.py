"""Restore: write a snapshot's entries below a directory, every chunk checked before it is written.

Order of work: folders; files that are right already are kept; chunks pack by pack; then links,
hard links and last the folders' own metadata. What stops it costs nothing: run it again and it
keeps what is right.
"""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import zstandard
from blake3 import blake3

from backup_pipeline.engine.errors import BackupError, DamageError
from backup_pipeline.engine.format.record import Snapshot
from backup_pipeline.engine.manifest import printable
from backup_pipeline.engine.operations.frames import Fetch, FramePlan, fetch_bytes, open_frame
from backup_pipeline.engine.operations.packing import thread_count
from backup_pipeline.engine.operations.target import Target, set_metadata, split
from backup_pipeline.engine.progress import Meter, Report
from backup_pipeline.engine.repository import Repository

__all__ = ["RestoreReport", "restore", "restore_rows"]

MOST_NOTICES = 100
MOST_OPEN_FILES = 200
_WITH_BYTES = frozenset({"file", "object"})


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
        BackupError: Something in the target is in the way; nothing was changed.
    """
    rows = repository.manifest(snapshot).select(include, parents=True)
    if include and not len(rows):
        raise BackupError(
            f"nothing in snapshot {snapshot.id[:12]} matches {', '.join(include)}",
            "list it with `backup-pipeline ls`; ** crosses folders, * does not",
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


class _File:
    """A file on its way into the target."""

    __slots__ = ("beside", "failed", "fd", "holes", "lock", "name", "path", "remaining", "size")

    def __init__(self, path: bytes, size: int, holes: Any, remaining: int, beside: bool) -> None:
        self.path = path
        self.size = size
        self.holes = holes
        self.remaining = remaining
        self.beside = beside
        self.fd = -1
        self.name: bytes | None = None
        self.failed: str | None = None
        self.lock = threading.Lock()

    def extents(self, at: int, size: int) -> Iterator[tuple[int, int, int]]:
        """(offset in the file, offset in the piece, length): content is without the holes."""
        shift, done = 0, 0
        for hole in [*(self.holes or ()), None]:
            start = hole["offset"] if hole else 1 << 62
            while done < size and at + done + shift < start:
                length = min(size - done, start - (at + done + shift))
                yield at + done + shift, done, length
                done += length
            if done >= size:
                return
            shift += hole["length"] if hole else 0


class _Restore:
    """One run of the verb."""

    def __init__(
        self,
        repository: Repository,
        rows: pa.Table,
        target: Target,
        result: RestoreReport,
        report: Report | None,
    ) -> None:
        self.repository = repository
        self.target = target
        self.result = result
        self.identity_key = repository.keys.identity
        self.owners = os.geteuid() == 0
        self.table = rows
        self.rows: list[dict[str, Any]] = []
        self.files: dict[int, _File] = {}
        self.open_files = 0
        self.lock = threading.Lock()
        self.meter = Meter(f"restore {result.dataset} {result.day}", report)
        self.local = threading.local()

    def run(self) -> RestoreReport:
        """Do it."""
        self.meter.enter("comparing with what is there")
        plain = self.table.drop_columns(["chunks"])
        self.rows = plain.to_pylist()
        result = self.result
        result.entries = len(self.rows)
        wanted, links = self._sort_out()
        plan = FramePlan(self.table.take(pa.array(wanted, pa.int64())))
        if not result.dry_run:
            self._write(wanted, plan)
            self._finish(links)
        result.duration_s = self.meter.elapsed_s
        if result.duration_s:
            result.speed_bytes_per_s = result.bytes / result.duration_s
        self.meter.show(now=True)
        return result

    def _sort_out(self) -> tuple[list[int], list[tuple[int, int]]]:
        """Rows to write, and hard links (row, row that it repeats); changes nothing yet."""
        wanted: list[int] = []
        links: list[tuple[int, int]] = []
        first_of: dict[tuple[int, int], int] = {}
        existing = self.target.existed
        result = self.result
        lists = self.table.column("chunks").combine_chunks() if existing else None
        for number, row in enumerate(self.rows):
            type, path = row["type"], row["path"]
            found = self.target.lookup(path) if existing else None
            self._refuse_obstacle(row, found)
            if row["state"] not in {"good", "skipped"}:
                result.notice(f"{printable(path)}: {row['state']} when backed up: {row['reason']}")
            if type in _WITH_BYTES:
                result.files += 1
                result.bytes += row["size"]
                if row["state"] in {"unreadable", "vanished"}:
                    result.lose(path, f"{row['state']} when it was backed up")
                    continue
                key = (row["device"], row["inode"])
                if (row["links"] or 0) > 1 and row["inode"]:
                    if key in first_of:
                        links.append((number, first_of[key]))
                        continue
                    first_of[key] = number
                if found is not None and self._is_right(number, row, found, lists):
                    result.skipped_files += 1
                    self.meter.add(row["size"], 1)
                    continue
                result.replaced_files += found is not None
                result.written_files += 1
                result.written_bytes += row["size"]
                wanted.append(number)
            elif row["state"] == "skipped":
                result.notice(f"{printable(path)}: a {type} is not restored")
        self.meter.total_bytes = result.bytes
        self.meter.total_entries = result.entries
        return wanted, links

    def _refuse_obstacle(self, row: dict[str, Any], found: os.stat_result | None) -> None:
        if found is None:
            return
        is_folder = stat.S_ISDIR(found.st_mode)
        if is_folder != (row["type"] == "directory") and row["type"] in {
            *_WITH_BYTES,
            "directory",
            "symlink",
        }:
            here, there = ("folder", "file") if is_folder else ("file or link", "folder")
            raise BackupError(
                f"a {here} is in the way at {self.target.root}/{printable(row['path'])}, "
                f"where the snapshot has a {there}; nothing was changed",
                "restore to an empty directory, or move it aside",
            )

    def _is_right(
        self, number: int, row: dict[str, Any], found: os.stat_result, lists: Any
    ) -> bool:
        """Whether an existing file already holds the wanted bytes; it is read to know."""
        if not stat.S_ISREG(found.st_mode) or found.st_size != row["size"] or found.st_nlink > 1:
            return False
        chunks: list[dict[str, Any]] = lists[number].as_py() or []
        probe = _File(row["path"], row["size"], row["holes"], 0, False)
        fd = self.target.open_read(row["path"])
        try:
            at = 0
            for chunk in chunks:
                digest = blake3(key=self.identity_key)
                for offset, _, length in probe.extents(at, chunk["size"]):
                    digest.update(os.pread(fd, length, offset))
                if digest.digest() != chunk["id"]:
                    return False
                at += chunk["size"]
            for hole in row["holes"] or ():
                if os.pread(fd, hole["length"], hole["offset"]).strip(b"\0"):
                    return False
        finally:
            os.close(fd)
        if not self.result.dry_run:
            self._metadata(row)
        return True

    def _write(self, wanted: list[int], plan: FramePlan) -> None:
        self.meter.enter("writing")
        for row in self.rows:
            if row["type"] == "directory":
                self.target.make_folder(row["path"])
            elif (folder := split(row["path"])[0]) and row["type"] in {*_WITH_BYTES, "symlink"}:
                self.target.make_folder_if_missing(folder)
        counts = self.table.column("chunks").combine_chunks().value_lengths().fill_null(0)
        existed = self.target.existed
        for place, number in enumerate(wanted):
            row = self.rows[number]
            beside = existed and self.target.lookup(row["path"]) is not None
            remaining = counts[number].as_py()
            file = _File(row["path"], row["size"], row["holes"], remaining, beside)
            self.files[place] = file
            if remaining == 0:
                self._complete(place, wanted[place])
        threads = thread_count()
        slots = threading.Semaphore(threads * 2)
        failures: list[BaseException] = []

        def work(fetch: Fetch) -> None:
            try:
                if not failures:
                    self._fetch(fetch, wanted)
            except BaseException as error:
                failures.append(error)
            finally:
                slots.release()

        with ThreadPoolExecutor(threads) as pool:
            for fetch in plan.fetches():
                slots.acquire()
                if failures:
                    break
                pool.submit(work, fetch)
        for file in self.files.values():
            if file.fd >= 0:
                os.close(file.fd)
                file.fd = -1
            if file.name is not None and (failures or file.failed):
                self.target.remove(file.path, file.name)
        if failures:
            raise failures[0]

    def _fetch(self, fetch: Fetch, wanted: list[int]) -> None:
        decompressor = getattr(self.local, "zstd", None)
        if decompressor is None:
            decompressor = self.local.zstd = zstandard.ZstdDecompressor()
        try:
            sealed = fetch_bytes(self.repository, fetch)
            sealer = self.repository.pack_sealer(fetch.pack)
        except DamageError as error:
            for frame in fetch.frames:
                for piece in frame.pieces:
                    self._fail(piece.row, error.message)
            return
        for frame in fetch.frames:
            start = frame.offset - fetch.offset
            try:
                raw = memoryview(
                    open_frame(
                        self.repository,
                        sealer,
                        fetch.pack,
                        sealed[start : start + frame.stored],
                        frame.ordinal,
                        frame.raw,
                        decompressor,
                    )
                )
            except DamageError as error:
                for piece in frame.pieces:
                    self._fail(piece.row, error.message)
                continue
            known: dict[tuple[int, int], bool] = {}
            for piece in frame.pieces:
                content = raw[piece.inner : piece.inner + piece.size]
                key = (piece.inner, piece.size)
                if key not in known:
                    known[key] = blake3(content, key=self.identity_key).digest() == piece.id
                if not known[key]:
                    self._fail(piece.row, f"a chunk in frame {frame.ordinal} has another id")
                    continue
                self._put(piece.row, wanted[piece.row], piece.at, content)
            self.meter.show()

    def _put(self, place: int, number: int, at: int, content: memoryview) -> None:
        file = self.files[place]
        with file.lock:
            if file.failed is None:
                self._ensure_open(file)
                for offset, start, length in file.extents(at, len(content)):
                    _pwrite(file.fd, content[start : start + length], offset)
            file.remaining -= 1
            if file.remaining == 0:
                self._complete(place, number)
            elif self.open_files > MOST_OPEN_FILES and file.fd >= 0:
                os.close(file.fd)
                file.fd = -1
                with self.lock:
                    self.open_files -= 1
        self.meter.add(len(content), 0)

    def _ensure_open(self, file: _File) -> None:
        if file.fd >= 0:
            return
        if file.name is None:
            file.fd, file.name = self.target.create(file.path, beside=file.beside)
            if file.holes or file.remaining > 1:
                os.ftruncate(file.fd, file.size)
        else:
            file.fd = self.target.reopen(file.path, file.name)
        with self.lock:
            self.open_files += 1

    def _complete(self, place: int, number: int) -> None:
        """All chunks of a file are written: metadata, and into its place."""
        file = self.files[place]
        if file.failed is not None:
            return
        self._ensure_open(file)
        if file.holes or file.size == 0:
            os.ftruncate(file.fd, file.size)
        row = self.rows[number]
        for notice in set_metadata(file.fd, row, owners=self.owners):
            self.result.notice(f"{printable(file.path)}: {notice}")
        os.close(file.fd)
        file.fd = -1
        with self.lock:
            self.open_files -= 1
        assert file.name is not None
        self.target.move_in(file.path, file.name)
        file.name = None
        self.meter.add(0, 1)

    def _fail(self, place: int, reason: str) -> None:
        file = self.files[place]
        with file.lock:
            file.remaining -= 1
            if file.failed is not None:
                return
            file.failed = reason
        with self.lock:
            self.result.lose(file.path, reason)
            self.result.written_files -= 1
            self.result.written_bytes -= file.size

    def _finish(self, links: list[tuple[int, int]]) -> None:
        """Hard links, symbolic links, and the folders' metadata from the deepest up."""
        lost = {file.path for file in self.files.values() if file.failed is not None}
        for number, first in links:
            row = self.rows[number]
            if self.rows[first]["path"] in lost:
                self.result.lose(row["path"], "its bytes are those of a file that is damaged")
                continue
            self.target.remove(row["path"])
            self.target.link(self.rows[first]["path"], row["path"])
            self.result.written_files += 1
        for row in self.rows:
            if row["type"] == "symlink" and row["link_target"] is not None:
                self.target.remove(row["path"])
                self.target.symlink(row["link_target"], row["path"])
                self._metadata(row)
        for row in reversed(self.rows):
            if row["type"] == "directory":
                self._metadata(row)

    def _metadata(self, row: dict[str, Any]) -> None:
        folder, name = split(row["path"])
        fd = self.target.folder(folder)
        for notice in set_metadata(name, row, dir_fd=fd, owners=self.owners):
            self.result.notice(f"{printable(row['path'])}: {notice}")


def _pwrite(fd: int, content: memoryview, offset: int) -> None:
    done = 0
    while done < len(content):
        done += os.pwrite(fd, content[done:], offset + done)

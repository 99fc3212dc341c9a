"""Drill: a sample really restored to scratch, compared with the manifest, timed and tested."""

from __future__ import annotations

import os
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from blake3 import blake3

from backup_pipeline.engine.folders import Folders, split
from backup_pipeline.engine.format.record import Snapshot, to_iso
from backup_pipeline.engine.manifest import printable
from backup_pipeline.engine.operations.assembly import extents
from backup_pipeline.engine.operations.drill_report import DrillReport, Outcome, Tests
from backup_pipeline.engine.operations.metadata import mode_kept
from backup_pipeline.engine.operations.restore import RestoreReport, restore_rows
from backup_pipeline.engine.operations.restore_plan import MADE, WITH_BYTES
from backup_pipeline.engine.operations.rotation import (
    MOST_FAILED,
    Drilled,
    Part,
    choose,
    coverage,
    ledger,
    next_start,
    places,
    to_try_again,
)
from backup_pipeline.engine.progress import Report
from backup_pipeline.engine.repository import Repository, utc_now
from backup_pipeline.sources.file_reader import type_of

__all__ = ["DrillReport", "Outcome", "Tests", "drill", "record", "tell_coverage"]

Room = Callable[[int], None]
"""Is told how many bytes a drill will restore; raises where that is too much."""


def drill(
    repository: Repository,
    snapshot: Snapshot,
    scratch: Path,
    *,
    sample: float,
    start: int | None = None,
    slices: bool = False,
    tests: Tests | None = None,
    rto_s: float | None = None,
    room: Room | None = None,
    report: Report | None = None,
) -> DrillReport:
    """Restore a part of a snapshot to a folder of its own below ``scratch``, and test it.

    Nothing is written to the repository; ``record`` does that.

    Args:
        repository: Where it is.
        snapshot: Which.
        scratch: Folder to restore below; what is restored is removed again.
        sample: Share of the bytes, from 0 to 1; at least one file where there is one.
        start: Where on the ring of paths to begin; None goes on where the last drill ended.
        slices: Whether each snapshot takes turns by itself, as the only copy of its day.
        tests: What is asked of the restored copy, once its bytes were compared.
        rto_s: Seconds within which the whole must be restorable.
        room: Is asked before anything is restored.
        report: Is told the progress.

    Returns:
        What it showed, with its entry for the ledger.
    """
    result = DrillReport(
        snapshot.id, snapshot.dataset, snapshot.tier, snapshot.day.isoformat(), rto_s=rto_s
    )
    began_s = time.perf_counter()
    table = repository.manifest(snapshot).table
    result.open_s = time.perf_counter() - began_s
    done = ledger(repository.state.drills, snapshot.id if slices else None)
    ring = places(table.column("path").to_pylist(), repository.keys)
    again = to_try_again(done)
    part = choose(
        ring,
        _sizes(table),
        _is_file(table),
        sample=sample,
        start=next_start(done) if start is None else start,
        again=again,
    )
    rows = _with_tests(table, ring, part, tests)
    chosen = table if len(rows) == len(table) else table.take(pa.array(rows, pa.int64()))
    if room is not None:
        room(pc.sum(chosen.column("size").filter(_with_bytes(chosen))).as_py() or 0)
    place = scratch / f"drill-{snapshot.id[:12]}-{secrets.token_hex(4)}"
    try:
        restored = restore_rows(repository, snapshot, chosen, place, report=report)
        wrong = _compare(repository, chosen, place, result, restored)
        if tests is not None:
            result.tests = tests.run(place, _files(table), _files(chosen))
    finally:
        _remove(place)
    result.files, result.bytes = restored.written_files, restored.written_bytes
    result.duration_s = restored.duration_s
    result.speed_bytes_per_s = restored.speed_bytes_per_s
    result.time(snapshot.bytes)
    result.judge()
    failed = places(wrong, repository.keys).tolist()
    result.entry = _entry(repository, snapshot, part, result, again, failed)
    return result


def record(
    repository: Repository,
    snapshot: Snapshot,
    result: DrillReport,
    *,
    slices: bool = False,
    clock: Callable[[], datetime] = utc_now,
) -> None:
    """Put a drill into the ledger: one record in the repository's log.

    Args:
        repository: Where it was.
        snapshot: What was drilled.
        result: As ``drill`` gave it; is told that it was recorded, and what is verified by now.
        slices: As for ``drill``.
        clock: Tells the time.

    Raises:
        BackupError: The log cannot be written to.
    """
    assert result.entry is not None
    repository.log.append({**result.entry.body(), "at": to_iso(clock())})
    result.recorded = True
    tell_coverage(repository, snapshot, result, slices=slices)


def tell_coverage(
    repository: Repository, snapshot: Snapshot, result: DrillReport, *, slices: bool = False
) -> None:
    """Say how much of a snapshot the ledger proves."""
    table = repository.manifest(snapshot).table
    found = coverage(
        places(table.column("path").to_pylist(), repository.keys),
        _sizes(table) * _is_file(table),
        _changed_ns(table),
        ledger(repository.state.drills, snapshot.id if slices else None),
    )
    result.verified_share = found.verified_share
    result.oldest_verified_at = to_iso(found.oldest_at) if found.oldest_at else None


# -- what it takes


def _with_tests(table: pa.Table, ring: np.ndarray, part: Part, tests: Tests | None) -> np.ndarray:
    """The part's rows, and what the tests need besides."""
    if tests is None or len(part.rows) == len(table):
        return part.rows
    files = np.flatnonzero(_is_file(table))
    in_turn = files[np.argsort(ring[files] - np.uint64(part.start), kind="stable")]
    sampled = np.isin(in_turn, part.rows).tolist()
    paths = table.column("path").take(pa.array(in_turn, pa.int64())).to_pylist()
    return np.union1d(part.rows, in_turn[np.array(tests.wanted(paths, sampled), np.int64)])


def _with_bytes(table: pa.Table) -> Any:
    """Which rows are files, as a column of Arrow's."""
    return pc.is_in(table.column("type"), value_set=pa.array(sorted(WITH_BYTES)))


def _is_file(table: pa.Table) -> np.ndarray:
    return np.array(_with_bytes(table).to_pylist(), bool)


def _files(table: pa.Table) -> list[bytes]:
    return table.column("path").filter(_with_bytes(table)).to_pylist()


def _sizes(table: pa.Table) -> np.ndarray:
    return table.column("size").to_numpy()


def _changed_ns(table: pa.Table) -> np.ndarray:
    """When each entry changed last: by its own time or by its inode's, whichever is later."""
    latest = pc.max_element_wise(table.column("mtime_ns"), table.column("ctime_ns"))
    never_known = np.iinfo(np.int64).max
    return pc.fill_null(latest, never_known).to_numpy().astype(np.int64)


def _entry(
    repository: Repository,
    snapshot: Snapshot,
    part: Part,
    result: DrillReport,
    again: tuple[int, ...],
    failed: list[int],
) -> Drilled:
    good = [one for one in repository.snapshots() if one.status == "complete"]
    newest = max(good, key=lambda one: (one.captured_at, one.sequence), default=None)
    return Drilled(
        at=utc_now(),
        snapshot=snapshot.id,
        current=newest is not None and newest.id == snapshot.id,
        scanned_ns=snapshot.scan_started_ns,
        start=part.start,
        length=part.length if len(failed) <= MOST_FAILED else 0,
        again=again,
        failed=tuple(failed[:MOST_FAILED]),
        equal=result.equal,
        files=result.files,
        bytes=result.bytes,
        restore_ms=round(result.duration_s * 1000),
        whole_ms=None if result.whole_s is None else round(result.whole_s * 1000),
        tests=len(result.tests),
        failed_tests=len(result.failed_tests),
    )


# -- what it compares


def _compare(
    repository: Repository,
    rows: pa.Table,
    place: Path,
    result: DrillReport,
    restored: RestoreReport,
) -> list[bytes]:
    """Read back what was restored; hash it against the manifest's ids.

    Returns:
        The paths that are not as they should be.
    """
    lost = {one["path"]: one["reason"] for one in restored.damage}
    wrong: list[bytes] = []
    root = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    folders = Folders(root)
    try:
        for row in rows.to_pylist():
            name = printable(row["path"])
            reason = lost.pop(name, None)
            if reason is None and row["state"] != "skipped" and row["type"] in MADE:
                reason = _difference(folders, row, repository.keys.identity)
            if reason is not None:
                wrong.append(row["path"])
                result.mismatch(name, reason)
    finally:
        folders.close()
        os.close(root)
    for name, reason in lost.items():
        result.mismatch(name, reason)
    if not restored.ok:
        result.equal = False
    return wrong


def _difference(folders: Folders, row: dict[str, Any], key: bytes) -> str | None:
    """Why a restored entry is not what the manifest says, if it is not."""
    above, name = split(row["path"])
    try:
        folder = folders.descriptor(above)
        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
        if type_of(found.st_mode) != ("file" if row["type"] == "object" else row["type"]):
            return f"is a {type_of(found.st_mode)}, not a {row['type']}"
        if row["mtime_ns"] is not None and found.st_mtime_ns != row["mtime_ns"]:
            return "has another time of modification"
        if row["type"] == "symlink":
            same = os.readlink(name, dir_fd=folder) == row["link_target"]
            return None if same else "links elsewhere"
        wanted = (row["mode"], row["uid"], row["gid"])
        mode = mode_kept(*wanted, found.st_uid, found.st_gid)
        if mode is not None and stat.S_IMODE(found.st_mode) != mode:
            return "has another mode"
        if row["type"] == "directory":
            return None
        if found.st_size != row["size"]:
            return f"has {found.st_size} bytes, not {row['size']}"
        with open(_opened(folder, name, found), "rb") as file:
            return _content_difference(file, row["chunks"] or (), row["holes"] or (), key)
    except OSError as error:
        return error.strerror or str(error)


def _opened(folder: int, name: bytes, found: os.stat_result) -> int:
    """A descriptor to read a restored file, which may be closed even to its owner."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(name, flags, dir_fd=folder)
    except PermissionError:
        os.chmod(name, 0o600, dir_fd=folder)
        try:
            return os.open(name, flags, dir_fd=folder)
        finally:  # it may have another name, whose mode is still to be looked at
            os.chmod(name, stat.S_IMODE(found.st_mode), dir_fd=folder)


def _content_difference(
    file: BinaryIO, chunks: Sequence[dict[str, Any]], holes: Sequence[dict[str, int]], key: bytes
) -> str | None:
    at = 0
    for number, chunk in enumerate(chunks):
        digest = blake3(key=key)
        for offset, _, length in extents(holes, at, chunk["size"]):
            file.seek(offset)
            digest.update(file.read(length))
        if digest.digest() != chunk["id"]:
            return f"differs in chunk {number}"
        at += chunk["size"]
    return None


def _remove(place: Path) -> None:
    """Remove what was restored, also below folders that its owner may not write to."""
    if os.geteuid() != 0:
        for folder, names, _ in os.walk(place):
            for name in names:
                path = os.path.join(folder, name)
                if not os.path.islink(path):
                    os.chmod(path, 0o700)
    shutil.rmtree(place, ignore_errors=True)

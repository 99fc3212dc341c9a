"""Drill: a real restore of a sample to scratch, compared with the manifest, timed, and removed."""

from __future__ import annotations

import os
import random
import secrets
import shutil
import stat
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
from blake3 import blake3

from backup_pipeline.engine.folders import Folders, split
from backup_pipeline.engine.format.record import Snapshot
from backup_pipeline.engine.manifest import printable
from backup_pipeline.engine.operations.assembly import extents
from backup_pipeline.engine.operations.metadata import mode_kept
from backup_pipeline.engine.operations.restore import RestoreReport, restore_rows
from backup_pipeline.engine.operations.restore_plan import MADE
from backup_pipeline.engine.progress import Report
from backup_pipeline.engine.repository import Repository
from backup_pipeline.sources.file_reader import type_of

__all__ = ["DrillReport", "drill"]

MOST_MISMATCHES = 100


@dataclass(slots=True)
class DrillReport:
    """What a drill showed.

    Attributes:
        ok: All of the sample was restored, and reads back as the manifest says.
        files: Files restored.
        bytes: Their logical bytes.
        sample_fraction: Share of the snapshot's bytes that was restored.
        mismatches: Paths that were not as they should be, with the reason.
        duration_s: Seconds the restore took.
        rto_s: What was promised for the whole, if anything.
        whole_s: Seconds that the whole would take at this speed; None where nothing was read.
        speed_bytes_per_s: S = D / T of the restore.
    """

    snapshot: str
    dataset: str
    tier: str
    day: str
    ok: bool = True
    files: int = 0
    bytes: int = 0
    sample_fraction: float = 1.0
    mismatches: list[dict[str, str]] = field(default_factory=list[dict[str, str]])
    duration_s: float = 0.0
    rto_s: float | None = None
    whole_s: float | None = None
    speed_bytes_per_s: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Fields by name."""
        return asdict(self)


def drill(
    repository: Repository,
    snapshot: Snapshot,
    scratch: Path,
    *,
    sample: float,
    seed: int | None = None,
    rto_s: float | None = None,
    report: Report | None = None,
) -> DrillReport:
    """Restore a sample of a snapshot to a folder of its own below ``scratch`` and compare it.

    Args:
        repository: Where it is.
        snapshot: Which.
        scratch: Folder to restore below; what is restored is removed again.
        sample: Share of the bytes, from 0 to 1; at least one file where there is one.
        seed: Makes the choice of files repeatable.
        rto_s: Seconds within which the whole must be restorable.
        report: Is told the progress.
    """
    table = repository.manifest(snapshot).table
    chosen = _choose(table, sample, random.Random(seed))
    result = DrillReport(
        snapshot.id, snapshot.dataset, snapshot.tier, snapshot.day.isoformat(), rto_s=rto_s
    )
    place = scratch / f"drill-{snapshot.id[:12]}-{secrets.token_hex(4)}"
    try:
        restored = restore_rows(repository, snapshot, chosen, place, report=report)
        _compare(repository, chosen, place, result, restored)
    finally:
        _remove(place)
    result.files = restored.written_files
    result.bytes = restored.written_bytes
    result.duration_s = restored.duration_s
    result.speed_bytes_per_s = restored.speed_bytes_per_s
    if snapshot.bytes:
        result.sample_fraction = min(1.0, restored.bytes / snapshot.bytes)
    if restored.speed_bytes_per_s:
        result.whole_s = snapshot.bytes / restored.speed_bytes_per_s
    return result


def _choose(table: pa.Table, sample: float, chance: random.Random) -> pa.Table:
    if sample >= 1:
        return table
    with_bytes = pc.is_in(table.column("type"), value_set=pa.array(["file", "object"]))
    numbers = [i for i, yes in enumerate(with_bytes.to_pylist()) if yes]
    sizes = table.column("size").to_pylist()
    wanted = sample * sum(sizes[i] for i in numbers)
    chance.shuffle(numbers)
    chosen: list[int] = []
    total = 0
    for number in numbers:
        if chosen and total >= wanted:
            break
        chosen.append(number)
        total += sizes[number]
    return table.take(pa.array(sorted(chosen), pa.int64()))


def _compare(
    repository: Repository,
    rows: pa.Table,
    place: Path,
    result: DrillReport,
    restored: RestoreReport,
) -> None:
    """Read back what was restored; hash it against the manifest's ids."""
    result.mismatches.extend(restored.damage)
    lost = {one["path"] for one in restored.damage}
    root = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    folders = Folders(root)
    try:
        for row in rows.to_pylist():
            if printable(row["path"]) in lost:
                continue
            if row["state"] == "skipped" or row["type"] not in MADE:
                continue
            reason = _difference(folders, row, repository.keys.identity)
            if reason is not None and len(result.mismatches) < MOST_MISMATCHES:
                result.mismatches.append({"path": printable(row["path"]), "reason": reason})
    finally:
        folders.close()
        os.close(root)
    result.ok = restored.ok and not result.mismatches


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

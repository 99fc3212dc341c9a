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
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from blake3 import blake3

from backup_pipeline.engine.format.record import Snapshot
from backup_pipeline.engine.manifest import printable
from backup_pipeline.engine.operations.restore import RestoreReport, restore_rows
from backup_pipeline.engine.progress import Report
from backup_pipeline.engine.repository import Repository

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
        shutil.rmtree(place, ignore_errors=True)
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
    root, key = os.fsencode(place), repository.keys.identity
    for row in rows.to_pylist():
        if printable(row["path"]) in lost or row["state"] == "skipped":
            continue
        reason = _difference(os.path.join(root, row["path"]), row, key)
        if reason is not None and len(result.mismatches) < MOST_MISMATCHES:
            result.mismatches.append({"path": printable(row["path"]), "reason": reason})
    result.ok = not result.mismatches


def _difference(path: bytes, row: dict[str, Any], key: bytes) -> str | None:
    """Why a restored entry is not what the manifest says, if it is not."""
    try:
        found = os.lstat(path)
        if row["type"] == "symlink":
            return None if os.readlink(path) == row["link_target"] else "links elsewhere"
        if row["type"] == "directory":
            return None if stat.S_ISDIR(found.st_mode) else "is no folder"
        if found.st_size != row["size"]:
            return f"has {found.st_size} bytes, not {row['size']}"
        if row["mtime_ns"] is not None and found.st_mtime_ns != row["mtime_ns"]:
            return "has another time of modification"
        if row["mode"] is not None and stat.S_IMODE(found.st_mode) != row["mode"]:
            return "has another mode"
        return _content_difference(path, row["chunks"] or (), row["holes"] or (), key)
    except OSError as error:
        return error.strerror or str(error)


def _content_difference(
    path: bytes, chunks: Sequence[dict[str, Any]], holes: Sequence[dict[str, int]], key: bytes
) -> str | None:
    with open(path, "rb") as file:
        waiting = list(holes)
        for number, chunk in enumerate(chunks):
            digest, left = blake3(key=key), chunk["size"]
            while left:
                if waiting and waiting[0]["offset"] == file.tell():
                    file.seek(waiting.pop(0)["length"], os.SEEK_CUR)
                room = waiting[0]["offset"] - file.tell() if waiting else left
                content = file.read(min(left, room, 1 << 20))
                if not content:
                    return "is cut short"
                digest.update(content)
                left -= len(content)
            if digest.digest() != chunk["id"]:
                return f"differs in chunk {number}"
    return None

"""Damages one stored byte, as a bad disk does: in place, with nothing else changed."""

from __future__ import annotations

import os
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from backup_pipeline.runner import Runner


def flip_byte(runner: Runner, dataset: str, tier: str, day: date, store_root: Path) -> Path:
    """Flip every bit of one byte in a pack that the day's snapshot needs.

    Args:
        runner: Finds the snapshot.
        dataset: The dataset's key.
        tier: A tier whose store is a directory.
        day: The snapshot's day.
        store_root: That directory.

    Returns:
        The pack that is damaged now.
    """
    repository, snapshot = runner.find(dataset, tier=tier, day=day)
    manifest = repository.manifest(snapshot)
    chunks = [chunk for row in manifest.table.column("chunks").to_pylist() for chunk in row or ()]
    chunk = max(chunks, key=lambda each: each["stored"])
    pack = store_root / repository.pack_path(chunk["pack"])
    position = chunk["offset"] + chunk["stored"] // 2
    mode = pack.stat().st_mode
    pack.chmod(mode | 0o200)
    with pack.open("r+b") as content:
        content.seek(position)
        byte = content.read(1)[0]
        content.seek(position)
        content.write(bytes([byte ^ 0xFF]))
        os.fsync(content.fileno())
    pack.chmod(mode)
    return pack

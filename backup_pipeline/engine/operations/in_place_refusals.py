"""Why a restore in place does not begin: what would be harmed, and what stands there already."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from backup_pipeline.engine.errors import BackupError, UsageError
from backup_pipeline.engine.folders import SIDE_FOLDER
from backup_pipeline.engine.format.header import MAGIC, STORE
from backup_pipeline.engine.format.record import Snapshot
from backup_pipeline.engine.operations.selection import Batches
from backup_pipeline.engine.operations.side import Begun
from backup_pipeline.engine.operations.target import Target

__all__ = ["refuse_stores", "refuse_target", "require_room", "require_same"]


def refuse_target(root: Path, *, delete: bool, alone: bytes | None) -> None:
    """Refuse a folder that nobody can mean.

    Args:
        root: The folder.
        delete: Whether what the snapshot does not have is moved aside, too.
        alone: The dataset is this one file of the folder.

    Raises:
        UsageError: It is a symbolic link, or the root of the machine, or not all of it is ours.
    """
    if root.is_symlink():
        raise UsageError(
            f"{root} is a symbolic link, and what it points to would be changed",
            f"name the directory itself: --to {root.resolve()}",
        )
    if delete and root.resolve() == Path(root.anchor):
        raise UsageError(f"--delete in {root} would move the system aside", "leave --delete out")
    if delete and alone is not None:
        raise UsageError(
            "the dataset is one file, and what lies beside it is none of its own",
            "leave --delete out",
        )


def refuse_stores(place: Target, paths: Sequence[bytes]) -> None:
    """Refuse to move a store of backups aside.

    Args:
        place: The folder.
        paths: Extras that may be what a store begins with.

    Raises:
        UsageError: One is.
    """
    for path in paths:
        with suppress(OSError):
            fd = place.open_read(path)
            try:
                begin = os.read(fd, len(MAGIC) + 1)
            finally:
                os.close(fd)
            if begin == MAGIC + STORE:
                raise UsageError(
                    f"{place.shown(path)} belongs to a store of backups, which --delete would"
                    " move aside; nothing was changed",
                    "restore without --delete, or move the store out of there",
                )


def require_room(root: Path, size_bytes: int, wanted: Batches) -> None:
    """Refuse early what cannot fit.

    Args:
        root: The folder.
        size_bytes: Logical bytes to restore.
        wanted: The rows to restore; read where their holes may make the difference.

    Raises:
        BackupError: There is not enough room.
    """
    folder = root
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if size_bytes <= free:
        return
    needed = 0
    for table in wanted():
        lists: Any = table.column("chunks").combine_chunks()
        needed += pc.sum(lists.flatten().field("size")).as_py() or 0
    if needed > free:
        raise BackupError(
            f"{needed} bytes are to be restored to {root}, and {free} are free there;"
            " nothing was changed",
            "make room: what is replaced is kept until you accept the new state",
        )


def require_same(root: Path, begun: Begun, snapshot: Snapshot, asked: dict[str, Any]) -> None:
    """Refuse to begin while another restore's files are kept.

    Args:
        root: The folder.
        begun: The restore that was begun there.
        snapshot: What is to be restored now.
        asked: What is asked for now.

    Raises:
        UsageError: It is not the same again.
    """
    where = f"{root} has a restore of {begun.dataset} of {begun.day}"
    if begun.phase == "undoing":
        raise UsageError(f"{where} whose undoing was interrupted", "go on with it: --undo")
    if begun.phase == "undone":
        raise UsageError(
            f"{where} that was undone; what was changed in between is kept in"
            f" {root / SIDE_FOLDER / 'since'}",
            "take what you need of it, then drop it with `--accept`",
        )
    same = (begun.dataset, begun.snapshot) == (snapshot.dataset, snapshot.id)
    if not same or begun.asked != asked:
        how = f"that was interrupted (snapshot {begun.snapshot[:12]})"
        if begun.phase == "done":
            how = "that is done, and what it replaced is kept"
        raise UsageError(
            f"{where} {how}",
            "`backup-pipeline restore --undo` puts back what was, `--accept` drops it once it is"
            " done; the same command again goes on with it",
        )

"""Folders for plaintext that is needed for a while, and must not outlive whoever needs it."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from pathlib import Path

__all__ = ["ScratchFolder"]

PREFIX = "backup-pipeline-scratch-"
MARKER = "is-deleted-unless-locked"
"""Without this file in it, a folder is nobody's to delete, whatever its name. It gets its name once
it is locked, so that whoever finds it unlocked knows that its owner has ended."""


class ScratchFolder:
    """A folder that only this user can read, gone when it is closed.

    A process that is killed leaves its folder behind. So each is locked while it is in use, and
    whoever makes the next one deletes those of the same user that nobody has locked. Where a file
    system has no locks, what was left stays.

    Args:
        parent: Where; default: the system's folder for temporary files (TMPDIR).

    Attributes:
        path: The folder; empty at first.
    """

    def __init__(self, parent: Path | None = None) -> None:
        root = Path(tempfile.gettempdir()) if parent is None else parent
        _sweep(root)
        self._outer = Path(tempfile.mkdtemp(prefix=PREFIX, dir=root))
        self.path = self._outer / "content"
        self.path.mkdir(mode=0o700)
        unlocked = self._outer / "unlocked"
        self._lock = os.open(unlocked, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            unlocked.rename(self._outer / MARKER)
        except OSError:
            return  # no locks here: without the marker nobody deletes it but we

    def close(self) -> None:
        """Delete it; again, without effect."""
        if self._lock >= 0:
            shutil.rmtree(self._outer, ignore_errors=True)
            os.close(self._lock)
            self._lock = -1


def _sweep(root: Path) -> None:
    """Delete what processes that were killed have left."""
    for folder in root.glob(f"{PREFIX}*"):
        try:
            if folder.is_symlink() or folder.stat().st_uid != os.geteuid():
                continue
            lock = os.open(folder / MARKER, os.O_RDWR | os.O_NOFOLLOW)
        except OSError:
            continue  # it is gone, or not ours after all
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            continue  # in use, or nobody can tell
        finally:
            os.close(lock)

"""A witness of a directory's contents that shares no code with the engine."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path


def witness(root: Path) -> str:
    """Digest of every path below a directory: type, mode, time to the nanosecond and bytes.

    Directories count with their mode only, since their times change when a neighbour is restored.

    Returns:
        SHA-256 in hex; equal for two directories only if they hold the same.
    """
    total = hashlib.sha256()
    for path in sorted(root.rglob("*"), key=lambda found: os.fsencode(found)):
        facts = path.lstat()
        line = f"{path.relative_to(root)}\0{facts.st_mode:o}"
        if stat.S_ISLNK(facts.st_mode):
            line += f"\0{path.readlink()}"
        elif stat.S_ISREG(facts.st_mode):
            with path.open("rb") as content:
                digest = hashlib.file_digest(content, "sha256").hexdigest()
            line += f"\0{facts.st_mtime_ns}\0{digest}"
        total.update(os.fsencode(line) + b"\n")
    return total.hexdigest()


def size(root: Path) -> tuple[int, int]:
    """How many files a directory holds, and their bytes in all."""
    sizes = [path.lstat().st_size for path in root.rglob("*") if path.is_file()]
    return len(sizes), sum(sizes)

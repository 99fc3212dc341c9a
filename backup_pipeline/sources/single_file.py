"""What tells whether a database in a file has changed, without opening the file.

A process that closes any descriptor of a file lets go of all its locks on it (POSIX), also of those
that a database library holds in the same process. So nothing here opens a database's file.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Sequence
from pathlib import Path

from backup_pipeline.engine.errors import SourceError

__all__ = ["SETTLE_NS", "state_of"]

MOST_LOOKS = 5

SETTLE_NS = 20_000_000
"""How far the clock of file times may lag behind: a kernel's tick is 10 ms at most."""


def state_of(paths: Sequence[Path], place: str) -> str:
    """A value that differs after every write to any of the files.

    Sizes, times and inodes tell, once the newest time is older than the clock's step: whatever is
    written after that has a later time. A journal that is empty counts as absent.

    Args:
        paths: The database's file, which must be there, and those that may stand beside it.
        place: For messages.

    Raises:
        SourceError: The database is not there, or not a file.
    """
    found: list[tuple[int, int, int] | None] = []
    for _ in range(MOST_LOOKS):
        found = [_stat(path) for path in paths]
        found[1:] = [one if one is not None and one[0] else None for one in found[1:]]
        if found[0] is None:
            raise SourceError(
                f"{place}: there is no such file", "look at the path, and whether it is mounted"
            )
        newest = max(one[1] for one in found if one is not None)
        age_ns = time.time_ns() - newest
        if not 0 <= age_ns < SETTLE_NS:
            return hashlib.sha256(repr(found).encode()).hexdigest()
        time.sleep((SETTLE_NS - age_ns) / 1e9)
    # It is being written all the time. No other look may find the same.
    return hashlib.sha256(f"{found} {time.time_ns()} {os.getpid()}".encode()).hexdigest()


def _stat(path: Path) -> tuple[int, int, int] | None:
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SourceError(
            f"{path} cannot be looked at: {error.strerror}", "see its owner and permissions"
        ) from None
    return found.st_size, found.st_mtime_ns, found.st_ino

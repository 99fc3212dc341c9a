"""What a target refuses: one entry, which is then named and left out, or the whole restore."""

from __future__ import annotations

import errno
from types import TracebackType
from typing import Self

from backup_pipeline.engine.errors import BackupError
from backup_pipeline.engine.folders import split
from backup_pipeline.engine.operations.target import Target

__all__ = ["BELOW_REFUSED", "Refusals", "RefusedFolders", "refusal"]

# What one entry meets and others need not: a file too large for FAT, a link where there are none.
_CANNOT_HOLD = frozenset(
    {
        *(errno.EFBIG, errno.EINVAL, errno.EILSEQ, errno.ENAMETOOLONG, errno.ENOTSUP),
        *(errno.EPERM, errno.EMLINK, errno.EXDEV),
    }
)
BELOW_REFUSED = "the folder that it belongs in is not there"


def refusal(error: OSError) -> str | None:
    """Why the target cannot hold one entry; None where the error concerns others as well."""
    if error.errno == errno.EEXIST:
        return "the target has another entry under its name"
    if error.errno in _CANNOT_HOLD:
        return f"the target cannot hold it: {error.strerror}"
    return None


class RefusedFolders:
    """Folders that the target cannot hold, and so nothing below them."""

    def __init__(self) -> None:
        self._paths: set[bytes] = set()

    def __bool__(self) -> bool:
        return bool(self._paths)

    def add(self, path: bytes) -> None:
        """Note one."""
        self._paths.add(path)

    def holds(self, path: bytes) -> bool:
        """Whether a path is one of them, or below one."""
        if not self._paths:
            return False
        while path and path not in self._paths:
            path, _ = split(path)
        return bool(path)


class Refusals:
    """Within it, what the system refuses to write is an error of ours that says where.

    Args:
        target: What is restored into.
        path: The entry that is written; may be replaced on the way.
    """

    __slots__ = ("path", "target")

    def __init__(self, target: Target, path: bytes) -> None:
        self.target = target
        self.path = path

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if isinstance(error, OSError):
            full = error.errno in {errno.ENOSPC, errno.EDQUOT}
            raise BackupError(
                f"{self.target.shown(self.path)} could not be restored: {error.strerror or error}",
                "free some space there and restore again: what is right is kept"
                if full
                else "restore to a directory of yours, or as a user who may write there",
            ) from error

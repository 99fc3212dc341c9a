"""Folders below a root, opened step by step so that no symbolic link ever leads out of it."""

from __future__ import annotations

import os
from collections import OrderedDict

__all__ = ["SIDE_FOLDER", "Folders", "split"]

SIDE_FOLDER = ".backup-pipeline-in-place"
"""What a restore in place keeps aside lies in a folder of this name, and is never backed up."""
MOST_OPEN_FOLDERS = 64
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def split(path: bytes) -> tuple[bytes, bytes]:
    """Folder and name of a path; the folder is empty at the top."""
    folder, _, name = path.rpartition(b"/")
    return folder, name


class Folders:
    """Keeps the descriptors of the folders used last; for one thread.

    Paths may be longer and deeper than the system lets a single call name.

    Args:
        root: A descriptor of the root; it stays the caller's.
    """

    def __init__(self, root: int) -> None:
        self.root = root
        self._open: OrderedDict[bytes, int] = OrderedDict()

    def descriptor(self, path: bytes) -> int:
        """The folder's descriptor; valid until many others were asked for.

        Raises:
            OSError: It cannot be opened, or a part of the path is no folder (``ENOTDIR``).
        """
        known = self._open.get(path)
        if known is not None:
            self._open.move_to_end(path)
            return known
        above, names = path, list[bytes]()
        while above and above not in self._open:
            above, name = split(above)
            names.append(name)
        fd = self.root
        if above:
            fd = self._open[above]
            self._open.move_to_end(above)
        for name in reversed(names):
            fd = os.open(name, _FOLDER, dir_fd=fd)
            above = above + b"/" + name if above else name
            self._open[above] = fd
            if len(self._open) > MOST_OPEN_FOLDERS:
                os.close(self._open.popitem(last=False)[1])
        return fd

    def close(self) -> None:
        """Close all but the root."""
        while self._open:
            os.close(self._open.popitem()[1])

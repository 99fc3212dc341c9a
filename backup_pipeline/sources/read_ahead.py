"""Small files asked for before they are read, where the disk makes a reader wait for each."""

from __future__ import annotations

import os
import resource
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from backup_pipeline.engine.folders import Folders, split

__all__ = ["ReadAhead"]

WATCHED_FILES: Final = 256
WATCHED_READS: Final = 64
"""How many of the watched files have to come from the disk, each with a read of its own, for it to
be worth while to ask for those behind them."""

FILES_AHEAD: Final = 256
LARGEST_BYTES: Final = 1 << 20
_COUNTS_READS = hasattr(resource, "RUSAGE_THREAD") and hasattr(os, "posix_fadvise")
_POLL_S = 0.001
_GIVE_UP_S = 10.0
_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | getattr(os, "O_NOATIME", 0)


def _disk_reads() -> int:
    """How many blocks this thread has had to read from a disk."""
    return resource.getrusage(resource.RUSAGE_THREAD).ru_inblock if _COUNTS_READS else 0


class ReadAhead:
    """Has the kernel fetch the next small files once those before them had to come from the disk.

    A disk serves many requests at once about as fast as one, and a reader that waits for each file
    makes one at a time. Where files come from memory this only watches.

    Args:
        root: Descriptor of the folder that paths are relative to; stays open while this lives.
    """

    def __init__(self, root: int) -> None:
        self._root = root
        self._expected: list[bytes] = []
        self._read = 0
        self._reads_before = 0
        self._slow = False
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()

    def expect(self, files: Sequence[tuple[bytes, int, str | None]]) -> None:
        """These files (path, size, etag) are read next, in this order; those before them were."""
        self.close()
        self._expected = [path for path, size, _ in files if 0 < size <= LARGEST_BYTES]
        self._read = 0
        self._reads_before = _disk_reads()
        if self._slow:
            self._begin()

    def note(self) -> None:
        """The reader comes to one more file; called by the thread that reads them all."""
        self._read += 1
        if self._read == WATCHED_FILES and not self._slow:
            self._slow = _disk_reads() - self._reads_before >= WATCHED_READS
            if self._slow:
                self._begin()

    def close(self) -> None:
        """Ask for nothing more."""
        if self._thread is not None:
            self._stop.set()
            self._thread.join()
            self._thread = None
            self._stop.clear()

    def _begin(self) -> None:
        self._thread = threading.Thread(target=self._run, name="read ahead", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        folders = Folders(self._root)
        try:
            for number in range(self._read, len(self._expected)):
                if not self._is_wanted(number):
                    return
                with suppress(OSError):  # whoever reads it will say what is wrong
                    self._ask(folders, self._expected[number])
        finally:
            folders.close()

    def _is_wanted(self, number: int) -> bool:
        """Wait until the reader is near; False if it does not come."""
        begun = time.monotonic()
        while number > self._read + FILES_AHEAD:
            if self._stop.wait(_POLL_S) or time.monotonic() - begun > _GIVE_UP_S:
                return False
        return not self._stop.is_set()

    @staticmethod
    def _ask(folders: Folders, path: bytes) -> None:
        folder, name = split(path)
        fd = os.open(name, _FLAGS, dir_fd=folders.descriptor(folder))
        try:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_WILLNEED)
        finally:
            os.close(fd)

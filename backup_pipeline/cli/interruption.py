"""Ends the command soon after Ctrl-C, also while it waits in a library that hears no signals."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

__all__ = ["GRACE_S", "INTERRUPTED", "end_when_interrupted"]

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells give it."""

GRACE_S = 2.0
"""After Ctrl-C, seconds to stop in an orderly way; whatever was being written, earlier snapshots
stay whole either way."""


def end_when_interrupted() -> None:
    """Watch for SIGINT besides Python's own handling of it.

    Python raises KeyboardInterrupt only once the main thread is back from the library that it
    called; a request to a server that does not answer may take minutes.
    """
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reading,), name="interruption", daemon=True).start()


def _watch(reading: int) -> None:
    while not {signal.SIGINT, signal.SIGTERM, signal.SIGHUP} & set(os.read(reading, 64)):
        pass
    time.sleep(GRACE_S)
    hooks = sys.modules.get("backup_pipeline.runner.hooks")
    if hooks is not None:
        hooks.thaw_all()  # returns once what was frozen is thawed, whoever does it
    os._exit(INTERRUPTED)

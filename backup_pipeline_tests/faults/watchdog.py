"""Ends a case that hangs, with the stacks of all threads, and finds threads that stay behind."""

from __future__ import annotations

import faulthandler
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["Hung", "watched"]

LINGER_S = 10.0


class Hung(Exception):
    """A case did not come to its end, or left threads behind."""


@contextmanager
def watched(what: str, limit_s: float = 60.0) -> Iterator[None]:
    """Fail what takes longer than ``limit_s``, and what leaves threads running; main thread only.

    Should the main thread not come back from whatever it waits in, the process ends, with all
    stacks, a little later.
    """

    def give_up(number: int, frame: FrameType | None) -> None:
        faulthandler.dump_traceback(file=sys.stderr, all_threads=True)
        raise Hung(f"{what} did not end within {limit_s:.0f} seconds; its stacks are above")

    before = set(threading.enumerate())
    old = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, limit_s)
    faulthandler.dump_traceback_later(limit_s + 30, exit=True, file=sys.stderr)
    try:
        yield
        for thread in set(threading.enumerate()) - before:
            thread.join(LINGER_S)
            if thread.is_alive():
                raise Hung(f"{what} left the thread {thread.name} behind")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
        faulthandler.cancel_dump_traceback_later()

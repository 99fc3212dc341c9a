"""Freeze and thaw: the user's own programs that hold a set's members still while they are read.

Once a freeze was started, its thaw is run, whatever happens between: an error, Ctrl-C, SIGTERM, a
parent that is gone. Only SIGKILL and a power cut leave it out.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import IO, TYPE_CHECKING, Any

from backup_pipeline.engine.errors import BackupError, HookFailed
from backup_pipeline.plan.values import show_duration

if TYPE_CHECKING:
    from backup_pipeline.plan import ConsistentSet

__all__ = ["Bracket", "thaw_all"]

KEPT_BYTES = 4096
"""How much of the end of a hook's output its error repeats."""

ENDING_S = 5.0
"""How long a hook that ran out of time may take to end after SIGTERM, before it is killed."""

_open: set[Bracket] = set()
_STOPPING = (signal.SIGTERM, signal.SIGHUP)


def thaw_all() -> None:
    """Thaw whatever this process froze; for ways out of it that pass the ordinary one by."""
    for bracket in list(_open):
        bracket.thaw_loudly()


class Bracket:
    """One freeze, and the thaw that belongs to it; does nothing for a set without hooks.

    Args:
        one: The set.
        environ: The hooks' environment, which must hold no key.
        told: Further variables that tell the hooks what is going on.
    """

    def __init__(
        self, one: ConsistentSet, environ: Mapping[str, str], told: Mapping[str, str]
    ) -> None:
        self._set = one
        self._environ = {**environ, **told, "BACKUP_SET": one.name}
        self._lock = threading.Lock()
        self._frozen = False
        self._freezing: subprocess.Popen[bytes] | None = None
        self._before: dict[signal.Signals, Any] = {}

    def freeze(self) -> None:
        """Run the freeze hook.

        Raises:
            HookFailed: It could not be started, failed or took too long.
        """
        if not self._set.freeze:
            return
        self._listen()
        # Set before it runs: one that fails half-way may have frozen half of it.
        self._frozen = True
        _open.add(self)
        try:
            self._run("freeze", self._set.freeze)
        except OSError as error:
            self._frozen = False  # it never began
            how = f"cannot be started: {error.strerror}"
            raise self._failure("freeze", self._set.freeze, how, "") from None

    def thaw(self) -> None:
        """Run the thaw hook, once, if the freeze was started.

        Raises:
            HookFailed: It failed; what was frozen may be so still.
        """
        with _undisturbed(), self._lock:
            frozen, self._frozen = self._frozen, False
            try:
                if frozen:
                    if self._freezing is not None:
                        _end(self._freezing)  # it would go on behind its thaw
                    self._run("thaw", self._set.thaw)
            except OSError as error:
                how = f"cannot be started: {error.strerror}"
                raise self._failure("thaw", self._set.thaw, how, "") from None
            finally:
                _open.discard(self)
        self._listen_no_more()

    def thaw_loudly(self) -> None:
        """Thaw where nobody is left to be told of a failure but standard error."""
        try:
            self.thaw()
        except BackupError as error:
            print(f"error: {error}", file=sys.stderr, flush=True)

    # -- one hook

    def _run(self, word: str, command: Sequence[str]) -> None:
        limit = self._set.hook_timeout
        with tempfile.TemporaryFile() as output:
            # A session of its own: Ctrl-C in a terminal does not reach it, and all that it starts
            # can be ended together.
            hook = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**self._environ, "BACKUP_HOOK": word},
                start_new_session=True,
            )
            self._freezing = hook if word == "freeze" else None
            try:
                code = hook.wait(limit.total_seconds())
            except subprocess.TimeoutExpired:
                _end(hook)
                how = f"was ended, for it took longer than {show_duration(limit)}"
                raise self._failure(word, command, how, _tail(output)) from None
            except BaseException:
                _end(hook)
                raise
            finally:
                self._freezing = None
            if code:
                how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
                raise self._failure(word, command, how, _tail(output))

    def _failure(self, word: str, command: Sequence[str], how: str, said: str) -> HookFailed:
        message = f"{word} of set {self._set.name}: {command[0]} {how}"
        if said:
            message += f"; it said:\n{said}"
        if word == "thaw":
            return HookFailed(message, "what was frozen may be so STILL: thaw it by hand, now")
        return HookFailed(
            message, "the members are backed up as they are, each by itself, and are no cut"
        )

    # -- signals that would end the process without a thaw

    def _listen(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        for number in _STOPPING:
            if signal.getsignal(number) is signal.SIG_DFL:
                self._before[number] = signal.signal(number, _interrupt)

    def _listen_no_more(self) -> None:
        if threading.current_thread() is threading.main_thread():
            for number, before in self._before.items():
                signal.signal(number, before)
            self._before.clear()


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt(signal.Signals(number).name)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """No second Ctrl-C ends the wait for a thaw; its time-out does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {
        number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, *_STOPPING)
    }
    try:
        yield
    finally:
        for number, action in before.items():
            signal.signal(number, action)


def _end(hook: subprocess.Popen[bytes]) -> None:
    """End a hook and what it started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(hook.pid, number)
        with suppress(subprocess.TimeoutExpired):
            hook.wait(ENDING_S)


def _tail(output: IO[bytes]) -> str:
    size = output.seek(0, os.SEEK_END)
    output.seek(max(0, size - KEPT_BYTES))
    return output.read().decode("utf-8", "replace").strip()

"""Runs ``backup-pipeline`` again and again, each time as a process that dies when it is told to.

A process of its own imports the program once and forks it for every call, which then costs a
fraction of a second. It reads one JSON document a line: ``argv``, ``kill_at`` (the number of
an event, negative for right after it) or ``kill_after_s``, and ``power_of`` (a mount point that
loses its power at that event); and answers with one: the exit ``code``, how many ``events`` there
were, and how many seconds it took.

Events are what can be told apart from outside: every call of a store, and every fsync, link,
replacement and removal of a file. The program itself knows nothing of this.
"""

from __future__ import annotations

import functools
import itertools
import json
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from backup_pipeline_tests.faults.conversing import Conversation
from backup_pipeline_tests.faults.mounts import lose_power

__all__ = ["KILLED", "Launcher", "Ran"]

KILLED = -signal.SIGKILL
LIMIT_S = 120.0
_STORE_CALLS = ("put", "get", "get_into", "stat", "list", "list_names", "delete", "heal", "now")
_SYSTEM_CALLS = ("fsync", "link", "replace", "unlink")


class Ran:
    """How a call ended.

    Attributes:
        code: Exit code; ``KILLED`` where it was killed.
        events: How many events there were; 0 where it was killed.
        seconds: How long it took.
        said: What it wrote.
    """

    def __init__(self, code: int, events: int, seconds: float, said: str) -> None:
        self.code = code
        self.events = events
        self.seconds = seconds
        self.said = said


class Launcher(Conversation):
    """The test's side: starts the launching process, and ends it.

    Args:
        folder: Where the calls' output goes; also their working directory.
        environ: Environment variables besides this process's own.
        small: Whether chunks and packs are cut small.
    """

    def __init__(self, folder: Path, environ: dict[str, str], *, small: bool = True) -> None:
        self._log = folder / "said"
        told = (str(self._log), "small" if small else "")
        super().__init__(__name__, *told, limit_s=LIMIT_S, folder=folder, environ=environ)

    def __call__(
        self,
        *argv: str,
        kill_at: int = 0,
        kill_after_s: float | None = None,
        power_of: Path | None = None,
        good: bool = False,
    ) -> Ran:
        """Call the program and wait for its end; with ``good`` it must have exit code 0."""
        asked: dict[str, Any] = {"argv": argv, "kill_at": kill_at, "kill_after_s": kill_after_s}
        asked["power_of"] = os.fspath(power_of) if power_of else None
        answer = self.ask(asked)
        ran = Ran(**answer, said=self._log.read_text(errors="replace"))
        assert not good or ran.code == 0, ran.said
        return ran


class _Events:
    """Counts events in the process that is to die, and kills it at one of them."""

    def __init__(self, kill_at: int, power_of: str | None) -> None:
        self._kill_at = kill_at
        self._power_of = power_of
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self.count = 0

    def watch(self, owner: Any, name: str) -> None:
        """Make calls of a function or method events."""
        plain: Callable[..., Any] = getattr(owner, name)

        @functools.wraps(plain)
        def watched(*arguments: Any, **options: Any) -> Any:
            with self._lock:
                number = self.count = next(self._numbers)
            if number == self._kill_at:
                self._die()
            found = plain(*arguments, **options)
            if number == -self._kill_at:
                self._die()
            return found

        setattr(owner, name, watched)

    def _die(self) -> None:
        if self._power_of is not None:
            lose_power(Path(self._power_of))
        os.kill(os.getpid(), signal.SIGKILL)


def _child(asked: dict[str, Any], log: str, report: int) -> None:
    """The program, in a process group of its own; does not return."""
    os.setpgid(0, 0)
    fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    null = os.open(os.devnull, os.O_RDONLY)
    for number, own in enumerate((null, fd, fd)):
        os.dup2(own, number)
    events = _Events(asked["kill_at"], asked["power_of"])
    from backup_pipeline.cli import main
    from backup_pipeline.engine.store.local import LocalStore
    from backup_pipeline.engine.store.s3 import S3Store

    for store in (LocalStore, S3Store):
        for name in _STORE_CALLS:
            events.watch(store, name)
    for name in _SYSTEM_CALLS:
        events.watch(os, name)
    code = 70
    try:
        code = main(asked["argv"])
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os.write(report, b"%d" % events.count)
        os._exit(code)


def _run(asked: dict[str, Any], log: str) -> dict[str, Any]:
    begun_s = time.monotonic()
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        _child(asked, log, writing)
    os.close(writing)
    ended = os.pidfd_open(pid)
    limit_s = asked["kill_after_s"]
    if not select.select([ended], [], [], LIMIT_S if limit_s is None else limit_s)[0]:
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    os.close(ended)
    said = os.read(reading, 100)
    os.close(reading)
    code = os.waitstatus_to_exitcode(status)
    return {"code": code, "events": int(said or 0), "seconds": time.monotonic() - begun_s}


def _serve(log: str, *, small: bool) -> None:
    """The launching process: what calls have in common is imported before they are forked."""
    import backup_pipeline.cli.app
    import backup_pipeline.engine.operations.backup
    import backup_pipeline.engine.operations.copy
    import backup_pipeline.engine.store.local
    import backup_pipeline.engine.store.s3
    import backup_pipeline.plan
    import backup_pipeline.runner
    import backup_pipeline.sources  # noqa: F401
    from backup_pipeline.runner import capture
    from backup_pipeline_tests.faults.scene import cut_small

    capture.sleep = lambda _: None  # nobody writes into a dataset while a call runs
    if small:
        cut_small()
    for line in sys.stdin:
        print(json.dumps(_run(json.loads(line), log)), flush=True)


if __name__ == "__main__":
    _serve(sys.argv[1], small=sys.argv[2] == "small")

"""Runs operations in processes that race, or that wait for each other at chosen store calls.

A process of its own imports the engine once and forks it for every racer. It reads one JSON
document a line: the racers, each with the ``steps`` that it takes and the number of the store call
before which it waits (``pause_at``, 0 for none), and whether they are ``free`` to run at once. Else
the first runs up to its pause, the second up to its own, and then the first to its end. It answers
with one document: how each step of each racer ended.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from backup_pipeline_tests.faults.conversing import Conversation

__all__ = ["DAY", "Ended", "Races", "racer", "step"]

LIMIT_S = 90.0
DAY = date(2026, 11, 22)
Ended = dict[str, Any]


def step(verb: str, tier: str = "local", **more: Any) -> dict[str, Any]:
    """One step of a racer."""
    return {"verb": verb, "tier": tier, **more}


def racer(*steps: Mapping[str, Any], pause_at: int = 0) -> dict[str, Any]:
    """A process that takes these steps."""
    return {"steps": steps, "pause_at": pause_at}


class Races(Conversation):
    """The test's side: starts the process that forks, and ends it.

    Args:
        folder: Where results go.
        stores: What ``open_store`` needs for each tier.
    """

    def __init__(self, folder: Path, stores: Mapping[str, Any]) -> None:
        super().__init__(__name__, str(folder), json.dumps(stores), limit_s=LIMIT_S)

    def __call__(self, *racers: Mapping[str, Any], free: bool = False) -> list[list[Ended]]:
        """Run them; how each step of each ended.

        Each is a dictionary: ``verb``, and what the verb returns, or ``error`` and ``message``.
        """
        ended: list[list[Ended]] = self.ask({"racers": racers, "free": free})
        for one in (one for steps in ended for one in steps):
            assert "fault" not in one, one["fault"]
        return ended


# -- what a racer does


class _Racer:
    """One forked process."""

    def __init__(self, stores: Mapping[str, Any], pause: Callable[[], None], pause_at: int) -> None:
        self._stores = stores
        self._pause = pause
        self._pause_at = pause_at
        self._calls = 0
        self._lock = threading.Lock()

    def meet(self) -> None:
        """Called before each call of a store."""
        with self._lock:
            self._calls += 1
            if self._calls == self._pause_at:
                self._pause()

    def open(self, tier: str) -> Any:
        """A tier's repository over a store that counts."""
        from backup_pipeline.engine.store import open_store
        from backup_pipeline.engine.store.wrappers import WrappedStore
        from backup_pipeline_tests.engine.repositories import open_repository

        meet = self.meet

        class Counted(WrappedStore):
            def _begin(self, verb: str, name: str, written_bytes: int = 0) -> None:
                meet()

        return open_repository(Counted(open_store(self._stores[tier])))

    def take(self, step: Mapping[str, Any]) -> Ended:
        """Take one step; how it ended."""
        from backup_pipeline.engine.errors import BackupError

        try:
            return {"verb": step["verb"], **getattr(self, f"_{step['verb']}")(step)}
        except BackupError as error:
            kind = type(error).__name__
            return {"verb": step["verb"], "error": kind, "message": error.message}

    def _clock(self, step: Mapping[str, Any]) -> Callable[[], datetime]:
        wrong = timedelta(hours=step.get("hours", 0))
        return lambda: datetime.now(UTC) + wrong

    def _backup(self, step: Mapping[str, Any]) -> Ended:
        from backup_pipeline.engine.operations.backup import backup
        from backup_pipeline.sources.files import FilesSource
        from backup_pipeline_tests.engine.repositories import chain_of

        repository = self.open(step["tier"])
        source, chain = FilesSource(Path(step["source"])), chain_of(repository, step["kind"])
        made = backup(repository, source, day=DAY, clock=self._clock(step), **chain)
        return {"snapshot": made.id}

    def _copy(self, step: Mapping[str, Any]) -> Ended:
        from backup_pipeline_tests.engine.repositories import copy_over

        origin = self.open(step["origin"])
        newest = origin.snapshots()[-1]
        made = copy_over(origin, newest, self.open(step["tier"]), step["kind"])
        return {"snapshot": made.id, "origin": newest.id}

    def _expire(self, step: Mapping[str, Any]) -> Ended:
        """All but the newest, and what is pinned."""
        from backup_pipeline.engine.operations.expire import expire

        repository = self.open(step["tier"])

        def choose(live: Sequence[Any]) -> dict[str, str]:
            old = sorted(live, key=lambda one: (one.captured_at, one.sequence))[: -step["keep"]]
            kept, held = repository.state.pinned, repository.state.suspicions.holds
            return {
                one.id: "old" for one in old if one.id not in kept and not held(one.captured_at)
            }

        return {"expired": list(expire(repository, choose, clock=self._clock(step)))}

    def _pin(self, step: Mapping[str, Any]) -> Ended:
        from backup_pipeline.engine.operations.expire import pin

        pin(self.open(step["tier"]), step["snapshot"], pinned=step["pinned"], reason="test")
        return {"pinned": step["snapshot"]}

    def _prune(self, step: Mapping[str, Any]) -> Ended:
        """With so short a grace that the next prune deletes."""
        from backup_pipeline.engine.operations import prune as module

        module.PRUNE_GRACE = timedelta(seconds=step.get("grace_s", 0))  # type: ignore[misc]
        done = module.prune(self.open(step["tier"]), apply=True, clock=self._clock(step))
        return {"condemned": done.condemned_objects, "deleted": done.deleted_objects}

    def _restore(self, step: Mapping[str, Any]) -> Ended:
        from backup_pipeline.engine.operations.donors import Donors
        from backup_pipeline.engine.operations.restore import restore

        repository = self.open(step["tier"])
        others = [tier for tier in step["help"] if tier != step["tier"]]
        donors = Donors(repository, lambda: [self.open(tier) for tier in others])
        snapshot = repository.snapshot(step["snapshot"])
        report = restore(repository, snapshot, Path(step["target"]), donors=donors)
        return {"ok": report.ok, "damage": report.damage}

    def _repair(self, step: Mapping[str, Any]) -> Ended:
        from backup_pipeline.engine.operations.donors import Donors
        from backup_pipeline.engine.operations.repair import repair

        repository = self.open(step["tier"])
        donors = Donors(repository, lambda: [self.open(tier) for tier in step["help"]])
        report = repair(repository, donors=donors, apply=True)
        return {"ok": report.ok, "mended": report.mended_count}


# -- the process that forks


class _Child:
    """A racer as the forking process knows it."""

    def __init__(self, racer: Mapping[str, Any], stores: Mapping[str, Any], result: Path) -> None:
        self.result = result
        self._status, status = os.pipe()
        go, self._go = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._status)

            def pause() -> None:
                os.write(status, b"p")
                os.read(go, 1)

            _child(racer, stores, result, pause)
        os.close(status)
        os.close(go)

    def wait(self) -> bool:
        """Wait until it is paused (True) or at its end."""
        ready, _, _ = select.select([self._status], [], [], LIMIT_S)
        if not ready:
            os.kill(self.pid, signal.SIGABRT)
        return os.read(self._status, 1) == b"p"

    def go(self) -> None:
        """Let it go on."""
        os.write(self._go, b"g")

    def end(self) -> list[Ended]:
        """How its steps ended."""
        _, status = os.waitpid(self.pid, 0)
        os.close(self._status)
        os.close(self._go)
        if os.waitstatus_to_exitcode(status):
            return [{"fault": f"a racer ended with status {status}"}]
        found: list[Ended] = json.loads(self.result.read_text())
        return found


def _child(
    racer: Mapping[str, Any], stores: Mapping[str, Any], result: Path, pause: Callable[[], None]
) -> None:
    """Take the steps; does not return."""
    ended: list[Ended] = []
    try:
        one = _Racer(stores, pause, racer["pause_at"])
        ended += map(one.take, racer["steps"])
    except BaseException:
        ended.append({"fault": traceback.format_exc()})
    finally:
        result.write_text(json.dumps(ended))
        os._exit(0)


def _race(asked: Mapping[str, Any], stores: Mapping[str, Any], folder: Path) -> list[list[Ended]]:
    racers = asked["racers"]
    if asked["free"]:  # each waits at its first call until all are there
        racers = [{**one, "pause_at": 1} for one in racers]
    children, paused = list[_Child](), list[bool]()
    for number, one in enumerate(racers):
        children.append(_Child(one, stores, folder / f"ended-{number}"))
        paused.append(children[-1].wait())
    for child in (child for child, waits in zip(children, paused, strict=True) if waits):
        child.go()
        if not asked["free"]:
            child.wait()
    return [child.end() for child in children]


def _serve(folder: Path, stores: Mapping[str, Any]) -> None:
    """The forking process: what racers have in common is imported before they are forked."""
    import backup_pipeline.engine.operations.backup
    import backup_pipeline.engine.operations.copy
    import backup_pipeline.engine.operations.expire
    import backup_pipeline.engine.operations.prune
    import backup_pipeline.engine.operations.repair
    import backup_pipeline.engine.operations.restore
    import backup_pipeline.engine.store.local
    import backup_pipeline.engine.store.s3
    import backup_pipeline.sources.files  # noqa: F401
    from backup_pipeline_tests.faults.scene import cut_small

    cut_small()
    for line in sys.stdin:
        print(json.dumps(_race(json.loads(line), stores, folder)), flush=True)


if __name__ == "__main__":
    _serve(Path(sys.argv[1]), json.loads(sys.argv[2]))

"""Three tiers of one dataset in memory, a clock, and a model of what each snapshot stands for.

Operations are run as they are, or die at one of their store's calls, or are paused there while
others run. Whatever happens, the model knows what must be there afterwards.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from backup_pipeline.engine import log
from backup_pipeline.engine.errors import BackupError, Conflict, DamageError, NotFound, UsageError
from backup_pipeline.engine.format.record import Snapshot
from backup_pipeline.engine.operations.donors import Donors, stand_for_the_same
from backup_pipeline.engine.operations.restore import restore
from backup_pipeline.engine.operations.verify import verify
from backup_pipeline.engine.repository import Repository
from backup_pipeline.engine.store.base import CLOCK_TOLERANCE, Content, Store
from backup_pipeline.engine.store.memory import MemoryStore
from backup_pipeline.engine.store.wrappers import WrappedStore
from backup_pipeline_tests.engine import trees
from backup_pipeline_tests.engine.clocked import Clock, ClockedStore
from backup_pipeline_tests.engine.repositories import make_repository, open_repository
from backup_pipeline_tests.engine.trees import State, Tree, state_of
from backup_pipeline_tests.faults.scene import KIB, small_pieces

__all__ = ["TIERS", "Crash", "Moment", "Open", "World", "small_world"]

TIERS = ("local", "near", "far")
_SIZES = (0, 1, 100, 3000, 4 * KIB, 9000, 12 * KIB, 33 * KIB, 60 * KIB)
_STRANGE = (f"packs/{'cd' * 16}/{'ef' * 32}", "packs/short", "manifests/x", "notes.txt")
_PARITY = {"near": 0.2}
_WRITES = ("put", "heal", "delete")
RECORDS_PER_EPOCH = 12  # so that there are checkpoints

Open: TypeAlias = Callable[[str], Repository]
Operation: TypeAlias = Callable[[Open], Any]


@contextmanager
def small_world() -> Iterator[None]:
    """Make files, chunks, packs and epochs small within it."""
    with small_pieces(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(trees, "SIZES", _SIZES)
        patch.setattr(log, "EPOCH_RECORDS", RECORDS_PER_EPOCH)
        yield


class Crash(Exception):
    """The process died here; what is in memory is lost."""


@dataclass
class Moment:
    """One store call of an operation, at which something happens.

    Attributes:
        at: Which call, counted from 1; 0 for none.
        after: Whether the call is carried out before it.
        writes: Whether only calls that write are counted.
        happens: What; None for the death of the process.
        came: Whether it happened.
        calls: How many calls there were.
    """

    at: int
    after: bool = False
    writes: bool = False
    happens: Callable[[], None] | None = None
    came: bool = False
    calls: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def meet(self, verb: str, *, after: bool) -> None:
        """Called before and after each call."""
        if self.writes and verb not in _WRITES:
            return
        with self._lock:
            if self.came and self.happens is None:
                raise Crash
            if after != self.after:
                return
            self.calls += 1
            if self.calls != self.at:
                return
            self.came = True
        if self.happens is None:
            raise Crash
        self.happens()


class Place(ClockedStore):
    """A tier's store, which keeps the names that were written."""

    def __init__(self, inner: Store, clock: Clock) -> None:
        super().__init__(inner, clock)
        self.puts: list[str] = []

    def put(self, name: str, content: Content) -> None:
        self.puts.append(name)
        super().put(name, content)


class _Watched(WrappedStore):
    """A store in the hands of a process to which something happens."""

    def __init__(self, inner: Store, moment: Moment) -> None:
        super().__init__(inner)
        self._moment = moment

    def _begin(self, verb: str, name: str, written_bytes: int = 0) -> None:
        self._moment.meet(verb, after=False)

    def _end(self, verb: str, name: str, read_bytes: int = 0) -> None:
        self._moment.meet(verb, after=True)


def plain(state: State) -> State:
    """Whether a file has holes is the file system's to decide."""
    return {path: replace(entry, holes=False) for path, entry in state.items()}


class World:
    """The tiers, and what must be in them.

    Args:
        folder: Where the source and restores lie.
        encrypted: Whether the stores are.

    Attributes:
        states: What each snapshot ever seen stood for, by id.
        live: Ids of the snapshots that must be there, by tier.
        going: Ids of those that operations under way, or dead, may have expired.
        gone: Ids of those that expired.
        damaged: What the damaged names held, by tier.
    """

    def __init__(self, folder: Path, *, encrypted: bool) -> None:
        self.encrypted = encrypted
        self.folder = folder
        self.clock = Clock(datetime(2026, 11, 22, 3, tzinfo=UTC))
        (folder / "source").mkdir()
        self.tree = Tree(folder / "source")
        self.stores = {tier: Place(MemoryStore(tier), self.clock) for tier in TIERS}
        self.states: dict[str, State] = {}
        self.live: dict[str, set[str]] = {tier: set() for tier in TIERS}
        self.going: dict[str, set[str]] = {tier: set() for tier in TIERS}
        self.gone: dict[str, set[str]] = {tier: set() for tier in TIERS}
        self.damaged: dict[str, dict[str, bytes]] = {tier: {} for tier in TIERS}
        self._count = 0
        self._depth = 0
        first: Repository | None = None
        for tier, store in self.stores.items():
            # A store is tried out by the real clock.
            made = make_repository(store.inner, tier=tier, encrypted=encrypted, like=first)
            first = first or made
            for name in _STRANGE:
                store.put(made.prefix + name, b"not ours")

    def open(self, tier: str) -> Repository:
        """A tier's repository, as a new process finds it."""
        return self._open(tier, self.stores[tier])

    def _open(self, tier: str, store: Store) -> Repository:
        found = open_repository(store, encrypted=self.encrypted)
        found.parity = _PARITY.get(tier, 0.0)
        return found

    def donors(self, repository: Repository, open: Open) -> Donors:
        """The other tiers, which may help one."""
        return Donors(repository, lambda: [open(t) for t in TIERS if t != repository.tier])

    # -- running

    def run(self, operation: Operation, moment: Moment | None = None) -> BaseException | None:
        """Run an operation and hold what is there against the model.

        Returns:
            How it ended: None, ``Crash``, or an error of ours.
        """

        def opened(tier: str) -> Repository:
            if moment is None:
                return self.open(tier)
            return self._open(tier, _Watched(self.stores[tier], moment))

        self._depth += 1
        condemned = {tier: set(self.open(tier).state.condemned) for tier in TIERS}
        written = {tier: len(self.stores[tier].puts) for tier in TIERS}
        ended: BaseException | None = None
        try:
            operation(opened)
        except (Crash, BackupError) as error:
            ended = error
        finally:
            self._depth -= 1
        self.settle()
        for tier, store in self.stores.items():
            prefix = self.open(tier).prefix
            again = {name.removeprefix(prefix) for name in store.puts[written[tier] :]}
            back = again & condemned[tier]
            assert not back, f"condemned names were written again: {back}"
            runs = {"/".join(name.split("/")[:2]) for name in again if name.startswith("packs/")}
            assert not runs & condemned[tier], "a condemned run was taken up"
        return ended

    def future(self, repository: Repository) -> bool:
        """Whether a record was written by a clock that is ahead of ours."""
        newest = repository.state.newest_moment()
        return newest is not None and newest - self.clock.now > CLOCK_TOLERANCE

    def expect(
        self, ended: BaseException | None, *tiers: str, disturbed: bool = False, wary: bool = False
    ) -> None:
        """Fail unless an operation ended as it may.

        Args:
            ended: How.
            tiers: What it worked on; damage there is a reason to fail.
            disturbed: Whether others worked meanwhile.
            wary: Whether it goes by the clock.
        """
        if ended is None or isinstance(ended, Crash):
            return
        if disturbed and isinstance(ended, Conflict | DamageError | NotFound):
            return
        if isinstance(ended, DamageError | Conflict) and any(self.damaged[t] for t in tiers):
            return
        if wary and isinstance(ended, UsageError) and "clock" in ended.message:
            assert any(self.future(self.open(tier)) for tier in tiers), ended
            return
        raise ended

    # -- what must be there

    def settle(self) -> None:
        """Take in what was committed, and fail if something else came or went."""
        for tier in TIERS:
            repository = self.open(tier)
            found = {one.id: one for one in repository.snapshots()}
            lost = self.live[tier] - found.keys()
            assert lost <= self.going[tier], f"{tier} offers no more: {lost}"
            assert not found.keys() & self.gone[tier], "what expired is offered again"
            for key in found.keys() - self.live[tier]:
                origin = found[key].origin
                state = self.states[origin["snapshot"]] if origin else state_of(self.tree.root)
                assert self.states.setdefault(key, state) == state
            self.gone[tier] |= lost
            self.live[tier] = set(found)
            if not self._depth:
                self.going[tier] = set()
            self._check_condemned(tier, repository)

    def _check_condemned(self, tier: str, repository: Repository) -> None:
        """What live snapshots need is there and is not condemned."""
        try:
            segments = [one for snapshot in repository.snapshots() for one in snapshot.segments]
            needs = repository.segments.needs(segments)
        except DamageError:
            assert self.damaged[tier], f"manifests of {tier} are gone"
            return
        lost = sorted(name for name in needs if repository.state.is_condemned(name))
        assert not lost, f"live snapshots of {tier} need what is condemned: {lost}"

    def restores(self, tier: str, key: str, open: Open, *, help: bool) -> bool:
        """Whether a snapshot restores whole; what is said to be right must be right."""
        self._count += 1
        place = self.folder / f"restored-{self._count}"
        try:
            repository = open(tier)
            snapshot = repository.snapshot(key)
            donors = self.donors(repository, open) if help else None
            report = restore(repository, snapshot, place, donors=donors)
            found, wanted = plain(state_of(place)), plain(self.states[key])
            if report.ok:
                assert found == wanted, f"{tier} gives something else back for {snapshot}"
            for path, entry in found.items():
                assert wanted[path].digest == entry.digest, "a lost file was restored wrong"
            return report.ok
        finally:
            shutil.rmtree(place, ignore_errors=True)

    def check(self, tier: str, numbers: tuple[int, ...] = ()) -> None:
        """Fail unless a tier's newest snapshot and some others restore, and all is sound.

        Args:
            tier: Which.
            numbers: Which snapshots besides the newest; all, without any.
        """
        repository = self.open(tier)
        live = repository.snapshots()
        chosen = {live[number % len(live)].id: 0 for number in (*numbers, -1)} if live else {}
        for key in chosen if numbers else [one.id for one in live]:
            self.check_snapshot(repository, key)
        waits = repository.log.name(repository.log.next_sequence - 1, twin=True)
        found = {one["name"] for one in verify(repository).damage}
        assert found <= self.damaged[tier].keys() | {waits}, f"{tier}: {found}"

    def check_snapshot(self, repository: Repository, key: str) -> None:
        """Fail unless a snapshot restores, with others' help if its tier is damaged."""
        tier = repository.tier
        try:
            whole = self.restores(tier, key, self.open, help=False)
        except DamageError:
            whole = False
        if whole:
            return
        assert self.damaged[tier], f"{tier} does not give back what was committed"
        if any(self._has(other, repository.snapshot(key)) for other in TIERS if other != tier):
            assert self.restores(tier, key, self.open, help=True), "others had it"

    def _has(self, tier: str, snapshot: Snapshot) -> bool:
        found = any(stand_for_the_same(snapshot, one) for one in self.open(tier).snapshots())
        return found and not self.damaged[tier]

    def check_strangers(self) -> None:
        """Fail unless what is not ours is as it was."""
        for tier, store in self.stores.items():
            prefix = self.open(tier).prefix
            assert all(bytes(store.get(prefix + name)) == b"not ours" for name in _STRANGE)

    # -- damage

    def damageable(self, tier: str) -> list[str]:
        """Names that a live snapshot or the repository needs and that may be harmed."""
        repository, store = self.open(tier), self.stores[tier]
        segments = [one for snapshot in repository.snapshots() for one in snapshot.segments]
        names: list[str] = []
        try:
            replaced = repository.state.replacements
            needs = repository.segments.needs(segments) - replaced.keys()
            names += [repository.prefix + name for name in sorted(needs)]
            sidecars = {f"parity/{name[6:]}" for name in needs if name.startswith("packs/")}
            there = (repository.prefix + name for name in sorted(sidecars))
            names += [name for name in there if store.exists(name)]
        except DamageError:
            pass
        for sequence in range(repository.log.next_sequence):
            pair = [repository.log.name(sequence, twin=twin) for twin in (False, True)]
            if all(store.exists(name) and name not in self.damaged[tier] for name in pair):
                names += pair
        return [name for name in names if name not in self.damaged[tier]]

    def harm(self, tier: str, name: str, how: str, at: int) -> None:
        """Flip a bit of what is stored, cut it short, or delete it; ``verify`` must see that."""
        store = self.stores[tier].inner
        content = bytes(store.get(name))
        self.damaged[tier][name] = content
        place = at % len(content)
        if how == "delete":
            store.delete(name)
        elif how == "truncate":
            store.heal(name, content[:place])
        else:
            store.heal(name, content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        found = {one["name"] for one in verify(self.open(tier)).damage}
        assert name in found, f"verify did not see that {name} was harmed: {how} at {place}"

    def put_back(self, tier: str) -> None:
        """Whatever is still damaged gets its bytes back, as from a copy of the disk."""
        repository, store = self.open(tier), self.stores[tier].inner
        for name, content in self.damaged[tier].items():
            if not repository.state.is_condemned(name.removeprefix(repository.prefix)):
                store.heal(name, content)
        self.damaged[tier].clear()

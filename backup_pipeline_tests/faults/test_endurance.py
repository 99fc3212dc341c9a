"""Sixty days of a plan, with faults on most of them: what the policy promises is there at the end.

Three datasets, daily, weekly and monthly tiers, daily expiry, weekly prune and drills; stores out
of reach, killed runs, harmed packs, days on which nothing ran, and clocks that are an hour off.
What is promised is worked out by rules of the test's own (``promised.py``) from what was
acknowledged.
"""

from __future__ import annotations

import random
import shutil
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any

import pytest

from backup_pipeline.engine import store as store_module
from backup_pipeline.engine.errors import (
    BackupError,
    DayUnavailable,
    NotFound,
    StoreUnavailable,
    UsageError,
)
from backup_pipeline.engine.format.record import Snapshot
from backup_pipeline.engine.keys import new_key_file
from backup_pipeline.engine.operations.donors import Donors
from backup_pipeline.engine.operations.repair import repair
from backup_pipeline.engine.operations.restore import restore
from backup_pipeline.engine.operations.verify import verify
from backup_pipeline.engine.store import Probe, Store
from backup_pipeline.engine.store.memory import MemoryStore
from backup_pipeline.plan import load_plan
from backup_pipeline.runner import Runner
from backup_pipeline_tests.engine.clocked import Clock, ClockedStore
from backup_pipeline_tests.engine.trees import State, state_of
from backup_pipeline_tests.faults.promised import (
    BUSY,
    CADENCE,
    KEEP,
    KEEP_SLICES_DAYS,
    SLICES,
    START,
    STEADY,
    ZONE,
    Ledger,
    Made,
    best,
    expected_days,
    promised,
    promised_slices,
)
from backup_pipeline_tests.faults.scene import KIB, fast_folder, same_state, small_pieces
from backup_pipeline_tests.promises import Cases

DAYS = 60
KEY = new_key_file()
PARITY = {"cloud": {"parity": "20%"}}
FOLDERS = ("packs/", "parity/", "manifests/")


class Killed(Exception):
    """The run died here."""


class Shelf(ClockedStore):
    """A store in memory that keeps the time of the test, may be out of reach, and may kill."""

    def __init__(self, name: str, clock: Clock) -> None:
        super().__init__(MemoryStore(name), clock)
        self.away = False
        self.kill_in = 0

    def probe(self) -> Probe:
        return Probe(self.url, True, True, 0.0, False)  # the real clock has no part in this

    def now(self) -> datetime:
        self._begin("now", "")
        return super().now()

    def _begin(self, verb: str, name: str, written_bytes: int = 0) -> None:
        if self.away:
            raise StoreUnavailable(f"{self.url} is out of reach", "wait")
        if self.kill_in and verb in {"put", "delete"}:
            self.kill_in -= 1
            if not self.kill_in:
                self.kill_in = 1  # what is dead stays dead
                raise Killed


# -- the sixty days


class Story:
    """A plan, its sources and stores, and what happened to them."""

    def __init__(self, root: Path, patch: pytest.MonkeyPatch, seed: int) -> None:
        self.root = root
        self.chance = random.Random(seed)
        self.clock = Clock(datetime.combine(START, time(3), ZONE).astimezone(UTC))
        self.wrong = timedelta(0)  # how far the runner's clock is off
        self.shelves = {name: Shelf(name, self.clock) for name in ("local", "cloud", "vault")}
        self.books = {(d, t): Ledger() for d, tiers in KEEP.items() for t in tiers}
        self.peaks: list[int] = []
        self.told: dict[str, int] = {}
        patch.setattr(store_module, "open_store", self._shelf)
        for dataset in (STEADY, BUSY):
            (root / dataset).mkdir(parents=True)
        (root / "slices").mkdir()
        for number in range(8):
            self.edit(number)
        self.plan = load_plan(self._plan(), environ={"TEST_KEY": KEY})

    def _plan(self) -> dict[str, Any]:
        def tiers(dataset: str) -> list[dict[str, Any]]:
            return [
                {"name": tier, **cadence, "keep": KEEP[dataset][tier], **PARITY.get(tier, {})}
                for tier, cadence in CADENCE[dataset].items()
            ]

        names = {STEADY: "steady", BUSY: "busy", SLICES: "slices"}
        return {
            "start": START.isoformat(),
            "timezone": str(ZONE),
            "stores": {name: f"memory://{name}" for name in self.shelves},
            "keys": {"main": {"key_file": {"env": "TEST_KEY"}}},
            "policies": {name: {"tiers": tiers(dataset)} for dataset, name in names.items()},
            "datasets": [
                {"asset": STEADY, "source": str(self.root / STEADY), "policy": "steady"},
                {"asset": BUSY, "source": str(self.root / BUSY), "policy": "busy"},
                {
                    "asset": SLICES,
                    "source": {"day_paths": str(self.root / "slices" / "{day}")},
                    "policy": "slices",
                    "holds": "slice",
                    "keep_slices": f"{KEEP_SLICES_DAYS} days",
                },
            ],
        }

    def _shelf(self, options: Any) -> Store:
        url = options if isinstance(options, str) else options["url"]
        return self.shelves[str(url).rpartition("/")[2]]

    def runner(self) -> Runner:
        environ = {"TEST_KEY": KEY}
        return Runner(self.plan, clock=lambda: self.clock.now + self.wrong, environ=environ)

    @property
    def today(self) -> date:
        return self.clock.now.astimezone(ZONE).date()

    def edit(self, number: int) -> None:
        """One file of each whole dataset changes, and today's slice grows."""
        for dataset in (STEADY, BUSY):
            name = self.root / dataset / f"part-{number % 8}"
            name.write_bytes(self.chance.randbytes(self.chance.randrange(30 * KIB)))
        slice = self.root / "slices" / self.today.isoformat()
        slice.mkdir(exist_ok=True)
        (slice / f"part-{number % 4}").write_bytes(self.chance.randbytes(6 * KIB))

    def state(self, dataset: str, day: date) -> State:
        place = self.root / "slices" / day.isoformat() if dataset == SLICES else self.root / dataset
        return state_of(place)

    # -- what was acknowledged

    def note(self, dataset: str, tier: str, snapshot: Snapshot) -> None:
        """A snapshot that is there; its state is its origin's, or what the source has now."""
        book = self.books[dataset, tier]
        if snapshot.id in book.made:
            return
        if snapshot.origin is not None:
            origin = snapshot.origin
            state = self.books[dataset, origin["tier"]].made[origin["snapshot"]].state
        else:
            state = self.state(dataset, snapshot.day)
        one = snapshot
        book.made[one.id] = Made(one.id, one.day, one.captured_at, one.timing, one.sequence, state)

    def note_what_a_dead_run_left(self) -> None:
        for shelf in self.shelves.values():
            shelf.kill_in = 0
        with self.runner() as runner:
            for (dataset, tier), book in self.books.items():
                for repository in runner.repositories(dataset, tier):
                    for snapshot in repository.snapshots():
                        self.note(dataset, tier, snapshot)
                    book.expired |= book.made.keys() & repository.state.expired.keys()
                    gone = book.made.keys() - {one.id for one in repository.snapshots()}
                    assert gone == book.expired

    # -- one day

    def backup(self, dataset: str, tier: str, day: date | None = None) -> None:
        """A run that tells what became of it."""
        with self.runner() as runner:
            try:
                result = runner.backup(dataset, tier, day=day)
            except Killed:
                self.tell("killed")
            except (StoreUnavailable, DayUnavailable) as error:
                self.tell(type(error).__name__)
            else:
                self.note(dataset, tier, result.snapshot)
                self.tell(f"{tier} {result.snapshot.kind} {result.snapshot.timing}")
                return
        self.note_what_a_dead_run_left() if not self.away else None

    @property
    def away(self) -> bool:
        return any(shelf.away for shelf in self.shelves.values())

    def tell(self, what: str) -> None:
        self.told[what] = self.told.get(what, 0) + 1

    def later_tiers(self) -> None:
        """Each copying tier takes the closed days that it lacks, the last ten days' at most."""
        until = self.today - timedelta(days=1)
        for dataset, tier in self.books:
            if tier == "local":
                continue
            book = self.books[dataset, tier]
            there = {one.day for one in book.made.values()}
            for day in expected_days(dataset, tier, until):
                if day not in there and until - day < timedelta(days=10):
                    self.backup(dataset, tier, day)

    def keep(self, *, weekly: bool) -> None:
        """Expire, and once a week prune and drill."""
        for dataset, tier in self.books:
            with self.runner() as runner:
                try:
                    report = runner.expire(dataset, tier, apply=True)
                    self.books[dataset, tier].expired |= {one.snapshot.id for one in report.expired}
                    if weekly:
                        runner.prune(dataset, tier, apply=True)
                        self.drill(runner, dataset, tier)
                except StoreUnavailable:
                    self.tell("kept nothing")
                except NotFound:
                    assert not self.books[dataset, tier].live
                except UsageError as error:
                    assert self.wrong and "clock" in error.message, error
                    self.tell("refused by the clock")

    def drill(self, runner: Runner, dataset: str, tier: str) -> None:
        if self.books[dataset, tier].live:
            assert runner.drill(dataset, tier, sample=0.3).ok
            self.tell("drilled")

    def harm(self) -> None:
        """A pack rots; it is found, and repaired from wherever it is to be had."""
        dataset, tier = self.chance.choice([key for key in self.books if self.books[key].live])
        with self.runner() as runner:
            [repository] = runner.repositories(dataset, tier)
            segments = [one for found in repository.snapshots() for one in found.segments]
            packs = sorted(n for n in repository.segments.needs(segments) if n[:6] == "packs/")
            name = repository.prefix + self.chance.choice(packs)
            inner = self.shelves[tier].inner
            content = bytes(inner.get(name))
            inner.heal(name, content[:50] + bytes([content[50] ^ 1]) + content[51:])
            if any(one["name"] == name for one in verify(repository).damage):
                others = [one for one in runner.repositories(dataset) if one.tier != tier]
                donors = Donors(repository, lambda: others)
                clock = runner._clock
                done = repair(repository, donors=donors, apply=True, clock=clock)
                self.tell(f"repaired: {done.ok}")
            inner.heal(name, content)  # the disk's owner had a copy of what nobody else has

    def run_day(self, number: int) -> None:
        """One day, with its fault."""
        fault = self.chance.choice(
            ("none", "none", "missed", "killed", "harmed", "clock", "copy killed")
        )
        for name, (first, last) in {
            "cloud": (12, 16),
            "local": (33, 35),
            "vault": (27, 45),
        }.items():
            self.shelves[name].away = first <= number < last
        self.wrong = timedelta(hours=self.chance.choice((-1, 1)) if fault == "clock" else 0)
        if fault == "missed":
            self.tell("missed")
            self.edit(number)
            self.clock.on(days=1)
            return
        begun = self.clock.now
        if number:
            self.backup(SLICES, "local", self.today - timedelta(days=1))
        for hours in (5, 5, 6):
            self.edit(number + hours)
            if fault == "killed" and hours == 6:
                self.shelves["local"].kill_in = self.chance.randrange(1, 9)
            self.backup(BUSY, "local")
            self.clock.on(hours=hours)
        self.backup(STEADY, "local")
        if fault == "copy killed":
            self.shelves["cloud"].kill_in = self.chance.randrange(1, 9)
        self.later_tiers()
        for shelf in self.shelves.values():
            shelf.kill_in = 0
        self.keep(weekly=number % 7 == 6)
        if fault == "harmed" and not self.away:
            self.harm()
        self.check_offers()
        self.peaks.append(sum(self.sizes().values()))
        self.clock.now = begun + timedelta(days=1)

    # -- what must be so

    def promises(self, dataset: str, tier: str) -> set[str]:
        made = self.books[dataset, tier].made.values()
        if dataset == SLICES:
            return promised_slices(made, self.clock.now)
        return promised(made, KEEP[dataset][tier])

    def check_offers(self) -> None:
        """Nothing that expired is offered, and nothing that is promised has expired."""
        for (dataset, tier), book in self.books.items():
            assert self.promises(dataset, tier) <= book.live, f"{dataset} in {tier}"
            if self.shelves[tier].away:
                continue
            with self.runner() as runner:
                offered = {one.id for one in runner.snapshots(dataset, tier)}
                assert offered == book.live, f"{dataset} in {tier}"

    def check_days(self) -> None:
        """Missing days are told as missing and late ones as late."""
        until = self.today - timedelta(days=1)
        with self.runner() as runner:
            for (dataset, tier), book in self.books.items():
                [status] = runner.status(dataset, tier)
                had = {one.day for one in book.made.values()}
                lacking = [day for day in expected_days(dataset, tier, until) if day not in had]
                assert status.missing_days == lacking, f"{dataset} in {tier}"
                live = [book.made[key] for key in book.live]
                days = {one.day: best(m for m in live if m.day == one.day) for one in live}
                late = sorted(day for day, one in days.items() if one.timing == "late")
                assert status.late_days == late, f"{dataset} in {tier}"

    def check_restores(self, cases: Cases) -> None:
        """All that is promised restores to what it stood for."""
        with self.runner() as runner:
            for (dataset, tier), book in self.books.items():
                [repository] = runner.repositories(dataset, tier)
                assert verify(repository).damage == []
                for key in sorted(self.promises(dataset, tier)):
                    place = self.root / "restored"
                    assert restore(repository, repository.snapshot(key), place).ok
                    assert same_state(state_of(place), book.made[key].state), f"{dataset}: {key}"
                    shutil.rmtree(place)
                    cases.add()
                for key in sorted(book.expired)[:3]:
                    with pytest.raises(NotFound):
                        runner.restore(dataset, self.root / "no", tier=tier, snapshot=key)

    def sizes(self) -> dict[str, int]:
        return {
            f"{shelf.url}/{one.name}": one.size_bytes
            for shelf in self.shelves.values()
            for one in shelf.inner.list("repositories/")
            if one.name.split("/", 2)[2].startswith(FOLDERS)
        }

    def check_room(self) -> None:
        """What is stored does not grow for ever, and in the end nothing is left over."""
        assert max(self.peaks[-15:]) < 2 * max(self.peaks[20:35])
        self.wrong = timedelta(0)
        for days in (8, 4, 0):
            for dataset, tier in self.books:
                with self.runner() as runner:
                    runner.prune(dataset, tier, apply=True)
            self.clock.on(days=days)
        needed: set[str] = set()
        with self.runner() as runner:
            for dataset, tier in self.books:
                [one] = runner.repositories(dataset, tier)
                segments = [s for found in one.snapshots() for s in found.segments]
                names = one.segments.needs(segments)
                names |= {name.replace("packs/", "parity/") for name in names}
                needed |= {f"{self.shelves[tier].url}/{one.prefix}{name}" for name in names}
        assert self.sizes().keys() <= needed


@pytest.mark.faults
@pytest.mark.promise("endurance")
def test_after_sixty_days_with_faults_all_that_is_promised_is_there(
    monkeypatch: pytest.MonkeyPatch, cases: Cases
) -> None:
    with fast_folder() as root, small_pieces():
        story = Story(root, monkeypatch, cases.seed)
        for number in range(DAYS):
            try:
                story.run_day(number)
            except (AssertionError, BackupError) as error:
                error.add_note(f"on day {number} of the story, {story.today}")
                raise
        story.check_days()
        story.check_restores(cases)
        story.check_room()
        print(story.told)
        for what in ("killed", "missed", "refused by the clock", "drilled", "StoreUnavailable"):
            assert story.told[what], what

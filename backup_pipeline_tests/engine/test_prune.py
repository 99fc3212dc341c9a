"""Expire and prune: what is needed stays, what goes was announced, and a pause harms nobody."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from backup_pipeline.engine.errors import BackupError, Conflict, DamageError, NotFound, UsageError
from backup_pipeline.engine.format.record import Snapshot
from backup_pipeline.engine.operations.expire import expire, pin
from backup_pipeline.engine.operations.prune import (
    PRUNE_GRACE,
    RUN_ABANDONED_AFTER,
    PruneReport,
    prune,
    why_pack,
)
from backup_pipeline.engine.operations.restore import restore
from backup_pipeline.engine.operations.verify import verify
from backup_pipeline.engine.repository import Repository
from backup_pipeline.engine.store.memory import MemoryStore
from backup_pipeline_tests.engine.clocked import Clock, ClockedStore
from backup_pipeline_tests.engine.repositories import (
    back_up,
    copy_over,
    make_repository,
    open_repository,
)

LATER = PRUNE_GRACE + timedelta(minutes=1)


class Scene:
    """A dataset, its repository, and a clock that begins at the present."""

    def __init__(self, root: Path) -> None:
        self.root = root / "data"
        self.root.mkdir()
        self.target = root / "restored"
        # Runs take their times from the real clock.
        self.clock = Clock(datetime.now(UTC))
        self.store = ClockedStore(MemoryStore(), self.clock)
        self.repository = make_repository(self.store)
        self.contents: dict[str, dict[str, bytes]] = {}
        self.count = 0

    def back_up(self, kind: str = "incremental", **files: int) -> Snapshot:
        """One backup after files of so many random bytes were written."""
        for name, size in files.items():
            self.count += 1
            (self.root / name).write_bytes(random.Random(self.count).randbytes(size))
        made = back_up(self.repository, self.root, kind)
        self.contents[made.id] = {path.name: path.read_bytes() for path in self.root.iterdir()}
        return made

    def expire(self, *snapshots: Snapshot) -> None:
        expire(self.repository, lambda _: {one.id: "test" for one in snapshots}, clock=self.clock)

    def prune(self, *, apply: bool = True, repository: Repository | None = None) -> PruneReport:
        return prune(repository or self.repository, apply=apply, clock=self.clock)

    def expect_whole(self) -> None:
        """Every live snapshot restores to what it stood for, and nothing is damaged."""
        repository = open_repository(self.store)
        assert verify(repository).damage == []
        for one in repository.snapshots():
            target = self.target / one.id
            restore(repository, one, target)
            found = {path.name: path.read_bytes() for path in target.iterdir()}
            assert found == self.contents[one.id]

    def names(self, folder: str) -> list[str]:
        prefix = self.repository.prefix
        return [one.name.removeprefix(prefix) for one in self.store.list(f"{prefix}{folder}")]


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def test_a_chain_that_expired_goes_after_its_grace_and_not_before(scene: Scene) -> None:
    old = [scene.back_up("full", a=70_000), scene.back_up(b=70_000)]
    new = scene.back_up("full")
    packs = scene.names("packs/")
    scene.expire(*old)
    assert [one.id for one in scene.repository.snapshots()] == [new.id]

    planned = scene.prune(apply=False)
    assert planned.condemned_objects == 4 and planned.needed_objects == 2
    assert scene.repository.state.condemned == {} and scene.names("packs/") == packs

    done = scene.prune()
    assert (done.condemned_objects, done.deleted_objects) == (4, 0)
    assert scene.names("packs/") == packs, "nothing goes before its grace has passed"
    condemned = scene.repository.state.condemned
    assert {name for name in condemned if name.startswith("packs/")} == {
        f"packs/{one.run}" for one in old
    }, "whole runs, so that the log stays small"

    scene.clock.on(days=1)
    waiting = scene.prune()
    assert (waiting.waiting_objects, waiting.deleted_objects) == (4, 0)
    assert waiting.next_deletion == done_at(scene) + PRUNE_GRACE - timedelta(days=1)
    scene.expect_whole()

    scene.clock.on(days=3)
    assert scene.prune().deleted_objects == 4
    assert scene.names("packs/") == [name for name in packs if f"packs/{new.run}/" in name]
    assert scene.prune().to_json()["deleted_objects"] == 0
    scene.expect_whole()


def done_at(scene: Scene) -> datetime:
    return scene.clock.now


def test_within_a_chain_only_packs_that_nothing_refers_to_go(scene: Scene) -> None:
    first = scene.back_up("full", a=50_000, b=50_000)
    second = scene.back_up(b=50_000)  # its pack is needed by nobody once it expired
    third = scene.back_up(b=50_000)
    scene.expire(first, second)
    scene.prune()
    scene.clock.on(days=4)
    scene.prune()
    left = {name.split("/")[1] for name in scene.names("packs/")}
    assert left == {first.run, third.run}, "a is in the full's pack"
    scene.expect_whole()
    assert scene.back_up(c=9).kind == "full", "the chain's full is no longer offered to build on"
    scene.expect_whole()


def test_a_snapshot_with_a_pin_and_the_last_good_one_never_expire(scene: Scene) -> None:
    first, last = scene.back_up("full", a=9), scene.back_up("full", a=9)
    pin(scene.repository, first.id, pinned=True, reason="release", clock=scene.clock)
    with pytest.raises(BackupError, match="which is pinned"):
        scene.expire(first)
    with pytest.raises(BackupError, match="the last good one"):
        scene.expire(last)
    pin(scene.repository, first.id, pinned=False, reason="", clock=scene.clock)
    scene.expire(first)
    with pytest.raises(NotFound):
        pin(scene.repository, first.id, pinned=True, reason="too late", clock=scene.clock)


def test_a_pin_that_comes_first_wins(scene: Scene) -> None:
    first, _ = scene.back_up("full", a=9), scene.back_up("full", a=9)
    other = open_repository(scene.store)
    asked: list[int] = []

    def choose(live: object) -> dict[str, str]:
        asked.append(1)
        if len(asked) == 1:
            pin(other, first.id, pinned=True, reason="wait", clock=scene.clock)
        return {} if first.id in scene.repository.state.pinned else {first.id: "test"}

    assert expire(scene.repository, choose, clock=scene.clock) == {}
    assert len(asked) == 2 and len(open_repository(scene.store).snapshots()) == 2


@pytest.mark.parametrize("hours", [-2, 2])
def test_a_wrong_clock_expires_and_deletes_nothing(scene: Scene, hours: int) -> None:
    first, _ = scene.back_up("full", a=9), scene.back_up("full", a=9)
    wrong = Clock(scene.clock.now + timedelta(hours=hours))
    with pytest.raises(UsageError, match="clock"):
        expire(scene.repository, lambda _: {first.id: "test"}, clock=wrong)
    with pytest.raises(UsageError, match="clock"):
        prune(scene.repository, apply=True, clock=wrong)
    scene.clock.on(days=-2)  # the store's is as wrong as ours: the newest record tells
    with pytest.raises(UsageError, match="newest record"):
        scene.prune()
    assert len(open_repository(scene.store).snapshots()) == 2


def test_an_interrupted_run_is_waste_only_once_it_is_long_abandoned(scene: Scene) -> None:
    first = scene.back_up("full", a=50_000)
    orphan(scene, first)
    assert scene.prune().running_objects == 1, "the next run may take it up"
    scene.clock.on(days=RUN_ABANDONED_AFTER.days, hours=1)
    assert scene.prune().condemned_objects == 1
    assert (
        scene.repository.state.unfinished_run(
            kind="full", chain=None, parent=None, base=None, operation="backup"
        )
        is None
    ), "a condemned run is not taken up"
    scene.clock.on(days=4)
    assert scene.prune().deleted_objects == 1
    scene.expect_whole()


def orphan(scene: Scene, like: Snapshot) -> str:
    """A pack of a run that committed nothing."""
    run = "ab" * 16
    body = dict(scene.repository.state.runs[like.run])
    scene.repository.log.append({**body, "run": run, "chain": run, "type": "run"})
    [pack] = [name for name in scene.names("packs/") if like.run in name]
    content = bytes(scene.store.get(f"{scene.repository.prefix}{pack}"))
    scene.store.put(f"{scene.repository.prefix}packs/{run}/{pack.split('/')[-1]}", content)
    return run


def test_what_the_log_does_not_know_is_told_and_never_touched(scene: Scene) -> None:
    scene.back_up("full", a=9)
    prefix = scene.repository.prefix
    strange = [f"packs/{'cd' * 16}/{'ef' * 32}", "notes.txt", "packs/short", "manifests/x"]
    for name in strange:
        scene.store.put(prefix + name, b"mine")
    for _ in range(2):
        report = scene.prune()
        assert sorted(report.unknown) == sorted(strange) and report.unknown_count == 4
        scene.clock.on(days=30)
    assert all(scene.store.exists(prefix + name) for name in strange)


def test_a_paused_pruner_that_wakes_up_harms_nothing(scene: Scene) -> None:
    """It added up what is needed, slept, and meanwhile a snapshot came to need it again."""
    first = scene.back_up("full", a=50_000)
    scene.back_up("full", b=50_000)
    scene.expire(first)
    slow = open_repository(scene.store)
    append, woke = slow.log.append, []

    def after_a_day(body: dict[str, object], recheck: object = None) -> object:
        if not woke:
            woke.append(1)
            scene.clock.on(days=1)
            scene.back_up(c=50_000)
        return append(body, recheck)  # type: ignore[arg-type]

    slow.log.append = after_a_day  # type: ignore[method-assign, assignment]
    scene.prune(repository=slow)
    scene.repository.refresh()
    scene.clock.on(days=4)
    scene.prune()
    scene.expect_whole()


def test_a_backup_on_a_parent_that_is_pruned_meanwhile_is_refused(scene: Scene) -> None:
    scene.back_up("full", a=50_000)
    parent = scene.back_up(b=50_000)
    slow = open_repository(scene.store)
    refresh, looks = slow.refresh, list[int]()

    def others() -> bool:
        looks.append(1)
        if len(looks) == 2:  # before it commits
            scene.back_up("full")
            scene.expire(
                *[one for one in scene.repository.snapshots() if one.chain == parent.chain]
            )
            scene.prune()
        return refresh()

    slow.refresh = others  # type: ignore[method-assign]
    (scene.root / "c").write_bytes(b"new")
    with pytest.raises(Conflict, match="condemned"):
        back_up(slow, scene.root)
    scene.clock.on(days=4)
    scene.prune()
    scene.expect_whole()


def test_what_a_deleter_left_of_a_condemned_run_is_found_again(scene: Scene) -> None:
    """A writer that was paused for days puts one more pack of a run that is gone."""
    first = scene.back_up("full", a=50_000)
    scene.back_up("full", b=50_000)
    [pack] = [name for name in scene.names("packs/") if first.run in name]
    content = bytes(scene.store.get(f"{scene.repository.prefix}{pack}"))
    scene.expire(first)
    scene.prune()
    scene.clock.on(days=4)
    assert scene.prune().deleted_objects == 2
    late = f"{scene.repository.prefix}packs/{first.run}/{'12' * 32}"
    scene.store.put(late, content)
    assert scene.prune().deleted_objects == 1 and not scene.store.exists(late)


def test_nothing_is_condemned_while_a_manifest_cannot_be_read(scene: Scene) -> None:
    first, second = scene.back_up("full", a=50_000), scene.back_up("full", b=50_000)
    scene.expire(first)
    scene.store.delete(scene.repository.segment_path(second.segments[0].name))
    with pytest.raises(DamageError, match="nothing was condemned"):
        scene.prune()
    assert scene.repository.state.condemned == {}


def test_a_locked_object_is_reported_and_the_rest_goes(scene: Scene) -> None:
    first = scene.back_up("full", a=50_000)
    scene.back_up("full", b=50_000)
    scene.expire(first)
    scene.prune()
    scene.clock.on(days=4)
    delete = scene.store.delete

    def locked(name: str) -> None:
        if "/packs/" in name:
            from backup_pipeline.engine.errors import StoreUnavailable

            raise StoreUnavailable("locked until 2027")
        delete(name)

    scene.store.delete = locked  # type: ignore[method-assign]
    report = scene.prune()
    assert (report.deleted_objects, report.refused_count) == (1, 1)
    assert "locked until 2027" in report.refused[0]
    scene.store.delete = delete  # type: ignore[method-assign]
    assert scene.prune().deleted_objects == 1


def test_a_checkpoint_forgets_what_expired_and_says_its_days(scene: Scene) -> None:
    old = [scene.back_up("full", a=20_000), scene.back_up(b=20_000)]
    new = scene.back_up("full", c=20_000)
    pin(scene.repository, old[0].id, pinned=True, reason="for a while", clock=scene.clock)
    pin(scene.repository, old[0].id, pinned=False, reason="", clock=scene.clock)
    scene.expire(*old)
    while scene.repository.log.next_sequence <= 128:
        pin(scene.repository, new.id, pinned=True, reason="again", clock=scene.clock)
    fresh = open_repository(scene.store)
    assert list(fresh.state.snapshots) == [new.id] and fresh.state.expired == {}
    assert fresh.state.expired_days == {old[0].day.isoformat()}
    assert fresh.state.days_expired() == set(), "the day has another snapshot"
    chosen = {"kind": "full", "chain": None, "parent": None, "base": None, "operation": "backup"}
    assert fresh.state.unfinished_run(**chosen) is None, "their runs are finished, not interrupted"
    report = prune(fresh, clock=scene.clock)
    assert (report.condemned_objects, report.running_objects) == (2, 2), "segments may be anyone's"
    scene.clock.on(days=RUN_ABANDONED_AFTER.days, hours=1)
    assert prune(fresh, apply=True, clock=scene.clock).condemned_objects == 4
    scene.clock.on(days=4)
    assert prune(fresh, apply=True, clock=scene.clock).deleted_objects == 4
    scene.expect_whole()


def test_a_copy_made_from_whole_packs_outlives_the_prune_of_its_origin(
    scene: Scene, tmp_path: Path
) -> None:
    first = scene.back_up("full", a=50_000)
    cloud = make_repository(MemoryStore(), tier="cloud", like=scene.repository)
    made = copy_over(scene.repository, first, cloud)
    scene.contents[made.id] = scene.contents[first.id]
    scene.back_up("full", b=50_000)
    scene.expire(first)
    scene.prune()
    scene.clock.on(days=4)
    scene.prune()
    assert verify(cloud).ok
    restore(cloud, made, tmp_path / "again")
    assert (tmp_path / "again" / "a").read_bytes() == scene.contents[made.id]["a"]


def test_why_says_what_keeps_a_pack(scene: Scene) -> None:
    first, second = scene.back_up("full", a=50_000), scene.back_up(b=50_000)
    [pack] = [name for name in scene.names("packs/") if first.run in name]
    digest = pack.split("/")[-1]
    assert why_pack(scene.repository, digest[:10]) == [
        f"{pack}: snapshot {one.id[:12]} of {one.day} needs it" for one in (first, second)
    ]
    third = scene.back_up("full")
    scene.expire(first, second)
    assert "prune condemns it" in why_pack(scene.repository, digest)[0]
    scene.prune()
    assert "condemned; a prune after" in why_pack(scene.repository, digest)[0]
    assert why_pack(scene.repository, "0" * 64) == [] and third

"""Consistent sets: a cut is of one moment, is whole or none, and is restored as one."""

from __future__ import annotations

import json
import random
import shutil
import signal
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from backup_pipeline.engine.errors import (
    DayUnavailable,
    NotFound,
    SourceError,
    StoreError,
    UsageError,
)
from backup_pipeline.engine.format.record import Snapshot
from backup_pipeline.engine.operations.work import Prepared
from backup_pipeline.plan import load_plan
from backup_pipeline.runner import Runner, StoreReader
from backup_pipeline.runner import capture as capturing
from backup_pipeline.runner.cuts import gather_cuts
from backup_pipeline.runner.setstanding import missing_cuts
from backup_pipeline.sources.files import FilesSource

IMAGES, MODEL, CONFIG = "vision/images", "vision/model", "vision/config"
MEMBERS = (IMAGES, MODEL, CONFIG)
DAILY = {"every": "day", "kind": "incremental", "full_every": "4 weeks", "keep": {"daily": 7}}


class Scene:
    """Three datasets that belong together, two tiers, and a clock."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.now = datetime(2026, 11, 20, 10, tzinfo=UTC)
        for key in MEMBERS:
            self.write(key, "0")

    def path(self, key: str) -> Path:
        return self.root / "data" / key / "state.txt"

    def write(self, key: str, text: str) -> None:
        self.path(key).parent.mkdir(parents=True, exist_ok=True)
        self.path(key).write_text(text)

    def plan(self, more: dict[str, Any] | None = None, **of_set: Any) -> dict[str, Any]:
        return {
            "start": "2026-11-01",
            "encryption": "none",
            "stores": {name: str(self.root / "stores" / name) for name in ("local", "cloud")},
            "policies": {
                "default": {"tiers": [{"name": "local", **DAILY}, {"name": "cloud", **DAILY}]}
            },
            "datasets": [{"assets": list(MEMBERS), "source": str(self.root / "data/{asset}")}],
            "sets": {"champion": {"members": list(MEMBERS), "wait": "1 second", **of_set}},
            **(more or {}),
        }

    def runner(self, more: dict[str, Any] | None = None, **of_set: Any) -> Runner:
        return Runner(load_plan(self.plan(more, **of_set)), clock=lambda: self.now)

    def read_back(self, runner: Runner, **how: Any) -> dict[str, str]:
        target = self.root / "back" / str(len(list((self.root / "back").glob("*"))))
        report = runner.restore_set("champion", target, **how)
        assert report.ok
        return {key: (target / key / "state.txt").read_text() for key in report.cut.members}


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    (tmp_path / "back").mkdir()
    monkeypatch.setattr(capturing, "sleep", lambda _: None)
    return Scene(tmp_path)


# -- a cut


def test_a_set_is_captured_copied_and_restored_as_one_cut(scene: Scene) -> None:
    runner = scene.runner()
    made = runner.backup_set("champion")
    assert made.ok
    assert made.cut is not None
    assert made.cut.proof == "fingerprints"
    assert {one.snapshot.cut["id"] for one in made.results.values() if one.snapshot.cut} == {
        made.cut.id
    }
    scene.now += timedelta(days=1)
    for key in MEMBERS:
        scene.write(key, "1")
    runner.backup(IMAGES, "cloud", day=date(2026, 11, 20))
    (partly,) = runner.cuts("champion", "cloud")
    assert partly.missing == (CONFIG, MODEL)
    for key in (MODEL, CONFIG):
        runner.backup(key, "cloud", day=date(2026, 11, 20))
    (copied,) = runner.cuts("champion", "cloud")
    assert copied.whole
    assert copied.id == made.cut.id
    runner.backup_set("champion")
    assert set(scene.read_back(runner).values()) == {"1"}
    assert set(scene.read_back(runner, day=date(2026, 11, 20)).values()) == {"0"}
    shutil.rmtree(scene.root / "stores" / "local")
    assert set(scene.read_back(scene.runner(), day=date(2026, 11, 20)).values()) == {"0"}
    bare = Runner.for_store(str(scene.root / "stores" / "cloud"), None, [])
    assert isinstance(bare, StoreReader)


class Writer:
    """Writes generations into the members, one file at a time, at moments that chance picks.

    It remembers every state that all members were ever in together.
    """

    def __init__(self, scene: Scene, chance: random.Random) -> None:
        self.scene = scene
        self.chance = chance
        self.state = dict.fromkeys(MEMBERS, "0")
        self.seen = [dict(self.state)]
        self.steps = chance.randrange(1, 12)

    def perhaps(self) -> None:
        while self.steps and self.chance.random() < 0.4:
            self.steps -= 1
            key = self.chance.choice(MEMBERS)
            # Longer each time: a change shows in a file's size, however quickly they follow.
            self.state[key] += "."
            self.scene.write(key, self.state[key])
            self.seen.append(dict(self.state))


def disturb(monkeypatch: pytest.MonkeyPatch, moment: Callable[[], None]) -> None:
    """Let something happen around every listing and every reading of a member."""
    scan, prepare = FilesSource.scan, Runner._prepare_member

    def listed(self: FilesSource) -> Iterator[Any]:
        moment()
        for batch in scan(self):
            moment()  # what it lists is read after this
            yield batch

    def read(self: Runner, *arguments: Any) -> tuple[Prepared, str]:
        moment()
        answer = prepare(self, *arguments)
        moment()
        return answer

    monkeypatch.setattr(FilesSource, "scan", listed)
    monkeypatch.setattr(Runner, "_prepare_member", read)


def test_what_is_proved_is_a_state_that_all_members_were_in_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capturing, "sleep", lambda _: None)
    proved = retried = refused = 0
    for seed in range(24):
        root = tmp_path / str(seed)
        (root / "back").mkdir(parents=True)
        scene = Scene(root)
        writer = Writer(scene, random.Random(seed))
        runner = scene.runner(retries=seed % 3)
        with monkeypatch.context() as patch:
            disturb(patch, writer.perhaps)
            made = runner.backup_set("champion", kind="full")
        assert len(runner.snapshots(None, "local")) == 3, "each member is backed up in any case"
        if made.cut is None:
            refused += 1
            assert made.exit_code == 1
            with pytest.raises(NotFound, match="no cut"):
                runner.find_cut("champion")
            continue
        proved += 1
        retried += "attempt" in made.reason
        assert scene.read_back(runner) in writer.seen
    assert proved > 6
    assert retried > 2
    assert refused > 0


def test_a_change_between_a_members_listing_and_its_reading_is_no_cut_of_two_moments(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan, listed = FilesSource.scan, list[Path]()

    def changed(self: FilesSource) -> Iterator[Any]:
        for batch in scan(self):
            listed.append(self.root)
            if len(listed) == 5:  # three fingerprints, then images was read; model is listed
                scene.write(IMAGES, "newer")
                scene.write(MODEL, "newer, and read so")
            yield batch

    monkeypatch.setattr(FilesSource, "scan", changed)
    runner = scene.runner()
    made = runner.backup_set("champion")
    assert [path.name for path in listed[3:5]] == ["images", "model"]
    assert made.ok
    assert "at attempt 2" in made.reason
    assert scene.read_back(runner)[IMAGES] == "newer"


def test_only_what_changed_is_read_again(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    prepare = Runner._prepare_member

    def noted(self: Runner, spec: Any, *arguments: Any) -> tuple[Prepared, str]:
        read.append(spec.key)
        answer = prepare(self, spec, *arguments)
        if read.count(MODEL) == 1 and spec.key == CONFIG:
            scene.write(MODEL, "while config was read")
        return answer

    monkeypatch.setattr(Runner, "_prepare_member", noted)
    made = scene.runner().backup_set("champion")
    assert made.ok
    assert read == [*MEMBERS, MODEL]
    said = f"{MODEL} changed while set champion was read; attempt 2 of 4 follows"
    assert said in made.notices


def test_what_never_comes_to_rest_is_named_and_backed_up_all_the_same(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = iter(range(1, 1000))
    disturb(monkeypatch, lambda: scene.write(MODEL, f"{next(numbers)}"))
    runner = scene.runner(retries=2)
    made = runner.backup_set("champion")
    assert not made.ok
    assert made.exit_code == 1
    assert f"of 3 attempts: {MODEL} (in 3)" in made.reason
    assert [one.snapshot.cut for one in made.results.values()] == [None] * 3
    assert {one.dataset for one in runner.snapshots()} == set(MEMBERS)


def test_one_member_that_cannot_be_read_costs_the_cut_but_not_the_others(scene: Scene) -> None:
    shutil.rmtree(scene.root / "data" / MODEL)
    runner = scene.runner()
    made = runner.backup_set("champion")
    assert isinstance(made.errors[MODEL], SourceError)
    assert made.exit_code == 3
    assert made.cut is None
    assert {one.dataset for one in runner.snapshots()} == {IMAGES, CONFIG}


def test_a_commit_that_fails_leaves_no_cut_and_no_member_without_its_snapshot(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = Prepared.commit

    def fails_for_the_model(self: Prepared, *arguments: Any) -> Any:
        if self.snapshot.dataset == MODEL:
            raise StoreError("the store of the model is full")
        return commit(self, *arguments)

    monkeypatch.setattr(Prepared, "commit", fails_for_the_model)
    runner = scene.runner()
    made = runner.backup_set("champion")
    assert made.cut is None
    assert set(made.results) == {IMAGES, CONFIG}
    (part,) = runner.cuts("champion")
    assert part.missing == (MODEL,)
    with pytest.raises(NotFound, match=f"{MODEL} is missing from it"):
        runner.restore_set("champion", scene.root / "back")
    assert not list((scene.root / "back").iterdir())
    monkeypatch.undo()
    monkeypatch.setattr(capturing, "sleep", lambda _: None)
    assert runner.backup_set("champion").ok


# -- days


def test_a_member_alone_is_refused_where_the_set_is_read(scene: Scene) -> None:
    with pytest.raises(UsageError, match="member of set champion") as caught:
        scene.runner().backup(MODEL)
    assert "--set champion" in str(caught.value.hint)


def test_a_closed_day_is_answered_with_its_cut_or_copied_back_or_refused(scene: Scene) -> None:
    runner, day = scene.runner(), date(2026, 11, 20)
    first = runner.backup_set("champion")
    scene.now += timedelta(days=1)
    again = runner.backup_set("champion", day=day)
    assert again.cut == first.cut
    assert not any(one.created for one in again.results.values())
    assert runner.backup_set("champion", "cloud", day=day).ok
    shutil.rmtree(scene.root / "stores" / "local")
    back = scene.runner().backup_set("champion", day=day)
    assert back.ok
    assert back.cut is not None
    assert first.cut is not None
    assert back.cut.id == first.cut.id
    with pytest.raises(DayUnavailable, match="no tier holds a whole cut"):
        scene.runner().backup_set("champion", day=date(2026, 11, 18))
    late = scene.runner({"late": "accept", "start": "2026-11-17"})
    made = late.backup_set("champion", day=date(2026, 11, 18))
    assert made.cut is not None
    assert made.cut.timing == "late"
    filled = late.backfill(tier="local", until=date(2026, 11, 19))
    assert not filled.left
    assert {one.missed.day.day for one in filled.filled} == {17, 19}
    assert [(one.day.day, one.whole) for one in late.cuts("champion", "local")] == [
        (17, True),
        (18, True),
        (19, True),
        (20, True),
    ]


def test_slices_are_a_cut_too_and_one_that_is_rewritten_makes_another(scene: Scene) -> None:
    for name in ("rows", "labels"):
        (scene.root / name / "2026-11-19").mkdir(parents=True)
        (scene.root / name / "2026-11-19" / "part").write_text("first")
    datasets = [
        {"asset": name, "source": {"day_paths": f"{scene.root}/{name}/{{day}}"}, "holds": "slice"}
        for name in ("rows", "labels")
    ]
    runner = scene.runner(
        {"datasets": datasets, "sets": {"champion": {"members": ["rows", "labels"]}}}
    )
    first = runner.backup_set("champion")
    assert first.ok
    assert first.day == date(2026, 11, 19)
    assert runner.backup_set("champion").cut == first.cut
    (scene.root / "labels" / "2026-11-19" / "part").write_text("corrected")
    second = runner.backup_set("champion")
    assert second.cut is not None
    assert second.cut != first.cut
    assert second.cut.timing == "exact"


def test_later_tiers_copy_the_days_cut_although_a_member_has_a_newer_snapshot(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = scene.runner()
    first = runner.backup_set("champion")
    scene.now += timedelta(hours=1)
    scene.write(IMAGES, "newer")
    commit = Prepared.commit

    def stops_after_images(self: Prepared, *arguments: Any) -> Any:
        if self.snapshot.dataset != IMAGES:
            raise KeyboardInterrupt
        return commit(self, *arguments)

    monkeypatch.setattr(Prepared, "commit", stops_after_images)
    with pytest.raises(KeyboardInterrupt):
        runner.backup_set("champion")
    monkeypatch.setattr(Prepared, "commit", commit)
    assert len(runner.snapshots(IMAGES, "local")) == 2
    scene.now += timedelta(days=1)
    copied = runner.backup_set("champion", "cloud", day=date(2026, 11, 20))
    assert copied.cut is not None
    assert first.cut is not None
    assert copied.cut.id == first.cut.id


def test_status_counts_a_day_only_with_every_member(scene: Scene) -> None:
    runner = scene.runner()
    runner.backup_set("champion")
    scene.now += timedelta(days=1)
    runner.backup(IMAGES, "cloud", day=date(2026, 11, 20))
    local, cloud = runner.set_status()
    assert local.fresh
    assert not local.missing_days
    assert not cloud.fresh
    assert cloud.missing_days == [date(2026, 11, 20)]
    assert cloud.lacking == {date(2026, 11, 20): (CONFIG, MODEL)}


def test_expiry_keeps_a_days_cut_whole_although_a_member_has_a_newer_snapshot(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep = {**DAILY, "keep": {"weekly": 2}}
    more = {"policies": {"default": {"tiers": [{"name": "local", **keep}]}}}
    runner = scene.runner(more)
    made = runner.backup_set("champion")
    commit = Prepared.commit

    def stops_after_images(self: Prepared, *arguments: Any) -> Any:
        if self.snapshot.dataset != IMAGES:
            raise KeyboardInterrupt
        return commit(self, *arguments)

    for number in (1, 2):
        scene.now += timedelta(hours=12)  # later that day, and on the next one
        scene.write(IMAGES, f"newer {number}")
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(Prepared, "commit", stops_after_images)
            runner.backup_set("champion")
    scene.now += timedelta(days=3)
    assert runner.backup_set("champion").ok
    assert made.cut is not None
    for key in MEMBERS:
        weekly = [
            verdict.snapshot.cut["id"]
            for verdict in runner.expire(key, "local").verdicts
            if any(reason.startswith("weekly 2") for reason in verdict.reasons)
            and verdict.snapshot.cut
        ]
        assert weekly == [made.cut.id]


def test_days_before_the_first_cut_and_expired_ones_are_not_missing() -> None:
    days = [date(2026, 11, number) for number in range(1, 6)]
    assert missing_cuts(days, [], set()) == ([], {})
    assert gather_cuts("champion", []) == []


WHOLE = {"id": "0" * 32, "set": "s", "proof": "p", "members": ["a"]}


@pytest.mark.parametrize(
    "cut",
    [None, 7, [], {}, *({**WHOLE, **bad} for bad in ({"id": "ab"}, {"set": 1}, {"members": []}))],
)
def test_a_record_whose_cut_makes_no_sense_is_an_ordinary_snapshot(scene: Scene, cut: Any) -> None:
    made = scene.runner().backup_set("champion").results[IMAGES].snapshot
    body = json.loads(json.dumps(made.record_body()))
    assert Snapshot.from_body(body, 1, dataset=IMAGES, tier="local").cut == made.cut
    read = Snapshot.from_body({**body, "cut": cut}, 1, dataset=IMAGES, tier="local")
    assert read.cut is None
    assert "cut" not in read.record_body()


# -- hooks


def hook(scene: Scene, word: str, more: str = "") -> list[str]:
    log = scene.root / "log"
    return ["/bin/sh", "-c", f"echo {word} $BACKUP_HOOK $BACKUP_SET $BACKUP_DAY >> {log}; {more}"]


def logged(scene: Scene) -> list[str]:
    log = scene.root / "log"
    return log.read_text().splitlines() if log.exists() else []


def test_hooks_bracket_the_reading_and_every_attempt_of_it(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    frozen: list[int] = []
    prepare = Runner._prepare_member

    def read(self: Runner, *arguments: Any) -> tuple[Prepared, str]:
        frozen.append(len(logged(scene)))
        answer = prepare(self, *arguments)
        if len(frozen) == 1:
            scene.write(IMAGES, "a freeze that holds nothing still is found out")
        return answer

    monkeypatch.setattr(Runner, "_prepare_member", read)
    made = scene.runner(freeze=hook(scene, "1"), thaw=hook(scene, "2")).backup_set("champion")
    assert made.cut is not None
    assert made.cut.proof == "hooks"
    assert frozen == [1, 1, 1, 3]
    once = ["1 freeze champion 2026-11-20", "2 thaw champion 2026-11-20"]
    assert logged(scene) == once * 2


def test_hooks_do_not_learn_the_plans_key(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BACKUP_PASSPHRASE", "only for this test")
    monkeypatch.setenv("THEIRS", "kept")
    more = {"encryption": "aes-256-gcm"}
    show = f"env > {scene.root}/env"
    runner = scene.runner(more, freeze=hook(scene, "1", show), thaw=hook(scene, "2"))
    assert runner.backup_set("champion").ok
    told = (scene.root / "env").read_text()
    assert "BACKUP_PASSPHRASE" not in told
    assert "THEIRS=kept" in told


@pytest.mark.parametrize("command", ["exit 3", "sleep 60", "no such program"])
def test_a_freeze_that_fails_costs_the_cut_and_is_thawed(scene: Scene, command: str) -> None:
    freeze = hook(scene, "1", f"echo oh no; {command}")
    if command == "no such program":
        freeze = ["/no/such/program"]
    runner = scene.runner(freeze=freeze, thaw=hook(scene, "2"), hook_timeout="1 second")
    made = runner.backup_set("champion")
    assert made.cut is None
    assert "freeze of set champion" in made.reason
    assert ("oh no" in made.reason) == (freeze[0] == "/bin/sh")
    assert len(runner.snapshots()) == 3
    begun = ["1 freeze champion 2026-11-20", "2 thaw champion 2026-11-20"]
    assert logged(scene) == ([] if freeze[0] != "/bin/sh" else begun)


def test_a_thaw_that_fails_is_loud_and_keeps_the_cut(scene: Scene) -> None:
    thaw = hook(scene, "2", "echo still stuck; exit 4")
    made = scene.runner(freeze=hook(scene, "1"), thaw=thaw).backup_set("champion")
    assert made.cut is not None
    assert not made.ok
    assert made.exit_code == 3
    assert "ended with code 4; it said:\nstill stuck" in str(made.thaw_error)
    assert "STILL" in str(made.thaw_error)


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, None])
def test_whatever_ends_the_reading_the_members_are_thawed(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, stop: signal.Signals | None
) -> None:
    def stopped(self: Runner, *arguments: Any) -> tuple[Prepared, str]:
        if stop is None:
            raise RuntimeError("a mistake of ours")
        signal.raise_signal(stop)
        raise AssertionError("a signal was not heard")

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(Runner, "_prepare_member", stopped)
    runner = scene.runner(freeze=hook(scene, "1"), thaw=hook(scene, "2"))
    with pytest.raises(RuntimeError if stop is None else KeyboardInterrupt):
        runner.backup_set("champion")
    assert [line.split()[1] for line in logged(scene)] == ["freeze", "thaw"]
    assert signal.getsignal(signal.SIGTERM) is before

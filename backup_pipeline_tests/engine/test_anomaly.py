"""The anomaly gate on real trees: normal life passes, attacks do not, and what that means."""

from __future__ import annotations

import random
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from backup_pipeline.engine.errors import BackupError, NotFound
from backup_pipeline.engine.format.record import Snapshot
from backup_pipeline.engine.judgement import Explained, Gate
from backup_pipeline.engine.log import EPOCH_RECORDS
from backup_pipeline.engine.operations.backup import backup
from backup_pipeline.engine.operations.expire import expire, pin
from backup_pipeline.engine.operations.judging import clear
from backup_pipeline.engine.repository import Repository
from backup_pipeline.engine.state import RepositoryState
from backup_pipeline.engine.store.memory import MemoryStore
from backup_pipeline.engine.suspicions import findings_of
from backup_pipeline.sources.files import FilesSource
from backup_pipeline_tests.engine.repositories import (
    DAY,
    chain_of,
    copy_over,
    make_repository,
    open_repository,
)
from benchmarks.life import ATTACKS, NEW_EXPORT_DAY, Life, kept_aside

UPSTREAM = Explained("materialization", "exported anew")
FULL_EVERY = 28


def duplicate(store: MemoryStore) -> MemoryStore:
    """A store that holds the same, and goes its own way from now on."""
    other = MemoryStore()
    for one in store.list():
        other.put(one.name, store.get(one.name))
    return other


def live_on(repository: Repository, life: Life, kind: str | None = None, **gate: Any) -> Snapshot:
    """Back up the tree of a day."""
    kind = kind or ("full" if life.day % FULL_EVERY == 0 else "incremental")
    explained = UPSTREAM if life.explained else None
    return backup(
        repository,
        FilesSource(life.root),
        day=life.date,
        gate=Gate(**{"explained": explained, **gate}),
        **chain_of(repository, kind),
    )


def rules(snapshot: Snapshot) -> list[str]:
    """What a snapshot was flagged for."""
    return [str(one["rule"]) for one in findings_of(snapshot.anomaly)]


def test_sixty_days_of_normal_life_pass_and_each_attack_is_caught_at_once(tmp_path: Path) -> None:
    life, store = Life(tmp_path / "tree", 11, images=50, tables=3), MemoryStore()
    repository = make_repository(store)
    caught: dict[tuple[int, str], list[str]] = {}
    for day in range(61):
        if day:
            life.live()
        if day in (2, 17, FULL_EVERY, 44):  # the third is a day on which all is read
            for name, attack in ATTACKS.items():

                def strike(name: str = name, attack: Any = attack, day: int = day) -> None:
                    attack(life, random.Random(day))
                    made = live_on(open_repository(duplicate(store)), life)
                    caught[day, name] = rules(made)

                kept_aside(life, tmp_path / "aside", strike)
        snapshot = live_on(repository, life)
        assert not rules(snapshot), (day, snapshot.anomaly)
    missed = [what for what, found in caught.items() if not found]
    assert len(caught) == 4 * len(ATTACKS) and not missed
    expected = {"encrypt 5 % of the files": "misnamed", "delete 20 %": "deleted"}
    expected |= {"rename all to a new suffix": "renamed", "replace the model by zeros": "blank"}
    for (_, name), found in caught.items():
        assert expected.get(name, found[0]) in found


def test_what_upstream_explains_is_not_suspicious_but_never_what_it_cannot_want(
    tmp_path: Path,
) -> None:
    life = Life(tmp_path / "tree", 5, images=40, tables=2)
    life.day = NEW_EXPORT_DAY  # explained
    for name, reason in [
        ("rename all to a new suffix", None),
        ("delete 20 %", None),
        ("encrypt 5 % of the files", "incompressible misnamed"),
        ("replace the model by zeros", "blank"),
    ]:

        def strike(name: str = name, reason: str | None = reason) -> None:
            repository = make_repository(MemoryStore())
            live_on(repository, life)
            ATTACKS[name](life, random.Random(3))
            found = rules(live_on(repository, life))
            assert bool(set(found) & set((reason or "").split())) == bool(reason), (name, found)

        kept_aside(life, tmp_path / "aside", strike)


@pytest.mark.parametrize("kind", ["full", "incremental", "differential"])
def test_every_kind_is_held_against_the_newest_snapshot(tmp_path: Path, kind: str) -> None:
    life, repository = (
        Life(tmp_path / "tree", 6, images=40, tables=2),
        make_repository(MemoryStore()),
    )
    live_on(repository, life)
    for path in life.files("images")[:8]:  # in two steps of less than the limit each
        path.unlink()
    assert not rules(live_on(repository, life, kind))
    for path in life.files("images")[:8]:
        path.unlink()
    second = live_on(repository, life, kind)
    assert not rules(second) and second.anomaly is not None
    assert second.anomaly["measure"]["deleted"] == 8
    ATTACKS["encrypt 5 % of the files"](life, random.Random(1))
    third = live_on(repository, life, kind)
    assert "misnamed" in rules(third) and third.anomaly is not None
    assert "deleted" not in third.anomaly["measure"]


def attacked(store: MemoryStore, root: Path) -> tuple[Repository, Life, Snapshot]:
    """Three days, the last of which was attacked."""
    life, repository = Life(root, 7, images=40, tables=2), make_repository(store)
    live_on(repository, life)
    life.live()
    live_on(repository, life)
    life.live()
    ATTACKS["delete 20 %"](life, random.Random(1))
    flagged = live_on(repository, life)
    assert rules(flagged)
    return repository, life, flagged


def test_nothing_older_expires_until_somebody_clears_it(tmp_path: Path) -> None:
    store = MemoryStore()
    repository, life, flagged = attacked(store, tmp_path / "tree")
    later = live_on(repository, life)
    assert not rules(later)
    first, second, *_ = repository.snapshots()
    for one in (first, second, flagged):
        with pytest.raises(BackupError, match="suspicious"):
            expire(repository, lambda _, one=one: {one.id: "old"})
    clear(repository, flagged.id, cleared=True, reason="a clean-up", by="an operator")
    assert not repository.state.suspicions.open()
    clear(repository, flagged.id, cleared=False, reason="it was not", by="an operator")
    assert [one.id for one in repository.state.suspicions.open()] == [flagged.id]
    clear(repository, flagged.id, cleared=True, reason="it was", by="another")
    expire(repository, lambda _: {second.id: "old"})
    again = open_repository(store)
    assert again.state.suspicions.cleared[flagged.id]["by"] == "another"
    with pytest.raises(NotFound):
        clear(repository, later.id, cleared=True, reason="?", by="?")


def test_a_copy_is_as_suspicious_as_its_origin_and_as_what_came_before_it(tmp_path: Path) -> None:
    repository, life, flagged = attacked(MemoryStore(), tmp_path / "tree")
    first = repository.snapshots()[0]
    later = live_on(repository, life)
    cloud, glacier = (
        make_repository(MemoryStore(), tier=tier, like=repository) for tier in ("cloud", "glacier")
    )
    old = copy_over(repository, first, cloud)
    copy_over(repository, flagged, cloud)
    copy_over(repository, later, glacier)  # the suspicious one itself never comes there
    for other in (cloud, glacier):
        assert [one.id for one in other.state.suspicions.open()] == [flagged.id]
    with pytest.raises(BackupError, match="suspicious"):
        expire(cloud, lambda _: {old.id: "old"})
    clear(repository, flagged.id, cleared=True, reason="known", by="an operator")
    late = make_repository(MemoryStore(), tier="late", like=repository)
    copy_over(repository, flagged, late)
    assert not late.state.suspicions.open() and late.state.suspicions.cleared


def test_a_checkpoint_keeps_what_is_suspicious_cleared_and_usual(tmp_path: Path) -> None:
    store = MemoryStore()
    repository, _, flagged = attacked(store, tmp_path / "tree")
    clear(repository, flagged.id, cleared=True, reason="known", by="an operator")
    before = repository.state.suspicions
    assert len(before.profile.days) == 3  # what is cleared is usual
    while repository.log.next_sequence <= EPOCH_RECORDS:
        pin(repository, flagged.id, pinned=True, reason="again")
    after = open_repository(store).state.suspicions
    assert after.flagged == before.flagged and after.cleared == before.cleared
    assert after.profile.to_json() == before.profile.to_json()


def test_a_checkpoint_of_a_writer_that_knows_no_flags_loses_nothing(tmp_path: Path) -> None:
    repository, _, flagged = attacked(MemoryStore(), tmp_path / "tree")
    clear(repository, flagged.id, cleared=True, reason="known", by="an operator")
    body = repository.state.checkpoint()
    for name in ("suspicious", "cleared", "profile"):
        del body["state"][name]
    last = repository.log.next_sequence - 1
    body["state"]["unknown"] = [[last, repository.log.read(last).body]]
    state = RepositoryState()
    state.apply(type("Record", (), {"body": body, "type": "checkpoint", "sequence": 128})())
    assert not state.suspicions.open() and flagged.id in state.suspicions.flagged
    assert state.suspicions.profile.to_json() == repository.state.suspicions.profile.to_json()


def test_what_is_suspicious_does_not_become_usual(tmp_path: Path) -> None:
    store = MemoryStore()
    repository, life, flagged = attacked(store, tmp_path / "tree")
    assert flagged.day.isoformat() not in repository.state.suspicions.profile.days
    for _ in range(3):
        life.live()
        ATTACKS["delete 20 %"](life, random.Random(life.day))
        assert "deleted" in rules(live_on(repository, life))


def test_the_plan_s_limits_and_a_person_s_word_count(tmp_path: Path) -> None:
    life = Life(tmp_path / "tree", 8, images=40, tables=2)
    person = Explained("person", "cleaned up")
    for gate, expected in [
        ({}, True),
        ({"limits": {"deleted": 0.5, "fell": 1.0}}, False),
        ({"explained": person}, False),
        ({"off": True}, False),
    ]:

        def strike(gate: dict[str, Any] = gate, expected: bool = expected) -> None:
            repository = make_repository(MemoryStore())
            live_on(repository, life)
            ATTACKS["delete 20 %"](life, random.Random(2))
            assert bool(rules(live_on(repository, life, **gate))) == expected, gate

        kept_aside(life, tmp_path / "aside", strike)


def test_a_backfilled_day_is_measured_and_not_judged(tmp_path: Path) -> None:
    life, repository = (
        Life(tmp_path / "tree", 9, images=40, tables=2),
        make_repository(MemoryStore()),
    )
    live_on(repository, life)
    ATTACKS["delete 20 %"](life, random.Random(2))
    made = backup(
        repository,
        FilesSource(life.root),
        day=life.date - timedelta(days=3),
        **chain_of(repository, "incremental"),
    )
    assert made.anomaly is not None and not rules(made) and made.anomaly["skipped"]
    assert made.day.isoformat() not in repository.state.suspicions.profile.days
    assert DAY not in repository.state.suspicions.profile.days


def test_a_first_backup_looks_at_a_sample_and_that_tells_whether_names_are_true(
    tmp_path: Path,
) -> None:
    """A dataset whose names never told the truth cannot begin to lie: a sample shows that, too."""
    tree, count = tmp_path / "tree", 400
    tree.mkdir()

    def write(named: str, salt: int) -> None:
        for number in range(count):
            content = random.Random(f"{salt} {number}").randbytes(200)
            (tree / f"{number:03}.{named}").write_bytes(content)

    repository = make_repository(MemoryStore())
    write("jpg", 1)
    first = backup(repository, FilesSource(tree), day=DAY, **chain_of(repository, "full"))
    assert first.anomaly is not None
    said = first.anomaly["measure"]
    assert (said["added"], said["added_bytes"]) == (count, 200 * count)
    assert said["named"] == said["unlike"] and 0 < said["named"] < count / 2
    write("jpg", 2)
    day = DAY + timedelta(days=1)
    second = backup(repository, FilesSource(tree), day=day, **chain_of(repository, "incremental"))
    assert second.anomaly is not None
    assert second.anomaly["measure"]["unlike"] == count, "what changed is looked at file by file"
    assert "misnamed" not in rules(second)

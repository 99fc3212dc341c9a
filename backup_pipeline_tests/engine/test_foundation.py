"""Foundations: no snapshot builds on packs that are gone, however few requests it may take."""

from __future__ import annotations

from pathlib import Path

import pytest

from backup_pipeline.engine.errors import UnsoundParent
from backup_pipeline.engine.operations import foundation
from backup_pipeline.engine.operations.foundation import Foundation
from backup_pipeline.engine.repository import Repository
from backup_pipeline.engine.store.memory import MemoryStore
from backup_pipeline_tests.engine.repositories import back_up, make_repository


def chain_of_packs(root: Path, count: int) -> Repository:
    """A repository whose newest snapshot needs so many packs, one from each run."""
    repository = make_repository(MemoryStore())
    for number in range(count):
        (root / f"{number}").write_bytes(bytes([number]) * 2000)
        back_up(repository, root)
    return repository


def packs(repository: Repository) -> list[str]:
    return [one.name for one in repository.store.list(f"{repository.prefix}packs/")]


@pytest.mark.parametrize("most", [10_000, 8])
def test_any_pack_that_is_gone_or_cut_short_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    monkeypatch.setattr(foundation, "MOST_LISTED", most)
    repository = chain_of_packs(tmp_path, 6)
    names, newest = packs(repository), repository.snapshots()[-1]
    assert len(names) == 6
    for name in names:
        content = bytes(repository.store.get(name))
        for left in (None, content[:90]):
            repository.store.delete(name)
            if left is not None:
                repository.store.put(name, left)
            with pytest.raises(UnsoundParent, match="missing" if left is None else "cut short"):
                Foundation(repository, newest).require()
            repository.store.heal(name, content)
    Foundation(repository, newest).require()


def test_beyond_the_bound_each_pack_has_its_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(foundation, "MOST_LISTED", 3)
    repository = chain_of_packs(tmp_path, 7)
    newest = repository.snapshots()[-1]
    for _ in range(20):
        Foundation(repository, newest).require()
    lost = packs(repository)[3]
    repository.store.delete(lost)
    noticed = 0
    for _ in range(60):
        try:
            Foundation(repository, newest).require()
        except UnsoundParent:
            noticed += 1
    assert 5 < noticed < 55


def test_nothing_is_written_on_an_unsound_foundation(tmp_path: Path) -> None:
    repository = chain_of_packs(tmp_path, 3)
    store = repository.store
    store.delete(packs(repository)[1])
    (tmp_path / "new").write_bytes(b"\x77" * 300_000)
    before = [one.name for one in store.list()]
    with pytest.raises(UnsoundParent):
        back_up(repository, tmp_path)
    assert [one.name for one in store.list()] == before
    full = back_up(repository, tmp_path, "full")
    assert full.status == "complete"
    (tmp_path / "new").write_bytes(b"\x78" * 300_000)
    assert back_up(repository, tmp_path).parent == full.id

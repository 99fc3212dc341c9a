"""A repository begins well however its store lists, reads or keeps the first things in it."""

from __future__ import annotations

import pytest

from backup_pipeline.engine.errors import BackupError, DamageError
from backup_pipeline.engine.operations.verify import verify
from backup_pipeline.engine.repository import Repository
from backup_pipeline.engine.store.memory import MemoryStore
from backup_pipeline_tests.engine.repositories import make_repository, open_repository
from backup_pipeline_tests.faults.faulty import FAULTS, Script, SpoiltStore


def begin(memory: MemoryStore, fault: str, at: int) -> Script:
    """Make a repository in a store that goes wrong; whether it works out or not."""
    script = Script(FAULTS[fault], at)
    try:
        make_repository(SpoiltStore(memory, script, frozenset()))
    except BackupError:
        assert script.spoilt
    return script


def append(repository: Repository) -> None:
    """Something that mends the twin of the record before it."""
    repository.log.append({"type": "note", "optional": True})


def test_a_repository_is_begun_where_listings_lag() -> None:
    memory = MemoryStore()
    store = SpoiltStore(memory, Script(FAULTS["eventual"], 1), frozenset())
    append(make_repository(store))
    assert verify(open_repository(memory)).ok


def test_a_key_set_that_is_read_wrong_once_is_not_named_for_ever() -> None:
    for at in range(1, 100):
        memory = MemoryStore()
        if not begin(memory, "changed", at).spoilt:
            break
        append(make_repository(memory))
        assert verify(open_repository(memory)).ok
    assert at > 3


@pytest.mark.parametrize("fault", ["truncated", "flipped", "unwritten"])
def test_a_document_that_was_stored_wrong_is_named_and_hinders_nothing(fault: str) -> None:
    for at in range(1, 100):
        memory = MemoryStore()
        if not (spoilt := begin(memory, fault, at).spoilt):
            break
        append(make_repository(memory))
        assert {one["name"] for one in verify(open_repository(memory)).damage} <= set(spoilt)
    assert at > 6


def test_two_good_documents_in_the_place_of_one_are_refused() -> None:
    ours, theirs = MemoryStore(), MemoryStore()
    make_repository(ours)
    for one in list(ours.list()):
        if "/keys/" not in one.name:
            theirs.put(one.name, ours.get(one.name))
    for one in list(ours.list()):
        if "/log/" in one.name or "/twin/" in one.name:  # as if it had not come so far
            ours.delete(one.name)
            theirs.delete(one.name)
    make_repository(theirs)
    [name] = [one.name for one in ours.list("repositories/") if one.name.endswith("keys/00000000")]
    ours.heal(name, theirs.get(name))
    with pytest.raises(DamageError, match="are different documents"):
        make_repository(ours)

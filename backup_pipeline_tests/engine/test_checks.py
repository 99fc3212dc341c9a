"""Verify and drill: samples are what they say, and a drill believes only what it reads back."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import pytest

from backup_pipeline.engine.operations import assembly
from backup_pipeline.engine.operations.drill import drill
from backup_pipeline.engine.operations.verify import verify
from backup_pipeline.engine.repository import Repository
from backup_pipeline.engine.store.memory import MemoryStore
from backup_pipeline.engine.store.wrappers import CountingStore
from backup_pipeline_tests.engine.repositories import back_up, make_repository
from backup_pipeline_tests.engine.trees import no_privileges, place_of_nobody

MIB = 1 << 20


@pytest.fixture
def store() -> CountingStore:
    return CountingStore(MemoryStore())


@pytest.fixture
def repository(store: CountingStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    """Two fulls in many packs."""
    monkeypatch.setattr("backup_pipeline.engine.operations.packing.PACK_TARGET_BYTES", 1)
    source = tmp_path / "source"
    (source / "folder").mkdir(parents=True)
    for number in range(30):
        (source / "folder" / f"{number}").write_bytes(random.Random(number).randbytes(MIB))
    (source / "small").write_bytes(b"few bytes")
    (source / "link").symlink_to("small")
    found = make_repository(store)
    back_up(found, source, "full")
    back_up(found, source, "full")
    return found


def packs_of(repository: Repository, number: int) -> list[str]:
    run = repository.snapshots()[number].run
    listed = repository.store.list(f"{repository.prefix}packs/{run}/")
    return [one.name for one in listed]


@pytest.mark.parametrize("share", [0.0, 0.2, 0.7, 1.0])
def test_verify_reads_the_share_it_was_asked_for_and_says_so(
    repository: Repository, store: CountingStore, share: float
) -> None:
    store.reset()
    report = verify(repository, read_data=share, seed=1)
    packs = packs_of(repository, 0) + packs_of(repository, 1)
    assert report.ok and report.packs_total == len(packs)
    assert share <= report.coverage <= min(1.0, share + 0.1)
    assert report.bytes_checked == pytest.approx(report.coverage * report.bytes_total)
    assert report.bytes_checked <= store.read_bytes <= report.bytes_checked + MIB
    again = verify(repository, read_data=share, seed=1)
    assert again.bytes_checked == report.bytes_checked


def test_verify_of_one_snapshot_is_not_about_others(repository: Repository) -> None:
    first, second = repository.snapshots()
    gone = packs_of(repository, 0)[3]
    repository.store.delete(gone)
    for share in (0.0, 1.0):
        assert verify(repository, snapshots=[second], read_data=share).ok
        report = verify(repository, snapshots=[first], read_data=share)
        assert [(one["name"], one["what"]) for one in report.damage] == [(gone, "missing")]
        assert report.damage[0]["snapshots"] == [first.id]
        assert 0.9 < report.integrity < 1.0


def test_a_drill_takes_about_the_share_it_was_asked_for(
    repository: Repository, tmp_path: Path
) -> None:
    newest = repository.snapshots()[-1]
    starts = (1, 1, 1 << 63)
    chosen = [drill(repository, newest, tmp_path, sample=0.2, start=start) for start in starts]
    assert all(one.ok and 0.2 <= one.sample_fraction <= 0.5 for one in chosen)
    assert chosen[0].bytes == chosen[1].bytes and all(one.files >= 6 for one in chosen)
    assert drill(repository, newest, tmp_path, sample=0.0).files == 1
    assert drill(repository, newest, tmp_path, sample=1.0).files == 31
    assert {one.name for one in tmp_path.iterdir()} == {"source"}


def test_a_drill_of_nothing_is_good(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    repository = make_repository(MemoryStore())
    report = drill(repository, back_up(repository, tmp_path / "empty"), tmp_path, sample=0.5)
    assert (report.ok, report.files, report.sample_fraction) == (True, 0, 1.0)


def test_a_drill_by_a_user_without_privileges_reads_what_is_closed_to_its_owner(
    tmp_path: Path,
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "closed").write_bytes(b"under two names")
    os.link(source / "closed", source / "closed too")
    repository = make_repository(MemoryStore())
    if os.geteuid() == 0:  # or else it could not be backed up
        (source / "closed").chmod(0o000)
    snapshot = back_up(repository, source)
    drill(repository, snapshot, tmp_path, sample=1.0)  # every module is loaded
    with place_of_nobody() as top, no_privileges():
        assert drill(repository, snapshot, top, sample=1.0).mismatches == []
        assert not any(top.iterdir())


def test_a_drill_names_what_is_damaged(repository: Repository, tmp_path: Path) -> None:
    repository.store.delete(packs_of(repository, 1)[0])
    report = drill(repository, repository.snapshots()[1], tmp_path, sample=1.0)
    assert not report.ok and report.mismatches
    assert all("missing" in one["reason"] for one in report.mismatches)


def flip(fd: int, content: memoryview, offset: int) -> None:
    os.pwrite(fd, bytes(content[:-1]) + bytes([content[-1] ^ 1]), offset)


@pytest.mark.parametrize(
    ("name", "broken", "reason"),
    [
        ("pwrite_all", flip, "differs in chunk"),
        ("pwrite_all", lambda *_: None, "differs in chunk|bytes, not"),
        ("set_metadata", lambda *_, **__: [], "another"),
    ],
)
def test_a_drill_reads_back_what_a_restore_claims_to_have_written(
    repository: Repository,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    broken: Any,
    reason: str,
) -> None:
    monkeypatch.setattr(assembly, name, broken)
    report = drill(repository, repository.snapshots()[1], tmp_path, sample=0.3)
    assert not report.ok and len(report.mismatches) == report.files > 5
    assert all(
        any(part in one["reason"] for part in reason.split("|")) for one in report.mismatches
    )

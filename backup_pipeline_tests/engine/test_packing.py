"""Packing: rows wait for their content, threads for each other and nobody forever."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from backup_pipeline.engine.operations import packing
from backup_pipeline.engine.operations.restore import restore
from backup_pipeline.engine.store import Content
from backup_pipeline.engine.store.memory import MemoryStore
from backup_pipeline.sources import files
from backup_pipeline_tests.engine.repositories import back_up, make_repository


class SlowStore(MemoryStore):
    """Packs take their time, as they do on a network."""

    def put(self, name: str, content: Content) -> None:
        if "/packs/" in name:
            time.sleep(0.05)
        super().put(name, content)


def test_a_store_slower_than_the_packing_threads_only_slows_them_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "PACK_TARGET_BYTES", 1 << 20)
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "large").write_bytes(random.Random(1).randbytes(40 << 20))
    repository = make_repository(SlowStore())
    started = time.monotonic()
    snapshot = back_up(repository, tmp_path / "source")
    assert time.monotonic() - started < 20
    assert restore(repository, snapshot, tmp_path / "back").ok


def test_a_small_file_keeps_its_bytes_when_a_large_one_of_a_later_batch_is_done_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "BATCH_ROWS", 1)
    source = tmp_path / "source"
    source.mkdir()
    (source / "a small").write_bytes(b"few bytes")
    for number in range(8):
        (source / f"large {number}").write_bytes(random.Random(number).randbytes(9 << 20))
    repository = make_repository(MemoryStore())
    restore(repository, back_up(repository, source), tmp_path / "back")
    assert (tmp_path / "back" / "a small").read_bytes() == b"few bytes"


@pytest.mark.parametrize("solid", [True, False])
def test_where_files_are_not_solid_what_is_stored_says_nothing_of_neighbours(
    tmp_path: Path, solid: bool
) -> None:
    """Guesses at a secret beside it: with segments the right one takes less room, else the same."""
    secret = random.Random(1).randbytes(600).hex().encode()
    wrong = random.Random(2).randbytes(600).hex().encode()
    stored: list[int] = []
    for number, guess in enumerate((secret[:-1], wrong[:-1])):
        source = tmp_path / str(number)
        source.mkdir()
        (source / "secret").write_bytes(secret)
        (source / "guess").write_bytes(guess)
        repository = make_repository(MemoryStore())
        repository.solid = solid
        snapshot = back_up(repository, source)
        column = repository.manifest(snapshot).table.column("chunks").to_pylist()
        chunks = [chunk for chunks in column for chunk in chunks or ()]
        frames = {(one["pack"], one["ordinal"]): one["stored"] for one in chunks}
        assert len(frames) == (1 if solid else 2)
        stored.append(sum(frames.values()))
        assert restore(repository, snapshot, tmp_path / f"back {number}").ok
        assert (tmp_path / f"back {number}/guess").read_bytes() == guess
    right, other = stored
    assert right < other * 0.7 if solid else abs(right - other) < 8

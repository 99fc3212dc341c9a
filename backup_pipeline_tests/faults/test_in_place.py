"""A restore in place on a disk that is full, and across mounts: what was there is never lost."""

from __future__ import annotations

import random
import shutil
import subprocess
from pathlib import Path

import pytest

from backup_pipeline.engine.errors import BackupError
from backup_pipeline.engine.folders import SIDE_FOLDER
from backup_pipeline.engine.operations import in_place
from backup_pipeline.engine.operations.in_place import restore_in_place
from backup_pipeline.engine.operations.undo import undo
from backup_pipeline.engine.store.memory import MemoryStore
from backup_pipeline_tests.engine.repositories import back_up, make_repository
from backup_pipeline_tests.engine.trees import state_of
from backup_pipeline_tests.faults.mounts import BLOCK_BYTES, full_but_for, mounted_memory

MIB = 1 << 20
LEVELS = 24

pytestmark = pytest.mark.faults


def test_a_disk_that_fills_up_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1 << 50))
    monkeypatch.setattr(in_place, "settle", lambda: None)
    with mounted_memory(32 * MIB, 2000) as place:
        root = place / "tree"
        root.mkdir()
        for number in range(6):
            (root / f"file {number}").write_bytes(random.Random(number).randbytes(MIB))
        repository = make_repository(MemoryStore())
        snapshot = back_up(repository, root)
        wanted = state_of(root)
        for number in range(1, 6):
            (root / f"file {number}").write_bytes(random.Random(100 + number).randbytes(MIB))
        (root / "extra").write_text("mine")
        before = state_of(root)
        failed = 0
        for level in range(LEVELS):
            room = full_but_for(place, free_bytes=level * 6 * MIB // LEVELS // BLOCK_BYTES * 4096)
            if level % 4 == 3:
                room = full_but_for(place, files=level)
            with room:
                try:
                    restore_in_place(repository, snapshot, root, delete=True)
                except BackupError as error:
                    failed += 1
                    assert error.hint and "No space left" in error.message, error
            if level % 2:  # with room again it goes on
                assert restore_in_place(repository, snapshot, root, delete=True).ok
                found = {path: e for path, e in state_of(root).items() if path in wanted}
                assert found == wanted
            if (root / SIDE_FOLDER).exists():
                undo(root) if in_place.begun_in(root) else shutil.rmtree(root / SIDE_FOLDER)
            assert state_of(root) == before, level
        assert failed > LEVELS // 2


def test_what_lies_on_another_file_system_is_refused_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(in_place, "settle", lambda: None)
    root = tmp_path / "tree"
    (root / "inside").mkdir(parents=True)
    (root / "inside" / "file").write_text("one")
    repository = make_repository(MemoryStore())
    snapshot = back_up(repository, root)
    with mounted_memory(4 * MIB, 100) as other:
        shutil.rmtree(root / "inside")
        (other / "file").write_text("another")
        (root / "inside").mkdir()
        subprocess.run(["mount", "--bind", other, root / "inside"], check=True)
        try:
            with pytest.raises(BackupError, match="another file system"):
                restore_in_place(repository, snapshot, root)
            assert (root / "inside" / "file").read_text() == "another"
            undo(root)
            assert not (root / SIDE_FOLDER).exists()
        finally:
            subprocess.run(["umount", root / "inside"], check=True)

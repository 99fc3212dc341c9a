"""Large files: written past the page cache or through it, all bytes come to their places."""

from __future__ import annotations

import errno
import fcntl
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from backup_pipeline.engine.operations import assembly, window
from backup_pipeline.engine.operations.restore import restore
from backup_pipeline.engine.operations.window import Window
from backup_pipeline.engine.store.memory import MemoryStore
from backup_pipeline_tests.engine.repositories import back_up, make_repository

MIB = 1 << 20


def pieces_of(content: bytes, seed: int) -> list[tuple[int, bytes]]:
    """Pieces as packs hold them: of odd lengths, mostly in order."""
    chance, pieces, at = random.Random(seed), list[tuple[int, bytes]](), 0
    while at < len(content):
        size = chance.choice([1, 4096, 5000, 100_000, 1_500_000, 6_000_000])
        pieces.append((at, content[at : at + size]))
        at += size
    for _ in range(seed):
        one, other = chance.randrange(len(pieces)), chance.randrange(len(pieces))
        pieces[one], pieces[other] = pieces[other], pieces[one]
    return pieces


def refusing(pwrite: Callable[..., int]) -> Callable[..., int]:
    """``pwrite`` of a file system that does not write past the page cache."""

    def checked(fd: int, content: Any, offset: int) -> int:
        if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT:
            raise OSError(errno.EINVAL, "Invalid argument")
        return pwrite(fd, content, offset)

    return checked


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("refused", [False, True])
def test_pieces_in_any_order_make_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, refused: bool
) -> None:
    if refused:
        monkeypatch.setattr(window.os, "pwrite", refusing(os.pwrite))
    content = random.Random(seed).randbytes(21 * MIB + seed)
    place = tmp_path / "file"
    fd = os.open(place, os.O_RDWR | os.O_CREAT)
    try:
        os.ftruncate(fd, len(content))
        gathered = Window()
        for at, piece in pieces_of(content, seed):
            gathered.put(fd, memoryview(piece), at)
        gathered.flush(fd)
    finally:
        os.close(fd)
    assert place.read_bytes() == content


def test_large_files_side_by_side_are_restored_and_a_lost_one_is_taken_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assembly, "WINDOW_LEAST_BYTES", 1)
    repository, source = make_repository(MemoryStore()), tmp_path / "source"
    source.mkdir()
    shared = random.Random(0).randbytes(3 * MIB)
    for number in range(4):
        own = random.Random(number + 1).randbytes(5 * MIB + number)
        (source / f"{number}").write_bytes(shared + own)
    snapshot = back_up(repository, source)
    assert restore(repository, snapshot, tmp_path / "target").ok
    for number in range(4):
        name = f"{number}"
        assert (tmp_path / "target" / name).read_bytes() == (source / name).read_bytes()
    chunks = repository.manifest(snapshot).table["chunks"].to_pylist()[2]
    pack = repository.pack_path(chunks[-1]["pack"])
    content = bytearray(repository.store.get(pack))
    content[chunks[-1]["offset"]] ^= 1
    repository.store.heal(pack, content)
    report = restore(repository, snapshot, tmp_path / "again")
    assert [one["path"] for one in report.damage] == ["2"]
    assert sorted(os.listdir(tmp_path / "again")) == ["0", "1", "3"]
    assert (tmp_path / "again" / "3").read_bytes() == (source / "3").read_bytes()

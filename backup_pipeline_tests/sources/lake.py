"""A repository that keeps a table, for the tests of tables in a lake."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from backup_pipeline.engine.format.record import Snapshot
from backup_pipeline.engine.keys import PLAINTEXT
from backup_pipeline.engine.operations.backup import backup
from backup_pipeline.engine.operations.restore import restore
from backup_pipeline.engine.repository import Repository, unlock_store
from backup_pipeline.engine.store.memory import MemoryStore
from backup_pipeline.sources.base import Source
from backup_pipeline_tests.pages import DOCS, fences

__all__ = ["Keeper", "blocks", "run", "tree"]

ROOT = Path(__file__).parents[2]


class Keeper:
    """Backs a source up again and again, a full first and then incrementals."""

    def __init__(self) -> None:
        unlocked = unlock_store(MemoryStore(), [PLAINTEXT], create=True)
        self.repository: Repository = unlocked.create("lake/orders", tier="local")
        self.newest: Snapshot | None = None

    def back_up(self, source: Source) -> Snapshot:
        with closing(source):
            self.newest = backup(
                self.repository,
                source,
                day=datetime.now(UTC).date(),
                kind="incremental" if self.newest else "full",
                parent=self.newest,
            )
        return self.newest

    def restore(self, snapshot: Snapshot, to: Path) -> Path:
        assert restore(self.repository, snapshot, to).ok
        return to

    def paths(self, snapshot: Snapshot) -> list[str]:
        table = self.repository.manifest(snapshot).table
        return [path.decode() for path in table.column("path").to_pylist()]


def tree(root: Path) -> dict[str, tuple[bytes, int]]:
    """Every file below a directory with its bytes and its time of modification."""

    def files() -> Iterator[tuple[str, tuple[bytes, int]]]:
        for file in sorted(root.rglob("*")):
            if file.is_file():
                content = (file.read_bytes(), file.stat().st_mtime_ns)
                yield file.relative_to(root).as_posix(), content

    return dict(files())


def blocks(page: str, language: str) -> list[str]:
    """The blocks of code in one language that a page of the documentation shows."""
    return [code for shown, code in fences((DOCS / page).read_text()) if shown == language]


def run(*arguments: str) -> str:
    """Run a command as a user does, and give back what it said."""
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *arguments]
    ended = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout

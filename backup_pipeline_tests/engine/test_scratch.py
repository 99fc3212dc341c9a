"""Plaintext that a run needed for a while is gone after it, also if it was killed."""

from __future__ import annotations

import errno
import fcntl
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from backup_pipeline.engine.scratch import ScratchFolder

HOLDS = """
import sys, time
from pathlib import Path
from backup_pipeline.engine.scratch import ScratchFolder
folder = ScratchFolder(Path(sys.argv[1]))
(folder.path / "deep").mkdir()
(folder.path / "deep" / "secret").write_text("plaintext")
print(folder.path, flush=True)
time.sleep(60)
"""


def texts(root: Path) -> list[str]:
    """The names of all files below a folder."""
    return sorted(path.name for path in root.rglob("secret"))


def test_what_a_killed_process_left_is_deleted_by_the_next_and_nothing_else(tmp_path: Path) -> None:
    own = tmp_path / "backup-pipeline-scratch-mine"
    own.mkdir()
    (own / "secret").write_text("a user's, who took a name like ours")
    other = subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert other.stdout is not None
    place = Path(other.stdout.readline().strip())
    with closing(ScratchFolder(tmp_path)) as mine:
        assert texts(tmp_path) == ["secret", "secret"], "the other one still uses its folder"
        (mine.path / "secret").write_text("plaintext")
        assert mine.path.parent.stat().st_mode & 0o077 == 0, "nobody else can read it"
        other.send_signal(signal.SIGKILL)
        other.wait()
        other.stdout.close()
        assert place.is_dir()
        with closing(ScratchFolder(tmp_path)):
            assert not place.exists()
            assert (mine.path / "secret").exists()
    assert [path.parent for path in tmp_path.rglob("secret")] == [own]


def test_where_there_are_no_locks_nothing_is_deleted_but_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(fcntl, "flock", refused)
    with closing(ScratchFolder(tmp_path)) as first:
        (first.path / "secret").write_text("plaintext")
        with closing(ScratchFolder(tmp_path)):
            assert texts(tmp_path) == ["secret"]
        monkeypatch.undo()
        with closing(ScratchFolder(tmp_path)):
            assert texts(tmp_path) == ["secret"], "it was never marked"
    assert not list(tmp_path.iterdir())

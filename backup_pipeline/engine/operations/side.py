"""The folder in which a restore in place keeps what it needs to finish, and to be undone.

It lies in the folder that is restored, for there a rename is all it takes to move something aside:

    state.json     which restore this is, and how far it came; replaced as a whole
    steps.jsonl    what it will do, with what was; written before the first step
    new/           what was restored and is not in its place yet
    old/           what it replaced or removed
    since/         what was changed after the restore and was in the way of undoing it

The phases are ``staging`` (nothing but this folder was changed), ``moving`` (steps are done, or
will be), ``done`` (all is in its place, what was is kept), ``undoing``, ``undone`` (but something
lies in ``since/``) and ``dropping`` (this folder goes). A process that ends at any point leaves one
of them, and the next goes on from there.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import stat
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from backup_pipeline.engine.errors import BackupError, UsageError
from backup_pipeline.engine.folders import SIDE_FOLDER

__all__ = ["Begun", "Side", "Step", "begun_in"]

STATE_VERSION = 1
Step = dict[str, Any]
"""What is done at a ``path``: ``do`` (``folder``, ``place``, ``aside`` or ``meta``), and more."""


@dataclass(slots=True)
class Begun:
    """A restore in place that was begun.

    Attributes:
        phase: How far it came.
        dataset: The dataset's key.
        tier: Where the snapshot is.
        snapshot: Its id.
        day: The day it stands for.
        asked: What was asked for, to know the same command again.
        root_made: Whether the folder was not there before.
        root_mtime_ns: When it had been modified; None where it was not there.
        kept_files: Files kept aside.
        kept_bytes: Their bytes.
        verified: Whether the new state was read back and found right.
        ended: How it ended, once it is ``dropping``: ``undone`` or ``accepted``.
    """

    phase: str
    dataset: str
    tier: str
    snapshot: str
    day: str
    asked: dict[str, Any]
    root_made: bool = False
    root_mtime_ns: int | None = None
    kept_files: int = 0
    kept_bytes: int = 0
    verified: bool = False
    ended: str = ""
    version: int = field(default=STATE_VERSION)


def begun_in(root: Path) -> Begun | None:
    """The restore in place that was begun in a folder and is neither undone nor accepted.

    Raises:
        BackupError: Its state cannot be read.
    """
    path = root / SIDE_FOLDER / "state.json"
    try:
        said = json.loads(path.read_bytes())
        if said["version"] > STATE_VERSION:
            raise BackupError(
                f"{path} was written by a later version of backup-pipeline",
                "finish or undo that restore with the version that began it",
            )
        known = {one.name for one in fields(Begun)}
        return Begun(**{name: value for name, value in said.items() if name in known})
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise BackupError(
            f"{path} cannot be read: {error.strerror}",
            "a restore in place was begun here, perhaps by another user: run this as that user",
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise BackupError(
            f"{path} is no state of a restore in place: {error!r}",
            f"look into {path.parent}: what was replaced lies below old/",
        ) from None


class Side:
    """The folder, held by one process at a time.

    Args:
        root: The folder that is restored.
        create: Whether to make it.

    Raises:
        UsageError: Another process is at work there.
    """

    def __init__(self, root: Path, *, create: bool = False) -> None:
        self.root = root
        self.path = root / SIDE_FOLDER
        self.new, self.old, self.since = (self.path / name for name in ("new", "old", "since"))
        if create:
            with suppress(FileExistsError):
                self.path.mkdir(0o700)
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        self._fd = os.open(self.path, flags)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            raise UsageError(
                f"another restore in place is at work in {root}",
                "wait for it; if it hangs, end it and run the command again",
            ) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let another process have it."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def write_state(self, begun: Begun) -> None:
        """Make it durable how far the restore came."""
        self._write("state.json", json.dumps(asdict(begun)).encode())

    def write_steps(self, steps: Iterable[Step]) -> None:
        """Make it durable what will be done."""
        self._write("steps.jsonl", b"".join(json.dumps(one).encode() + b"\n" for one in steps))

    def _write(self, name: str, content: bytes) -> None:
        path = self.path / (name + ".tmp")
        with path.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(path, self.path / name)
        os.fsync(self._fd)

    def steps(self) -> list[Step]:
        """What will be done, or was."""
        text = (self.path / "steps.jsonl").read_bytes()
        return [json.loads(line) for line in text.splitlines()]

    def has_since(self) -> bool:
        """Whether something is kept that was changed after the restore."""
        return self.since.is_dir() and any(self.since.iterdir())

    def drop(self, *, also_since: bool = True) -> None:
        """Remove the folder; the state goes last, so that an interrupted removal can go on."""
        for place in (self.new, self.old, *([self.since] if also_since else [])):
            _remove_tree(place)
        if not also_since and self.has_since():
            return
        for name in ("steps.jsonl", "steps.jsonl.tmp", "state.json.tmp", "state.json"):
            with suppress(FileNotFoundError):
                (self.path / name).unlink()
        with suppress(FileNotFoundError):
            self.path.rmdir()


def _remove_tree(place: Path) -> None:
    """Remove a tree, also below folders that its owner may not write to."""
    if not place.exists():
        return
    if os.geteuid() != 0:
        for folder, names, _ in os.walk(place):
            for name in names:
                path = os.path.join(folder, name)
                if stat.S_ISDIR(os.lstat(path).st_mode):
                    os.chmod(path, 0o700)
    shutil.rmtree(place)

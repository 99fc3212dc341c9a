"""File systems of a test's own: small ones in memory, and ones on a disk that can lose its power.

Only root may mount; elsewhere the tests that need it are skipped and say so.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

__all__ = ["Disk", "full_but_for", "lose_power", "mounted_disk", "mounted_memory"]

# linux/fs.h and fs/ext4/ext4.h: what `xfs_io -x -c shutdown` asks for. Nothing is flushed first.
_SHUTDOWN = 0x8004587D
_NO_FLUSH = struct.pack("I", 2)
BLOCK_BYTES = 4096


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip()}")


def _require_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root, to mount file systems")


@contextmanager
def mounted_memory(size_bytes: int, files: int) -> Iterator[Path]:
    """A file system in memory with room for so many bytes, files and folders."""
    _require_root()
    with tempfile.TemporaryDirectory(prefix="backup-pipeline-memory-") as place:
        try:
            _run(
                "mount", "-t", "tmpfs", "-o", f"size={size_bytes},nr_inodes={files}", "none", place
            )
        except OSError as error:
            pytest.skip(f"needs to mount a file system: {error}")
        try:
            yield Path(place)
        finally:
            _unmount(Path(place))


@contextmanager
def full_but_for(
    place: Path, *, free_bytes: int | None = None, files: int | None = None
) -> Iterator[None]:
    """Fill a file system, but for so many bytes, or files, while within it."""
    ballast = place / "ballast"
    ballast.mkdir()
    try:
        if files is not None:
            _take_files(ballast, os.statvfs(place).f_ffree - files)
        if free_bytes is not None:
            _take_bytes(ballast / "bytes", os.statvfs(place), free_bytes)
        yield
    finally:
        shutil.rmtree(ballast)


def _take_files(ballast: Path, count: int) -> None:
    for number in range(count):
        (ballast / str(number)).touch()


def _take_bytes(file: Path, found: os.statvfs_result, free_bytes: int) -> None:
    size = max(0, found.f_bavail * found.f_bsize - free_bytes)
    with file.open("wb") as ballast:
        try:
            os.posix_fallocate(ballast.fileno(), 0, max(1, size // BLOCK_BYTES * BLOCK_BYTES))
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise


class Disk:
    """An ext4 file system in an image, which can be plugged in and lose its power.

    Attributes:
        place: Where it is mounted.
    """

    def __init__(self, folder: Path, size_bytes: int) -> None:
        self._image = folder / "disk.img"
        self.place = folder / "disk"
        self.place.mkdir()
        with self._image.open("wb") as image:
            image.truncate(size_bytes)
        _run("mkfs.ext4", "-q", os.fspath(self._image))
        self.plug_in()

    def plug_in(self) -> None:
        """Mount it, after whatever happened."""
        _run("mount", "-o", "loop", os.fspath(self._image), os.fspath(self.place))

    def pull_out(self) -> None:
        """Unmount it and let its loop device go; fine where it is not mounted."""
        if os.path.ismount(self.place):
            _unmount(self.place)


@contextmanager
def mounted_disk(size_bytes: int) -> Iterator[Disk]:
    """A disk; unmounted and gone afterwards in any case."""
    _require_root()
    if shutil.which("mkfs.ext4") is None:
        pytest.skip("needs mkfs.ext4 (Debian's package e2fsprogs)")
    with tempfile.TemporaryDirectory(prefix="backup-pipeline-disk-") as folder:
        try:
            disk = Disk(Path(folder), size_bytes)
        except OSError as error:
            pytest.skip(f"needs loop devices: {error}")
        try:
            yield disk
        finally:
            disk.pull_out()


def lose_power(place: Path) -> None:
    """Shut a mounted file system down at once: what was not synced never reaches its disk."""
    fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.ioctl(fd, _SHUTDOWN, _NO_FLUSH)
    finally:
        os.close(fd)


def _unmount(place: Path) -> None:
    try:
        _run("umount", os.fspath(place))
    except OSError:
        _run("umount", "--lazy", os.fspath(place))

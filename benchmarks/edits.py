"""Changing one per cent of a data set, and putting it back as it was."""

from __future__ import annotations

import os
import random
import shutil
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measure import tree_files

__all__ = ["Changed", "Edits"]

MIB = 1024 * 1024
SHARE = 0.01
RUN_BYTES = 64 * 1024  # bytes that change in place lie together in runs of this size
INSERTED_MIB = 20
GROWING = "measurements.csv"
GREW, OVERWRITTEN = ".grew", ".overwritten"  # in this order by name


@dataclass(frozen=True, slots=True)
class Changed:
    """What a change comes to.

    Attributes:
        files: How many files differ.
        bytes: Their sizes, added up: a backup has to read them to see what in them differs.
        new_bytes: What is in them that was not there before.
    """

    files: int
    bytes: int
    new_bytes: int


class Edits:
    """The seeded change of one data set.

    Args:
        in_place: Change 1 % of all bytes in place, and insert 20 MiB (times the scale) at the
            front of the 500 MiB file; else write 1 % of the files anew.
        folder: The data set.
        saved: Where what is overwritten is kept.
        scale: The data set's.
    """

    def __init__(self, in_place: bool, folder: Path, saved: Path, scale: float) -> None:
        self._in_place = in_place
        self._folder = folder
        self._saved = saved
        self._scale = scale

    def apply(self) -> Changed:
        """Change the data set; what is overwritten is kept first."""
        chance = random.Random(3)
        new_bytes = 0
        paths = self._paths()
        for path in paths:
            kept = self._saved / path.relative_to(self._folder)
            kept.parent.mkdir(parents=True, exist_ok=True)
            if self._in_place:
                new_bytes += self._change_in_place(path, kept, chance)
            else:
                shutil.copyfile(path, kept)
                size = path.stat().st_size
                path.write_bytes(chance.randbytes(size))
                new_bytes += size
        return Changed(len(paths), sum(path.stat().st_size for path in paths), new_bytes)

    def revert(self) -> None:
        """Put every changed file back, also after an interrupted run."""
        if not self._saved.is_dir():
            return
        # Files that grew come back whole before what was overwritten in them does.
        kept_files = sorted(map(Path, tree_files(self._saved)), key=lambda path: path.suffix)
        for kept in kept_files:
            path = self._folder / kept.relative_to(self._saved)
            if not self._in_place:
                shutil.copyfile(kept, path)
            elif kept.suffix == GREW:
                kept.replace(path.with_suffix(""))
            else:
                _put_back(path.with_suffix(""), kept)
        shutil.rmtree(self._saved)

    def _paths(self) -> list[Path]:
        found = [name for name in tree_files(self._folder) if not os.path.islink(name)]
        if not self._in_place:
            found = random.Random(4).sample(found, max(1, int(len(found) * SHARE)))
        return [Path(name) for name in found]

    def _change_in_place(self, path: Path, kept: Path, chance: random.Random) -> int:
        """Overwrite runs of a file, of which the old content goes beside ``kept``."""
        size = path.stat().st_size
        length = min(size, RUN_BYTES)
        count = max(1, int(size * SHARE / RUN_BYTES))
        runs = kept.with_name(f"{kept.name}{OVERWRITTEN}")
        with path.open("r+b") as file, runs.open("wb") as out:
            for _ in range(count):
                start = chance.randrange(max(1, size - RUN_BYTES))
                file.seek(start)
                old = file.read(length)
                out.write(start.to_bytes(8, "big") + old)
                out.flush()
                file.seek(start)
                file.write(chance.randbytes(len(old)))
                file.flush()
        if path.name != GROWING:
            return count * length
        inserted = int(INSERTED_MIB * MIB * self._scale)
        grown = path.with_suffix(".grown")
        with grown.open("wb") as out, path.open("rb") as old:
            out.write(chance.randbytes(inserted // 2).hex().encode()[:inserted])
            shutil.copyfileobj(old, out, 4 * MIB)
        path.replace(kept.with_name(f"{kept.name}{GREW}"))
        grown.replace(path)
        return count * length + inserted


def _put_back(path: Path, runs: Path) -> None:
    """Undo changes in place, the newest first, for runs may overlap."""
    size = path.stat().st_size
    step = 8 + min(size, RUN_BYTES)
    with path.open("r+b") as file, runs.open("rb") as kept:
        for number in reversed(range(runs.stat().st_size // step)):
            kept.seek(number * step)
            start = int.from_bytes(kept.read(8), "big")
            file.seek(start)
            file.write(kept.read(step - 8))

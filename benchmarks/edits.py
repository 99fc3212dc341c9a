"""Changing one per cent of a data set, and putting it back as it was."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

__all__ = ["Edits"]

MIB = 1024 * 1024
SHARE = 0.01
RUN_BYTES = 64 * 1024  # bytes that change in place lie together in runs of this size
INSERTED_MIB = 20
GROWING = "measurements.csv"


class Edits:
    """The seeded change of one data set.

    Args:
        kind: ``large``: 1 % of all bytes in place, and 20 MiB (times the scale) inserted at the
            front of the 500 MiB file; ``small``: 1 % of the files written anew.
        folder: The data set.
        saved: Where the originals of what changes are kept.
        scale: The data set's.
    """

    def __init__(self, kind: str, folder: Path, saved: Path, scale: float) -> None:
        self._kind = kind
        self._folder = folder
        self._saved = saved
        self._scale = scale

    def apply(self) -> None:
        """Change the data set; the originals are kept first."""
        paths = self._paths()
        for path in paths:
            kept = self._saved / path.relative_to(self._folder)
            kept.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, kept)
        chance = random.Random(3)
        for path in paths:
            if self._kind == "large":
                self._change_in_place(path, chance)
            else:
                path.write_bytes(chance.randbytes(path.stat().st_size))

    def revert(self) -> None:
        """Put every changed file back, also after an interrupted run."""
        if not self._saved.is_dir():
            return
        for folder, _, names in os.walk(self._saved):
            for name in names:
                kept = Path(folder, name)
                shutil.copyfile(kept, self._folder / kept.relative_to(self._saved))
        shutil.rmtree(self._saved)

    def _paths(self) -> list[Path]:
        found = sorted(path for path in self._folder.rglob("*") if path.is_file())
        if self._kind == "large":
            return found
        return random.Random(4).sample(found, max(1, int(len(found) * SHARE)))

    def _change_in_place(self, path: Path, chance: random.Random) -> None:
        size = path.stat().st_size
        with path.open("r+b") as file:
            for _ in range(max(1, int(size * SHARE / RUN_BYTES))):
                file.seek(chance.randrange(max(1, size - RUN_BYTES)))
                file.write(chance.randbytes(min(size, RUN_BYTES)))
        if path.name == GROWING:
            inserted = int(INSERTED_MIB * MIB * self._scale)
            grown = path.with_suffix(".grown")
            with grown.open("wb") as out, path.open("rb") as old:
                out.write(chance.randbytes(inserted // 2).hex().encode()[:inserted])
                shutil.copyfileobj(old, out, 4 * MIB)
            grown.replace(path)

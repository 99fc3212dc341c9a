"""Sixty days of a dataset's normal life, and what an attack or an accident does to it.

One tree has it all: images that come in daily with their labels, corrections of labels in a burst
each Friday, tables exported anew each night and once (explained) from scratch, a cache that comes
and goes, and a new model each Monday with the last ones kept beside it.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Mapping
from datetime import date, timedelta
from pathlib import Path

import numpy as np

__all__ = ["ATTACKS", "FIRST_DAY", "NEW_EXPORT_DAY", "Life"]

FIRST_DAY = date(2026, 9, 2)  # a Wednesday
NEW_EXPORT_DAY = 33
FRIDAY, MONDAY = 4, 0
KEPT_MODELS = 3
_WORDS = [
    "cat",
    "dog",
    "car",
    "tree",
    "road",
    "house",
    "sign",
    "person",
    "bicycle",
    "river",
    "bird",
    "boat",
]


class Life:
    """A tree that lives day by day.

    Args:
        root: A folder that is made.
        seed: Of all chance.
        images: How many there are at first.
        tables: How many are exported.
    """

    def __init__(self, root: Path, seed: int, *, images: int = 120, tables: int = 4) -> None:
        self.root = root
        self.rng = random.Random(seed)
        self.day = 0
        self._named = 0
        self._rows = [self.rng.randint(1200, 3000) for _ in range(tables)]
        for folder in ("images", "labels", "export", "cache", "model"):
            (root / folder).mkdir(parents=True)
        for _ in range(images):
            self._image()
        self._export(fresh=False)
        self._model()
        self._cache()

    @property
    def date(self) -> date:
        """The day that it is."""
        return FIRST_DAY + timedelta(days=self.day)

    @property
    def explained(self) -> bool:
        """Whether upstream was materialized on this day."""
        return self.day == NEW_EXPORT_DAY

    def live(self) -> None:
        """Let a day pass."""
        self.day += 1
        for _ in range(self.rng.randint(0, 5)):
            self._image()
        labels = self.files("labels")
        burst = self.rng.uniform(0.1, 0.25) if self.date.weekday() == FRIDAY else 0.01
        for path in self.rng.sample(labels, int(burst * len(labels))):
            self._label(path)
        if self.rng.random() < 0.3:  # somebody throws a bad image out
            gone = self.rng.choice(self.files("images"))
            gone.unlink()
            (self.root / "labels" / f"{gone.stem}.json").unlink()
        self._export(fresh=self.explained)
        self._cache()
        if self.date.weekday() == MONDAY:
            self._model()

    def files(self, folder: str = "") -> list[Path]:
        """All files, or those of one folder."""
        return sorted(path for path in (self.root / folder).rglob("*") if path.is_file())

    def _image(self) -> None:
        self._named += 1
        content = b"\xff\xd8\xff\xe0" + self.rng.randbytes(self.rng.randint(1500, 5000))
        (self.root / "images" / f"{self._named:05}.jpg").write_bytes(content)
        self._label(self.root / "labels" / f"{self._named:05}.json")

    def _label(self, path: Path) -> None:
        boxes = [
            {"name": self.rng.choice(_WORDS), "box": [self.rng.randint(0, 640) for _ in range(4)]}
            for _ in range(self.rng.randint(2, 8))
        ]
        path.write_text(json.dumps({"image": path.stem, "boxes": boxes}, indent=1))

    def _export(self, *, fresh: bool) -> None:
        """Each table anew and a little longer; from scratch, with other columns."""
        for number, rows in enumerate(self._rows):
            rows = int(rows * self.rng.uniform(0.75, 1.2)) if fresh else rows + rows // 100
            self._rows[number] = rows
            text = "".join(
                f"{row};{self.rng.choice(_WORDS)};{self.rng.random():.4f}\n" for row in range(rows)
            )
            (self.root / "export" / f"table{number}.csv").write_text(text)

    def _cache(self) -> None:
        for path in self.files("cache"):
            path.unlink()
        for _ in range(self.rng.randint(1, 4)):
            path = self.root / "cache" / f"{self.rng.getrandbits(32):08x}.tmp"
            path.write_bytes(self.rng.randbytes(200))

    def _model(self) -> None:
        """New weights under the model's name, and under the day's."""
        count = self.rng.randint(18_000, 22_000)
        weights = np.random.default_rng(self.rng.getrandbits(32)).normal(size=count)
        content = weights.astype(np.float32).tobytes()
        (self.root / "model" / "weights.bin").write_bytes(content)
        (self.root / "model" / f"weights.{self.date}").write_bytes(content)
        for old in sorted((self.root / "model").glob("weights.2*"))[:-KEPT_MODELS]:
            old.unlink()


def encrypt_some(life: Life, rng: random.Random) -> None:
    """Five per cent of the files, under their own names."""
    files = life.files()
    for path in rng.sample(files, max(1, round(0.05 * len(files)))):
        path.write_bytes(rng.randbytes(path.stat().st_size + 32))


def encrypt_and_rename(life: Life, rng: random.Random) -> None:
    """Five per cent of the files, under new names."""
    files = life.files()
    for path in rng.sample(files, max(1, round(0.05 * len(files)))):
        path.with_name(path.name + ".locked").write_bytes(rng.randbytes(path.stat().st_size))
        path.unlink()


def delete_some(life: Life, rng: random.Random) -> None:
    """Twenty per cent of the files."""
    files = life.files()
    for path in rng.sample(files, round(0.2 * len(files))):
        path.unlink()


def rename_all(life: Life, rng: random.Random) -> None:
    """Every file gets a new suffix; what they hold stays."""
    del rng
    for path in life.files():
        path.rename(path.with_name(path.name + ".enc"))


def truncate_export(life: Life, rng: random.Random) -> None:
    """One table was exported by half."""
    path = rng.choice(life.files("export"))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def blank_model(life: Life, rng: random.Random) -> None:
    """The model's weights are zeros."""
    del rng
    path = life.root / "model" / "weights.bin"
    path.write_bytes(bytes(path.stat().st_size))


ATTACKS: Mapping[str, Callable[[Life, random.Random], None]] = {
    "encrypt 5 % of the files": encrypt_some,
    "encrypt 5 % and rename them": encrypt_and_rename,
    "delete 20 %": delete_some,
    "rename all to a new suffix": rename_all,
    "truncate one export to half": truncate_export,
    "replace the model by zeros": blank_model,
}
"""What each is called in the table of docs/how-to/anomalies.md."""


def kept_aside(life: Life, aside: Path, change: Callable[[], None]) -> None:
    """Do something to a tree and put it back as it was."""
    shutil.copytree(life.root, aside, symlinks=True)
    try:
        change()
    finally:
        shutil.rmtree(life.root)
        aside.rename(life.root)

"""What is measured: the data sets, the rows of each, who takes part, and how often."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["ROWS", "SETS", "DataSet"]

ROWS = {
    "first": "first backup",
    "no-change": "no change",
    "changed": "1 % changed",
    "snapshots": "list snapshots",
    "verify": "verify all data",
    "restore": "restore",
    "restore-one": "restore one file",
}
"""Every row by its title, in the order in which a round runs them."""

_EVERYTHING = tuple(ROWS)
_EVERYONE = ("ours", "restic", "borg", "rclone")


@dataclass(frozen=True, slots=True)
class DataSet:
    """One data set and what is done with it.

    Attributes:
        title: For the table.
        generator: What makes it, see ``datasets``.
        scale: Of the generator.
        rows: Keys of ``ROWS``.
        tools: Who takes part unless the command line says otherwise.
        rounds: How often, unless the command line says otherwise.
        store: Where the repositories lie.
        growth: It is a point of this plot, at this place on its axis. Our own requests to the
            store are counted then.
        transient: The data is deleted after a run, and the tools come one after the other with
            all their rows, for it is big.
        warm: It stays in the page cache, into which it is read before it is backed up.
    """

    title: str
    generator: Literal["large", "small", "tiny", "source"]
    scale: float = 1.0
    rows: tuple[str, ...] = _EVERYTHING
    tools: tuple[str, ...] = _EVERYONE
    rounds: int = 5
    store: Literal["folder", "s3"] = "folder"
    growth: tuple[Literal["files", "bytes"], float] | None = None
    transient: bool = False
    warm: bool = True

    @property
    def in_place(self) -> bool:
        """Its files change in place; else whole files are written anew."""
        return self.generator == "large"


_TO_S3 = {"rows": ("first", "no-change", "restore"), "tools": ("ours", "restic"), "store": "s3"}
_GROWTH = {
    "rows": ("first", "no-change", "changed"),
    "tools": ("ours", "restic"),
    "rounds": 3,
    "transient": True,
}

SETS: dict[str, DataSet] = {
    "large": DataSet("2 GiB of large mixed files", "large"),
    "small": DataSet("100,000 small files", "small"),
    "source": DataSet("A source tree: Debian's linux-source, unpacked", "source"),
    "million": DataSet(
        "1,000,000 very small files",
        "tiny",
        rows=("first", "no-change", "changed"),
        tools=("ours", "restic", "borg"),
        rounds=3,
        growth=("files", 1_000_000),
        transient=True,
        warm=False,
    ),
    "large-s3": DataSet("2 GiB of large mixed files, to S3", "large", **_TO_S3),
    "small-s3": DataSet("100,000 small files, to S3", "small", **_TO_S3),
    "files-10k": DataSet(
        "10,000 very small files", "tiny", 0.01, growth=("files", 10_000), **_GROWTH
    ),
    "files-100k": DataSet(
        "100,000 very small files", "tiny", 0.1, growth=("files", 100_000), **_GROWTH
    ),
    "bytes-1g": DataSet("1 GiB", "large", 0.5, growth=("bytes", 1), **_GROWTH),
    "bytes-4g": DataSet("4 GiB", "large", 2.0, growth=("bytes", 4), **_GROWTH),
    "bytes-16g": DataSet("16 GiB", "large", 8.0, growth=("bytes", 16), **_GROWTH),
}
"""Every data set by name; ``chain`` is measured apart, see ``chain``."""

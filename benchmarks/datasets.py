"""The data that is backed up: seeded, so that every run of the same scale reads the same bytes.

Run as ``python -m benchmarks.datasets GENERATOR FOLDER SCALE CACHE`` in a process of its own,
which keeps numpy out of the process that measures.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from benchmarks.installing import debian_package

__all__ = ["GENERATORS", "make"]

MIB = 1024 * 1024
SMALL_FILES = 100_000
FILES_PER_FOLDER = 100
MEDIAN_SMALL_BYTES = 2048
SPREAD = 1.2  # of the logarithm of a small file's size: mean about 4 KiB, a few above 100 KiB
TINY_FILES = 1_000_000
TINY_FILES_PER_FOLDER = 500
MEDIAN_TINY_BYTES = 700
TINY_SPREAD = 0.8  # mean about 1 KiB
BLOCK_BYTES = 16 * MIB
SOURCE_PACKAGE, SOURCE_SUITE = "linux-source-6.12", "trixie"
SOURCE_MEMBERS = 92_000  # about so many: what a scale is a share of

Random = np.random.Generator


def _table(random: Random, rows: int) -> pa.Table:
    """Measurements as a sensor or a shop would log them."""
    minutes = np.cumsum(random.integers(0, 90, rows)) + 1_700_000_000
    return pa.table(
        {
            "time": pa.array(minutes).cast(pa.timestamp("s")),
            "device": random.integers(0, 4000, rows),
            "temperature": np.round(random.normal(21, 4, rows), 2),
            "pressure": np.round(random.normal(1013, 9, rows), 1),
            "amount": random.integers(1, 100_000, rows),
            "status": pa.array(["ok", "late", "lost"]).take(
                pa.array(random.choice(3, rows, p=[0.94, 0.05, 0.01]))
            ),
        }
    )


def _csv(random: Random) -> bytes:
    sink = pa.BufferOutputStream()
    pyarrow.csv.write_csv(_table(random, 260_000), sink)
    return sink.getvalue().to_pybytes()


def _log_lines(random: Random, rows: int) -> bytes:
    words = [
        "request",
        "served",
        "cached",
        "retried",
        "user",
        "session",
        "token",
        "queue",
        "closed",
    ]
    phrases = pa.array([" ".join(random.choice(words, 5)) for _ in range(500)])
    levels = pa.array(["INFO", "WARN", "DEBUG"])
    columns = [
        pa.array(np.cumsum(random.integers(0, 3000, rows)) + 1_700_000_000_000).cast(pa.string()),
        levels.take(pa.array(random.choice(3, rows, p=[0.8, 0.1, 0.1]))),
        phrases.take(pa.array(random.integers(0, 500, rows))),
        pa.array(random.integers(0, 1 << 40, rows)).cast(pa.string()),
        pa.array(random.integers(0, 2000, rows)).cast(pa.string()),
    ]
    lines = pc.binary_join_element_wise(*columns, " ")
    return b"\n".join(lines.to_numpy(zero_copy_only=False).astype("S")) + b"\n"


def _float32(random: Random) -> bytes:
    """Images as tensors: 8-bit pixels that vary slowly, divided by 255."""
    walk = np.cumsum(random.integers(-2, 3, BLOCK_BYTES // 4), dtype=np.int64)
    return ((walk % 256).astype(np.float32) / 255).tobytes()


def _float16(random: Random) -> bytes:
    """A model's weights."""
    return random.normal(0, 0.02, BLOCK_BYTES // 2).astype(np.float16).tobytes()


def _parquet(random: Random, path: Path, size: int) -> None:
    with pa.parquet.ParquetWriter(path, _table(random, 1).schema, compression="snappy") as writer:
        while path.stat().st_size < size:
            writer.write_table(_table(random, 500_000))


# Name, share of the whole in MiB of 2048, and how a block of it is made.
_LARGE: dict[str, tuple[int, Callable[[Random], bytes]]] = {
    "measurements.csv": (500, _csv),
    "images.f32": (400, _float32),
    "weights.f16": (300, _float16),
    "encrypted.bin": (248, lambda random: random.bytes(BLOCK_BYTES)),
    "service.log": (250, lambda random: _log_lines(random, 220_000)),
}
_PARQUET_MIB = 350


def _large(folder: Path, scale: float) -> None:
    for number, (name, (mib, block)) in enumerate(_LARGE.items()):
        random = np.random.default_rng([1, number])
        left = int(mib * MIB * scale)
        with (folder / name).open("wb") as out:
            while left:
                left -= out.write(block(random)[:left])
    random = np.random.default_rng([1, len(_LARGE)])
    _parquet(random, folder / "orders.parquet", int(_PARQUET_MIB * MIB * scale))


def _small(folder: Path, scale: float) -> None:
    """Files as in a source tree or a folder of documents: text, records, a few random bytes."""
    random = np.random.default_rng([2])
    count = int(SMALL_FILES * scale)
    pool = _log_lines(random, 500_000) + _csv(random) + random.bytes(8 * MIB)
    sizes = (MEDIAN_SMALL_BYTES * np.exp(random.normal(0, SPREAD, count))).astype(int)
    starts = random.integers(0, len(pool) - int(sizes.max()), count)
    for number in range(count):
        if number % FILES_PER_FOLDER == 0:
            below = folder / f"{number // 10_000:03d}" / f"{number // FILES_PER_FOLDER:05d}"
            below.mkdir(parents=True)
        start = int(starts[number])
        # A line of its own at the top: no two files are the same, as none of them are in life.
        content = b"%016d\n" % number + pool[start : start + int(sizes[number])]
        (below / f"entry-{number:06d}.txt").write_bytes(content)


def _tiny(folder: Path, scale: float) -> None:
    """Very many very small files: labels, thumbnails, rows as documents."""
    random = np.random.default_rng([3])
    count = int(TINY_FILES * scale)
    pool = _log_lines(random, 300_000) + _csv(random)
    sizes = (MEDIAN_TINY_BYTES * np.exp(random.normal(0, TINY_SPREAD, count))).astype(int)
    starts = random.integers(0, len(pool) - int(sizes.max()), count)
    below = folder
    for number, (size, start) in enumerate(zip(sizes.tolist(), starts.tolist(), strict=True)):
        if number % TINY_FILES_PER_FOLDER == 0:
            below = folder / f"{number // 50_000:02d}" / f"{number // TINY_FILES_PER_FOLDER:04d}"
            below.mkdir(parents=True)
        out = os.open(f"{below}/{number:07d}.json", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        os.write(out, b"%016d\n" % number + pool[start : start + size])
        os.close(out)


def _source(folder: Path, scale: float, cache: Path) -> None:
    """The kernel's source as Debian packs it, or as much of it as the scale says."""
    package = debian_package(cache, SOURCE_PACKAGE, SOURCE_SUITE)
    unpack = subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(package)], stdout=subprocess.PIPE)
    assert unpack.stdout is not None
    most = int(SOURCE_MEMBERS * scale) if scale < 1 else None
    with tarfile.open(fileobj=unpack.stdout, mode="r|") as outer:
        for member in outer:
            if member.name.endswith(".tar.xz"):
                inner = outer.extractfile(member)
                with tarfile.open(fileobj=inner, mode="r|xz") as tree:
                    for count, entry in enumerate(tree):
                        if count == most:
                            break
                        tree.extract(entry, folder, filter="tar")
                break
    unpack.kill()
    unpack.wait()


GENERATORS: dict[str, Callable[[Path, float, Path], None]] = {
    "large": lambda folder, scale, cache: _large(folder, scale),
    "small": lambda folder, scale, cache: _small(folder, scale),
    "tiny": lambda folder, scale, cache: _tiny(folder, scale),
    "source": _source,
}


def make(generator: str, folder: Path, scale: float, cache: Path) -> None:
    """Make a data set.

    Args:
        generator: ``large``, ``small``, ``tiny`` or ``source``.
        folder: Where to; it must not be there.
        scale: 1 for 2 GiB, 100,000 files, 1,000,000 files, or the whole source.
        cache: Keeps what is fetched.
    """
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    unfinished.mkdir(parents=True)
    GENERATORS[generator](unfinished, scale, cache)
    unfinished.rename(folder)


if __name__ == "__main__":
    make(sys.argv[1], Path(sys.argv[2]), float(sys.argv[3]), Path(sys.argv[4]))

"""zstd with its levels and with our tables, on the data: ``python -m benchmarks.tables``.

Prints MB/s of one thread, and the share of the bytes that remains, for frames as the engine makes
them: 384 KiB of a large file, a megabyte of small ones.
"""

from __future__ import annotations

import itertools
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import zstandard

from backup_pipeline.engine.chunker import Compressor
from benchmarks.measure import tree_files

LARGE_FRAME_BYTES = 384 * 1024
SOLID_FRAME_BYTES = 1024 * 1024
FRAMES = 60
TRIES = 3


def main() -> int:
    """Print a table; the exit code."""
    default = Path.home() / ".cache" / "backup-pipeline-bench"
    data = Path(os.environ.get("BACKUP_BENCH_CACHE") or default) / "data"
    sets = {path.name: list(_pieces(path)) for path in sorted((data / "large-1").glob("*"))}
    sets["small files"] = list(_solid(data / "small-1"))
    if len(sets) < 2:
        print("the data is missing: python -m benchmarks.run --sets large,small --rounds 0")
        return 2
    ours = Compressor()
    for name, frames in sets.items():
        solid = name == "small files"
        _show(name, "ours", frames, lambda frame, solid=solid: ours.compress(frame, solid=solid))
        for level in (1, 3):
            zstd = zstandard.ZstdCompressor(level=level, write_checksum=False)
            _show(name, f"level {level}", frames, zstd.compress)
    return 0


def _pieces(path: Path) -> Iterator[memoryview]:
    with path.open("rb") as file:
        for _ in range(FRAMES):
            if piece := file.read(LARGE_FRAME_BYTES):
                yield memoryview(piece)


def _solid(folder: Path) -> Iterator[memoryview]:
    files = iter(tree_files(folder))
    for _ in range(FRAMES):
        frame = b""
        for path in files:
            frame += Path(path).read_bytes()
            if len(frame) >= SOLID_FRAME_BYTES:
                yield memoryview(frame)
                break


def _show(name: str, how: str, frames: list[memoryview], compress: Callable[..., object]) -> None:
    size = sum(map(len, frames))
    best, packed = float("inf"), 0
    for _ in itertools.repeat(None, TRIES):
        began = time.perf_counter()
        packed = sum(len(compress(frame)) for frame in frames)  # type: ignore[arg-type]
        best = min(best, time.perf_counter() - began)
    print(f"{name:18} {how:8} {size / best / 1e6:7,.0f} MB/s {packed / size:7.2%}", flush=True)


if __name__ == "__main__":
    sys.exit(main())

"""What the machine itself can do, so that a figure can be held against its floor.

Run as ``python -m benchmarks.limits FOLDER DATA``; prints one JSON document.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import zstandard
from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

__all__ = ["measure_limits"]

MIB = 1024 * 1024
PIECE_BYTES = MIB
WRITTEN_MIB = 512
LEAST_S = 0.5


def _rate(work: Callable[[], object], size_bytes: int) -> float:
    """Megabytes per second of one thread."""
    work()
    count, started = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - started) < LEAST_S:
        work()
        count += 1
    return count * size_bytes / elapsed / 1e6


def _write_rate(folder: Path) -> float:
    piece, path = os.urandom(16 * MIB), folder / "written"
    started = time.perf_counter()
    with path.open("wb", buffering=0) as out:
        for _ in range(WRITTEN_MIB // 16):
            out.write(piece)
        os.fsync(out.fileno())
    elapsed = time.perf_counter() - started
    path.unlink()
    return WRITTEN_MIB * MIB / elapsed / 1e6


def _walk_rate(root: Path) -> float:
    """Files listed and looked at, per second."""

    def walk(folder: str) -> int:
        count = 0
        with os.scandir(folder) as entries:
            for entry in entries:
                entry.stat(follow_symlinks=False)
                count += walk(entry.path) if entry.is_dir(follow_symlinks=False) else 1
        return count

    walk(str(root))
    started = time.perf_counter()
    count = walk(str(root))
    return count / (time.perf_counter() - started)


def measure_limits(folder: Path, data: Path) -> dict[str, float]:
    """Rates of one thread; the engine has as many as there are cores.

    Args:
        folder: Where a file may be written for a moment.
        data: Holds the data sets ``large-…`` and ``small-…``.
    """
    large, small = (next(data.glob(f"{kind}-*"), None) for kind in ("large", "small"))
    piece, out = os.urandom(PIECE_BYTES), bytearray(PIECE_BYTES + 16)
    cipher, nonce = AESGCM(bytes(32)), bytes(12)
    found = {
        "memory copy, MB/s": _rate(lambda: bytearray(piece), PIECE_BYTES),
        "BLAKE3, MB/s": _rate(lambda: blake3(piece).digest(), PIECE_BYTES),
        "SHA-256, MB/s": _rate(lambda: hashlib.sha256(piece).digest(), PIECE_BYTES),
        "AES-256-GCM, MB/s": _rate(
            lambda: cipher.encrypt_into(nonce, piece, None, out), PIECE_BYTES
        ),
        "write and fsync, MB/s": _write_rate(folder),
    }
    compressor = zstandard.ZstdCompressor(level=1)
    for path in sorted(large.iterdir()) if large is not None else ():
        with path.open("rb") as file:
            sample = file.read(PIECE_BYTES)
        rate = _rate(lambda sample=sample: compressor.compress(sample), len(sample))
        found[f"zstd of {path.name}, MB/s"] = rate
    if small is not None:
        found["scandir and stat, files/s"] = _walk_rate(small)
    return {name: round(value) for name, value in found.items()}


if __name__ == "__main__":
    print(json.dumps(measure_limits(Path(sys.argv[1]), Path(sys.argv[2]))))

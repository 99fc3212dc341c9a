"""What the machine itself can do, so that a figure can be held against its floor.

Run as ``python -m benchmarks.limits FOLDER DATA``; prints one JSON document.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import zstandard
from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from benchmarks.measure import tree_files

__all__ = ["measure_limits"]

MIB = 1024 * 1024
PIECE_BYTES = MIB
PIECES = 48
LEAST_GAIN = 0.1  # what gains less is as well stored as it is
ATTEMPTS = 3
WRITTEN_MIB = 256
CREATED_FILES = 5000
LOOKED_AT = 20_000
LEAST_S = 0.4
CORES = os.cpu_count() or 1


def _timed(work: Callable[[], object]) -> float:
    """Seconds that a piece of work takes, as a mean over some of them."""
    work()
    count, started = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - started) < LEAST_S:
        work()
        count += 1
    return elapsed / count


def _rate(work: Callable[[], object], size_bytes: int) -> float:
    """Megabytes per second."""
    return size_bytes / _timed(work) / 1e6


def _pieces(paths: Sequence[str]) -> list[bytes]:
    """Samples of the data: all files in a row, from which pieces are taken at even distances."""
    sizes = [os.lstat(path).st_size for path in paths]
    distance = max(PIECE_BYTES, sum(sizes) // PIECES)
    pieces: list[bytes] = []
    piece, position, wanted = bytearray(), 0, 0
    for path, size in zip(paths, sizes, strict=True):
        start = max(0, wanted - position)
        while start < size:
            with open(path, "rb", buffering=0) as file:
                file.seek(start)
                piece += file.read(PIECE_BYTES - len(piece))
            if len(piece) < PIECE_BYTES:
                break  # goes on in the next file
            pieces.append(bytes(piece))
            piece.clear()
            wanted += distance
            start = max(start, wanted - position)
        position += size
    return pieces or [bytes(piece)]


def _compression(pieces: Sequence[bytes]) -> dict[str, float]:
    compressor, decompressor = zstandard.ZstdCompressor(level=1), zstandard.ZstdDecompressor()
    gaining = [
        piece for piece in pieces if len(compressor.compress(piece)) < (1 - LEAST_GAIN) * len(piece)
    ]
    found = {"share of the data that zstd shortens, %": 100 * len(gaining) / len(pieces)}
    if not gaining:
        return found
    size = sum(map(len, gaining))
    packed = [compressor.compress(piece) for piece in gaining]

    def share(number: int) -> None:
        own = zstandard.ZstdCompressor(level=1)
        for piece in gaining[number::CORES]:
            own.compress(piece)

    def unpack() -> None:
        for piece in packed:
            decompressor.decompress(piece)

    def pack() -> None:
        for piece in gaining:
            compressor.compress(piece)

    found["zstd of it, MB/s"] = _rate(pack, size)
    with ThreadPoolExecutor(CORES) as pool:
        found[f"zstd of it on {CORES} threads, MB/s"] = _rate(
            lambda: list(pool.map(share, range(CORES))), size
        )
    found["zstd of it, back, MB/s"] = _rate(unpack, size)
    return found


def _best(work: Callable[[], float]) -> float:
    """The best of a few: a disk has moods, and a limit is what it does in its best one."""
    return max(work() for _ in range(ATTEMPTS))


def _write_rate(folder: Path, *, durable: bool) -> float:
    """Into a new file, with its fsync or into the page cache alone."""
    piece, path = os.urandom(MIB), folder / "written"
    started = time.perf_counter()
    with path.open("wb", buffering=0) as out:
        for _ in range(WRITTEN_MIB):
            out.write(piece)
        if durable:
            os.fsync(out.fileno())
        elapsed = time.perf_counter() - started
    path.unlink()
    os.sync()
    return WRITTEN_MIB * MIB / elapsed / 1e6


def _read_rate(paths: Sequence[str]) -> float:
    """From the page cache into a buffer that is used again: one file, large or not."""
    path, buffer = max(paths[:2000], key=os.path.getsize), bytearray(PIECE_BYTES)
    fd = os.open(path, os.O_RDONLY)
    size = os.preadv(fd, [buffer], 0)
    try:
        return _rate(lambda: os.preadv(fd, [buffer], 0), size)
    finally:
        os.close(fd)


def _walk_rate(root: Path) -> float:
    """Entries listed and looked at, per second."""

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


def _open_rate(paths: Sequence[str]) -> float:
    """Files opened and closed, per second."""
    chosen = [path for path in paths[:LOOKED_AT] if not os.path.islink(path)]

    def look() -> None:
        for path in chosen:
            os.close(os.open(path, os.O_RDONLY))

    return len(chosen) / _timed(look)


def _create_rate(folder: Path) -> float:
    """Empty files created and closed, per second."""
    below = folder / "created"
    shutil.rmtree(below, ignore_errors=True)
    below.mkdir()
    names = [f"{below}/{number}" for number in range(CREATED_FILES)]
    started = time.perf_counter()
    for name in names:
        os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644))
    elapsed = time.perf_counter() - started
    shutil.rmtree(below)
    return CREATED_FILES / elapsed


def _derive() -> None:
    Argon2id(salt=bytes(16), length=32, iterations=3, lanes=4, memory_cost=64 * 1024).derive(b"x")


def measure_limits(folder: Path, data: Path) -> dict[str, float]:
    """Rates of one thread, unless they say otherwise.

    Args:
        folder: Where files may be written for a moment.
        data: The data set.
    """
    paths = [path for path in tree_files(data) if not os.path.islink(path)]
    pieces = _pieces(paths)
    piece, out = os.urandom(PIECE_BYTES), bytearray(PIECE_BYTES + 16)
    source, target = memoryview(piece), memoryview(bytearray(PIECE_BYTES))
    cipher, nonce = AESGCM(bytes(32)), bytes(12)

    def copy() -> None:
        target[:] = source

    bare = [sys.executable, "-I", "-S", "-c", "pass"]
    found = {
        "memory copy, MB/s": _rate(copy, PIECE_BYTES),
        "read from the page cache, MB/s": _read_rate(paths),
        "write to the page cache, MB/s": _best(lambda: _write_rate(folder, durable=False)),
        "write and fsync, MB/s": _best(lambda: _write_rate(folder, durable=True)),
        "BLAKE3, MB/s": _rate(lambda: blake3(piece).digest(), PIECE_BYTES),
        "SHA-256, MB/s": _rate(lambda: hashlib.sha256(piece).digest(), PIECE_BYTES),
        "AES-256-GCM, MB/s": _rate(
            lambda: cipher.encrypt_into(nonce, piece, None, out), PIECE_BYTES
        ),
        **_compression(pieces),
        "scandir and stat, files/s": _walk_rate(data),
        "open and close, files/s": _open_rate(paths),
        "create and close, files/s": _best(lambda: _create_rate(folder)),
        "start of a bare Python, s": _timed(lambda: subprocess.run(bare, check=True)),
        "argon2id, s": _timed(_derive),
    }
    return {name: float(f"{value:.4g}") for name, value in found.items()}


if __name__ == "__main__":
    print(json.dumps(measure_limits(Path(sys.argv[1]), Path(sys.argv[2]))))

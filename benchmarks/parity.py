"""What parity costs beside par2: seconds and bytes per GiB of packs, to make it and to heal.

    python -m benchmarks.parity [--mib 256]

One thread each. par2 is the one of the system, if there is one; it is given each pack by itself, as
a sidecar per pack needs it.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from backup_pipeline.engine.keys import DatasetKeys
from backup_pipeline.engine.parity import from_parity, make_parity, parity_path
from backup_pipeline.engine.repository import Repository
from backup_pipeline.engine.store.memory import MemoryStore

PACK_BYTES = 16 << 20
SHARES = (0.02, 0.05, 0.1, 0.2)


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=256)
    count = max(1, (parser.parse_args().mib << 20) // PACK_BYTES)
    chance = random.Random(1)
    packs = [chance.randbytes(PACK_BYTES) for _ in range(count)]
    print("| share | made by | s per GiB | MiB per GiB | s per GiB to heal all it can |")
    print("|---|---|---|---|---|")
    for share in SHARES:
        _print(share, "this", *_ours(packs, share))
        if shutil.which("par2"):
            _print(share, "par2", *_par2(packs[:4], share))


def _print(share: float, who: str, make_s: float, stored: float, heal_s: float) -> None:
    print(f"| {share:.0%} | {who} | {make_s:.2f} | {stored:.1f} | {heal_s:.2f} |")


def _ours(packs: list[bytes], share: float) -> tuple[float, float, float]:
    repository = Repository(MemoryStore("bench"), "", DatasetKeys.generate(encrypted=False))
    names = [bytes(16) + _sha256(pack) for pack in packs]
    started = time.perf_counter()
    sidecars = [make_parity(name, pack, share) for name, pack in zip(names, packs, strict=True)]
    make_s = time.perf_counter() - started
    stored = sum(len(piece) for pieces in sidecars for piece in pieces)
    rotten = int(128 * share)
    for name, pack, sidecar in zip(names, packs, sidecars, strict=True):
        repository.store.put(parity_path(repository, name), sidecar)
        content = bytearray(pack)
        for block in range(rotten):
            content[block * 131_072] ^= 1
        repository.store.put(repository.pack_path(name), content)
    started = time.perf_counter()
    assert all(
        from_parity(repository, name) == pack for name, pack in zip(names, packs, strict=True)
    )
    return _per_gib(packs, make_s, stored, time.perf_counter() - started)


def _par2(packs: list[bytes], share: float) -> tuple[float, float, float]:
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"pack-{number}" for number in range(len(packs))]
        for path, pack in zip(paths, packs, strict=True):
            path.write_bytes(pack)
        started = time.perf_counter()
        for path in paths:
            _run("par2", "create", "-q", "-q", "-t1", "-b128", f"-r{share:.0%}", path)
        make_s = time.perf_counter() - started
        stored = sum(path.stat().st_size for path in Path(folder).glob("*.par2"))
        for path, pack in zip(paths, packs, strict=True):
            content = bytearray(pack)
            for block in range(int(128 * share)):
                content[block * 131_072] ^= 1
            path.write_bytes(content)
        started = time.perf_counter()
        for path in paths:
            _run("par2", "repair", "-q", "-q", "-t1", f"{path}.par2")
        heal_s = time.perf_counter() - started
        assert all(p.read_bytes() == pack for p, pack in zip(paths, packs, strict=True))
    return _per_gib(packs, make_s, stored, heal_s)


def _run(*words: str | Path) -> None:
    command = [option.removesuffix("%") for option in map(os.fspath, words)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def _per_gib(
    packs: list[bytes], make_s: float, stored_bytes: int, heal_s: float
) -> tuple[float, float, float]:
    gib = sum(map(len, packs)) / (1 << 30)
    return make_s / gib, stored_bytes / gib / (1 << 20), heal_s / gib


def _sha256(content: bytes) -> bytes:
    import hashlib

    return hashlib.sha256(content).digest()


if __name__ == "__main__":
    main()

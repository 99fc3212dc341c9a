"""Memory: what a run takes does not grow with the size of a file."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from backup_pipeline.engine.store.local import LocalStore
from backup_pipeline_tests.engine.repositories import make_repository

GIB = 1 << 30
MOST_BYTES = 350 << 20

CHILD = textwrap.dedent(
    """
    import sys
    from pathlib import Path
    from backup_pipeline.engine.operations.restore import restore
    from backup_pipeline.engine.operations.verify import verify
    from backup_pipeline.engine.store.local import LocalStore
    from backup_pipeline_tests.engine.repositories import *
    verb, store, place = sys.argv[1], LocalStore(sys.argv[2]), Path(sys.argv[3])
    repository = open_repository(store)
    if verb == "backup":
        assert back_up(repository, place).status == "complete"
    elif verb == "copy":
        cloud = make_repository(LocalStore(place), tier="cloud", like=repository)
        copy_over(repository, repository.snapshots()[-1], cloud)
    elif verb == "verify":
        assert verify(repository).ok
    else:
        assert restore(repository, repository.snapshots()[-1], place).ok
    # Not ru_maxrss: across fork and exec that keeps what the test's own process had.
    status = Path("/proc/self/status").read_text()
    print(int(status.split("VmHWM:")[1].split()[0]) * 1024)
    """
)


def peak_bytes(verb: str, store: Path, place: Path) -> int:
    done = subprocess.run(
        [sys.executable, "-c", CHILD, verb, store, place],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return int(done.stdout)


@pytest.mark.slow
def test_a_file_of_a_gib_goes_through_every_verb_in_little_memory(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    with (source / "numbers").open("wb") as file:
        for part in range(64):
            file.write(np.arange(part << 21, (part + 1) << 21, dtype="<u8").tobytes())
        assert file.tell() == GIB
    make_repository(LocalStore(tmp_path / "store"))
    places = {"backup": source, "copy": tmp_path / "cloud", "verify": source}
    for verb in ("backup", "verify", "copy", "restore"):
        peak = peak_bytes(verb, tmp_path / "store", places.get(verb, tmp_path / "back"))
        assert peak < MOST_BYTES, verb
    assert (tmp_path / "back" / "numbers").stat().st_size == GIB
    for place in (source, tmp_path / "back"):
        (place / "numbers").unlink()  # pytest keeps what the last runs left

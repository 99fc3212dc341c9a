"""Large files past the page cache: the same bytes, whether the file system goes along or not."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from backup_pipeline.engine.errors import DamageError
from backup_pipeline.engine.store.direct import ALIGNMENT_BYTES, aligned_buffer
from backup_pipeline.engine.store.local import LocalStore

MIB = 1 << 20
SIZES = (MIB - 1, MIB, MIB + 1, MIB + ALIGNMENT_BYTES - 1, 3 * MIB + 5000)


class _Kernel:
    """Notes which files were opened for direct use, and refuses it where told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.opened: list[str] = []
        self.refused: str | None = None
        self._open: Callable[..., int] = os.open
        monkeypatch.setattr(os, "open", self._open_noting)
        for name in ("pwritev", "preadv"):
            monkeypatch.setattr(os, name, self._refusing(getattr(os, name)))

    def _open_noting(self, path: str, flags: int, *rest: Any, **named: Any) -> int:
        if flags & os.O_DIRECT:
            self.opened.append(path)
            if self.refused == "open":
                if flags & os.O_CREAT:  # as some kernels do
                    os.close(self._open(path, flags & ~os.O_DIRECT, *rest, **named))
                raise OSError(errno.EINVAL, "no direct files here")
        return self._open(path, flags, *rest, **named)

    def _refusing(self, call: Callable[..., int]) -> Callable[..., int]:
        import fcntl

        def one(fd: int, *rest: Any) -> int:
            if self.refused == "use" and fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT:
                raise OSError(errno.EINVAL, "other blocks are wanted")
            return call(fd, *rest)

        return one


@pytest.mark.parametrize("refused", [None, "open", "use"])
def test_large_content_round_trips_whatever_the_file_system_allows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: str | None
) -> None:
    kernel, store = _Kernel(monkeypatch), LocalStore(tmp_path / "store")
    kernel.refused = refused
    for size in SIZES:
        for tail in (b"", b"tail", secrets.token_bytes(ALIGNMENT_BYTES)):
            view = aligned_buffer(size)
            view[:] = content = secrets.token_bytes(size)
            name = f"{size}-{len(tail)}"
            store.put(name, [view, tail])
            store.put(name, [view, tail])  # again: it is there already
            assert bytes(store.get(name)) == content + tail
            for offset in (0, 1, ALIGNMENT_BYTES):
                back = aligned_buffer(size + len(tail) - offset)
                store.get_into(name, offset, back)
                assert back == (content + tail)[offset:], (size, offset)
    assert not [path for path in (tmp_path / "store").iterdir() if path.name.startswith(".")]
    assert len(kernel.opened) > len(SIZES), "nothing was opened for direct use"


def test_small_or_unaligned_content_goes_the_usual_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel, store = _Kernel(monkeypatch), LocalStore(tmp_path / "store")
    content = secrets.token_bytes(2 * MIB)
    store.put("bytes", content)
    shifted = aligned_buffer(2 * MIB + 1)[1:]
    store.get_into("bytes", 0, shifted)
    assert shifted == content
    store.put("small", aligned_buffer(ALIGNMENT_BYTES))
    assert kernel.opened == []


def test_a_file_that_ends_early_is_damage(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    store.put("pack", secrets.token_bytes(MIB + 100))
    with pytest.raises(DamageError, match="pack"):
        store.get_into("pack", 0, aligned_buffer(2 * MIB))

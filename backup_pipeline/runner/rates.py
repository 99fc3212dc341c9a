"""How fast restores were: measured by each, remembered on this machine, told of the next.

What is remembered is a cache, and losing it costs an estimate. It holds stores' URLs, without
secrets, and speeds.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

__all__ = ["ASSUMED", "Rate", "rate_of", "remember"]

LEAST_BYTES = 8 << 20
"""A restore of less than this says more of start-up than of speed."""

ASSUMED: Mapping[str, float] = {"file": 100e6, "other": 30e6}
"""Bytes a second where nothing was measured yet: a disk, and anything over a network."""


@dataclass(frozen=True, slots=True)
class Rate:
    """A speed of restoring.

    Attributes:
        bytes_per_s: Logical bytes a second.
        said_by: ``measured``, or ``assumed`` where nothing was restored from there yet.
        measured_at: When (ISO), where it was measured.
        dataset: Of which dataset.
    """

    bytes_per_s: float
    said_by: str
    measured_at: str | None = None
    dataset: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Fields by name."""
        return asdict(self)


def is_local(store: str) -> bool:
    """Whether a store is a directory of this machine, by its URL."""
    return "://" not in store or store.startswith("file://")


def rate_of(store: str, dataset: str, environ: Mapping[str, str] = os.environ) -> Rate:
    """How fast a dataset is restored from a store: as measured last, of another dataset if need
    be, or else assumed by the kind of the store."""
    known = _read(environ).get(store, {})
    for key in (dataset, *reversed(known)):
        with suppress(KeyError, TypeError, ValueError):
            said = known[key]
            return Rate(float(said["bytes_per_s"]), "measured", str(said["at"]), key)
    return Rate(ASSUMED["file" if is_local(store) else "other"], "assumed")


def remember(
    store: str,
    dataset: str,
    size_bytes: int,
    elapsed_s: float,
    now: datetime,
    environ: Mapping[str, str] = os.environ,
) -> None:
    """Keep how long a restore took; what cannot be kept is let go."""
    if size_bytes < LEAST_BYTES or elapsed_s <= 0:
        return
    path = _path(environ)
    with suppress(OSError, TypeError, AttributeError):
        stores = _read(environ)
        known = stores.setdefault(store, {})
        known.pop(dataset, None)  # the newest is last
        known[dataset] = {
            "bytes_per_s": round(size_bytes / elapsed_s),
            "bytes": size_bytes,
            "at": now.isoformat(timespec="seconds"),
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f"{path.name}.{os.getpid()}")
        draft.write_text(json.dumps(stores))
        draft.replace(path)


def _path(environ: Mapping[str, str]) -> Path:
    home = environ.get("XDG_STATE_HOME") or Path(environ.get("HOME") or "/") / ".local" / "state"
    return Path(home) / "backup-pipeline" / "restore-rates.json"


def _read(environ: Mapping[str, str]) -> dict[str, Any]:
    try:
        found = json.loads(_path(environ).read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}

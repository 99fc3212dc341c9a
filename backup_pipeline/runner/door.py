"""The five-line door: one call that backs a directory up, with a plan made from five words."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backup_pipeline.engine.errors import UsageError
from backup_pipeline.plan import load_plan
from backup_pipeline.runner.finding import utc_now
from backup_pipeline.runner.runner import Runner

if TYPE_CHECKING:
    from backup_pipeline.engine.format.record import Snapshot

__all__ = ["backup"]

_KEYS = (
    "source",
    "destination",
    "frequency",
    "keep_days",
    "dataset",
    "encryption",
    "passphrase_env",
)
_TIERS: dict[str, dict[str, Any]] = {
    "hourly": {"every": "hour", "kind": "incremental", "full_every": "1 day"},
    "daily": {"every": "day", "kind": "incremental", "full_every": "4 weeks"},
    "weekly": {"every": "week", "kind": "incremental", "full_every": "12 weeks"},
    "monthly": {"every": "month", "kind": "full"},
}
_KEPT_BY = {"hourly": ("daily", 1), "daily": ("daily", 1), "weekly": ("weekly", 7)}
_NO_ASSET = re.compile(r"[\s{}*?\"'\\\x00-\x1f\x7f]+")


def backup(
    settings: Mapping[str, Any],
    *,
    clock: Callable[[], datetime] = utc_now,
    environ: Mapping[str, str] = os.environ,
) -> Snapshot:
    """Make a real snapshot of a directory, or of objects under an S3 prefix.

    Args:
        settings: ``source`` (a path or ``s3://bucket/prefix``), ``destination`` (a path or URL of
            a store), ``frequency`` (``hourly``, ``daily``, ``weekly`` or ``monthly``; default
            daily) and ``keep_days`` (default 7). Further ones: ``dataset`` (its key; default: the
            last part of the source), ``encryption`` (``none`` to do without) and
            ``passphrase_env`` (the variable that holds the passphrase; default
            BACKUP_PASSPHRASE).
        clock: Tells the time.
        environ: Where the passphrase is looked up.

    Returns:
        The snapshot; look at its ``status``.

    Raises:
        UsageError: A setting is missing, unknown or impossible.
        SourceError: The source cannot be read.
    """
    with Runner(
        load_plan(_plan(settings, clock), environ=environ), clock=clock, environ=environ
    ) as runner:
        return runner.backup(runner.datasets()[0]).snapshot


def _plan(settings: Mapping[str, Any], clock: Callable[[], datetime]) -> dict[str, Any]:
    _check(settings)
    frequency = str(settings.get("frequency", "daily"))
    source = os.fspath(settings["source"])
    document: dict[str, Any] = {
        "start": clock().astimezone(UTC).date().isoformat(),
        "stores": {"local": os.fspath(settings["destination"])},
        "policies": {
            "default": {
                "tiers": [
                    {
                        "name": "local",
                        **_TIERS[frequency],
                        "keep": _keep(frequency, settings.get("keep_days", 7)),
                    }
                ]
            }
        },
        "datasets": [{"asset": settings.get("dataset") or _key(source), "source": source}],
    }
    if "encryption" in settings:
        document["encryption"] = settings["encryption"]
    if "passphrase_env" in settings:
        document["keys"] = {"main": {"passphrase": {"env": settings["passphrase_env"]}}}
    return document


def _check(settings: Mapping[str, Any]) -> None:
    for key in settings:
        if key not in _KEYS:
            near = difflib.get_close_matches(str(key), _KEYS, n=1)
            raise UsageError(
                f"backup() knows no setting {key!r}",
                f"did you mean {near[0]}?" if near else f"it takes {', '.join(_KEYS)}",
            )
    for key in ("source", "destination"):
        if not isinstance(settings.get(key), str | os.PathLike) or not os.fspath(settings[key]):
            raise UsageError(
                f"backup() needs {key}",
                'such as {"source": "/data/images", "destination": "/srv/backups"}',
            )
    frequency = settings.get("frequency", "daily")
    if frequency not in _TIERS:
        raise UsageError(f"unknown frequency {frequency!r}", f"one of {', '.join(_TIERS)}")
    keep_days = settings.get("keep_days", 7)
    if not isinstance(keep_days, int) or isinstance(keep_days, bool) or keep_days < 1:
        raise UsageError(f"keep_days is {keep_days!r}", "a whole number of days, 1 at least")


def _keep(frequency: str, keep_days: int) -> dict[str, int]:
    """Retention that covers this many days, in the unit in which snapshots are made."""
    unit, days = _KEPT_BY.get(frequency, ("monthly", 28))
    return {unit: -(-keep_days // days)}


def _key(source: str) -> str:
    """A dataset's key from the last part of its source."""
    last = source.rstrip("/").rsplit("/", 1)[-1]
    if "://" not in source:
        last = Path(source).resolve().name
    return _NO_ASSET.sub("_", last).strip("_") or "dataset"

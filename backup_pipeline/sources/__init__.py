"""Where datasets are read from: one module per kind of source, one contract in ``base``."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import Any

from backup_pipeline.engine.errors import UsageError
from backup_pipeline.sources.base import Source

__all__ = ["KINDS", "Source", "open_source"]

KINDS = ("files", "objects")


def open_source(kind: str, options: Mapping[str, Any], *, day: date | None = None) -> Source:
    """Open a source as a plan declares it.

    Args:
        kind: ``files`` or ``objects``.
        options: ``path`` for files, ``url`` and S3 settings for objects; ``exclude`` for both.
        day: What ``{day}`` stands for in them.

    Raises:
        UsageError: The kind is not installed, or ``{day}`` stands in the options and no day is
            given.
    """
    filled = {name: _fill(value, day) for name, value in options.items()}
    if kind == "files":
        from backup_pipeline.sources.files import FilesSource

        return FilesSource(filled["path"], exclude=filled.get("exclude", ()))
    if kind == "objects":
        from backup_pipeline.sources.objects import ObjectsSource

        exclude = filled.pop("exclude", ())
        return ObjectsSource(filled, exclude=exclude)
    raise UsageError(f"no source of kind {kind!r} is installed", f"known kinds: {', '.join(KINDS)}")


def _fill(value: Any, day: date | None) -> Any:
    if not isinstance(value, str) or "{day}" not in value:
        return value
    if day is None:
        raise UsageError(
            f"the source {value} is one slice per day, and no day was given",
            "say `holds: slice` for this dataset, or give --day",
        )
    return value.replace("{day}", day.isoformat())

"""Where datasets are read from: one module per kind of source, one contract in ``base``."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, tzinfo
from importlib import import_module
from typing import Any

from backup_pipeline.engine.errors import UsageError
from backup_pipeline.plan.dayform import day_problem, fill_day, has_day
from backup_pipeline.plan.sourcekind import foreign_names
from backup_pipeline.plan.sourcekinds import BUILT_IN, find_kind
from backup_pipeline.sources.base import Source

__all__ = ["Source", "open_source"]


def open_source(
    kind: str, options: Mapping[str, Any], *, day: date | None = None, zone: tzinfo = UTC
) -> Source:
    """Open a source as a plan declares it.

    Args:
        kind: One of ours, or one that another installed package brings.
        options: As the kind declares them; ``exclude`` (globs) too, for those that have paths.
        day: The slice's day, which ``{day}`` stands for in the options.
        zone: Where days begin and end, for a source that can say how it was on a past day.

    Raises:
        UsageError: The kind is not known, its packages are not installed, or ``{day}`` stands in
            the options and no day is given.
    """
    found = find_kind(kind)
    if found is None:
        known = ", ".join((*BUILT_IN, *foreign_names()))
        raise UsageError(f"no source of kind {kind!r} is installed", f"known kinds: {known}")
    filled = {name: _fill(value, day) for name, value in options.items()}
    exclude = filled.pop("exclude", ())
    source: Source = load_named(found.opens, found.extra)(filled, exclude=exclude, day=day)
    source.zone = zone
    return source


def load_named(name: str, extra: str | None) -> Any:
    """What ``module:callable`` names.

    Raises:
        UsageError: A package that it needs is not installed.
    """
    module, _, attribute = name.partition(":")
    try:
        return getattr(import_module(module), attribute)
    except ModuleNotFoundError as error:
        if extra is None or (error.name or "").startswith("backup_pipeline"):
            raise
        raise UsageError(
            f"{error.name} is not installed", f"pip install 'backup-pipeline[{extra}]'"
        ) from error


def _fill(value: Any, day: date | None) -> Any:
    if not isinstance(value, str) or not has_day(value):
        return value
    if day is None:
        raise UsageError(
            f"the source {value} is one slice per day, and no day was given",
            "say `holds: slice` for this dataset, or give --day",
        )
    problem = day_problem(value)
    if problem is not None:
        raise UsageError(*problem)
    return fill_day(value, day)

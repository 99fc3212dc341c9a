"""Tests of what a drill restored, with all defaults filled in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

__all__ = ["Bounds", "Completeness", "DrillTest", "FunctionTest", "TableTest"]


@dataclass(frozen=True, slots=True)
class Bounds:
    """From ``least`` to ``most``, both included; None leaves a side open."""

    least: float | None = None
    most: float | None = None


@dataclass(frozen=True, slots=True)
class TableTest:
    """Expectations of every table that a glob names.

    Attributes:
        table: The glob, over the snapshot's paths.
        take: ``sample``: those in the drill's sample, and at least one; ``all``.
        rows: How many rows each has; at least one where the plan says nothing.
        columns: Columns that it has, and their types where they matter.
        not_null: Columns without nulls.
        unique: Columns without equal values.
        ranges: Column to the bounds of its values.
        suite: A Great Expectations suite: the absolute path of a JSON file, or
            ``module:function``.
    """

    table: str
    take: Literal["sample", "all"] = "sample"
    rows: Bounds = Bounds(least=1)
    columns: Mapping[str, str | None] = field(default_factory=dict[str, str | None])
    not_null: tuple[str, ...] = ()
    unique: tuple[str, ...] = ()
    ranges: Mapping[str, Bounds] = field(default_factory=dict[str, Bounds])
    suite: str | None = None


@dataclass(frozen=True, slots=True)
class FunctionTest:
    """A function of the user's that is given the path of the restored copy.

    Attributes:
        check: ``module:function``.
        needs: Globs of what it needs of the snapshot.
    """

    check: str
    needs: tuple[str, ...] = ("**",)


@dataclass(frozen=True, slots=True)
class Completeness:
    """What is expected of a snapshot's manifest beside the one before.

    Attributes:
        shrink: Share of the files, and of their bytes, that may be gone.
        emptied: Whether files that had bytes may be empty.
        paths: Globs of which every file's path matches one; none for any path.
        suite: As a table's, over the manifest.
    """

    shrink: float = 0.5
    emptied: Literal["refuse", "accept"] = "refuse"
    paths: tuple[str, ...] = ()
    suite: str | None = None


DrillTest = TableTest | FunctionTest

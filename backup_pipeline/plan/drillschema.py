"""Tests of drills as a plan writes them."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainValidator, model_validator

from backup_pipeline.plan.content import is_list, is_mapping
from backup_pipeline.plan.drilltests import Bounds, DrillTest, FunctionTest, TableTest
from backup_pipeline.plan.values import Share, choice, mistake
from backup_pipeline.plan.written import Written

__all__ = ["BoundsWritten", "CompletenessWritten", "DrillTestWritten"]

_FUNCTION = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*\Z")
_TABLE_KEYS = ("take", "rows", "columns", "not_null", "unique", "ranges", "suite")


def _number(value: Any) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return value
    raise mistake("not a number", "write it in digits, such as 0 or 2.5")


Number = Annotated[float, PlainValidator(_number)]
Column = Annotated[str, Field(min_length=1, max_length=200)]
Glob = Annotated[str, Field(min_length=1, max_length=1000)]


class BoundsWritten(Written):
    """``{min: 1, max: 10}``; either may be left out."""

    min: Number | None = None
    max: Number | None = None

    @model_validator(mode="after")
    def _in_order(self) -> BoundsWritten:
        if self.min is None and self.max is None:
            raise mistake("bounds of nothing", "write min, max or both")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise mistake(f"{self.min} to {self.max} holds nothing", "min comes before max")
        return self

    def bounds(self) -> Bounds:
        """As the plan's model has them."""
        return Bounds(self.min, self.max)


def _rows(value: Any) -> Any:
    """One number means so many rows, no more and no less."""
    if isinstance(value, int) and not isinstance(value, bool):
        return {"min": value, "max": value}
    return value


def _columns(value: Any) -> Any:
    """Takes a list of names for columns of any type."""
    if is_list(value) and all(isinstance(one, str) for one in value):
        return dict.fromkeys(value)
    return value


def _function(value: Any) -> str:
    if isinstance(value, str) and _FUNCTION.match(value):
        return value
    raise mistake("not a function's name", "write module:function, such as my_project.checks:loads")


def _suite(value: Any) -> str:
    if isinstance(value, str) and (value.endswith(".json") or _FUNCTION.match(value)):
        return value
    raise mistake(
        "not a suite of expectations", "write a path that ends in .json, or module:function"
    )


class CompletenessWritten(Written):
    """Expectations of a snapshot's manifest; off unless they are written."""

    enabled: Annotated[bool, Field(strict=True)] = True
    shrink: Share = 0.5
    emptied: Annotated[Literal["refuse", "accept"], choice("refuse", "accept")] = "refuse"
    paths: list[Glob] = Field(default_factory=list[str])
    suite: Annotated[str, PlainValidator(_suite)] | None = None


class DrillTestWritten(Written):
    """One test: of tables by a glob, or by a function."""

    table: Glob | None = None
    take: Annotated[Literal["sample", "all"], choice("sample", "all")] | None = None
    rows: Annotated[BoundsWritten, BeforeValidator(_rows)] | None = None
    columns: Annotated[dict[Column, Column | None], BeforeValidator(_columns)] | None = None
    not_null: list[Column] | None = None
    unique: list[Column] | None = None
    ranges: dict[Column, BoundsWritten] | None = None
    suite: Annotated[str, PlainValidator(_suite)] | None = None
    check: Annotated[str, PlainValidator(_function)] | None = None
    needs: Annotated[list[Glob], Field(min_length=1)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _one_kind(cls, value: Any) -> Any:
        if not is_mapping(value):
            raise mistake("not a test", "write {table: GLOB, ...} or {check: module:function}")
        if ("table" in value) == ("check" in value):
            raise mistake(
                "a test has either table or check", "write each test as an item of its own"
            )
        other = ("needs",) if "table" in value else _TABLE_KEYS
        for name in other:
            if name in value:
                kind = "table" if "table" in value else "check"
                raise mistake(f"a test with {kind} takes no {name}", "see docs/how-to/drills.md")
        return value

    def resolved(self) -> DrillTest:
        """As the plan's model has it."""
        if self.check is not None:
            return FunctionTest(self.check, tuple(self.needs or ("**",)))
        assert self.table is not None
        return TableTest(
            table=self.table,
            take=self.take or "sample",
            rows=self.rows.bounds() if self.rows is not None else Bounds(least=1),
            columns=self.columns or {},
            not_null=tuple(self.not_null or ()),
            unique=tuple(self.unique or ()),
            ranges={name: one.bounds() for name, one in (self.ranges or {}).items()},
            suite=self.suite,
        )

"""Checks a plan against the schema so that one mistake does not hide the next."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from backup_pipeline.plan.content import is_list, is_mapping
from backup_pipeline.plan.problems import Findings, Path, one_of
from backup_pipeline.plan.schema import PlanWritten

__all__ = ["Checked", "check_schema"]

_MEANT = {
    "cron": "every",
    "schedule": "every",
    "frequency": "every",
    "cadence": "every",
    "interval": "every",
    "time": "at",
    "retention": "keep",
    "path": "source",
    "type": "kind",
    "mode": "kind",
    "key": "asset",
    "tz": "timezone",
    "groups": "sets",
    "destination": "store",
    "destinations": "stores",
    "start_date": "start",
}
"""What keys of other tools are called here."""


@dataclass(frozen=True, slots=True)
class Checked:
    """What remains of a plan without its refused parts.

    Attributes:
        plan: The valid rest.
        lists: For each list with refused items, the places that the remaining items had.
    """

    plan: PlanWritten
    lists: Mapping[Path, list[int]]

    def path(self, *parts: str | int) -> Path:
        """Returns where a value of ``plan`` stands in the plan as written."""
        path: Path = ()
        for part in parts:
            kept = self.lists.get(path)
            path = (*path, kept[part] if kept is not None and isinstance(part, int) else part)
        return path


def check_schema(content: Mapping[str, Any], findings: Findings) -> Checked:
    """Validates; what is refused is reported, taken out, and the rest validated again."""
    dropped: set[Path] = set()
    while True:
        lists: dict[Path, list[int]] = {}
        rest = _rest(content, (), dropped, lists)
        try:
            return Checked(PlanWritten.model_validate(rest), lists)
        except ValidationError as error:
            details = error.errors(include_url=False, include_input=False)
        locate, before = Checked(PlanWritten(), lists), len(dropped)
        for detail in details:
            _refuse(detail, locate.path(*detail["loc"]), content, findings, dropped)
        if () in dropped or len(dropped) == before:
            return locate


def _refuse(
    detail: ErrorDetails,
    path: Path,
    content: Mapping[str, Any],
    findings: Findings,
    dropped: set[Path],
) -> None:
    """Reports one error and marks for dropping what it makes unusable."""
    present = _present(content, path)
    missing = detail["type"] == "missing"
    consequence = any(bad[: len(path)] == path for bad in dropped)
    if not consequence:
        message, suggestion = _explain(detail, path)
        findings.refuse(path if missing else present, message, suggestion)
        meant = _MEANT.get(str(path[-1])) if path else None
        if suggestion and suggestion.startswith("did you mean '"):
            meant = suggestion.removeprefix("did you mean '").removesuffix("'?")
        if detail["type"] == "extra_forbidden" and meant:
            findings.mark_refused((*path[:-1], meant))
    elif missing:
        findings.mark_refused(path[:-1])
    drop = path[:-1] if missing else present
    while drop in dropped:
        drop = drop[:-1]
    dropped.add(drop)


def _rest(value: Any, path: Path, dropped: set[Path], lists: dict[Path, list[int]]) -> Any:
    """Copies content without what was dropped; notes the places of what remains in lists."""
    if is_mapping(value):
        items = value.items()
        kept = ((key, item, (*path, key)) for key, item in items)
        return {k: _rest(item, p, dropped, lists) for k, item, p in kept if p not in dropped}
    if is_list(value):
        places = range(len(value))
        indexes = [index for index in places if (*path, index) not in dropped]
        lists[path] = indexes
        return [_rest(value[index], (*path, index), dropped, lists) for index in indexes]
    return value


def _present(content: object, path: Path) -> Path:
    """Returns as much of a path as stands in the content; short forms have no inner keys."""
    if not path:
        return ()
    part = path[0]
    if is_mapping(content) and isinstance(part, str) and part in content:
        return (part, *_present(content[part], path[1:]))
    if is_list(content) and isinstance(part, int):
        return (part, *_present(content[part], path[1:]))
    return ()


def _explain(detail: ErrorDetails, path: Path) -> tuple[str, str | None]:
    """Says in the plan's words what pydantic found."""
    kind = detail["type"]
    context = detail.get("ctx", {})
    if kind == "plan":
        return str(context["message"]), context.get("suggestion")
    name = str(path[-1]) if path else "the plan"
    if kind == "extra_forbidden":
        allowed = _allowed_keys(path[:-1])
        meant = _MEANT.get(name)
        if meant in allowed:
            return f"unknown key '{name}'", f"did you mean '{meant}'?"
        return f"unknown key '{name}'", one_of(name, allowed)
    if kind == "missing":
        return f"'{name}' is missing", None
    simple = {
        "string_type": ("not text", "put it in quotes"),
        "string_too_short": ("empty", None),
        "bool_type": ("neither true nor false", "write true or false"),
        "int_type": ("not a whole number", None),
        "list_type": ("not a list", "write [first, second]"),
        "dict_type": ("not a mapping", "write {key: value}"),
        "model_type": ("not a mapping", "write {key: value}"),
        "model_attributes_type": ("not a mapping", "write {key: value}"),
        "too_short": ("empty", "give at least one"),
    }
    if kind in simple:
        return simple[kind]
    if kind == "greater_than_equal":
        return f"below {context.get('ge')}", f"the least is {context.get('ge')}"
    if kind == "less_than_equal":
        return f"above {context.get('le')}", f"the most is {context.get('le')}"
    return detail["msg"], None


def _allowed_keys(path: Path) -> list[str]:
    """Lists the keys that the schema knows for the mapping at a path."""
    found: Any = PlanWritten
    for part in path:
        if isinstance(found, type) and issubclass(found, BaseModel):
            fields = {field.alias or name: field for name, field in found.model_fields.items()}
            if part not in fields:
                return []
            found = _bare(fields[str(part)].annotation)
        else:
            found = _bare(typing.get_args(found)[-1]) if typing.get_args(found) else None
    if not (isinstance(found, type) and issubclass(found, BaseModel)):
        return []
    names = [field.alias or name for name, field in found.model_fields.items()]
    # Environments are merged away before the schema sees the plan.
    return names if path else [*names, "environments"]


def _bare(annotation: Any) -> Any:
    """Strips ``Annotated`` and ``| None`` from a type."""
    while True:
        origin = typing.get_origin(annotation)
        if origin is Annotated:
            annotation = typing.get_args(annotation)[0]
        elif origin in (typing.Union, types.UnionType):
            annotation = next(a for a in typing.get_args(annotation) if a is not type(None))
        else:
            return annotation

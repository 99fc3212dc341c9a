"""Reads a plan's YAML so that every mistake can be told with its line and column."""

from __future__ import annotations

import datetime
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any, cast

import yaml

from backup_pipeline.engine.errors import PlanError, Problem
from backup_pipeline.plan.problems import Findings, Mark, Path

__all__ = ["MAX_PLAN_BYTES", "MAX_PLAN_VALUES", "Document", "read_document"]

MAX_PLAN_BYTES = 4 * 1024 * 1024
"""A larger file is no plan; refusing it keeps memory bounded."""

MAX_PLAN_VALUES = 200_000
"""Bounds what aliases may unfold to, so that a few lines cannot fill the memory."""

_YAML_TAG = "tag:yaml.org,2002:"
_PLAIN_TAGS = frozenset(
    _YAML_TAG + name
    for name in ("null", "bool", "int", "float", "str", "timestamp", "merge", "value", "seq", "map")
)
_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_TRUE = frozenset({"true", "True", "TRUE"})
_FALSE = frozenset({"false", "False", "FALSE"})
_SURROGATE = re.compile("[\ud800-\udfff]")
_INTEGER = re.compile(r"[-+]?[0-9]+\Z")
_DECIMAL = re.compile(r"[-+]?[0-9]+\.[0-9]*([eE][-+]?[0-9]+)?\Z")


@dataclass(frozen=True, slots=True)
class Document:
    """A plan as written: plain values, and the place of each.

    Attributes:
        content: Mappings, lists, text, numbers, booleans and None.
        marks: Where each value was written.
        problems: Mistakes of the writing itself, such as duplicate keys.
        file: The file's name, for messages.
        folder: What relative paths are relative to.
    """

    content: dict[str, Any]
    marks: dict[Path, Mark]
    problems: tuple[Problem, ...]
    file: str | None
    folder: FilePath


def read_document(source: str | os.PathLike[str] | Mapping[str, Any]) -> Document:
    """Reads a plan from a YAML file or takes it from a mapping.

    Args:
        source: Path of the file, or the plan itself.

    Raises:
        PlanError: The file cannot be read, or what it holds is not a mapping.
    """
    if isinstance(source, Mapping):
        reading = _Reading(None)
        try:
            content = cast("dict[str, Any]", reading.take(source, ()))
        except RecursionError:
            raise PlanError([Problem("", "the plan is nested too deeply")]) from None
        return Document(content, reading.marks, reading.problems, None, FilePath.cwd())
    file = FilePath(source)
    text = _read_text(file)
    reading = _Reading(str(file))
    root = _compose(text, str(file))
    if not isinstance(root, yaml.MappingNode):
        message = "the file is empty" if root is None else "a plan is a mapping of keys to values"
        line = None if root is None else root.start_mark.line + 1
        suggestion = "begin with start:, stores: and datasets:"
        raise PlanError([Problem("", message, line, suggestion=suggestion, file=str(file))])
    content = reading.build(root, (), ())
    folder = file.resolve().parent
    return Document(content, reading.marks, reading.problems, str(file), folder)


def _read_text(file: FilePath) -> str:
    try:
        with file.open("rb") as stream:
            raw = stream.read(MAX_PLAN_BYTES + 1)
    except OSError as error:
        reason = error.strerror or str(error)
        hint = "name the plan with --plan FILE"
        raise PlanError([Problem("", f"cannot read {file}: {reason}", suggestion=hint)]) from None
    if len(raw) > MAX_PLAN_BYTES:
        raise PlanError([Problem("", f"{file} is larger than {MAX_PLAN_BYTES} bytes")])
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        message = "the file is not UTF-8 text"
        raise PlanError([Problem("", message, line, file=str(file))]) from None


class _BoundedLoader(yaml.SafeLoader):
    """Refuses a document of more values than a plan may have while it is read."""

    _nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self._nodes += 1
        if self._nodes > 2 * MAX_PLAN_VALUES:  # keys are nodes, too
            raise PlanError([Problem("", f"the plan holds more than {MAX_PLAN_VALUES} values")])
        compose: Any = cast("Any", super()).compose_node  # untyped in its stubs
        return compose(parent, index)


def _compose(text: str, file: str) -> yaml.Node | None:
    """Parses without constructing: nodes keep their places, and nothing is interpreted yet."""
    problem: Problem
    try:
        compose: Any = cast("Any", yaml).compose  # untyped in its stubs
        return compose(text, Loader=_BoundedLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        # PyYAML quotes an undefined alias's name; a passphrase may begin with an asterisk.
        reason = re.sub(r"(undefined alias) .*", r"\1", error.problem or "cannot be parsed")
        problem = Problem(
            path="",
            message=f"this is not YAML: {reason}",
            line=mark.line + 1 if mark else None,
            column=mark.column + 1 if mark else None,
            suggestion="put text with special characters in quotes",
            file=file,
        )
    except yaml.YAMLError:
        problem = Problem("", "this is not YAML: it holds control characters", file=file)
    except RecursionError:
        problem = Problem("", "this is no plan: it is nested too deeply", file=file)
    raise PlanError([problem])


class _Reading:
    """Turns nodes or Python values into plain content, remembering places and mistakes."""

    def __init__(self, file: str | None) -> None:
        self.marks: dict[Path, Mark] = {}
        self._findings = Findings(self.marks, file)
        self._values = 0

    @property
    def problems(self) -> tuple[Problem, ...]:
        return tuple(self._findings.problems)

    def _count(self, file_problem: str) -> None:
        self._values += 1
        if self._values > MAX_PLAN_VALUES:
            raise PlanError([Problem("", file_problem)])

    # -- from YAML nodes

    def build(self, node: yaml.Node, path: Path, within: tuple[int, ...]) -> Any:
        """Builds the value of a node; ``within`` holds the nodes around it, to see loops."""
        self._count(f"aliases unfold to more than {MAX_PLAN_VALUES} values")
        self.marks.setdefault(path, _mark(path, node))
        if id(node) in within:
            self._findings.refuse(path, "an alias may not contain itself")
            return None
        if node.tag not in _PLAIN_TAGS:
            self._findings.refuse(path, "YAML tags are not taken", "write the plain value")
            return None
        inner = (*within, id(node))
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path, inner)
        if isinstance(node, yaml.SequenceNode):
            items = enumerate(cast("list[yaml.Node]", node.value))
            return [self.build(item, (*path, index), inner) for index, item in items]
        return self._scalar(cast("yaml.ScalarNode", node), path)

    def _scalar(self, node: yaml.ScalarNode, path: Path) -> Any:
        if _SURROGATE.search(str(node.value)):
            self._findings.refuse(path, "half a character stands here", "write it as itself")
            return None
        return _scalar(node)

    def _mapping(self, node: yaml.MappingNode, path: Path, within: tuple[int, ...]) -> Any:
        content: dict[str, Any] = {}
        first_line: dict[str, int] = {}
        merged: list[yaml.Node] = []
        for key_node, value_node in cast("list[tuple[yaml.Node, yaml.Node]]", node.value):
            if key_node.tag == _YAML_TAG + "merge":
                merged.append(value_node)
                continue
            if not isinstance(key_node, yaml.ScalarNode):
                self.marks.setdefault((*path, "?"), _mark((*path, "?"), key_node))
                self._findings.refuse((*path, "?"), "a key must be plain text")
                continue
            key = _SURROGATE.sub("?", str(key_node.value))
            below = (*path, key)
            if key in first_line:
                message = f"duplicate key '{key}': it is given on line {first_line[key]} already"
                place = _mark(below, key_node)
                self._findings.refuse(below, message, "keep one of them", at=place)
                continue
            first_line[key] = key_node.start_mark.line + 1
            self.marks[below] = _mark(below, key_node)
            content[key] = self.build(value_node, below, within)
        for value_node in merged:
            self._merge(content, value_node, path, within)
        return content

    def _merge(
        self, content: dict[str, Any], node: yaml.Node, path: Path, within: tuple[int, ...]
    ) -> None:
        """Takes a ``<<`` merge key: what the mapping says itself stands."""
        self._count(f"aliases unfold to more than {MAX_PLAN_VALUES} values")
        if isinstance(node, yaml.SequenceNode):
            for item in cast("list[yaml.Node]", node.value):
                self._merge(content, item, path, within)
            return
        if not isinstance(node, yaml.MappingNode):
            self._findings.refuse((*path, "<<"), "'<<' merges mappings only")
            return
        if id(node) in within:
            self._findings.refuse(path, "an alias may not contain itself")
            return
        inner = (*within, id(node))
        for key_node, value_node in cast("list[tuple[yaml.Node, yaml.Node]]", node.value):
            if key_node.tag == _YAML_TAG + "merge":
                self._merge(content, value_node, path, inner)
            elif isinstance(key_node, yaml.ScalarNode) and str(key_node.value) not in content:
                key = str(key_node.value)
                self.marks[(*path, key)] = _mark((*path, key), key_node)
                content[key] = self.build(value_node, (*path, key), inner)

    # -- from Python values

    def take(self, value: Any, path: Path) -> Any:
        """Copies a Python value into plain content that JSON and YAML can carry."""
        self._count(f"the plan holds more than {MAX_PLAN_VALUES} values")
        self.marks[path] = Mark(path)
        if isinstance(value, Mapping):
            items = cast("Mapping[Any, Any]", value).items()
            return {str(key): self.take(item, (*path, str(key))) for key, item in items}
        if isinstance(value, list | tuple):
            items_list = enumerate(cast("list[Any]", value))
            return [self.take(item, (*path, index)) for index, item in items_list]
        if value is None or isinstance(value, str | bool | int | float):
            return value
        if isinstance(value, datetime.timedelta):
            return f"{value.total_seconds():g} seconds"
        if isinstance(value, datetime.date | datetime.time):
            return value.isoformat()
        if isinstance(value, os.PathLike):
            return str(os.fspath(cast("os.PathLike[str]", value)))
        self._findings.refuse(path, f"a plan cannot hold a Python {type(value).__name__}")
        return None


def _mark(path: Path, node: yaml.Node) -> Mark:
    return Mark(path, node.start_mark.line + 1, node.start_mark.column + 1)


def _scalar(node: yaml.ScalarNode) -> Any:
    """Reads a scalar by YAML 1.2's core rules.

    PyYAML follows YAML 1.1, where ``02:00`` is the number 120 and ``no`` is false.
    """
    text = str(node.value)
    if node.style is not None:
        return text
    if text in _NULL:
        return None
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    if _INTEGER.match(text) and len(text) <= 18:
        return int(text)
    if _DECIMAL.match(text):
        return float(text)
    return text

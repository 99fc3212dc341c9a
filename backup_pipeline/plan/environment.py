"""Lays an environment over the plan and makes its local paths absolute."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any

from pydantic_core import PydanticCustomError

from backup_pipeline.plan.content import is_list, is_mapping
from backup_pipeline.plan.document import Document
from backup_pipeline.plan.problems import Findings, Mark, Path
from backup_pipeline.plan.references import is_reference, parse_reference
from backup_pipeline.plan.schema import check_long_name

__all__ = ["Variant", "variants"]

_NOT_OVERLAID = ("environments", "deployment")


@dataclass(frozen=True, slots=True)
class Variant:
    """The plan as one environment makes it.

    Attributes:
        name: The environment's name, None for the plan without any.
        content: The merged plan, with no ``environments``.
        marks: Where each of its values was written.
        chosen: Whether it is the one that counts now.
    """

    name: str | None
    content: dict[str, Any]
    marks: dict[Path, Mark]
    chosen: bool


def variants(
    document: Document, environ: Mapping[str, str], findings: Findings
) -> tuple[Variant, list[Variant]]:
    """Makes the plan that counts in this deployment, and those of all other environments.

    The others are made so that their mistakes show before the day they are deployed.

    Args:
        document: The plan as written.
        environ: Variables that ``deployment`` may refer to.
        findings: Takes mistakes of ``deployment`` and ``environments``.
    """
    written = document.content.get("environments")
    overlays: dict[str, Any] = {}
    if is_mapping(written):
        overlays = written
    elif written is not None:
        findings.refuse(("environments",), "not a mapping", "write {name: {what differs}}")
    deployment = _deployment(document.content, environ, findings)
    if overlays and "deployment" not in document.content:
        findings.report(
            ("environments",), "nothing picks one of them", "add deployment: {env: BACKUP_ENV}"
        )
    base = {key: item for key, item in document.content.items() if key != "environments"}
    made: dict[str | None, Variant] = {}
    for name, overlay in overlays.items():
        if not is_mapping(overlay):
            findings.refuse(("environments", name), "not a mapping", "write what differs in it")
            continue
        made[name] = _overlay(document, base, name, overlay, findings, name == deployment)
    chosen = made.pop(deployment, None)
    if chosen is None:
        marks = _without(document.marks, ("environments",))
        chosen = Variant(None, copy.deepcopy(base), marks, True)
    if deployment is None:
        chosen.content.pop("deployment", None)
    else:
        chosen.content["deployment"] = deployment
    for variant in (chosen, *made.values()):
        if variant is not chosen:
            variant.content["deployment"] = variant.name
        _make_absolute(variant.content, document.folder)
    return chosen, list(made.values())


def _deployment(
    content: Mapping[str, Any], environ: Mapping[str, str], findings: Findings
) -> str | None:
    written = content.get("deployment")
    if written is None:
        return None
    try:
        if not is_mapping(written):
            return check_long_name(written)
        reference = parse_reference(written)
        named = reference.find(environ)
        if named is None:
            gone = f"{reference} is not there, and no default is given"
            findings.refuse(("deployment",), gone, "set it, or add default: dev")
            return None
        return check_long_name(named)
    except PydanticCustomError as error:
        context = error.context or {}
        findings.refuse(("deployment",), context["message"], context.get("suggestion"))
        return None


def _overlay(
    document: Document,
    base: Mapping[str, Any],
    name: str,
    overlay: Mapping[str, Any],
    findings: Findings,
    chosen: bool,
) -> Variant:
    origin: Path = ("environments", name)
    kept: dict[str, Any] = {}
    for key, item in overlay.items():
        if key in _NOT_OVERLAID:
            findings.refuse((*origin, key), "an environment cannot change this", "remove it")
        else:
            kept[key] = item
    marks = _without(document.marks, ("environments",))
    merging = _Merging(document.marks, marks)
    content = merging.merge(copy.deepcopy(dict(base)), kept, (), origin)
    return Variant(name, content, marks, chosen)


class _Merging:
    """Lays one mapping over another and keeps track of where each value was written."""

    def __init__(self, written: Mapping[Path, Mark], marks: dict[Path, Mark]) -> None:
        self._written = written
        self._marks = marks

    def merge(
        self, below: dict[str, Any], above: Mapping[str, Any], path: Path, origin: Path
    ) -> dict[str, Any]:
        """Merges deeply: mappings key by key, all else replaced; null takes a key away."""
        for key, value in above.items():
            here, there = (*path, key), (*origin, key)
            known = below.get(key)
            if is_mapping(value) and isinstance(known, str) and _has_short_form(here):
                known = {"url": known}
                self._marks[(*here, "url")] = self._marks.get(here, Mark(here))
            if value is None:
                below.pop(key, None)
                self._forget(here, known)
            elif is_mapping(known) and is_mapping(value) and _joins(known, value, here):
                mapping = known
                below[key] = self.merge(mapping, value, here, there)
            else:
                self._forget(here, known)
                below[key] = copy.deepcopy(value)
                for tail in _tails(value):
                    if there + tail in self._written:
                        self._marks[here + tail] = self._written[there + tail]
        return below

    def _forget(self, path: Path, value: Any) -> None:
        for tail in _tails(value):
            self._marks.pop(path + tail, None)


def _has_short_form(path: Path) -> bool:
    return (len(path) == 2 and path[0] == "stores") or path == ("scratch",)


def _joins(below: Any, above: Any, path: Path) -> bool:
    """Tells whether two mappings are merged; references are values, replaced as a whole."""
    return len(path) == 1 or not (is_reference(below) or is_reference(above))


def _tails(value: Any) -> Iterator[Path]:
    yield ()
    if is_mapping(value):
        for key, item in value.items():
            yield from ((key, *tail) for tail in _tails(item))
    elif is_list(value):
        for index, item in enumerate(value):
            yield from ((index, *tail) for tail in _tails(item))


def _without(marks: Mapping[Path, Mark], prefix: Path) -> dict[Path, Mark]:
    size = len(prefix)
    return {path: mark for path, mark in marks.items() if path[:size] != prefix}


def _make_absolute(content: dict[str, Any], folder: FilePath) -> None:
    """Makes the paths of stores, scratch, sources and ``{file: …}`` references absolute."""
    stores = content.get("stores")
    if is_mapping(stores):
        for name, store in stores.items():
            stores[name] = _absolute_place(store, ("url",), folder)
    if "scratch" in content:
        content["scratch"] = _absolute_place(content["scratch"], ("url",), folder)
    datasets = content.get("datasets")
    if is_list(datasets):
        for dataset in datasets:
            if is_mapping(dataset) and "source" in dataset:
                dataset["source"] = _absolute_source(dataset["source"], folder)
            if is_mapping(dataset):
                _absolute_suites(dataset.get("override"), folder)
    policies = content.get("policies")
    for policy in policies.values() if is_mapping(policies) else ():
        _absolute_suites(policy, folder)
    _absolute_references(content, folder, ())


def _absolute_suites(rules: Any, folder: FilePath) -> None:
    """Makes the paths of the suites of expectations in a policy or an override absolute."""
    drill = rules.get("drill") if is_mapping(rules) else None
    tests = drill.get("tests") if is_mapping(drill) else None
    for test in tests if is_list(tests) else ():
        _absolute_suite(test, folder)
    _absolute_suite(rules.get("completeness") if is_mapping(rules) else None, folder)


def _absolute_suite(written: Any, folder: FilePath) -> None:
    if is_mapping(written) and str(written.get("suite", "")).endswith(".json"):
        written["suite"] = _absolute_place(written["suite"], (), folder)


def _absolute_source(source: Any, folder: FilePath) -> Any:
    if not is_mapping(source):
        return _absolute_place(source, (), folder)
    kinds = source
    for kind in ("files", "day_paths", "sqlite", "duckdb", "delta"):
        if kind in kinds:
            kinds[kind] = _absolute_place(kinds[kind], ("path",), folder)
    if is_mapping(kinds.get("iceberg")):
        kinds["iceberg"] = _absolute_place(kinds["iceberg"], ("metadata",), folder)
    return kinds


def _absolute_place(place: Any, keys: tuple[str, ...], folder: FilePath) -> Any:
    """Makes a path absolute that is written as text, or below one of the keys of a mapping."""
    if isinstance(place, str) and place and "://" not in place:
        return os.path.normpath(folder / FilePath(place).expanduser())
    if is_mapping(place):
        mapping = place
        for key in keys:
            if key in mapping:
                mapping[key] = _absolute_place(mapping[key], (), folder)
    return place


def _absolute_references(value: Any, folder: FilePath, path: Path) -> None:
    if is_mapping(value):
        mapping = value
        if len(path) > 1 and is_reference(mapping) and "file" in mapping:
            mapping["file"] = _absolute_place(mapping["file"], (), folder)
        for key, item in mapping.items():
            _absolute_references(item, folder, (*path, key))
    elif is_list(value):
        for index, item in enumerate(value):
            _absolute_references(item, folder, (*path, index))

"""What must hold for each dataset of a plan."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatch
from typing import Any

from backup_pipeline.plan.content import is_list, is_mapping
from backup_pipeline.plan.dayform import has_day
from backup_pipeline.plan.model import Tier
from backup_pipeline.plan.problems import Findings, Path, show_path
from backup_pipeline.plan.references import Reference, is_reference, literal_secrets
from backup_pipeline.plan.resolve import dataset_keys
from backup_pipeline.plan.schema import DatasetWritten, PlanWritten
from backup_pipeline.plan.sourcekinds import (
    PLACEHOLDERS,
    fill_asset,
    find_kind,
    placeholders,
)
from backup_pipeline.plan.urlkinds import URL_KINDS

__all__ = ["check_dataset", "check_duplicates"]


def check_duplicates(found: list[tuple[str, Path]], findings: Findings) -> None:
    """Reports dataset keys that stand in a plan twice.

    Args:
        found: Each key with its place, in the plan's order.
        findings: Takes the mistakes.
    """
    first: dict[str, Path] = {}
    for key, path in found:
        before = first.setdefault(key, path)
        if before is not path:
            line = findings.place(before).line
            where = f"line {line}" if line else show_path(before)
            findings.report(path, f"dataset '{key}' stands on {where} already", "keep one of them")


def check_dataset(
    plan: PlanWritten,
    dataset: DatasetWritten,
    tiers: dict[str, Tier],
    path: Path,
    findings: Findings,
) -> None:
    """Reports every rule that one entry of ``datasets`` breaks.

    Args:
        plan: The usable parts of the plan.
        dataset: The entry.
        tiers: Its tiers; empty where they could not be made out.
        path: Where it stands.
        findings: Takes the mistakes.
    """
    asset_paths = [(*path, "asset"), (*path, "assets")]
    if dataset.asset is None and dataset.assets is None:
        message = "the key of the Dagster asset is missing"
        findings.report(path, message, "write asset: vision/train_images", needs=asset_paths)
    if dataset.source is None:
        message = "the source is missing"
        findings.report((*path, "source"), message, "write source: /path or s3://bucket/prefix")
    else:
        _check_source(dataset, path, findings)
        _check_slices(dataset, tiers, path, findings)
        _check_containment(plan, dataset, path, findings)
    if dataset.keep_slices is not None and dataset.holds == "whole":
        message = "keep_slices goes with holds: slice"
        findings.report((*path, "keep_slices"), message, "remove it", needs=[(*path, "holds")])
    if dataset.slices_checked is not None and dataset.holds == "whole":
        message = "slices_checked goes with holds: slice"
        findings.report((*path, "slices_checked"), message, "remove it", needs=[(*path, "holds")])


def _check_source(dataset: DatasetWritten, path: Path, findings: Findings) -> None:
    kind, options = next(iter((dataset.source or {}).items()))
    source = (*path, "source")
    for tail in literal_secrets(options):
        findings.report(
            (*source, kind, *tail),
            "a secret does not belong in the plan",
            "name where it is: {env: NAME} or {file: path}",
        )
    texts = list(_texts(options))
    found = find_kind(kind)
    if found is not None:
        for written in (name for text in texts for name in placeholders(text)):
            name = "day" if written.startswith("day:") else written
            if name not in PLACEHOLDERS:
                message = f"unknown placeholder '{{{name}}}'"
                known = "known: {asset} and {day}; a brace of the path itself is doubled"
                findings.report(source, message, known)
            elif name == "day" and not found.slices:
                findings.report(source, f"source {kind} has no days", "write {day_paths: …}")
    shared = not any("{asset}" in text for text in texts)
    apart = found.per_asset if found is not None else kind == "asset"
    if len(dataset.assets or []) > 1 and shared and not apart:
        message = "several assets have one source, so each would store the same"
        findings.report(source, message, "write {asset} where their key stands")
    if dataset.exclude and not (found is not None and found.excludes):
        findings.report((*path, "exclude"), f"source {kind} has no paths to exclude", "remove it")


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif is_mapping(value) and not is_reference(value):
        for item in value.values():
            yield from _texts(item)
    elif is_list(value):
        for item in value:
            yield from _texts(item)


def _check_slices(
    dataset: DatasetWritten, tiers: dict[str, Tier], path: Path, findings: Findings
) -> None:
    kind = next(iter(dataset.source or {}))
    holds = (*path, "holds")
    needs = [(*path, "source")]
    found = find_kind(kind)
    options = (dataset.source or {})[kind]
    by_day = kind == "day_paths" or any(has_day(text) for text in _texts(options))
    if dataset.holds == "whole":
        if by_day and found is not None and found.slices:
            said = "holds" in dataset.model_fields_set
            message = "day paths hold one slice a day, not the whole dataset"
            place = holds if said else (*path, "source")
            findings.report(place, message, "write holds: slice", needs=needs)
        return
    by_url = kind in {one.name for one in URL_KINDS}
    if found is not None and (not found.slices or (by_url and not by_day)):
        message = f"source {kind} cannot tell one day's slice from the rest"
        findings.report(holds, message, "use {day_paths: …{day}…}, or holds: whole", needs=needs)
    first = next(iter(tiers.values()), None)
    if first is not None and first.every not in ("hour", "day"):
        message = f"the first tier '{first.name}' runs every {first.every}: most slices would miss"
        findings.report(holds, message, "make the first tier every: day")
    override = dataset.override
    if override is not None and override.on_change is not None and override.on_change.enabled:
        message = "a slice is taken after its day closed, so changes start nothing"
        findings.report((*path, "override", "on_change"), message, "remove it", needs=[holds])


def _check_containment(
    plan: PlanWritten, dataset: DatasetWritten, path: Path, findings: Findings
) -> None:
    """A source that holds a store would back up its own backups, and more of them each time."""
    places: list[tuple[str, tuple[str, ...]]] = []
    for name, store in plan.stores.items():
        places.append((f"store '{name}'", _location(store.url, store.endpoint)))
    if plan.scratch is not None:
        places.append(("the scratch directory", _location(plan.scratch.url, None)))
    options = next(iter((dataset.source or {}).values()))
    written = options.get("path") or options.get("url")
    if not isinstance(written, str):
        return
    endpoint = options.get("endpoint")
    for key in dataset_keys(dataset):
        source = _location(fill_asset(written, key), endpoint)
        for what, place in places:
            inner = place[: len(source)] == source and place
            excluded = "/".join(place[len(source) :])
            if source and inner and not _excludes(dataset.exclude, excluded):
                message = f"the source holds {what}, so backups would back up themselves"
                findings.report((*path, "source"), message, "move one of them, or exclude it")


def _location(url: object, endpoint: object) -> tuple[str, ...]:
    """Splits a place into parts that can be compared; empty where it is not known now."""
    if not isinstance(url, str) or isinstance(endpoint, Reference):
        return ()
    scheme, _, rest = url.partition("://") if "://" in url else ("file", "", url)
    parts = [part for part in rest.split("/") if part]
    return (scheme, str(endpoint or "") if scheme == "s3" else "", *parts)


def _excludes(globs: list[str], relative: str) -> bool:
    parts = relative.split("/")
    above = ["/".join(parts[:length]) for length in range(1, len(parts) + 1)]
    patterns = [glob.removesuffix("/**").strip("/") for glob in globs]
    return any(fnmatch(name, pattern) for name in above for pattern in patterns)

"""What Dagster's event log knows of datasets' own assets; also as a process that says it."""

import json
import sys
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import dagster as dg

__all__ = ["Writes", "asset_writes", "main", "reported_coverage", "run_durations"]

RUNS_LOOKED_AT = 20
PAGE = 1000
URI_NAMES = ("uri", "dagster/uri")
"""Metadata in which IO managers, and assets themselves, say where they wrote; the first counts."""


def run_durations(instance: dg.DagsterInstance, dataset: str) -> list[float]:
    """Seconds of the latest runs that materialized a dataset's asset, newest first.

    A run counts whole, whatever else it computed: with an asset in a run of many, that is more
    than the asset's own share.
    """
    records = instance.fetch_materializations(_key(dataset), limit=RUNS_LOOKED_AT).records
    found: list[float] = []
    for run_id in dict.fromkeys(one.run_id for one in records if one.run_id):
        run = instance.get_run_record_by_id(run_id)
        if run is not None and run.start_time and run.end_time:
            found.append(run.end_time - run.start_time)
    return found


def asset_writes(instance: dg.DagsterInstance, dataset: str) -> dict[str, dict[str, str]]:
    """How a dataset's asset was last written: by partition, or under "" where it has none.

    What was written last comes first.

    Returns:
        ``event``, which no other materialization has, and ``place``, where it says one.
    """
    found: dict[str, dict[str, str]] = {}
    cursor: str | None = None
    while True:
        page = instance.fetch_materializations(_key(dataset), limit=PAGE, cursor=cursor)
        for record in page.records:
            materialization = record.asset_materialization
            partition = record.partition_key or ""
            if partition not in found:
                place = _place((materialization.metadata if materialization else None) or {})
                found[partition] = {"event": _event(record)} | ({"place": place} if place else {})
        cursor = page.cursor
        if not page.has_more:
            return found


class Writes:
    """``asset_writes`` of many assets, read anew only where something was materialized since."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[str, dict[str, dict[str, str]]]] = {}

    def take(self, instance: dg.DagsterInstance, dataset: str) -> dict[str, dict[str, str]]:
        """What ``asset_writes`` says now."""
        newest = instance.fetch_materializations(_key(dataset), limit=1).records
        event = _event(newest[0]) if newest else ""
        known = self._known.get(dataset)
        if known is None or known[0] != event:
            known = self._known[dataset] = event, asset_writes(instance, dataset)
        return known[1]


def _event(record: dg.EventLogRecord) -> str:
    """What no other event is called: ids alone may come again."""
    return f"{record.storage_id} {record.timestamp}"


def _place(metadata: Mapping[str, dg.MetadataValue]) -> str:
    """Where an asset says that it was written; empty where it says nothing."""
    said = {name: str(entry.value) for name, entry in metadata.items() if entry.value}
    path = said.get("path", "")
    uri = next((said[name] for name in URI_NAMES if name in said), None)
    if uri is None:
        return path
    # IO managers of buckets say in ``uri`` where the asset is, and only in ``path`` its partition.
    parts = urlsplit(uri)
    whole = f"{parts.scheme}://{parts.netloc}/{path.lstrip('/')}"
    return whole if whole.startswith(f"{uri.rstrip('/')}/") else uri


def reported_coverage(instance: dg.DagsterInstance, posture: str) -> dict[str, Any] | None:
    """What of the asset graph is protected, as the posture's asset last said it.

    Args:
        instance: The instance.
        posture: The asset's key, such as ``backup/posture``.
    """
    records = instance.fetch_materializations(_key(posture), limit=1).records
    materialization = records[0].asset_materialization if records else None
    entry = materialization.metadata.get("backup/coverage") if materialization else None
    found: Any = entry.value if entry is not None else None
    return found if isinstance(found, dict) else None


def _key(dataset: str) -> dg.AssetKey:
    return dg.AssetKey(dataset.split("/"))


_ANSWERS = {"coverage": reported_coverage, "durations": run_durations, "writes": asset_writes}


def main() -> int:
    """Read a question from standard input, and answer it by dataset."""
    question = json.load(sys.stdin)
    with dg.DagsterInstance.get() as instance:
        answer = {key: _ANSWERS[question["ask"]](instance, key) for key in question["datasets"]}
    print(json.dumps(answer))
    return 0


if __name__ == "__main__":
    sys.exit(main())

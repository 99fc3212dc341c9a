"""What Dagster's event log knows of datasets' own assets; also as a process that says it."""

import json
import sys
from typing import Any

import dagster as dg

__all__ = ["asset_places", "main", "reported_coverage", "run_durations"]

RUNS_LOOKED_AT = 20
PAGE = 1000
PLACE_NAMES = ("uri", "dagster/uri", "path")
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


def asset_places(instance: dg.DagsterInstance, dataset: str) -> dict[str, str]:
    """Where a dataset's asset was last written: by partition, or under "" where it has none.

    A materialization that says no place gives none for its partition.
    """
    found: dict[str, str] = {}
    cursor: str | None = None
    while True:
        page = instance.fetch_materializations(_key(dataset), limit=PAGE, cursor=cursor)
        for record in page.records:
            materialization = record.asset_materialization
            metadata = (materialization.metadata if materialization else None) or {}
            values = [metadata[name].value for name in PLACE_NAMES if name in metadata]
            found.setdefault(record.partition_key or "", str(values[0]) if values else "")
        cursor = page.cursor
        if not page.has_more:
            return {partition: place for partition, place in found.items() if place}


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


_ANSWERS = {"coverage": reported_coverage, "durations": run_durations, "places": asset_places}


def main() -> int:
    """Read a question from standard input, and answer it by dataset."""
    question = json.load(sys.stdin)
    with dg.DagsterInstance.get() as instance:
        answer = {key: _ANSWERS[question["ask"]](instance, key) for key in question["datasets"]}
    print(json.dumps(answer))
    return 0


if __name__ == "__main__":
    sys.exit(main())

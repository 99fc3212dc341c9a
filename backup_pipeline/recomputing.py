"""How long runs took that computed datasets: a process of its own that loads Dagster."""

import json
import sys

import dagster as dg

__all__ = ["main", "run_durations"]

RUNS_LOOKED_AT = 20


def run_durations(instance: dg.DagsterInstance, dataset: str) -> list[float]:
    """Seconds of the latest runs that materialized a dataset's asset, newest first.

    A run counts whole, whatever else it computed: with an asset in a run of many, that is more
    than the asset's own share.
    """
    records = instance.fetch_materializations(
        dg.AssetKey(dataset.split("/")), limit=RUNS_LOOKED_AT
    ).records
    found: list[float] = []
    for run_id in dict.fromkeys(one.run_id for one in records if one.run_id):
        run = instance.get_run_record_by_id(run_id)
        if run is not None and run.start_time and run.end_time:
            found.append(run.end_time - run.start_time)
    return found


def main() -> int:
    """Read keys from standard input, and answer with durations by key."""
    with dg.DagsterInstance.get() as instance:
        print(json.dumps({key: run_durations(instance, key) for key in json.load(sys.stdin)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""How long ticks of the change sensor take for many datasets, none of which changed.

    python -m benchmarks.sensor_tick [DATASETS [FILES]]

Real directories, Dagster's default storage (SQLite) in a directory of its own, and the sensor as
the daemon evaluates it. Each dataset has its newest snapshot's materialization in the event log.
"""

from __future__ import annotations

import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any


def plan(root: Path, count: int) -> dict[str, Any]:
    """A plan with so many directories that are backed up when they change."""
    return {
        "start": f"{datetime.now(UTC) - timedelta(days=3):%Y-%m-%d}",
        "encryption": "none",
        "stores": {"local": str(root / "store")},
        "policies": {
            "default": {
                "tiers": [{"name": "local", "every": "day", "kind": "full"}],
                "on_change": {"at_most_every": "1 second"},
            }
        },
        "datasets": [
            {"asset": f"lake/table_{number}", "source": str(root / "data" / str(number))}
            for number in range(count)
        ],
    }


def write(root: Path, count: int, files: int) -> None:
    """Small files, in a directory for each dataset."""
    for number in range(count):
        folder = root / "data" / str(number)
        folder.mkdir(parents=True)
        for name in range(files):
            (folder / f"{name}.txt").write_text(f"{number} {name}")


def main() -> int:
    """Measure, and print a table."""
    count, files = (int(word) for word in [*sys.argv[1:], "500", "20"][:2])
    import dagster as dg

    from backup_pipeline.definitions import build_backup_defs
    from backup_pipeline.metadata import FINGERPRINT_TAG, SNAPSHOT_TAG, STATUS_TAG, key, short
    from backup_pipeline.plan import load_plan
    from backup_pipeline.runner import Runner

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write(root, count, files)
        document = plan(root, count)
        defs = build_backup_defs(document)
        (root / "home").mkdir()
        with dg.DagsterInstance.local_temp(str(root / "home")) as instance:
            with Runner(load_plan(document)) as runner:
                for dataset in runner.datasets():
                    tags = {
                        FINGERPRINT_TAG: short(runner.fingerprint(dataset)),
                        SNAPSHOT_TAG: "0" * 32,
                        STATUS_TAG: "complete",
                    }
                    captured = dg.MetadataValue.timestamp(time.time() - 3600)
                    instance.report_runless_asset_event(
                        dg.AssetMaterialization(
                            ["backup", "local", *dataset.split("/")],
                            partition=f"{datetime.now(UTC):%Y-%m-%d}",
                            metadata={key("captured_at"): captured},
                            tags=tags,
                        )
                    )
            repository, cursor, looked, number = defs.get_repository_def(), None, 0, 0
            print(f"{count} datasets of {files} files\n  tick  seconds  datasets  asked for")
            while looked < count:
                context = dg.build_sensor_context(
                    instance=instance, cursor=cursor, repository_def=repository
                )
                began = time.perf_counter()
                answer = defs.resolve_sensor_def("backup_change_sensor").evaluate_tick(context)
                took_s, number, cursor = time.perf_counter() - began, number + 1, answer.cursor
                requests = answer.run_requests or []
                seen = int((answer.skip_message or "0 ").split()[0])
                looked += seen
                print(f"{number:>6} {took_s:>8.2f} {seen:>9} {len(requests):>10}")
                if requests:
                    return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

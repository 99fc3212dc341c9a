"""How long a code location takes to load, with 3 and with 300 datasets in three tiers.

    python -m benchmarks.load_time [COUNT ...]

Each count runs in a process of its own, so that imports count too.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from typing import Any

COUNTS = (3, 300)
TIERS: list[dict[str, Any]] = [
    {"name": "local", "every": "day", "kind": "incremental", "full_every": "4 weeks"},
    {"name": "cloud", "every": "week", "weekday": "sunday", "kind": "full"},
    {"name": "offsite", "every": "month", "kind": "full"},
]


def plan(count: int) -> dict[str, Any]:
    """A plan with so many datasets, each listed by itself."""
    return {
        "start": "2026-01-01",
        "encryption": "none",
        "stores": {tier["name"]: f"file:///srv/backups/{tier['name']}" for tier in TIERS},
        "policies": {"default": {"tiers": TIERS}},
        "datasets": [
            {"asset": f"lake/table_{number}", "source": f"/data/lake/{number}"}
            for number in range(count)
        ],
    }


def measure(count: int) -> dict[str, float]:
    """Load the definitions once in this process.

    Returns:
        Seconds of importing, building and resolving, and what was resolved.
    """
    began = time.perf_counter()
    import dagster as dg

    from backup_pipeline.definitions import build_backup_defs

    imported = time.perf_counter()
    defs = build_backup_defs(plan(count))
    built = time.perf_counter()
    dg.Definitions.validate_loadable(defs)
    resolved = time.perf_counter()
    graph = defs.resolve_asset_graph()
    return {
        "datasets": count,
        "assets": len(graph.materializable_asset_keys),
        "checks": len(list(graph.asset_check_keys)),
        "import_s": imported - began,
        "build_s": built - imported,
        "resolve_s": resolved - built,
        "total_s": resolved - began,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def main() -> int:
    """Measure each count in a process of its own, and print a table."""
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(measure(int(sys.argv[2]))))
        return 0
    counts = [int(word) for word in sys.argv[1:]] or list(COUNTS)
    names = ("datasets", "assets", "checks", "import_s", "build_s", "resolve_s", "total_s")
    print("".join(f"{name:>11}" for name in (*names, "peak_mib")))
    for count in counts:
        answer = subprocess.run(
            [sys.executable, "-m", "benchmarks.load_time", "--one", str(count)],
            capture_output=True,
            text=True,
            check=True,
        )
        row = json.loads(answer.stdout)
        whole = "".join(f"{int(row[name]):>11}" for name in names[:3])
        times = "".join(f"{row[name]:>11.2f}" for name in names[3:])
        print(f"{whole}{times}{row['peak_mib']:>11.0f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

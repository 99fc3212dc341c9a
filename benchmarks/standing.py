"""How long a posture takes over many datasets, and what it asks of the stores.

    python -m benchmarks.standing [DATASETS]

Two tiers on local directories; every dataset has five days of snapshots.
"""

from __future__ import annotations

import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from backup_pipeline.engine.store.wrappers import CountingStore
from backup_pipeline.plan import load_plan
from backup_pipeline.posture.page import page
from backup_pipeline.runner import Runner
from backup_pipeline.runner.places import OpenStores

DATASETS, DAYS = 300, 5


def prepare(root: Path, count: int) -> tuple[dict[str, Any], datetime]:
    """Datasets with a history; their plan, and the time at its end."""
    begins = datetime.now(UTC).replace(hour=2, minute=0) - timedelta(days=DAYS)
    document: dict[str, Any] = {
        "start": begins.date().isoformat(),
        "encryption": "none",
        "stores": {name: str(root / name) for name in ("local", "cloud")},
        "policies": {"default": {"tiers": [{"name": "local"}, {"name": "cloud"}]}},
        "datasets": [
            {"asset": f"lake/table_{number}", "source": str(root / "data" / str(number))}
            for number in range(count)
        ],
    }
    for number in range(count):
        folder = root / "data" / str(number)
        folder.mkdir(parents=True)
        (folder / "one").write_bytes(bytes(1000))
    now = [begins]
    with Runner(load_plan(document), clock=lambda: now[0]) as runner:
        for day in range(DAYS):
            now[0] = begins + timedelta(days=day)
            for key in runner.datasets():
                runner.backup(key)
                if day:
                    runner.backup(key, "cloud")
    return document, now[0]


def main() -> int:
    """Measure a posture and its page, and print what they took."""
    count = int(sys.argv[1]) if sys.argv[1:] else DATASETS
    counting: dict[str, CountingStore] = {}
    original: Any = OpenStores.store

    def counted(self: OpenStores, name: str) -> Any:
        if name not in counting:
            counting[name] = CountingStore(original(self, name))
        return counting[name]

    with tempfile.TemporaryDirectory() as folder:
        document, now = prepare(Path(folder), count)
        OpenStores.store = counted  # type: ignore[method-assign]
        with Runner(load_plan(document), clock=lambda: now) as runner:
            began = time.perf_counter()
            posture = runner.posture()
            asked = time.perf_counter()
            size = len(page(posture))
            drawn = time.perf_counter()
    calls = {name: dict(one.calls) for name, one in counting.items()}
    tiers = len(posture.tiers)
    print(f"{count} datasets, {tiers} repositories: {asked - began:.2f} s to ask", end=", ")
    print(f"{drawn - asked:.2f} s for a page of {size / 1e6:.1f} MB; requests: {calls}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

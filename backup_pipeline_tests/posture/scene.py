"""A plan over local stores, with a clock that tests set."""

from __future__ import annotations

import random
from datetime import datetime
from pathlib import Path
from typing import Any

from backup_pipeline.engine.keys import new_key_file
from backup_pipeline.plan import Plan, load_plan
from backup_pipeline.runner import Runner

__all__ = ["DATASET", "Scene", "moment"]

KEY = new_key_file()
DATASET = "vision/a"
DAILY = {"every": "day", "kind": "incremental", "full_every": "4 weeks"}


def moment(text: str) -> datetime:
    """``11-22T10:00`` in the year that the tests play in (UTC)."""
    return datetime.fromisoformat(f"2026-{text}+00:00")


class Scene:
    """Datasets, stores and a clock."""

    def __init__(self, root: Path, *datasets: str, **more: Any) -> None:
        self.root = root
        self.now = moment("11-20T02:00")
        self.datasets = datasets or (DATASET,)
        for name in self.datasets:
            (root / "data" / name).mkdir(parents=True)
            (root / "data" / name / "one.bin").write_bytes(random.Random(7).randbytes(40_000))
        self.environ = {"TEST_KEY": KEY, **more.pop("environ", {})}
        stores = {name: str(root / "stores" / name) for name in ("local", "cloud")}
        self.document: dict[str, Any] = {
            "start": "2026-11-20",
            "stores": {**stores, **more.pop("stores", {})},
            "keys": {"main": {"key_file": {"env": "TEST_KEY"}}},
            "policies": {
                "default": {
                    "tiers": [{"name": "local", **DAILY}, {"name": "cloud", **DAILY}],
                    **more.pop("policy", {}),
                }
            },
            "datasets": [{"assets": list(self.datasets), "source": f"{root}/data/{{asset}}"}],
            **more,
        }

    @property
    def plan(self) -> Plan:
        return load_plan(self.document, environ=self.environ)

    def runner(self) -> Runner:
        return Runner(self.plan, clock=lambda: self.now, environ=self.environ)

    def at(self, text: str) -> Scene:
        self.now = moment(text)
        return self

    def back_up(self, tier: str = "local") -> None:
        """Back every dataset up, as the schedule would at this moment."""
        with self.runner() as runner:
            for name in self.datasets:
                runner.backup(name, tier)

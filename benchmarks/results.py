"""The samples as they are kept: one JSON file per data set, to which rounds may be added."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

__all__ = [
    "OtherVersions",
    "load",
    "machine",
    "median",
    "merged",
    "middle_limits",
    "quiet",
    "rounds_in",
    "save",
    "spread",
]

RESULTS = Path(__file__).parent / "results"

DISTURBED = 0.1
"""Share of the machine that everything else may take while a tool runs."""
ENOUGH_ROUNDS = 5


class OtherVersions(Exception):
    """Rounds of one code or scale are not to be mixed with those of another."""


def machine(cache: Path) -> dict[str, Any]:
    """What the figures were measured on, and how busy it was."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "memory_gib": round(memory / 2**30, 1),
        "file_system": _file_system(cache),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        "load_before": round(os.getloadavg()[0], 2),
    }


def _file_system(path: Path) -> str:
    best = ("", "unknown")
    for line in Path("/proc/mounts").read_text().splitlines():
        _, mount, kind, *_ = line.split()
        if path.is_relative_to(mount) and len(mount) > len(best[0]):
            best = (mount, kind)
    return best[1]


def _path(name: str, scale: float, cache: Path) -> Path:
    if scale == 1:
        return RESULTS / f"{name}.json"
    return cache / "results" / f"{name}-scale-{scale:g}.json"


def load(name: str, scale: float, cache: Path) -> dict[str, Any] | None:
    """What was measured so far; None where nothing was."""
    path = _path(name, scale, cache)
    return json.loads(path.read_text()) if path.exists() else None


def save(name: str, scale: float, cache: Path, document: Mapping[str, Any]) -> Path:
    """Keep the samples: in benchmarks/results at full scale, else only in the cache.

    Returns:
        The file.
    """
    path = _path(name, scale, cache)
    path.parent.mkdir(exist_ok=True)
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(document, indent=1) + "\n")
    unfinished.replace(path)
    return path


def merged(earlier: Mapping[str, Any] | None, new: Mapping[str, Any]) -> dict[str, Any]:
    """Earlier rounds and new ones as one document.

    Raises:
        OtherVersions: A tool that both measured has another version now.
    """
    if earlier is None:
        return dict(new)
    for name in earlier["versions"].keys() & new["versions"].keys():
        if earlier["versions"][name] != new["versions"][name]:
            raise OtherVersions(
                f"the rounds so far are of {earlier['versions'][name]}, this is"
                f" {new['versions'][name]}: leave --append out to begin anew"
            )
    samples: dict[str, dict[str, list[Any]]] = {}
    stored: dict[str, dict[str, float]] = {}
    for one in (earlier, new):
        for row, by_tool in one["samples"].items():
            for tool, found in by_tool.items():
                kept = samples.setdefault(row, {}).setdefault(tool, [])
                samples[row][tool] = [*kept, *found]
        for row, by_tool in one["stored"].items():
            stored.setdefault(row, {}).update(by_tool)
    return {
        "versions": {**earlier["versions"], **new["versions"]},
        "data": {**earlier["data"], **new["data"]},
        "samples": samples,
        "stored": stored,
        "runs": [*earlier["runs"], *new["runs"]],
    }


def quiet(document: Mapping[str, Any]) -> dict[str, dict[str, list[Any]]]:
    """The samples without those that other work disturbed, where enough of a tool's are left."""
    cores = document["runs"][-1]["cores"]
    found: dict[str, dict[str, list[Any]]] = {}
    for row, by_tool in document["samples"].items():
        for tool, samples in by_tool.items():
            left = [one for one in samples if one["others_s"] <= DISTURBED * one["wall_s"] * cores]
            enough = len(left) >= ENOUGH_ROUNDS
            found.setdefault(row, {})[tool] = left if enough else list(samples)
    return found


def median(samples: Sequence[Mapping[str, float]], what: str) -> float:
    """The median over the samples that have it."""
    return statistics.median(sample[what] for sample in samples if what in sample)


def spread(samples: Sequence[Mapping[str, float]], what: str) -> tuple[float, float]:
    """The least and the most."""
    values = [sample[what] for sample in samples]
    return min(values), max(values)


def rounds_in(document: Mapping[str, Any]) -> int:
    """How many rounds there are of the tool that has the fewest."""
    return min(len(found) for found in document["samples"]["first"].values())


def middle_limits(document: Mapping[str, Any]) -> dict[str, float]:
    """The machine's limits: medians over the runs that the rounds were collected in."""
    runs = [run["limits"] for run in document["runs"]]
    return {name: statistics.median(run[name] for run in runs) for name in runs[-1]}

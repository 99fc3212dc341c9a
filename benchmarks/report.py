"""From samples to a table: medians, ratios, peak memory and stored bytes."""

from __future__ import annotations

import json
import os
import platform
import statistics
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

__all__ = ["machine", "show_table", "write_documentation", "write_results"]

RESULTS = Path(__file__).parent / "results"
DOCUMENT = Path(__file__).parent.parent / "docs" / "performance.md"
BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"
OURS = "backup-pipeline"
_SETS = {"large": "2 GiB of large mixed files", "small": "100,000 small files"}
_ROWS = {
    "first": "first backup",
    "no-change": "no change",
    "changed": "1 % changed",
    "verify": "verify all data",
    "restore": "restore",
    "restore-one": "restore one file",
    "snapshots": "list snapshots",
}
_STORED = {"first": "after the first backup", "changed": "after all three"}


def machine(cache: Path) -> dict[str, Any]:
    """What the figures were measured on."""
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
    }


def _file_system(path: Path) -> str:
    best = ("", "unknown")
    for line in Path("/proc/mounts").read_text().splitlines():
        _, mount, kind, *_ = line.split()
        if path.is_relative_to(mount) and len(mount) > len(best[0]):
            best = (mount, kind)
    return best[1]


def write_results(document: dict[str, Any], cache: Path) -> Path:
    """Write the samples: to benchmarks/results at full scale, else only to the cache.

    Returns:
        The file.
    """
    scale = document["scale"]
    folder = RESULTS if scale == 1 else cache / "results"
    folder.mkdir(exist_ok=True)
    path = folder / ("comparison.json" if scale == 1 else f"comparison-scale-{scale:g}.json")
    path.write_text(json.dumps(document, indent=1) + "\n")
    return path


def _median(samples: list[dict[str, float]], what: str) -> float:
    """The median over the samples that have it."""
    return statistics.median(sample[what] for sample in samples if what in sample)


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _row(title: str, values: dict[str, float], names: list[str], form: str) -> str:
    """One row; the last cell says how many times the better peer's value is ours."""
    cells = [title, *(form.format(values[name]) if name in values else "–" for name in names)]
    peers = [values[name] for name in names if name != OURS and name in values]
    ratio = f"{min(peers) / values[OURS]:.2f}" if peers and values.get(OURS) else "–"
    return _line([*cells, ratio])


def show_table(document: dict[str, Any]) -> str:
    """The figures as Markdown."""
    names = list(document["versions"])
    lines: list[str] = []
    for kind, found in document["sets"].items():
        samples, stored = found["samples"], found["stored"]
        scale = "" if document["scale"] == 1 else f", times {document['scale']:g}"
        lines += [f"**{_SETS[kind]}{scale}**", ""]
        lines.append(_line(["", *names, "better peer ÷ ours"]))
        lines.append(_line(["---", *["---:"] * (len(names) + 1)]))
        for row, title in _ROWS.items():
            if row in samples:
                wall = {name: _median(one, "wall_s") for name, one in samples[row].items()}
                lines.append(_row(f"{title}, s", wall, names, "{:.2f}"))
        peaks = {
            name: max(_median(samples[row][name], "peak_mib") for row in samples) for name in names
        }
        lines.append(_row("peak memory, MiB", peaks, names, "{:.0f}"))
        for row, title in _STORED.items():
            sizes = {name: size / 1e6 for name, size in stored.get(row, {}).items()}
            lines.append(_row(f"stored {title}, MB", sizes, names, "{:.1f}"))
        lines.append("")
    return "\n".join(lines)


def _limits_table(limits: dict[str, float]) -> str:
    lines = [_line(["", "rate"]), _line(["---", "---:"])]
    for name, rate in limits.items():
        what, _, unit = name.rpartition(", ")
        lines.append(_line([what, f"{rate:,.0f} {unit}"]))
    return "\n".join(lines)


def write_documentation(document: dict[str, Any]) -> None:
    """Put the table into docs/performance.md, between its marks."""
    about, versions = document["machine"], document["versions"]
    figures = "\n".join(
        [
            BEGIN,
            "",
            f"Measured {about['measured_at'][:10]} on {about['cores']} cores"
            f" ({about['processor']}), {about['memory_gib']:g} GiB of memory,"
            f" {about['file_system']}, Python {about['python']};"
            f" {', '.join(versions.values())}. Medians of"
            f" {document['rounds']} rounds.",
            "",
            show_table(document),
            "What one thread of this machine does, measured in the same run:",
            "",
            _limits_table(document["limits"]),
            "",
            END,
        ]
    )
    before, _, rest = DOCUMENT.read_text().partition(BEGIN)
    DOCUMENT.write_text(before + figures + rest.partition(END)[2])

"""What grows with what: the plots and the sentences below them, from the results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import chain
from benchmarks.plots import Panel, Series, draw
from benchmarks.results import median
from benchmarks.sets import ROWS, SETS
from benchmarks.tools import OURS

__all__ = ["growth_section"]

IMAGES = Path(__file__).parent.parent / "docs" / "images"
PEER = "restic"
_AXES = {"files": "files of about 1 KiB", "bytes": "GiB in six large files"}
_BACKUPS = ("first", "no-change", "changed")
_COUNTS = {"wall_s": "seconds", "peak_mib": "peak memory, MiB", "requests": "requests to the store"}

# By row, then tool: points along the axis.
Points = dict[str, dict[str, list[tuple[float, float]]]]


def growth_section(documents: Mapping[str, Any]) -> list[str]:
    """Lines of Markdown with the plots, which are written to docs/images.

    Args:
        documents: What was measured at full scale, by set; what is missing is left out.
    """
    lines: list[str] = []
    for axis, label in _AXES.items():
        points = {
            spec.growth[1]: documents[name]
            for name, spec in SETS.items()
            if spec.growth and spec.growth[0] == axis and name in documents
        }
        if len(points) > 1:
            lines += _by_size(axis, label, dict(sorted(points.items())))
    if "chain" in documents:
        lines += _by_snapshots(documents["chain"]["points"])
    return lines


def _by_size(axis: str, label: str, documents: Mapping[float, Any]) -> list[str]:
    measured = {what: _sampled(documents, what) for what in _COUNTS}
    panels = [
        Panel(_COUNTS["wall_s"], label, _series(measured["wall_s"], ROWS)),
        Panel(_COUNTS["peak_mib"], label, _series(measured["peak_mib"], ROWS), False),
        Panel("bytes written", label, _series(_written(documents), ROWS)),
        Panel(_COUNTS["requests"], label, _series(measured["requests"], ROWS)),
    ]
    name = f"growth-{axis}.svg"
    title = f"Backups by {label}: seconds, memory, bytes written and requests"
    (IMAGES / name).write_text(draw(title, panels))
    least, most = min(documents), max(documents)
    unit = "GiB" if axis == "bytes" else "files"
    written, wall, requests = _written(documents), measured["wall_s"], measured["requests"]
    told = [
        f"{ROWS[row]}: {_times(wall, row)} times the seconds, {_times(written, row)} times the"
        f" bytes written"
        for row in ("first", "changed")
    ]
    told.append(
        f"{ROWS['no-change']}: {_times(wall, 'no-change')} times the seconds,"
        f" {_grown(written, 'no-change', ',.1f', 1e-3)} kB written in"
        f" {_grown(requests, 'no-change', ',.0f')} requests"
    )
    told.append(f"peak memory: {_grown(measured['peak_mib'], 'first', '.0f')} MiB")
    what = f"From {least:,.0f} to {most:,.0f} {unit}, {most / least:,.0f} times as much"
    return [f"![{title}](images/{name})", "", f"{what}, first to last. {'; '.join(told)}.", ""]


def _by_snapshots(points: Mapping[str, Any]) -> list[str]:
    label = "snapshots in the chain"
    by_count = {float(count): rows for count, rows in points.items()}
    measured: dict[str, Points] = {}
    for what in (*_COUNTS, "written_bytes"):
        measured[what] = {
            row: {
                OURS: [
                    (count, median(rows[row], what))
                    for count, rows in sorted(by_count.items())
                    if median(rows[row], what)
                ]
            }
            for row in chain.ROWS
        }
    panels = [
        Panel(_COUNTS["wall_s"], label, _series(measured["wall_s"], chain.ROWS), False),
        Panel(_COUNTS["peak_mib"], label, _series(measured["peak_mib"], chain.ROWS), False),
        Panel("bytes written", label, _series(measured["written_bytes"], chain.ROWS)),
        Panel(_COUNTS["requests"], label, _series(measured["requests"], chain.ROWS)),
    ]
    title = "Verbs by snapshots in the chain: seconds, memory, bytes written and requests"
    (IMAGES / "growth-chain.svg").write_text(draw(title, panels))
    least, most = min(by_count), max(by_count)
    told = [
        f"to {words} took {_grown(measured['wall_s'], row, '.2f')} s and"
        f" {_grown(measured['requests'], row, ',.0f')} requests"
        for row, words in chain.ROWS.items()
    ]
    what = f"From {least:,.0f} to {most:,.0f} snapshots in one chain"
    return [f"![{title}](images/growth-chain.svg)", "", f"{what}: {'; '.join(told)}.", ""]


def _sampled(documents: Mapping[float, Any], what: str) -> Points:
    found: Points = {}
    for size, document in documents.items():
        for row in _BACKUPS:
            for tool, samples in document["samples"].get(row, {}).items():
                if tool in (OURS, PEER) and any(what in sample for sample in samples):
                    at = found.setdefault(row, {}).setdefault(tool, [])
                    at.append((size, median(samples, what)))
    return found


def _written(documents: Mapping[float, Any]) -> Points:
    found: Points = {}
    for size, document in documents.items():
        before: dict[str, float] = {}
        for row in _BACKUPS:
            for tool, stored in document["stored"].get(row, {}).items():
                if tool in (OURS, PEER):
                    at = found.setdefault(row, {}).setdefault(tool, [])
                    at.append((size, max(1, stored - before.get(tool, 0))))
                    before[tool] = stored
    return found


def _series(points: Points, titles: Mapping[str, str]) -> Sequence[Series]:
    return [
        Series(
            titles[row] if tool == OURS else f"{titles[row]}, {tool}", colour, line, tool != OURS
        )
        for colour, (row, by_tool) in enumerate(points.items())
        for tool, line in by_tool.items()
        if line
    ]


def _times(points: Points, row: str) -> str:
    """How many times our figure at the least our figure at the most is."""
    line = points[row][OURS]
    return f"{line[-1][1] / line[0][1]:,.1f}"


def _grown(points: Points, row: str, form: str, unit: float = 1.0) -> str:
    """Our figure at the least and at the most, such as ``0.5 to 1.2``."""
    line = points[row][OURS]
    return " to ".join(f"{value * unit:{form}}" for _, value in (line[0], line[-1]))

"""From samples to docs/performance.md: medians, ratios, floors, peak memory and stored bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.floors import floors
from benchmarks.growth import growth_section
from benchmarks.results import RESULTS, load, median, middle_limits, quiet, rounds_in, spread
from benchmarks.sets import ROWS, SETS
from benchmarks.tools import OURS

__all__ = ["show_set", "write_documentation"]

DOCUMENT = Path(__file__).parent.parent / "docs" / "performance.md"
BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"
DEDUP_PEERS = ("restic", "borg")
RCLONE = "rclone"
_TOOLS = (OURS, *DEDUP_PEERS, RCLONE)
_WRITERS = ("first", "no-change", "changed")
_NONE = "–"
_TABLED = ("large", "small", "source", "million", "large-s3", "small-s3")


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


class _Table:
    """One set's table: a column per tool, what the better peer's figure is of ours, the floor."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self.names = [name for name in _TOOLS if name in document["versions"]]
        self._dedup = [name for name in self.names if name in DEDUP_PEERS]
        self._rclone = RCLONE in self.names
        heads = ["", *self.names, "dedup peer ÷ ours"]
        heads += ["rclone ÷ ours"] if self._rclone else []
        heads += ["ours ÷ floor", "ours, least to most"]
        self.lines = [_line(heads), _line(["---", *["---:"] * (len(heads) - 1)])]

    def add(
        self, title: str, values: Mapping[str, float], form: str, floor: str = "", range: str = ""
    ) -> None:
        """One row; less is better."""
        cells = [title, *(form.format(values[n]) if n in values else _NONE for n in self.names)]
        cells.append(self._ratio(values, self._dedup))
        cells += [self._ratio(values, [RCLONE])] if self._rclone else []
        self.lines.append(_line([*cells, floor, range]))

    def _ratio(self, values: Mapping[str, float], peers: Sequence[str]) -> str:
        found = [values[name] for name in peers if name in values]
        return f"{min(found) / values[OURS]:.2f}" if any(found) and values.get(OURS) else _NONE


def show_set(name: str, document: Mapping[str, Any]) -> str:
    """One set's table, as Markdown."""
    samples, stored = _samples(name, document), document["stored"]
    table = _Table(document)
    lowest = _floors(name, document)
    for row, title in ROWS.items():
        if row not in samples:
            continue
        wall = {tool: median(found, "wall_s") for tool, found in samples[row].items()}
        near = range = _NONE
        if OURS in wall:
            near = f"{wall[OURS] / lowest[row]:.1f}"
            range = "{:.2f} to {:.2f}".format(*spread(samples[row][OURS], "wall_s"))
        table.add(f"{title}, s", wall, "{:.2f}", near, range)
    peaks = {
        tool: max(median(rows[tool], "peak_mib") for rows in samples.values() if tool in rows)
        for tool in table.names
    }
    table.add("peak memory, MiB", peaks, "{:.0f}")
    before: dict[str, float] = {}
    for row in _WRITERS:
        if row in stored:
            unit, size = ("kB", 1e3) if row == "no-change" else ("MB", 1e6)
            added = {
                tool: (total - before.get(tool, 0)) / size for tool, total in stored[row].items()
            }
            table.add(f"written by {ROWS[row]}, {unit}", added, "{:,.1f}")
            before = stored[row]
    if stored:
        table.add(
            "stored in all, MB", {tool: size / 1e6 for tool, size in before.items()}, "{:.1f}"
        )
    for row in samples:
        counts = {
            tool: median(found, "requests")
            for tool, found in samples[row].items()
            if any("requests" in sample for sample in found)
        }
        if counts:
            table.add(f"requests by {ROWS[row]}", counts, "{:.0f}")
    return "\n".join(table.lines)


def _samples(name: str, document: Mapping[str, Any]) -> dict[str, dict[str, list[Any]]]:
    """Those that count: with a store on a server, the server is what else takes the machine."""
    return quiet(document) if SETS[name].store == "folder" else document["samples"]


def _floors(name: str, document: Mapping[str, Any]) -> dict[str, float]:
    stored = {row: sizes[OURS] for row, sizes in document["stored"].items() if OURS in sizes}
    if "first" not in stored:
        return {}
    return floors(
        document["data"],
        stored,
        middle_limits(document),
        cores=document["runs"][-1]["cores"],
        local=SETS[name].store == "folder",
    )


def _about(name: str, document: Mapping[str, Any]) -> str:
    """When, how often, of which versions, and how quiet it was."""
    runs, data = document["runs"], document["data"]
    days = sorted({run["measured_at"][:10] for run in runs})
    loads = [run["load_before"] for run in runs]
    shares = [
        sample["others_s"] / (sample["wall_s"] * runs[-1]["cores"])
        for by_tool in _samples(name, document).values()
        for found in by_tool.values()
        for sample in found
    ]
    rounds = rounds_in(document)
    before = f"{min(loads):g}" if len(set(loads)) == 1 else f"{min(loads):g} to {max(loads):g}"
    plural = "" if rounds == 1 else "s"
    versions = ", ".join(document["versions"].values())
    return (
        f"{data['files']:,} files, {data['bytes'] / 1e6:,.0f} MB. Median of {rounds} round{plural},"
        f" {' and '.join(days)}; load average before {before}; while a tool ran,"
        f" everything else, the kernel's own threads included, took"
        f" {100 * sorted(shares)[len(shares) // 2]:.0f} % of the machine (median) and"
        f" {100 * max(shares):.0f} % (most). {versions}."
    )


def _limits(documents: Mapping[str, Any]) -> list[str]:
    """What the machine can do, a column per data set."""
    limits = {name: middle_limits(documents[name]) for name in _TABLED if name in documents}
    lines = [_line(["", *limits]), _line(["---", *["---:"] * len(limits)])]
    for title in dict.fromkeys(title for found in limits.values() for title in found):
        cells = [
            (f"{found[title]:.3f}" if title.endswith(", s") else f"{found[title]:,.0f}")
            if title in found
            else _NONE
            for found in limits.values()
        ]
        lines.append(_line([title, *cells]))
    return lines


def write_documentation() -> None:
    """Put every set's last results into docs/performance.md, between the marks."""
    found = {name: load(name, 1, RESULTS) for name in [*SETS, "chain"]}
    documents = {name: one for name, one in found.items() if one is not None}
    tabled = [name for name in _TABLED if name in documents]
    lines: list[str] = []
    if tabled:
        about = documents[tabled[-1]]["runs"][-1]
        lines.append(
            f"Measured on {about['cores']} cores ({about['processor']}), with"
            f" {about['memory_gib']:g} GiB of memory, {about['file_system']}, Linux"
            f" {about['kernel'].partition('-')[0]}, Python {about['python']}."
        )
    for name in tabled:
        lines += ["", f"### {SETS[name].title}", "", _about(name, documents[name]), ""]
        lines.append(show_set(name, documents[name]))
    growth = growth_section(documents)
    if growth:
        lines += ["", "### Growth", "", *growth]
    if tabled:
        lines += ["", "### Limits of the machine", ""]
        lines += ["One thread, unless said otherwise, measured in the same runs as each set:", ""]
        lines += _limits(documents)
    before, _, rest = DOCUMENT.read_text().partition(BEGIN)
    text = "\n".join([BEGIN, "", *lines, "", END])
    DOCUMENT.write_text(before + text + rest.partition(END)[2])

"""Line plots as SVG, drawn by hand: small, sharp, and readable on light and on dark pages."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

__all__ = ["Panel", "Series", "draw"]

WIDTH, HEIGHT = 360, 236  # of one panel
LEFT, RIGHT, TOP, BOTTOM = 58, 14, 34, 40  # its margins
COLUMNS = 2
LEGEND, LEGEND_LINE, LEGEND_WIDTH = 46, 18, 172
STYLE = """
  text { font: 11px system-ui, sans-serif; fill: #57606a }
  .title { font-size: 12px; font-weight: 600; fill: #1f2328 }
  .grid { stroke: #d8dee4; stroke-width: 1 }
  .axis { stroke: #8c959f; stroke-width: 1 }
  .line { fill: none; stroke-width: 2; stroke-linejoin: round }
  .peer { stroke-dasharray: 5 4; stroke-width: 1.5 }
  .page { fill: #ffffff }
  .c0 { stroke: #0969da } .c1 { stroke: #bc4c00 } .c2 { stroke: #1a7f37 } .c3 { stroke: #8250df }
  .dot { stroke-width: 2 }
  circle.c0 { fill: #0969da } circle.c1 { fill: #bc4c00 }
  circle.c2 { fill: #1a7f37 } circle.c3 { fill: #8250df }
  circle.hollow { fill: #ffffff; stroke-width: 1.5 }
  @media (prefers-color-scheme: dark) {
    text { fill: #9198a1 } .title { fill: #f0f6fc } .page { fill: #0d1117 }
    .grid { stroke: #2a313a } .axis { stroke: #656c76 }
    .c0 { stroke: #58a6ff } .c1 { stroke: #f0883e } .c2 { stroke: #3fb950 } .c3 { stroke: #bc8cff }
    circle.c0 { fill: #58a6ff } circle.c1 { fill: #f0883e }
    circle.c2 { fill: #3fb950 } circle.c3 { fill: #bc8cff }
    circle.hollow { fill: #0d1117 }
  }
"""

Scale = Callable[[float], float]


@dataclass(frozen=True, slots=True)
class Series:
    """One line.

    Attributes:
        name: For the legend.
        colour: Which of the four, from 0.
        points: Along the axis; ``y`` may not be nought where the axis is logarithmic.
        peer: It is drawn dashed and hollow.
    """

    name: str
    colour: int
    points: Sequence[tuple[float, float]]
    peer: bool = False


@dataclass(frozen=True, slots=True)
class Panel:
    """One pair of axes; ``x`` is logarithmic.

    Attributes:
        title: What ``y`` is, with its unit.
        x_label: What ``x`` is, with its unit.
        series: The lines.
        logarithmic: Whether ``y`` is, too; else it begins at nought.
    """

    title: str
    x_label: str
    series: Sequence[Series]
    logarithmic: bool = True


def draw(title: str, panels: Sequence[Panel]) -> str:
    """The panels in two columns below one legend, as an SVG document.

    Args:
        title: For those who cannot see it.
        panels: At least one, with at least one point each.
    """
    rows = -(-len(panels) // COLUMNS)
    width, height = WIDTH * min(COLUMNS, len(panels)), LEGEND + HEIGHT * rows
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"'
        f' width="{width}" height="{height}" role="img" aria-label="{escape(title)}">',
        f"<style>{STYLE}</style>",
        f'<rect class="page" width="{width}" height="{height}" rx="6"/>',
        *_legend(panels),
    ]
    for number, panel in enumerate(panels):
        x, y = WIDTH * (number % COLUMNS), LEGEND + HEIGHT * (number // COLUMNS)
        parts.append(f'<g transform="translate({x} {y})">')
        parts += _panel(panel)
        parts.append("</g>")
    return "\n".join([*parts, "</svg>", ""])


def _legend(panels: Sequence[Panel]) -> list[str]:
    """Ours in one line, and the peers' below it."""
    found = {one.name: one for panel in panels for one in panel.series}
    parts: list[str] = []
    for line, peers in enumerate((False, True)):
        x, y = 16.0, 18 + LEGEND_LINE * line
        for one in found.values():
            if one.peer is not peers:
                continue
            parts.append(
                f'<line class="line c{one.colour}{" peer" if peers else ""}"'
                f' x1="{x}" x2="{x + 24}" y1="{y}" y2="{y}"/>'
            )
            parts.append(_dot(one, x + 12, y))
            parts.append(f'<text x="{x + 30}" y="{y + 4}">{escape(one.name)}</text>')
            x += LEGEND_WIDTH
    return parts


def _panel(panel: Panel) -> list[str]:
    xs = sorted({x for one in panel.series for x, _ in one.points})
    ys = [y for one in panel.series for _, y in one.points]
    ticks = _decades(min(ys), max(ys)) if panel.logarithmic else _steps(max(ys))
    place_x = _placing(xs[0], xs[-1], LEFT, WIDTH - RIGHT, True)
    place_y = _placing(ticks[0], ticks[-1], HEIGHT - BOTTOM, TOP, panel.logarithmic)
    parts = [f'<text class="title" x="{LEFT}" y="18">{escape(panel.title)}</text>']
    for tick in ticks:
        y = round(place_y(tick), 1)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4}" text-anchor="end">{_short(tick)}</text>')
    floor = HEIGHT - BOTTOM
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{floor}" y2="{floor}"/>')
    for x in xs:
        at = round(place_x(x), 1)
        parts.append(f'<text x="{at}" y="{floor + 16}" text-anchor="middle">{_short(x)}</text>')
    parts.append(
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{floor + 33}"'
        f' text-anchor="middle">{escape(panel.x_label)}</text>'
    )
    for one in panel.series:
        parts += _line(one, place_x, place_y)
    return parts


def _line(one: Series, place_x: Scale, place_y: Scale) -> list[str]:
    spots = [(round(place_x(x), 1), round(place_y(y), 1)) for x, y in sorted(one.points)]
    path = " ".join(f"{x},{y}" for x, y in spots)
    dashed = " peer" if one.peer else ""
    line = f'<polyline class="line c{one.colour}{dashed}" points="{path}"/>'
    return [line, *(_dot(one, x, y) for x, y in spots)]


def _dot(one: Series, x: float, y: float) -> str:
    hollow = " hollow" if one.peer else ""
    return f'<circle class="dot c{one.colour}{hollow}" cx="{x}" cy="{y}" r="3"/>'


def _placing(low: float, high: float, start: float, end: float, logarithmic: bool) -> Scale:
    """A function from a value to its place; what is all the same lies in the middle."""
    bend: Scale = math.log10 if logarithmic else float
    first, last = bend(low), bend(high)
    if first == last:
        return lambda value: (start + end) / 2
    return lambda value: start + (bend(value) - first) / (last - first) * (end - start)


def _decades(low: float, high: float) -> list[float]:
    """1, 10, 100 … around the values, with 2 and 5 between where there is room."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    last = max(last, first + 1)
    if last - first > 2:
        return [10.0**power for power in range(first, last + 1)]
    marks = [factor * 10.0**power for power in range(first, last + 1) for factor in (1, 2, 5)]
    below = max((mark for mark in marks if mark <= low), default=marks[0])
    above = min((mark for mark in marks if mark >= high), default=marks[-1])
    return [mark for mark in marks if below <= mark <= max(above, below * 2)]


def _steps(high: float) -> list[float]:
    """From nought in even steps to just above the highest value."""
    rough = high / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough)
    return [step * number for number in range(math.ceil(high / step) + 1)]


def _short(value: float) -> str:
    for size, letter in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"

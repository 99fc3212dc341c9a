"""Pictures of trends as inline SVG, coloured by the page's style, and told in words as well."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

from backup_pipeline.plan.cadence import local_day
from backup_pipeline.posture.markup import Html, el, join
from backup_pipeline.posture.model import Posture
from backup_pipeline.posture.tier import Point, TierPosture

__all__ = ["age_bar", "chart", "day_strip", "heat", "series", "sparkline"]

Values = Sequence[tuple[datetime, float]]

_STEP, _CELL, _TALL = 6, 4, 16
_SPARK_WIDTH, _SPARK_HEIGHT, _PAD = 132, 30, 3
_CHART_WIDTH, _CHART_HEIGHT, _LEFT, _BOTTOM, _TOP = 420, 168, 62, 24, 12
_LINES = 3


def _picture(width: float, height: float, words: str, *shapes: object, kind: str) -> Html:
    return el(
        "svg",
        el("title", words),
        *shapes,
        class_=kind,
        viewBox=f"0 0 {width:g} {height:g}",
        width=f"{width:g}",
        height=f"{height:g}",
        role="img",
        aria_label=words,
    )


def day_strip(tier: TierPosture, first: date, days: int) -> Html:
    """One mark for each day of the window: full where it is good, half where late, empty where it
    is missing, a dot where none was due."""
    missing, late, due = set(tier.missing_days), set(tier.late_days), set(tier.due)
    shapes: dict[str, list[str]] = {"good": [], "late": [], "missing": [], "none": []}
    for number in range(days + 1):
        day = first + timedelta(days=number)
        x = number * _STEP
        if day in missing:
            shapes["missing"].append(f"M{x + 0.5} 0.5h{_CELL - 1}v{_TALL - 1}h-{_CELL - 1}z")
        elif day in late:
            shapes["late"].append(f"M{x} {_TALL / 2}h{_CELL}v{_TALL / 2}h-{_CELL}z")
        elif day in due:
            shapes["good"].append(f"M{x} 0h{_CELL}v{_TALL}h-{_CELL}z")
        else:
            shapes["none"].append(f"M{x + 1} {_TALL - 2}h2v2h-2z")
    words = f"{tier.good_days} of {tier.due_days} due days are good"
    if missing:
        words += f"; missing: {', '.join(day.isoformat() for day in sorted(missing))}"
    if late:
        words += f"; late: {', '.join(day.isoformat() for day in sorted(late))}"
    paths = [el("path", d="".join(d), class_=name) for name, d in shapes.items() if d]
    return _picture((days + 1) * _STEP, _TALL, words, *paths, kind="strip")


def age_bar(tier: TierPosture) -> Html | None:
    """The age of the newest good snapshot against the RPO; None where either is not known."""
    if tier.age_s is None or not tier.rpo_s:
        return None
    share = max(0.0, tier.age_s / tier.rpo_s)
    width = 100.0
    full = share if share <= 1 else 1 / share
    kind = "good" if share <= 1 else "missing"
    return _picture(
        width,
        6,
        f"{share:.0%} of the RPO has passed",
        el("rect", x=0, y=1, width=f"{width:g}", height=4, rx=2, class_="track"),
        el("rect", x=0, y=1, width=f"{width * min(1.0, share):.1f}", height=4, rx=2, class_=kind),
        el("rect", x=f"{width * full - 1:.1f}", y=0, width=2, height=6, class_="limit")
        if share > 1
        else None,
        kind="bar",
    )


def series(
    points: Sequence[Point], value: Callable[[Point], float]
) -> list[tuple[datetime, float]]:
    """One figure of each snapshot, by the time it was captured."""
    return [(point.captured_at, value(point)) for point in points]


def _scale(
    begins: datetime, ends: datetime, most: float
) -> Callable[[datetime, float], tuple[float, float]]:
    """Places a moment and a value in the unit square, from the top left."""
    span = (ends - begins).total_seconds() or 1.0

    def place(moment: datetime, value: float) -> tuple[float, float]:
        x = min(1.0, max(0.0, (moment - begins).total_seconds() / span))
        return x, 1 - (min(1.0, value / most) if most else 0.0)

    return place


def sparkline(
    values: Values,
    begins: datetime,
    ends: datetime,
    words: str,
    *,
    bars: bool = False,
    most: float | None = None,
) -> Html:
    """A small trend without axes; its words say what the axes would.

    Args:
        values: Moments and what was measured, oldest first.
        begins: Where the window begins.
        ends: Where it ends.
        words: What it shows.
        bars: Whether each value stands for itself, and is no state that lasts.
        most: The top of the scale; default: the greatest value.
    """
    top = max((value for _, value in values), default=0.0) if most is None else most
    place = _scale(begins, ends, top)
    inner_width, inner_height = _SPARK_WIDTH - 2 * _PAD, _SPARK_HEIGHT - 2 * _PAD
    at = [
        (_PAD + x * inner_width, _PAD + y * inner_height)
        for x, y in (place(moment, value) for moment, value in values)
    ]
    floor = _SPARK_HEIGHT - _PAD
    base = el("path", d=f"M{_PAD} {floor}h{inner_width}", class_="axis")
    return _picture(
        _SPARK_WIDTH,
        _SPARK_HEIGHT,
        words,
        base,
        *(_bars(at, floor) if bars else _line(at, floor)),
        kind="spark",
    )


def _line(at: Sequence[tuple[float, float]], floor: float) -> list[Html]:
    if not at:
        return []
    path = "L".join(f"{x:.1f} {y:.1f}" for x, y in at)
    last_x, last_y = at[-1]
    return [
        el("path", d=f"M{at[0][0]:.1f} {floor:g}L{path}V{floor:g}z", class_="area"),
        el("path", d=f"M{path}", class_="line"),
        el("circle", cx=f"{last_x:.1f}", cy=f"{last_y:.1f}", r="2.4", class_="dot"),
    ]


def _bars(at: Sequence[tuple[float, float]], floor: float, width: float = 2.6) -> list[Html]:
    if not at:
        return []
    marks = "".join(
        f"M{x - width / 2:.1f} {floor:g}V{min(y, floor - 0.8):.1f}h{width:g}V{floor:g}z"
        for x, y in at
    )
    return [el("path", d=marks, class_="bars")]


def chart(
    values: Values,
    begins: datetime,
    ends: datetime,
    words: str,
    unit: Callable[[float], str],
    *,
    bars: bool = False,
    most: float | None = None,
) -> Html:
    """A trend with axes.

    Args:
        values: Moments and what was measured, oldest first.
        begins: Where the window begins.
        ends: Where it ends.
        words: What it shows.
        unit: Writes a value.
        bars: Whether each value stands for itself.
        most: The top of the scale; default: a little above the greatest value.
    """
    greatest = max((value for _, value in values), default=0.0)
    top = (greatest * 1.08 or 1.0) if most is None else most
    place = _scale(begins, ends, top)
    width, height = _CHART_WIDTH - _LEFT - 8, _CHART_HEIGHT - _TOP - _BOTTOM
    floor = _TOP + height
    at = [
        (_LEFT + x * width, _TOP + y * height)
        for x, y in (place(moment, value) for moment, value in values)
    ]
    grid: list[Html] = []
    for number in range(_LINES + 1):
        value = top * number / _LINES
        y = floor - height * number / _LINES
        grid.append(el("path", d=f"M{_LEFT} {y:.1f}h{width:g}", class_="axis"))
        grid.append(el("text", unit(value), x=_LEFT - 8, y=f"{y + 4:.1f}", text_anchor="end"))
    middle = begins + (ends - begins) / 2
    for moment, x, anchor in (
        (begins, _LEFT, "start"),
        (middle, _LEFT + width / 2, "middle"),
        (ends, _LEFT + width, "end"),
    ):
        label = f"{moment:%d %b}"
        grid.append(el("text", label, x=f"{x:g}", y=_CHART_HEIGHT - 6, text_anchor=anchor))
    per_bar = max(2.0, min(9.0, width / max(1, len(at)) * 0.6))
    shapes = _bars(at, floor, per_bar) if bars else _line(at, floor)
    return _picture(_CHART_WIDTH, _CHART_HEIGHT, words, join(*grid), *shapes, kind="chart")


_NAME_WIDTH, _ROW, _MOST_ROWS = 300, 20, 60
_HEAT_STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#6b7280}"
    ".good{fill:#2e9e6b}.late{fill:#d99a2b}.missing{fill:none;stroke:#d8433a}.none{fill:#c9ccd1}"
)


def heat(posture: Posture) -> str:
    """The days of every dataset in every tier as one picture that stands by itself.

    Its colours show on light and on dark, for it is an image and cannot ask which it is on.
    """
    first = local_day(posture.begins, ZoneInfo(posture.timezone))
    rows = sorted(posture.tiers, key=lambda one: one.fresh)[:_MOST_ROWS]
    rows = posture.tiers if len(posture.tiers) <= _MOST_ROWS else rows
    shapes: list[Html] = []
    for number, tier in enumerate(rows):
        y = number * _ROW
        name = f"{tier.dataset} · {tier.tier}"
        shown = name if len(name) <= 42 else f"…{name[-41:]}"
        shapes.append(el("text", shown, x=_NAME_WIDTH - 10, y=y + 13, text_anchor="end"))
        strip = day_strip(tier, first, posture.days)
        shapes.append(el("g", strip, transform=f"translate({_NAME_WIDTH} {y})"))
        counted = f"{tier.good_days}/{tier.due_days}"
        x = _NAME_WIDTH + (posture.days + 1) * _STEP + 10
        shapes.append(el("text", counted, x=x, y=y + 13))
    width = _NAME_WIDTH + (posture.days + 1) * _STEP + 70
    height = max(1, len(rows)) * _ROW
    return el(
        "svg",
        el("style", Html(_HEAT_STYLE)),
        *shapes,
        xmlns="http://www.w3.org/2000/svg",
        width=width,
        height=height,
        viewBox=f"0 0 {width} {height}",
    )

"""Cost against recovery point, as one self-contained SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from backup_pipeline.cost.compare import Option
from backup_pipeline.engine.progress import human_seconds

__all__ = ["frontier_picture"]

_WIDTH, _HEIGHT, _LEFT, _TOP, _RIGHT, _BOTTOM = 860, 460, 70, 30, 250, 50
_COLOURS = ("#4c78a8", "#f58518", "#54a24b", "#b279a2", "#e45756", "#72b7b2", "#9d755d")
_TIMES = (3600, 4 * 3600, 86_400, 7 * 86_400, 31 * 86_400)


def frontier_picture(
    title: str, options: Sequence[Option], best: Sequence[Option], chosen: Option | None
) -> str:
    """A dot for each option, larger on the frontier, ringed for the recommended one.

    Args:
        title: What it shows.
        options: All of them; at least one.
        best: Those on the frontier.
        chosen: The recommended one.
    """
    money = "/".join(sorted({one.prices.currency for one in options}))
    costs = [max(one.cost.total, 1e-4) for one in options]
    low, high = math.floor(math.log10(min(costs))), math.ceil(math.log10(max(costs)) + 1e-9)
    high = max(high, low + 1)
    points = [one.recovery_point_s for one in options]
    first, last = math.log10(min(points) / 1.5), math.log10(max(points) * 1.5)

    def x(seconds: float) -> float:
        share = (math.log10(seconds) - first) / (last - first)
        return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)

    def y(cost: float) -> float:
        share = (math.log10(max(cost, 1e-4)) - low) / (high - low)
        return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)

    names = list(dict.fromkeys(one.prices.name for one in options))
    colour = {name: _COLOURS[number % len(_COLOURS)] for number, name in enumerate(names)}
    parts = [_line(_LEFT, y(10**n), _WIDTH - _RIGHT, y(10**n)) for n in range(low, high + 1)]
    parts += [
        _text(_LEFT - 8, y(10**n) + 4, f"{10.0**n:g} {money}", "end") for n in range(low, high + 1)
    ]
    for seconds in (one for one in _TIMES if first <= math.log10(one) <= last):
        parts.append(_line(x(seconds), _TOP, x(seconds), _HEIGHT - _BOTTOM))
        parts.append(_text(x(seconds), _HEIGHT - _BOTTOM + 18, human_seconds(seconds), "middle"))
    shown = {id(one) for one in best}
    for one in sorted(options, key=lambda one: id(one) in shown):
        size, opacity = (5, 1.0) if id(one) in shown else (3, 0.3)
        ring = ' stroke="currentColor" stroke-width="2.5"' if one is chosen else ""
        parts.append(
            f'<circle cx="{x(one.recovery_point_s):.1f}" cy="{y(one.cost.total):.1f}" r="{size}"'
            f' fill="{colour[one.prices.name]}" fill-opacity="{opacity}"{ring}>'
            f"<title>{escape(_label(one))}</title></circle>"
        )
    for number, name in enumerate(names):
        top = _TOP + 14 + 20 * number
        parts.append(
            f'<circle cx="{_WIDTH - _RIGHT + 24}" cy="{top - 4}" r="5" fill="{colour[name]}"/>'
        )
        parts.append(_text(_WIDTH - _RIGHT + 36, top, name))
    parts.append(_text(_LEFT, 18, title))
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(_text(middle, _HEIGHT - 8, "age of the newest snapshot at worst", "middle"))
    style = "font: 12px system-ui, sans-serif; color: #333; background: #fff"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}"'
        f' role="img" aria-label="{escape(title)}" style="{style}">{"".join(parts)}</svg>\n'
    )


def _label(one: Option) -> str:
    return (
        f"{one.policy.kind} every {one.policy.every}, {one.keep}, {one.prices.name}:"
        f" {one.cost.total:.2f} {one.prices.currency} a month"
    )


def _line(x1: float, y1: float, x2: float, y2: float) -> str:
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
        ' stroke="currentColor" stroke-opacity="0.15"/>'
    )


def _text(x: float, y: float, words: str, anchor: str = "start") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="currentColor">'
        f"{escape(words)}</text>"
    )

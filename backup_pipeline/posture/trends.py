"""The page's trends: how size, change, duration and I went, over all and for each dataset."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime

from backup_pipeline.engine.progress import human_bytes, human_seconds
from backup_pipeline.posture.markup import Html, el, join
from backup_pipeline.posture.model import DatasetPosture, Posture
from backup_pipeline.posture.pictures import chart, series, sparkline
from backup_pipeline.posture.tier import Point
from backup_pipeline.posture.words import share

__all__ = ["charts", "daily", "trend_sheet"]

Series = list[tuple[datetime, float]]


def daily(points: Iterable[Point], value: Callable[[Point], float]) -> Series:
    """Sums of one figure by the day that snapshots stand for, at that day's first capture."""
    sums: dict[object, float] = {}
    moments: dict[object, datetime] = {}
    for point in points:
        sums[point.day] = sums.get(point.day, 0.0) + value(point)
        moments[point.day] = min(moments.get(point.day, point.captured_at), point.captured_at)
    return sorted((moments[day], sums[day]) for day in sums)


def total_size(posture: Posture) -> Series:
    """Logical bytes of all datasets over time: each keeps its last size until its next snapshot."""
    events = sorted(
        (point.captured_at, number, point.bytes)
        for number, one in enumerate(posture.datasets)
        for point in (one.tiers[0].trend if one.tiers else ())
    )
    sizes: dict[int, int] = {}
    found: dict[datetime, float] = {}
    for moment, number, size in events:
        sizes[number] = size
        # Runs of one minute are one step of the line.
        found[moment.replace(second=0, microsecond=0)] = float(sum(sizes.values()))
    return sorted(found.items())


def _all(posture: Posture) -> list[Point]:
    return [point for tier in posture.tiers for point in tier.trend]


def _integrity_by_day(points: Sequence[Point]) -> Series:
    good = daily(points, lambda point: point.good_entries)
    total = daily(points, lambda point: point.entries)
    return [
        (moment, some / all_ if all_ else 1.0)
        for (moment, some), (_, all_) in zip(good, total, strict=True)
    ]


def charts(posture: Posture) -> Html | None:
    """Four charts over all datasets; None where nothing was stored in the window."""
    points = _all(posture)
    if not points:
        return None
    begins, ends = posture.begins, posture.at
    size = total_size(posture)
    stored = daily(points, lambda point: point.stored_bytes)
    took = daily(points, lambda point: point.duration_s)
    whole = _integrity_by_day(points)
    lowest = min((value for _, value in whole), default=1.0)

    def figure(title: str, now: str, picture: Html) -> Html:
        return el("figure", el("figcaption", title, el("span", now)), picture)

    return join(
        el("h2", "How it went"),
        el(
            "p",
            f"All datasets together, over the last {posture.days} days; all tiers, but for the"
            " size, which is that of the datasets themselves.",
            class_="note",
        ),
        el(
            "div",
            figure(
                "Size",
                f"{human_bytes(size[-1][1])} now" if size else "",
                chart(size, begins, ends, "Size of all datasets", human_bytes),
            ),
            figure(
                "Change stored, a day",
                f"{human_bytes(sum(value for _, value in stored))} in all",
                chart(stored, begins, ends, "Bytes stored a day", human_bytes, bars=True),
            ),
            figure(
                "Duration of all runs, a day",
                f"at most {_seconds(max(value for _, value in took))}",
                chart(took, begins, ends, "Seconds that runs took a day", _seconds, bars=True),
            ),
            figure(
                "I = N_good / N_total",
                f"lowest {share(lowest)}",
                chart(whole, begins, ends, "Share of entries read whole", _percent, most=1.0),
            ),
            class_="charts",
        ),
    )


def _seconds(value: float) -> str:
    return f"{value:.1f} s" if value < 10 else human_seconds(value)


def _percent(value: float) -> str:
    return f"{value:.0%}"


def trend_sheet(posture: Posture) -> Html | None:
    """Each dataset's trends in its first tier, small."""
    if not _all(posture):
        return None
    columns = ("Dataset", "Size", "Stored by each snapshot", "Duration", "I")
    heads = [el("th", word, scope="col", role="columnheader") for word in columns]
    table = el(
        "table",
        el(
            "caption", "Each dataset in its first tier; the figures are those of the last snapshot."
        ),
        el("thead", el("tr", *heads, role="row"), role="rowgroup"),
        el("tbody", *(_row(one, posture, columns) for one in posture.datasets), role="rowgroup"),
        role="table",
    )
    return join(el("h2", "Trends of each dataset"), el("div", table, class_="sheet"))


def _row(dataset: DatasetPosture, posture: Posture, columns: Sequence[str]) -> Html:
    points = dataset.tiers[0].trend if dataset.tiers else ()
    begins, ends = posture.begins, posture.at
    cells: list[object]
    if points:
        last = points[-1]
        whole = [point.good_entries / point.entries if point.entries else 1.0 for point in points]
        size = series(points, lambda point: point.bytes)
        stored = series(points, lambda point: point.stored_bytes)
        took = series(points, lambda point: point.duration_s)
        cells = [
            _cell(sparkline(size, begins, ends, "Size"), human_bytes(last.bytes)),
            _cell(
                sparkline(stored, begins, ends, "Bytes stored by each snapshot", bars=True),
                f"{human_bytes(last.stored_bytes)}, {last.changed:,} entries changed",
            ),
            _cell(
                sparkline(took, begins, ends, "Seconds that each snapshot took", bars=True),
                _seconds(last.duration_s),
            ),
            _cell(
                sparkline(
                    list(zip((point.captured_at for point in points), whole, strict=True)),
                    begins,
                    ends,
                    "Share of entries read whole",
                    most=1.0,
                ),
                share(whole[-1]) + (f", lowest {share(min(whole))}" if min(whole) < 1 else ""),
            ),
        ]
    else:
        cells = ["no snapshot in the window", "–", "–", "–"]
    return el(
        "tr",
        el("th", dataset.key, scope="row", role="rowheader"),
        *(
            el("td", el("div", cell), data_label=label, role="cell")
            for label, cell in zip(columns[1:], cells, strict=True)
        ),
        role="row",
    )


def _cell(picture: Html, words: str) -> Html:
    return join(picture, el("span", words, class_="sub"))

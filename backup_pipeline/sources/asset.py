"""What a dataset's own Dagster asset wrote: its place is had from the event log, none is given.

Where it has no place, as rows in a database have none, its IO manager loads it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import PurePosixPath
from typing import Any

from backup_pipeline.engine.errors import DayUnavailable, SourceError
from backup_pipeline.plan.sourcekinds import S3_OPTIONS
from backup_pipeline.sources.base import Source

__all__ = ["open_asset"]


def open_asset(
    options: Mapping[str, Any], *, exclude: Sequence[str] = (), day: date | None = None, **_: Any
) -> Source:
    """Open the files or objects that an asset wrote, as its latest materialization says.

    Consistency is that of files and of objects, or of what its IO manager loads. A partitioned
    asset of a whole dataset is the directory that holds all of its partitions; of slices, each
    day's partition is the day's.

    Args:
        options: ``key`` of the asset, ``writes`` (by partition, from the event log), S3 settings
            for what lies there; or ``definitions`` to be loaded with ``modules`` and ``environ``.
        exclude: Globs that are left out.
        day: The slice's day.

    Raises:
        SourceError: No materialization says where the asset was written.
        DayUnavailable: The day's partition was not materialized.
    """
    key, writes = options["key"], options["writes"]
    if day is not None and writes:
        _check_day(key, writes, day)
    chosen = _current(writes) if day is None or not writes else {str(day): writes[str(day)]}
    if "definitions" in options:
        return _loaded(options, chosen)
    places = {partition: one["place"] for partition, one in chosen.items() if "place" in one}
    if not places:
        raise SourceError(
            f"no materialization of {key} says where it was written",
            "its IO manager, or the asset itself, has to report `uri` or `path` as metadata; or"
            " name the `definitions` whose IO manager loads it; or give the plan a path",
        )
    if day is not None:
        place = places[str(day)]
        _check_own(key, writes, day, place)
    else:
        place = places[""] if "" in places else _common(key, places)
    return _opened(key, place, options, exclude)


def _check_day(key: str, writes: Mapping[str, Any], day: date) -> None:
    """Fail unless a day has a partition of its own."""
    if str(day) in writes:
        return
    days = sorted(one for one in map(_day, writes) if one is not None)
    if not days and any(writes):
        raise SourceError(
            f"partitions of {key} are not days, such as {next(filter(None, writes))}",
            "leave out `holds: slice`: all partitions are one dataset then; or give the plan a path"
            " with {day} in it",
        )
    raise DayUnavailable(f"partition {day} of {key} was never materialized", available=days)


def _check_own(key: str, writes: Mapping[str, Mapping[str, str]], day: date, place: str) -> None:
    """Fail where a day's place holds other partitions too."""
    below = f"{place.rstrip('/')}/"
    for partition, one in writes.items():
        there = one.get("place", "")
        if partition not in ("", str(day)) and f"{there}/".startswith(below):
            raise SourceError(
                f"partitions {partition} and {day} of {key} both lie in {place}",
                "let its IO manager report where each partition is; or give the plan a path with"
                " {day} in it",
            )


def _current(writes: Mapping[str, Mapping[str, str]]) -> Mapping[str, Mapping[str, str]]:
    """All partitions, or what has none: whichever was written last; the other is gone by then."""
    if next(iter(writes), "") == "":
        return {"": writes[""]} if writes else {}
    return {partition: one for partition, one in writes.items() if partition}


def _opened(key: str, place: str, options: Mapping[str, Any], exclude: Sequence[str]) -> Source:
    """The files or objects at a place."""
    settings = {name: value for name, value in options.items() if name in S3_OPTIONS}
    scheme = place.partition("://")[0] if "://" in place else "file"
    if scheme == "s3":
        from backup_pipeline.sources.objects import ObjectsSource

        return ObjectsSource({**settings, "url": place}, exclude=exclude)
    if scheme in ("gs", "gcs"):
        from backup_pipeline.sources.cloud import open_gcs

        return open_gcs({"url": place}, exclude=exclude)
    if scheme != "file":
        raise SourceError(
            f"{key} was written to {place}, which is not looked up by itself",
            "give the plan this URL, or the directory above it, as the dataset's source",
        )
    from backup_pipeline.sources.files import FilesSource

    return FilesSource(place.removeprefix("file://"), exclude=exclude)


def _loaded(options: Mapping[str, Any], writes: Mapping[str, Mapping[str, str]]) -> Source:
    """Through its IO manager."""
    from backup_pipeline.sources.asset_values import AssetValues

    if not writes:
        raise SourceError(
            f"{options['key']} was never materialized", "materialize it, and back it up then"
        )
    return AssetValues(
        options["key"],
        options["definitions"],
        {partition: one["event"] for partition, one in writes.items()},
        modules=options["modules"],
        environ=options["environ"],
    )


def _common(key: str, places: Mapping[str, str]) -> str:
    """The directory in which all partitions lie, of several dimensions one in another."""
    if len({*places.values()}) == 1 < len(places):
        return next(iter(places.values()))
    for levels in (1, 1 + max(partition.count("|") for partition in places)):
        folders = {_parent(place, levels) for place in places.values()}
        if len(folders) == 1:
            return folders.pop()
    shown = " and ".join(sorted(folders)[:2])
    raise SourceError(
        f"partitions of {key} lie in several places, such as {shown}",
        "give the plan a path; or `holds: slice`, where its partitions are days",
    )


def _parent(place: str, levels: int) -> str:
    scheme, mark, rest = place.rpartition("://")
    path = PurePosixPath(rest)
    return f"{scheme}{mark}{path.parents[min(levels, len(path.parents)) - 1]}"


def _day(partition: str) -> date | None:
    try:
        return date.fromisoformat(partition)
    except ValueError:
        return None

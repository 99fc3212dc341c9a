"""What a dataset's own Dagster asset wrote: its place is had from the event log, none is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from backup_pipeline.engine.errors import DayUnavailable, SourceError
from backup_pipeline.sources.base import Source

__all__ = ["open_asset"]


def open_asset(
    options: Mapping[str, Any], *, exclude: Sequence[str] = (), day: date | None = None, **_: Any
) -> Source:
    """Open the files or objects that an asset wrote, as its latest materialization says.

    Consistency is that of files and of objects. A partitioned asset of a whole dataset is the
    directory that holds all of its partitions; of slices, each day's partition is the day's.

    Args:
        options: ``key`` of the asset, ``places`` (by partition, from the event log), and S3
            settings for what lies there.
        exclude: Globs that are left out.
        day: The slice's day.

    Raises:
        SourceError: No materialization says where the asset was written.
        DayUnavailable: The day's partition was not materialized.
    """
    places, key = options["places"], options["key"]
    if not places:
        raise SourceError(
            f"no materialization of {key} says where it was written",
            "its IO manager, or the asset itself, has to report `uri` or `path` as metadata; or"
            " give the plan a path",
        )
    if day is not None:
        if day.isoformat() not in places:
            days = [one for one in map(_day, places) if one is not None]
            raise DayUnavailable(
                f"partition {day} of {key} was never materialized", available=sorted(days)
            )
        place = places[day.isoformat()]
    else:
        place = places[""] if "" in places else _common(key, places)
    settings = {name: value for name, value in options.items() if name not in ("places", "key")}
    if urlsplit(place).scheme == "s3":
        from backup_pipeline.sources.objects import ObjectsSource

        return ObjectsSource({**settings, "url": place}, exclude=exclude)
    from backup_pipeline.sources.files import FilesSource

    return FilesSource(place.removeprefix("file://"), exclude=exclude)


def _common(key: str, places: Mapping[str, str]) -> str:
    """The directory in which all partitions lie."""
    folders = {_parent(place) for place in places.values()}
    if len(folders) > 1:
        shown = " and ".join(sorted(folders)[:2])
        raise SourceError(
            f"partitions of {key} lie in several places, such as {shown}",
            "give the plan a path; or `holds: slice`, where its partitions are days",
        )
    return folders.pop()


def _parent(place: str) -> str:
    scheme, mark, rest = place.rpartition("://")
    return f"{scheme}{mark}{PurePosixPath(rest).parent}"


def _day(partition: str) -> date | None:
    try:
        return date.fromisoformat(partition)
    except ValueError:
        return None

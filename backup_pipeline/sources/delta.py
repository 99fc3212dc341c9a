"""Delta tables: one version as a whole, its log and exactly the files that it refers to."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

from backup_pipeline.engine.errors import DayUnavailable, SourceError
from backup_pipeline.sources.base import VANISHED, Reader, Source, Unreadable
from backup_pipeline.sources.delta_log import (
    LOG,
    DataFile,
    Gap,
    Log,
    State,
    checkpoint_actions,
    committed_ms,
    whole_commit,
)
from backup_pipeline.sources.listing import Item, Listing
from backup_pipeline.sources.table_files import Found, TableFiles, open_table_files

__all__ = ["DeltaSource", "open_delta"]

_LISTINGS: Final = 3
_DAMAGED: Final = (
    "its log is damaged: restore the file that is named from a backup of the table, if there is one"
)
_HINT: Final = f"name the directory or prefix that holds {LOG}"
# Clocks of several writers may differ: a later commit may bear an earlier time. So many commits
# are looked at beside the one that a search by halves finds.
_DISORDER: Final = 32


def open_delta(options: Mapping[str, Any], *, exclude: Sequence[str], day: date | None) -> Source:
    """A Delta table as a plan declares it; see :class:`DeltaSource`."""
    return DeltaSource(options)


class DeltaSource(Listing):
    """One version of a Delta table, the newest when it was scanned.

    Consistency: the version as a whole, pinned by its number. A writer that goes on meanwhile
    changes nothing of it. Its files are immutable, so none is read a second time.

    An entry is a file below the table's root: the commits up to the version, the newest checkpoint
    at or before it, and the data files and deletion vectors that the version refers to. What only
    earlier versions refer to is left out, and so is ``_last_checkpoint``, which says no more than a
    listing does. Restored anywhere, it is the table at that version, with its history.

    A file that the version refers to and that is gone (a vacuum without regard to readers) makes
    the snapshot incomplete and is named, unless an earlier snapshot holds it.

    Args:
        options: ``path`` or ``url``, and for S3 what a store takes.
        version: The version to read; None: the newest at each scan.
    """

    kind = "delta"
    supports_as_of = True

    def __init__(self, options: Mapping[str, Any], *, version: int | None = None) -> None:
        self._options = options
        self._files: TableFiles = open_table_files(options)
        self._version = version
        self._scanned: str | None = None
        self._sizes: dict[str, int | None] = {}

    def describe(self) -> str:
        """The table's root."""
        at = "" if self._version is None else f" at version {self._version}"
        return f"{self._files.describe()}{at}"

    def fingerprint(self) -> str:
        """Of the version's number and its commit; reads one small file and lists little."""
        newest = self._newest_log()
        version = newest.newest if self._version is None else self._version
        if version is None or version not in newest.commits:
            version, newest = self._pin()
        return _fingerprint(version, newest.commits[version])

    def scanned(self) -> str | None:
        """The fingerprint of the version that was listed."""
        return self._scanned

    def items(self) -> Iterable[Item]:
        """The log up to the version, and the files that the version refers to.

        Raises:
            SourceError: It is no Delta table, or one that cannot be read whole.
        """
        version, log, state, names = self._read_version()
        items = [_log_item(found) for at, found in log.commits.items() if at <= version]
        items += [_log_item(found) for found in names]
        table_id = state.table_id or ""
        items += [_data_item(file, table_id) for file in state.files(self.describe())]
        items.sort(key=lambda item: item.path.encode())
        exact = {file.name: file.exact for file in state.files(self.describe())}
        self._sizes = {item.path: item.size if exact.get(item.path) else None for item in items}
        self._scanned = _fingerprint(version, log.commits[version])
        return items

    def _read_version(self) -> tuple[int, Log, State, list[Found]]:
        """The version, the log, what it says, and the checkpoint's files."""
        for attempt in range(1, _LISTINGS + 1):
            version, log = self._pin()
            try:
                state, names = self._replay(version, log)
            except Gap as error:
                raise SourceError(
                    f"{self.describe()}: version {version} cannot be read: {error}",
                    _DAMAGED,
                ) from error
            except Unreadable as error:
                # The log may be cleaned up behind a listing; a new one shows what took its place.
                if error.state == VANISHED and attempt < _LISTINGS:
                    continue
                message = f"{self.describe()}: its log cannot be read: {error.reason}"
                raise SourceError(message, "is it being cleaned up or moved?") from error
            state.require_known(self._files.describe())
            return version, log, state, names
        raise AssertionError("the last attempt raises")

    def _pin(self) -> tuple[int, Log]:
        listing = self._files.listing(LOG)
        log = Log.of(listing)
        version = log.newest if self._version is None else self._version
        if version is None:
            raise SourceError(f"{self._files.describe()} is no Delta table: it has no log", _HINT)
        if version not in log.commits:
            raise SourceError(
                f"{self._files.describe()} has no version {version} any more",
                f"its log has versions {min(log.commits, default=0)} to {log.newest}",
            )
        return version, log

    def _newest_log(self) -> Log:
        """The end of the log, found without listing all of it where it has a checkpoint."""
        try:
            hint = json.loads(self._files.read(f"{LOG}/_last_checkpoint"))
            after = f"{LOG}/{int(hint['version']):020d}"
        except (Unreadable, ValueError, KeyError, TypeError):
            after = ""
        return Log.of(self._files.listing(LOG, after))

    def _replay(self, version: int, log: Log) -> tuple[State, list[Found]]:
        checkpoint, commits = log.makes(version)
        state, names = State(), list(checkpoint)
        for part in checkpoint:
            self._apply_checkpoint(state, part.name)
        if state.sidecars:
            wanted = set(state.sidecars)
            listed = [one for one in self._files.listing(f"{LOG}/_sidecars") if one.name in wanted]
            if missing := wanted - {one.name for one in listed}:
                reason = f"its checkpoint names {min(missing)}, which is not listed"
                raise Unreadable(VANISHED, reason)
            names += listed
            for name in list(state.sidecars):
                self._apply_checkpoint(state, name)
        for commit in commits:
            for action in whole_commit(commit.name, self._files.read(commit.name)):
                state.apply(action)
        return state, names

    def _apply_checkpoint(self, state: State, name: str) -> None:
        for action in checkpoint_actions(name, self._files.read(name)):
            state.apply(action)

    def prefetch(self, entries: Sequence[tuple[bytes, int, str | None]]) -> None:
        """Begin to read what will be opened next, where that is far away."""
        self._files.announce([(path.decode(), size) for path, size, _ in entries])

    def open(self, path: bytes, type: str, *, etag: str | None = None) -> Reader:
        """Open one file of the version.

        Raises:
            Unreadable: It is gone, refused, or not as long as the log says.
        """
        name = path.decode()
        try:
            return self._files.open(name, self._sizes.get(name))
        except Unreadable as error:
            if error.state != VANISHED:
                raise
            reason = "the version refers to it, and it is gone: vacuumed, or deleted by hand"
            raise Unreadable(VANISHED, reason) from error

    # -- past days

    def as_of(self, day: date) -> Source:
        """The newest version that was committed before the day's end.

        The times are those that the commits themselves bear, whatever the files' say.

        Raises:
            DayUnavailable: The table was not there yet, or its log was cleaned up.
        """
        end = self.end_of(day)
        log = Log.of(self._files.listing(LOG))
        if not log.commits:
            raise SourceError(f"{self._files.describe()} is no Delta table: it has no log", _HINT)
        times = _Times(self._files, log)
        version = times.newest_before(round(end.timestamp() * 1000))
        if version is None:
            raise self._before_all(day, log, times)
        try:
            log.makes(version)
        except Gap as error:
            raise self._unavailable(
                day, f"version {version} cannot be had: {error}", log, times
            ) from error
        found = DeltaSource(self._options, version=version)
        found.zone = self.zone
        return found

    def _before_all(self, day: date, log: Log, times: _Times) -> DayUnavailable:
        first = min(log.commits)
        said = times.moment(first).astimezone(self.zone)
        why = (
            f"the table was made on {said:%Y-%m-%d}"
            if first == 0
            else f"its log was cleaned up and begins with version {first} of {said:%Y-%m-%d}"
        )
        return self._unavailable(day, why, log, times)

    def _unavailable(self, day: date, why: str, log: Log, times: _Times) -> DayUnavailable:
        days = list(self._days(log, times))
        since = f"; its days since {days[0]} can be had" if days else ""
        return DayUnavailable(
            f"{self._files.describe()} does not know how it was on {day}: {why}{since}",
            "`delta.logRetentionDuration` says how long a table remembers",
            available=days,
        )

    def _days(self, log: Log, times: _Times) -> Iterator[date]:
        """Past days whose state the log can still give."""
        oldest = next((one for one in sorted(log.commits) if _can_be_made(log, one)), None)
        if oldest is None:
            return
        day = times.moment(oldest).astimezone(self.zone).date()
        today = datetime.now(self.zone).date()
        while day < today:
            yield day
            day += timedelta(days=1)


class _Times:
    """When versions were committed, read from as few commits as will do."""

    def __init__(self, files: TableFiles, log: Log) -> None:
        self._files = files
        self._log = log
        self._known: dict[int, int] = {}

    def ms(self, version: int) -> int:
        """In ms since 1970; the time of the file where the commit bears none."""
        if version not in self._known:
            found = self._log.commits[version]
            try:
                said = committed_ms(found.name, self._files.read(found.name))
            except Unreadable as error:
                message = f"{self._files.describe()}: {found.name} cannot be read: {error.reason}"
                raise SourceError(message) from error
            except Gap as error:
                raise SourceError(f"{self._files.describe()}: {error}", _DAMAGED) from error
            self._known[version] = found.mtime_ns // 1_000_000 if said is None else said
        return self._known[version]

    def moment(self, version: int) -> datetime:
        """As a time in UTC."""
        return datetime.fromtimestamp(self.ms(version) / 1000, UTC)

    def newest_before(self, end_ms: int) -> int | None:
        """The newest version before the first that was committed at this time or later."""
        versions = sorted(self._log.commits)
        low, high = 0, len(versions)
        while low < high:
            middle = (low + high) // 2
            if self.ms(versions[middle]) < end_ms:
                low = middle + 1
            else:
                high = middle
        for at in range(max(0, low - _DISORDER), low):
            if self.ms(versions[at]) >= end_ms:
                low = at
                break
        return versions[low - 1] if low else None


def _can_be_made(log: Log, version: int) -> bool:
    try:
        log.makes(version)
    except Gap:
        return False
    return True


def _fingerprint(version: int, commit: Found) -> str:
    """Of a version: a table that was made anew has another commit under the same number."""
    return hashlib.sha256(f"delta {version} {commit.size} {commit.mark}".encode()).hexdigest()


def _log_item(found: Found) -> Item:
    return Item(found.name, found.size, etag=found.mark, mtime_ns=found.mtime_ns)


def _data_item(file: DataFile, table_id: str) -> Item:
    """Marked by what the log says of it for ever, so that no listing of data files is needed."""
    size = file.size if file.exact else "-"
    etag = f"{table_id}-{size}-{file.modified_ms or 0}"
    mtime_ns = file.modified_ms * 1_000_000 if file.modified_ms is not None else None
    return Item(file.name, file.size, etag=etag, mtime_ns=mtime_ns)

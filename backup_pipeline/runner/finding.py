"""Finds snapshots: by dataset, tier, day, time or id, over whatever places there are."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, tzinfo
from typing import TYPE_CHECKING, Self

from backup_pipeline.engine.errors import DamageError, NotFound, StoreError, UsageError
from backup_pipeline.runner.days import describe_days, is_good, rank
from backup_pipeline.runner.places import OpenStores, Place

if TYPE_CHECKING:
    from backup_pipeline.engine.format.record import Snapshot
    from backup_pipeline.engine.progress import Report
    from backup_pipeline.engine.repository import Repository

__all__ = ["Finder", "parse_time", "utc_now"]

_DAY = re.compile(r"\d{4}-\d{2}-\d{2}\Z")


def utc_now() -> datetime:
    """The present, aware and in UTC."""
    return datetime.now(UTC)


def parse_time(text: str, zone: tzinfo) -> datetime:
    """An ISO time; without an offset it is taken in ``zone``.

    Raises:
        UsageError: It is no ISO time.
    """
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(
            f"{text!r} is no time", "write 2026-11-22T14:30, or 2026-11-22T14:30:00Z"
        ) from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=zone)).astimezone(UTC)


class Finder(ABC):
    """Finds snapshots over whatever places a subclass knows.

    Attributes:
        zone: The time zone of days and of times without an offset.
        notices: What the user should know beside a verb's answer; grows, and callers may clear it.
    """

    def __init__(
        self,
        stores: OpenStores,
        *,
        zone: tzinfo = UTC,
        report: Report | None = None,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self.notices: list[str] = []
        self._stores = stores
        self.zone = zone
        self._report = report
        self._clock = clock

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the stores."""
        self._stores.close()

    @abstractmethod
    def datasets(self) -> list[str]:
        """Keys of all datasets, in order."""

    @abstractmethod
    def places(self, dataset: str, tier: str | None = None) -> list[Place]:
        """Where a dataset's snapshots are, in the order in which they are asked.

        Raises:
            UsageError: The dataset or the tier is not known.
        """

    def all_places(self, dataset: str | None = None, tier: str | None = None) -> list[Place]:
        """Places of one dataset or of all, in one tier or in all.

        Raises:
            UsageError: The dataset is not known, or nothing has such a tier.
        """
        if dataset is not None:
            return self.places(dataset, tier)
        places = [place for key in self.datasets() for place in self.places(key)]
        found = [place for place in places if tier in (None, place.tier)]
        if places and not found:
            names = dict.fromkeys(place.tier for place in places)
            raise UsageError(f"no dataset has a tier {tier!r}", f"tiers: {', '.join(names)}")
        return found

    # -- finding

    def repositories(self, dataset: str, tier: str | None = None) -> list[Repository]:
        """A dataset's repositories that are there and in reach, in the tiers' order.

        A store out of reach, or a repository too damaged to be opened, is an error where its tier
        was named or nothing else was found; else it is a notice.

        Raises:
            StoreError, DamageError: See above.
            WrongKey: A store is there and none of the keys opens it.
        """
        found: list[Repository] = []
        failures: list[StoreError | DamageError] = []
        for place in self.places(dataset, tier):
            try:
                repository = place.find()
            except (StoreError, DamageError) as error:
                failures.append(error)
                continue
            if repository is not None:
                found.append(repository)
                self._notice_losses(place, repository)
        if failures and (tier is not None or not found):
            raise failures[0]
        for failure in failures:
            what = "out of reach" if isinstance(failure, StoreError) else "damaged"
            self._notice(f"{what}, left out: {failure.message}")
        return found

    def _notice_losses(self, place: Place, repository: Repository) -> None:
        """Tell of lost log records: what they said, a newer snapshot perhaps, does not show."""
        for lost in repository.log.lost.values():
            self._notice(f"tier {place.tier} is damaged, and a newer snapshot may not show: {lost}")

    def _notice(self, text: str) -> None:
        if text not in self.notices:
            self.notices.append(text)

    def snapshots(self, dataset: str | None = None, tier: str | None = None) -> list[Snapshot]:
        """Snapshots that are not expired, by dataset, tier and commit order."""
        keys = dict.fromkeys(place.dataset for place in self.all_places(dataset, tier))
        return [
            snapshot
            for key in keys
            for repository in self.repositories(key, tier)
            for snapshot in repository.snapshots()
        ]

    def find(
        self,
        dataset: str,
        *,
        tier: str | None = None,
        day: date | None = None,
        at: datetime | None = None,
        snapshot: str | None = None,
    ) -> tuple[Repository, Snapshot]:
        """Find one snapshot and where it is; without a selector, the newest good one.

        Args:
            dataset: The dataset's key.
            tier: Look in this tier alone; else in all, the earlier preferred among equals.
            day: The day that it stands for.
            at: The newest good one whose source was read at or before this time.
            snapshot: Its id, or the beginning of it; the only way to an incomplete one.

        Raises:
            NotFound: There is none.
            UsageError: More than one selector, or an ambiguous id.
        """
        if sum(given is not None for given in (day, at, snapshot)) > 1:
            raise UsageError("day, time and snapshot each select a snapshot", "give one of them")
        repositories = self.repositories(dataset, tier)
        if snapshot is not None:
            return self._by_id(dataset, repositories, snapshot)
        candidates = [
            (repository, found)
            for repository in repositories
            for found in repository.snapshots()
            if (day is None or found.day == day) and (at is None or found.captured_at <= at)
        ]
        good = [pair for pair in candidates if is_good(pair[1])]
        if not good:
            raise self.none_found(dataset, tier, repositories, candidates, day, at)
        if day is not None:
            newest = max(rank(found) for _, found in good)
            equals = [pair for pair in good if rank(pair[1]) == newest]
        else:
            moment = max(found.captured_at for _, found in good)
            equals = [pair for pair in good if pair[1].captured_at == moment]
        first = equals[0][0]
        chosen = max(
            (found for repository, found in equals if repository is first),
            key=lambda found: (rank(found), found.sequence),
        )
        self._notice_suspicion(first, chosen)
        return first, chosen

    def _notice_suspicion(self, repository: Repository, chosen: Snapshot) -> None:
        """Tell who takes a snapshot that may hold what an attack left, and which one does not."""
        waiting = repository.state.suspicions.open()
        if not waiting or chosen.captured_at < waiting[0].captured_at:
            return
        first = waiting[0]
        sound = [
            one
            for one in repository.snapshots()
            if is_good(one) and one.captured_at < first.captured_at
        ]
        last = max(sound, key=lambda one: (one.captured_at, one.sequence), default=None)
        own = (chosen.anomaly or {}).get("snapshot") == first.id
        which = "it is" if own else f"{first.id[:12]} of {first.day}, before it, is"
        self._notice(
            f"snapshot {chosen.id[:12]} of {chosen.day}: {which} suspicious"
            f" ({'; '.join(first.says)}); "
            + (
                f"the last one before is --snapshot {last.id[:12]}, of {last.day}"
                if last
                else "there is none before"
            )
        )

    def suspicions_in(self, dataset: str, tier: str | None = None) -> dict[str, str]:
        """Snapshots that were flagged, in the tiers that are in reach: id to ``suspicious`` or,
        with who and why, ``cleared``."""
        found: dict[str, str] = {}
        for repository in self.repositories(dataset, tier):
            suspicions = repository.state.suspicions
            for key, (_, body) in repository.state.snapshots.items():
                one = suspicions.of(body)
                if one is not None:
                    said = suspicions.cleared.get(one.id)
                    by = f"cleared by {said['by']}: {said['reason']}" if said else "suspicious"
                    found[key] = by
        return found

    def _by_id(
        self, dataset: str, repositories: Sequence[Repository], prefix: str
    ) -> tuple[Repository, Snapshot]:
        wanted = prefix.lower()
        found = [
            (repository, snapshot)
            for repository in repositories
            for snapshot in repository.snapshots()
            if wanted and snapshot.id.startswith(wanted)
        ]
        if len(found) == 1:
            return found[0]
        how_many = f"{len(found)} snapshots begin" if found else "no snapshot begins"
        error = UsageError if found else NotFound
        raise error(
            f"{how_many} with {prefix!r} among those of {dataset}",
            "list them with `backup-pipeline snapshots`",
        )

    def none_found(
        self,
        dataset: str,
        tier: str | None,
        repositories: Sequence[Repository],
        candidates: Sequence[tuple[Repository, Snapshot]],
        day: date | None,
        at: datetime | None,
    ) -> NotFound:
        """The error for a search that found no good snapshot; it says what there is instead."""
        where = f"{dataset} in tier {tier}" if tier else dataset
        which = f" for {day}" if day else f" read at or before {at.isoformat()}" if at else ""
        if candidates:
            newest = max((found for _, found in candidates), key=lambda found: found.captured_at)
            return NotFound(
                f"{where} has no good snapshot{which}: {newest.problem_count} entries of the newest"
                f" one ({newest.id[:12]}) could not be backed up",
                f"take it as it is with --snapshot {newest.id[:12]}",
            )
        days = [s.day for one in repositories for s in one.snapshots() if is_good(s)]
        return NotFound(
            f"{where} has no snapshot{which}",
            f"days that are there: {describe_days(days, day)}"
            if days
            else "nothing was backed up yet: `backup-pipeline backup` makes the first snapshot",
        )

    def select(
        self, dataset: str, words: str, tier: str | None = None
    ) -> tuple[Repository, Snapshot]:
        """Find a snapshot by what a person writes.

        Args:
            dataset: The dataset's key.
            words: ``latest``, a day, an ISO time, or an id's beginning; ``cloud:2026-11-22``
                names the tier too.
            tier: The tier where the words name none.
        """
        head, colon, tail = words.partition(":")
        if colon and any(place.tier == head for place in self.places(dataset)):
            tier, words = head, tail
        if words == "latest":
            return self.find(dataset, tier=tier)
        if _DAY.match(words):
            try:
                return self.find(dataset, tier=tier, day=date.fromisoformat(words))
            except ValueError as error:
                raise UsageError(f"{words} is no day: {error}") from None
        if "T" in words:
            return self.find(dataset, tier=tier, at=parse_time(words, self.zone))
        return self.find(dataset, tier=tier, snapshot=words)

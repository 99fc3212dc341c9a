"""What a versioned bucket held at an instant: the choice among versions, and what proves it.

S3 dates a version to the second, rounded down. A day ends on a whole second, so a version whose
time is before that instant was written before it, and one whose time is that instant or later was
not: no tie is possible at the day's end. Among versions of one second the order of the listing
decides, which is newest first; where a server's answer has lost that order the key is named as
unknowable. (A multipart upload is dated by AWS to its beginning: one that was under way at the
day's end counts to that day. No listing tells otherwise.)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import groupby, pairwise
from typing import Any, Final

__all__ = ["UNVERSIONED", "Moment", "Version", "expired_by_rule", "in_order"]

UNVERSIONED: Final = "null"
"""The version id of what was written while versioning was off or suspended."""


@dataclass(frozen=True, slots=True)
class Version:
    """One line of a listing of versions.

    Attributes:
        key: The whole key.
        version_id: As the bucket names it.
        modified_ns: When it was written, in ns since 1970; mostly rounded down to the second.
        size: Bytes; 0 of a delete marker.
        etag: Without quotes; None of a delete marker.
        latest: Whether it is what the key holds now.
        sure: Whether its place among versions of its key and second is known.
    """

    key: str
    version_id: str
    modified_ns: int
    size: int = 0
    etag: str | None = None
    latest: bool = False
    sure: bool = True

    @property
    def marker(self) -> bool:
        """Whether it says that the key was deleted."""
        return self.etag is None


def in_order(versions: Sequence[Version], markers: Sequence[Version], kinds: str) -> list[Version]:
    """One page's versions and delete markers as they stood in the server's answer.

    Args:
        versions: In the answer's order.
        markers: In the answer's order.
        kinds: ``V`` for each version and ``M`` for each marker, in the answer's order.

    Returns:
        Key by key, newest first. Where the answer lists versions and markers apart, those of one
        key and second are not ``sure``.
    """
    ours = {"V": iter(versions), "M": iter(markers)}
    lines = [next(ours[kind]) for kind in kinds]
    keys = [line.key for line in lines]
    turns = 1 + sum(one != other for one, other in pairwise(keys))
    if not keys or turns == len(set(keys)):
        return lines
    first = {key: number for number, key in reversed(list(enumerate(keys)))}
    lines.sort(key=lambda line: (first[line.key], -line.modified_ns))
    seen: dict[tuple[str, int], set[bool]] = {}
    for line in lines:
        seen.setdefault((line.key, line.modified_ns), set()).add(line.marker)
    return [
        line if len(seen[line.key, line.modified_ns]) == 1 else replace(line, sure=False)
        for line in lines
    ]


class Moment:
    """Chooses key by key what was there at an instant, and gathers what proves the answer.

    Args:
        ends_at: The instant; what was written at it or later was not there.

    Attributes:
        disorder: Whether the lines came in another order than S3 promises, which servers do that
            leave some out between two pages.
    """

    def __init__(self, ends_at: datetime) -> None:
        self.ends_at = ends_at
        self.disorder = False
        self._end_ns = int(ends_at.timestamp()) * 1_000_000_000
        self._unversioned_ns: int | None = None
        self._versioned_ns: int | None = None

    def choose(self, lines: Iterable[Version]) -> Iterator[tuple[Version, str | None]]:
        """What each key held, and why that cannot be known where it cannot.

        Args:
            lines: Key by key in ascending order of their bytes, newest first.
        """
        last = b""
        for key, group in groupby(lines, key=lambda line: line.key):
            self.disorder = self.disorder or key.encode() <= last
            last = key.encode()
            before: list[Version] = []
            for number, line in enumerate(group):
                self._note(line)
                self.disorder = self.disorder or (number == 0) != line.latest
                if line.modified_ns < self._end_ns and len(before) < 2:
                    before.append(line)
            if not before:
                continue
            chosen, reason = before[0], None
            if len(before) > 1 and before[1].modified_ns > chosen.modified_ns:
                reason = "two of its versions were written at the same time"
            elif not chosen.sure:
                reason = "it was written and deleted within one second; the order is not known"
            if reason is not None or not chosen.marker:
                yield chosen, reason

    def doubt(self, sworn: bool) -> str | None:
        """Why what was chosen may not be what was there; None if nothing speaks against it.

        Asked once all lines were seen. A version under an id of its own says that versioning was
        on at its time, one without that it was not. So versioning was on at the instant, and is
        still, if the newest line without an id is older than some line with one that is older
        than the instant.

        Args:
            sworn: Whether the plan says that all versions since then are there.
        """
        last = self._unversioned_ns
        if last is not None and last >= self._end_ns:
            return f"something was written without a version on {_instant(last)}, after that day"
        if self.disorder:
            return "the server lists versions out of order, and may leave some out"
        proved = self._versioned_ns is not None and self._versioned_ns >= (last or 0)
        if proved or sworn:
            return None
        return "nothing there shows that versioning was on by the end of that day"

    def _note(self, line: Version) -> None:
        if line.version_id == UNVERSIONED:
            self._unversioned_ns = max(self._unversioned_ns or 0, line.modified_ns)
        elif line.modified_ns < self._end_ns:
            self._versioned_ns = max(self._versioned_ns or 0, line.modified_ns)


def expired_by_rule(
    rules: Iterable[Mapping[str, Any]], prefix: str, ends_at: datetime, now: datetime
) -> int | None:
    """After how many days a lifecycle rule deletes versions, if some of the instant may be gone.

    A version that was current at the instant was replaced after it, and goes that many days later
    at the earliest. Rules that are bound to tags or sizes count as if they were bound to none.

    Args:
        rules: As S3 gives them.
        prefix: What the keys begin with.
        ends_at: The instant.
        now: The present.
    """
    found: list[int] = []
    for rule in rules:
        days = rule.get("NoncurrentVersionExpiration", {}).get("NoncurrentDays")
        if rule.get("Status") != "Enabled" or days is None:
            continue
        bound = rule.get("Filter") or {}
        theirs = bound.get("And", bound).get("Prefix") or rule.get("Prefix") or ""
        near = theirs.startswith(prefix) or prefix.startswith(theirs)
        if near and now >= ends_at + timedelta(days=days):
            found.append(days)
    return min(found, default=None)


def _instant(ns: int) -> str:
    return f"{datetime.fromtimestamp(ns // 1_000_000_000, UTC):%Y-%m-%d %H:%M:%S} UTC"

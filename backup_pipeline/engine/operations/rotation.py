"""Rotation: which part of a snapshot a drill takes, so that all of it has its turn.

Every path has a place on a ring of 2^64, by a keyed hash of its name. A drill takes the entries
from where the last one ended, as far as its sample reaches, so what was drilled longest ago is
next, and each drill moves on by at least its share of the ring: after ceil(1 / sample) drills
every path had its turn, however the dataset changed meanwhile. The log's ``drill`` records are the
ledger.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from blake3 import blake3

from backup_pipeline.engine.crypto import derive
from backup_pipeline.engine.format.record import from_iso, to_iso
from backup_pipeline.engine.keys import DatasetKeys

__all__ = [
    "MOST_FAILED",
    "RING",
    "Coverage",
    "Drilled",
    "Part",
    "choose",
    "coverage",
    "drills_to_cover",
    "ledger",
    "next_start",
    "places",
    "slices_due",
    "to_try_again",
]

RING = 1 << 64
MOST_FAILED = 1000
"""Failed entries that a record names; of a drill with more, nothing counts as drilled."""

_PLACE_BYTES = 8
_NEVER = np.iinfo(np.int64).min


@dataclass(frozen=True, slots=True)
class Part:
    """What one drill takes.

    Attributes:
        rows: Which of the entries, ascending.
        start: Where on the ring it begins.
        length: How far it reaches; ``RING`` for all.
    """

    rows: np.ndarray
    start: int
    length: int


@dataclass(frozen=True, slots=True)
class Drilled:
    """One drill in the ledger.

    Attributes:
        at: When it ended (UTC).
        snapshot: Id of the snapshot that it restored from.
        current: Whether that was the tier's newest good one.
        scanned_ns: Source clock when the snapshot's scan began: what changed later was not there.
        start: Where on the ring its part begins.
        length: How far the part reaches; 0 where nothing of it counts.
        again: Places that were drilled besides, because they had failed before.
        failed: Places of the entries that were not as they should be.
        equal: Whether all that was restored was as the manifest says.
        files: Files restored.
        bytes: Their logical bytes.
        restore_ms: Milliseconds that this took.
        whole_ms: Milliseconds that all of the snapshot would take; None where that is not known.
        tests: How many tests of the plan were done on the restored copy.
        failed_tests: How many of them failed.
    """

    at: datetime
    snapshot: str
    current: bool
    scanned_ns: int
    start: int
    length: int
    again: tuple[int, ...] = ()
    failed: tuple[int, ...] = ()
    equal: bool = True
    files: int = 0
    bytes: int = 0
    restore_ms: int = 0
    whole_ms: int | None = None
    tests: int = 0
    failed_tests: int = 0

    def body(self) -> dict[str, Any]:
        """The body of its record in the log."""
        return {
            "type": "drill",
            "optional": True,
            "at": to_iso(self.at),
            "snapshot": self.snapshot,
            "current": self.current,
            "scanned_ns": self.scanned_ns,
            "start": f"{self.start:016x}",
            "length": f"{self.length:x}",
            "again": [f"{place:016x}" for place in self.again],
            "failed": [f"{place:016x}" for place in self.failed],
            "equal": self.equal,
            "files": self.files,
            "bytes": self.bytes,
            "restore_ms": self.restore_ms,
            "whole_ms": self.whole_ms,
            "tests": self.tests,
            "failed_tests": self.failed_tests,
        }

    @staticmethod
    def from_body(body: Mapping[str, Any]) -> Drilled:
        """Read a record's body.

        Raises:
            KeyError, TypeError, ValueError: It does not say what a drill must.
        """
        whole_ms = body["whole_ms"]
        return Drilled(
            at=from_iso(body["at"]),
            snapshot=str(body["snapshot"]),
            current=body["current"] is True,
            scanned_ns=int(body["scanned_ns"]),
            start=int(body["start"], 16) % RING,
            length=min(int(body["length"], 16), RING),
            again=tuple(int(place, 16) % RING for place in body["again"]),
            failed=tuple(int(place, 16) % RING for place in body["failed"]),
            equal=body["equal"] is True,
            files=int(body["files"]),
            bytes=int(body["bytes"]),
            restore_ms=int(body["restore_ms"]),
            whole_ms=None if whole_ms is None else int(whole_ms),
            tests=int(body["tests"]),
            failed_tests=int(body["failed_tests"]),
        )


def ledger(bodies: Sequence[Mapping[str, Any]], snapshot: str | None = None) -> list[Drilled]:
    """The drills that take turns, in order; records that cannot be read count as not done.

    Args:
        bodies: The bodies of the records.
        snapshot: Only drills of this one, as where each slice is drilled by itself; else those of
            what was the newest snapshot at the time.
    """
    found: list[Drilled] = []
    for body in bodies:
        try:
            one = Drilled.from_body(body)
        except (KeyError, TypeError, ValueError, OverflowError):
            continue
        if one.current if snapshot is None else one.snapshot == snapshot:
            found.append(one)
    return found


def places(paths: Sequence[bytes], keys: DatasetKeys) -> np.ndarray:
    """Where on the ring paths have their places, as 64-bit numbers.

    Keyed, so that nobody without the key knows what the next drill will look at.
    """
    key = derive(keys.index, "drill places")
    joined = b"".join(blake3(path, key=key).digest(length=_PLACE_BYTES) for path in paths)
    return np.frombuffer(joined, dtype=">u8").astype(np.uint64)


def next_start(drills: Sequence[Drilled]) -> int:
    """Where the next drill begins: where the last one ended."""
    return (drills[-1].start + drills[-1].length) % RING if drills else 0


def to_try_again(drills: Sequence[Drilled]) -> tuple[int, ...]:
    """Places of entries that failed last time: they are drilled each time until they pass."""
    return drills[-1].failed if drills else ()


def drills_to_cover(sample: float) -> int:
    """How many drills of a sample it takes until every path had its turn: ceil(1 / sample)."""
    return max(1, math.ceil(round(1 / sample, 6))) if sample > 0 else 0


def choose(
    ring: np.ndarray,
    sizes: np.ndarray,
    with_bytes: np.ndarray,
    *,
    sample: float,
    start: int,
    again: Sequence[int] = (),
) -> Part:
    """Choose what a drill takes.

    Args:
        ring: The entries' places.
        sizes: Their logical bytes.
        with_bytes: Which of them are files.
        sample: Share of the bytes to take at least, from 0 to 1; at least one file where there is
            one, and at least so much of the ring.
        start: Where to begin.
        again: Places of entries to take besides.
    """
    count = len(ring)
    if sample >= 1 or count == 0:
        return Part(np.arange(count), start, RING)
    ahead = ring - np.uint64(start)  # wraps around, as the ring does
    order = np.argsort(ahead, kind="stable")
    sums = np.cumsum(sizes[order] * with_bytes[order])
    taken = int(np.searchsorted(sums, sample * float(sums[-1]), "left")) + 1
    files = np.flatnonzero(with_bytes[order])
    if len(files):
        taken = max(taken, int(files[0]) + 1)
    reach = int(sample * RING)
    taken = max(taken, int(np.searchsorted(ahead[order], np.uint64(reach), "left")))
    if taken >= count:
        return Part(np.arange(count), start, RING)
    length = max(reach, int(ahead[order[taken - 1]]) + 1)
    # Two names at one place on the ring stay together.
    taken = int(np.searchsorted(ahead[order], np.uint64(min(length, RING - 1)), "left"))
    chosen = np.zeros(count, bool)
    chosen[order[:taken]] = True
    if again:
        chosen |= np.isin(ring, np.array(again, np.uint64))
    return Part(np.flatnonzero(chosen), start, length)


def slices_due(
    captured: Mapping[str, datetime], bodies: Sequence[Mapping[str, Any]], sample: float
) -> list[str]:
    """Which slices a drill takes, where each day's snapshot is the only copy of its day.

    Those that were looked at longest ago, when they were captured or wholly drilled and found
    right: at least the sample's share of them, each as a whole.

    Args:
        captured: Snapshot id to when its source was read, for each slice.
        bodies: The bodies of the records of drills.
        sample: The share, from 0 to 1.
    """
    seen = dict(captured)
    for key in seen:
        for one in ledger(bodies, key):
            if one.length == RING and one.equal and not one.failed_tests:
                seen[key] = max(seen[key], one.at)
    count = max(1, math.ceil(round(sample * len(seen), 6)))
    return sorted(seen, key=lambda key: (seen[key], key))[:count]


@dataclass(frozen=True, slots=True)
class Coverage:
    """How much of a snapshot drills have restored, each entry as it is now.

    Attributes:
        verified_share: Share of its bytes that a drill found right, and that did not change since.
        oldest_at: When the entry among them was drilled that waited longest; None for none.
        failed: Entries that were wrong when they were last drilled.
    """

    verified_share: float
    oldest_at: datetime | None
    failed: int


def coverage(
    ring: np.ndarray, sizes: np.ndarray, changed_ns: np.ndarray, drills: Sequence[Drilled]
) -> Coverage:
    """Work out what the ledger proves of a snapshot.

    Args:
        ring: The entries' places.
        sizes: Their logical bytes; 0 for what has none.
        changed_ns: When each last changed, by the source's clock; what changed after the scan of
            the snapshot that was drilled had not been there in this form.
        drills: The ledger.
    """
    order = np.argsort(ring, kind="stable")
    places_, changed = ring[order], changed_ns[order]
    at_us = np.full(len(ring), _NEVER, np.int64)
    for one in drills:
        when = _microseconds(one.at)
        for low, high in _arcs(places_, one):
            part = at_us[low:high]
            part[changed[low:high] <= one.scanned_ns] = when
        tried = np.isin(places_, np.array(one.again, np.uint64)) & (changed <= one.scanned_ns)
        at_us[tried] = when
        at_us[np.isin(places_, np.array(one.failed, np.uint64))] = _NEVER
    done = at_us != _NEVER
    total = int(sizes.sum())
    share = float(sizes[order][done].sum()) / total if total else float(done.all())
    oldest = _EPOCH + timedelta(microseconds=int(at_us[done].min())) if done.any() else None
    again = np.array(to_try_again(drills), np.uint64)
    return Coverage(share, oldest, int(np.isin(places_, again).sum()))


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _microseconds(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(microseconds=1)


def _arcs(ordered: np.ndarray, one: Drilled) -> list[tuple[int, int]]:
    """Which of the ordered places a drill's part holds: one stretch, or two around the ring."""
    end = one.start + one.length
    if one.length >= RING:
        return [(0, len(ordered))]
    first = int(np.searchsorted(ordered, np.uint64(one.start), "left"))
    if end < RING:
        return [(first, int(np.searchsorted(ordered, np.uint64(end), "left")))]
    rest = int(np.searchsorted(ordered, np.uint64(end - RING), "left"))
    return [(first, len(ordered)), (0, rest)]

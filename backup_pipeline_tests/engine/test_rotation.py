"""Rotation: whatever happens to a dataset, every path has its turn within the promised drills."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backup_pipeline.engine.keys import DatasetKeys
from backup_pipeline.engine.operations.rotation import (
    RING,
    Drilled,
    choose,
    coverage,
    drills_to_cover,
    ledger,
    next_start,
    places,
    slices_due,
    to_try_again,
)

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
KEYS = DatasetKeys.generate()


def drilled(start: int, length: int, **more: Any) -> Drilled:
    return Drilled(at=BEGIN, snapshot="a", current=True, scanned_ns=10, start=start, length=length)


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 1 << 40), min_size=1, max_size=60),
    sample=st.sampled_from([0.01, 0.05, 0.1, 0.3, 0.34, 0.5, 0.9, 1.0]),
    chance=st.integers(0, 1 << 30),
)
def test_every_path_has_its_turn_within_the_promised_drills_however_the_dataset_changes(
    sizes: list[int], sample: float, chance: int
) -> None:
    random = np.random.default_rng(chance)
    stays = {f"stays/{i}".encode(): size for i, size in enumerate(sizes)}
    seen: set[bytes] = set()
    done: list[Drilled] = []
    for number in range(drills_to_cover(sample)):
        comes = {f"{number}/{i}".encode(): int(random.integers(1 << 42)) for i in range(3)}
        paths = sorted(stays | comes)
        size = np.array([(stays | comes)[path] for path in paths], np.int64)
        start = next_start(done)
        part = choose(places(paths, KEYS), size, size >= 0, sample=sample, start=start)
        assert size[part.rows].sum() >= sample * size.sum() * 0.999999
        assert len(part.rows) > 0
        seen.update(paths[row] for row in part.rows)
        done.append(drilled(part.start, part.length))
    assert seen >= set(stays)


def test_a_sample_moves_on_and_comes_around() -> None:
    paths = [f"{i}".encode() for i in range(40)]
    ring, size = places(paths, KEYS), np.full(40, 100, np.int64)
    taken: list[int] = []
    done: list[Drilled] = []
    while len(taken) < 80:
        part = choose(ring, size, size > 0, sample=0.1, start=next_start(done))
        in_turn = sorted(part.rows.tolist(), key=lambda row: (int(ring[row]) - part.start) % RING)
        taken += in_turn
        done.append(drilled(part.start, part.length))
    assert sorted(taken[:40]) == list(range(40)), "none twice before each had its turn"
    assert taken[40:80] == taken[:40], "then oldest first"


def test_what_failed_is_tried_again_until_it_passes_and_holds_nobody_up() -> None:
    paths = [f"{i}".encode() for i in range(20)]
    ring, size = places(paths, KEYS), np.full(20, 100, np.int64)
    bad = int(ring[7])
    first = Drilled(BEGIN, "a", True, 10, 0, 1 << 62, failed=(bad,), equal=False)
    part = choose(
        ring, size, size > 0, sample=0.1, start=next_start([first]), again=to_try_again([first])
    )
    assert 7 in part.rows and part.start == 1 << 62
    good = Drilled(BEGIN, "a", True, 10, part.start, part.length)
    assert to_try_again([first, good]) == ()


def test_only_what_has_not_changed_since_counts_as_verified() -> None:
    paths = [b"old", b"new", b"touched"]
    ring, size = places(paths, KEYS), np.array([100, 300, 600], np.int64)
    changed = np.array([5, 11, 12], np.int64)
    done = [Drilled(BEGIN, "a", True, 10, 0, RING)]
    found = coverage(ring, size, changed, done)
    assert (found.verified_share, found.oldest_at) == (0.1, BEGIN)
    later = BEGIN + timedelta(days=7)
    done.append(Drilled(later, "b", True, 20, 0, RING, failed=(int(ring[2]),)))
    found = coverage(ring, size, changed, done)
    assert (found.verified_share, found.oldest_at, found.failed) == (0.4, later, 1)
    assert coverage(ring, size, changed, []).verified_share == 0


@pytest.mark.parametrize("start", [0, RING - 5, 1 << 63])
def test_a_part_that_goes_around_the_ring_covers_both_ends(start: int) -> None:
    ring = np.array([1, RING - 3, 1 << 62], np.uint64)
    ones = np.ones(3, np.int64)
    found = coverage(ring, ones, ones, [Drilled(BEGIN, "a", True, 10, start, RING // 2)])
    inside = sum((int(place) - start) % RING < RING // 2 for place in ring)
    assert found.verified_share == pytest.approx(inside / 3)


def test_a_ledger_survives_its_way_through_a_record_and_records_of_another_form() -> None:
    one = Drilled(BEGIN, "ab", True, 10, 7, RING, failed=(3, RING - 1), whole_ms=None, tests=2)
    other = Drilled(BEGIN, "cd", False, 10, 7, 5)
    bodies = [one.body(), other.body(), {"type": "drill", "optional": True}, {"length": "zz"}]
    assert ledger(bodies) == [one]
    assert ledger(bodies, "cd") == [other]


def test_slices_are_drilled_the_one_seen_longest_ago_first() -> None:
    captured = {f"{i}": BEGIN + timedelta(days=i) for i in range(10)}
    bodies: list[dict[str, Any]] = []
    seen: list[str] = []
    for number in range(5):
        due = slices_due(captured, bodies, 0.2)
        seen += due
        at = BEGIN + timedelta(days=20 + number)
        bodies += [Drilled(at, one, False, 10, 0, RING).body() for one in due]
    assert seen == list(captured)
    bodies.append(Drilled(at, "0", False, 10, 0, 5).body())  # a part is not the whole
    assert slices_due(captured, bodies, 0.1) == ["0"]

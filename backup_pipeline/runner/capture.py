"""Reads all members of a consistent set and proves that what was read is one cut.

The proof: a member's fingerprint is the same before any member was read and after all were. So
between the last of the first fingerprints and the first of the last ones, nothing changed in any of
them, and what was read is how all of them were at each moment in between. A change so soon after
another that a file's times do not show it is ruled out by waiting as long as the coarsest of these
clocks needs, after the first fingerprints and before anything is read.

Hooks do not replace the comparison: a freeze that holds nothing still is found out by it. They make
quiet what would never be, and they vouch for what fingerprints do not show, such as buffers that a
program has not written yet.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from backup_pipeline.engine.errors import BackupError, HookFailed
from backup_pipeline.runner.days import is_good

if TYPE_CHECKING:
    from backup_pipeline.engine.operations.work import Prepared
    from backup_pipeline.plan import ConsistentSet
    from backup_pipeline.runner.hooks import Bracket
    from backup_pipeline.sources.base import Source

__all__ = ["BY_FINGERPRINTS", "BY_HOOKS", "Captured", "Subject", "capture"]

BY_FINGERPRINTS, BY_HOOKS = "fingerprints", "hooks"

sleep = time.sleep
"""Tests put a shorter one in its place."""


@dataclass(frozen=True, slots=True)
class Subject:
    """One member, as it is read.

    Attributes:
        dataset: Its key.
        open: Opens its source. Each look is taken through one of its own: a source may answer from
            the state in which it was first asked.
        prepare: Reads and stores it up to the record that commits it; with why it has its kind.
    """

    dataset: str
    open: Callable[[], Source]
    prepare: Callable[[], tuple[Prepared, str]]


@dataclass(slots=True)
class Captured:
    """What reading the members came to.

    Attributes:
        prepared: Each member that could be read, and why it has its kind.
        proof: How the cut was proved; None where it was not.
        changed: Which members changed while they were read, for each attempt that failed so.
        errors: Why a member could not be read at all.
        freeze_error: Why the freeze hook failed.
        thaw_error: Why the thaw hook failed; the proof may stand all the same.
        attempts: How often the members were looked at.
    """

    prepared: dict[str, tuple[Prepared, str]] = field(
        default_factory=lambda: dict[str, "tuple[Prepared, str]"]()
    )
    proof: str | None = None
    changed: list[list[str]] = field(default_factory=list[list[str]])
    errors: dict[str, BackupError] = field(default_factory=dict[str, BackupError])
    freeze_error: BackupError | None = None
    thaw_error: BackupError | None = None
    attempts: int = 0

    @property
    def incomplete(self) -> list[str]:
        """Members of which not everything could be read."""
        return [key for key, (one, _) in self.prepared.items() if not is_good(one.snapshot)]


def capture(
    one: ConsistentSet,
    subjects: Sequence[Subject],
    bracket: Callable[[], Bracket],
    say: Callable[[str], None],
    attempts_before: int = 0,
) -> Captured:
    """Read the members until they are one cut, as often as the set allows.

    Only members that changed are read again. What could not be proved is handed back all the same:
    each member by itself is a good backup.

    Args:
        one: The set.
        subjects: Its members.
        bracket: Makes the freeze and thaw of one attempt.
        say: Is told what changed.
        attempts_before: Attempts that were spent already.
    """
    captured = Captured(attempts=attempts_before)
    read_as: dict[str, str] = {}
    while True:
        captured.attempts += 1
        changed = _attempt(subjects, bracket(), captured, read_as)
        if changed:
            captured.changed.append(changed)
        given_up = captured.errors or captured.freeze_error or captured.thaw_error
        if not changed or given_up or captured.attempts > one.retries:
            break
        say(
            f"{', '.join(changed)} changed while set {one.name} was read; attempt"
            f" {captured.attempts + 1} of {one.retries + 1} follows"
        )
        sleep(one.wait.total_seconds())
    if not (changed or captured.errors or captured.incomplete or captured.freeze_error):
        captured.proof = BY_HOOKS if one.freeze else BY_FINGERPRINTS
    return captured


def _attempt(
    subjects: Sequence[Subject], bracket: Bracket, captured: Captured, read_as: dict[str, str]
) -> list[str]:
    """Fingerprints, all that has to be read, fingerprints again; returns what changed."""
    try:
        try:
            bracket.freeze()
        except HookFailed as error:
            # It costs the cut, not the backups: the members are read as they would be without it.
            captured.freeze_error = error
        before, coarsest_ns = _fingerprints(subjects, captured)
        sleep(coarsest_ns / 1e9)
        for one in subjects:
            _read(one, before, captured, read_as)
        after, _ = _fingerprints(subjects, captured)
        try:
            bracket.thaw()
        except HookFailed as error:
            captured.thaw_error = error
    except BaseException:
        bracket.thaw_loudly()  # nothing, where it was done
        raise
    return [
        key
        for key, (prepared, _) in captured.prepared.items()
        if key in after and len({before[key], after[key], prepared.snapshot.fingerprint}) > 1
    ]


def _read(
    one: Subject, before: Mapping[str, str], captured: Captured, read_as: dict[str, str]
) -> None:
    """Read a member, unless what was read of it before is how it is now."""
    key = one.dataset
    if key not in before:
        return
    if read_as.get(key) == before[key] and key not in captured.incomplete:
        return
    read_as.pop(key, None)
    try:
        captured.prepared[key] = one.prepare()
    except BackupError as error:
        captured.prepared.pop(key, None)
        captured.errors[key] = error
    else:
        read_as[key] = before[key]


def _fingerprints(subjects: Sequence[Subject], captured: Captured) -> tuple[dict[str, str], int]:
    """Of all members that can be asked, and how coarse the coarsest of their clocks is (ns).

    The others are among the errors from then on.
    """
    found: dict[str, str] = {}
    coarsest_ns = 0
    for one in subjects:
        if one.dataset in captured.errors:
            continue
        try:
            with closing(one.open()) as source:
                found[one.dataset] = source.fingerprint()
                coarsest_ns = max(coarsest_ns, source.clock_granularity_ns)
        except BackupError as error:
            captured.errors[one.dataset] = error
    return found, coarsest_ns

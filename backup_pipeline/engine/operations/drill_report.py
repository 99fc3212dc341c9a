"""What a drill showed: bytes, time, and what its tests said, each by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from backup_pipeline.engine.operations.rotation import Drilled
from backup_pipeline.engine.progress import human_bytes, human_seconds

__all__ = ["DrillReport", "Outcome", "Tests"]

MOST_MISMATCHES = 100

TELLING_S = 1.0
TELLING_SHARE = 0.5
"""A sample that is restored faster than this, and is less than this, says too little of the whole
for a drill to fail by it: what a restore takes once would be counted many times."""

Said = Mapping[str, bool | int | float | str]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one test of the restored copy came to.

    Attributes:
        name: What was tested, as the plan says it.
        passed: Whether it is as it should be.
        reason: One sentence: what was found, or what is wrong.
        files: Files that were tested.
        of_files: Files that it is about, tested or not.
        elapsed_s: Seconds that it took.
        said: What the test has to say besides: numbers above all, which can be plotted.
    """

    name: str
    passed: bool
    reason: str
    files: int = 0
    of_files: int = 0
    elapsed_s: float = 0.0
    said: Said = field(default_factory=dict[str, Any])


class Tests(Protocol):
    """What a drill asks of the restored copy beyond its bytes."""

    def wanted(self, paths: Sequence[bytes], sampled: Sequence[bool]) -> Sequence[int]:
        """Which files have to be restored for the tests to be possible.

        Args:
            paths: The paths of all files, in the order in which it is their turn.
            sampled: Which of them are restored anyway.
        """
        ...

    def run(self, place: Path, paths: Sequence[bytes], restored: Sequence[bytes]) -> list[Outcome]:
        """Test the restored copy.

        Args:
            place: Where it is.
            paths: The paths of all files of the snapshot.
            restored: Of those that were to be restored.
        """
        ...


@dataclass(slots=True)
class DrillReport:
    """What a drill showed.

    Attributes:
        ok: Everything below is as it should be.
        equal: All of the sample was restored, and reads back as the manifest says.
        in_time: Whether the whole would be restored within ``rto_s``; None where nothing was
            promised, or the sample is too small to tell.
        files: Files restored.
        bytes: Their logical bytes.
        sample_fraction: Share of the snapshot's bytes that was restored.
        mismatches: Paths that were not as they should be, with the reason.
        mismatch_count: How many there are.
        open_s: Seconds until the manifest was read.
        duration_s: Seconds the restore took.
        rto_s: What was promised for the whole, if anything.
        whole_s: Seconds that the whole would take: the manifest, and the rest at this speed; None
            where nothing was read.
        speed_bytes_per_s: S = D / T of the restore.
        tests: What the plan's tests of the restored copy came to.
        verified_share: Share of the snapshot's bytes that drills found right since they last
            changed, this one included; None where it is not known.
        oldest_verified_at: When the part of it that waited longest was drilled (ISO time).
        covers_in_s: Seconds in which drills of this sample and cadence come around everything.
        recorded: Whether the drill is in the tier's log, so that the next takes the next part.
        entry: What the log is to say of it.
    """

    snapshot: str
    dataset: str
    tier: str
    day: str
    ok: bool = True
    equal: bool = True
    in_time: bool | None = None
    files: int = 0
    bytes: int = 0
    sample_fraction: float = 1.0
    mismatches: list[dict[str, str]] = field(default_factory=list[dict[str, str]])
    mismatch_count: int = 0
    open_s: float = 0.0
    duration_s: float = 0.0
    rto_s: float | None = None
    whole_s: float | None = None
    speed_bytes_per_s: float = 0.0
    tests: list[Outcome] = field(default_factory=list[Outcome])
    verified_share: float | None = None
    oldest_verified_at: str | None = None
    covers_in_s: float | None = None
    recorded: bool = False
    entry: Drilled | None = field(default=None, repr=False)

    @property
    def failed_tests(self) -> list[Outcome]:
        """Tests that did not pass."""
        return [one for one in self.tests if not one.passed]

    def mismatch(self, path: str, reason: str) -> None:
        """Note an entry that is not as it should be."""
        self.equal = False
        self.mismatch_count += 1
        if len(self.mismatches) < MOST_MISMATCHES:
            self.mismatches.append({"path": path, "reason": reason})

    def time(self, whole_bytes: int) -> None:
        """Extrapolate to the whole, and hold that against what was promised.

        whole_s = open_s + duration_s × D_whole / D_sample: what is read once is counted once.
        """
        if whole_bytes:
            self.sample_fraction = min(1.0, self.bytes / whole_bytes)
            if not self.bytes:
                return
            self.whole_s = self.open_s + self.duration_s * whole_bytes / self.bytes
        else:
            self.whole_s = self.open_s + self.duration_s
        if self.rto_s is None:
            return
        self.in_time = self.whole_s <= self.rto_s
        tells = self.duration_s >= TELLING_S or self.sample_fraction >= TELLING_SHARE
        if not self.in_time and not tells:
            self.in_time = None

    def time_sentence(self) -> str:
        """How long it took, what that means for the whole, and how that stands to the promise."""
        took = f"restored in {human_seconds(self.duration_s)}"
        if self.whole_s is None:
            return f"{took}; nothing was read, so nothing is known of the whole"
        speed = f"{took} at {human_bytes(self.speed_bytes_per_s)}/s"
        whole = f"the whole would take {human_seconds(self.whole_s)}"
        if self.rto_s is None:
            return f"{speed}; {whole}; no RTO is set"
        promise = f"the RTO of {human_seconds(self.rto_s)}"
        verdict = {
            True: f"within {promise}",
            False: f"MORE THAN {promise}",
            None: f"more than {promise}, but the sample is too small to tell: take a larger one",
        }
        return f"{speed}; {whole}, {verdict[self.in_time]}"

    def judge(self) -> None:
        """Sum up."""
        self.ok = self.equal and self.in_time is not False and not self.failed_tests

    def to_json(self) -> dict[str, Any]:
        """Fields by name, and ``time`` in words; the ledger's entry is the log's own."""
        said = {name: value for name, value in asdict(self).items() if name != "entry"}
        return {**said, "time": self.time_sentence()}

"""How far a long operation has come, as every front end shows it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

__all__ = ["Meter", "Progress", "Report", "human_bytes", "human_seconds"]

REPORT_INTERVAL_S = 0.2


def human_bytes(size_bytes: float) -> str:
    """``1536`` as ``1.5 KiB``."""
    size = float(size_bytes)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(size) < 1024 or unit == "TiB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    raise AssertionError("unreachable")


def human_seconds(seconds: float) -> str:
    """``3700`` as ``1 h 1 min``, ``700000`` as ``8 days 2 h``."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{seconds // 60:.0f} min {seconds % 60:.0f} s"
    if seconds < 2 * 86_400:
        return f"{seconds // 3600:.0f} h {seconds % 3600 // 60:.0f} min"
    hours = seconds % 86_400 // 3600
    return f"{seconds // 86_400:.0f} days" + (f" {hours:.0f} h" if hours else "")


@dataclass(frozen=True, slots=True)
class Progress:
    """One moment of an operation.

    Attributes:
        operation: The verb, with what it works on.
        phase: What is being done now.
        done_bytes: Logical bytes behind us.
        total_bytes: Logical bytes in all, where known.
        done_entries: Entries behind us.
        total_entries: Entries in all, where known.
        elapsed_s: Seconds since the start.
        speed_bytes_per_s: S = D / T so far.
        remaining_s: Seconds left at this speed, where the total is known.
    """

    operation: str
    phase: str
    done_bytes: int
    total_bytes: int | None
    done_entries: int
    total_entries: int | None
    elapsed_s: float
    speed_bytes_per_s: float
    remaining_s: float | None

    @property
    def fraction(self) -> float | None:
        """Share done, from 0 to 1, where it is known."""
        if self.total_bytes:
            return min(1.0, self.done_bytes / self.total_bytes)
        if self.total_entries:
            return min(1.0, self.done_entries / self.total_entries)
        return None

    def line(self) -> str:
        """The moment as one line of text."""
        share = "" if self.fraction is None else f"{self.fraction:.0%} "
        size = human_bytes(self.done_bytes)
        if self.total_bytes:
            size += f" of {human_bytes(self.total_bytes)}"
        left = "" if self.remaining_s is None else f", {human_seconds(self.remaining_s)} left"
        speed = f"{human_bytes(self.speed_bytes_per_s)}/s"
        done = f"{share}{size}, {self.done_entries} entries, {speed}{left}"
        return f"{self.operation}: {self.phase} {done}"

    def to_json(self) -> dict[str, object]:
        """Fields by name."""
        return asdict(self)


Report = Callable[[Progress], None]


class Meter:
    """Counts, and reports a few times a second."""

    def __init__(
        self,
        operation: str,
        report: Report | None,
        *,
        total_bytes: int | None = None,
        total_entries: int | None = None,
    ) -> None:
        self.operation = operation
        self.phase = ""
        self.total_bytes = total_bytes
        self.total_entries = total_entries
        self.done_bytes = 0
        self.done_entries = 0
        self._report = report
        self._started = time.monotonic()
        self._next = 0.0

    @property
    def elapsed_s(self) -> float:
        """Seconds since this meter was made."""
        return time.monotonic() - self._started

    def add(self, size_bytes: int = 0, entries: int = 0) -> None:
        """Count work done, and report if it is time to."""
        self.done_bytes += size_bytes
        self.done_entries += entries
        if self._report is not None:
            self.show()

    def show(self, *, now: bool = False) -> None:
        """Report the present moment; unless ``now``, not more often than a few times a second."""
        if self._report is None:
            return
        moment = time.monotonic()
        if not now and moment < self._next:
            return
        self._next = moment + REPORT_INTERVAL_S
        elapsed = moment - self._started
        speed = self.done_bytes / elapsed if elapsed > 0 else 0.0
        left = None
        if self.total_bytes and speed > 0:
            left = max(0.0, (self.total_bytes - self.done_bytes) / speed)
        self._report(
            Progress(
                self.operation,
                self.phase,
                self.done_bytes,
                self.total_bytes,
                self.done_entries,
                self.total_entries,
                elapsed,
                speed,
                left,
            )
        )

    def enter(self, phase: str) -> None:
        """Name what is being done from here on."""
        self.phase = phase
        self.show(now=True)

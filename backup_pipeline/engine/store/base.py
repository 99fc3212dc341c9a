"""What every store guarantees: bytes by name, written once, durable when a write returns.

Everything that the engine promises rests on these guarantees, and on nothing else that a store may
do. One conformance suite (``backup_pipeline_tests/engine/store``) holds every store and every
wrapper to them.

1.  **Create only.** ``put`` makes a name, or finds it made with the same bytes and returns, or
    raises ``ObjectExists`` and leaves what is there untouched. Of any number of writers that race
    for a name with different bytes, on any machines, exactly one returns.
2.  **Durable.** When ``put`` or ``heal`` returns, the bytes and their name survive loss of power.
    That includes a ``put`` that returned because another writer had made the same bytes.
3.  **Whole.** A name shows all of its bytes or is not there; no reader sees a part of a write.
4.  **Repeatable.** A ``put`` whose answer was lost may be repeated, and returns.
5.  **Seen at once.** After a ``put``, ``heal`` or ``delete`` returned, every later ``get``,
    ``stat`` and ``list``, by anyone, shows it.
6.  **No short reads.** ``get`` returns as many bytes as were asked for, or raises:
    ``ObjectMissing`` where the name is not there, ``DamageError`` where the bytes end too early.
7.  **Ordered.** ``list`` ascends by the UTF-8 bytes of whole names and, with ``after``, begins
    behind a name that need not exist. A name that comes or goes meanwhile may or may not be listed;
    all others are.
8.  **Only whole things listed.** What an interrupted write left behind is never listed.
9.  **Deletes are idempotent.** Deleting what is not there is fine.
10. **Errors are ours.** Whatever goes wrong is a ``BackupError`` that names the store. A store that
    cannot be reached says so within a bounded time.
11. **Threads** may share a store.

Names are lowercase ASCII: segments of letters, digits, ``.``, ``_`` and ``-`` that begin with a
letter or digit, joined by ``/``. A name is never also a folder of other names.
"""

from __future__ import annotations

import re
import secrets
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Final, Self, TypeAlias

from backup_pipeline.engine.errors import (
    DamageError,
    ObjectExists,
    ObjectMissing,
    StoreError,
    UsageError,
)

__all__ = [
    "CLOCK_TOLERANCE",
    "NAME_LIMIT",
    "PROBE_PREFIX",
    "SEGMENT_LIMIT",
    "Content",
    "Piece",
    "Probe",
    "Store",
    "StoredObject",
    "check_name",
    "check_prefix",
    "check_range",
    "is_name",
    "pieces",
    "short_read",
    "size_of",
]

Piece: TypeAlias = bytes | bytearray | memoryview
Content: TypeAlias = Piece | Sequence[Piece]

SEGMENT_LIMIT: Final = 200
"""Longest segment of a name in characters; file systems and some servers stop at 255."""

NAME_LIMIT: Final = 512
"""Longest name in characters; with a store's own prefix it stays below S3's 1024 bytes."""

PROBE_PREFIX: Final = "probe/"
"""Where ``probe`` writes; what stays here was left where deletion is refused."""

CLOCK_TOLERANCE: Final = timedelta(minutes=5)
"""How far this machine's clock may be from the store's before ``probe`` calls it a problem."""

_SEGMENT = rf"[a-z0-9][a-z0-9._-]{{0,{SEGMENT_LIMIT - 1}}}"
_NAME = re.compile(rf"{_SEGMENT}(?:/{_SEGMENT})*", re.ASCII)
_PREFIX = re.compile(rf"(?:{_SEGMENT}/)*(?:{_SEGMENT})?", re.ASCII)


@dataclass(frozen=True, slots=True)
class StoredObject:
    """What a store says about a name without reading its bytes.

    Attributes:
        name: The name, relative to the store.
        size_bytes: Length in bytes.
        modified_at: When it was written by the store's clock (UTC; some stores round to seconds).
    """

    name: str
    size_bytes: int
    modified_at: datetime


@dataclass(frozen=True, slots=True)
class Probe:
    """What was found when a store was tried out.

    Attributes:
        url: Which store.
        writable: A new name could be written and read back.
        creates_once: A second write of other bytes to that name was refused.
        clock_skew_s: This machine's clock less the store's, in seconds.
        problems: Why this store must not be used, one sentence each; empty for a good store.
    """

    url: str
    writable: bool
    creates_once: bool
    clock_skew_s: float
    problems: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether the store may be used."""
        return not self.problems

    def require(self) -> Probe:
        """Return this probe, or raise ``StoreError`` with the first problem."""
        if self.problems:
            raise StoreError(
                f"store {self.url} cannot be used: {self.problems[0]}",
                "choose another store, or mend this one; `backup-pipeline doctor` tries it again",
            )
        return self


class Store(ABC):
    """Bytes by name; the module's docstring states what may be relied on.

    Attributes:
        url: The store as shown in messages; never holds a secret.
        writers: How many large objects are best written at once.
        readers: How many requests are best under way at once, where each has far to go.
    """

    url: str
    writers: int = 2
    readers: int = 1

    @abstractmethod
    def put(self, name: str, content: Content) -> None:
        """Write ``content`` under a new name; durable on return.

        Args:
            name: The name to make.
            content: One buffer, or several that are stored one after another.

        Raises:
            ObjectExists: The name holds other bytes.
        """

    @abstractmethod
    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes | memoryview:
        """Read bytes.

        Args:
            name: The name to read.
            offset: First byte, counted from 0.
            length: How many bytes; None reads to the end.

        Raises:
            ObjectMissing: The name is not there.
            DamageError: There are fewer bytes than were asked for.
        """

    def get_into(self, name: str, offset: int, buffer: bytearray | memoryview) -> None:
        """Fill ``buffer`` with the bytes from ``offset`` on; raises as ``get`` does."""
        view = memoryview(buffer).cast("B")
        view[:] = self.get(name, offset, len(view))

    @abstractmethod
    def stat(self, name: str) -> StoredObject:
        """Describe a name, or raise ``ObjectMissing``."""

    def exists(self, name: str) -> bool:
        """Tell whether a name is there."""
        try:
            self.stat(name)
        except ObjectMissing:
            return False
        return True

    @abstractmethod
    def list(self, prefix: str = "", *, after: str | None = None) -> Iterator[StoredObject]:
        """List all names that begin with ``prefix``, at every depth, in ascending order.

        Args:
            prefix: Any beginning of a name; it may end within a segment.
            after: List only names greater than this one, which need not exist.
        """

    @abstractmethod
    def list_names(self, prefix: str) -> list[str]:
        """Return what lies directly below a folder, sorted: names and folders without a slash.

        A folder may still be listed for a while after all in it was deleted.

        Args:
            prefix: ``""``, or a folder with its ``/`` at the end.
        """

    @abstractmethod
    def delete(self, name: str) -> None:
        """Remove a name; fine where it is not there."""

    @abstractmethod
    def heal(self, name: str, content: Content) -> None:
        """Put ``content`` in place of damaged or missing bytes, durably; for repair only."""

    def sweep(self, prefix: str, *, older_than: timedelta) -> int:
        """Remove what writes left that were interrupted long ago, where they leave anything.

        Args:
            prefix: A folder of names.
            older_than: How long ago nothing was added to it any more, by the store's clock.

        Returns:
            How many things were removed.
        """
        return 0

    def now(self) -> datetime:
        """Return the time by the store's clock (UTC)."""
        return datetime.now(UTC)

    def locks(self) -> bool | None:
        """Tell whether deletion can be refused until a date; None where the store does not say."""
        return False

    def default_lock(self) -> tuple[str, int] | None:
        """Tell how the store itself locks whatever is written: the mode, and for how many days.

        Returns:
            None where it locks nothing by itself, or does not say.
        """
        return None

    def probe(self) -> Probe:
        """Try the store out with a small name of its own, which is removed again where it may be.

        Returns:
            What was found; call ``require()`` on it to refuse a store with problems.

        Raises:
            StoreUnavailable: The store cannot be reached, or refuses access.
        """
        name = f"{PROBE_PREFIX}{secrets.token_hex(16)}"
        first, second = secrets.token_bytes(64), secrets.token_bytes(64)
        problems: list[str] = []
        self.put(name, first)
        try:
            creates_once = self._refuses(name, second)
            kept = bytes(self.get(name))
            if not creates_once or kept == second:
                creates_once = False
                problems.append("it lets a second writer replace what was written (no create-only)")
            writable = kept in (first, second)
            if not writable:
                problems.append("it returned other bytes than were written")
            try:
                self.put(name, kept)
            except ObjectExists:
                problems.append("it refuses to repeat a write of the same bytes")
            skew_s = (datetime.now(UTC) - self.now()).total_seconds()
        finally:
            self._remove_probe(name)
        if abs(skew_s) > CLOCK_TOLERANCE.total_seconds():
            problems.append(f"its clock and this machine's differ by {abs(skew_s):.0f} seconds")
        return Probe(self.url, writable, creates_once, skew_s, tuple(problems))

    def _refuses(self, name: str, content: bytes) -> bool:
        try:
            self.put(name, content)
        except ObjectExists:
            return True
        return False

    def _remove_probe(self, name: str) -> None:
        # A host that may write and not delete is a good host: what is left is 64 random bytes.
        try:
            self.delete(name)
        except StoreError:
            return

    def close(self) -> None:
        """Let go of connections; the store is not used afterwards."""
        return

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"


def is_name(name: str) -> bool:
    """Tell whether ``name`` may be stored under."""
    return len(name) <= NAME_LIMIT and _NAME.fullmatch(name) is not None


def check_name(name: str) -> str:
    """Return ``name`` if it may be stored under, else raise ``UsageError``."""
    if not is_name(name):
        raise UsageError(
            f"{name!r} is no name for a store",
            "names are segments of a-z 0-9 . _ - joined by /, each beginning with a-z or 0-9",
        )
    return name


def check_prefix(prefix: str, *, folder: bool = False) -> str:
    """Return ``prefix`` if names can begin with it (and, asked so, it is a folder), else raise."""
    good = len(prefix) <= NAME_LIMIT and _PREFIX.fullmatch(prefix) is not None
    if not good or (folder and prefix and not prefix.endswith("/")):
        raise UsageError(
            f"{prefix!r} is no {'folder' if folder else 'prefix'} of a store's names",
            "folders end with a slash, such as 'log/'" if folder else None,
        )
    return prefix


def check_range(offset: int, length: int | None) -> None:
    """Raise ``ValueError`` for a range that no reader can mean."""
    if offset < 0 or (length is not None and length < 0):
        raise ValueError(f"impossible range: offset {offset}, length {length}")


def pieces(content: Content) -> list[memoryview]:
    """Return ``content`` as flat views of its bytes, copying nothing and leaving out empty ones."""
    parts = (content,) if isinstance(content, bytes | bytearray | memoryview) else content
    views = (memoryview(part).cast("B") for part in parts)
    return [view for view in views if len(view)]


def size_of(content: Content) -> int:
    """Return the length of ``content`` in bytes."""
    return sum(len(view) for view in pieces(content))


def short_read(url: str, name: str, offset: int, length: int, size_bytes: int) -> DamageError:
    """Return the error for a read that goes past the end of what is stored."""
    return DamageError(
        f"{url}: {name} ends at byte {size_bytes}, but bytes {offset} to {offset + length} were"
        " written",
        "run `backup-pipeline verify`, then put the damaged object right from another tier",
    )

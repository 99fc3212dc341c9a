"""The one tree of errors: each says what happened, where, and what to do next.

BackupError                 exit code 3: the operation could not be done
├── UsageError              exit code 2: bad usage, plan or key
│   ├── PlanError           every mistake of a plan, with path and line
│   ├── KeyMissing          a key is named but was not given
│   └── WrongKey            the key given does not open this store or repository
├── DamageError             exit code 1: stored bytes are not what was stored
│   └── UnsoundParent       what a new snapshot would build on is damaged
├── NotFound                a repository, snapshot or day that is not there
├── DayUnavailable          a past day that cannot be had honestly
├── Conflict                the log moved on in a way that this operation cannot join
├── SourceError             a dataset could not be read
├── HookFailed              a program that was to freeze or thaw a consistent set failed
└── StoreError              a store did not do as asked
    ├── ObjectMissing       no such name in the store
    ├── ObjectExists        the name is taken by other bytes
    └── StoreUnavailable    not reachable, or it refused access
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

__all__ = [
    "BackupError",
    "Conflict",
    "DamageError",
    "DayUnavailable",
    "HookFailed",
    "KeyMissing",
    "NotFound",
    "ObjectExists",
    "ObjectMissing",
    "PlanError",
    "Problem",
    "SourceError",
    "StoreError",
    "StoreUnavailable",
    "UnsoundParent",
    "UsageError",
    "WrongKey",
]


class BackupError(Exception):
    """Root of all errors that a user may see.

    Args:
        message: What happened, and to what.
        hint: What to do next.
    """

    exit_code = 3

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\nHINT: {self.hint}" if self.hint else self.message


class UsageError(BackupError):
    """The request itself is wrong."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake in a plan.

    Attributes:
        path: Where in the plan, such as ``policies.default.tiers[0].every``.
        message: What is wrong.
        line: Line in the file, counted from 1; None where the plan was not a file.
        column: Column in that line, counted from 1.
        suggestion: What was probably meant, or what is allowed.
        file: The file's name, if there is one.
    """

    path: str
    message: str
    line: int | None = None
    column: int | None = None
    suggestion: str | None = None
    file: str | None = None

    def __str__(self) -> str:
        place = f"{self.file or 'plan'}:{self.line}:{self.column or 1}: " if self.line else ""
        tail = f" ({self.suggestion})" if self.suggestion else ""
        return f"{place}{self.path or 'plan'}: {self.message}{tail}"


class PlanError(UsageError):
    """A plan with mistakes; all of them are listed."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        noun = "mistake" if len(self.problems) == 1 else "mistakes"
        lines = "\n".join(f"  {problem}" for problem in self.problems)
        super().__init__(f"the plan has {len(self.problems)} {noun}:\n{lines}")


class KeyMissing(UsageError):
    """A key is needed and was not given."""


class WrongKey(UsageError):
    """None of the keys given opens this store or repository."""


class DamageError(BackupError):
    """Stored bytes are missing, changed, swapped or cut short."""

    exit_code = 1


class UnsoundParent(DamageError):
    """A snapshot that another would build on is damaged; a full begins a new chain."""


class NotFound(BackupError):
    """The repository, snapshot or day asked for is not there."""


class DayUnavailable(BackupError):
    """A past day cannot be had without passing another day's state off as it.

    Attributes:
        available: Days that can be had.
    """

    def __init__(
        self, message: str, hint: str | None = None, *, available: Sequence[date] = ()
    ) -> None:
        super().__init__(message, hint)
        self.available = tuple(available)


class Conflict(BackupError):
    """Another writer changed the repository in a way that this operation cannot join."""


class SourceError(BackupError):
    """A dataset's source could not be read."""


class HookFailed(BackupError):
    """A freeze or thaw hook could not be started, failed, or took too long."""


class StoreError(BackupError):
    """A store did not do as asked."""


class ObjectMissing(StoreError):
    """The store has nothing under this name."""


class ObjectExists(StoreError):
    """The name is taken by other bytes; stores never overwrite."""


class StoreUnavailable(StoreError):
    """The store cannot be reached, or refuses access."""

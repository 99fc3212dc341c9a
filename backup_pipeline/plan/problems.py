"""Where a plan's mistakes are: paths, places in the file, and what was probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from backup_pipeline.engine.errors import Problem

__all__ = ["Findings", "Mark", "Marks", "Path", "closest", "one_of", "show_path"]

Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Mark:
    """Where one value was written.

    Attributes:
        path: Path as written, which under ``environments`` differs from where it counts.
        line: Counted from 1; None where the plan was not a file.
        column: Counted from 1.
    """

    path: Path
    line: int | None = None
    column: int | None = None


Marks = Mapping[Path, Mark]


def show_path(path: Path) -> str:
    """Writes a path as users read it, such as ``policies.default.tiers[0].every``."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += f".{part}" if text else part
    return text


def closest(word: str, allowed: Iterable[str]) -> str | None:
    """Names the allowed word that was probably meant, or None where none is near."""
    known = {name.casefold(): name for name in allowed}
    folded = word.casefold().replace("-", "_")
    for candidate in (word.casefold(), folded):
        if candidate in known:
            return known[candidate]
    near = difflib.get_close_matches(folded, list(known), n=1, cutoff=0.6)
    if near:
        return known[near[0]]
    longer = [name for low, name in known.items() if len(folded) >= 3 and low.startswith(folded)]
    return longer[0] if len(longer) == 1 else None


def one_of(word: str, allowed: Iterable[str]) -> str:
    """Suggests the word that was probably meant, or else lists what is allowed."""
    names = list(allowed)
    near = closest(word, names)
    if near is not None:
        return f"did you mean '{near}'?"
    return "allowed: " + ", ".join(names) if names else "nothing is defined here yet"


class Findings:
    """Mistakes found so far, each tied to the place where it was written.

    A value that was refused once is remembered, so that a later rule which depends on it stays
    silent instead of reporting a consequence as a second mistake.
    """

    def __init__(self, marks: Marks, file: str | None = None) -> None:
        self._marks = marks
        self._file = file
        self._refused: set[Path] = set()
        self.problems: list[Problem] = []

    def refuse(
        self, path: Path, message: str, suggestion: str | None = None, *, at: Mark | None = None
    ) -> None:
        """Records a mistake at ``path`` and remembers that the value there is unusable.

        Args:
            path: The value.
            message: What is wrong.
            suggestion: What is allowed instead.
            at: Where that stands, if not where the value was first written.
        """
        self._refused.add(path)
        self._add(path, message, suggestion, at)

    def report(
        self,
        path: Path,
        message: str,
        suggestion: str | None = None,
        *,
        needs: Iterable[Path] = (),
    ) -> None:
        """Records a broken rule, unless a value that the rule needs was refused already.

        Args:
            path: What the user should change.
            message: What is wrong.
            suggestion: What is allowed instead.
            needs: Further values that the rule looked at.
        """
        if not any(self.is_refused(needed) for needed in (path, *needs)):
            self._add(path, message, suggestion)

    def mark_refused(self, path: Path) -> None:
        """Remembers that the value at ``path`` is unusable, without a message of its own."""
        self._refused.add(path)

    def is_refused(self, path: Path) -> bool:
        """Tells whether the value at ``path``, or something it lies in, was refused."""
        return any(path[:length] in self._refused for length in range(1, len(path) + 1))

    def _add(
        self, path: Path, message: str, suggestion: str | None, at: Mark | None = None
    ) -> None:
        mark = at or self.place(path)
        written = at.path if at else mark.path + path[self._depth(path) :]
        problem = Problem(
            path=show_path(written),
            message=message,
            line=mark.line,
            column=mark.column,
            suggestion=suggestion,
            file=self._file,
        )
        if problem not in self.problems:
            self.problems.append(problem)

    def place(self, path: Path) -> Mark:
        """Finds where ``path``, or else the nearest thing around it, was written."""
        return self._marks.get(path[: self._depth(path)], Mark(()))

    def _depth(self, path: Path) -> int:
        for length in range(len(path), -1, -1):
            if path[:length] in self._marks:
                return length
        return 0

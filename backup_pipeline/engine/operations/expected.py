"""What a manifest is expected to be: no unexpected shrink, nothing emptied, paths of known shapes.

Cheap by design: the snapshots' own records tell the shrink; the manifest before is read only where
the new one holds empty files.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from backup_pipeline.engine.format.record import Snapshot
from backup_pipeline.engine.manifest import matching, printable
from backup_pipeline.engine.operations.drill_report import Outcome
from backup_pipeline.engine.repository import Repository

__all__ = ["CompletenessReport", "Expected", "expect"]

SHOWN_PATHS = 3
_FILES = pa.array(["file", "object"])


@dataclass(frozen=True, slots=True)
class Expected:
    """Ready-made expectations of a manifest.

    Attributes:
        shrink: Share of the files, and of their bytes, that may be gone since the good snapshot
            before; None for any.
        emptied: Whether files may be empty that were not empty before.
        paths: Globs of which every file's path matches one; none for any path.
    """

    shrink: float | None = None
    emptied: bool = True
    paths: tuple[str, ...] = ()


@dataclass(slots=True)
class CompletenessReport:
    """What a snapshot's manifest came to.

    Attributes:
        ok: All of it is as expected, and the snapshot is complete by itself.
        status: The snapshot's own: ``complete`` or ``incomplete``.
        compared_with: Id of the good snapshot before; None where there is none.
        tests: The expectations, one by one.
    """

    snapshot: str
    dataset: str
    tier: str
    day: str
    status: str
    compared_with: str | None = None
    tests: list[Outcome] = field(default_factory=list[Outcome])

    @property
    def ok(self) -> bool:
        """Whether nothing is amiss."""
        return self.status == "complete" and all(one.passed for one in self.tests)

    def to_json(self) -> dict[str, Any]:
        """Fields by name."""
        return {"ok": self.ok, **asdict(self)}


def expect(
    repository: Repository, snapshot: Snapshot, before: Snapshot | None, rules: Expected
) -> Iterator[Outcome]:
    """Hold a snapshot against what is expected of its manifest.

    Args:
        repository: Where both are.
        snapshot: Which.
        before: The good snapshot before it, if there is one.
        rules: What is expected.
    """
    if rules.shrink is not None:
        yield _shrink(snapshot, before, rules.shrink)
    if not rules.emptied:
        yield _emptied(repository, snapshot, before)
    if rules.paths:
        yield _paths(repository, snapshot, rules.paths)


def _shrink(snapshot: Snapshot, before: Snapshot | None, most: float) -> Outcome:
    name = f"shrinks by {most:.3g} at most"
    if before is None:
        return Outcome(name, True, "there is no snapshot before to compare with")
    gone = {
        "files": _gone(before.files, snapshot.files),
        "bytes": _gone(before.bytes, snapshot.bytes),
    }
    found = (
        f"{before.files} files became {snapshot.files}, {before.bytes} bytes {snapshot.bytes},"
        f" since {before.day}"
    )
    said = {f"gone_{what}": share for what, share in gone.items()}
    passed = max(gone.values()) <= most
    return Outcome(name, passed, found, snapshot.files, snapshot.files, said=said)


def _gone(before: int, now: int) -> float:
    return max(0.0, (before - now) / before) if before else 0.0


def _emptied(repository: Repository, snapshot: Snapshot, before: Snapshot | None) -> Outcome:
    began_s = time.perf_counter()
    table = _files(repository, snapshot)
    empty = table.filter(pc.equal(table.column("size"), 0)).column("path")
    emptied: list[bytes] = []
    if before is not None and len(empty):
        old = _files(repository, before)
        old = old.filter(pc.not_equal(old.column("size"), 0)).column("path")
        emptied = empty.filter(pc.is_in(empty, value_set=old.combine_chunks())).to_pylist()
    found = "no file was emptied" if not emptied else f"emptied: {_some(emptied)}"
    return Outcome(
        "no file is emptied",
        not emptied,
        found,
        len(table),
        len(table),
        time.perf_counter() - began_s,
        {"emptied": len(emptied), "empty": len(empty)},
    )


def _paths(repository: Repository, snapshot: Snapshot, globs: Sequence[str]) -> Outcome:
    began_s = time.perf_counter()
    paths = _files(repository, snapshot).column("path")
    strange = paths.filter(pc.invert(matching(paths, globs))).to_pylist() if len(paths) else []
    found = "every path has a known shape" if not strange else f"unexpected: {_some(strange)}"
    return Outcome(
        f"paths match {', '.join(globs)}",
        not strange,
        found,
        len(paths),
        len(paths),
        time.perf_counter() - began_s,
        {"unexpected_paths": len(strange)},
    )


def _files(repository: Repository, snapshot: Snapshot) -> pa.Table:
    table = repository.manifest(snapshot).table.select(["path", "type", "size"])
    return table.filter(pc.is_in(table.column("type"), value_set=_FILES))


def _some(paths: Sequence[bytes]) -> str:
    shown = ", ".join(printable(path) for path in paths[:SHOWN_PATHS])
    return shown if len(paths) <= SHOWN_PATHS else f"{shown} and {len(paths) - SHOWN_PATHS} more"

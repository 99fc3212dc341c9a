"""Restore in place: make a folder equal to a snapshot by moving only what differs, undoably.

What differs is restored beside, checked; then it changes places with what stands there, by renames
that are written down first; then it is read back. What was there is kept until somebody accepts the
new state or undoes it. Whatever ends the process, the same command goes on, or ``undo`` goes back.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from backup_pipeline.engine.errors import BackupError, NotFound, UsageError
from backup_pipeline.engine.folders import SIDE_FOLDER
from backup_pipeline.engine.format.record import Snapshot
from backup_pipeline.engine.manifest import printable
from backup_pipeline.engine.operations.delta import Delta, compare
from backup_pipeline.engine.operations.donors import Donors
from backup_pipeline.engine.operations.fallback import readable
from backup_pipeline.engine.operations.in_place_refusals import (
    refuse_stores,
    refuse_target,
    require_room,
    require_same,
)
from backup_pipeline.engine.operations.in_place_report import InPlaceReport
from backup_pipeline.engine.operations.moves import Moves, from_text
from backup_pipeline.engine.operations.readback import mismatches
from backup_pipeline.engine.operations.restore import restore_chosen
from backup_pipeline.engine.operations.restore_report import MOST_NAMED
from backup_pipeline.engine.operations.rows import MADE, rows_of
from backup_pipeline.engine.operations.selection import Batches, select
from backup_pipeline.engine.operations.side import Begun, Side, Step, begun_in
from backup_pipeline.engine.operations.target import Target
from backup_pipeline.engine.progress import Meter, Report
from backup_pipeline.engine.repository import Repository

__all__ = ["begun_in", "drop", "restore_in_place", "settle"]


def settle() -> None:
    """Make all that was written durable."""
    os.sync()


def restore_in_place(
    repository: Repository,
    snapshot: Snapshot,
    root: Path,
    *,
    asked: dict[str, Any] | None = None,
    include: Sequence[str] = (),
    delete: bool = False,
    checksum: bool = False,
    alone: bytes | None = None,
    dry_run: bool = False,
    donors: Donors | None = None,
    report: Report | None = None,
) -> InPlaceReport:
    """Make a folder equal to a snapshot, or to what globs match of it.

    Args:
        repository: Where the snapshot is.
        snapshot: Which.
        root: The folder; made where it is not there.
        asked: What was asked for, to know the same command again after an interruption.
        include: Globs over whole paths; none means everything.
        delete: Whether what the snapshot does not have is moved aside, too.
        checksum: Whether every file is read to know if it differs, and attributes are compared.
        alone: The dataset is this one file of the folder.
        dry_run: Only tell.
        donors: Who may hold what is missing or damaged here.
        report: Is told the progress.

    Raises:
        UsageError: The folder is a link, or lies in a store, or has another restore begun in it.
        NotFound: No glob matches.
        BackupError: Something could not be done; what was done can be gone on with, or undone.
    """
    refuse_target(root, delete=delete, alone=alone)
    repository, snapshot, entries, donors, notice = readable(repository, snapshot, donors)
    batches = select(entries, include)
    if batches is None:
        raise NotFound(
            f"nothing in snapshot {snapshot.id[:12]} of {snapshot.dataset} matches"
            f" {', '.join(include)}",
            "`backup-pipeline ls` lists its paths; globs match whole paths, ** crosses folders",
        )
    result = InPlaceReport(
        snapshot.id,
        snapshot.dataset,
        snapshot.tier,
        snapshot.day.isoformat(),
        str(root),
        dry_run,
        aside=str(root / SIDE_FOLDER),
    )
    if notice is not None:
        result.notices.append(notice)
    wish = {"include": list(include), "delete": delete, **(asked or {})}
    run = _InPlace(repository, snapshot, root, batches, result, wish, donors, report)
    run.checksum, run.include, run.alone, run.delete = checksum, include, alone, delete
    run.run()
    return result


class _InPlace:
    """One run of the verb."""

    checksum = False
    delete = False
    include: Sequence[str] = ()
    alone: bytes | None = None

    def __init__(
        self,
        repository: Repository,
        snapshot: Snapshot,
        root: Path,
        batches: Batches,
        result: InPlaceReport,
        asked: dict[str, Any],
        donors: Donors | None,
        report: Report | None,
    ) -> None:
        self.repository = repository
        self.snapshot = snapshot
        self.root = root
        self.batches = batches
        self.result = result
        self.asked = asked
        self.donors = donors
        self.report = report
        self.owners = os.geteuid() == 0
        self.meter = Meter(f"restore in place {result.dataset} {result.day}", report)

    def run(self) -> None:
        """Begin, or go on where the same command was interrupted."""
        begun = begun_in(self.root)
        if begun is not None and begun.phase == "dropping":
            if not self.result.dry_run:
                with Side(self.root) as side:
                    side.drop()
            begun = None
        if begun is not None:
            require_same(self.root, begun, self.snapshot, self.asked)
        try:
            if begun is not None and begun.phase == "moving" and not self.result.dry_run:
                with Side(self.root) as side:
                    self._finish(side, begun)
            else:
                self._begin(begun)
        except OSError as error:
            where = os.fsdecode(error.filename or b"") or str(self.root)
            raise BackupError(
                f"{where}: {error.strerror or error}",
                "put that right and run the same command again; `--undo` puts back what was",
            ) from error
        self.result.took(self.meter.elapsed_s)
        self.meter.show(now=True)

    def _begin(self, begun: Begun | None) -> None:
        self.meter.enter("comparing with what is there")
        place = Target(self.root, create=False)
        try:
            delta = compare(
                place,
                self.batches,
                self.repository.keys.identity,
                checksum=self.checksum,
                include=self.include,
                alone=self.alone,
            )
            self._count(delta)
            asides = delta.extras if self.delete else []
            if self.delete:
                refuse_stores(place, delta.stores)
            if begun is not None and begun.phase == "done" and (delta or asides):
                raise UsageError(
                    f"{self.root} was restored and has been changed since",
                    "first undo that restore (`--undo`), or drop what it replaced (`--accept`)",
                )
            if self.result.dry_run:
                self._tell(delta, place)
            elif delta or asides:
                self._work(delta, asides, place)
            else:
                self._stays(begun)
        finally:
            place.close()

    def _stays(self, begun: Begun | None) -> None:
        """Nothing differs."""
        self.result.verified = True
        if begun is not None and begun.phase == "staging":
            with Side(self.root) as side:
                drop(side, begun)
        elif begun is not None:
            self.result.kept_files, self.result.kept_bytes = begun.kept_files, begun.kept_bytes
            self.result.kept = True

    def _count(self, delta: Delta) -> None:
        result = self.result
        result.entries, result.files, result.bytes = delta.entries, delta.files, delta.bytes
        result.same_files = delta.same_files
        result.written_files, result.written_bytes = delta.wanted_files, delta.wanted_bytes
        result.retouched = len(delta.retouched)
        kept = list(delta.replaced.values())
        if self.delete:
            kept.append((delta.extra_files, delta.extra_bytes))
            result.removed_files = delta.extra_files
        else:
            result.extra_files, result.extra_bytes = delta.extra_files, delta.extra_bytes
        result.extras = [printable(path) for path in delta.extras[:MOST_NAMED]]
        result.kept_files = sum(files for files, _ in kept)
        result.kept_bytes = sum(size for _, size in kept)
        for path, reason in delta.lost:
            result.lose(path, reason)
        for notice in delta.notices:
            result.notice(notice)

    def _chosen(self, paths: Sequence[bytes]) -> Batches:
        """The rows of some paths."""
        wanted = pa.array(sorted(paths), pa.binary())

        def chosen() -> Iterator[pa.Table]:
            for rows in self.batches():
                mask = pc.is_in(rows.column("path"), value_set=wanted)
                if pc.any(mask).as_py():
                    yield rows.filter(mask)

        return chosen

    def _tell(self, delta: Delta, place: Target) -> None:
        self._take_report(self._restore(delta, place, dry_run=True))

    def _restore(self, delta: Delta, place: Target, *, dry_run: bool = False) -> Any:
        return restore_chosen(
            self.repository,
            self.snapshot,
            self._chosen(delta.wanted),
            self.root / SIDE_FOLDER / "new",
            dry_run=dry_run,
            donors=self.donors,
            report=self.report,
            standing=place,
            total_bytes=delta.wanted_bytes,
        )

    # -- the work

    def _work(self, delta: Delta, asides: Sequence[bytes], place: Target) -> None:
        made = not self.root.exists()
        mtime_ns = None if made else self.root.stat().st_mtime_ns
        require_room(self.root, delta.wanted_bytes, self._chosen(delta.wanted))
        self._make_root()
        with Side(self.root, create=True) as side:
            begun = begun_in(self.root)
            if begun is not None and begun.phase != "staging":
                raise UsageError(
                    f"another restore in place came first in {self.root}", "run the command again"
                )
            if begun is None:
                snapshot = self.snapshot
                begun = Begun(
                    "staging",
                    snapshot.dataset,
                    snapshot.tier,
                    snapshot.id,
                    snapshot.day.isoformat(),
                    self.asked,
                    root_made=made,
                    root_mtime_ns=mtime_ns,
                )
            begun.kept_files, begun.kept_bytes = self.result.kept_files, self.result.kept_bytes
            side.write_state(begun)
            self._take_report(self._restore(delta, place))
            with Moves(side) as moves:
                steps = moves.plan(delta.wanted, delta.folders, asides)
                times = self._new_times(delta.retouched)
                steps = moves.touched(steps, times.items()) + steps
            side.write_steps(steps)
            settle()
            begun.phase = "moving"
            side.write_state(begun)
            self._finish(side, begun)

    def _make_root(self) -> None:
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(
                f"cannot restore to {self.root}: {error.strerror}",
                "name a directory that is there, or may be made, and that you may write to",
            ) from None

    def _new_times(self, paths: Sequence[bytes]) -> dict[bytes, int | None]:
        return (
            {row.path: row.mtime_ns for table in self._chosen(paths)() for row in rows_of(table)}
            if paths
            else {}
        )

    def _take_report(self, staged: Any) -> None:
        result = self.result
        for name in ("written_files", "written_bytes", "fetched_bytes", "copied_bytes"):
            setattr(result, name, getattr(staged, name))
        result.written_files += staged.skipped_files  # restored before an interruption
        result.damaged_packs, result.elsewhere = staged.damaged_packs, staged.elsewhere
        result.ok = result.ok and not staged.damage_count
        result.damage += staged.damage
        result.damage_count += staged.damage_count
        for notice in staged.notices:
            result.notice(notice)

    def _finish(self, side: Side, begun: Begun) -> None:
        """Do the steps, and see that all is as it should be."""
        steps, result = side.steps(), self.result
        self.meter.total_entries, self.meter.done_entries = len(steps), 0
        self.meter.enter("putting in place")
        paths = {from_text(one["path"]) for one in steps if one["do"] in {"folder", "meta"}}
        with Moves(side, lambda: self.meter.add(0, 1)) as moves:
            moves.do(steps)
            rows = {
                row.path: row
                for table in self._chosen([*paths])()
                for row in rows_of(table)
                if row.type in MADE
            }
            moves.retouch(rows, owners=self.owners)
            for notice in moves.notices:
                result.notice(notice)
        settle()
        self.meter.enter("reading back")
        for path, reason in self._differences(steps):
            result.differ(path, reason)
        result.verified = not result.mismatches
        begun.phase, begun.verified = "done", result.verified
        if not steps:
            drop(side, begun)
            return
        side.write_state(begun)
        result.kept = True
        result.kept_files, result.kept_bytes = begun.kept_files, begun.kept_bytes

    def _differences(self, steps: Sequence[Step]) -> Iterator[tuple[bytes, str]]:
        """What is not as it should be, of all that the steps touched."""
        gone = {from_text(one["path"]) for one in steps if one["do"] == "aside"}
        paths = {from_text(one["path"]) for one in steps} - gone - {b""}
        place = Target(self.root, create=False)
        try:
            for path in gone:
                if place.lookup(path) is not None:
                    yield path, "came back"
            key = self.repository.keys.identity
            yield from mismatches(place, self._chosen([*paths])(), key, owners=self.owners)
        finally:
            place.close()


def drop(side: Side, begun: Begun) -> None:
    """Remove the side folder after an undoing, and give the folder its time back."""
    begun.phase, begun.ended = "dropping", "undone"
    side.write_state(begun)
    side.drop()
    if begun.root_mtime_ns is not None:
        os.utime(side.root, ns=(side.root.stat().st_atime_ns, begun.root_mtime_ns))
    elif begun.root_made:
        with suppress(OSError):
            side.root.rmdir()

"""What a restore needs to know before it begins: which snapshot, from where, to where, how long."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backup_pipeline.engine.errors import BackupError, UsageError
from backup_pipeline.runner.changes import before_change
from backup_pipeline.runner.days import is_good
from backup_pipeline.runner.rates import is_local, rate_of, remember

if TYPE_CHECKING:
    from backup_pipeline.engine.format.record import Snapshot
    from backup_pipeline.engine.operations.in_place_report import InPlaceReport
    from backup_pipeline.engine.operations.restore_report import RestoreReport
    from backup_pipeline.engine.repository import Repository
    from backup_pipeline.runner.reading import Reader
    from backup_pipeline.sources.base import Source

__all__ = ["choose", "estimate", "home_of", "in_place", "learn", "notice_unfinished"]


def choose(
    reader: Reader,
    dataset: str,
    *,
    tier: str | None,
    day: date | None,
    at: datetime | None,
    snapshot: str | None,
    changed: Sequence[str] = (),
) -> tuple[Repository, Snapshot, str | None]:
    """The snapshot that is restored, in the tier that gives it fastest, and a notice about it.

    Args:
        reader: Who knows the tiers.
        dataset: The dataset's key.
        tier: As ``find`` takes it, as are ``day``, ``at`` and ``snapshot``.
        changed: Globs; the newest snapshot from before their newest change is chosen.

    Raises:
        NotFound: There is none.
        UsageError: More than one selector.
    """
    if changed and (day is not None or snapshot is not None):
        raise UsageError(
            "a change, a day and a snapshot each select a snapshot",
            "give one of them; --at may go with --before-change",
        )
    if changed:
        repositories = reader.repositories(dataset, tier)
        (repository, found), notice = before_change(dataset, repositories, changed, at)
    else:
        repository, found = reader.find(dataset, tier=tier, day=day, at=at, snapshot=snapshot)
        notice = None
    if tier is None and snapshot is None:
        repository, found = _fastest(reader, dataset, repository, found)
    return repository, found, notice


def _fastest(
    reader: Reader, dataset: str, repository: Repository, found: Snapshot
) -> tuple[Repository, Snapshot]:
    """The same state in the tier that gives it fastest: this machine's disks before a network, then
    as measured, then in the plan's order."""
    stores = _stores(reader, dataset)
    best, chosen = _speed(stores, repository, dataset), (repository, found)
    for other in reader.repositories(dataset):
        if other.tier == repository.tier or _speed(stores, other, dataset) <= best:
            continue
        same = [
            one
            for one in other.snapshots()
            if is_good(one) and (one.captured_at, one.day) == (found.captured_at, found.day)
        ]
        if same:
            best, chosen = _speed(stores, other, dataset), (other, same[-1])
    return chosen


def _stores(reader: Reader, dataset: str) -> dict[str, str]:
    return {place.tier: place.store for place in reader.places(dataset)}


def _speed(stores: dict[str, str], repository: Repository, dataset: str) -> tuple[bool, float]:
    store = stores.get(repository.tier, "")
    rate = rate_of(store, dataset)
    # What is assumed of a store is no reason to prefer it to another of its sort.
    return is_local(store), rate.bytes_per_s if rate.said_by == "measured" else 0.0


def estimate(reader: Reader, dataset: str, tier: str, size_bytes: int) -> dict[str, Any]:
    """From where a restore would read, and how long it would take.

    Args:
        reader: Who knows the tiers.
        dataset: The dataset's key.
        tier: The tier that is asked first.
        size_bytes: Logical bytes to write.
    """
    stores = _stores(reader, dataset)
    rate = rate_of(stores.get(tier, ""), dataset)
    return {
        "tier": tier,
        "store": stores.get(tier, ""),
        "then": [name for name in stores if name != tier],
        "seconds": size_bytes / rate.bytes_per_s,
        "rate": rate.to_json(),
    }


def learn(reader: Reader, dataset: str, report: RestoreReport | InPlaceReport) -> None:
    """Remember how fast a restore was."""
    fetched = report.written_bytes - report.copied_bytes
    if report.ok and not report.dry_run and not report.elsewhere and report.duration_s:
        store = _stores(reader, dataset).get(report.tier)
        if store is not None:
            remember(store, dataset, fetched, report.duration_s, reader.now())


def home_of(reader: Reader, dataset: str, day: date | None) -> tuple[Path, bytes | None]:
    """Where a dataset lives: the folder, and its name in it where it is a single file.

    Raises:
        UsageError: It does not live in a folder of this machine.
    """
    source = reader.source_of(dataset, day)
    root = getattr(source, "root", None)
    if source is None or source.kind != "files" or not isinstance(root, Path):
        where = (
            "without a plan it is not known where"
            if source is None
            else (
                f"{dataset} is read from {source.describe()}, not from a folder of this machine, so"
            )
        )
        raise UsageError(
            f"{where} to restore it in place", "name the folder to make equal to it: --to DIR"
        )
    if root.is_file() and not root.is_symlink():
        return root.parent, root.name.encode("utf-8", "surrogateescape")
    return root, None


def in_place(
    reader: Reader,
    dataset: str,
    to: str | Path | None,
    *,
    include: Sequence[str],
    delete: bool,
    checksum: bool,
    dry_run: bool,
    selectors: dict[str, Any],
) -> InPlaceReport:
    """See ``Reader.restore_in_place``; ``selectors`` are what ``choose`` takes."""
    root, alone = Path(to or ".").absolute(), None
    if to is None:
        day = selectors["day"] or choose(reader, dataset, **selectors)[1].day
        root, alone = home_of(reader, dataset, day)
    asked = {
        name: value.isoformat() if isinstance(value, date) else value
        for name, value in {**selectors, "changed": list(selectors["changed"])}.items()
    }
    from backup_pipeline.engine.operations.in_place import begun_in, restore_in_place

    begun = begun_in(root)
    wish = {"include": list(include), "delete": delete, **asked}
    if begun is not None and (begun.dataset, begun.asked) == (dataset, wish):
        # The same command again goes on with the same snapshot, even if there is a newer one.
        selectors = {**selectors, "day": None, "at": None, "changed": ()}
        selectors |= {"tier": begun.tier, "snapshot": begun.snapshot}
    repository, found, notice = choose(reader, dataset, **selectors)
    if to is None and alone is None and not root.exists():
        alone = _only_file(repository, found, root)
        root = root if alone is None else root.parent
    report = restore_in_place(
        repository,
        found,
        root,
        asked=asked,
        include=tuple(include),
        delete=delete,
        checksum=checksum,
        alone=alone,
        dry_run=dry_run,
        donors=reader.donors(dataset, repository),
        report=reader.report,
    )
    if dry_run:
        size_bytes = report.written_bytes - report.copied_bytes
        report.estimate = estimate(reader, dataset, report.tier, size_bytes)
    learn(reader, dataset, report)
    for text in (notice, *reader.notices):
        if text is not None:
            report.notice(text)
    return report


def notice_unfinished(source: Source, notice: Callable[[str], None]) -> None:
    """Say that what was backed up may be half of one state and half of another."""
    root = getattr(source, "root", None)
    if source.kind != "files" or not isinstance(root, Path):
        return
    from backup_pipeline.engine.operations.side import begun_in

    with suppress(BackupError):
        begun = begun_in(root)
        if begun is not None and begun.phase in {"moving", "undoing"}:
            notice(
                f"a restore in place of {root} is not finished: this snapshot may hold files of"
                " both states; finish or undo it and back up again"
            )


def _only_file(repository: Repository, snapshot: Snapshot, root: Path) -> bytes | None:
    """The name of a dataset that is a single file, and gone: its snapshot has it alone."""
    if snapshot.entries != 1:
        return None
    name = root.name.encode("utf-8", "surrogateescape")
    for rows in repository.segments.entries(snapshot).batches(("path", "type")):
        for row in rows.to_pylist():
            return name if row == {"path": name, "type": "file"} else None
    return None

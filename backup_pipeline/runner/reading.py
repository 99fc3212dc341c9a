"""What can be done with snapshots that are there: list, compare, verify, restore, drill."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from backup_pipeline.engine.errors import BackupError, NotFound, UsageError
from backup_pipeline.runner.days import is_good
from backup_pipeline.runner.drills import Driller
from backup_pipeline.runner.into_bucket import bucket_of
from backup_pipeline.runner.restoring import choose, estimate, home_of, in_place, learn
from backup_pipeline.runner.shares import parse_share

if TYPE_CHECKING:
    from backup_pipeline.engine.format.record import Snapshot
    from backup_pipeline.engine.manifest import Entry
    from backup_pipeline.engine.operations.content import SnapshotContent
    from backup_pipeline.engine.operations.diff import Change
    from backup_pipeline.engine.operations.donors import Donors
    from backup_pipeline.engine.operations.in_place_report import InPlaceReport
    from backup_pipeline.engine.operations.restore import RestoreReport
    from backup_pipeline.engine.operations.verify import VerifyReport
    from backup_pipeline.engine.progress import Report
    from backup_pipeline.engine.repository import Repository
    from backup_pipeline.sources.base import Source

__all__ = ["Reader", "parse_share"]


class Reader(Driller):
    """The verbs that read snapshots."""

    def ls(
        self,
        dataset: str,
        *,
        tier: str | None = None,
        day: date | None = None,
        at: datetime | None = None,
        snapshot: str | None = None,
        include: Sequence[str] = (),
    ) -> Iterator[Entry]:
        """The entries of one snapshot, in order of path; ``include`` are globs over paths."""
        repository, found = self.find(dataset, tier=tier, day=day, at=at, snapshot=snapshot)
        return repository.manifest(found).entries(include)

    def diff(
        self, dataset: str, a: str | None = None, b: str | None = None, *, tier: str | None = None
    ) -> Iterator[Change]:
        """What differs from snapshot ``a`` to snapshot ``b``.

        Args:
            dataset: The dataset's key.
            a: As ``select`` takes it; default: the good one before ``b`` in the same tier.
            b: As ``select`` takes it; default: the newest good one.
            tier: The tier of those that name none.

        Raises:
            NotFound: There is no such snapshot, or none before ``b``.
        """
        pair = self.pair(dataset, a, b, tier=tier)
        # Imported last, as all verbs are: pyarrow is loaded while the store's key is derived.
        from backup_pipeline.engine.operations.diff import diff

        return diff(*pair)

    def pair(
        self, dataset: str, a: str | None = None, b: str | None = None, *, tier: str | None = None
    ) -> tuple[Repository, Snapshot, Repository, Snapshot]:
        """The two snapshots that ``diff`` compares, and where they are."""
        to_repository, to = self.select(dataset, b or "latest", tier)
        if a is not None:
            return (*self.select(dataset, a, tier), to_repository, to)
        earlier = [
            one
            for one in to_repository.snapshots()
            if is_good(one) and (one.captured_at, one.sequence) < (to.captured_at, to.sequence)
        ]
        if not earlier:
            raise NotFound(
                f"{dataset} has no good snapshot before {to.id[:12]} in tier {to.tier}",
                "name the two to compare, such as `backup-pipeline diff DATASET A B`",
            )
        before = max(earlier, key=lambda one: (one.captured_at, one.sequence))
        return to_repository, before, to_repository, to

    def restore(
        self,
        dataset: str,
        to: str | Path,
        *,
        tier: str | None = None,
        day: date | None = None,
        at: datetime | None = None,
        snapshot: str | None = None,
        changed: Sequence[str] = (),
        include: Sequence[str] = (),
        dry_run: bool = False,
    ) -> RestoreReport:
        """Write one snapshot, or the globs of it, below a directory or an S3 prefix.

        What is missing or damaged in its tier is had from the others, pack by pack.

        Args:
            dataset: The dataset's key.
            to: The directory, made where it is not there; or ``s3://bucket/prefix``.
            tier: As ``find`` takes it, as are ``day``, ``at`` and ``snapshot``.
            changed: Globs; the newest snapshot from before their newest change is restored.
            include: Globs over paths; all without them.
            dry_run: Only say what would be written, from where, and how long it would take.

        Raises:
            NotFound: There is no such snapshot.
            DamageError: What is stored is not what was backed up.
        """
        repository, found, notice = choose(
            self, dataset, tier=tier, day=day, at=at, snapshot=snapshot, changed=changed
        )
        report = self._restored(repository, found, to, tuple(include), dry_run=dry_run)
        if dry_run:
            size_bytes = report.written_bytes - report.copied_bytes
            report.estimate = estimate(self, dataset, report.tier, size_bytes)
        learn(self, dataset, report)
        if notice is not None:
            report.notice(notice)
        if not is_good(found):
            report.notice(
                f"the snapshot is incomplete: {found.problem_count} entries could not be backed up"
            )
        for notice in self.notices:
            report.notice(notice)
        return report

    def _restored(
        self,
        repository: Repository,
        snapshot: Snapshot,
        to: str | Path,
        globs: tuple[str, ...],
        *,
        dry_run: bool,
    ) -> RestoreReport:
        donors = self.donors(snapshot.dataset, repository)
        into = bucket_of(to, self._bucket_options(snapshot.dataset))
        if into is None:
            from backup_pipeline.engine.operations.restore import restore

            return restore(
                repository,
                snapshot,
                Path(to),
                include=globs,
                dry_run=dry_run,
                donors=donors,
                report=self._report,
            )
        from backup_pipeline.engine.operations.restore_objects import restore_objects

        return restore_objects(
            repository,
            snapshot,
            into,
            include=globs,
            dry_run=dry_run,
            donors=donors,
            scratch=self._scratch(),
            report=self._report,
        )

    def restore_in_place(
        self,
        dataset: str,
        to: str | Path | None = None,
        *,
        tier: str | None = None,
        day: date | None = None,
        at: datetime | None = None,
        snapshot: str | None = None,
        changed: Sequence[str] = (),
        include: Sequence[str] = (),
        delete: bool = False,
        checksum: bool = False,
        dry_run: bool = False,
    ) -> InPlaceReport:
        """Make where a dataset lives, or another folder, equal to a snapshot; undoably.

        Args:
            dataset: The dataset's key.
            to: The folder; default: that of the dataset's source.
            tier: As ``restore`` takes it, as are ``day``, ``at``, ``snapshot``, ``changed``,
                ``include`` and ``dry_run``.
            delete: Whether what the snapshot does not have is moved aside.
            checksum: Whether every file is read to know if it differs.

        Raises:
            NotFound: There is no such snapshot.
            UsageError: Another restore in place was begun there, or it is no folder to change.
        """
        if to is not None and bucket_of(to, {}) is not None:
            raise UsageError(
                f"{to} is a bucket: a restore in place changes a folder",
                "without --in-place, a restore to it leaves alone what is there and right",
            )
        selectors = {"tier": tier, "day": day, "at": at, "snapshot": snapshot, "changed": changed}
        return in_place(
            self,
            dataset,
            to,
            include=include,
            delete=delete,
            checksum=checksum,
            dry_run=dry_run,
            selectors=selectors,
        )

    def home(self, dataset: str, day: date | None = None) -> Path:
        """The folder that ``restore_in_place`` changes where none is named; raises as it does."""
        return home_of(self, dataset, day)[0]

    def donors(self, dataset: str, repository: Repository) -> Donors:
        """Who may hold what a repository lost: the dataset's other tiers."""
        from backup_pipeline.engine.operations.donors import Donors

        return Donors(repository, lambda: self._siblings(dataset, repository))

    @property
    def report(self) -> Report | None:
        """Who is told the progress."""
        return self._report

    def now(self) -> datetime:
        """The present, by this reader's clock."""
        return self._clock()

    def source_of(self, dataset: str, day: date | None = None) -> Source | None:
        """A dataset's source; None where no plan tells it."""
        return None

    def _bucket_options(self, dataset: str) -> dict[str, str]:
        """How to reach the bucket that a dataset is restored to; else the usual AWS chain says."""
        return {}

    def content(
        self, dataset: str, words: str = "latest", *, tier: str | None = None
    ) -> SnapshotContent:
        """One snapshot, to read from without restoring it; damage is read around as by ``restore``.

        Args:
            dataset: The dataset's key.
            words: Which, as ``select`` takes it.
            tier: The tier where the words name none.

        Raises:
            NotFound: There is no such snapshot.
            DamageError: Its manifest is lost in every tier.
        """
        repository, found = self.select(dataset, words, tier)
        from backup_pipeline.engine.operations.content import SnapshotContent

        return SnapshotContent(repository, found, self.donors(dataset, repository))

    def _siblings(self, dataset: str, repository: Repository) -> list[Repository]:
        """The dataset's repositories in other tiers; those that cannot be asked are noted."""
        found: list[Repository] = []
        for place in self.places(dataset):
            if place.tier == repository.tier:
                continue
            try:
                sibling = place.find()
            except BackupError as error:
                self._notice(f"tier {place.tier} could not be asked: {error.message}")
                continue
            if sibling is not None:
                found.append(sibling)
        return found

    def verify(
        self,
        dataset: str,
        *,
        tier: str | None = None,
        day: date | None = None,
        snapshot: str | None = None,
        read_data: str | float = "all",
    ) -> VerifyReport:
        """Compare what is stored in one tier with its digests and references.

        Args:
            dataset: The dataset's key.
            tier: The tier; default: the first that holds the dataset, or that of the snapshot.
            day: Only what this day's snapshot needs.
            snapshot: Only what this snapshot needs.
            read_data: ``all``, or the share of the packs to read, such as ``5%``.

        Raises:
            NotFound: There is nothing to verify.
        """
        share = parse_share(read_data)
        chosen = None
        if day is not None or snapshot is not None:
            repository, one = self.find(dataset, tier=tier, day=day, snapshot=snapshot)
            chosen = [one]
        else:
            repositories = self.repositories(dataset, tier)
            if not repositories:
                raise self.none_found(dataset, tier, (), (), None, None)
            repository = repositories[0]
        from backup_pipeline.engine.operations.verify import verify

        found = verify(repository, snapshots=chosen, read_data=share, report=self._report)
        self._record_verification(repository, found, chosen[0].id if chosen else None)
        return found

    def _record_verification(
        self, repository: Repository, report: VerifyReport, snapshot: str | None
    ) -> None:
        """Write down what was verified, where a plan says that we may write there."""

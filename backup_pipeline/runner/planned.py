"""A plan's places: its stores and keys, each dataset's repositories, and how they stand."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from backup_pipeline.engine.errors import (
    BackupError,
    DamageError,
    KeyMissing,
    NotFound,
    StoreError,
    UsageError,
)
from backup_pipeline.plan.cadence import day_closes_at, local_day
from backup_pipeline.plan.sourcekinds import S3_OPTIONS
from backup_pipeline.runner.cuts import SetReader
from backup_pipeline.runner.finding import utc_now
from backup_pipeline.runner.places import OpenStores, Place
from backup_pipeline.runner.results import TierStatus
from backup_pipeline.runner.standing import tier_status

if TYPE_CHECKING:
    from backup_pipeline.engine.keys import Secret
    from backup_pipeline.engine.operations.expected import CompletenessReport
    from backup_pipeline.engine.operations.verify import VerifyReport
    from backup_pipeline.engine.progress import Report
    from backup_pipeline.engine.repository import Repository
    from backup_pipeline.engine.store import Probe
    from backup_pipeline.plan import Dataset, Drill, Plan, Tier
    from backup_pipeline.sources.base import Source

__all__ = ["ONE_DAY", "PlanReader", "plan_secrets"]

ONE_DAY = timedelta(days=1)


def plan_secrets(plan: Plan, environ: Mapping[str, str], *, need_all: bool) -> list[Secret]:
    """The keys that a plan names.

    Args:
        plan: The plan.
        environ: Where references to environment variables are looked up.
        need_all: Whether one that is missing is an error; else any one will do.

    Raises:
        KeyMissing: A key that is needed is not there.
        UsageError: A key file is none.
    """
    from backup_pipeline.engine.keys import PLAINTEXT, Passphrase, parse_key_file

    if plan.encryption == "none":
        return [PLAINTEXT]
    found: list[Secret] = []
    missing: list[KeyMissing] = []
    for spec in plan.keys.values():
        try:
            kind, content = spec.resolve(environ)
        except KeyMissing as error:
            missing.append(error)
            continue
        found.append(
            Passphrase(content)
            if kind == "passphrase"
            else parse_key_file(content, f"key {spec.name}")
        )
    if missing and (need_all or not found):
        raise missing[0]
    return found


Writes = Mapping[str, Mapping[str, str]]


class PlanReader(SetReader):
    """All that ``SetReader`` can do, over a plan's tiers, and what a writer needs of them.

    Args:
        plan: The plan.
        clock: Tells the time (aware); the day of a backup follows from it.
        environ: Where references to environment variables are looked up.
        report: Is told how far a long verb has come.
        writes: Says how an asset was last written, by its key: by partition, or under ``""``, the
            ``event`` and, where it is known, the ``place``; by default the event log of the
            instance of DAGSTER_HOME is asked.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        clock: Callable[[], datetime] = utc_now,
        environ: Mapping[str, str] = os.environ,
        report: Report | None = None,
        writes: Callable[[str], Writes] | None = None,
    ) -> None:
        self.plan = plan
        self._writes = writes or self._ask_writes
        self._asked_writes: dict[str, Writes] = {}
        self._environ = environ
        self.explained: str | None = None  # why much may have changed in what is backed up
        self.upstream: Mapping[str, str] = {}  # the same, by dataset, from materializations
        self._out_of_reach: set[str] = set()  # tiers that this verb could not ask
        super().__init__(
            OpenStores(
                lambda name: plan.stores[name].options(environ),
                lambda create: plan_secrets(plan, environ, need_all=create),
            ),
            zone=plan.zone,
            report=report,
            clock=clock,
        )

    # -- places

    def datasets(self) -> list[str]:
        """Keys of the plan's datasets, in its order."""
        return list(self.plan.datasets)

    def sets(self) -> list[str]:
        """Names of the plan's consistent sets, in its order."""
        return list(self.plan.sets)

    def _members(self, name: str) -> Sequence[str] | None:
        """A set's members; of one that the plan no longer has, what its snapshots say."""
        found = self.plan.sets.get(name)
        return None if found is None else found.members

    def places(self, dataset: str, tier: str | None = None) -> list[Place]:
        """The dataset's tiers, first to last.

        Raises:
            UsageError: The plan knows no such dataset or tier.
        """
        spec = self.plan.dataset(dataset)
        tiers = list(spec.tiers.values()) if tier is None else [spec.tier(tier)]
        return [self._place(spec, rules) for rules in tiers]

    def _place(self, spec: Dataset, rules: Tier) -> Place:
        url = self.plan.stores[rules.store].display_url
        return Place(spec.key, rules.name, url, lambda: self._repository(spec, rules))

    def _repository(self, spec: Dataset, rules: Tier) -> Repository | None:
        """The repository of a tier, to be kept as the plan says; None if it is not there."""
        found = self._stores.repository(rules.store, spec.key)
        if found is not None:
            found.parity, found.solid = rules.parity, spec.solid
        return found

    def probe(self, store: str) -> Probe:
        """Try a store out; raises where it cannot be reached."""
        return self._stores.store(store).probe()

    def locks(self, store: str) -> bool | None:
        """Whether a store can refuse deletion until a date; None where it does not say."""
        return self._stores.store(store).locks()

    def unlock(self, store: str) -> None:
        """Open a store with the plan's keys.

        Raises:
            NotFound: Nothing of ours is there.
            WrongKey: None of the keys opens it.
        """
        self._stores.unlocked(store)

    def source(self, dataset: str, day: date | None = None) -> Source:
        """A dataset's source, opened; nothing is read yet.

        Args:
            dataset: The dataset's key.
            day: The slice's day; default: the newest closed day.
        """
        return self._source(self.plan.dataset(dataset), day or self.last_closed_day())

    def source_of(self, dataset: str, day: date | None = None) -> Source | None:
        """A dataset's source."""
        return self.source(dataset, day)

    # -- days

    def today(self) -> date:
        """The local date of the plan's timezone."""
        return local_day(self._clock(), self.plan.zone)

    def is_closed(self, day: date) -> bool:
        """Whether a day is over, its grace included."""
        return day_closes_at(day, self.plan.zone) <= self._clock()

    def last_closed_day(self) -> date:
        """The newest day that is over, its grace included."""
        day = self.today() - ONE_DAY
        return day if self.is_closed(day) else day - ONE_DAY

    # -- what a writer needs

    def _writable(self, spec: Dataset, rules: Tier) -> Repository:
        """The repository of a tier, made if need be; raises as ``_require_ours`` does."""
        repository = self._repository(spec, rules) or self._create(spec, rules)
        return self._require_ours(spec, rules, repository)

    def _require_ours(self, spec: Dataset, rules: Tier, repository: Repository) -> Repository:
        """The repository, once it is clear that we may write there."""
        if repository.log.lost:
            raise DamageError(
                f"the log of {spec.key} in tier {rules.name} is damaged and is not written to:"
                f" {'; '.join(repository.log.lost.values())}",
                "`backup-pipeline verify` names what is damaged; the other tiers are not concerned",
            )
        if repository.tier != rules.name:
            raise UsageError(
                f"store {rules.store} holds {spec.key} of tier {repository.tier}, not {rules.name}",
                "give each tier of a dataset a store, or a prefix in it, of its own",
            )
        if repository.deployment != self.plan.deployment:
            raise UsageError(
                f"{spec.key} in tier {rules.name} belongs to deployment {repository.deployment},"
                f" and this plan is deployment {self.plan.deployment}",
                "give each deployment stores of its own, or correct `deployment` in the plan",
            )
        return repository

    def _create(self, spec: Dataset, rules: Tier) -> Repository:
        """Make a repository with the dataset's keys, which are the same in all tiers.

        Keys begin in the first tier, whichever tier runs first: two tiers that begin at once then
        meet at one create-only name instead of each making keys of its own.
        """
        try:
            self._stores.unlocked(rules.store)
        except NotFound:
            where = self.plan.stores[rules.store].display_url
            self._notice(f"{where} held no backups: it is prepared as store {rules.store}")
        keys = None
        for sibling in spec.tiers.values():
            if sibling.name == rules.name:
                continue
            try:
                found = self._repository(spec, sibling)
            except StoreError as error:
                raise type(error)(
                    f"{spec.key} cannot be begun in tier {rules.name}: tier {sibling.name} may hold"
                    f" its keys and is out of reach: {error.message}",
                    "the dataset's keys are the same in every tier; try again once it is in reach",
                ) from error
            if found is not None:
                keys = found.keys
                break
        if keys is None and rules is not spec.first_tier:
            keys = self._create(spec, spec.first_tier).keys
        self._stores.unlocked(rules.store, create=True).create(
            spec.key,
            tier=rules.name,
            deployment=self.plan.deployment,
            keys=keys,
            now=self._clock,
        )
        made = self._repository(spec, rules)
        assert made is not None
        return made

    def _source(self, spec: Dataset, day: date) -> Source:
        from backup_pipeline.sources import open_source

        options = spec.source.resolved(self._environ)
        if spec.source.kind == "asset":
            options["writes"] = self._writes(options["key"])
            options["modules"], options["environ"] = self._module_folders(), self._environ
        slice_day = day if spec.holds == "slice" else None
        return open_source(spec.source.kind, options, day=slice_day, zone=self.plan.zone)

    def _ask_writes(self, key: str) -> Writes:
        from backup_pipeline.asking import ask_event_log

        if key not in self._asked_writes:
            self._asked_writes |= ask_event_log("writes", [key], self._environ)
        return self._asked_writes[key]

    def _bucket_options(self, dataset: str) -> dict[str, str]:
        """As the dataset's own source says, where that is on S3."""
        source = self.plan.dataset(dataset).source
        if source.kind != "objects":
            return {}
        options = source.resolved(self._environ)
        return {name: options[name] for name in S3_OPTIONS if name in options}

    # -- standing

    def fingerprint(self, dataset: str, day: date | None = None) -> str:
        """A cheap value that changes when the dataset does; no content is read.

        Args:
            dataset: The dataset's key.
            day: The slice's day; default: the newest closed day.
        """
        source = self._source(self.plan.dataset(dataset), day or self.last_closed_day())
        with closing(source):
            return source.fingerprint()

    def status(self, dataset: str | None = None, tier: str | None = None) -> list[TierStatus]:
        """How each dataset stands in each tier, one line per pair; no store's absence stops it."""
        self.notices.clear()
        return [
            tier_status(self.plan, self.plan.dataset(place.dataset), place, self._clock())
            for place in self.all_places(dataset, tier)
        ]

    def _scratch(self) -> Path | None:
        if self.plan.scratch is None:
            return None
        directory = self.plan.scratch.path(self._environ)
        directory.mkdir(parents=True, exist_ok=True)
        return directory

    def _require_room(self, size_bytes: int) -> None:
        spec = self.plan.scratch
        if spec is not None and spec.max_bytes is not None and size_bytes > spec.max_bytes:
            raise UsageError(
                f"this drill restores {size_bytes} bytes, more than the {spec.max_bytes} bytes that"
                " the plan's scratch may hold",
                "take a smaller sample, let its tests need less, or raise `scratch.max`",
            )

    def _drill_rules(self, dataset: str) -> Drill | None:
        return self.plan.dataset(dataset).drill

    def complete(
        self,
        dataset: str,
        tier: str | None = None,
        *,
        day: date | None = None,
        snapshot: str | None = None,
    ) -> CompletenessReport:
        """Hold a snapshot's manifest against what the plan's ``completeness`` expects of it.

        Args:
            dataset: The dataset's key.
            tier: As ``find`` takes it, as are ``day`` and ``snapshot``.

        Raises:
            NotFound: There is no such snapshot.
        """
        repository, found = self.find(dataset, tier=tier, day=day, snapshot=snapshot)
        from backup_pipeline.runner.completing import complete

        rules = self.plan.dataset(dataset).completeness
        return complete(repository, found, rules, self._module_folders())

    def _holds_slices(self, dataset: str) -> bool:
        return self.plan.dataset(dataset).holds == "slice"

    def _module_folders(self) -> list[str]:
        return [] if self.plan.file is None else [str(Path(self.plan.file).resolve().parent)]

    def _unrecordable(self, repository: Repository) -> str | None:
        if repository.log.lost:
            return f"the log of tier {repository.tier} is damaged"
        if repository.deployment != self.plan.deployment:
            return f"tier {repository.tier} belongs to deployment {repository.deployment}"
        return None

    def _record_verification(
        self, repository: Repository, report: VerifyReport, snapshot: str | None
    ) -> None:
        from backup_pipeline.engine.operations.verified import record_verification

        refusal = self._unrecordable(repository)
        try:
            if refusal is not None:
                raise UsageError(refusal)
            record_verification(repository, report, snapshot, clock=self._clock)
        except BackupError as error:
            self._notice(f"this verification is not recorded: {error.message}")

    def _rto_s(self, dataset: str) -> float | None:
        rto = self.plan.dataset(dataset).rto
        return rto.total_seconds() if rto else None

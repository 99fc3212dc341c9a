"""The plan as it counts: every default filled in, every dataset with its own tiers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, time, timedelta
from typing import Any, Literal
from zoneinfo import ZoneInfo

from backup_pipeline.engine.errors import UsageError
from backup_pipeline.plan.drilltests import Completeness, DrillTest
from backup_pipeline.plan.places import KeySpec, Lock, ScratchSpec, SourceSpec, StoreSpec
from backup_pipeline.plan.problems import one_of
from backup_pipeline.plan.references import Reference

__all__ = [
    "Alerts",
    "Anomaly",
    "ConsistentSet",
    "Dataset",
    "Drill",
    "Keep",
    "OnChange",
    "Plan",
    "RunRules",
    "Tier",
]

Every = Literal["hour", "day", "week", "month"]
Kind = Literal["full", "differential", "incremental"]


@dataclass(frozen=True, slots=True)
class Alerts:
    """Who is told of what needs a person.

    Attributes:
        to: References to the receivers' URLs, which hold secrets.
        about: What they are told of.
        at_risk: Share of an RPO from which its age is told as a risk; None: only where the next
            run would come too late.
    """

    to: tuple[Reference, ...]
    about: tuple[str, ...]
    at_risk: float | None = None


@dataclass(frozen=True, slots=True)
class Keep:
    """How many snapshots retention keeps of each generation."""

    last: int = 0
    hourly: int = 0
    daily: int = 0
    weekly: int = 0
    monthly: int = 0
    yearly: int = 0


@dataclass(frozen=True, slots=True)
class Tier:
    """One destination of a dataset's backups.

    Attributes:
        name: The tier's name, part of the asset key.
        store: Name of its store.
        every: Its cadence; an hourly tier is partitioned by day like a daily one.
        at: Local time of day at which it runs; for an hourly tier only the minute counts.
        weekday: For a weekly tier, ``monday`` to ``sunday``; else None.
        day_of_month: For a monthly tier, 1 to 28; else None.
        kind: Which older packs its snapshots may refer to.
        full_every: When a chain ends; None where ``kind`` is ``full``.
        from_: ``source``, or the name of the tier that it copies.
        if_missed: What a copying tier does about a day that no tier has.
        keep: What retention keeps.
        lock: The store's lock, or the tier's own.
        parity: Share of each pack that may rot and heal by itself; 0 for none.
    """

    name: str
    store: str
    every: Every = "day"
    at: time = time(2, 0)
    weekday: str | None = None
    day_of_month: int | None = None
    kind: Kind = "incremental"
    full_every: timedelta | None = timedelta(weeks=4)
    from_: str = "source"
    if_missed: Literal["fail", "nearest"] = "fail"
    keep: Keep = Keep(daily=7, weekly=4, monthly=6)
    lock: Lock | None = None
    parity: float = 0.0

    @property
    def reads_source(self) -> bool:
        """Whether its runs read the dataset itself."""
        return self.from_ == "source"


@dataclass(frozen=True, slots=True)
class OnChange:
    """Backups when the dataset changes, besides the cadence."""

    at_most_every: timedelta = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Drill:
    """How often a sample is restored to scratch, how much (a fraction up to 1), and its tests."""

    every: Literal["day", "week", "month"] = "month"
    sample: float = 0.01
    tests: tuple[DrillTest, ...] = ()

    @property
    def interval(self) -> timedelta:
        """The longest time from one drill to the next."""
        return timedelta(days={"day": 1, "week": 7, "month": 31}[self.every])


@dataclass(frozen=True, slots=True)
class Anomaly:
    """Fractions beyond which a snapshot counts as suspicious; None: by the dataset's history.

    Attributes:
        severity: Of the check that fails in Dagster.
    """

    changed: float | None = None
    deleted: float | None = None
    renamed: float | None = None
    shrunk: float | None = None
    fell: float | None = None
    incompressible: float | None = None
    opaque: float | None = None
    misnamed: float | None = None
    blank: float | None = None
    severity: Literal["warn", "error"] = "warn"


@dataclass(frozen=True, slots=True)
class RunRules:
    """How runs are launched in Dagster."""

    tags: Mapping[str, str] = field(default_factory=dict[str, str])
    pool: str | None = None
    retries: int = 0
    on_overlap: Literal["skip", "queue"] = "skip"


@dataclass(frozen=True, slots=True)
class Dataset:
    """One protected dataset with its policy applied.

    Attributes:
        key: The upstream asset's key, its parts joined by ``/``.
        tiers: By name, in the policy's order; the first reads the source.
        rpo: Tolerated age of the newest good snapshot, for each tier.
        rto: Tolerated time of a restore; None where the plan states none.
        completeness: What is expected of each snapshot's manifest; None where nothing is.
        drill: None where drills are switched off.
        late: Whether present state may be stored for a past day.
        on_change: None where changes start no backup.
        policy: Name of the policy.
        backfill: How often the plan's schedule fills missed days; None: never.
        expire: How often the plan's schedule expires what is beyond ``keep``; None: never.
        prune: How often it deletes what no snapshot needs; None: never.
        legal_hold: Why nothing of the dataset may expire or be deleted; None where it may.
        keep_slices: For ``holds: slice``: how long a slice is kept; None is for ever.
        slices_checked: How far back slices are looked at for whether they were written again.
        solid: Whether small files share segments.
    """

    key: str
    source: SourceSpec
    tiers: Mapping[str, Tier]
    rpo: Mapping[str, timedelta]
    policy: str = "default"
    holds: Literal["whole", "slice"] = "whole"
    late: Literal["refuse", "accept"] = "refuse"
    rto: timedelta | None = None
    drill: Drill | None = Drill()
    completeness: Completeness | None = None
    on_change: OnChange | None = None
    anomaly: Anomaly | None = Anomaly()
    run: RunRules = RunRules()
    backfill: Literal["day", "week"] | None = None
    expire: Literal["day", "week"] | None = None
    prune: Literal["day", "week", "month"] | None = None
    legal_hold: str | None = None
    keep_slices: timedelta | None = None
    slices_checked: timedelta = timedelta(days=7)
    group: str | None = None
    solid: bool = True
    symlinks: Literal["keep"] = "keep"

    @property
    def first_tier(self) -> Tier:
        """The tier that reads the source and that the others wait for."""
        return next(iter(self.tiers.values()))

    def tier(self, name: str) -> Tier:
        """Returns a tier by name.

        Raises:
            UsageError: The dataset has no such tier.
        """
        found = self.tiers.get(name)
        if found is None:
            raise UsageError(f"{self.key} has no tier '{name}'", one_of(name, self.tiers))
        return found


@dataclass(frozen=True, slots=True)
class ConsistentSet:
    """Datasets that are captured as one cut and restored as one.

    Attributes:
        name: The set's name.
        members: Keys of its datasets, in the plan's order of the set.
        retries: How often a cut that could not be proved is tried again.
        wait: How long before it is.
        freeze: Program and arguments that hold the members still; empty where nothing does.
        thaw: What lets them go again.
        hook_timeout: How long either may take.
    """

    name: str
    members: tuple[str, ...]
    retries: int = 3
    wait: timedelta = timedelta(seconds=10)
    freeze: tuple[str, ...] = ()
    thaw: tuple[str, ...] = ()
    hook_timeout: timedelta = timedelta(minutes=5)


@dataclass(frozen=True)
class Plan:
    """The whole declaration.

    Attributes:
        document: Plain content that ``load_plan`` takes again: the environment merged in,
            references as references, local paths absolute.
        start: The first day that has a backup.
        timezone: Name of the zone whose days count.
        deployment: Stamped into repositories; None where the plan names none.
        automation: Whether schedules and sensors run by default.
        file: The file it was read from, or None.
        accept_history_change: Names of changes that may hide history.
        sets: Consistent sets by name; no dataset is in two.
    """

    document: Mapping[str, Any]
    start: date
    timezone: str
    deployment: str | None
    automation: bool
    encryption: Literal["aes-256-gcm", "none"]
    stores: Mapping[str, StoreSpec]
    keys: Mapping[str, KeySpec]
    datasets: Mapping[str, Dataset]
    scratch: ScratchSpec | None = None
    alerts: Alerts | None = None
    accept_history_change: tuple[str, ...] = ()
    file: str | None = field(default=None, compare=False)
    sets: Mapping[str, ConsistentSet] = field(default_factory=dict[str, ConsistentSet])

    @property
    def zone(self) -> ZoneInfo:
        """The zone whose days count."""
        return ZoneInfo(self.timezone)

    @property
    def tier_names(self) -> list[str]:
        """Names of all tiers, in the order in which datasets first name them."""
        return list(dict.fromkeys(name for item in self.datasets.values() for name in item.tiers))

    def dataset(self, key: str) -> Dataset:
        """Returns a dataset by its key.

        Raises:
            UsageError: The plan has no such dataset.
        """
        found = self.datasets.get(key)
        if found is None:
            raise UsageError(f"the plan has no dataset '{key}'", one_of(key, self.datasets))
        return found

    def consistent_set(self, name: str) -> ConsistentSet:
        """Returns a consistent set by its name.

        Raises:
            UsageError: The plan has no such set.
        """
        found = self.sets.get(name)
        if found is None:
            raise UsageError(f"the plan has no set '{name}'", one_of(name, self.sets))
        return found

    def set_of(self, dataset: str) -> ConsistentSet | None:
        """Returns the set that a dataset is a member of; None where it stands alone."""
        return next((one for one in self.sets.values() if dataset in one.members), None)

    def history(self) -> dict[str, Any]:
        """Returns what decides which days exist: start, timezone, and each tier's cadence."""
        from backup_pipeline.plan.history import describe_history

        return describe_history(self)

    def history_key(self) -> str:
        """Returns a digest of ``history()``, equal exactly where the days are the same."""
        days = {key: value for key, value in self.history().items() if key != "accepted"}
        text = json.dumps(days, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

"""Turns a plan into asset specs; ``get_asset_spec`` is the one place to override what they say."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import dagster as dg

from backup_pipeline.engine.errors import UsageError
from backup_pipeline.metadata import DATASET, NAMESPACE, key
from backup_pipeline.plan import ConsistentSet, Dataset, Plan, Tier
from backup_pipeline.plan import cadence as plan_cadence

__all__ = ["BackupTranslator", "TierAsset", "Upstream", "dataset_key", "lay_out"]

Upstream = Iterable[dg.AssetsDefinition | dg.AssetSpec]


class BackupTranslator:
    """Says how a dataset's tier appears in Dagster.

    Override ``get_asset_spec``, call ``super()`` in it and change what should be different:

        class OurTranslator(BackupTranslator):
            def get_asset_spec(self, dataset, tier):
                spec = super().get_asset_spec(dataset, tier)
                return spec.replace_attributes(owners=["team:storage"])

    Key, group, description, kinds, owners, tags, metadata, dependencies and automation condition
    are yours. The partitions are not: they are the plan's cadence, and are put on afterwards. A
    copying tier's dependency on the tier that it copies from is added afterwards too, under
    whatever key that tier was given here.
    """

    def get_asset_spec(self, dataset: Dataset, tier: Tier) -> dg.AssetSpec:
        """The spec of one dataset in one tier.

        Args:
            dataset: One dataset of the plan.
            tier: One of its tiers.
        """
        return dg.AssetSpec(
            key=[NAMESPACE, tier.name, *dataset_key(dataset).path],
            description=self._description(dataset, tier),
            group_name=_group(dataset),
            # The graph labels an asset with the end of its key, which all tiers share: the store's
            # name beside it tells them apart.
            kinds={NAMESPACE, tier.store, dataset.source.kind},
            deps=[upstream_dep(dataset)] if tier.reads_source else [],
            metadata={
                DATASET: dataset.key,
                key("tier"): tier.name,
                key("policy"): dataset.policy,
                key("holds"): dataset.holds,
            },
        )

    def _description(self, dataset: Dataset, tier: Tier) -> str:
        origin = "its source" if tier.reads_source else f"tier `{tier.from_}`"
        held = "its whole state" if dataset.holds == "whole" else "the slice of that day"
        return (
            f"Backups of `{dataset.key}` in tier `{tier.name}`, taken from {origin}. Each"
            f" partition stands for one day and holds {held}."
        )


@dataclass(frozen=True)
class TierAsset:
    """One dataset in one tier, as Dagster knows it.

    Attributes:
        dataset: The plan's dataset.
        tier: The plan's tier.
        spec: The asset's spec, with its partitions and dependencies.
        partitions: Its cadence days.
        pool: Limits how many runs use its store at a time.
        repository: Tag value that is unique to this dataset and tier, or to the set of which one
            step captures it in this tier.
        label: Name of its op: letters, digits and underscores, unique among the plan's.
        today: Whether today's partition exists, because the source is read on the day itself.
        consistent_set: The set that the dataset is a member of, where all of its members have this
            tier.
    """

    dataset: Dataset
    tier: Tier
    spec: dg.AssetSpec
    partitions: dg.TimeWindowPartitionsDefinition
    pool: str
    repository: str
    label: str
    today: bool
    consistent_set: ConsistentSet | None = None

    @property
    def asset_key(self) -> dg.AssetKey:
        """Its key in Dagster."""
        return self.spec.key

    @property
    def dataset_asset(self) -> dg.AssetKey:
        """The key of the dataset's own asset."""
        return dataset_key(self.dataset)

    @property
    def first(self) -> bool:
        """Whether it is its dataset's first tier."""
        return self.dataset.first_tier.name == self.tier.name

    @property
    def together(self) -> str | None:
        """Name of the set with whose other members one step captures it; None where it is alone."""
        return self.consistent_set.name if self.consistent_set and self.first else None

    @property
    def due(self) -> str:
        """The cron line of its runs, in the plan's time zone."""
        return plan_cadence.cron(self.tier, self.dataset.holds)

    def check_key(self, name: str) -> dg.AssetCheckKey:
        """The key of one of its checks."""
        return dg.AssetCheckKey(self.asset_key, name)


def lay_out(
    plan: Plan,
    *,
    name: str,
    translator: BackupTranslator | None = None,
    upstream: Upstream = (),
) -> list[TierAsset]:
    """All datasets × tiers of a plan as assets, in the plan's order.

    Args:
        plan: The plan.
        name: Prefix of pools, so that two plans keep apart.
        translator: What the specs say.
        upstream: The datasets' own assets, where they are known; their partitions decide how days
            map onto them.

    Raises:
        UsageError: The translator gave two assets one key.
    """
    translator = translator or BackupTranslator()
    known = _partitions_by_key(upstream)
    assets: list[TierAsset] = []
    taken: dict[dg.AssetKey, str] = {}
    labels: set[str] = set()
    for dataset in plan.datasets.values():
        specs = {
            tier.name: translator.get_asset_spec(dataset, tier) for tier in dataset.tiers.values()
        }
        for tier in dataset.tiers.values():
            spec = specs[tier.name]
            here = f"{dataset.key} in tier {tier.name}"
            if spec.key in taken:
                raise UsageError(
                    f"{taken[spec.key]} and {here} have the same asset key"
                    f" {spec.key.to_user_string()}",
                    "let the translator's get_asset_spec give each its own key",
                )
            taken[spec.key] = here
            asset = _tier_asset(plan, dataset, tier, specs, name, known)
            if asset.label in labels:
                digest = hashlib.sha256(spec.key.to_string().encode()).hexdigest()
                asset = replace(asset, label=f"{asset.label}_{digest[:8]}")
            labels.add(asset.label)
            assets.append(asset)
    return assets


def _tier_asset(
    plan: Plan,
    dataset: Dataset,
    tier: Tier,
    specs: Mapping[str, dg.AssetSpec],
    name: str,
    known: Mapping[dg.AssetKey, dg.PartitionsDefinition | None],
) -> TierAsset:
    # Only where the source is read on the day itself does today's partition exist: a slice is taken
    # after its day closed, and copying tiers copy closed days.
    today = not plan_cadence.waits_for_close(tier, dataset.holds)
    partitions = dg.TimeWindowPartitionsDefinition(
        start=plan.start.isoformat(),
        cron_schedule="0 0 * * *",
        fmt="%Y-%m-%d",
        timezone=plan.timezone,
        end_offset=1 if today else 0,
        exclusions=plan_cadence.exclusions(tier, plan.start, plan.timezone) or None,
    )
    spec = specs[tier.name]
    own = dataset_key(dataset)
    deps = [
        _with_mapping(dep, dataset, known.get(own), plan) if dep.asset_key == own else dep
        for dep in spec.deps
    ]
    one = plan.set_of(dataset.key)
    if one is not None and any(tier.name not in plan.dataset(key).tiers for key in one.members):
        one = None
    # What is captured as one is queued, limited and looked for as one.
    what = f"set\0{one.name}" if one and tier is dataset.first_tier else dataset.key
    said = {**spec.metadata, **({key("set"): one.name} if one is not None else {})}
    if not tier.reads_source:
        deps.append(dg.AssetDep(specs[tier.from_].key, partition_mapping=day_to_day()))
    return TierAsset(
        dataset=dataset,
        tier=tier,
        spec=spec.replace_attributes(deps=deps, partitions_def=partitions, metadata=said),
        partitions=partitions,
        pool=dataset.run.pool or f"{name}_{tier.store}",
        repository=hashlib.sha256(f"{tier.name}\0{what}".encode()).hexdigest()[:32],
        label="__".join(_plain(part) for part in spec.key.path),
        today=today,
        consistent_set=one,
    )


def dataset_key(dataset: Dataset) -> dg.AssetKey:
    """The key of the asset that a dataset is."""
    return dg.AssetKey(dataset.key.split("/"))


def upstream_dep(dataset: Dataset) -> dg.AssetDep:
    """The dependency on the dataset's own asset.

    The mapping is said outright, since Dagster's inference goes wrong once the upstream has been
    materialized: days in another time zone, static partitions.
    """
    return dg.AssetDep(dataset_key(dataset), partition_mapping=dg.AllPartitionMapping())


def day_to_day() -> dg.TimeWindowPartitionMapping:
    """Maps a day to the same day upstream.

    Cadences need not meet: a monthly day may be none of the weekly tier that it copies from. The
    parameter that allows it is in beta: this is the only place that uses it.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)
        return dg.TimeWindowPartitionMapping(allow_nonexistent_upstream_partitions=True)


def _with_mapping(
    dep: dg.AssetDep, dataset: Dataset, partitions: dg.PartitionsDefinition | None, plan: Plan
) -> dg.AssetDep:
    """Map day to day where a slice's own asset has days or hours in the plan's time zone."""
    same_days = (
        dataset.holds == "slice"
        and isinstance(partitions, dg.TimeWindowPartitionsDefinition)
        and partitions.timezone == plan.timezone
        and isinstance(dep.partition_mapping, dg.AllPartitionMapping)
        and _divides_days(partitions)
    )
    if not same_days:
        return dep
    return dg.AssetDep(dep.asset_key, partition_mapping=day_to_day())


def _divides_days(partitions: dg.TimeWindowPartitionsDefinition) -> bool:
    """Whether the windows are days from midnight, or hours."""
    fields = partitions.cron_schedule.split()
    if fields[2:] != ["*", "*", "*"]:
        return False
    return fields[:2] in (["0", "0"], ["0", "*"])


def _partitions_by_key(
    upstream: Upstream,
) -> dict[dg.AssetKey, dg.PartitionsDefinition | None]:
    known: dict[dg.AssetKey, dg.PartitionsDefinition | None] = {}
    for asset in upstream:
        specs = [asset] if isinstance(asset, dg.AssetSpec) else asset.specs
        known |= {spec.key: spec.partitions_def for spec in specs}
    return known


def _group(dataset: Dataset) -> str:
    """Backups stand in a group of their own, below it the dataset's group."""
    return f"{NAMESPACE}/{dataset.group}" if dataset.group else NAMESPACE


def _plain(part: str) -> str:
    return "".join(letter if letter.isascii() and letter.isalnum() else "_" for letter in part)

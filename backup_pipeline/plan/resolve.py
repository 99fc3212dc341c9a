"""Fills in the defaults: from the plan as written to the plan as it counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import date, time, timedelta
from typing import Any

from backup_pipeline.cost.prices import PRICES, StoragePrices
from backup_pipeline.plan.cadence import interval
from backup_pipeline.plan.content import is_list, is_mapping
from backup_pipeline.plan.dayform import has_day
from backup_pipeline.plan.drilltests import Completeness
from backup_pipeline.plan.model import (
    Alerts,
    Anomaly,
    ConsistentSet,
    Dataset,
    Drill,
    Keep,
    OnChange,
    Plan,
    RunRules,
    Tier,
)
from backup_pipeline.plan.places import KeySpec, Lock, ScratchSpec, SourceSpec, StoreSpec
from backup_pipeline.plan.presets import PRESETS
from backup_pipeline.plan.references import Reference
from backup_pipeline.plan.schema import (
    ALERT_KINDS,
    FIRST_TIER,
    AlertsWritten,
    DatasetWritten,
    LockWritten,
    OverrideWritten,
    PlanWritten,
    PolicyWritten,
    PricesWritten,
    SetWritten,
    StoreWritten,
    TierFields,
    TierWritten,
)
from backup_pipeline.plan.sourcekinds import fill_asset, find_kind, url_kind

__all__ = [
    "DEFAULT_FULL_EVERY",
    "DEFAULT_KEY_VARIABLE",
    "DEFAULT_POLICY",
    "RPO_SLACK",
    "dataset_keys",
    "dataset_tiers",
    "default_rpo",
    "policy_of",
    "policy_tiers",
    "resolve_plan",
    "settle_tiers",
]

DEFAULT_POLICY = "default"
DEFAULT_KEY_VARIABLE = "BACKUP_PASSPHRASE"
DEFAULT_FULL_EVERY = timedelta(weeks=4)
_DEFAULT_KEEP = Keep(daily=7, weekly=4, monthly=6)
RPO_SLACK = {
    "hour": timedelta(hours=1),
    "day": timedelta(hours=2),
    "week": timedelta(days=1),
    "month": timedelta(days=1),
}
"""Room for the run itself: rpo is held on the time of capture."""
_NO_SETTINGS = ("url", "lock", "prices", "media", "site")
"""Keys of a store that are not for whoever opens it."""


def policy_of(plan: PlanWritten, dataset: DatasetWritten) -> PolicyWritten | None:
    """Returns the policy that a dataset follows: the plan's own, a preset, or the implied one."""
    name = dataset.policy or DEFAULT_POLICY
    if name in plan.policies:
        return plan.policies[name]
    if name in PRESETS:
        return PolicyWritten.model_validate(PRESETS[name])
    if name == DEFAULT_POLICY and len(plan.stores) == 1:
        # Not validated: a rule has its say about the name, and says it of the store.
        tier = TierWritten.model_construct(name=next(iter(plan.stores)))
        return PolicyWritten.model_construct(tiers=[tier])
    return None


def policy_tiers(policy: PolicyWritten, override: OverrideWritten | None) -> list[TierWritten]:
    """Returns a policy's tiers as one dataset has them: changed, or left out, by its override."""
    changes = {} if override is None else override.tiers
    tiers: list[TierWritten] = []
    for tier in policy.tiers:
        change = changes.get(tier.name)
        if change is None:
            tiers.append(tier)
        elif change.enabled:
            tiers.append(_changed(tier, change))
    return tiers


def _changed(tier: TierWritten, change: TierFields) -> TierWritten:
    """Applies an override; what only made sense with the replaced cadence or kind goes with it."""
    fields = {name for name in change.model_fields_set if name in TierFields.model_fields}
    update: dict[str, Any] = {name: getattr(change, name) for name in fields}
    if change.every is not None and change.every != tier.every:
        update = {"weekday": None, "day_of_month": None, **update}
        if "hour" in (change.every, tier.every):
            update = {"at": None, **update}
    if change.kind == "full":
        update = {"full_every": None, **update}
    return tier.model_copy(update=update)


def settle_tiers(tiers: list[TierWritten], stores: Mapping[str, StoreWritten]) -> dict[str, Tier]:
    """Fills in the tiers' defaults; the first reads the source, the others copy the first."""
    first = tiers[0].name
    return {tier.name: _settle(tier, first, stores) for tier in tiers}


def _settle(tier: TierWritten, first: str, stores: Mapping[str, StoreWritten]) -> Tier:
    every = tier.every or "day"
    kind = tier.kind or "incremental"
    store_name = tier.store or tier.name
    store = stores.get(store_name)
    keep = _DEFAULT_KEEP if tier.keep is None else Keep(**tier.keep.model_dump())
    return Tier(
        name=tier.name,
        store=store_name,
        every=every,
        at=tier.at or time(2, 0),
        weekday=(tier.weekday or "sunday") if every == "week" else None,
        day_of_month=(tier.day_of_month or 1) if every == "month" else None,
        kind=kind,
        full_every=None if kind == "full" else tier.full_every or DEFAULT_FULL_EVERY,
        from_=tier.from_ or ("source" if tier.name == first else first),
        if_missed=tier.if_missed or "fail",
        parity=tier.parity or 0.0,
        keep=keep,
        lock=_lock(tier.lock) or (_lock(store.lock) if store is not None else None),
    )


def _lock(written: LockWritten | None) -> Lock | None:
    return None if written is None else Lock(written.mode, written.days)


def dataset_tiers(plan: PlanWritten, dataset: DatasetWritten) -> dict[str, Tier]:
    """Returns a dataset's tiers with all defaults; empty where there is no policy or no tier."""
    policy = policy_of(plan, dataset)
    tiers = [] if policy is None else policy_tiers(policy, dataset.override)
    return settle_tiers(tiers, plan.stores) if tiers else {}


def dataset_keys(dataset: DatasetWritten) -> list[str]:
    """Returns the asset keys that one entry of ``datasets`` stands for."""
    if dataset.asset is not None:
        return [dataset.asset]
    return list(dataset.assets or [])


def default_rpo(tier: Tier, holds: str) -> timedelta:
    """Returns how old a tier's newest snapshot may be where the plan does not say.

    The cadence, a day more where the day must close first, and room for the run itself.
    """
    waits = timedelta(days=1 if holds == "slice" or not tier.reads_source else 0)
    return interval(tier.every) + waits + RPO_SLACK[tier.every]


def resolve_plan(
    plan: PlanWritten, document: Mapping[str, Any], *, file: str | None = None
) -> Plan:
    """Builds the plan that counts.

    Args:
        plan: A plan that broke no rule.
        document: What it was read from, to be read again elsewhere.
        file: The file's name.
    """
    assert plan.start is not None
    datasets: dict[str, Dataset] = {}
    for written in plan.datasets:
        for key in dataset_keys(written):
            datasets[key] = _dataset(plan, written, key)
    scratch = plan.scratch
    return Plan(
        document=document,
        start=plan.start,
        timezone=plan.timezone,
        deployment=plan.deployment,
        automation=plan.automation,
        encryption=plan.encryption,
        stores={name: _store(name, store) for name, store in plan.stores.items()},
        keys=_keys(plan),
        datasets=datasets,
        scratch=None if scratch is None else ScratchSpec(scratch.url, scratch.max),
        alerts=_alerts(plan.alerts),
        accept_history_change=tuple(plan.accept_history_change),
        file=file,
        sets={name: _set(name, written) for name, written in plan.sets.items()},
    )


def _set(name: str, written: SetWritten) -> ConsistentSet:
    return ConsistentSet(
        name=name,
        members=tuple(written.members),
        retries=written.retries,
        wait=written.wait,
        freeze=written.freeze or (),
        thaw=written.thaw or (),
        hook_timeout=written.hook_timeout,
    )


def _store(name: str, written: StoreWritten) -> StoreSpec:
    settings = {
        key: value
        for key in type(written).model_fields
        if key not in _NO_SETTINGS and (value := getattr(written, key)) is not None
    }
    prices = None if written.prices is None else _prices(written.prices)
    return StoreSpec(
        name, written.url, settings, _lock(written.lock), prices, written.media, written.site
    )


def _prices(written: PricesWritten) -> StoragePrices:
    """Those that are named, or none at all, with what the plan says otherwise."""
    base = StoragePrices("the plan's own", "the plan", date.today())
    base = base if written.like is None else PRICES[str(written.like)]
    renamed = {"least_object": "least_object_bytes", "object_overhead": "object_overhead_bytes"}
    said = {
        renamed.get(key, key): value
        for key in type(written).model_fields
        if key != "like" and (value := getattr(written, key)) is not None
    }
    return replace(base, **said) if said else base


def _alerts(written: AlertsWritten | None) -> Alerts | None:
    if written is None or not written.enabled:
        return None
    return Alerts(tuple(written.to), tuple(written.about or ALERT_KINDS), written.at_risk)


def _keys(plan: PlanWritten) -> dict[str, KeySpec]:
    keys: dict[str, KeySpec] = {}
    for name, written in plan.keys.items():
        if written.passphrase is not None:
            keys[name] = KeySpec(name, "passphrase", written.passphrase)
        elif written.key_file is not None:
            keys[name] = KeySpec(name, "key_file", written.key_file)
    if not keys and plan.encryption != "none":
        keys["main"] = KeySpec("main", "passphrase", Reference(env=DEFAULT_KEY_VARIABLE))
    return keys


def _source(written: DatasetWritten, key: str) -> SourceSpec:
    assert written.source is not None
    kind, options = next(iter(written.source.items()))
    filled = _fill(options, key)
    if find_kind(kind) is None:
        return SourceSpec(kind, filled, installed=False, written_kind=kind)
    reader = kind
    if kind == "day_paths":
        reader = "files" if "path" in filled else url_kind(filled["url"])
    if written.exclude:
        filled["exclude"] = list(written.exclude)
    if kind == "asset":
        filled.setdefault("key", key)
    by_day = kind == "day_paths" or has_day(str(filled.get("url", "")))
    return SourceSpec(reader, filled, by_day=by_day, written_kind=kind)


def _fill(value: Any, asset: str) -> Any:
    if isinstance(value, str):
        return fill_asset(value, asset)
    if is_mapping(value):
        return {key: _fill(item, asset) for key, item in value.items()}
    if is_list(value):
        return [_fill(item, asset) for item in value]
    return value


def _dataset(plan: PlanWritten, written: DatasetWritten, key: str) -> Dataset:
    policy = policy_of(plan, written)
    assert policy is not None
    override = written.override or OverrideWritten()
    tiers = dataset_tiers(plan, written)
    keep_slices = written.keep_slices
    expire, prune = override.expire or policy.expire, override.prune or policy.prune
    backfill = override.backfill or policy.backfill
    return Dataset(
        key=key,
        source=_source(written, key),
        tiers=tiers,
        rpo=_rpo(policy, override, tiers, written.holds),
        policy=written.policy or DEFAULT_POLICY,
        holds=written.holds,
        late=written.late or override.late or policy.late or plan.late or "refuse",
        rto=override.rto or policy.rto,
        drill=_drill(policy, override),
        completeness=_completeness(policy, override),
        on_change=_on_change(policy, override, next(iter(tiers.values())), written.holds),
        anomaly=_anomaly(policy, override),
        backfill=backfill.every if backfill is not None and backfill.enabled else None,
        expire=expire.every if expire is not None and expire.enabled else None,
        prune=prune.every if prune is not None and prune.enabled else None,
        legal_hold=written.legal_hold,
        run=_run(policy, override),
        keep_slices=keep_slices if isinstance(keep_slices, timedelta) else None,
        slices_checked=timedelta(days=7)
        if written.slices_checked is None
        else written.slices_checked,
        group=written.group,
        solid=written.solid,
    )


def _rpo(
    policy: PolicyWritten, override: OverrideWritten, tiers: Mapping[str, Tier], holds: str
) -> dict[str, timedelta]:
    given: dict[str, timedelta] = {}
    first = next(iter(tiers))
    for rpo in (policy.rpo, override.rpo):
        for name, duration in (rpo or {}).items():
            given[first if name == FIRST_TIER else name] = duration
    return {name: given.get(name) or default_rpo(tier, holds) for name, tier in tiers.items()}


def _drill(policy: PolicyWritten, override: OverrideWritten) -> Drill | None:
    fields: dict[str, Any] = {}
    for written in (policy.drill, override.drill):
        if written is not None:
            fields.update({name: getattr(written, name) for name in written.model_fields_set})
            fields["enabled"] = written.enabled  # who says when or what wants it to be done
    if not fields.pop("enabled", True):
        return None
    tests = tuple(test.resolved() for test in fields.pop("tests", ()))
    return Drill(**fields, tests=tests)


def _completeness(policy: PolicyWritten, override: OverrideWritten) -> Completeness | None:
    fields: dict[str, Any] = {"enabled": False}
    for written in (policy.completeness, override.completeness):
        if written is not None:
            fields.update({name: getattr(written, name) for name in written.model_fields_set})
            fields["enabled"] = written.enabled
    if not fields.pop("enabled"):
        return None
    paths = tuple(fields.pop("paths", ()))
    return Completeness(**fields, paths=paths)


def _on_change(
    policy: PolicyWritten, override: OverrideWritten, first: Tier, holds: str
) -> OnChange | None:
    # A slice is taken after its day closed, and a slower tier has no partition for today.
    if holds == "slice" or first.every not in ("hour", "day"):
        return None
    written = override.on_change or policy.on_change
    if written is None:
        return OnChange()
    return OnChange(written.at_most_every) if written.enabled else None


def _anomaly(policy: PolicyWritten, override: OverrideWritten) -> Anomaly | None:
    fields: dict[str, Any] = {}
    for written in (policy.anomaly, override.anomaly):
        if written is not None:
            fields.update(written.model_dump(include=written.model_fields_set))
            fields["enabled"] = written.enabled  # who gives a limit wants it to be judged by
    return Anomaly(**fields) if fields.pop("enabled", True) else None


def _run(policy: PolicyWritten, override: OverrideWritten) -> RunRules:
    fields: dict[str, Any] = {}
    for written in (policy.run, override.run):
        if written is not None:
            fields.update(written.model_dump(include=written.model_fields_set))
    return RunRules(**fields)

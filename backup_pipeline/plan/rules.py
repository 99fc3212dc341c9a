"""What must hold in a plan beyond the form of its values: nothing dangles, all is possible."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from pydantic_core import PydanticCustomError

from backup_pipeline.plan.cadence import interval
from backup_pipeline.plan.checking import Checked
from backup_pipeline.plan.content import is_list, is_mapping
from backup_pipeline.plan.datasetrules import check_dataset, check_duplicates
from backup_pipeline.plan.model import Tier
from backup_pipeline.plan.presets import PRESETS
from backup_pipeline.plan.problems import Findings, Path, one_of
from backup_pipeline.plan.resolve import (
    DEFAULT_POLICY,
    dataset_keys,
    policy_of,
    policy_tiers,
    settle_tiers,
)
from backup_pipeline.plan.schema import (
    FIRST_TIER,
    DatasetWritten,
    PlanWritten,
    PolicyFields,
    PolicyWritten,
    check_long_name,
    check_tags,
)
from backup_pipeline.plan.setrules import check_sets
from backup_pipeline.plan.tierrules import TierGroup, check_tiers
from backup_pipeline.plan.values import check_name, show_duration

__all__ = ["check_rules"]


@dataclass(frozen=True, slots=True)
class _Rules:
    checked: Checked
    content: Mapping[str, Any]
    findings: Findings

    @property
    def plan(self) -> PlanWritten:
        return self.checked.plan

    def names(self, key: str) -> list[str]:
        """Names that were written below a key, those of refused parts included."""
        written = self.content.get(key)
        return list(written) if is_mapping(written) else []

    def tier_names(self, policy: str) -> list[str]:
        """Names of a policy's tiers as written, those of refused tiers included."""
        written = self.content.get("policies")
        source = written.get(policy) if is_mapping(written) else None
        if source is None:
            source = PRESETS.get(policy)
        tiers = source.get("tiers") if is_mapping(source) else None
        listed = tiers if is_list(tiers) else []
        names = [tier.get("name") for tier in listed if is_mapping(tier)]
        return [name for name in names if isinstance(name, str)]


def check_rules(checked: Checked, content: Mapping[str, Any], findings: Findings) -> None:
    """Reports every rule that a plan breaks.

    Args:
        checked: The usable parts of the plan.
        content: All of it, as written.
        findings: Takes the mistakes; knows what was refused already.
    """
    rules = _Rules(checked, content, findings)
    _check_presence(rules)
    _check_names(rules)
    _check_places(rules)
    for name, policy in checked.plan.policies.items():
        _check_policy(rules, name, policy)
    found: list[tuple[str, Path]] = []
    for index, dataset in enumerate(checked.plan.datasets):
        path = checked.path("datasets", index)
        _check_dataset(rules, dataset, path)
        for place, key in enumerate(dataset_keys(dataset)):
            tail = ("asset",) if dataset.asset is not None else ("assets", place)
            found.append((key, (*path, *tail)))
    check_duplicates(found, findings)
    check_sets(checked, dict(found), findings)
    _check_accepted(rules)


def _check_presence(rules: _Rules) -> None:
    for key, example in (
        ("start", "write start: 2026-11-22, the first day that has a backup"),
        ("stores", "write stores: {local: file:///srv/backups}"),
        ("datasets", "write datasets: [{asset: vision/train_images, source: /data/images}]"),
    ):
        written = rules.content.get(key)
        if written is None or written in ({}, []):
            message = f"'{key}' is missing" if written is None else "nothing is named here"
            rules.findings.report((key,), message, example)


def _check_names(rules: _Rules) -> None:
    checks: dict[str, Callable[[Any], str]] = {
        "stores": check_name,
        "keys": check_name,
        "policies": check_long_name,
        "sets": check_long_name,
    }
    for key, check in checks.items():
        for name in rules.names(key):
            try:
                check(name)
            except PydanticCustomError as error:
                context = error.context or {}
                rules.findings.report((key, name), context["message"], context.get("suggestion"))


def _check_places(rules: _Rules) -> None:
    for name, store in rules.plan.stores.items():
        if store.lock is None or not isinstance(store.url, str) or store.url.startswith("s3://"):
            continue
        rules.findings.report(
            ("stores", name, "lock"),
            "only an object store refuses deletion",
            "remove it; in an environment, write lock: null",
        )
    scratch = rules.plan.scratch
    if scratch is not None and isinstance(scratch.url, str):
        plain = "://" not in scratch.url
        if not plain and not scratch.url.startswith("file:///"):
            message = "scratch is a directory on this machine"
            rules.findings.report(("scratch", "url"), message, "write file:///srv/restore")
    alerts = rules.content.get("alerts")
    if (is_mapping(alerts) and alerts.get("enabled") is not False and not alerts.get("to")) or (
        alerts is True
    ):
        message = "alerts name nobody to tell"
        rules.findings.report(("alerts",), message, "write to: [{env: BACKUP_ALERT_URL}]")


def _check_policy(rules: _Rules, name: str, policy: PolicyWritten) -> None:
    path: Path = ("policies", name)
    indexes: dict[str, int] = {}
    for index, tier in enumerate(policy.tiers):
        place = rules.checked.path(*path, "tiers", index)
        if tier.name == "source":
            message = "'source' is what first tiers read and cannot name a tier"
            rules.findings.report((*place, "name"), message, "choose another name")
        if tier.name in indexes:
            message = f"there are two tiers '{tier.name}'"
            rules.findings.report((*place, "name"), message, "choose another name")
        indexes.setdefault(tier.name, index)
    if len(indexes) < len(policy.tiers):
        return
    tiers = settle_tiers(policy.tiers, rules.plan.stores)
    group = TierGroup(
        written=policy.tiers,
        tiers=tiers,
        place=lambda tier, key: _policy_place(rules, name, indexes[tier], key),
        left_out=frozenset(),
        known=rules.tier_names(name),
        stores=rules.plan.stores,
        store_names=rules.names("stores"),
    )
    check_tiers(group, rules.findings)
    _check_fields(rules, policy, tiers, group.known, path)


def _policy_place(rules: _Rules, name: str, index: int, key: str | None) -> Path:
    path = rules.checked.path("policies", name, "tiers", index)
    return path if key is None else (*path, key)


def _check_fields(
    rules: _Rules,
    fields: PolicyFields,
    tiers: Mapping[str, Tier],
    known: list[str] | Any,
    path: Path,
) -> None:
    """Checks what a policy, or an override, says besides its tiers."""
    first = next(iter(tiers.values()))
    for name, duration in (fields.rpo or {}).items():
        tier = first if name == FIRST_TIER else tiers.get(name)
        place = (*path, "rpo") if name == FIRST_TIER else (*path, "rpo", name)
        if tier is not None:
            _check_rpo(rules, tier, duration, place)
        elif name not in known:
            message = f"there is no tier '{name}'"
            rules.findings.report(place, message, one_of(name, tiers))
    on_change = fields.on_change
    if on_change is not None and on_change.enabled and first.every not in ("hour", "day"):
        rules.findings.report(
            (*path, "on_change"),
            f"the first tier '{first.name}' runs every {first.every}, so most days have no place"
            " for a change",
            "make the first tier every: day, or on_change: false",
            needs=[path],
        )
    bad_tag = check_tags(fields.run.tags) if fields.run is not None else None
    if bad_tag is not None:
        tag, message = bad_tag
        rules.findings.report((*path, "run", "tags", tag), message)


def _check_rpo(rules: _Rules, tier: Tier, duration: timedelta, place: Path) -> None:
    least = interval(tier.every)
    if duration >= least:
        return
    message = (
        f"{show_duration(duration)} cannot be held by tier '{tier.name}', which runs every"
        f" {tier.every}"
    )
    suggestion = f"allow more than {show_duration(least)}, or run it more often"
    rules.findings.report(place, message, suggestion)


def _check_dataset(rules: _Rules, dataset: DatasetWritten, path: Path) -> None:
    name = dataset.policy or DEFAULT_POLICY
    policy = policy_of(rules.plan, dataset)
    tiers: dict[str, Tier] = {}
    if policy is None:
        _check_policy_name(rules, dataset, path)
    elif len({tier.name for tier in policy.tiers}) == len(policy.tiers):
        tiers = _check_dataset_tiers(rules, dataset, policy, name, path)
    check_dataset(rules.plan, dataset, tiers, path, rules.findings)


def _check_policy_name(rules: _Rules, dataset: DatasetWritten, path: Path) -> None:
    name = dataset.policy or DEFAULT_POLICY
    if name in rules.names("policies"):
        return
    if name != DEFAULT_POLICY:
        known = [*rules.names("policies"), *PRESETS]
        message = f"there is no policy '{name}'"
        rules.findings.report((*path, "policy"), message, one_of(name, known))
    elif len(rules.names("stores")) > 1:
        rules.findings.report(
            (*path, "policy"),
            "with several stores the plan must say what goes where: no policy is named here, and"
            " policies.default is missing",
            f"define one, or write policy: with a preset ({', '.join(PRESETS)})",
            needs=[("policies",)],
        )


def _check_dataset_tiers(
    rules: _Rules, dataset: DatasetWritten, policy: PolicyWritten, name: str, path: Path
) -> dict[str, Tier]:
    override = dataset.override
    changes = override.tiers if override is not None else {}
    over: Path = (*path, "override")
    known = rules.tier_names(name) or [tier.name for tier in policy.tiers]
    for changed in changes:
        if changed not in known:
            message = f"policy '{name}' has no tier '{changed}'"
            rules.findings.report((*over, "tiers", changed), message, one_of(changed, known))
    written = policy_tiers(policy, override)
    if not written:
        message = "every tier is left out, so nothing would be backed up"
        rules.findings.report((*over, "tiers"), message, "keep one of them")
        return {}
    tiers = settle_tiers(written, rules.plan.stores)
    indexes = {tier.name: index for index, tier in enumerate(policy.tiers)}

    def place(tier: str, key: str | None) -> Path:
        change = changes.get(tier)
        if change is not None and (key is None or _says(change.model_fields_set, key)):
            return (*over, "tiers", tier) if key is None else (*over, "tiers", tier, key)
        if name in rules.plan.policies:
            return _policy_place(rules, name, indexes[tier], key)
        return (*path, "policy") if dataset.policy is not None else path

    group = TierGroup(
        written=written,
        tiers=tiers,
        place=place,
        left_out=frozenset(tier for tier, change in changes.items() if not change.enabled),
        known=known,
        stores=rules.plan.stores,
        store_names=rules.names("stores"),
        holds_slices=dataset.holds == "slice",
    )
    check_tiers(group, rules.findings)
    if override is not None:
        _check_fields(rules, override, tiers, known, over)
    _check_inherited(rules, policy, dataset, tiers, path)
    return tiers


def _says(fields: set[str], key: str) -> bool:
    return ("from_" if key == "from" else key) in fields


def _check_inherited(
    rules: _Rules,
    policy: PolicyWritten,
    dataset: DatasetWritten,
    tiers: Mapping[str, Tier],
    path: Path,
) -> None:
    """Checks that the policy's rpo can be held by tiers that the override made slower."""
    override = dataset.override
    if override is None or policy.rpo is None:
        return
    first = next(iter(tiers))
    for name, duration in policy.rpo.items():
        tier = tiers.get(first if name == FIRST_TIER else name)
        replaced = override.rpo is not None and name in override.rpo
        change = override.tiers.get(tier.name) if tier is not None else None
        if tier is not None and change is not None and change.every is not None and not replaced:
            _check_rpo(rules, tier, duration, (*path, "override", "tiers", tier.name, "every"))


def _check_accepted(rules: _Rules) -> None:
    tiers = [name for policy in rules.names("policies") for name in rules.tier_names(policy)]
    keys = [key for dataset in rules.plan.datasets for key in dataset_keys(dataset)]
    presets = [name for preset in PRESETS for name in rules.tier_names(preset)]
    known = ["start", "timezone", "holds", *tiers, *rules.names("stores"), *presets, *keys]
    for index, name in enumerate(rules.plan.accept_history_change):
        if name not in known:
            message = f"there is no change '{name}' to accept"
            path = rules.checked.path("accept_history_change", index)
            choices = list(dict.fromkeys(["start", "timezone", "holds", *tiers, *keys]))[:12]
            rules.findings.report(path, message, one_of(name, choices))

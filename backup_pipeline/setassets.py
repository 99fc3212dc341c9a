"""Consistent sets in Dagster: one step captures all members; ``consistent`` says whether it did."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import dagster as dg

from backup_pipeline.anomalies import upstream_news
from backup_pipeline.assets import (
    BackupConfig,
    expected_of,
    latest_storage_id,
    materialized,
    retry_policy,
    sentence_of,
)
from backup_pipeline.checks import CONSISTENT, Verdict, check_spec, complete_spec
from backup_pipeline.engine.errors import BackupError
from backup_pipeline.metadata import FORCE_TAG, key
from backup_pipeline.resources import Wiring, failure
from backup_pipeline.restore_job import RestorableDays
from backup_pipeline.translator import TierAsset

__all__ = ["build_set_assets", "build_set_checks", "consistent_verdict"]


def build_set_assets(assets: Sequence[TierAsset], wiring: Wiring) -> list[dg.AssetsDefinition]:
    """One step for the first tier of each set: its members are materialized together or not at all.

    Args:
        assets: All of the plan's.
        wiring: The plan and its names.
    """
    sets: dict[str, list[TierAsset]] = {}
    for asset in assets:
        if asset.together is not None:
            sets.setdefault(asset.together, []).append(asset)
    return [_set_asset(name, members, wiring) for name, members in sets.items()]


def _set_asset(name: str, members: Sequence[TierAsset], wiring: Wiring) -> dg.AssetsDefinition:
    tags = {tag: value for one in members for tag, value in one.dataset.run.tags.items()}
    eager = max(members, key=lambda one: one.dataset.run.retries)

    label = "".join(letter if letter.isalnum() else "_" for letter in name)
    if label != name:
        label = f"{label}_{members[0].repository[:8]}"  # a-b and a_b are two sets

    @dg.multi_asset(
        name=f"{wiring.name}__set__{label}",
        specs=[asset.spec for asset in members],
        check_specs=[
            spec for asset in members for spec in (complete_spec(asset), consistent_spec(asset))
        ],
        required_resource_keys={wiring.resource},
        pool=members[0].pool,
        op_tags=tags,
        retry_policy=retry_policy(eager),
        can_subset=False,
    )
    def capture(
        context: dg.AssetExecutionContext, config: BackupConfig
    ) -> Iterator[dg.MaterializeResult]:
        # Taken before a source is read: what is materialized while we read counts as news.
        upstream = {
            one.dataset.key: latest_storage_id(context.instance, one.dataset_asset)
            for one in members
        }
        try:
            answer = wiring.resource_of(context).run(
                "backup_set",
                {
                    "name": name,
                    "day": context.partition_key,
                    "kind": config.kind,
                    "force": config.force or context.run.tags.get(FORCE_TAG) == "true",
                    "explained": config.explained,
                    "upstream": {
                        one.dataset.key: news
                        for one in members
                        if (news := upstream_news(context.instance, one, upstream[one.dataset.key]))
                    },
                },
                now=wiring.now,
                log=context.log.info,
            )
        except BackupError as error:
            raise failure(error) from None
        for line in answer["notices"]:
            context.log.warning(line)
        for asset in members:
            made = answer["members"].get(asset.dataset.key)
            if made is None:
                continue
            context.log.info(sentence_of(asset, made))
            if made["snapshot"]["status"] == "complete":
                RestorableDays([made["snapshot"]["day"]]).offer(context, wiring)
            passed, sentence, said = consistent_verdict(asset.dataset.key, answer)
            check = dg.AssetCheckResult(
                check_name=CONSISTENT,
                asset_key=asset.asset_key,
                passed=passed,
                description=sentence,
                metadata=said,
            )
            seen = upstream[asset.dataset.key]
            expected = expected_of(context, asset, wiring, made)
            yield materialized(context, asset, made, seen, [check], expected)
        _require_good(name, answer)

    return capture


def consistent_spec(asset: TierAsset) -> dg.AssetCheckSpec:
    """The check that a member's snapshot of a day is part of a whole cut of its set."""
    assert asset.consistent_set is not None
    names = ", ".join(asset.consistent_set.members)
    return check_spec(
        asset,
        CONSISTENT,
        f"Is the day's snapshot part of a whole cut of set `{asset.consistent_set.name}`: proved to"
        f" be of one moment, and every member there ({names})?",
        partitioned=True,
        blocking=asset.first,
    )


def consistent_verdict(dataset: str, answer: Mapping[str, Any]) -> Verdict:
    """Whether a capture of a set made a whole cut with this member in it."""
    cut = answer.get("cut")
    said: dict[str, Any] = {key("set"): answer["set"], key("day"): answer["day"]}
    if cut is None or dataset not in cut["snapshots"]:
        return False, str(answer["reason"]), said
    return True, f"{_of(cut)}: {answer['reason']}", said | _said(cut)


def _of(cut: Mapping[str, Any]) -> str:
    return f"cut {cut['cut'][:12]} of {', '.join(cut['members'])}"


def _said(cut: Mapping[str, Any]) -> dict[str, Any]:
    return {key("cut"): cut["cut"], key("cut_proof"): cut["proof"]}


def _require_good(name: str, answer: Mapping[str, Any]) -> None:
    """Fail the run, with what was made already told, where there is no cut or no thaw."""
    errors = {member: f"{member}: {one['message']}" for member, one in answer["errors"].items()}
    problems = [*errors.values()]
    if answer["cut"] is None:
        problems.insert(0, f"set {name} of {answer['day']}: {answer['reason']}")
    if answer["thaw_error"]:
        problems.insert(0, str(answer["thaw_error"]))
    if problems:
        # What is frozen still would be frozen again.
        allow = not answer["thaw_error"]
        raise dg.Failure("\n".join(problems), allow_retries=allow)


# -- later tiers


def build_set_checks(assets: Sequence[TierAsset], wiring: Wiring) -> list[dg.AssetChecksDefinition]:
    """``consistent`` of the tiers that copy: members come one by one, so it is asked apart."""
    groups: dict[tuple[str, str], list[TierAsset]] = {}
    for asset in assets:
        if asset.consistent_set is not None and not asset.first:
            groups.setdefault((asset.tier.name, repr(asset.partitions)), []).append(asset)
    return [
        _set_check(f"{CONSISTENT}_{tier}_{number}", members, wiring)
        for number, ((tier, _), members) in enumerate(groups.items(), 1)
    ]


def _set_check(name: str, assets: Sequence[TierAsset], wiring: Wiring) -> dg.AssetChecksDefinition:
    by_key = {asset.asset_key: asset for asset in assets}

    @dg.multi_asset_check(
        name=wiring.named(name),
        specs=[consistent_spec(asset) for asset in assets],
        required_resource_keys={wiring.resource},
        can_subset=True,
    )
    def consistent(context: dg.AssetCheckExecutionContext) -> Iterator[dg.AssetCheckResult]:
        if not context.has_partition_key:
            raise dg.Failure(
                "this check is about one day, and none was chosen\nHINT: choose a partition",
                allow_retries=False,
            )
        day = context.partition_key
        found: dict[str, list[Any]] = {}
        for check in context.selected_asset_check_keys:
            asset = by_key[check.asset_key]
            assert asset.consistent_set is not None
            of = asset.consistent_set.name
            if of not in found:
                try:
                    cuts = wiring.resource_of(context).run(
                        "cuts",
                        {"name": of, "tier": asset.tier.name, "day": day},
                        now=wiring.now,
                        log=context.log.info,
                    )
                except BackupError as error:
                    raise failure(error) from None
                found[of] = cuts
            passed, sentence, said = copied_verdict(of, day, found[of])
            yield dg.AssetCheckResult(
                check_name=CONSISTENT,
                asset_key=asset.asset_key,
                passed=passed,
                description=sentence,
                metadata=said,
            )

    return consistent


def copied_verdict(name: str, day: str, cuts: Sequence[Mapping[str, Any]]) -> Verdict:
    """Whether a copying tier has a whole cut of a day."""
    said: dict[str, Any] = {key("set"): name, key("day"): day}
    whole = [one for one in cuts if one["whole"]]
    if whole:
        return True, f"every member of {_of(whole[-1])} is there", said | _said(whole[-1])
    if not cuts:
        return False, f"no member of a cut of set {name} is there", said
    nearest = min(cuts, key=lambda one: len(one["missing"]))
    missing = ", ".join(nearest["missing"])
    return False, f"{missing} of {_of(nearest)} is missing", said | _said(nearest)

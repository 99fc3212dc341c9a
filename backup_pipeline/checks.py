"""Asset checks: complete, matches, restores, fresh, and the hours that an hourly tier covers."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from math import ceil
from typing import Any

import dagster as dg
from pydantic import Field

from backup_pipeline.drillchecks import (
    MAKES_SENSE,
    RESTORES,
    Verdict,
    check_spec,
    drill_verdicts,
    sense_specs,
)
from backup_pipeline.engine.errors import BackupError, DamageError
from backup_pipeline.engine.progress import human_bytes, human_seconds
from backup_pipeline.metadata import key
from backup_pipeline.plan.cadence import window
from backup_pipeline.resources import Wiring, failure
from backup_pipeline.translator import TierAsset

__all__ = [
    "COMPLETE",
    "CONSISTENT",
    "FRESH",
    "HOURS_COVERED",
    "MAKES_SENSE",
    "MATCHES",
    "RESTORES",
    "MatchesConfig",
    "RestoresConfig",
    "build_checks",
    "complete_spec",
    "covers_hours",
    "drill_verdicts",
    "hours_verdict",
]

COMPLETE = "complete"
CONSISTENT = "consistent"
MATCHES = "matches"
FRESH = "fresh"
HOURS_COVERED = "hours_covered"

HOURS_NEEDED = 0.9
"""Share of a day's hours that need a good snapshot: of 24, two may fail."""

SHOWN_DAMAGE = 100


class MatchesConfig(dg.Config):
    """What a run of ``matches`` may be told in the Launchpad."""

    read_data: str = Field(default="all", description="all, or the share of the packs, such as 5%.")


class RestoresConfig(dg.Config):
    """What a run of ``restores`` may be told in the Launchpad."""

    sample: str = Field(
        default="", description="Share of the files to restore, such as 5%; as the policy says."
    )


def covers_hours(asset: TierAsset) -> bool:
    """Whether a day of this tier should have a snapshot for each of its hours."""
    return asset.tier.every == "hour" and asset.today


def complete_spec(asset: TierAsset) -> dg.AssetCheckSpec:
    """The check that every backup run evaluates, and that holds back what depends on it."""
    return check_spec(
        asset,
        COMPLETE,
        "Was everything that the source listed read? I = good entries / all entries.",
        partitioned=True,
        blocking=True,
    )


def build_checks(assets: Sequence[TierAsset], wiring: Wiring) -> list[dg.AssetChecksDefinition]:
    """All checks but ``complete``, which belongs to the backup's own run."""
    checks = [build(asset, wiring) for asset in assets for build in (_matches, _restores)]
    checks.append(_fresh(assets, wiring))
    hourly = [asset for asset in assets if covers_hours(asset)]
    if hourly:
        checks.append(_hours_covered(hourly, wiring))
    return checks


# -- one day of one tier


def _matches(asset: TierAsset, wiring: Wiring) -> dg.AssetChecksDefinition:
    spec = check_spec(
        asset, MATCHES, "Are the stored bytes still what was written?", partitioned=True
    )

    @dg.multi_asset_check(
        name=f"{asset.label}__{MATCHES}",
        specs=[spec],
        required_resource_keys={wiring.resource},
        pool=asset.pool,
    )
    def matches(
        context: dg.AssetCheckExecutionContext, config: MatchesConfig
    ) -> Iterator[dg.AssetCheckResult]:
        arguments = _ofday_of(context, asset) | {"read_data": config.read_data}
        verdict = _judge(context, wiring, "verify", arguments, verify_verdict)
        yield _result(asset, MATCHES, *verdict)

    return matches


def _restores(asset: TierAsset, wiring: Wiring) -> dg.AssetChecksDefinition:
    """One drill answers both: does it restore, and does what was restored make sense?"""
    spec = check_spec(
        asset,
        RESTORES,
        "Does a sample, really restored to scratch, equal the manifest, and soon enough?",
        partitioned=True,
    )

    @dg.multi_asset_check(
        name=f"{asset.label}__{RESTORES}",
        specs=[spec, *sense_specs(asset)],
        required_resource_keys={wiring.resource},
        pool=asset.pool,
        can_subset=True,
    )
    def restores(
        context: dg.AssetCheckExecutionContext, config: RestoresConfig
    ) -> Iterator[dg.AssetCheckResult]:
        wanted = {check.name for check in context.selected_asset_check_keys}
        tests = MAKES_SENSE in wanted
        arguments = _ofday_of(context, asset) | {"sample": config.sample or None, "tests": tests}
        day = {key("day"): arguments["day"]}
        try:
            found = drill_verdicts(asset, lambda: _run(context, wiring, "drill", arguments))
            for name, (passed, sentence, said) in found:
                if name in wanted:
                    yield _result(asset, name, passed, sentence, said | day)
        except BackupError as error:
            raise failure(error) from None

    return restores


def _ofday_of(context: dg.AssetCheckExecutionContext, asset: TierAsset) -> dict[str, Any]:
    """What to look at: the partition's day."""
    return {
        "dataset": asset.dataset.key,
        "tier": asset.tier.name,
        "day": day_of(context).isoformat(),
    }


def day_of(context: dg.AssetCheckExecutionContext) -> date:
    """The day that a check is about: its partition; fails where none was chosen."""
    if context.has_partition_key:
        return date.fromisoformat(context.partition_key)
    raise dg.Failure(
        "this check is about one day, and none was chosen\nHINT: choose a partition; a job gives"
        " its run the tag dagster/partition",
        allow_retries=False,
    )


def _run(
    context: dg.AssetCheckExecutionContext,
    wiring: Wiring,
    verb: str,
    arguments: Mapping[str, Any],
) -> Any:
    backups = wiring.resource_of(context)
    return backups.run(verb, arguments, now=wiring.now, log=context.log.info)


def _judge(
    context: dg.AssetCheckExecutionContext,
    wiring: Wiring,
    verb: str,
    arguments: Mapping[str, Any],
    verdict: Callable[[Mapping[str, Any]], Verdict],
) -> Verdict:
    """Run a verb and judge its report; damage that ended it early is an answer too: no."""
    day = {key("day"): arguments["day"]}
    try:
        passed, sentence, said = verdict(_run(context, wiring, verb, arguments))
    except DamageError as error:
        return False, str(error), {key("error"): error.message} | day
    except BackupError as error:
        raise failure(error) from None
    return passed, sentence, said | day


def _result(
    asset: TierAsset, name: str, passed: bool, sentence: str, said: Mapping[str, Any]
) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        asset_key=asset.asset_key,
        check_name=name,
        passed=passed,
        description=sentence,
        metadata=dict(said),
    )


def verify_verdict(report: Mapping[str, Any]) -> Verdict:
    """What a verify report comes to: passed, one sentence, metadata."""
    coverage = float(report["coverage"])
    said: dict[str, Any] = {
        key("coverage"): coverage,
        key("integrity"): float(report["integrity"]),
        key("packs_checked"): int(report["packs_checked"]),
        key("packs_total"): int(report["packs_total"]),
        key("bytes_checked"): int(report["bytes_checked"]),
        key("bytes_total"): int(report["bytes_total"]),
        key("duration_s"): float(report["duration_s"]),
    }
    damage = report.get("damage") or []
    if damage:
        said[key("damage")] = _damage_table(damage)
    read = f"{coverage:.0%} of {human_bytes(report['bytes_total'])} read back"
    if report["ok"]:
        return True, f"{read}; every byte is what was written", said
    names = ", ".join(str(one.get("name")) for one in damage[:3])
    return False, f"{read}; {len(damage)} damaged: {names}", said


def _damage_table(damage: Sequence[Mapping[str, Any]]) -> dg.TableMetadataValue:
    columns = [dg.TableColumn(name, "string") for name in ("name", "what", "snapshots")]
    records = [
        dg.TableRecord(
            {
                "name": str(one.get("name")),
                "what": str(one.get("what")),
                "snapshots": ", ".join(str(s)[:12] for s in one.get("snapshots") or ()),
            }
        )
        for one in damage[:SHOWN_DAMAGE]
    ]
    return dg.MetadataValue.table(records, dg.TableSchema(columns))


# -- the tier as a whole


def _fresh(assets: Sequence[TierAsset], wiring: Wiring) -> dg.AssetChecksDefinition:
    """One op for all tiers, so that the clock that asks it costs one short run."""
    by_key = {asset.asset_key: asset for asset in assets}
    description = "Is the newest good snapshot, by the time its source was read, within the RPO?"

    @dg.multi_asset_check(
        name=wiring.named(f"{FRESH}_check"),
        specs=[check_spec(asset, FRESH, description, partitioned=False) for asset in assets],
        required_resource_keys={wiring.resource},
        can_subset=True,
    )
    def fresh(context: dg.AssetCheckExecutionContext) -> Iterator[dg.AssetCheckResult]:
        wanted = {check.asset_key for check in context.selected_asset_check_keys}
        chosen = [asset for asset_key, asset in by_key.items() if asset_key in wanted]
        only = {asset.dataset.key for asset in chosen}
        arguments = {"dataset": only.pop()} if len(only) == 1 else {}
        sets: dict[tuple[str, str], Any] = {}
        try:
            standings = _run(context, wiring, "status", arguments)
            if any(asset.consistent_set for asset in chosen):
                found_sets = _run(context, wiring, "set_status", {})
                sets = {(one["set"], one["tier"]): one for one in found_sets}
        except BackupError as error:
            raise failure(error) from None
        found = {(one["dataset"], one["tier"]): one for one in standings}
        for asset in chosen:
            verdict = fresh_verdict(found[asset.dataset.key, asset.tier.name])
            if asset.consistent_set is not None:
                standing = sets[asset.consistent_set.name, asset.tier.name]
                verdict = with_set(verdict, standing)
            yield _result(asset, FRESH, *verdict)

    return fresh


def fresh_verdict(standing: Mapping[str, Any]) -> Verdict:
    """Whether a tier's newest good snapshot is young enough."""
    said: dict[str, Any] = {
        key("snapshots"): int(standing["snapshots"]),
        key("missing_day_count"): len(standing["missing_days"]),
        key("late_day_count"): len(standing["late_days"]),
    }
    age_s, rpo_s = standing.get("age_s"), standing.get("rpo_s")
    if age_s is not None:
        said[key("age_s")] = float(age_s)
    if rpo_s is not None:
        said[key("rpo_s")] = float(rpo_s)
    if standing.get("error"):
        return False, f"the store could not be asked: {standing['error']}", said
    newest = standing.get("newest")
    if newest is None:
        first = "no good snapshot yet"
    else:
        moment = datetime.fromisoformat(newest["captured_at"])
        said[key("captured_at")] = dg.MetadataValue.timestamp(moment)
        said[key("snapshot")] = newest["id"]
        first = f"the newest good snapshot was read {human_seconds(age_s or 0.0)} ago"
    limit = "no RPO is set" if rpo_s is None else f"the RPO is {human_seconds(rpo_s)}"
    return bool(standing["fresh"]), f"{first}; {limit}", said


def with_set(verdict: Verdict, standing: Mapping[str, Any]) -> Verdict:
    """A tier's freshness, with that of the set that its dataset is a member of."""
    passed, sentence, said = verdict
    said = said | {
        key("set"): standing["set"],
        key("set_missing_day_count"): len(standing["missing_days"]),
    }
    newest = standing["newest"]
    if standing["error"]:
        news = f"could not be asked: {standing['error']}"
    elif newest is None:
        news = "has no whole cut yet"
    else:
        said[key("cut")] = newest["cut"]
        news = f"has a whole cut, read {human_seconds(standing['age_s'])} ago"
    return passed and bool(standing["fresh"]), f"{sentence}; set {standing['set']} {news}", said


def _hours_covered(assets: Sequence[TierAsset], wiring: Wiring) -> dg.AssetChecksDefinition:
    by_key = {asset.asset_key: asset for asset in assets}
    description = (
        f"Has the day a good snapshot for {HOURS_NEEDED:.0%} of its hours? One good hour does not"
        " make a good day, and one failed hour does not spoil it."
    )

    @dg.multi_asset_check(
        name=wiring.named(f"{HOURS_COVERED}_check"),
        specs=[check_spec(one, HOURS_COVERED, description, partitioned=True) for one in assets],
        required_resource_keys={wiring.resource},
        can_subset=True,
    )
    def hours_covered(context: dg.AssetCheckExecutionContext) -> Iterator[dg.AssetCheckResult]:
        now = wiring.now or datetime.now(UTC)
        zone = wiring.plan.zone
        day = day_of(context)
        begin, end = window(day, zone)
        with wiring.resource_of(context).runner(now=wiring.now) as runner:
            for check in context.selected_asset_check_keys:
                asset = by_key[check.asset_key]
                snapshots = runner.snapshots(asset.dataset.key, asset.tier.name)
                captured = [one.captured_at for one in snapshots if one.status == "complete"]
                verdict = hours_verdict(captured, begin, min(end, now))
                yield _result(asset, HOURS_COVERED, *verdict)

    return hours_covered


def hours_verdict(captured: Sequence[datetime], begin: datetime, end: datetime) -> Verdict:
    """How many of a day's hours have a good snapshot.

    Args:
        captured: When the tier's good snapshots were read; those of other days are left out.
        begin: When the day begins (UTC).
        end: When it ends, or the present time in a day that is not over; only whole hours count.

    Returns:
        Passed, one sentence, metadata.
    """
    hour = timedelta(hours=1)
    first = min(captured, default=begin)
    if begin < first < end:
        # Backups of this dataset began on this day: no hour before that was missed.
        begin += int((first - begin) / hour) * hour
    hours = max(0, int((end - begin) / hour))
    covered = {int((moment - begin) / hour) for moment in captured if begin <= moment < end}
    missing = [number for number in range(hours) if number not in covered]
    count = hours - len(missing)
    said: dict[str, Any] = {
        key("hours_covered"): count,
        key("hours"): hours,
        key("snapshots"): sum(begin <= moment < end for moment in captured),
    }
    if missing:
        said[key("missing_hours")] = dg.MetadataValue.json(
            [(begin + number * hour).strftime("%H:%MZ") for number in missing]
        )
    passed = count >= ceil(HOURS_NEEDED * hours)
    return passed, f"{count} of {hours} hours have a good snapshot", said

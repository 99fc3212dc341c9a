"""The anomaly gate in Dagster: the check ``anomaly``, what upstream explains, and the clear job."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import dagster as dg
from pydantic import Field

from backup_pipeline.checks import Verdict, check_spec, day_of
from backup_pipeline.engine.errors import BackupError
from backup_pipeline.engine.measure import Measure
from backup_pipeline.metadata import UPSTREAM_TAG, key
from backup_pipeline.resources import Wiring, failure
from backup_pipeline.runs import recorder
from backup_pipeline.translator import TierAsset

__all__ = [
    "ANOMALY",
    "ClearConfig",
    "anomaly_verdict",
    "build_anomaly_checks",
    "build_clear_job",
    "record_anomaly",
    "upstream_news",
]

ANOMALY = "anomaly"

LOOKED_BACK = 50
"""How many materializations are looked at for the last that says what upstream was like."""

_SHARES = ("changed", "deleted", "renamed", "shrunk", "incompressible", "misnamed", "blank")


class ClearConfig(dg.Config):
    """Which suspicious snapshot is as it should be, and why."""

    dataset: str = Field(description="The dataset's key, such as vision/train_images.")
    snapshot: str = Field(description="Its id in any tier, or the beginning of it.")
    reason: str = Field(description="Why, for whoever asks later.")
    by: str | None = Field(default=None, description="Who says so; default: this run.")
    undo: bool = Field(default=False, description="Take it back: it is suspicious again.")


def anomaly_verdict(snapshot: Mapping[str, Any], cleared: Mapping[str, Any] | None) -> Verdict:
    """What a snapshot's own record says of it: passed, one sentence, metadata that plots.

    Args:
        snapshot: As JSON.
        cleared: By whom, when and why it was cleared; None where nobody did.
    """
    anomaly = snapshot.get("anomaly") or {}
    measure = anomaly.get("measure") or {}
    shares = Measure.from_json(measure).shares()
    said: dict[str, Any] = {key(f"{name}_share"): round(shares[name], 5) for name in _SHARES}
    said |= {key(f"files_{name}"): int(measure.get(name, 0)) for name in ("changed", "deleted")}
    said |= {key("snapshot"): snapshot["id"], key("day"): snapshot["day"]}
    explained = anomaly.get("explained")
    if explained:
        said[key("explained")] = f"{explained.get('by')}: {explained.get('reason')}"
    findings = [one for one in anomaly.get("findings") or () if isinstance(one, dict)]
    if not findings:
        why = f": {anomaly['skipped']}" if "skipped" in anomaly else ""
        return True, f"nothing is suspicious{why}", said
    said[key("findings")] = _table(findings)
    sentence = "; ".join(str(one.get("says")) for one in findings)
    if cleared is not None:
        words = f"cleared by {cleared.get('by')}: {cleared.get('reason')}"
        return True, f"{words} (it was flagged: {sentence})", said
    said[key("findings_count")] = len(findings)
    said[key("clear")] = dg.MetadataValue.md(
        f"`backup-pipeline clear {snapshot['dataset']} {anomaly['snapshot'][:12]} --reason …`"
    )
    return False, f"{sentence}. Nothing older expires until it is cleared", said


def _table(findings: Sequence[Mapping[str, Any]]) -> dg.TableMetadataValue:
    return dg.MetadataValue.table(
        [
            dg.TableRecord(
                {
                    "rule": str(one.get("rule")),
                    "what": str(one.get("says")),
                    "examples": ", ".join(map(str, one.get("examples") or ())),
                }
            )
            for one in findings
        ]
    )


def _severity(asset: TierAsset) -> dg.AssetCheckSeverity:
    rules = asset.dataset.anomaly
    strict = rules is not None and rules.severity == "error"
    return dg.AssetCheckSeverity.ERROR if strict else dg.AssetCheckSeverity.WARN


def build_anomaly_checks(
    assets: Sequence[TierAsset], wiring: Wiring
) -> list[dg.AssetChecksDefinition]:
    """The check of each first tier. A backup's run reports it by itself; run alone, it says what
    the day's snapshot says now, which is another thing once it was cleared."""
    return [_check(asset, wiring) for asset in assets if asset.first and asset.dataset.anomaly]


def _check(asset: TierAsset, wiring: Wiring) -> dg.AssetChecksDefinition:
    spec = check_spec(
        asset,
        ANOMALY,
        "Did no more change than is usual for this dataset, or than upstream explains?",
        partitioned=True,
    )

    @dg.multi_asset_check(
        name=f"{asset.label}__{ANOMALY}",
        specs=[spec],
        required_resource_keys={wiring.resource},
        pool=asset.pool,
    )
    def anomaly(context: dg.AssetCheckExecutionContext) -> Iterator[dg.AssetCheckResult]:
        day = day_of(context)
        try:
            with wiring.resource_of(context).runner(now=wiring.now) as runner:
                repository, snapshot = runner.find(asset.dataset.key, tier=asset.tier.name, day=day)
                identity = (snapshot.anomaly or {}).get("snapshot")
                cleared = repository.state.suspicions.cleared.get(str(identity))
        except BackupError as error:
            raise failure(error) from None
        passed, sentence, said = anomaly_verdict(snapshot.to_json(), cleared)
        yield dg.AssetCheckResult(
            asset_key=asset.asset_key,
            check_name=ANOMALY,
            passed=passed,
            severity=_severity(asset),
            description=sentence,
            metadata=said,
        )

    return anomaly


def record_anomaly(context: Any, asset: TierAsset, answer: Mapping[str, Any]) -> None:
    """Report the check of a snapshot that a run just made; it holds nothing back."""
    if not (asset.first and asset.dataset.anomaly and answer["created"]):
        return
    snapshot = answer["snapshot"]
    passed, sentence, said = anomaly_verdict(snapshot, None)
    if not passed:
        context.log.warning(f"{asset.dataset.key}: {sentence}")
    _record(context, asset, snapshot["day"], (passed, sentence, said))


def _record(context: Any, asset: TierAsset, day: str, verdict: Verdict) -> None:
    passed, sentence, said = verdict
    recorder(context)(
        dg.AssetCheckEvaluation(
            asset_key=asset.asset_key,
            check_name=ANOMALY,
            passed=passed,
            severity=_severity(asset),
            description=sentence,
            metadata=said,
            partition=day,
        )
    )


def upstream_news(
    instance: dg.DagsterInstance, asset: TierAsset, upstream: str | None
) -> str | None:
    """Which materialization of the dataset's own asset its last backup has not seen; None where it
    has seen the latest, or there is none.

    Args:
        instance: Knows the events.
        asset: The dataset in its first tier.
        upstream: Which event was its latest materialization.
    """
    if upstream is None:
        return None
    backups = instance.fetch_materializations(asset.asset_key, limit=LOOKED_BACK).records
    for record in backups:
        materialization = record.asset_materialization
        seen = (materialization.tags or {}).get(UPSTREAM_TAG) if materialization else None
        if seen is not None:
            if seen == upstream:
                return None
            break
    return f"{asset.dataset_asset.to_user_string()} was materialized (event {upstream})"


def build_clear_job(assets: Sequence[TierAsset], wiring: Wiring) -> dg.JobDefinition:
    """The clear job: the same as the command, and the check of the day says so."""
    first = {asset.dataset.key: asset for asset in assets if asset.first}

    @dg.op(name=wiring.named("clear_op"), required_resource_keys={wiring.resource})
    def clear_op(context: dg.OpExecutionContext, config: ClearConfig) -> None:
        by = config.by or f"Dagster run {context.run_id[:8]}"
        try:
            answer = wiring.resource_of(context).run(
                "clear",
                {
                    "dataset": config.dataset,
                    "snapshot": config.snapshot,
                    "reason": config.reason,
                    "by": by,
                    "cleared": not config.undo,
                },
                now=wiring.now,
                log=context.log.info,
            )
        except BackupError as error:
            raise failure(error) from None
        what = "is cleared" if answer["cleared"] else "is suspicious again"
        sentence = f"{answer['snapshot'][:12]} of {answer['day']} {what}, by {by}: {config.reason}"
        context.log.info(f"{sentence} (in {', '.join(answer['tiers'])})")
        context.add_output_metadata(
            {key("snapshot"): answer["snapshot"], key("tiers"): ", ".join(answer["tiers"])}
        )
        asset = first.get(config.dataset)
        if asset is not None and asset.dataset.anomaly:
            said = {key("snapshot"): answer["snapshot"], key("day"): answer["day"]}
            _record(context, asset, answer["day"], (answer["cleared"], sentence, said))

    @dg.job(
        name=wiring.named("clear"),
        description="Say that a suspicious snapshot is as it should be: older ones may expire.",
        executor_def=dg.in_process_executor,
    )
    def clear() -> None:
        clear_op()

    return clear

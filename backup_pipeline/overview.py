"""The posture as one asset: what ``status`` says, materialized on a schedule, with a check."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import dagster as dg

from backup_pipeline.engine.errors import BackupError
from backup_pipeline.graph import look_at_graph
from backup_pipeline.metadata import NAMESPACE, key
from backup_pipeline.posture.conditions import Condition, conditions
from backup_pipeline.posture.coverage import Coverage
from backup_pipeline.posture.model import Posture
from backup_pipeline.posture.pictures import heat
from backup_pipeline.posture.tier import TierPosture
from backup_pipeline.posture.witness import Claim
from backup_pipeline.posture.words import duration, proof_day, rpo_word, rto_word, share
from backup_pipeline.resources import Wiring, failure
from backup_pipeline.schedules import default_status
from backup_pipeline.sync import claim_of
from backup_pipeline.translator import TierAsset, Upstream

__all__ = ["ALL_WELL", "CONDITIONS", "COVERAGE", "Overview", "build_overview", "posture_key"]

ALL_WELL = "all_well"
POSTURE_CRON = "25 * * * *"
"""Every hour, after ``fresh``: a day or an RPO that is missed shows within the hour."""

CONDITIONS = key("conditions")
COVERAGE = key("coverage")

LATEST_EVENTS = 20
MOST_ROWS = 200
MOST_ASSETS = 200
MOST_SAID = 20

_BEFORE = ("rpo_missed", "failed")


@dataclass(frozen=True)
class Overview:
    """The asset, the job that materializes it, and its clock."""

    asset: dg.AssetsDefinition
    job: Any
    schedule: dg.ScheduleDefinition


def posture_key(wiring: Wiring) -> dg.AssetKey:
    """Its key, such as ``backup/posture``."""
    return dg.AssetKey([wiring.name, "posture"])


def build_overview(assets: Sequence[TierAsset], upstream: Upstream, wiring: Wiring) -> Overview:
    """The posture of a plan as an asset.

    Args:
        assets: The plan's datasets × tiers.
        upstream: Definitions of the datasets' own assets, for what of the graph is protected.
        wiring: The plan.
    """
    own = posture_key(wiring)
    spec = dg.AssetSpec(
        own,
        description=(
            "How well every dataset is protected in every tier, by what the stores themselves say;"
            " `backup-pipeline status --html` writes the same as a page."
        ),
        group_name=NAMESPACE,
        kinds={NAMESPACE},
    )
    check = dg.AssetCheckSpec(
        ALL_WELL, asset=own, description="Is there nothing that needs a person?"
    )

    @dg.multi_asset(
        name=wiring.named("posture"),
        specs=[spec],
        check_specs=[check],
        required_resource_keys={wiring.resource},
    )
    def posture(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        try:
            with wiring.resource_of(context).runner(now=wiring.now) as runner:
                found = runner.posture(claims=_claims(context.instance, assets))
        except BackupError as error:
            raise failure(error) from None
        coverage = look_at_graph(assets, own, upstream, context, found.at)
        found = replace(found, coverage=coverage)
        needs = conditions(found, share=wiring.plan.alerts.at_risk if wiring.plan.alerts else None)
        return dg.MaterializeResult(
            asset_key=own,
            metadata=posture_metadata(found, needs),
            check_results=[_check(needs)],
        )

    job = dg.define_asset_job(
        wiring.named("posture_job"),
        dg.AssetSelection.assets(own),
        description="Asks every store how its datasets are protected.",
        executor_def=dg.in_process_executor,
    )
    schedule = dg.ScheduleDefinition(
        name=wiring.named("posture_schedule"),
        job=job,
        cron_schedule=POSTURE_CRON,
        execution_timezone=wiring.plan.timezone,
        default_status=default_status(wiring),
        description="Asks every hour how every dataset is protected.",
    )
    return Overview(posture, job, schedule)


def _claims(instance: dg.DagsterInstance, assets: Sequence[TierAsset]) -> list[Claim]:
    """What the event log says that each tier holds, by its latest materializations."""
    found: list[Claim] = []
    for asset in assets:
        seen: set[str] = set()
        records = instance.fetch_materializations(asset.asset_key, limit=LATEST_EVENTS).records
        for one in records:
            materialization = one.asset_materialization
            if materialization is None or (materialization.partition or "") in seen:
                continue  # what was said later of the same day counts
            seen.add(materialization.partition or "")
            claim = claim_of(asset, materialization)
            found += [claim] if claim is not None else []
    return found


def _check(needs: Sequence[Condition]) -> dg.AssetCheckResult:
    bad = [one for one in needs if one.kind in _BEFORE]
    lines = [one.line for one in needs[:MOST_SAID]]
    if needs[MOST_SAID:]:
        lines.append(f"and {len(needs) - MOST_SAID} more")
    return dg.AssetCheckResult(
        check_name=ALL_WELL,
        passed=not needs,
        severity=dg.AssetCheckSeverity.ERROR if bad else dg.AssetCheckSeverity.WARN,
        description="; ".join(lines) or "nothing needs a person",
        metadata={key("conditions"): len(needs), key("errors"): len(bad)},
    )


def posture_metadata(posture: Posture, needs: Sequence[Condition]) -> dict[str, Any]:
    """What a materialization says: numbers to plot, a picture, tables, and what needs a person."""
    said: dict[str, Any] = {
        key(name): value for name, value in posture.summary.items() if value is not None
    }
    said[key("conditions_count")] = len(needs)
    said[key("took_s")] = posture.took_s
    said[key("days")] = _image(heat(posture), "days of every dataset in every tier")
    said[key("posture")] = dg.MetadataValue.md(posture_table(posture))
    said[CONDITIONS] = dg.MetadataValue.json([one.to_json() for one in needs])
    if posture.coverage is not None:
        said[COVERAGE] = dg.MetadataValue.json(_short(posture.coverage))
        said[key("unprotected")] = _unprotected(posture.coverage)
    return said


def _image(picture: str, label: str) -> dg.MarkdownMetadataValue:
    encoded = base64.b64encode(picture.encode()).decode()
    return dg.MetadataValue.md(f"![{label}](data:image/svg+xml;base64,{encoded})")


def posture_table(posture: Posture) -> str:
    """The main table as Markdown; the worst first where there are more than fit."""
    heads = ("dataset", "tier", "RPO", "age", "left", "RTO", "drill", "verified", "days", "copies")
    copies = {one.key: one.copies.figures for one in posture.datasets}
    rows = sorted(posture.tiers, key=lambda one: (one.fresh, one.good_days >= one.due_days))
    rows = posture.tiers if len(rows) <= MOST_ROWS else rows[:MOST_ROWS]
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    lines += [_row(one, copies[one.dataset]) for one in rows]
    left = len(posture.tiers) - len(rows)
    if left:
        lines.append(f"\nand {left} tiers more, none of them worse")
    return "\n".join(lines)


def _row(one: TierPosture, figures: str) -> str:
    margin = one.margin_s
    left = "–" if margin is None else ("−" if margin < 0 else "") + duration(abs(margin))
    age = "never" if one.newest is None else duration(max(0.0, one.age_s or 0.0))
    cells = (
        _plain(one.dataset),
        one.tier,
        rpo_word(one),
        age,
        left,
        rto_word(one),
        proof_day(one.drilled),
        proof_day(one.verified),
        f"{one.good_days}/{one.due_days}, I {share(one.integrity)}",
        figures,
    )
    return f"| {' | '.join(cells)} |"


def _plain(text: str) -> str:
    """A name as Markdown's table shows it literally."""
    escaped = text.replace("\\", "\\\\")
    for sign in "|*_`<>[]&":
        escaped = escaped.replace(sign, f"\\{sign}")
    return escaped


def _short(coverage: Coverage) -> dict[str, Any]:
    return replace(coverage, unprotected=coverage.unprotected[:MOST_ASSETS]).to_json()


def _unprotected(coverage: Coverage) -> dg.TableMetadataValue:
    columns = [
        dg.TableColumn("asset", "string"),
        dg.TableColumn("depend_on_it", "string"),
        dg.TableColumn("made_from", "string"),
    ]
    records = [
        dg.TableRecord(
            {
                "asset": one.asset,
                "depend_on_it": "?" if one.downstream is None else str(one.downstream),
                "made_from": "?" if one.upstream is None else str(one.upstream),
            }
        )
        for one in coverage.unprotected[:MOST_ASSETS]
    ]
    return dg.MetadataValue.table(records, dg.TableSchema(columns))

"""The verb that says how a plan's datasets are protected: status."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from backup_pipeline.cli.call import Call
from backup_pipeline.cli.options import TIER, verb
from backup_pipeline.cli.sets import show_sets
from backup_pipeline.engine.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backup_pipeline.plan import Plan
    from backup_pipeline.posture.alerts import Delivery
    from backup_pipeline.posture.conditions import Condition
    from backup_pipeline.posture.coverage import Coverage
    from backup_pipeline.posture.model import Posture
    from backup_pipeline.posture.tier import TierPosture

__all__ = ["status"]

POSTURE = "backup/posture"
"""The posture's asset, unless build_backup_defs was told another name."""

MOST_LINES = 40
"""Conditions that are printed; the page and --json have all of them."""


@verb(bare=False)
@TIER
@click.option(
    "--days",
    type=int,
    default=30,
    show_default=True,
    metavar="N",
    help="Length of the window that missing days, I and trends are about.",
)
@click.option(
    "--html",
    "html_file",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    metavar="FILE",
    help="Write it as one self-contained page as well.",
)
@click.option("--alert", is_flag=True, help="Tell the plan's receivers what is new, or over.")
@click.option(
    "--alert-state",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="What they were told; default: a file below $XDG_STATE_HOME.",
)
@click.option(
    "--dagster/--no-dagster",
    default=None,
    help="Ask the Dagster instance too; default: where DAGSTER_HOME is set.",
)
def status(
    call: Call,
    tier: str | None,
    days: int,
    html_file: Path | None,
    alert: bool,
    alert_state: Path | None,
    dagster: bool | None,
) -> int:
    """Say how every dataset stands in every tier.

    Exit code 1 where a tier, or the newest whole cut of a set, is older than its RPO, or could not
    be asked, where a snapshot is suspicious and nobody cleared it, or where others know of
    snapshots that a tier's own log has never heard of; 3 where a receiver of alerts could not be
    told.
    """
    import os

    from backup_pipeline.doctor import look_at_instance
    from backup_pipeline.posture.alerts import AlertFailed
    from backup_pipeline.posture.conditions import conditions

    if alert and (call.dataset or tier):
        raise click.UsageError("--alert looks at the whole plan: name no dataset and no tier")
    if alert_state is not None and not alert:
        raise click.UsageError("--alert-state goes with --alert")
    with call.runner() as runner:
        alerts = runner.plan.alerts
        if alert and alerts is None:
            raise UsageError(
                "the plan names nobody to tell", "write alerts: {to: [{env: BACKUP_ALERT_URL}]}"
            )
        posture = runner.posture(call.dataset, tier, days=days)
        if dagster is None:
            dagster = bool(os.environ.get("DAGSTER_HOME"))
        findings = list(look_at_instance(runner.plan)) if dagster else []
        if dagster:
            posture = replace(posture, coverage=_coverage(call))
        found = conditions(posture, share=alerts.at_risk if alerts else None)
        delivery = _tell(runner.plan, found, alert_state) if alert else None
        document = {
            **posture.to_json(),
            "conditions": [one.to_json() for one in found],
            "dagster": [one.to_json() for one in findings] if dagster else None,
            "told": list(delivery.done) if delivery else None,
            "not_told": [one.message for one in delivery.failures] if delivery else None,
        }

        def show() -> None:
            _show(posture, found)
            show_sets(list(posture.sets))
            for finding in findings:
                if finding.level != "good":
                    print(finding.line())
            for line in delivery.done if delivery else ():
                print(line)

        if html_file is not None:
            _write_page(html_file, posture)
        call.answer(document, show)
    for failure in delivery.failures if delivery else ():
        call.notice(failure.message, "error")
    if delivery and delivery.failures:
        return AlertFailed.exit_code
    return 0 if posture.fresh and not any(one.flags for one in posture.tiers) else 1


def _tell(plan: Plan, found: Sequence[Condition], state_file: Path | None) -> Delivery:
    import os

    from backup_pipeline.cli.told import read_told, told_file, write_told
    from backup_pipeline.posture.alerts import tell

    file = state_file or told_file(plan)
    before = read_told(file)
    delivery = tell(plan, found, before, environ=os.environ)
    if delivery.state != before:
        write_told(file, delivery.state)
    return delivery


def _coverage(call: Call) -> Coverage | None:
    """What of the asset graph is protected, as the asset of the posture last said it."""
    from backup_pipeline.asking import ask_event_log
    from backup_pipeline.posture.coverage import Coverage

    try:
        said = ask_event_log("coverage", [POSTURE])[POSTURE]
        return None if said is None else Coverage.from_json(said)
    except (UsageError, KeyError, TypeError, ValueError) as error:
        call.notice(f"what of the asset graph is protected is not known: {error}")
        return None


def _write_page(file: Path, posture: Posture) -> None:
    from backup_pipeline.posture.page import page

    try:
        file.write_text(page(posture), encoding="utf-8")
    except OSError as error:
        raise UsageError(
            f"the page cannot be written to {file}: {error.strerror or error}",
            "name a file in a directory that is there",
        ) from None


def _show(posture: Posture, found: Sequence[Condition]) -> None:
    from backup_pipeline.cli.tables import count, print_table
    from backup_pipeline.posture.words import share

    headings = "dataset tier rpo >age >left rto drilled verified >days >late copies"
    copies = {one.key: one.copies for one in posture.datasets}
    rows: list[tuple[Any, ...]] = []
    for number, one in enumerate(posture.tiers):
        first = number == 0 or posture.tiers[number - 1].dataset != one.dataset
        rows.append(_row(one, copies[one.dataset].figures if first else ""))
    print_table(headings.split(), rows)
    summary = posture.summary
    print(
        f"{summary['datasets_protected']} of {count(len(posture.datasets), 'dataset')} protected,"
        f" {summary['copies_met']} hold 3-2-1-1-0;"
        f" in {count(posture.days, 'day')}: {summary['good_days']} of"
        f" {count(summary['due_days'], 'due snapshot')},"
        f" I = {share(posture.integrity)}"
    )
    if posture.coverage is not None:
        bare = posture.coverage.unprotected
        print(f"{count(len(bare), 'asset')} of {posture.coverage.assets} in the graph unprotected")
    for one in found[:MOST_LINES]:
        print(f"{_WORDS[one.kind]} {one.line}")
    if found[MOST_LINES:]:
        print(f"and {len(found) - MOST_LINES} more; --json lists them")


_WORDS = {"rpo_missed": "RPO ", "failed": "FAIL", "at_risk": "risk", "missed_day": "miss"}


def _row(one: TierPosture, figures: str) -> tuple[Any, ...]:
    from backup_pipeline.posture.words import duration, proof_day, rpo_word, rto_word

    return (
        one.dataset,
        one.tier,
        rpo_word(one),
        "never" if one.newest is None else duration(max(0.0, one.age_s or 0.0)),
        "–" if one.margin_s is None else _signed(one.margin_s),
        rto_word(one),
        proof_day(one.drilled),
        proof_day(one.verified),
        f"{one.good_days}/{one.due_days}",
        len(one.late_days),
        figures,
    )


def _signed(seconds: float) -> str:
    from backup_pipeline.posture.words import duration

    return ("-" if seconds < 0 else "") + duration(abs(seconds))

"""The verbs about a plan: validate and doctor."""

from __future__ import annotations

from pathlib import Path

import click

from backup_pipeline.cli.call import Call
from backup_pipeline.cli.options import verb
from backup_pipeline.engine.errors import PlanError

__all__ = ["doctor", "validate"]


@verb(bare=False, dataset=False)
@click.argument("file", required=False)
@click.option(
    "--against",
    metavar="FILE",
    help="An earlier version of the plan: refuse edits that would hide existing days.",
)
def validate(call: Call, file: str | None, against: str | None) -> int:
    """Check a plan; say every mistake with its line."""
    from backup_pipeline.plan import history_conflicts, load_plan

    call.plan_file = file or call.plan_file
    plan = call.plan()
    if against is not None:
        problems = history_conflicts(load_plan(against).history(), plan.history())
        if problems:
            raise PlanError(problems)
    document = {
        "ok": True,
        "file": str(Path(call.plan_path()).absolute()),
        "deployment": plan.deployment,
        "datasets": list(plan.datasets),
        "tiers": plan.tier_names,
        "stores": {name: spec.display_url for name, spec in plan.stores.items()},
    }

    def show() -> None:
        from backup_pipeline.cli.tables import count

        print(
            f"{call.plan_path()}: good: {count(len(plan.datasets), 'dataset')},"
            f" {count(len(plan.tier_names), 'tier')}, {count(len(plan.stores), 'store')}"
        )

    call.answer(document, show)
    return 0


@verb(bare=False, dataset=False)
@click.option(
    "--dagster/--no-dagster",
    default=True,
    help="Whether to look at the Dagster instance of DAGSTER_HOME.",
)
def doctor(call: Call, dagster: bool) -> int:
    """Try the stores, the keys, the sources and the Dagster instance.

    Stores are tried with a small name of their own, which is removed again. Exit code 1 where
    something has to be put right.
    """
    from backup_pipeline.doctor import examine

    findings = []
    plan = call.plan()
    for finding in examine(plan, dagster=dagster):
        findings.append(finding)
        call.say(finding.line())
    good = all(finding.level != "problem" for finding in findings)
    document = {"ok": good, "findings": [finding.to_json() for finding in findings]}
    call.answer(document, lambda: print("all is well" if good else "something has to be put right"))
    return 0 if good else 1

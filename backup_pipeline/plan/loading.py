"""Loads a plan and reports all of its mistakes at once."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from backup_pipeline.engine.errors import PlanError, Problem
from backup_pipeline.plan.checking import Checked, check_schema
from backup_pipeline.plan.document import read_document
from backup_pipeline.plan.environment import Variant, variants
from backup_pipeline.plan.model import Plan
from backup_pipeline.plan.problems import Findings
from backup_pipeline.plan.resolve import resolve_plan
from backup_pipeline.plan.rules import check_rules

__all__ = ["load_plan"]


def load_plan(
    source: str | os.PathLike[str] | Mapping[str, Any],
    *,
    environ: Mapping[str, str] | None = None,
) -> Plan:
    """Loads a plan from a YAML file, or from a mapping with the same keys.

    Args:
        source: Path of the file, or the plan itself. Relative paths in it count from the file's
            directory, or from the working directory.
        environ: Environment variables; only ``deployment`` is looked up now. Secrets, and other
            values that the plan refers to, are looked up when they are needed.

    Raises:
        PlanError: The plan has mistakes; ``problems`` lists all of them.
    """
    document = read_document(source)
    findings = Findings(document.marks, document.file)
    known = os.environ if environ is None else environ
    chosen, others = variants(document, known, findings)
    problems = [*document.problems, *findings.problems]
    checked = _check(chosen, document.file, problems)
    for variant in others:
        _check(variant, document.file, problems)
    if problems:
        raise PlanError(sorted(problems, key=lambda problem: (problem.line or 0, problem.path)))
    return resolve_plan(checked.plan, chosen.content, file=document.file)


def _check(variant: Variant, file: str | None, problems: list[Problem]) -> Checked:
    """Checks one environment's plan; what another has shown already is not said twice."""
    findings = Findings(variant.marks, file)
    checked = check_schema(variant.content, findings)
    check_rules(checked, variant.content, findings)
    problems += [problem for problem in findings.problems if problem not in problems]
    return checked

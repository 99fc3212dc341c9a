"""Loads a plan and reports all of its mistakes at once."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backup_pipeline.engine.errors import PlanError, Problem
from backup_pipeline.plan.document import read_document
from backup_pipeline.plan.problems import Findings

if TYPE_CHECKING:
    from backup_pipeline.plan.checking import Checked
    from backup_pipeline.plan.environment import Variant
    from backup_pipeline.plan.model import Plan

__all__ = ["load_plan"]


def load_plan(
    source: str | os.PathLike[str] | Mapping[str, Any],
    *,
    environ: Mapping[str, str] | None = None,
    meanwhile: Callable[[Mapping[str, Any], Path], None] | None = None,
) -> Plan:
    """Loads a plan from a YAML file, or from a mapping with the same keys.

    Args:
        source: Path of the file, or the plan itself. Relative paths in it count from the file's
            directory, or from the working directory.
        environ: Environment variables; only ``deployment`` is looked up now. Secrets, and other
            values that the plan refers to, are looked up when they are needed.
        meanwhile: Is told the plan as it was read, and the directory from which its relative paths
            count, before it is checked; may begin what goes on while that is done.

    Raises:
        PlanError: The plan has mistakes; ``problems`` lists all of them.
    """
    document = read_document(source)
    if meanwhile is not None:
        meanwhile(document.content, document.folder)
    # pydantic and its models are loaded here and not before.
    from backup_pipeline.plan.environment import variants
    from backup_pipeline.plan.resolve import resolve_plan

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
    from backup_pipeline.plan.checking import check_schema
    from backup_pipeline.plan.rules import check_rules

    findings = Findings(variant.marks, file)
    checked = check_schema(variant.content, findings)
    check_rules(checked, variant.content, findings)
    problems += [problem for problem in findings.problems if problem not in problems]
    return checked

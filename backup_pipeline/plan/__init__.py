"""The declaration of what is backed up, where to, how often, and for how long."""

from __future__ import annotations

from backup_pipeline.plan.cadence import DAY_CLOSING_GRACE
from backup_pipeline.plan.history import history_conflicts
from backup_pipeline.plan.kinds import Choice, choose_kind
from backup_pipeline.plan.loading import load_plan
from backup_pipeline.plan.model import (
    Anomaly,
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
from backup_pipeline.plan.references import Reference, resolve_references
from backup_pipeline.plan.sourcekinds import escape_braces
from backup_pipeline.plan.starter import starter_plan

__all__ = [
    "DAY_CLOSING_GRACE",
    "PRESETS",
    "Anomaly",
    "Choice",
    "Dataset",
    "Drill",
    "Keep",
    "KeySpec",
    "Lock",
    "OnChange",
    "Plan",
    "Reference",
    "RunRules",
    "ScratchSpec",
    "SourceSpec",
    "StoreSpec",
    "Tier",
    "choose_kind",
    "escape_braces",
    "history_conflicts",
    "load_plan",
    "resolve_references",
    "starter_plan",
]

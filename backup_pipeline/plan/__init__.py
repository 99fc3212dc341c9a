"""The declaration of what is backed up, where to, how often, and for how long."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backup_pipeline.lazy import lazy_names

if TYPE_CHECKING:
    from backup_pipeline.plan.cadence import DAY_CLOSING_GRACE
    from backup_pipeline.plan.history import history_conflicts
    from backup_pipeline.plan.kinds import Choice, choose_kind
    from backup_pipeline.plan.loading import load_plan
    from backup_pipeline.plan.model import (
        Alerts,
        Anomaly,
        ConsistentSet,
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
    "Alerts",
    "Anomaly",
    "Choice",
    "ConsistentSet",
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

__getattr__ = lazy_names(
    __name__,
    {
        "DAY_CLOSING_GRACE": "backup_pipeline.plan.cadence",
        "PRESETS": "backup_pipeline.plan.presets",
        "Alerts": "backup_pipeline.plan.model",
        "Anomaly": "backup_pipeline.plan.model",
        "Choice": "backup_pipeline.plan.kinds",
        "ConsistentSet": "backup_pipeline.plan.model",
        "Dataset": "backup_pipeline.plan.model",
        "Drill": "backup_pipeline.plan.model",
        "Keep": "backup_pipeline.plan.model",
        "KeySpec": "backup_pipeline.plan.places",
        "Lock": "backup_pipeline.plan.places",
        "OnChange": "backup_pipeline.plan.model",
        "Plan": "backup_pipeline.plan.model",
        "Reference": "backup_pipeline.plan.references",
        "RunRules": "backup_pipeline.plan.model",
        "ScratchSpec": "backup_pipeline.plan.places",
        "SourceSpec": "backup_pipeline.plan.places",
        "StoreSpec": "backup_pipeline.plan.places",
        "Tier": "backup_pipeline.plan.model",
        "choose_kind": "backup_pipeline.plan.kinds",
        "escape_braces": "backup_pipeline.plan.sourcekinds",
        "history_conflicts": "backup_pipeline.plan.history",
        "load_plan": "backup_pipeline.plan.loading",
        "resolve_references": "backup_pipeline.plan.references",
        "starter_plan": "backup_pipeline.plan.starter",
    },
)

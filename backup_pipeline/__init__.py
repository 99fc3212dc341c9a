"""Declarative backups of Dagster assets; names are loaded when first used, so that importing the
engine never imports Dagster."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backup_pipeline.lazy import lazy_names

if TYPE_CHECKING:
    from backup_pipeline.assetchecks import drill_test
    from backup_pipeline.component import BackupComponent
    from backup_pipeline.definitions import build_backup_defs
    from backup_pipeline.plan import Plan, load_plan
    from backup_pipeline.runner import Runner, backup
    from backup_pipeline.translator import BackupTranslator

__version__ = "0.1.0"

__all__ = [
    "BackupComponent",
    "BackupTranslator",
    "Plan",
    "Runner",
    "backup",
    "build_backup_defs",
    "drill_test",
    "load_plan",
]

_HOMES = {
    "BackupComponent": "backup_pipeline.component",
    "BackupTranslator": "backup_pipeline.translator",
    "Plan": "backup_pipeline.plan",
    "Runner": "backup_pipeline.runner",
    "backup": "backup_pipeline.runner",
    "build_backup_defs": "backup_pipeline.definitions",
    "drill_test": "backup_pipeline.assetchecks",
    "load_plan": "backup_pipeline.plan",
}


__getattr__ = lazy_names(__name__, _HOMES)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])

"""The demo: real datasets backed up, damaged, lost and restored, with Dagster.

``run_demo`` is loaded when first used, so that importing this package imports no Dagster.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from backup_pipeline.demo.history import run_ui
    from backup_pipeline.demo.story import run_demo

__all__ = ["run_demo", "run_ui"]


def __getattr__(name: str) -> Any:
    if name == "run_demo":
        from backup_pipeline.demo.story import run_demo

        return run_demo
    if name == "run_ui":
        from backup_pipeline.demo.history import run_ui

        return run_ui
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""Every operation from the command line, with no Dagster."""

from __future__ import annotations

from backup_pipeline.cli.app import main

__all__ = ["main"]

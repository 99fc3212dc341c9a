"""Tests of a restored copy as what it is: tables, models, whatever the user's functions know."""

from backup_pipeline.drilling.plantests import PlanTests

__all__ = ["PlanTests"]

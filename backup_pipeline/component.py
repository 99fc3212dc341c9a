"""``BackupComponent``: a backup plan as a component of a Dagster project."""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import Field

from backup_pipeline.definitions import build_backup_defs
from backup_pipeline.engine.errors import UsageError
from backup_pipeline.plan import Dataset, Plan, Tier, load_plan, starter_plan
from backup_pipeline.translator import BackupTranslator

__all__ = ["BackupComponent", "BackupScaffolder", "FromEnvironment", "S3Settings"]

PLAN_FILE = "backup.yaml"

_OPTIONS = """\
  # Prefix of the names of jobs, schedules, pools and resources; by default this folder's name.
  # name: backups
  # Datasets that no code location defines as an asset; true for all.
  # external_assets: [vision/train_images]
  # A class of yours that says how a dataset's tier appears in Dagster.
  # translator: my_project.backups.OurTranslator
"""


class FromEnvironment(dg.Model, dg.Resolvable):
    """A value that stands in an environment variable; it is read when a run needs it."""

    env: str = Field(description="Name of the variable.")


class S3Settings(dg.Model, dg.Resolvable):
    """What a store on S3 needs, as dagster-aws's ``S3Resource`` names it."""

    region_name: str | None = None
    endpoint_url: str | None = None
    profile_name: str | None = None
    aws_access_key_id: FromEnvironment | None = None
    aws_secret_access_key: FromEnvironment | None = None
    aws_session_token: FromEnvironment | None = None


class BackupScaffolder(dg.Scaffolder):
    """Writes ``defs.yaml`` and, beside it, a plan with a comment for every part."""

    def scaffold(self, request: dg.ScaffoldRequest) -> None:
        """Write the files; a plan that is there already is left alone."""
        folder = request.target_path.parent if request.append else request.target_path
        dg.scaffold_component(request, {"plan": PLAN_FILE})
        if request.scaffold_format == "yaml":
            written = request.target_path if request.append else folder / "defs.yaml"
            with written.open("a", encoding="utf-8") as stream:
                stream.write(_OPTIONS)
        plan = folder / PLAN_FILE
        if not plan.exists():
            plan.write_text(starter_plan(), encoding="utf-8")


@dg.scaffold_with(BackupScaffolder)
@dataclass
class BackupComponent(dg.Component, dg.Resolvable):
    """Backups of datasets: each tier of each dataset becomes a day-partitioned asset.

    Scaffold one with ``dg scaffold defs backup_pipeline.BackupComponent backups``: it writes a plan
    with comments. Check the plan with ``backup-pipeline validate --plan backup.yaml``.

    To change how backups appear, override ``get_asset_spec`` in a subclass, or name a translator.

    Attributes:
        plan: Path of the plan, relative to this component's folder, or the plan itself.
        name: Prefix of the names of jobs, schedules, pools and resources; by default the name of
            this component's folder, so that two components keep apart.
        external_assets: Keys of datasets that no code location defines as an asset, or true for
            all. Others are only referred to by their keys.
        translator: Import path of a ``BackupTranslator`` subclass, such as
            ``my_project.backups.OurTranslator``.
        s3: Settings of stores on S3 by the store's name, in place of those in the plan.
    """

    plan: str | dict[str, Any]
    name: str | None = None
    external_assets: bool | list[str] = False
    translator: str | None = None
    s3: dict[str, S3Settings] = field(default_factory=dict)

    def get_asset_spec(self, dataset: Dataset, tier: Tier) -> dg.AssetSpec:
        """The spec of one dataset in one tier; the place to override what it says."""
        return self._translator().get_asset_spec(dataset, tier)

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """The plan's definitions."""
        return build_backup_defs(
            self._plan(context.path),
            name=self.name or _name_of(context.path),
            translator=_OfComponent(self),
            external_assets=self.external_assets,
            s3={name: _s3_resource(settings) for name, settings in self.s3.items()},
        )

    def _plan(self, folder: Path) -> Plan:
        if isinstance(self.plan, str):
            return load_plan(folder / self.plan)
        return load_plan(self.plan)

    def _translator(self) -> BackupTranslator:
        if self.translator is None:
            return BackupTranslator()
        module, _, name = self.translator.rpartition(".")
        try:
            found = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError, ValueError) as error:
            raise UsageError(
                f"the translator {self.translator} cannot be imported: {error}",
                "write the import path of a class, such as my_project.backups.OurTranslator",
            ) from error
        if not (isinstance(found, type) and issubclass(found, BackupTranslator)):
            raise UsageError(f"{self.translator} is no subclass of BackupTranslator")
        return found()


class _OfComponent(BackupTranslator):
    """Asks the component, so that a subclass of it can answer."""

    def __init__(self, component: BackupComponent) -> None:
        self._component = component

    def get_asset_spec(self, dataset: Dataset, tier: Tier) -> dg.AssetSpec:
        return self._component.get_asset_spec(dataset, tier)


def _name_of(folder: Path) -> str:
    """A folder's name as a prefix of names."""
    plain = "".join(one if one.isascii() and one.isalnum() else "_" for one in folder.name)
    return plain if plain[:1].isalpha() else f"backup_{plain}"


def _s3_resource(settings: S3Settings) -> Any:
    from dagster_aws.s3 import S3Resource

    given: Mapping[str, Any] = {
        name: dg.EnvVar(value.env) if isinstance(value, FromEnvironment) else value
        for name, value in settings
        if value is not None
    }
    return S3Resource(**given)

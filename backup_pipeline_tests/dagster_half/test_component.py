"""The component: in a defs folder, on dg's command line, with its scaffolder."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from dagster.components.testing import create_defs_folder_sandbox

from backup_pipeline import BackupComponent, BackupTranslator
from backup_pipeline.component import BackupScaffolder
from backup_pipeline.engine.errors import BackupError, PlanError, UsageError
from backup_pipeline.plan import Dataset, Tier, load_plan
from backup_pipeline_tests.dagster_half.project import backup_key

# Dagster's own warnings, where it reads defs.yaml.
pytestmark = pytest.mark.filterwarnings("ignore")


def plan(root: Path, **more: Any) -> dict[str, Any]:
    """A plan of one dataset."""
    return {
        "start": "2026-11-01",
        "encryption": "none",
        "stores": {"local": f"file://{root}/store"},
        "datasets": [{"asset": "vision/a", "source": str(root / "a")}],
        **more,
    }


def load(attributes: dict[str, Any], *, component: type = BackupComponent) -> dg.Definitions:
    """The definitions of a component in a project's defs folder."""
    with create_defs_folder_sandbox() as sandbox:
        folder = sandbox.scaffold_component(
            component_cls=component,
            defs_yaml_contents={
                "type": f"{component.__module__}.{component.__name__}",
                "attributes": attributes,
            },
        )
        with sandbox.load_component_and_build_defs(defs_path=folder) as (_, defs):
            return defs


def reason(error: BaseException) -> BaseException:
    """Our error, below those in which Dagster wraps it."""
    while error.__cause__ is not None and not isinstance(error, BackupError):
        error = error.__cause__
    return error


def test_an_inline_plan_loads(tmp_path: Path) -> None:
    defs = load({"plan": plan(tmp_path), "name": "ours"})
    dg.Definitions.validate_loadable(defs)
    assert defs.resolve_assets_def(backup_key("local"))
    assert "ours_restore" in {job.name for job in defs.resolve_all_job_defs()}


def test_a_plan_beside_the_component_loads(tmp_path: Path) -> None:
    with create_defs_folder_sandbox() as sandbox:
        folder = sandbox.scaffold_component(
            component_cls=BackupComponent,
            defs_path="night-watch",
            defs_yaml_contents={
                "type": "backup_pipeline.BackupComponent",
                "attributes": {"plan": "plan.yaml"},
            },
        )
        (folder / "plan.yaml").write_text(yaml.safe_dump(plan(tmp_path)))
        with sandbox.load_component_and_build_defs(defs_path=folder) as (component, defs):
            assert isinstance(component, BackupComponent)
            names = {job.name for job in defs.resolve_all_job_defs()}
            assert "night_watch_restore" in names, "named after its folder"


def test_a_mistake_in_the_plan_is_told_with_its_place(tmp_path: Path) -> None:
    broken = plan(tmp_path) | {"timezone": "Europe/Berlinn"}
    with pytest.raises(Exception, match="BackupComponent") as raised:
        load({"plan": broken})
    error = reason(raised.value)
    assert isinstance(error, PlanError) and "did you mean 'Europe/Berlin'" in str(error)


class Owned(BackupTranslator):
    """Names an owner."""

    def get_asset_spec(self, dataset: Dataset, tier: Tier) -> dg.AssetSpec:
        return super().get_asset_spec(dataset, tier).replace_attributes(owners=["team:ours"])


class Described(BackupComponent):
    """Overrides in a subclass of the component."""

    def get_asset_spec(self, dataset: Dataset, tier: Tier) -> dg.AssetSpec:
        return super().get_asset_spec(dataset, tier).replace_attributes(description="Ours.")


def test_a_translator_is_taken_by_its_import_path(tmp_path: Path) -> None:
    defs = load({"plan": plan(tmp_path), "translator": f"{__name__}.Owned"})
    assert list(defs.resolve_assets_def(backup_key("local")).get_asset_spec().owners) == [
        "team:ours"
    ]
    with pytest.raises(Exception, match="BackupComponent") as raised:
        load({"plan": plan(tmp_path), "translator": "nowhere.Owned"})
    error = reason(raised.value)
    assert isinstance(error, UsageError) and "cannot be imported" in str(error)


def test_a_subclass_overrides_the_spec(tmp_path: Path) -> None:
    defs = load({"plan": plan(tmp_path)}, component=Described)
    assert defs.resolve_assets_def(backup_key("local")).get_asset_spec().description == "Ours."


def test_external_assets_and_s3_settings_are_taken(tmp_path: Path) -> None:
    on_s3 = plan(tmp_path, stores={"local": "s3://bucket/prefix"})
    settings = {
        "endpoint_url": "http://127.0.0.1:9",
        "aws_access_key_id": {"env": "OUR_S3_KEY"},
        "aws_secret_access_key": {"env": "OUR_S3_SECRET"},
    }
    defs = load({"plan": on_s3, "name": "b", "external_assets": True, "s3": {"local": settings}})
    keys = {spec.key for spec in defs.resolve_all_asset_specs()}
    assert dg.AssetKey(["vision", "a"]) in keys
    resource: Any = (defs.resources or {})["b_plan"]
    assert isinstance(resource.s3_local.aws_access_key_id, dg.EnvVar)


@pytest.fixture
def dg_project(tmp_path: Path) -> Iterator[tuple[Path, dict[str, str]]]:
    """A Dagster project on disk, and the environment to run ``dg`` in."""
    root = tmp_path / "project"
    package = root / "src" / "our_project"
    (package / "defs").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "defs" / "__init__.py").write_text("")
    (package / "definitions.py").write_text(
        textwrap.dedent(
            """
            from pathlib import Path

            import dagster as dg

            @dg.definitions
            def defs():
                return dg.load_from_defs_folder(path_within_project=Path(__file__).parent)
            """
        )
    )
    (root / "pyproject.toml").write_text(
        textwrap.dedent(
            """
            [project]
            name = "our_project"
            version = "0.1.0"
            [tool.dg]
            directory_type = "project"
            [tool.dg.project]
            root_module = "our_project"
            registry_modules = []
            """
        )
    )
    environ = {
        **os.environ,
        "HOME": str(tmp_path),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(root / "src"),
        "COLUMNS": "200",
    }
    yield root, environ


def run_dg(root: Path, environ: dict[str, str], *words: str) -> str:
    """What ``dg`` prints; it has to succeed."""
    answer = subprocess.run(
        [str(Path(sys.executable).parent / "dg"), *words],
        cwd=root,
        env=environ,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return answer.stdout


@pytest.mark.slow
def test_dg_lists_scaffolds_and_loads_the_component(
    dg_project: tuple[Path, dict[str, str]],
) -> None:
    root, environ = dg_project
    listed = run_dg(root, environ, "list", "components", "--package", "backup_pipeline")
    assert "backup_pipeline.BackupComponent" in listed
    run_dg(root, environ, "scaffold", "defs", "backup_pipeline.BackupComponent", "backups")
    folder = root / "src/our_project/defs/backups"
    written = yaml.safe_load((folder / "defs.yaml").read_text())
    assert written == {
        "type": "backup_pipeline.BackupComponent",
        "attributes": {"plan": "backup.yaml"},
    }
    text = (folder / "backup.yaml").read_text()
    assert text.count("#") > 10, "every part has its comment"
    assert load_plan(folder / "backup.yaml").datasets
    run_dg(root, environ, "check", "yaml")
    found = run_dg(root, environ, "list", "defs", "--json")
    assert "backup/local/vision/train_images" in found and "backups_restore" in found


def test_the_scaffolder_leaves_a_plan_alone_that_is_there(tmp_path: Path) -> None:
    (tmp_path / "backup.yaml").write_text("mine")
    request = dg.ScaffoldRequest(
        type_name="backup_pipeline.BackupComponent",
        target_path=tmp_path,
        scaffold_format="yaml",
        project_root=tmp_path,
        params=BackupScaffolder.get_scaffold_params()(),
    )
    BackupScaffolder().scaffold(request)
    assert (tmp_path / "backup.yaml").read_text() == "mine"
    assert yaml.safe_load((tmp_path / "defs.yaml").read_text())["attributes"]["plan"]

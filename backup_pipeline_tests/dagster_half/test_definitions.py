"""Definitions as a whole: what can be overridden, what keeps apart, and that many datasets load."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster_aws.s3 import S3Resource

import backup_pipeline
from backup_pipeline import BackupTranslator, build_backup_defs
from backup_pipeline.engine.errors import PlanError, UsageError
from backup_pipeline.plan import Dataset, Tier, load_plan
from backup_pipeline.s3_server import S3Server
from backup_pipeline_tests.dagster_half.project import (
    SUNDAY_THE_FIRST,
    THREE_TIERS,
    Project,
    backup_key,
    first_failure,
)

Make = Callable[..., Project]


def test_the_definitions_of_a_plan_load(project: Make) -> None:
    one = project()
    dg.Definitions.validate_loadable(one.defs)
    specs = {spec.key: spec for spec in one.defs.resolve_all_asset_specs()}
    spec = specs[backup_key("local")]
    assert spec.group_name == "backup"
    assert spec.kinds == {"backup", "files", "local"}
    assert spec.metadata["backup/dataset"] == "vision/a"
    assert {key.name for key in one.defs.resolve_asset_graph().asset_check_keys} == {
        "anomaly",
        "complete",
        "matches",
        "restores",
        "fresh",
        "all_well",
    }


def test_a_plan_is_taken_as_a_file_a_mapping_or_loaded(project: Make, tmp_path: Path) -> None:
    import yaml

    one = project()
    file = tmp_path / "backup.yaml"
    file.write_text(yaml.safe_dump(one.document))
    for plan in (file, str(file), one.document, load_plan(one.document)):
        assert build_backup_defs(plan).resolve_assets_def(backup_key("local"))
    with pytest.raises(PlanError, match="datasetts"):
        build_backup_defs(one.document | {"datasetts": []})


class Ours(BackupTranslator):
    """Keys, groups and owners as another team would have them."""

    def get_asset_spec(self, dataset: Dataset, tier: Tier) -> dg.AssetSpec:
        spec = super().get_asset_spec(dataset, tier)
        return spec.replace_attributes(
            key=["safe", tier.name, *dataset.key.split("/")],
            owners=["team:storage"],
            group_name=f"tier_{tier.name}",
        )


def test_a_translator_changes_keys_and_the_rest_follows(project: Make) -> None:
    one = project()
    defs = one.build(translator=Ours())
    dg.Definitions.validate_loadable(defs)
    cloud = defs.resolve_assets_def(dg.AssetKey(["safe", "cloud", "vision", "a"]))
    spec = cloud.get_asset_spec()
    assert list(spec.owners) == ["team:storage"] and spec.group_name == "tier_cloud"
    assert [dep.asset_key.path[:2] for dep in spec.deps] == [["safe", "local"]]
    assert spec.partitions_def is not None, "the cadence stays the plan's"
    checks = {key.asset_key.path[0] for key in defs.resolve_asset_graph().asset_check_keys}
    assert checks == {"safe", "backup"}, "the posture is no dataset's"
    context = dg.build_sensor_context(
        instance=one.instance, repository_def=defs.get_repository_def()
    )
    asked = defs.resolve_sensor_def("backup_change_sensor").evaluate_tick(context)
    (request,) = asked.run_requests or []
    assert request.asset_selection == [dg.AssetKey(["safe", "local", "vision", "a"])]


def test_a_translator_that_gives_one_key_twice_is_told_which(project: Make) -> None:
    class Careless(BackupTranslator):
        def get_asset_spec(self, dataset: Dataset, tier: Tier) -> dg.AssetSpec:
            return super().get_asset_spec(dataset, tier).replace_attributes(key="backups")

    with pytest.raises(UsageError, match="vision/a in tier local and vision/a in tier cloud"):
        project().build(translator=Careless())


def test_two_plans_stand_side_by_side_under_two_names(project: Make) -> None:
    one = project()
    other = one.document | {
        "datasets": [{"asset": "sound/b", "source": str(one.root / "elsewhere")}]
    }
    both = dg.Definitions.merge(
        build_backup_defs(one.document, name="pictures"), build_backup_defs(other, name="sounds")
    )
    dg.Definitions.validate_loadable(both)
    names = {job.name for job in both.resolve_all_job_defs()}
    assert {"pictures_restore", "sounds_restore", "pictures_local", "sounds_local"} <= names
    with pytest.raises(UsageError, match="prefix"):
        build_backup_defs(one.document, name="my backups")


def test_pools_tags_and_groups_come_from_the_plan(project: Make) -> None:
    one = project(policy={"run": {"tags": {"team": "storage"}, "retries": 2}})
    one.document["datasets"][0]["group"] = "vision"
    local = one.defs.resolve_assets_def(backup_key("local"))
    assert local.op.pool == "backup_local"
    assert local.op.tags["team"] == "storage"
    assert local.op.retry_policy and local.op.retry_policy.max_retries == 2
    assert local.get_asset_spec().group_name == "backup/vision"
    one = project(policy={"run": {"pool": "nas"}})
    assert one.defs.resolve_assets_def(backup_key("cloud")).op.pool == "nas"


def test_the_plan_in_dagsters_snapshot_holds_no_secret(
    project: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BACKUP_PASSPHRASE", "correct horse battery staple")
    one = project(
        encryption="aes-256-gcm", keys={"main": {"passphrase": {"env": "BACKUP_PASSPHRASE"}}}
    )
    job = one.defs.resolve_job_def("backup_local")
    from dagster import serialize_value

    snapshot = serialize_value(job.get_job_snapshot())
    assert "BACKUP_PASSPHRASE" in snapshot and "correct horse" not in snapshot
    assert one.back_up("local", SUNDAY_THE_FIRST).success
    monkeypatch.delenv("BACKUP_PASSPHRASE")
    reason = first_failure(one.back_up("local", SUNDAY_THE_FIRST))
    assert "export BACKUP_PASSPHRASE" in reason.description


def many_datasets(root: Path, count: int) -> dict[str, Any]:
    """A plan with many datasets in three tiers."""
    return {
        "start": "2026-10-01",
        "encryption": "none",
        "stores": {tier["name"]: f"file://{root}/stores/{tier['name']}" for tier in THREE_TIERS},
        "policies": {"default": {"tiers": THREE_TIERS}},
        "datasets": [
            {"asset": f"lake/table_{number}", "source": str(root / f"datasets/{number}")}
            for number in range(count)
        ],
    }


@pytest.mark.slow
def test_three_hundred_datasets_load(tmp_path: Path) -> None:
    started = time.process_time()
    defs = build_backup_defs(many_datasets(tmp_path, 300))
    dg.Definitions.validate_loadable(defs)
    assert time.process_time() - started < 30
    graph = defs.resolve_asset_graph()
    assert len(graph.materializable_asset_keys) == 900 + 1  # and the posture
    assert len(list(graph.asset_check_keys)) == 3900 + 1
    assert len(list(defs.schedules or ())) == 6
    assert len(list(defs.sensors or ())) == 1


def test_an_s3_resource_for_a_store_that_is_not_on_s3_is_refused(project: Make) -> None:
    with pytest.raises(UsageError, match="not on S3"):
        project().build(s3={"local": S3Resource()})
    with pytest.raises(UsageError, match="no store clowd"):
        project().build(s3={"clowd": S3Resource()})


# Dagster's own warning, where it initializes a resource within a resource.
@pytest.mark.filterwarnings("ignore:InitResourceContext.dagster_run is deprecated")
@pytest.mark.services
@pytest.mark.parametrize("own_process", [True, False])
def test_a_store_takes_region_endpoint_and_credentials_from_an_s3_resource(
    project: Make, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch, own_process: bool
) -> None:
    one = project(own_process=own_process)
    prefix = os.urandom(6).hex()
    one.document["stores"]["local"] = {"url": f"s3://backups/{prefix}", "addressing": "path"}
    monkeypatch.setenv("OUR_S3_KEY", s3_server.access_key)
    monkeypatch.setenv("OUR_S3_SECRET", s3_server.secret_key)
    resource = S3Resource(
        endpoint_url=s3_server.endpoint,
        region_name=s3_server.region,
        aws_access_key_id=dg.EnvVar("OUR_S3_KEY"),
        aws_secret_access_key=dg.EnvVar("OUR_S3_SECRET"),
    )
    one.build(s3={"local": resource})
    result = one.back_up("local", SUNDAY_THE_FIRST)
    assert result.success, first_failure(result)
    assert one.check("matches", "local", SUNDAY_THE_FIRST).passed


def test_importing_the_package_imports_no_dagster() -> None:
    import subprocess
    import sys

    code = "import sys, backup_pipeline, backup_pipeline.runner; print('dagster' in sys.modules)"
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "False"
    assert backup_pipeline.BackupComponent.__name__ == "BackupComponent"

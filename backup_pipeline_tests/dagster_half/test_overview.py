"""The posture as an asset: its figures, its picture, what no policy protects, and its check."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import dagster as dg
import pytest

from backup_pipeline.cli import main
from backup_pipeline.graph import EXEMPT_TAG
from backup_pipeline_tests.dagster_half.project import Project, first_failure

Make = Callable[..., Project]


def look(one: Project) -> tuple[dict[str, Any], dg.AssetCheckEvaluation]:
    """Materialize the posture; what it says, and its check."""
    job = one.defs.resolve_job_def("backup_posture_job")
    result = job.execute_in_process(instance=one.instance, raise_on_error=False)
    assert result.success, first_failure(result)
    (event,) = result.get_asset_materialization_events()
    found = event.step_materialization_data.materialization.metadata
    (check,) = result.get_asset_check_evaluations()
    return {name.removeprefix("backup/"): value.value for name, value in found.items()}, check


def test_the_posture_is_an_asset_with_figures_a_picture_and_a_check(project: Make) -> None:
    one = project(tiers=[{"name": "local", "kind": "full"}], start="2026-11-01")
    one.back_up("local", "2026-11-01")
    said, check = look(one)
    assert (said["datasets"], said["datasets_protected"], said["rpo_missed"]) == (1, 1, 0)
    assert (said["integrity"], said["missing_days"]) == (1.0, 0)
    assert check.passed, check.description
    row = said["posture"].splitlines()[2]
    assert row.startswith("| vision/a | local | fresh |")
    picture = said["days"].partition("base64,")[2].removesuffix(")")
    drawn = ElementTree.fromstring(base64.b64decode(picture))
    assert "vision/a · local" in "".join(drawn.itertext())

    one.at("2026-11-04T10:00:00")
    said, check = look(one)
    assert (said["datasets_protected"], said["rpo_missed"], said["missing_days"]) == (0, 1, 2)
    assert not check.passed
    assert check.severity == dg.AssetCheckSeverity.ERROR
    assert "the RPO of 26 h is broken" in str(check.description)
    kinds = [condition["kind"] for condition in said["conditions"]]
    assert kinds == ["rpo_missed", "missed_day", "missed_day"]


def test_assets_that_no_policy_protects_are_told_with_what_depends_on_them(
    project: Make,
) -> None:
    upstream = [
        dg.AssetSpec("raw"),
        dg.AssetSpec(["vision", "a"], deps=["raw"]),
        dg.AssetSpec("report", deps=[dg.AssetKey(["vision", "a"])]),
        dg.AssetSpec("scratch", tags={EXEMPT_TAG: "made-anew-daily"}),
    ]
    one = project()
    one.build(upstream=upstream)
    one.instance.report_runless_asset_event(dg.AssetMaterialization("seen_elsewhere"))
    one.back_up("local", "2026-11-01")
    said, _ = look(one)
    found = said["coverage"]
    assert (found["assets"], found["protected"], said["unprotected_assets"]) == (5, 1, 3)
    assert found["exempt"] == {"scratch": "made-anew-daily"}
    assert [(row["asset"], row["downstream"]) for row in found["unprotected"]] == [
        ("raw", 2),
        ("seen_elsewhere", None),
        ("report", 0),
    ]


def test_the_command_line_shows_what_the_asset_last_said_of_the_graph(
    project: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import yaml

    one = project()
    one.build(upstream=[dg.AssetSpec("raw"), dg.AssetSpec(["vision", "a"], deps=["raw"])])
    look(one)
    (tmp_path / "backup.yaml").write_text(yaml.safe_dump(one.document))
    main(["status", "--json", "--plan", str(tmp_path / "backup.yaml"), "--dagster"])
    said = json.loads(capsys.readouterr().out)
    assert said["coverage"]["unprotected"] == [{"asset": "raw", "downstream": 1, "upstream": 0}]
    assert said["summary"]["unprotected_assets"] == 1


def test_two_plans_have_two_postures(project: Make) -> None:
    one = project()
    first = one.build()
    second = one.build(name="other")
    keys = [
        spec.key
        for defs in (first, second)
        for asset in defs.assets or ()
        if isinstance(asset, dg.AssetsDefinition)
        for spec in asset.specs
        if spec.key.path[-1] == "posture"
    ]
    assert keys == [dg.AssetKey(["backup", "posture"]), dg.AssetKey(["other", "posture"])]

"""Meeting the user's own assets: every way in which a dataset may be partitioned, materialized."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import dagster as dg
import pytest

from backup_pipeline_tests.dagster_half.project import (
    QUIET,
    SUNDAY_THE_FIRST,
    Project,
    backup_key,
    first_failure,
)

Make = Callable[..., Project]

BERLIN = "Europe/Berlin"
DAILY = dg.DailyPartitionsDefinition("2026-10-01", timezone=BERLIN)
UPSTREAMS: dict[str, tuple[dg.PartitionsDefinition | None, str | None]] = {
    "unpartitioned": (None, None),
    "daily in the plan's zone": (DAILY, SUNDAY_THE_FIRST),
    "daily in UTC": (dg.DailyPartitionsDefinition("2026-10-01", timezone="UTC"), SUNDAY_THE_FIRST),
    "hourly": (
        dg.HourlyPartitionsDefinition("2026-10-01-00:00", timezone=BERLIN),
        f"{SUNDAY_THE_FIRST}-05:00",
    ),
    "static": (dg.StaticPartitionsDefinition(["north", "south"]), "north"),
    "dynamic": (dg.DynamicPartitionsDefinition(name="cameras"), "camera-7"),
    "multi": (
        dg.MultiPartitionsDefinition(
            {"day": DAILY, "side": dg.StaticPartitionsDefinition(["left", "right"])}
        ),
        str(dg.MultiPartitionKey({"day": SUNDAY_THE_FIRST, "side": "left"})),
    ),
}


def dataset_asset(partitions: dg.PartitionsDefinition | None) -> dg.AssetsDefinition:
    """The user's asset that writes vision/a."""

    @dg.asset(key=["vision", "a"], partitions_def=partitions)
    def write() -> None: ...

    return write


def materialized(one: Project, asset: dg.AssetsDefinition, partition: str | None) -> None:
    """Materialize the user's asset: some mappings fail only then."""
    if isinstance(asset.partitions_def, dg.DynamicPartitionsDefinition):
        one.instance.add_dynamic_partitions("cameras", ["camera-7"])
    done = dg.materialize([asset], instance=one.instance, partition_key=partition, run_config=QUIET)
    assert done.success


@pytest.mark.parametrize(("holds", "known"), [("whole", False), ("slice", True)])
@pytest.mark.parametrize("case", UPSTREAMS)
def test_a_dataset_is_backed_up_however_its_own_asset_is_partitioned(
    project: Make, case: str, known: bool, holds: str
) -> None:
    partitions, partition = UPSTREAMS[case]
    one = project(timezone=BERLIN, tiers=[{"name": "local"}])
    if holds == "slice":
        one.document["datasets"] = [_slices(one)]
        one.pass_time(days=1)
    asset = dataset_asset(partitions)
    defs = one.build(upstream=[asset] if known else ())
    merged = dg.Definitions.merge(dg.Definitions(assets=[asset]), defs)
    dg.Definitions.validate_loadable(merged)
    materialized(one, asset, partition)
    result = dg.materialize(
        [asset, *(merged.assets or ())],  # pyright: ignore[reportArgumentType]
        selection=dg.AssetSelection.assets(backup_key("local")).without_checks()
        | dg.AssetSelection.checks(dg.AssetCheckKey(backup_key("local"), "complete")),
        instance=one.instance,
        resources=merged.resources,
        partition_key=SUNDAY_THE_FIRST,
        run_config=QUIET,
        raise_on_error=False,
    )
    assert result.success, first_failure(result)


def _slices(one: Project) -> dict[str, Any]:
    one.write(f"slices/{SUNDAY_THE_FIRST}", "events.json", b"{}")
    place = str(one.root / "datasets/slices/{day}")
    return {"asset": "vision/a", "source": {"day_paths": place}, "holds": "slice"}


@pytest.mark.parametrize(
    ("case", "holds", "mapping"),
    [
        ("daily in the plan's zone", "slice", dg.TimeWindowPartitionMapping),
        ("hourly", "slice", dg.TimeWindowPartitionMapping),
        ("daily in the plan's zone", "whole", dg.AllPartitionMapping),
        ("daily in UTC", "slice", dg.AllPartitionMapping),
        ("static", "slice", dg.AllPartitionMapping),
        ("unpartitioned", "slice", dg.AllPartitionMapping),
    ],
)
def test_days_are_mapped_one_to_one_only_for_slices_of_the_same_days(
    project: Make, case: str, holds: str, mapping: type
) -> None:
    one = project(timezone=BERLIN, tiers=[{"name": "local"}])
    if holds == "slice":
        one.document["datasets"] = [_slices(one)]
    user = dg.Definitions(assets=[dataset_asset(UPSTREAMS[case][0])])
    spec = one.build(upstream=user).resolve_assets_def(backup_key("local")).get_asset_spec()
    (dep,) = spec.deps
    assert isinstance(dep.partition_mapping, mapping)


def test_copying_tiers_depend_on_the_same_day_of_the_tier_that_they_copy(project: Make) -> None:
    wednesday = "2026-11-04"
    offsite = {"every": "month", "day_of_month": 4, "kind": "full", "if_missed": "nearest"}
    one = project(
        now=f"{wednesday}T10:00:00",
        tiers=[
            {"name": "local"},
            {"name": "cloud", "every": "week", "weekday": "sunday"},
            {"name": "offsite", "from": "cloud", **offsite},
        ],
    )
    found = {
        tier: one.defs.resolve_assets_def(backup_key(tier)).get_asset_spec().deps
        for tier in ("local", "cloud", "offsite")
    }
    assert [dep.asset_key for dep in found["local"]] == [dg.AssetKey(["vision", "a"])]
    assert [dep.asset_key for dep in found["cloud"]] == [backup_key("local")]
    assert [dep.asset_key for dep in found["offsite"]] == [backup_key("cloud")]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)
        day_to_day = dg.TimeWindowPartitionMapping(allow_nonexistent_upstream_partitions=True)
    assert next(iter(found["offsite"])).partition_mapping == day_to_day
    assert one.back_up("local", wednesday).success
    one.pass_time(days=1)
    assert one.back_up("offsite", wednesday).success, "though the weekly tier has no such day"


def test_a_dataset_is_never_defined_twice(project: Make) -> None:
    one = project()
    user = dg.Definitions(assets=[dataset_asset(None)])
    dg.Definitions.validate_loadable(dg.Definitions.merge(user, one.build()))
    with pytest.raises(dg.DagsterInvalidDefinitionError, match="Duplicate asset key"):
        twice = dg.Definitions.merge(user, one.build(external_assets=True))
        dg.Definitions.validate_loadable(twice)


def test_a_dataset_that_nobody_defines_can_be_an_external_asset(project: Make) -> None:
    one = project()
    defs = one.build(external_assets=["vision/a"])
    dg.Definitions.validate_loadable(defs)
    specs = {spec.key: spec for spec in defs.resolve_all_asset_specs()}
    assert "datasets/vision/a" in (specs[dg.AssetKey(["vision", "a"])].description or "")
    assert one.back_up("local", SUNDAY_THE_FIRST).success

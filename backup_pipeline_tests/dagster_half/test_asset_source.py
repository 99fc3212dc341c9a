"""What a dataset's asset wrote is backed up with no path given, whichever IO manager wrote it."""

import pickle
import secrets
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster_aws.s3 import S3PickleIOManager, S3Resource
from upath import UPath

from backup_pipeline.cli import main
from backup_pipeline.s3_server import S3Server
from backup_pipeline_tests.dagster_half.project import QUIET, Project, first_failure
from backup_pipeline_tests.dagster_half.test_sensors import evaluate

Make = Callable[..., Project]
DAYS = dg.DailyPartitionsDefinition("2026-10-30")
DAYS_MADE = ("2026-10-30", "2026-10-31")
DAILY = [{"name": "local", "every": "day", "kind": "full"}]


class TextIOManager(dg.UPathIOManager):
    """A user's own: text files."""

    extension = ".txt"

    def dump_to_path(self, context: dg.OutputContext, obj: Any, path: UPath) -> None:
        path.write_text(obj)

    def load_from_path(self, context: dg.InputContext, path: UPath) -> Any:
        return path.read_text()


@dg.asset(key=["vision", "a"])
def whole(context: dg.AssetExecutionContext) -> str:
    return context.run.tags["said"]


@dg.asset(key=["vision", "ab"])
def beside(context: dg.AssetExecutionContext) -> str:
    return context.run.tags["said"]


@dg.asset(key=["vision", "a"], partitions_def=DAYS)
def daily(context: dg.AssetExecutionContext) -> str:
    return f"{context.partition_key} {context.run.tags['said']}"


def made(
    make: Make, tmp_path: Path, *, source: Any = "asset", **more: Any
) -> tuple[Project, Callable[..., None]]:
    """A project whose dataset is an asset; and a way to materialize that."""
    one = make(tiers=DAILY)
    one.document["datasets"] = [{"asset": "vision/a", "source": {"asset": source}, **more}]
    if source == "asset":
        one.document["datasets"][0]["source"] = {"asset": {}}

    def materialize(asset: Any, said: str, manager: Any = None, day: str | None = None) -> None:
        result = dg.materialize(
            [asset],
            resources={"io_manager": manager or dg.FilesystemIOManager(base_dir=str(tmp_path))},
            instance=one.instance,
            partition_key=day,
            tags={"said": said},
            run_config=QUIET,
        )
        assert result.success

    return one, materialize


def restored(one: Project, day: str) -> dict[str, bytes]:
    target = one.root / "out" / day
    with one.runner as runner:
        runner.restore("vision/a", day=date.fromisoformat(day), to=target)
    return {
        str(path.relative_to(target)): path.read_bytes()
        for path in target.rglob("*")
        if path.is_file()
    }


def test_what_dagsters_own_io_manager_wrote_is_found_and_followed(
    project: Make, tmp_path: Path
) -> None:
    one, materialize = made(project, tmp_path)
    failed = one.back_up("local", "2026-11-01")
    assert "no materialization of vision/a says where it was written" in str(first_failure(failed))
    materialize(whole, "first")
    result = one.back_up("local", "2026-11-01")
    assert result.success, first_failure(result)
    # It moved: the next materialization says so, and nobody edits the plan.
    materialize(whole, "second", dg.FilesystemIOManager(base_dir=str(tmp_path / "moved")))
    one.at("2026-11-02T10:00:00")
    assert one.back_up("local", "2026-11-02").success
    assert {day: pickle.loads(restored(one, day)["a"]) for day in ("2026-11-01", "2026-11-02")} == {
        "2026-11-01": "first",
        "2026-11-02": "second",
    }


def test_partition_d_of_the_asset_is_slice_d_of_its_backups(project: Make, tmp_path: Path) -> None:
    one, materialize = made(project, tmp_path, holds="slice")
    for day in ("2026-10-30", "2026-10-31"):
        materialize(daily, "early", day=day)
    materialize(daily, "rewritten", day="2026-10-30")
    one.at("2026-11-02T10:00:00")
    for day in ("2026-10-30", "2026-10-31"):
        result = one.back_up("local", day)
        assert result.success, first_failure(result)
    assert pickle.loads(restored(one, "2026-10-30")["2026-10-30"]) == "2026-10-30 rewritten"
    assert pickle.loads(restored(one, "2026-10-31")["2026-10-31"]) == "2026-10-31 early"
    failed = one.back_up("local", "2026-11-01")
    assert "partition 2026-11-01 of vision/a was never materialized" in str(first_failure(failed))


def test_all_partitions_are_a_dataset_and_a_users_io_manager_will_do(
    project: Make, tmp_path: Path
) -> None:
    one, materialize = made(project, tmp_path)
    manager = TextIOManager(UPath(tmp_path / "texts"))
    for day in ("2026-10-30", "2026-10-31"):
        materialize(daily, "x", manager, day)
    result = one.back_up("local", "2026-11-01")
    assert result.success, first_failure(result)
    assert restored(one, "2026-11-01") == {
        "2026-10-30.txt": b"2026-10-30 x",
        "2026-10-31.txt": b"2026-10-31 x",
    }


@pytest.mark.services
# Dagster's own warning, where it initializes a resource within a resource.
@pytest.mark.filterwarnings("ignore:InitResourceContext.dagster_run is deprecated")
@pytest.mark.parametrize(
    ("holds", "days"), [("whole", ()), ("whole", DAYS_MADE), ("slice", DAYS_MADE)]
)
def test_what_the_s3_io_manager_wrote_is_backed_up_from_there(
    project: Make,
    tmp_path: Path,
    s3_server: S3Server,
    monkeypatch: pytest.MonkeyPatch,
    holds: str,
    days: tuple[str, ...],
) -> None:
    monkeypatch.setenv("OUR_ID", s3_server.access_key)
    monkeypatch.setenv("OUR_SECRET", s3_server.secret_key)
    given = {
        "endpoint": s3_server.endpoint,
        "region": s3_server.region,
        "access_key_id": {"env": "OUR_ID"},
        "secret_access_key": {"env": "OUR_SECRET"},
    }
    one, materialize = made(project, tmp_path, source=given, holds=holds)
    resource = S3Resource(
        endpoint_url=s3_server.endpoint,
        region_name=s3_server.region,
        aws_access_key_id=s3_server.access_key,
        aws_secret_access_key=s3_server.secret_key,
    )
    bucket = f"assets-{secrets.token_hex(4)}"
    resource.get_client().create_bucket(Bucket=bucket)
    manager = S3PickleIOManager(s3_resource=resource, s3_bucket=bucket, s3_prefix="dagster")
    materialize(beside, "no part of it", manager)
    if days:
        for day in days:
            materialize(daily, "in S3", manager, day)
    else:
        materialize(whole, "in S3", manager)
    one.at("2026-11-02T10:00:00")
    found: dict[str, Any] = {}
    for day in days if holds == "slice" else ["2026-11-02"]:
        result = one.back_up("local", day)
        assert result.success, first_failure(result)
        found[day] = {name: pickle.loads(file) for name, file in restored(one, day).items()}
    assert (
        found
        == {
            ("whole", ()): {"2026-11-02": {"a": "in S3"}},
            ("whole", DAYS_MADE): {"2026-11-02": {day: f"{day} in S3" for day in days}},
            ("slice", DAYS_MADE): {day: {day: f"{day} in S3"} for day in days},
        }[holds, days]
    )


def test_an_asset_that_gets_partitions_leaves_behind_what_it_was(
    project: Make, tmp_path: Path
) -> None:
    one, materialize = made(project, tmp_path)
    manager = TextIOManager(UPath(tmp_path / "texts"))  # leaves the old file where it is
    materialize(whole, "before", manager)
    materialize(daily, "after", manager, "2026-10-30")
    assert one.back_up("local", "2026-11-01").success
    assert restored(one, "2026-11-01") == {"2026-10-30.txt": b"2026-10-30 after"}
    materialize(whole, "again", manager)
    one.at("2026-11-02T10:00:00")
    assert one.back_up("local", "2026-11-02").success
    assert restored(one, "2026-11-02") == {"a.txt": b"again"}


TWO = dg.MultiPartitionsDefinition({"c": dg.StaticPartitionsDefinition(["x", "y"]), "day": DAYS})


@dg.asset(key=["vision", "a"], partitions_def=TWO)
def in_two_ways(context: dg.AssetExecutionContext) -> str:
    return context.partition_key


def test_partitions_of_several_dimensions_are_a_dataset_but_no_days(
    project: Make, tmp_path: Path
) -> None:
    one, materialize = made(project, tmp_path)
    for color in "xy":
        for day in DAYS_MADE:
            key = dg.MultiPartitionKey({"c": color, "day": day})
            materialize(in_two_ways, "x", None, key)
    result = one.back_up("local", "2026-11-01")
    assert result.success, first_failure(result)
    found = restored(one, "2026-11-01")
    assert {name: pickle.loads(file) for name, file in found.items()} == {
        f"{color}/{day}": f"{color}|{day}" for color in "xy" for day in DAYS_MADE
    }
    one.document["datasets"][0]["holds"] = "slice"
    one.document["stores"] = {"local": str(tmp_path / "slices")}
    one.build()
    one.at("2026-11-02T10:00:00")
    failed = one.back_up("local", "2026-10-30")
    assert "partitions of vision/a are not days, such as " in str(first_failure(failed))


def test_where_partitions_share_a_place_no_day_is_said_to_be_all_of_it(
    project: Make, tmp_path: Path
) -> None:
    one, _ = made(project, tmp_path, holds="slice")
    (tmp_path / "all").mkdir()
    (tmp_path / "all" / "table").write_text("both days")
    for day in DAYS_MADE:
        place = {"path": str(tmp_path / "all")}
        event = dg.AssetMaterialization(["vision", "a"], partition=day, metadata=place)
        one.instance.report_runless_asset_event(event)
    one.at("2026-11-02T10:00:00")
    failed = one.back_up("local", "2026-10-30")
    assert "both lie in" in str(first_failure(failed))
    one.document["datasets"][0]["holds"] = "whole"
    one.document["stores"] = {"local": str(tmp_path / "whole")}
    one.build()
    assert one.back_up("local", "2026-11-02").success
    assert restored(one, "2026-11-02") == {"table": b"both days"}


def test_a_place_that_nothing_reads_is_said(project: Make, tmp_path: Path) -> None:
    one, _ = made(project, tmp_path)
    place = {"uri": "hdfs://lake/features"}
    event = dg.AssetMaterialization(["vision", "a"], metadata=place)
    one.instance.report_runless_asset_event(event)
    said = str(first_failure(one.back_up("local", "2026-11-01")))
    assert "was written to hdfs://lake/features, which is not looked up by itself" in said


def test_the_command_line_and_the_sensor_ask_the_event_log_too(
    project: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, materialize = made(project, tmp_path)
    one.document["policies"]["default"]["on_change"] = {"at_most_every": "1 second"}
    materialize(whole, "first")
    [request] = evaluate(one).run_requests
    assert one.back_up("local", request.partition_key, tags=request.tags).success
    one.pass_time(minutes=5)
    assert not evaluate(one).run_requests, "nothing changed since"

    plan = tmp_path / "backup.yaml"
    plan.write_text(
        f"start: 2026-10-01\nencryption: none\nstores: {{local: {tmp_path}/other}}\n"
        "datasets: [{asset: vision/a, source: {asset: vision/a}}]\n"
    )
    assert main(["backup", "--plan", str(plan)]) == 0
    assert main(["ls", "--plan", str(plan)]) == 0
    assert " a" in capsys.readouterr().out

"""Asset checks of the user's on a restored copy: they see the copy, or they fail."""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import pandas as pd
import pytest
from dagster_aws.s3 import S3PickleIOManager, S3Resource
from dagster_duckdb_pandas import DuckDBPandasIOManager
from upath import UPath

from backup_pipeline import drill_test
from backup_pipeline.drilling.functions import call
from backup_pipeline.engine.errors import UsageError

LIVE = pd.DataFrame({"id": [1, 2, 3]})
RESTORED = pd.DataFrame({"id": [1, 2, 3, 4, 5]})


class CsvIOManager(dg.UPathIOManager):
    """A manager as users write them."""

    extension = ".csv"

    def dump_to_path(self, context: dg.OutputContext, obj: Any, path: UPath) -> None:
        path.write_text(obj.to_csv(index=False))

    def load_from_path(self, context: dg.InputContext, path: UPath) -> Any:
        return pd.read_csv(str(path))


class TwoFoldersIOManager(CsvIOManager):
    def __init__(self, here: UPath, there: UPath) -> None:
        super().__init__(here)


@dg.asset
def orders() -> Any:
    return LIVE


@dg.asset_check(asset=orders)
def five_rows(orders: Any) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(passed=len(orders) == 5, metadata={"rows": len(orders)})


@dg.asset_check(asset=orders)
def looks_itself() -> dg.AssetCheckResult:
    return dg.AssetCheckResult(passed=True)


@dg.asset_check(asset=orders)
def breaks(orders: Any) -> dg.AssetCheckResult:
    raise KeyError("price")


def write(kind: str, folder: Path, frame: pd.DataFrame) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if kind == "csv":
        frame.to_csv(folder / "orders.csv", index=False)
    elif kind == "duckdb":
        with duckdb.connect(str(folder / "lake.duckdb")) as connection:
            connection.execute("create schema if not exists public")
            connection.register("frame", frame)
            connection.execute("create table public.orders as select * from frame")
    else:
        (folder / "orders").write_bytes(pickle.dumps(frame))


def managers(live: Path) -> Mapping[str, Any]:
    s3 = S3Resource(endpoint_url="http://127.0.0.1:9", aws_access_key_id="a", region_name="b")
    return {
        "pickle": dg.FilesystemIOManager(base_dir=str(live)),
        "s3": S3PickleIOManager(s3_resource=s3, s3_bucket="b", s3_prefix="p"),
        "csv": CsvIOManager(UPath(live)),
        "duckdb": DuckDBPandasIOManager(database=str(live / "lake.duckdb")),
    }


@pytest.mark.parametrize("kind", ["pickle", "s3", "csv", "duckdb"])
def test_a_check_sees_the_restored_copy_and_not_the_live_data(kind: str, tmp_path: Path) -> None:
    live, copy = tmp_path / "live", tmp_path / "drill" / "copy"
    write(kind, live, LIVE)
    write(kind, copy, RESTORED)
    resources = {"io_manager": managers(live)[kind]}
    answer = drill_test(five_rows, assets=[orders], resources=resources)(copy)
    assert answer.passed, answer.description
    assert answer.metadata["rows"].value == 5
    write(kind, copy / "again", LIVE)
    (copy / "lake.duckdb").unlink(missing_ok=True)
    test = drill_test(five_rows, assets=[orders], resources=resources)
    assert not test(copy / "again").passed


def test_a_dataset_that_lies_below_the_managers_folder_is_put_there(tmp_path: Path) -> None:
    write("pickle", tmp_path / "drill" / "copy", RESTORED)

    @dg.asset(key=["warehouse", "orders"])
    def below() -> Any:
        return LIVE

    @dg.asset_check(asset=below)
    def five(below: Any) -> bool:
        return dg.AssetCheckResult(passed=len(below) == 5)  # pyright: ignore[reportReturnType]

    test = drill_test(five, assets=[below], at="warehouse")
    assert test(tmp_path / "drill" / "copy").passed
    assert not drill_test(five, assets=[below])(tmp_path / "drill" / "copy").passed
    assert [one.name for one in (tmp_path / "drill").iterdir()] == ["copy"]


def test_what_would_not_see_the_copy_is_refused(tmp_path: Path) -> None:
    write("csv", tmp_path / "copy", RESTORED)
    other = {"io_manager": TwoFoldersIOManager(UPath(tmp_path), UPath(tmp_path))}
    with pytest.raises(UsageError, match="cannot be pointed at the restored copy"):
        drill_test(five_rows, assets=[orders], resources=other)(tmp_path / "copy")
    with pytest.raises(UsageError, match="loads nothing"):
        drill_test(looks_itself, assets=[orders])(tmp_path / "copy")

    def by_hand(folder: Path) -> dict[str, Any]:
        return {"io_manager": TwoFoldersIOManager(UPath(folder), UPath(folder))}

    assert drill_test(five_rows, assets=[orders], resources=by_hand)(tmp_path / "copy").passed


def test_a_check_that_raises_or_finds_nothing_fails_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "copy").mkdir()
    answer = drill_test(five_rows, assets=[orders])(tmp_path / "copy")
    assert not answer.passed and "No such file" in answer.description
    write("pickle", tmp_path / "copy", RESTORED)
    answer = drill_test(breaks, assets=[orders])(tmp_path / "copy")
    assert not answer.passed and "KeyError: 'price'" in answer.description


five_restored = drill_test(five_rows, assets=[orders])


def test_a_plan_names_it_as_any_function(tmp_path: Path) -> None:
    write("pickle", tmp_path / "copy", RESTORED)
    outcome = call(f"{__name__}:five_restored", tmp_path / "copy", 1)
    assert outcome.passed and outcome.said == {"rows": 5}
    outcome = call(f"{__name__}:five_rows", tmp_path / "copy", 1)
    assert not outcome.passed and "backup_pipeline.drill_test" in outcome.reason


MY_PROJECT = """
import dagster as dg

@dg.asset(key=["warehouse", "orders"])
def orders():
    return [1, 2, 3]

@dg.asset_check(asset=orders)
def orders_have_rows(orders) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(passed=len(orders) == 5)
"""


def test_the_page_wraps_a_check_as_it_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = Path(__file__).parents[2] / "docs" / "how-to" / "drills.md"
    _, shown = re.findall(r"^```python\n(.*?)^```", page.read_text(), re.M | re.S)
    (tmp_path / "my_project.py").write_text(MY_PROJECT)
    (tmp_path / "my_restored.py").write_text(shown)
    monkeypatch.syspath_prepend(tmp_path)
    write("pickle", tmp_path / "copy", RESTORED)
    outcome = call("my_restored:orders_restored", tmp_path / "copy", 1)
    assert outcome.passed, outcome.reason

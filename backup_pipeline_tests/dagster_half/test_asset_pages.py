"""The page on what an asset wrote works as it is shown, with assets of a real instance."""

import pickle
import runpy
import textwrap
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
import pytest

from backup_pipeline_tests.dagster_half.project import QUIET
from backup_pipeline_tests.pages import Page, contents

DAY = "2026-11-22"
PROJECT = """
import dagster as dg
import pandas as pd
from dagster_duckdb_pandas import DuckDBPandasIOManager

days = dg.DailyPartitionsDefinition("2026-11-01")

@dg.asset(key=["shop", "orders"])
def orders() -> pd.DataFrame:
    return pd.DataFrame({{"price": [1, 2]}})

@dg.asset(key=["shop", "visits"], partitions_def=days, metadata={{"partition_expr": "day"}})
def visits(context: dg.AssetExecutionContext) -> pd.DataFrame:
    return pd.DataFrame({{"day": [pd.Timestamp(context.partition_key)]}})

defs = dg.Definitions(
    assets=[orders, visits],
    resources={{"io_manager": DuckDBPandasIOManager(database={database!r}, schema="shop")}},
)
"""


@dg.asset(key=["lake", "events"], partitions_def=dg.DailyPartitionsDefinition("2026-11-01"))
def events(context: dg.AssetExecutionContext) -> str:
    return context.partition_key


def test_the_page_on_what_an_asset_wrote_works_as_it_is_shown(
    instance: dg.DagsterInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = f"start: 2026-11-01\nencryption: none\nstores: {{local: {tmp_path}/store}}\n"
    features = tmp_path / "written"
    features.mkdir()
    (features / "one.npy").write_bytes(b"1")

    def materialize(asset: Any, resources: Any, day: str | None = None) -> None:
        ended = dg.materialize(
            [asset], instance=instance, resources=resources, partition_key=day, run_config=QUIET
        )
        assert ended.success

    def restored(asset: str, to: str) -> dict[str, bytes]:
        page.run(f"backup-pipeline restore {asset} --to {to}")
        return contents(tmp_path / to)

    places, now = {"/lake/features": str(features)}, "2026-11-23T12:00:00"
    with Page("how-to/asset-source.md", tmp_path, monkeypatch, places, now=now) as page:
        page.plan(before)
        body: dict[str, Any] = {"dg": dg}
        exec("def written():\n" + textwrap.indent(page.take("python"), "    "), body)
        materialize(dg.asset(body["written"], key=["vision", "features"]), {})

        files = dg.FilesystemIOManager(base_dir=str(tmp_path / "io"))
        for day in (DAY, "2026-11-21"):
            materialize(events, {"io_manager": files}, day)
        page.run("backup-pipeline backup")
        assert restored("vision/features", "features") == {"one.npy": b"1"}
        [(name, content)] = restored("lake/events", "events").items()
        assert (name, pickle.loads(content)) == (DAY, DAY)

        page.plan(before)
        (tmp_path / "my_project").mkdir()
        module = tmp_path / "my_project/definitions.py"
        module.write_text(PROJECT.format(database=str(tmp_path / "warehouse.duckdb")))
        own = runpy.run_path(str(module))
        materialize(own["orders"], own["defs"].resources)
        materialize(own["visits"], own["defs"].resources, DAY)
        page.run("backup-pipeline backup")
        restored("shop/orders", "orders")
        orders = pd.read_parquet(tmp_path / "orders/orders.parquet")
        assert orders["price"].tolist() == [1, 2]
        restored("shop/visits", "restored")
        monkeypatch.chdir(tmp_path)
        visits = eval(page.inline(f'pd.read_parquet("restored/{DAY}.parquet")'))
        assert visits["day"].tolist() == [pd.Timestamp(DAY)]

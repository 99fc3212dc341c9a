"""Tables that an asset's IO manager keeps in a database are backed up through that IO manager."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import pandas as pd
import pytest

from backup_pipeline.cli import main
from backup_pipeline_tests.dagster_half.project import QUIET, Project, first_failure
from backup_pipeline_tests.dagster_half.test_sensors import evaluate

Make = Callable[..., Project]

WAREHOUSE = """
import os
import sys
import dagster as dg
import pandas as pd
from dagster_duckdb_pandas import DuckDBPandasIOManager

print("imported")  # what it prints is nobody's answer

@dg.asset(key=["vision", "a"], {how})
def table(context) -> pd.DataFrame:
    day = context.partition_key if context.has_partition_key else "always"
    said = [context.run.tags["said"]] * 1000
    return pd.DataFrame({{"day": day, "said": said, "number": range(1000)}})

class Odd(dg.IOManager):
    def handle_output(self, context, obj): pass
    def load_input(self, context):
        if os.environ["ODD"] == "ends":
            os._exit(9)
        if os.environ["ODD"] == "hangs":
            import time
            print("hanging", file=sys.stderr, flush=True)
            time.sleep(600)
        return 7

managers = {{
    "duckdb": lambda: DuckDBPandasIOManager(database={database!r}, schema="vision"),
    "odd": Odd,
}}
io_manager = managers[{manager!r}]()
defs = dg.Definitions(assets=[table], resources={{"io_manager": io_manager}})
"""
DAILY = """partitions_def=dg.DailyPartitionsDefinition("2026-10-30"),
    metadata={"partition_expr": "CAST(day AS DATE)"}"""


class Warehouse:
    """A code location of the user's, its database, and a plan that backs its table up."""

    def __init__(
        self, one: Project, folder: Path, *, how: str = "", manager: str = "duckdb"
    ) -> None:
        self.one = one
        self.database = folder / "warehouse.duckdb"
        code = WAREHOUSE.format(how=how, database=str(self.database), manager=manager)
        (folder / f"{folder.name}_defs.py").write_text(code)
        self.name = f"{folder.name}_defs"
        source = {"asset": {"definitions": self.name}}
        one.document["datasets"] = [{"asset": "vision/a", "source": source}]

    def materialize(self, said: str, day: str | None = None) -> None:
        """Have Dagster compute the table."""
        module = import_module(self.name)
        result = dg.materialize(
            [module.table],
            resources={"io_manager": module.io_manager},
            instance=self.one.instance,
            partition_key=day,
            tags={"said": said},
            run_config=QUIET,
        )
        assert result.success

    def back_up(self, day: str) -> Any:
        """Back the table up; the snapshot."""
        result = self.one.back_up("local", day)
        assert result.success, first_failure(result)
        return self.one.runner.snapshots("vision/a", "local")[-1]

    def restored(self, snapshot: Any) -> dict[str, pd.DataFrame]:
        """The tables of a snapshot, by file."""
        target = self.one.root / "out" / snapshot.id
        with self.one.runner as runner:
            runner.restore("vision/a", snapshot=snapshot.id, to=target)
        return {path.name: pd.read_parquet(path) for path in target.iterdir()}

    def select(self, where: str = "true") -> pd.DataFrame:
        """The table as the database has it."""
        with duckdb.connect(str(self.database), read_only=True) as link:
            return link.sql(f"select * from vision.a where {where} order by day, number").df()


@pytest.fixture
def warehouse(
    project: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Warehouse]:
    """Makes a code location that can be imported."""
    folder = tmp_path / f"w{abs(hash(tmp_path))}"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    tiers = [{"name": "local", "every": "day", "kind": "incremental"}]

    def make(own_process: bool = False, **more: Any) -> Warehouse:
        return Warehouse(project(tiers=tiers, own_process=own_process), folder, **more)

    return make


def same(one: pd.DataFrame, other: pd.DataFrame) -> bool:
    """Whether two tables hold the same rows, in whatever order and types of days."""
    rows = [sorted(table.astype(str).itertuples(index=False, name=None)) for table in (one, other)]
    return rows[0] == rows[1] and len(rows[0]) > 0


def test_only_partitions_that_were_materialized_since_are_loaded_again(
    warehouse: Callable[..., Warehouse],
) -> None:
    # In an engine's own process, which finds the user's module where its parent does.
    here = warehouse(how=DAILY, own_process=True)
    for day in ("2026-10-30", "2026-10-31"):
        here.materialize("early", day)
    first = here.back_up("2026-11-01")
    here.one.at("2026-11-02T10:00:00")
    here.materialize("late", "2026-10-31")
    second = here.back_up("2026-11-02")
    assert 0 < second.read_bytes < first.read_bytes * 0.6
    tables = here.restored(second)
    assert sorted(tables) == ["2026-10-30.parquet", "2026-10-31.parquet"]
    for name, table in tables.items():
        assert same(table, here.select(f"day = '{name.partition('.')[0]}'"))
    assert set(here.restored(first)["2026-10-31.parquet"]["said"]) == {"early"}
    here.one.at("2026-11-03T10:00:00")
    assert here.back_up("2026-11-03").read_bytes == 0, "nothing was materialized since"


def test_partitions_that_the_definitions_have_no_more_are_no_part_of_it(
    warehouse: Callable[..., Warehouse],
) -> None:
    here = warehouse(how=DAILY)
    here.one.document["policies"]["default"]["on_change"] = {"at_most_every": "1 second"}
    for day in ("2026-10-30", "2026-10-31"):
        here.materialize("early", day)
    code = here.database.parent / f"{here.name}.py"

    def begin(day: str) -> None:
        text = re.sub(r'Definition\("[0-9-]+"', f'Definition("{day}"', code.read_text())
        # Python knows a compiled module again by the source's size and second.
        code.write_text(f"{text}# it begins later now\n")

    begin("2026-10-31")
    snapshot = here.back_up("2026-11-01")
    assert snapshot.status == "complete"
    assert sorted(here.restored(snapshot)) == ["2026-10-31.parquet"]
    here.one.pass_time(minutes=5)
    assert not evaluate(here.one).run_requests, "nothing changed since"
    begin("2026-11-01")
    said = str(first_failure(here.one.back_up("local", "2026-11-01", config={"force": True})))
    assert "has none of the 2 partitions of vision/a" in said


def test_partition_d_of_a_table_is_slice_d_of_its_backups(
    warehouse: Callable[..., Warehouse],
) -> None:
    here = warehouse(how=DAILY)
    here.one.document["datasets"][0]["holds"] = "slice"
    for day in ("2026-10-30", "2026-10-31"):
        here.materialize("early", day)
    table = here.restored(here.back_up("2026-10-30"))["2026-10-30.parquet"]
    assert same(table, here.select("day = '2026-10-30'"))
    failed = here.one.back_up("local", "2026-10-29")
    assert "partition 2026-10-29 of vision/a was never materialized" in str(first_failure(failed))


def test_a_table_without_partitions_and_the_sensor_and_the_command_line(
    warehouse: Callable[..., Warehouse], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here = warehouse()
    here.one.document["policies"]["default"]["on_change"] = {"at_most_every": "1 second"}
    here.materialize("first")
    [request] = evaluate(here.one).run_requests
    assert here.one.back_up("local", request.partition_key, tags=request.tags).success
    here.one.pass_time(minutes=5)
    assert not evaluate(here.one).run_requests, "nothing changed since"
    plan = tmp_path / "backup.yaml"
    plan.write_text(
        f"start: 2026-10-01\nencryption: none\nstores: {{local: {tmp_path}/other}}\n"
        f"datasets: [{{asset: vision/a, source: {{asset: {{definitions: '{here.name}:defs'}}}}}}]\n"
    )
    assert main(["backup", "--plan", str(plan)]) == 0
    assert main(["restore", "--plan", str(plan), "vision/a", "--to", str(tmp_path / "out")]) == 0
    assert same(pd.read_parquet(tmp_path / "out/a.parquet"), here.select())
    capsys.readouterr()


def test_what_cannot_be_loaded_is_said(
    warehouse: Callable[..., Warehouse], monkeypatch: pytest.MonkeyPatch
) -> None:
    here = warehouse(manager="odd")
    here.materialize("first")
    monkeypatch.setenv("ODD", "number")
    here.one.back_up("local", "2026-11-01")
    [kept] = here.one.runner.snapshots("vision/a", "local")
    assert kept.status == "incomplete"
    [problem] = kept.problems
    assert problem["path"] == "a.parquet"
    assert "it loads a int, and only tables can be stored" in problem["reason"]
    monkeypatch.setenv("ODD", "ends")
    failed = here.one.back_up("local", "2026-11-01")
    assert "what loads vision/a ended by itself, with code 9" in str(first_failure(failed))
    here.one.document["datasets"][0]["source"] = {"asset": {"definitions": "no_such_module"}}
    here.one.build()
    failed = here.one.back_up("local", "2026-11-01")
    assert "No module named 'no_such_module'" in str(first_failure(failed))
    [still] = here.one.runner.snapshots("vision/a", "local")
    assert still.id == kept.id


def test_an_io_manager_that_hangs_is_left_behind_by_nobody(
    warehouse: Callable[..., Warehouse], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    here = warehouse(manager="odd")
    loader = subprocess.Popen(
        [sys.executable, "-m", "backup_pipeline.value_loader", here.name, "vision/a"],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "ODD": "hangs", "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert loader.stdin is not None
    assert loader.stderr is not None
    loader.stdin.write(json.dumps({"partition": None, "to": str(tmp_path / "out")}) + "\n")
    loader.stdin.flush()
    assert any("hanging" in line for line in loader.stderr)
    loader.stdin.close()  # as the kernel does for whoever is killed
    assert loader.wait(20) == 0
    loader.stderr.close()

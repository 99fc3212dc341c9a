"""Tests of a restored copy: what is wrong is told, and nothing passes by accident."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from backup_pipeline.drilling import PlanTests
from backup_pipeline.engine.operations.drill_report import Outcome
from backup_pipeline.plan.drillschema import DrillTestWritten

FUNCTIONS = "backup_pipeline_tests.drilling.drill_functions"
Write = Callable[..., Path]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A restored copy: two tables, a part of another, a text."""
    place = tmp_path / "copy"
    (place / "parts").mkdir(parents=True)
    frame = pd.DataFrame({"id": [1, 2, 3], "price": [1.0, 2.5, 4.0], "note": ["a", None, "b"]})
    frame.to_parquet(place / "orders.parquet")
    frame.to_csv(place / "orders.csv", index=False)
    frame.to_parquet(place / "parts" / "1.parquet")
    frame.iloc[:0].to_parquet(place / "none.parquet")
    (place / "notes.txt").write_text("no table")
    (place / "torn.parquet").write_bytes((place / "orders.parquet").read_bytes()[:200])
    nulls = pa.table({"id": pa.array([1, 2]), "price": pa.array([None, None], pa.float64())})
    pq.write_table(nulls, place / "nulls.parquet")
    return place


def judge(place: Path, **written: Any) -> Outcome:
    paths = sorted(str(p.relative_to(place)).encode() for p in place.rglob("*") if p.is_file())
    test = DrillTestWritten.model_validate(written).resolved()
    [outcome] = PlanTests([test]).run(place, paths, paths)
    return outcome


GOOD: list[dict[str, Any]] = [
    {"table": "orders.parquet"},
    {"table": "orders.*", "rows": 3, "columns": {"id": "int64", "price": "double"}},
    {"table": "orders.csv", "not_null": ["id"], "unique": ["id"]},
    {"table": "**/orders.parquet", "ranges": {"price": {"min": 1, "max": 4}}},
    {"table": "none.parquet", "rows": {"min": 0}},
    {"table": "orders.parquet", "suite": f"{FUNCTIONS}:own_suite"},
]


@pytest.mark.parametrize("written", GOOD, ids=str)
def test_a_table_that_is_as_expected_passes_and_says_how_much_it_was(
    place: Path, written: dict[str, Any]
) -> None:
    outcome = judge(place, **written)
    assert outcome.passed, outcome.reason
    assert outcome.said["expectations"] >= 1 and outcome.files >= 1
    assert json.dumps(outcome.said, allow_nan=False)


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"table": "*.arrow"}, "no file of the snapshot matches"),
    ({"table": "none.parquet"}, "row_count"),
    ({"table": "orders.parquet", "rows": 4}, "row_count"),
    ({"table": "orders.parquet", "columns": ["gone"]}, "to_exist of gone"),
    ({"table": "orders.parquet", "columns": {"id": "string"}}, "id is int64, not string"),
    ({"table": "orders.parquet", "not_null": ["note"]}, "of note: 1 of 3 are not so"),
    ({"table": "orders.parquet", "not_null": ["gone"]}, '"gone" in BatchData does not exist'),
    ({"table": "orders.parquet", "ranges": {"price": {"max": 3}}}, "1 of 3 are not so, such as 4"),
    ({"table": "nulls.parquet", "ranges": {"price": {"max": 3}}}, "nothing but nulls"),
    ({"table": "notes.txt"}, "no table that can be read"),
    ({"table": "torn.parquet"}, "torn.parquet: cannot be read"),
    ({"table": "orders.parquet", "suite": f"{FUNCTIONS}:empty_suite"}, "expects nothing"),
    ({"table": "orders.parquet", "suite": f"{FUNCTIONS}:raises"}, "TypeError"),
    ({"table": "orders.parquet", "suite": f"{FUNCTIONS}:no_such"}, "has no no_such"),
    ({"table": "orders.parquet", "suite": "gone.json"}, "gone.json cannot be read"),
]


@pytest.mark.parametrize(("written", "reason"), WRONG, ids=str)
def test_a_table_that_is_not_as_expected_fails_with_the_reason(
    place: Path, written: dict[str, Any], reason: str
) -> None:
    outcome = judge(place, **written)
    assert not outcome.passed
    assert reason in outcome.reason


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ("{", "is no JSON"),
        ("{}", "no suite of expectations"),
        ('{"expectations": []}', "expects nothing"),
        ('{"expectations": [{"type": "expect_colum_to_exist", "kwargs": {}}]}', "colum_to_exist"),
        ('{"expectations": [{"type": "expect_column_to_exist", "kwargs": {}}]}', "cannot be made"),
        (
            '{"expectations": [{"type": "expect_column_to_exist", "kwargs": {"column": "id"}},'
            ' {"type": "expect_column_to_exist", "kwargs": {"column": "gone"}}]}',
            "to_exist of gone",
        ),
        ('{"expectations": [{"type": "expect_column_to_exist", "kwargs": {"column": "id"}}]}', ""),
    ],
)
def test_a_suite_from_a_file_counts_as_a_whole_or_fails(
    place: Path, tmp_path: Path, document: str, reason: str
) -> None:
    suite = tmp_path / "suite.json"
    suite.write_text(document)
    outcome = judge(place, table="orders.parquet", suite=str(suite))
    assert outcome.passed == (not reason)
    assert reason in outcome.reason


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        ("raises", "raised KeyError: 'label\\nof two lines' (line"),
        ("leaves", "raised SystemExit: 0"),
        ("says_no", "returned False"),
        ("says_nothing", "returned None, which is no answer"),
        ("says_one", "returned 1, which is no answer"),
        ("says_maybe", "which is no answer"),
        ("takes_nothing", "raised TypeError"),
        ("no_such", "has no no_such"),
        ("NOT_A_FUNCTION", "is a int, and no function"),
    ],
)
def test_a_function_that_does_not_say_yes_fails_with_the_reason(
    place: Path, function: str, reason: str
) -> None:
    outcome = judge(place, check=f"{FUNCTIONS}:{function}")
    assert not outcome.passed
    assert reason in outcome.reason


def test_a_function_that_cannot_be_imported_fails_and_so_do_needs_that_nothing_meets(
    place: Path,
) -> None:
    outcome = judge(place, check="no_such_module.of_mine:loads")
    assert not outcome.passed and "no_such_module" in outcome.reason
    outcome = judge(place, check=f"{FUNCTIONS}:loads", needs=["*.parquet", "*.onnx"])
    assert not outcome.passed and "no file of the snapshot matches *.onnx" in outcome.reason


def test_what_a_function_says_is_told_and_what_it_prints_is_not_in_the_way(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert judge(place, check=f"{FUNCTIONS}:loads").passed
    assert capsys.readouterr().out == ""
    outcome = judge(place, check=f"{FUNCTIONS}:sees")
    assert outcome.passed and outcome.said["count"] == 7 and outcome.said["nan"] == "nan"


def test_a_table_outside_the_sample_is_restored_where_none_is_in_it() -> None:
    written = {"table": "*.parquet"}
    paths, some, none = (
        [b"a.csv", b"b.parquet", b"c.parquet"],
        [True, False, True],
        [True, *[False] * 2],
    )
    tests = PlanTests([DrillTestWritten.model_validate(written).resolved()])
    assert (tests.wanted(paths, some), tests.wanted(paths, none)) == ([], [1])
    tests = PlanTests([DrillTestWritten.model_validate({**written, "take": "all"}).resolved()])
    assert tests.wanted(paths, none) == [1, 2]
    check = {"check": "a:b", "needs": ["*.csv", "c*"]}
    tests = PlanTests([DrillTestWritten.model_validate(check).resolved()])
    assert tests.wanted(paths, none) == [0, 2]

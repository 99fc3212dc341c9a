"""Tables of a restored copy: read whole, and held against what the plan expects of them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backup_pipeline.drilling.functions import why
from backup_pipeline.engine.errors import UsageError
from backup_pipeline.engine.operations.drill_report import Outcome

if TYPE_CHECKING:
    import pyarrow as pa

    from backup_pipeline.plan.drilltests import Bounds, TableTest

__all__ = ["expectations_of", "judge_tables", "read_table"]

SHOWN_REASONS = 5

_ALIKE = {
    "large_string": "string",
    "string_view": "string",
    "utf8": "string",
    "large_binary": "binary",
    "binary_view": "binary",
    "float": "float32",
    "float64": "double",
    "str": "string",
}
"""Types that hold the same and are spelled in several ways."""


def read_table(path: Path) -> pa.Table:
    """A Parquet or CSV file as Arrow.

    Raises:
        UsageError: It is neither.
        Exception: Whatever its reader says of a file that it cannot read.
    """
    name = path.name.lower()
    if name.endswith((".parquet", ".pq")):
        import pyarrow.parquet as pq

        file = pq.ParquetFile(path)
        table = file.read()
        if len(table) != file.metadata.num_rows:
            raise UsageError(f"holds {len(table)} rows; its footer says {file.metadata.num_rows}")
        return table
    if name.endswith((".csv", ".csv.gz", ".tsv", ".tsv.gz")):
        import pyarrow.csv as csv

        options = csv.ParseOptions(delimiter="\t" if ".tsv" in name else ",")
        return csv.read_csv(path, parse_options=options)
    raise UsageError(f"{path.name} is no table that can be read", "Parquet or CSV; or a function")


def expectations_of(test: TableTest) -> list[dict[str, Any]]:
    """The ready-made suite: rows, columns, nulls, uniqueness and ranges, as expectations."""

    def one(kind: str, **kwargs: Any) -> dict[str, Any]:
        return {"type": f"expect_{kind}", "kwargs": kwargs}

    made = [one("table_row_count_to_be_between", **_between(test.rows))]
    made += [one("column_to_exist", column=name) for name in test.columns]
    made += [one("column_values_to_not_be_null", column=name) for name in test.not_null]
    made += [one("column_values_to_be_unique", column=name) for name in test.unique]
    made += [
        one("column_values_to_be_between", column=name, **_between(bounds))
        for name, bounds in test.ranges.items()
    ]
    return made


def _between(bounds: Bounds) -> dict[str, Any]:
    return {"min_value": bounds.least, "max_value": bounds.most}


def judge_tables(test: TableTest, place: Path, names: Sequence[str], of_files: int) -> Outcome:
    """Hold tables against what is expected of each.

    Args:
        test: What.
        place: Where the restored copy is.
        names: The tables' paths below it.
        of_files: How many tables of the snapshot the test is about.
    """
    began_s = time.perf_counter()
    wrong: list[str] = []
    rows = evaluated = 0
    if not names:
        wrong.append(f"no file of the snapshot matches {test.table}")
    else:
        try:
            suites = _suites(test)
        except UsageError as error:
            wrong.append(str(error))
        except Exception as error:  # whatever the library or a suite's module raises
            wrong.append(f"its suites cannot be made: {why(error)}")
        else:
            for name in names:
                found, count, done = _judge(test, place / name, suites)
                wrong += [f"{name}: {reason}" for reason in found]
                rows, evaluated = rows + count, evaluated + done
    shown = "; ".join(wrong[:SHOWN_REASONS])
    more = f"; and {len(wrong) - SHOWN_REASONS} more" if len(wrong) > SHOWN_REASONS else ""
    good = f"{rows} rows of {len(names)} of {of_files} tables are as expected"
    return Outcome(
        name=f"table {test.table}",
        passed=not wrong,
        reason=shown + more if wrong else good,
        files=len(names),
        of_files=of_files,
        elapsed_s=time.perf_counter() - began_s,
        said={"rows": rows, "expectations": evaluated, "unmet_expectations": len(wrong)},
    )


def _suites(test: TableTest) -> list[Any]:
    from backup_pipeline.drilling.suites import load_suite, make_suite

    suites = [make_suite("ready-made", expectations_of(test))]
    return [*suites, load_suite(test.suite)] if test.suite is not None else suites


def _judge(test: TableTest, path: Path, suites: Sequence[Any]) -> tuple[list[str], int, int]:
    """What is wrong with one table, how many rows it has, and how much was evaluated."""
    from backup_pipeline.drilling.suites import validate

    try:
        table = read_table(path)
        frame = table.to_pandas()
    except UsageError as error:
        return [error.message], 0, 0
    except Exception as error:  # a reader of damaged files may raise anything
        return [f"cannot be read: {why(error)}"], 0, 0
    wrong, evaluated = _other_types(test, table), 0
    for suite in suites:
        try:
            found, done = validate(frame, suite)
        except Exception as error:
            found, done = [f"suite {suite.name} cannot be evaluated: {why(error)}"], 0
        wrong, evaluated = wrong + found, evaluated + done
    return wrong, len(table), evaluated


def _other_types(test: TableTest, table: pa.Table) -> list[str]:
    """Columns of another type than is expected."""
    found = {field.name: str(field.type) for field in table.schema}
    return [
        f"column {name} is {found[name]}, not {wanted}"
        for name, wanted in test.columns.items()
        if wanted is not None and name in found and not _same(found[name], wanted)
    ]


def _same(found: str, wanted: str) -> bool:
    found, wanted = _ALIKE.get(found, found), _ALIKE.get(wanted.lower(), wanted.lower())
    return found == wanted or found.startswith(f"{wanted}[")  # timestamp, in whatever unit

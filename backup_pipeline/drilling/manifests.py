"""A manifest held against a suite of expectations of the user's."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from backup_pipeline.drilling.functions import why
from backup_pipeline.engine.errors import UsageError
from backup_pipeline.engine.operations.drill_report import Outcome

if TYPE_CHECKING:
    from backup_pipeline.engine.format.record import Snapshot
    from backup_pipeline.engine.repository import Repository

__all__ = ["judge_manifest", "manifest_frame"]

SHOWN_REASONS = 5


def manifest_frame(
    repository: Repository, snapshot: Snapshot, before: Snapshot | None = None
) -> Any:
    """A snapshot's manifest as a pandas data frame, one row an entry.

    Columns: ``path``, ``folder``, ``name``, ``suffix`` (text), ``type``, ``state``, ``size``,
    ``modified`` (UTC), ``mode``, and ``size_before``, which is null for what was not there in the
    snapshot before.
    """
    columns = ["path", "type", "state", "size", "mtime_ns", "mode"]
    frame = _frame(repository, snapshot, columns)
    path = frame["path"]
    parts = path.str.rpartition("/")
    frame.insert(1, "folder", parts[0])
    frame.insert(2, "name", parts[2])
    frame.insert(3, "suffix", parts[2].str.extract(r".(\.[^.]+)$", expand=False).fillna(""))
    import pandas as pd

    frame["modified"] = pd.to_datetime(frame.pop("mtime_ns"), unit="ns", utc=True)
    if before is not None:
        old = _frame(repository, before, ["path", "size"]).set_index("path")["size"]
        frame["size_before"] = path.map(old)
    else:
        frame["size_before"] = float("nan")
    return frame


def _frame(repository: Repository, snapshot: Snapshot, columns: list[str]) -> Any:
    table = repository.manifest(snapshot).table.select(columns)
    words = pa.array(
        [path.decode("utf-8", "backslashreplace") for path in table.column("path").to_pylist()],
        pa.string(),
    )
    return table.set_column(0, "path", words).to_pandas()


def judge_manifest(
    suite: str, repository: Repository, snapshot: Snapshot, before: Snapshot | None
) -> Outcome:
    """Hold a snapshot's manifest against a suite.

    Args:
        suite: A JSON file or ``module:function``, as the plan names it.
        repository: Where both snapshots are.
        snapshot: Which.
        before: The good snapshot before it, if there is one.
    """
    from backup_pipeline.drilling.suites import load_suite, validate

    began_s = time.perf_counter()
    wrong, evaluated = [], 0
    try:
        loaded = load_suite(suite)
        frame = manifest_frame(repository, snapshot, before)
        wrong, evaluated = validate(frame, loaded)
    except UsageError as error:
        wrong = [str(error)]
    except Exception as error:  # an expectation of the user's own may raise anything
        wrong = [f"cannot be evaluated: {why(error)}"]
    return Outcome(
        name=f"suite {suite.rsplit('/', 1)[-1]}",
        passed=not wrong,
        reason="; ".join(wrong[:SHOWN_REASONS]) or f"{evaluated} expectations are met",
        files=snapshot.files,
        of_files=snapshot.files,
        elapsed_s=time.perf_counter() - began_s,
        said={"expectations": evaluated, "unmet_expectations": len(wrong)},
    )

"""Great Expectations: suites from files and functions, and what a table comes to under one.

The library is imported here alone, when a suite is to be evaluated. Three of its ways would let a
table pass that nobody looked at, and are closed: an expectation that it does not know is left out
of a suite with no more than a message; a suite of nothing passes; and so does a column of nothing
but nulls, in every expectation about its values.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from backup_pipeline.drilling.functions import find, plain, why
from backup_pipeline.engine.errors import UsageError

__all__ = ["Verdict", "is_file", "load_suite", "make_suite", "validate"]

SHOWN_FAILURES = 10

Verdict = tuple[list[str], int]
"""What is wrong, one sentence each, and how many expectations were evaluated."""

Config = Mapping[str, Any]
"""One expectation: its ``type`` and its ``kwargs``."""


def is_file(suite: str) -> bool:
    """Whether a suite is named by a file; else it is ``module:function``."""
    return suite.endswith(".json")


@cache
def _library() -> Any:
    # It would report its use to its makers; nothing of a backup is anybody else's business.
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import great_expectations
        import great_expectations.expectations
    return great_expectations


@cache
def _batches() -> Any:
    """What takes a data frame as a batch."""
    gx = _library()
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False, "metric_calculations": False}
    asset = context.data_sources.add_pandas("restored").add_dataframe_asset("table")
    return asset.add_batch_definition_whole_dataframe("whole")


def make_suite(name: str, expectations: Sequence[Config]) -> Any:
    """A suite of expectations that are given as JSON.

    Raises:
        UsageError: It holds none, or one that the library does not take.
    """
    gx = _library()
    made: list[Any] = []
    for config in expectations:
        kind = config.get("type") or config.get("expectation_type")
        cls = getattr(gx.expectations, _class_name(str(kind)), None)
        try:
            if cls is None:
                from great_expectations.expectations.registry import get_expectation_impl

                cls = get_expectation_impl(str(kind))
            made.append(cls(**config.get("kwargs", {}), meta=config.get("meta")))
        except Exception as error:
            raise UsageError(
                f"expectation {kind} of suite {name} cannot be made: {why(error)}",
                "see Great Expectations' gallery for its name and arguments",
            ) from None
    if not made:
        raise UsageError(f"suite {name} expects nothing", "a suite of nothing would always pass")
    return gx.ExpectationSuite(name=name, expectations=made)


def _class_name(kind: str) -> str:
    return "".join(part.capitalize() for part in kind.split("_"))


def load_suite(named: str) -> Any:
    """A suite as the plan names it: a JSON file, or a function that returns one.

    Raises:
        UsageError: It cannot be had.
    """
    if is_file(named):
        return _from_document(Path(named).name, _read(Path(named)))
    try:
        found = find(named)()
    except UsageError:
        raise
    except (Exception, SystemExit) as error:
        raise UsageError(f"{named} raised {why(error)}") from None
    if isinstance(found, _library().ExpectationSuite):
        if not found.expectations:
            raise UsageError(f"{named} returned a suite that expects nothing")
        return found
    return _from_document(named, found)


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise UsageError(f"{path} is no JSON: {error}") from None


def _from_document(name: str, document: Any) -> Any:
    listed: Any = document.get("expectations") if isinstance(document, Mapping) else document
    configs = isinstance(listed, list) and all(isinstance(one, Mapping) for one in listed)
    if not configs:
        raise UsageError(
            f"{name} is no suite of expectations",
            "a suite is a JSON object with `expectations`, a list of objects with type and kwargs",
        )
    return make_suite(name, listed)


def validate(frame: Any, suite: Any) -> Verdict:
    """Hold a data frame against a suite.

    Args:
        frame: A pandas data frame.
        suite: As ``load_suite`` or ``make_suite`` gave it.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        batch = _batches().get_batch({"dataframe": frame})
        found = batch.validate(suite, result_format="SUMMARY")
    wrong = [_sentence(one) for one in found.results if not one.success]
    if len(found.results) != len(suite.expectations):
        wrong.append(f"{len(found.results)} of {len(suite.expectations)} expectations evaluated")
    if not found.success and not wrong:
        wrong.append("the suite did not pass")
    return [*wrong, *_empty_columns(frame, suite)], len(found.results)


def _empty_columns(frame: Any, suite: Any) -> list[str]:
    """Columns whose values are expected to be something, and that hold none at all."""
    about_values = {
        one.column
        for one in suite.expectations
        if "values" in one.expectation_type and "null" not in one.expectation_type
        for name in ("column",)
        if isinstance(getattr(one, name, None), str)
    }
    return [
        f"column {name} holds nothing but nulls, so its values cannot be judged"
        for name in sorted(about_values & set(map(str, frame.columns)))
        if len(frame) and not frame[name].notna().any()
    ]


def _sentence(one: Any) -> str:
    config = one.expectation_config
    kwargs = {key: value for key, value in config.kwargs.items() if key != "batch_id"}
    column = kwargs.pop("column", None)
    about = f" of {column}" if column else ""
    wanted = ", ".join(f"{key}={value}" for key, value in kwargs.items() if value is not None)
    head = f"{config.type}{about}" + (f" ({wanted})" if wanted else "")
    raised = [
        info.get("exception_message")
        for info in (one.exception_info or {}).values()
        if isinstance(info, Mapping) and info.get("raised_exception")
    ]
    if raised:
        return f"{head}: {raised[0]}"
    result = one.result or {}
    if "unexpected_count" in result:
        examples = list(dict.fromkeys(map(str, result.get("partial_unexpected_list") or ())))[:3]
        tail = f", such as {', '.join(examples)}" if examples else ""
        count = f"{result['unexpected_count']} of {result.get('element_count')}"
        return f"{head}: {count} are not so{tail}"
    observed = plain({"observed": result.get("observed_value")})["observed"]
    return f"{head}: found {observed}"

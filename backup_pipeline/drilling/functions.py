"""The user's own functions: finding ``module:function``, calling it, and judging what it returns.

Whatever a function does, it never passes by accident: an exception, an exit, an answer that is no
answer, a name that leads nowhere are failed results with the reason.
"""

from __future__ import annotations

import importlib
import math
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from backup_pipeline.engine.errors import UsageError
from backup_pipeline.engine.operations.drill_report import Outcome

__all__ = ["answer_of", "call", "find", "plain", "why"]

MOST_TEXT = 500
MOST_SAID = 50


def find(name: str) -> Callable[..., Any]:
    """The function that ``module:function`` names.

    Raises:
        UsageError: It cannot be imported, or is no function.
    """
    module_name, _, function_name = name.partition(":")
    try:
        found: Any = importlib.import_module(module_name)
    except Exception as error:  # a module of the user's may raise anything
        raise UsageError(
            f"{module_name} cannot be imported: {why(error)}",
            "modules are looked for beside the plan's file and on PYTHONPATH",
        ) from error
    for part in function_name.split("."):
        if not hasattr(found, part):
            raise UsageError(f"{module_name} has no {function_name}", f"drill test {name}")
        found = getattr(found, part)
    if type(found).__module__.partition(".")[0] == "dagster":
        raise UsageError(
            f"{name} is a {type(found).__name__} of Dagster's, which takes no path",
            "wrap an asset check with backup_pipeline.drill_test, and name what that returns",
        )
    if not callable(found):
        raise UsageError(f"{name} is a {type(found).__name__}, and no function")
    return found


def call(name: str, place: Path, files: int) -> Outcome:
    """Let a function test a restored copy.

    Args:
        name: ``module:function``; it is given the copy's path.
        place: Where the copy is.
        files: How many files were restored for it.
    """
    began_s = time.perf_counter()
    said: Mapping[str, Any] = {}
    try:
        # What a function prints is no part of our answer, which may be a JSON document.
        with redirect_stdout(sys.stderr):
            passed, reason, said = answer_of(find(name)(place))
    except UsageError as error:
        passed, reason = False, str(error)
    except (Exception, SystemExit) as error:
        passed, reason = False, f"raised {why(error)}{_where(error)}"
    elapsed_s = time.perf_counter() - began_s
    return Outcome(name, passed, reason, files, files, elapsed_s, said)


def answer_of(value: Any) -> tuple[bool, str, dict[str, Any]]:
    """What a function's answer comes to: a bool, or something with ``passed`` and ``metadata``.

    Returns:
        Passed, one sentence, what it says besides.

    Raises:
        UsageError: It is neither; nothing else counts as passed, whatever Python holds for true.
    """
    passed = _truth(value)
    if passed is not None:
        return passed, "as it should be" if passed else "returned False", {}
    passed = _truth(getattr(value, "passed", None))
    if passed is None:
        raise UsageError(
            f"returned {_shown(value)}, which is no answer",
            "return True, False, or something with .passed, such as an AssetCheckResult",
        )
    words = getattr(value, "description", None)
    default = "as it should be" if passed else "did not pass"
    reason = words if isinstance(words, str) and words else default
    metadata = getattr(value, "metadata", None)
    return passed, reason[:MOST_TEXT], plain(metadata if isinstance(metadata, Mapping) else {})


def _truth(value: Any) -> bool | None:
    if isinstance(value, bool):
        return value
    kind = getattr(getattr(value, "dtype", None), "kind", None)
    return bool(value) if kind == "b" and getattr(value, "ndim", None) == 0 else None


def plain(metadata: Mapping[Any, Any]) -> dict[str, Any]:
    """Metadata as JSON carries it: numbers and words; of what is neither, its words."""
    said: dict[str, Any] = {}
    for key, value in list(metadata.items())[:MOST_SAID]:
        inner = getattr(value, "value", value)  # Dagster's metadata values hold theirs so
        if hasattr(inner, "item") and getattr(inner, "ndim", None) == 0:
            inner = inner.item()
        if isinstance(inner, float) and not math.isfinite(inner):
            inner = str(inner)  # JSON has no such numbers
        keep = isinstance(inner, bool | int | float | str)
        said[str(key)] = inner if keep and not isinstance(inner, str) else _shown(inner)
    return said


def _shown(value: Any) -> str:
    try:
        text = value if isinstance(value, str) else repr(value)
    except Exception as error:
        text = f"a {type(value).__name__} that cannot be shown: {type(error).__name__}"
    return text if len(text) <= MOST_TEXT else text[: MOST_TEXT - 1] + "…"


def why(error: BaseException) -> str:
    """An exception in one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:MOST_TEXT]}" if text else type(error).__name__


def _where(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename != __file__]
    return f" (line {own[-1].lineno} of {Path(own[-1].filename).name})" if own else ""

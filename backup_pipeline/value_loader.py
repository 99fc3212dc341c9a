"""Loads what an asset holds through its IO manager, and writes it as Parquet; in its own process.

    python -m backup_pipeline.value_loader my_project.definitions:defs shop/orders

It takes questions as lines of JSON: ``{"partition": …, "to": …}``, answered with ``{"ok": true}``
or ``{"error": …}``; and ``{}``, answered with ``{"partitions": […]}``, those that the asset has
now, or null where it has none. Where there are no such definitions, it says ``{"unloaded": …}``.
"""

from __future__ import annotations

import importlib
import json
import os
import queue
import sys
import threading
from typing import Any, NoReturn

import dagster as dg

__all__ = ["main"]

DEFAULT_ATTRIBUTE = "defs"


def main() -> NoReturn:
    """Answer until standard input ends: whoever asked is gone then, and nothing is waited for."""
    # What the user's code prints is no answer of ours.
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)
        definitions, asset = sys.argv[1:]
        key, loader = dg.AssetKey(asset.split("/")), None
        questions = _questions()
        while True:
            question = questions.get()
            try:
                loader = loader or _Loader(definitions)
                if question:
                    answer = loader.load(key, question["partition"], question["to"])
                else:
                    answer = {"partitions": loader.partitions(key)}
            except Exception as error:
                answer = {"unloaded": _said(error)}
            answers.write(json.dumps(answer) + "\n")
            answers.flush()


def _questions() -> queue.Queue[Any]:
    """What comes in by standard input; its end ends this process, whatever it is at."""
    coming: queue.Queue[Any] = queue.Queue()

    def listen() -> None:
        for line in sys.stdin:
            coming.put(json.loads(line))
        os._exit(0)

    threading.Thread(target=listen, name="questions", daemon=True).start()
    return coming


class _Loader:
    """The user's definitions, and the instance whose event log they go by."""

    def __init__(self, name: str) -> None:
        at_home = bool(os.environ.get("DAGSTER_HOME"))
        self._instance = dg.DagsterInstance.get() if at_home else dg.DagsterInstance.ephemeral()
        self._definitions = _find(name)

    def partitions(self, key: dg.AssetKey) -> list[str] | None:
        """The partitions that an asset has by its definition; None where it has none."""
        found = self._definitions.get_assets_def(key).partitions_def
        if found is None:
            return None
        return list(found.get_partition_keys(dynamic_partitions_store=self._instance))

    def load(self, key: dg.AssetKey, partition: str | None, to: str) -> dict[str, Any]:
        """Load and write one partition."""
        try:
            value = self._definitions.load_asset_value(
                key, instance=self._instance, partition_key=partition
            )
            _write(value, to)
        except Exception as error:
            return {"error": _said(error)}
        return {"ok": True}


def _find(name: str) -> dg.Definitions:
    """What ``module`` or ``module:attribute`` names; called, where it is a function."""
    module, _, attribute = name.partition(":")
    found = getattr(importlib.import_module(module), attribute or DEFAULT_ATTRIBUTE)
    if not isinstance(found, dg.Definitions) and callable(found):
        found = found()
    if not isinstance(found, dg.Definitions):
        raise TypeError(f"it is a {type(found).__name__}, no Definitions")
    return found


def _write(value: Any, to: str) -> None:
    """Write a table as Parquet that is not compressed: the engine does so, and finds it again."""
    if hasattr(value, "write_parquet"):  # polars
        value.write_parquet(to, compression="uncompressed")
    elif hasattr(value, "to_parquet"):  # pandas
        value.to_parquet(to, compression=None)
    elif type(value).__module__.partition(".")[0] == "pyarrow":
        from pyarrow import parquet

        pq: Any = parquet
        pq.write_table(value, to, compression="none")
    else:
        what = type(value).__name__
        raise TypeError(
            f"it loads a {what}, and only tables can be stored (pandas, pyarrow, polars)"
        )


def _said(error: Exception) -> str:
    """The innermost reason, in one line."""
    while error.__cause__ is not None and isinstance(error.__cause__, Exception):
        error = error.__cause__
    said = " ".join(str(error).split())
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:  # whoever asks was interrupted as well, and says so
        sys.exit(130)

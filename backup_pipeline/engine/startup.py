"""What a process that is the engine's own does first, so that a short verb is not all start-up."""

from __future__ import annotations

import importlib
import os
import sys
import threading
from typing import Any

__all__ = ["start_engine"]


def start_engine() -> None:
    """Load pyarrow in a thread, mostly while argon2id computes, which needs no lock of Python's.

    Only for a process that runs verbs and nothing else: it does without pandas, which pyarrow
    would import with its first array (0.25 s, 50 MiB), and without numpy's threads.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    hook = _NoPandas()
    sys.meta_path.insert(0, hook)
    threading.Thread(target=_load_pyarrow, args=(hook,), name="load pyarrow").start()


class _NoPandas:
    """An import hook that finds no pandas."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        """Refuse pandas; leave every other module to the hooks behind this one."""
        if name == "pandas":
            raise ModuleNotFoundError("the engine does without pandas", name=name)


def _load_pyarrow(hook: _NoPandas) -> None:
    try:
        import pyarrow as pa

        for name in ("pyarrow.compute", "pyarrow.parquet"):
            importlib.import_module(name)
        pa.array(())  # here pyarrow looks for pandas, and not again unless it is asked for some
    finally:
        sys.meta_path.remove(hook)

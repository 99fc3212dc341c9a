"""What a process that is the engine's own does first, so that a short verb is not all start-up."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

__all__ = ["start_engine"]

# A thread back from hashing or sealing waits so long for one that runs Python; by default 5 ms,
# in which it could have done several chunks more.
SWITCH_INTERVAL_S = 0.0002


def start_engine() -> None:
    """Have pyarrow loaded while a passphrase is stretched, and leave out what nobody needs.

    Only for a process that runs verbs and nothing else: from here on it does without pandas, which
    pyarrow would import with its first array (0.25 s, 50 MiB), and without numpy's threads.
    """
    from backup_pipeline.engine.keys import do_beside_derivation

    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    sys.meta_path.insert(0, _NoPandas())
    do_beside_derivation(_load_pyarrow)


class _NoPandas:
    """An import hook that finds no pandas."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        """Refuse pandas; leave every other module to the hooks behind this one."""
        if name == "pandas":
            raise ModuleNotFoundError("the engine does without pandas", name=name)


def _load_pyarrow() -> None:
    for name in ("pyarrow", "pyarrow.compute", "pyarrow.parquet"):
        importlib.import_module(name)

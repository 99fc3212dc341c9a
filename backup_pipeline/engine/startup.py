"""What a process of our own does first and last, so that a short verb is not all start-up."""

from __future__ import annotations

import gc
import importlib
import os
import sys
from typing import Any, NoReturn

__all__ = ["end_process", "start_engine", "start_process"]

# A thread back from hashing or sealing waits so long for one that runs Python; by default 5 ms,
# in which it could have done several chunks more.
SWITCH_INTERVAL_S = 0.0002

# Objects made before the garbage collector looks at the young ones. Hardly anything here is
# garbage in a circle, and 700, the default, costs a fifteenth of a first backup.
COLLECTED_OBJECTS = 1_000_000


def start_process() -> None:
    """Spare a process of our own what costs it time and gains it nothing; called at once."""
    gc.set_threshold(COLLECTED_OBJECTS)
    # pydantic would look through all installed packages for plugins that watch it.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")


def end_process(code: int) -> NoReturn:
    """End a process of our own that has answered: its modules need not be taken down one by one.

    Dagster, which the demo loads, has things of its own to tidy up.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    if "dagster" in sys.modules:
        sys.exit(code)
    os._exit(code)


def start_engine(*, pandas: bool = False) -> None:
    """Have pyarrow loaded while a passphrase is stretched, and leave out what nobody needs.

    Only for a process that runs verbs and nothing else: from here on it does without pandas, which
    pyarrow would import with its first array (0.25 s, 50 MiB), and without numpy's threads.

    Args:
        pandas: Whether functions of the user's will be called, which may need it.
    """
    from backup_pipeline.engine.keys import do_beside_derivation

    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # Arrow's own allocator keeps tens of MiB more of what was freed, and is no faster here.
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    if not pandas:
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

"""One module per verb; each takes an open repository and leaves it good whenever it is stopped."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from backup_pipeline.engine.operations.backup import backup
    from backup_pipeline.engine.operations.copy import copy
    from backup_pipeline.engine.operations.diff import Change, diff
    from backup_pipeline.engine.operations.drill import DrillReport, drill
    from backup_pipeline.engine.operations.restore import RestoreReport, restore
    from backup_pipeline.engine.operations.verify import VerifyReport, verify

__all__ = [
    "Change",
    "DrillReport",
    "RestoreReport",
    "VerifyReport",
    "backup",
    "copy",
    "diff",
    "drill",
    "restore",
    "verify",
]

_HOMES = {
    "Change": "diff",
    "DrillReport": "drill",
    "RestoreReport": "restore",
    "VerifyReport": "verify",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_HOMES.get(name, name)}")
    value = getattr(module, name)
    globals()[name] = value  # the function takes the place of the module of its name
    return value

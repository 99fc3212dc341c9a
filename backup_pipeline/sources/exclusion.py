"""Which paths of a source are left out."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

__all__ = ["excluder"]


def excluder(globs: Sequence[str]) -> Callable[[bytes], bool] | None:
    """Tells whether any of some globs matches a path; None where there are no globs."""
    if not globs:
        return None
    from backup_pipeline.engine.manifest import glob_pattern

    patterns = [re.compile(glob_pattern(glob).encode()) for glob in globs]
    return lambda path: any(pattern.search(path) for pattern in patterns)

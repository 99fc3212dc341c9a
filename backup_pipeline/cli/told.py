"""What receivers of alerts were told, in a local file: for `status --alert` under cron."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backup_pipeline.engine.errors import UsageError

if TYPE_CHECKING:
    from backup_pipeline.plan import Plan

__all__ = ["read_told", "told_file", "write_told"]


def told_file(plan: Plan, environ: Mapping[str, str] = os.environ) -> Path:
    """Where it is by default: below ``XDG_STATE_HOME``, one for each plan's file."""
    base = environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    name = hashlib.sha256(str(plan.file).encode()).hexdigest()[:12]
    return Path(base) / "backup-pipeline" / f"alerts-{name}.json"


def read_told(file: Path) -> dict[str, Any]:
    """What was told; nothing where the file is not there.

    Raises:
        UsageError: It cannot be read, or is something else.
    """
    try:
        content: Any = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{file}, which says what was told, cannot be read: {error}",
            "remove it: all that needs a person is then told again",
        ) from None
    if not isinstance(content, dict) or "receivers" not in content:
        raise UsageError(
            f"{file} does not say what was told", "name another file with --alert-state"
        )
    return content


def write_told(file: Path, state: Mapping[str, Any]) -> None:
    """Keep it, whole or not at all.

    Raises:
        UsageError: It cannot be written.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=file.parent, delete=False) as fresh:
            json.dump(state, fresh, indent=1)
        os.replace(fresh.name, file)
    except OSError as error:
        raise UsageError(
            f"{file}, which says what was told, cannot be written: {error.strerror or error}",
            "name another file with --alert-state; else all of it is told again next time",
        ) from None

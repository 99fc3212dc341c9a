"""How long Dagster took to compute datasets, asked of a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence

from backup_pipeline.engine.errors import UsageError

__all__ = ["recompute_durations"]

TIMEOUT_S = 120


def recompute_durations(
    datasets: Sequence[str], environ: Mapping[str, str] = os.environ
) -> dict[str, list[float]]:
    """Seconds that the latest runs took which computed each dataset's own asset.

    Args:
        datasets: Their keys.
        environ: Names the instance, in DAGSTER_HOME.

    Raises:
        UsageError: There is no instance, or it cannot be asked.
    """
    if not environ.get("DAGSTER_HOME"):
        raise UsageError(
            "DAGSTER_HOME is not set: there is no run history to look at",
            "set it to the directory of Dagster's instance",
        )
    try:
        ended = subprocess.run(
            [sys.executable, "-P", "-m", "backup_pipeline.recomputing"],
            input=json.dumps(list(datasets)),
            env=dict(environ),
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=True,
        )
    except subprocess.TimeoutExpired as error:
        raise UsageError("the Dagster instance does not answer", "is its database up?") from error
    except subprocess.CalledProcessError as error:
        last = (error.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise UsageError(
            f"the Dagster instance cannot be asked: {last}", "`backup-pipeline doctor` says more"
        ) from error
    found: dict[str, list[float]] = json.loads(ended.stdout.splitlines()[-1])
    return found

"""Asks Dagster's event log in a process of its own: whoever asks never loads Dagster."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from backup_pipeline.engine.errors import UsageError

__all__ = ["ask_event_log"]

TIMEOUT_S = 120


def ask_event_log(
    ask: Literal["coverage", "durations", "writes"],
    datasets: Sequence[str],
    environ: Mapping[str, str] = os.environ,
) -> dict[str, Any]:
    """What the event log of the instance of DAGSTER_HOME knows of datasets' own assets.

    Args:
        ask: ``durations``: seconds of the latest runs that computed each, newest first.
            ``coverage``: what the posture's asset (its key in place of a dataset's) last said of
            the asset graph. ``writes``: how each was last written, by partition (``""`` where
            it has none).
        datasets: Their keys.
        environ: Names the instance, in DAGSTER_HOME.

    Returns:
        The answer for each dataset.

    Raises:
        UsageError: There is no instance, or it cannot be asked.
    """
    if not environ.get("DAGSTER_HOME"):
        raise UsageError(
            "DAGSTER_HOME is not set: there is no event log to look at",
            "set it to the directory of Dagster's instance",
        )
    try:
        ended = subprocess.run(
            [sys.executable, "-P", "-m", "backup_pipeline.event_log"],
            input=json.dumps({"ask": ask, "datasets": list(datasets)}),
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
    found: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return found

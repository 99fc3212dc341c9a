"""What the Dagster instance lacks for a plan, asked by Dagster's own commands and settings file.

The commands run as processes of their own, so that looking at Dagster never loads it here.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import yaml

from backup_pipeline.findings import Finding, good, note, problem

if TYPE_CHECKING:
    from backup_pipeline.plan import Plan

__all__ = ["look_at_instance"]

AREA = "dagster"
COMMAND_TIMEOUT_S = 60
PREFIX = "backup"  # of pools, schedules and sensors, unless build_backup_defs was told another
REPOSITORY_TAG = "backup/repository"
_NAME = re.compile(r"[A-Za-z0-9_]+\Z")
_PYPROJECT_TABLES = re.compile(r"^\[tool\.(dagster|dg)[.\]]", re.MULTILINE)

_POOLS = "concurrency:\n  pools: {granularity: run, default_limit: 2}"
_TAG_LIMIT = (
    "concurrency:\n  runs:\n    tag_concurrency_limits:\n"
    f'      - {{key: "{REPOSITORY_TAG}", value: {{applyLimitPerUniqueValue: true}}, limit: 1}}'
)


def look_at_instance(plan: Plan, environ: Mapping[str, str] = os.environ) -> Iterator[Finding]:
    """Look at the instance of DAGSTER_HOME.

    Args:
        plan: Names the pools, and says whether automation is wanted.
        environ: Where DAGSTER_HOME is looked up.
    """
    home = environ.get("DAGSTER_HOME")
    if not home:
        yield note(AREA, "DAGSTER_HOME is not set: there is no instance to look at")
        return
    if importlib.util.find_spec("dagster") is None:
        yield problem(AREA, "DAGSTER_HOME is set, but dagster is not installed here")
        return
    settings = _settings(Path(home))
    if isinstance(settings, Finding):
        yield settings
        return
    yield from _look_at_settings(settings)
    folder = _workspace()
    with ThreadPoolExecutor() as pool:
        daemon = pool.submit(_run, ["dagster-daemon", "liveness-check"], environ)
        limits = pool.submit(_run, ["dagster", "instance", "concurrency", "get", "--all"], environ)
        stopped = [
            pool.submit(_run, ["dagster", what, "list", "--stopped", "--name"], environ)
            for what in (("schedule", "sensor") if folder else ())
        ]
        yield _daemon(plan, daemon.result())
        yield from _pools(plan, settings, limits.result())
        yield from _automation(plan, folder, [one.result() for one in stopped])


def _settings(home: Path) -> dict[str, Any] | Finding:
    file = home / "dagster.yaml"
    if not home.is_dir():
        return problem(AREA, f"DAGSTER_HOME {home} is no directory", f"mkdir -p {home}")
    try:
        content: Any = yaml.safe_load(file.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        return problem(AREA, f"{file} cannot be read: {error}")
    return cast("dict[str, Any]", content) if isinstance(content, dict) else {}


def _inside(settings: Mapping[str, Any], *path: str) -> Any:
    value: Any = settings
    for key in path:
        value = cast("dict[str, Any]", value).get(key) if isinstance(value, dict) else None
    return value


def _look_at_settings(settings: Mapping[str, Any]) -> Iterator[Finding]:
    """The lines of dagster.yaml that matter to backups."""
    limits = _inside(settings, "concurrency", "runs", "tag_concurrency_limits") or _inside(
        settings, "run_coordinator", "config", "tag_concurrency_limits"
    )
    keys = [_inside(limit, "key") for limit in cast("list[Any]", limits or [])]
    if REPOSITORY_TAG in keys:
        yield good(AREA, "runs for one dataset in one tier are limited to one at a time")
    else:
        yield note(
            AREA,
            "runs for one dataset in one tier are not limited to one at a time; they would wait"
            " for each other",
            f"add to dagster.yaml:\n{_TAG_LIMIT}",
        )
    if _inside(settings, "run_monitoring", "enabled") is not True:
        yield note(
            AREA,
            "run monitoring is off: a run whose process was killed stays started for ever",
            "add to dagster.yaml:\nrun_monitoring: {enabled: true}",
        )


def _pools(
    plan: Plan, settings: Mapping[str, Any], answer: subprocess.CompletedProcess[str] | str
) -> Iterator[Finding]:
    """Whether each store's pool has a limit; definitions cannot set one."""
    wanted = sorted(
        {
            dataset.run.pool or f"{PREFIX}_{tier.store}"
            for dataset in plan.datasets.values()
            for tier in dataset.tiers.values()
        }
    )
    if _inside(settings, "concurrency", "pools", "granularity") != "run":
        yield note(
            AREA,
            "pools count steps instead of runs: a run may hold a slot while it waits for another",
            f"add to dagster.yaml:\n{_POOLS}",
        )
    if isinstance(answer, str):
        yield problem(AREA, answer)
        return
    limited = set(re.findall(r'^"([^"]+)": ', answer.stdout, re.MULTILINE))
    missing = [name for name in wanted if name not in limited]
    if not missing or _inside(settings, "concurrency", "pools", "default_limit") is not None:
        yield good(AREA, f"pools have limits: {', '.join(wanted)}")
        return
    yield note(
        AREA,
        f"no limit for {', '.join(missing)}: any number of runs may use a store at once",
        "\n".join(f"dagster instance concurrency set {name} 2" for name in missing),
    )


def _daemon(plan: Plan, answer: subprocess.CompletedProcess[str] | str) -> Finding:
    if not isinstance(answer, str) and answer.returncode == 0:
        return good(AREA, "the daemon is alive")
    next = "start it: dagster-daemon run (dagster dev starts one too)"
    found = problem if plan.automation else note
    said = answer if isinstance(answer, str) else "the daemon does not answer"
    return found(AREA, f"{said}: no schedule and no sensor runs", next)


def _automation(
    plan: Plan,
    folder: Path | None,
    answers: Sequence[subprocess.CompletedProcess[str] | str],
) -> Iterator[Finding]:
    """Stopped schedules and sensors of the plan's code location, if this folder knows it."""
    if not plan.automation:
        yield note(AREA, "the plan says `automation: false`: schedules and sensors stay stopped")
        return
    if folder is None:
        yield note(
            AREA,
            "schedules and sensors were not looked at: there is no workspace here",
            "run doctor where workspace.yaml or the project's pyproject.toml is",
        )
        return
    for what, answer in zip(("schedule", "sensor"), answers, strict=True):
        if isinstance(answer, str) or answer.returncode:
            said = answer if isinstance(answer, str) else _last_line(answer.stderr)
            yield note(AREA, f"{what}s could not be listed: {said}")
            continue
        lines = (line.strip() for line in answer.stdout.splitlines())
        stopped = [n for n in lines if n.startswith(f"{PREFIX}_") and _NAME.match(n)]
        if stopped:
            commands = "\n".join(f"dagster {what} start {name}" for name in stopped)
            yield problem(AREA, f"stopped {what}s: {', '.join(stopped)}", commands)
        else:
            yield good(AREA, f"no {what} of the plan is stopped")


def _workspace() -> Path | None:
    """This folder, if Dagster's commands find a workspace in it."""
    here = Path.cwd()
    if (here / "workspace.yaml").is_file():
        return here
    project = here / "pyproject.toml"
    if project.is_file() and _PYPROJECT_TABLES.search(project.read_text(errors="replace")):
        return here
    return None


def _run(
    command: Sequence[str], environ: Mapping[str, str]
) -> subprocess.CompletedProcess[str] | str:
    """Run one of Dagster's commands; a sentence where it could not be."""
    name, *arguments = command
    beside = f"{Path(sys.executable).parent}{os.pathsep}{environ.get('PATH', '')}"
    found = shutil.which(name, path=beside)
    if found is None:
        return f"the command {name} is not installed beside this one"
    try:
        return subprocess.run(
            [found, *arguments],
            env={**environ},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=COMMAND_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"`{' '.join(command)}` failed: {error}"


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"

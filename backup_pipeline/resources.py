"""What a run needs: the plan with its stores and keys, and a way to run one verb of it."""

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field, PrivateAttr, create_model

from backup_pipeline.engine.errors import (
    BackupError,
    Conflict,
    DayUnavailable,
    ObjectExists,
    SourceError,
    StoreError,
    UsageError,
)
from backup_pipeline.event_log import asset_writes
from backup_pipeline.metadata import key
from backup_pipeline.plan import Plan, load_plan
from backup_pipeline.process import EngineCrashed, run_here, run_in_process
from backup_pipeline.runner import Runner, utc_now

if TYPE_CHECKING:
    from dagster_aws.s3 import S3Resource

__all__ = ["BackupResource", "ProgressLog", "Wiring", "backup_resource", "failure"]

PROGRESS_INTERVAL_S = 10.0
"""How often a run logs how far it has come; the first line comes after this time too."""

S3_FIELD = "s3_"
_S3_OPTIONS = {
    "region_name": "region",
    "endpoint_url": "endpoint",
    "profile_name": "profile",
    "aws_access_key_id": "access_key_id",
    "aws_secret_access_key": "secret_access_key",
    "aws_session_token": "session_token",
}
_S3_UNSUPPORTED = {"use_unsigned_session": (None, False), "verify": (None, True)}
"""Settings that a store does not have, and the values with which that makes no difference."""

Clock = Callable[[], datetime]


@dataclass(frozen=True)
class Wiring:
    """What everything that is built from one plan shares.

    Attributes:
        plan: The plan.
        name: Prefix of resource, job, schedule and pool names, so that two plans keep apart.
        clock: Tells the time (UTC, aware); None for the real one.
    """

    plan: Plan
    name: str
    clock: Clock | None = None

    @property
    def resource(self) -> str:
        """The key of the plan's resource."""
        return f"{self.name}_plan"

    @property
    def now(self) -> datetime | None:
        """The time that a run is told; None lets it look at the real clock."""
        return self.clock() if self.clock else None

    def named(self, what: str) -> str:
        """A name of the plan's own for a job, schedule or sensor."""
        return f"{self.name}_{what}"

    def resource_of(self, context: Any) -> "BackupResource":
        """The plan's resource in a run."""
        return getattr(context.resources, self.resource)


class BackupResource(dg.ConfigurableResource):
    """Runs the verbs of a plan: ``backup``, ``copy``, ``restore``, ``verify``, ``drill`` and so on.

    Assets and ops of your own may use it too:

        answer = backups.run("restore", {"dataset": "vision/a", "to": "/tmp/back"})
    """

    plan: dict[str, Any] = Field(
        description="The plan. Secrets stand in it as references only, so it shows none."
    )
    own_process: bool = Field(
        default=True,
        description=(
            "Run the engine in a process of its own. In this one it would share the interpreter"
            " with Dagster's threads, which costs most of its speed."
        ),
    )
    _plan: Plan | None = PrivateAttr(default=None)
    _instance: dg.DagsterInstance | None = PrivateAttr(default=None)

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:
        """Remember the run's instance, whose event log says where assets were written."""
        self._instance = context.instance

    def run(
        self,
        verb: str,
        arguments: Mapping[str, Any],
        *,
        now: datetime | None = None,
        log: Callable[[str], None] | None = None,
    ) -> Any:
        """Run one verb to its end.

        Args:
            verb: A method of ``Runner``.
            arguments: Its arguments as JSON: days as ``YYYY-MM-DD``, times as ISO.
            now: What time it is; the real time if not given.
            log: Takes a line now and then about how far it has come.

        Returns:
            The verb's answer as JSON.

        Raises:
            BackupError: It could not be done.
        """
        plan, environ = self._ready()
        given = {name: value for name, value in arguments.items() if value is not None}
        report = ProgressLog(log) if log else None
        run = run_in_process if self.own_process else run_here
        return run(
            plan,
            verb,
            given,
            now=now,
            on_event=report,
            environ=environ,
            writes=self._writes(plan, given.get("dataset")),
        )

    def runner(self, *, now: datetime | None = None) -> Runner:
        """A runner in this process, for verbs that move no content: ``find``, ``snapshots``.

        Use it in a ``with`` block; it keeps its stores open.
        """
        plan, environ = self._ready()
        instance = self._instance
        writes = None if instance is None else partial(asset_writes, instance)
        clock = (lambda: now) if now else utc_now
        return Runner(plan, clock=clock, environ=environ, writes=writes)

    def _writes(
        self, plan: Plan, dataset: str | None
    ) -> dict[str, dict[str, dict[str, str]]] | None:
        """How the assets were written that the verb may read; None outside a run."""
        if self._instance is None:
            return None
        keys = [
            spec.source.options["key"]
            for key, spec in plan.datasets.items()
            if spec.source.kind == "asset" and dataset in (None, key)
        ]
        return {key: asset_writes(self._instance, key) for key in keys}

    def _ready(self) -> tuple[Plan, dict[str, str]]:
        """The plan and environment, with the S3 settings of Dagster's resources put in.

        Credentials travel in the environment of the engine's process; the plan only names them.
        """
        environ = dict(os.environ)
        stores: dict[str, dict[str, Any]] = {}
        for field in type(self).model_fields:
            if field.startswith(S3_FIELD):
                name = field.removeprefix(S3_FIELD)
                stores[name] = _s3_options(name, getattr(self, field), environ)
        if not stores:
            if self._plan is None:
                self._plan = load_plan(self.plan)
            return self._plan, environ
        document = dict(self.plan)
        written = dict(document["stores"])
        for name, options in stores.items():
            present = written[name]
            present = {"url": present} if isinstance(present, str) else dict(present)
            written[name] = present | options
        document["stores"] = written
        return load_plan(document, environ=environ), environ


def backup_resource(
    plan: Plan, *, s3: "Mapping[str, S3Resource] | None" = None, own_process: bool = True
) -> BackupResource:
    """The resource of a plan.

    Args:
        plan: The plan.
        s3: dagster-aws resources by the name of the store whose region, endpoint and
            credentials they give.
        own_process: Whether the engine runs in a process of its own.

    Raises:
        UsageError: A store is named that the plan does not have or that is not on S3.
    """
    s3 = s3 or {}
    for name in s3:
        spec = plan.stores.get(name)
        if spec is None:
            known = ", ".join(plan.stores)
            raise UsageError(f"the plan has no store {name} for an S3Resource", f"stores: {known}")
        if not spec.display_url.startswith("s3:"):
            raise UsageError(f"store {name} is not on S3: {spec.display_url}")
    if not s3:
        return BackupResource(plan=dict(plan.document), own_process=own_process)
    # Nested resources have to be fields; only so does Dagster resolve their EnvVars at run time.
    fields: dict[str, Any] = {f"{S3_FIELD}{name}": (type(one), ...) for name, one in s3.items()}
    with_s3 = create_model("BackupResource", __base__=BackupResource, **fields)
    given: dict[str, Any] = {f"{S3_FIELD}{name}": one for name, one in s3.items()}
    return with_s3(plan=dict(plan.document), own_process=own_process, **given)


def _s3_options(name: str, resource: "S3Resource", environ: dict[str, str]) -> dict[str, Any]:
    for field, usual in _S3_UNSUPPORTED.items():
        if getattr(resource, field, None) not in usual:
            raise UsageError(
                f"{field} of the S3Resource of store {name} cannot be taken over",
                "leave it out: stores sign every request and check every certificate",
            )
    options: dict[str, Any] = {}
    for field, option in _S3_OPTIONS.items():
        value = getattr(resource, field, None)
        if value is None:
            continue
        if option in ("access_key_id", "secret_access_key", "session_token"):
            variable = f"BACKUP_PIPELINE_{name}_{option}".upper()
            environ[variable] = str(value)
            options[option] = {"env": variable}
        else:
            options[option] = str(value)
    return options


class ProgressLog:
    """Passes progress on to a run's log, seldom enough that the log stays readable.

    Args:
        log: Takes one line.
        clock: Seconds that only grow.
    """

    def __init__(
        self, log: Callable[[str], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._log = log
        self._clock = clock
        self._last = clock()

    def __call__(self, event: Mapping[str, Any]) -> None:
        """Log a progress event, or let it go by."""
        now = self._clock()
        if event.get("line") and now - self._last >= PROGRESS_INTERVAL_S:
            self._last = now
            self._log(str(event["line"]))


def failure(error: BackupError) -> dg.Failure:
    """An error as Dagster's failure: its message, what to do next, and whether to try again."""
    said: dict[str, Any] = {key("error"): type(error).__name__}
    if error.hint:
        said[key("hint")] = error.hint
    if isinstance(error, DayUnavailable):
        days = [day.isoformat() for day in error.available]
        said[key("available_days")] = dg.MetadataValue.json(days)
        said[key("available_day_count")] = len(days)
    notes = getattr(error, "__notes__", None)
    if notes:
        said[key("details")] = "\n".join(notes)
    passing = isinstance(error, StoreError | SourceError | Conflict | EngineCrashed)
    # A name taken by other bytes stays taken; trying again only costs time.
    passing = passing and not isinstance(error, ObjectExists)
    return dg.Failure(description=str(error), metadata=said, allow_retries=passing)

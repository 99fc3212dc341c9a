"""Options that verbs share, and the decorator that turns a function into a verb."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from datetime import datetime
from typing import Any

import click

from backup_pipeline.cli.call import PLAN_VARIABLE, Call, Invocation
from backup_pipeline.engine.startup import start_engine

__all__ = ["AT", "DAY", "INCLUDE", "SNAPSHOT", "TIER", "day_or_none", "verb"]

READER_LEFT = 141
"""What a shell says of a command that SIGPIPE ended."""

OWN_PROCESS = Invocation(own_process=True)

TIER = click.option("--tier", metavar="TIER", help="Look in, or write to, this tier alone.")
DAY = click.option(
    "--day",
    type=click.DateTime(["%Y-%m-%d"]),
    metavar="YYYY-MM-DD",
    help="The day that the snapshot stands for.",
)
AT = click.option(
    "--at",
    metavar="ISO-TIME",
    help="The newest snapshot read by then; without an offset, in the plan's time zone (UTC"
    " with --store).",
)
SNAPSHOT = click.option("--snapshot", metavar="ID", help="A snapshot's id, or its beginning.")
INCLUDE = click.option(
    "--include",
    metavar="GLOB",
    multiple=True,
    help="Only paths that match; ** crosses folders. May be repeated.",
)

_PLAN = click.option(
    "--plan",
    "plan_file",
    metavar="FILE",
    help=f"The plan; default: ${PLAN_VARIABLE}, or ./backup.yaml.",
)
_ANSWER = (
    click.option("--json", "json_", is_flag=True, help="Answer with one JSON document."),
    click.option("--debug", is_flag=True, help="Show the traceback of an unexpected error."),
)
_STORE = (
    click.option("--store", metavar="URL", help="Read this store, without a plan."),
    click.option("--dataset", "dataset_option", metavar="KEY", help="The dataset's key."),
    click.option(
        "--key-file",
        metavar="FILE",
        help="The store's key; else the passphrase in $BACKUP_PASSPHRASE.",
    ),
    click.option(
        "--encryption",
        type=click.Choice(["none"]),
        help="The store was made with `encryption: none`.",
    ),
    click.option("--endpoint", metavar="URL", help="S3 endpoint of the store, if not AWS."),
    click.option("--region", metavar="NAME", help="S3 region of the store."),
)


def day_or_none(moment: datetime | None) -> Any:
    """The date of what ``--day`` took."""
    return moment.date() if moment is not None else None


def _reader_left() -> int:
    """Whoever read our output has gone, as `head` does: end quietly, as other commands do."""
    # Python flushes standard output once more at the end; it must not fail a second time.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return READER_LEFT


def verb(
    *, bare: bool, dataset: bool = True, content: bool = False, pandas: bool = False
) -> Callable[[Callable[..., int]], click.Command]:
    """Make a function a verb: it is given a ``Call`` first, and returns the exit code.

    Args:
        bare: Whether it can work on a store without a plan.
        dataset: Whether it takes a dataset as argument.
        content: Whether it looks into snapshots or makes some.
        pandas: Whether it may call functions of the user's.
    """

    def decorate(function: Callable[..., int]) -> click.Command:
        @functools.wraps(function)
        def run(
            plan_file: str | None,
            json_: bool,
            debug: bool,
            dataset: str | None = None,
            store: str | None = None,
            dataset_option: str | None = None,
            key_file: str | None = None,
            encryption: str | None = None,
            endpoint: str | None = None,
            region: str | None = None,
            **arguments: Any,
        ) -> int:
            if dataset and dataset_option and dataset != dataset_option:
                raise click.UsageError(f"{dataset} and --dataset {dataset_option} differ")
            if content and click.get_current_context().find_object(Invocation) == OWN_PROCESS:
                start_engine(pandas=pandas)
            call = Call(
                json=json_,
                plan_file=plan_file,
                store=store,
                dataset=dataset or dataset_option,
                key_file=key_file,
                encryption=encryption,
                endpoint=endpoint,
                region=region,
            )
            try:
                code = function(call, **arguments)
                sys.stdout.flush()
            except BrokenPipeError:
                return _reader_left()
            finally:
                call.close()
            return code

        wrapped: Any = run
        # The last decorator's option is listed first in the help.
        for option in reversed((_PLAN, *(_STORE if bare else ()), *_ANSWER)):
            wrapped = option(wrapped)
        if dataset:
            wrapped = click.argument("dataset", required=False, metavar="[DATASET]")(wrapped)
        return click.command(short_help=(function.__doc__ or "").splitlines()[0])(wrapped)

    return decorate

"""The command ``backup-pipeline``: its verbs, its exit codes, and how it fails.

Exit codes: 0 good; 1 damage, incompleteness or a failed check; 2 bad usage, plan or key; 3 the
operation could not be done; 130 interrupted.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Sequence
from typing import Any

import click

from backup_pipeline import __version__
from backup_pipeline.cli.call import Invocation, explain
from backup_pipeline.cli.interruption import INTERRUPTED, end_when_interrupted
from backup_pipeline.engine.errors import BackupError

__all__ = ["run"]

COULD_NOT = 3
BAD_USAGE = 2

# Name to module; loaded when it is asked for, so that --help stays quick.
_VERBS = {
    "validate": "planning",
    "doctor": "planning",
    "backup": "writing",
    "missing": "backfilling",
    "backfill": "backfilling",
    "snapshots": "listing",
    "ls": "listing",
    "diff": "listing",
    "restore": "restoring",
    "recover": "recovering",
    "verify": "restoring",
    "drill": "drilling",
    "complete": "completing",
    "repair": "repairing",
    "copy": "writing",
    "expire": "keeping",
    "prune": "keeping",
    "pin": "keeping",
    "unpin": "keeping",
    "why": "keeping",
    "clear": "judging",
    "status": "status",
    "cost": "costing",
    "plan-cost": "costing",
    "demo": "showing",
}
_HELP = {
    "validate": "Check a plan; say every mistake with its line.",
    "doctor": "Try the stores, the keys, the sources and the Dagster instance.",
    "backup": "Back up a dataset, or all of them.",
    "missing": "Say which days were missed, and where each could still come from.",
    "backfill": "Fill the days that were missed, as far as they can be had.",
    "snapshots": "List snapshots.",
    "ls": "List what a snapshot holds.",
    "diff": "Say what differs between two snapshots.",
    "restore": "Restore a snapshot, or some of its files.",
    "recover": "Say all that a store can give back; --to restores all of it.",
    "verify": "Compare what is stored with its digests.",
    "complete": "Hold a snapshot against what the plan expects of its manifest.",
    "drill": "Restore a sample to scratch; compare, time and test it.",
    "repair": "Put right what is damaged, from wherever it still is.",
    "copy": "Copy a snapshot from one tier to another.",
    "expire": "Say which snapshots retention lets go, and why; --apply expires them.",
    "prune": "Say what no snapshot needs any more; --apply deletes it, after a grace.",
    "pin": "Exempt a snapshot from expiry.",
    "unpin": "Let a pinned snapshot expire again.",
    "why": "Say why a snapshot or a stored object is kept.",
    "clear": "Say that a suspicious snapshot is as it should be.",
    "status": "Say how every dataset stands in every tier; --html writes it as a page.",
    "cost": "Say what backups cost a month, and in a year.",
    "plan-cost": "Compare policies by what they cost, and how old and slow they let things get.",
    "demo": "Show the whole of it on real data.",
}


class _Verbs(click.Group):
    """Loads a verb when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _VERBS:
            return None
        module = importlib.import_module(f"backup_pipeline.cli.{_VERBS[cmd_name]}")
        command: click.Command = getattr(module, cmd_name.replace("-", "_"))
        command.name = cmd_name
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl([(name, _HELP[name]) for name in _VERBS])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError:
            import difflib

            near = difflib.get_close_matches(args[0], _VERBS, n=1)
            tail = f"; did you mean {near[0]}?" if near else ""
            raise click.UsageError(f"no verb {args[0]!r}{tail}", ctx) from None


@click.group(
    cls=_Verbs,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 good; 1 damage, incompleteness or a failed check; 2 bad usage, plan or"
    " key; 3 the operation could not be done.",
)
@click.version_option(__version__, message="%(version)s")
def _command() -> None:
    """Backups by a plan, restorable with nothing but this command, a store and a key."""


def run(arguments: Sequence[str] | None) -> int:
    """Run one verb and return the exit code; without arguments, those of this process."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if arguments is None:
        end_when_interrupted()
    as_json, debug = "--json" in given, "--debug" in given
    try:
        return _run(given, own_process=arguments is None)
    except (KeyboardInterrupt, click.exceptions.Abort):
        return INTERRUPTED
    except click.ClickException as error:
        return _misused(error, as_json)
    except BackupError as error:
        return _failed(error, as_json)
    except Exception as error:
        if debug:
            raise
        return _unexpected(error, as_json)


def _run(arguments: list[str], *, own_process: bool) -> int:
    code: Any = _command.main(
        arguments, "backup-pipeline", standalone_mode=False, obj=Invocation(own_process)
    )
    return code if isinstance(code, int) else 0


def _misused(error: click.ClickException, as_json: bool) -> int:
    """What click refuses: an unknown verb or option, a value of the wrong form."""
    context = error.ctx if isinstance(error, click.UsageError) else None
    name = context.command_path if context else "backup-pipeline"
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        error.show()
    elif as_json:
        _print_json("UsageError", BAD_USAGE, error.format_message(), f"`{name} --help` says more")
    else:
        _complain(f"error: {error.format_message()}\nHINT: `{name} --help` says more")
    return BAD_USAGE


def _failed(error: BackupError, as_json: bool) -> int:
    if as_json:
        print(json.dumps({"error": explain(error)}, indent=2))
    else:
        _complain(f"error: {error}")
    return error.exit_code


def _unexpected(error: Exception, as_json: bool) -> int:
    message = f"unexpected {type(error).__name__}: {error}"
    hint = "this is a mistake in backup-pipeline: please report it, with what --debug adds"
    if as_json:
        _print_json("Unexpected", COULD_NOT, message, hint)
    else:
        first_line, *_ = message.splitlines()
        _complain(f"error: {first_line}; {hint}")
    return COULD_NOT


def _print_json(type: str, code: int, message: str, hint: str) -> None:
    error = {"type": type, "exit_code": code, "message": message, "hint": hint}
    print(json.dumps({"error": error}, indent=2))


def _complain(text: str) -> None:
    print(text, file=sys.stderr)

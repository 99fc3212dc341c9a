"""Every operation from the command line, with no Dagster."""

from __future__ import annotations

from collections.abc import Sequence

from backup_pipeline.engine.startup import end_process, start_process

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb.

    Args:
        arguments: What stands after the command's name; default: this process's, which is then
            taken for the command's alone and ended.

    Returns:
        The exit code.
    """
    if arguments is None:
        start_process()
    from backup_pipeline.cli.app import run

    code = run(arguments)
    if arguments is None:
        end_process(code)
    return code

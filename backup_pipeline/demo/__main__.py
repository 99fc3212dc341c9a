"""``python -m backup_pipeline.demo [run|ui]``: the demo without the command line around it."""

from __future__ import annotations

import argparse
import sys

from backup_pipeline.engine.errors import BackupError


def main() -> int:
    """Run the story, or open Dagster on seeded days.

    Returns:
        The exit code.
    """
    parser = argparse.ArgumentParser(prog="python -m backup_pipeline.demo", description=__doc__)
    parser.add_argument("what", choices=("run", "ui"), nargs="?", default="run")
    parser.add_argument("--directory", help="where everything is written (default: below .demo)")
    parser.add_argument("--keep", action="store_true", help="leave the stores there (run)")
    parser.add_argument("--port", type=int, default=3000, help="the UI's port (ui)")
    given = parser.parse_args()
    try:
        if given.what == "ui":
            from backup_pipeline.demo.history import run_ui

            return run_ui(given.directory, port=given.port)
        from backup_pipeline.demo.story import run_demo

        return run_demo(given.directory, keep=given.keep)
    except BackupError as error:
        print(error, file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())

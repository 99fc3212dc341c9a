"""Our command line, with its requests to the store counted: ``counted.py REPORT VERB ARGUMENT…``.

The same process in every other way: a count per request is all that is added.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from typing import Any, NoReturn

__all__ = []


def _main(report: str) -> int:
    from backup_pipeline.engine import store
    from backup_pipeline.engine.store.wrappers import CountingStore

    opened: list[CountingStore] = []
    open_store, leave = store.open_store, os._exit

    def open_counted(spec: Any) -> CountingStore:
        opened.append(CountingStore(open_store(spec)))
        return opened[-1]

    def write() -> None:
        calls = sum((one.calls for one in opened), Counter[str]())
        with open(report, "w") as file:
            json.dump({"calls": calls}, file)

    def write_and_leave(code: int) -> NoReturn:
        write()
        leave(code)

    store.open_store = open_counted
    os._exit = write_and_leave  # a command may end without returning
    from backup_pipeline.cli import main

    sys.argv = ["backup-pipeline", *sys.argv[2:]]
    code = main()
    write()
    return code


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1]))

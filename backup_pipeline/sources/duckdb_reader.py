"""Reads a DuckDB database's files under DuckDB's own lock; runs as a process of its own.

In a process that has the database open, opening and closing its file would let go of DuckDB's lock
(POSIX locks are the process's). So this runs apart: it opens the files first, then has DuckDB lock
them for reading, and closes nothing until it ends. It answers on standard output with one line of
JSON, then, for each name on a line of standard input, with that file's bytes.
"""

import json
import os
import shutil
import sys


def main() -> None:
    """Answer until standard input ends."""
    path = sys.argv[1]
    files = {name: open(name, "rb") for name in (path, path + ".wal") if os.path.exists(name)}  # noqa: SIM115
    try:
        import duckdb

        lock = duckdb.connect(path, read_only=True)
    except Exception as error:
        print(json.dumps({"error": str(error)}), flush=True)
        return
    same = all(
        os.path.exists(name) and os.path.samestat(os.stat(name), os.fstat(file.fileno()))
        for name, file in files.items()
    )
    if not same or os.path.exists(path + ".wal") != (path + ".wal" in files):
        print(json.dumps({"moved": True}), flush=True)
        return
    sizes = {name: os.fstat(file.fileno()).st_size for name, file in files.items()}
    print(json.dumps({"sizes": sizes}), flush=True)
    for line in sys.stdin:
        file = files[json.loads(line)]
        file.seek(0)
        shutil.copyfileobj(file, sys.stdout.buffer, 1024 * 1024)
        sys.stdout.buffer.flush()
    lock.close()


if __name__ == "__main__":
    main()

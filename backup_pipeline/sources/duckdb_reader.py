"""Reads a DuckDB database's files under DuckDB's own lock; runs as a process of its own.

In a process that has the database open, opening and closing its file would let go of DuckDB's lock
(POSIX locks are the process's). So this runs apart: it opens the files first, then has DuckDB lock
them for reading, and closes nothing until it ends. It answers on standard output with one line of
JSON, then, for each name on a line of standard input, with as many of that file's bytes as it said
there are, and an empty line once no file has changed since. Else it ends and says why on standard
error: a program that heeds no lock has written to one of them.
"""

import json
import os
import sys
from typing import BinaryIO

BLOCK_BYTES = 1024 * 1024


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
    states = {name: state(file) for name, file in files.items()}
    sizes = {name: size for name, (size, _) in states.items()}
    print(json.dumps({"sizes": sizes}), flush=True)
    for line in sys.stdin:
        name = json.loads(line)
        whole = send(files[name], sizes[name])
        if not whole or states != {name: state(file) for name, file in files.items()}:
            sys.exit("it changed while it was read, in spite of DuckDB's lock")
        print(flush=True)
    lock.close()


def state(file: BinaryIO) -> tuple[int, int]:
    """Size and time of an open file: no DuckDB changes them while it is locked."""
    found = os.fstat(file.fileno())
    return found.st_size, found.st_mtime_ns


def send(file: BinaryIO, rest: int) -> bool:
    """Write so many of a file's first bytes to standard output; whether there were as many."""
    file.seek(0)
    while rest and (block := file.read(min(rest, BLOCK_BYTES))):
        sys.stdout.buffer.write(block)
        rest -= len(block)
    sys.stdout.buffer.flush()
    return not rest


if __name__ == "__main__":
    main()

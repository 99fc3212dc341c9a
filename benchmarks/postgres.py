"""What a day with 1 % of changed rows adds to the store: COPY per table beside pg_dump's formats.

Run with ``python -m benchmarks.postgres [rows]``; needs ``pgserver`` and the ``postgres`` extra.
Every form of the database goes through the engine as files: a full, then an incremental.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path

import psycopg

from backup_pipeline.engine.keys import PLAINTEXT
from backup_pipeline.engine.operations.backup import backup
from backup_pipeline.engine.repository import unlock_store
from backup_pipeline.engine.store.local import LocalStore
from backup_pipeline.sources.files import FilesSource

DAY = date(2026, 11, 22)
MAKE = """
DROP TABLE IF EXISTS orders;
CREATE TABLE orders (id bigint PRIMARY KEY, customer int, state text, amount numeric(12, 2),
  at timestamptz, note text);
INSERT INTO orders SELECT i, hashint8(i) % 50000, (ARRAY['new','paid','sent'])[1 + i % 3],
  (hashint8(i + 7) % 100000) / 100.0, '2024-01-01'::timestamptz + i * interval '37 seconds',
  md5(i::text) || md5((i * 7)::text) FROM generate_series(1, {rows}) i;
ANALYZE orders;
"""
DAYS = {
    "appended": "INSERT INTO orders SELECT i, 1, 'new', 1, now(),"
    " md5(i::text) || md5((i * 7)::text) FROM generate_series({rows} + 1, {rows} + {rows} / 100) i",
    "newest updated": "UPDATE orders SET state = 'done' WHERE id > {rows} - {rows} / 100",
    "scattered updates": "UPDATE orders SET state = 'done' WHERE hashint8(id) % 100 = 0",
}


def forms(programs: Path, url: str) -> dict[str, Callable[[Path], None]]:
    """Each way to write the database to files."""

    def dump(*options: str) -> Callable[[Path], None]:
        def run(to: Path) -> None:
            command = [programs / "pg_dump", *options, "-f", to / "dump", url]
            subprocess.run(command, check=True)

        return run

    def copy(query: str) -> Callable[[Path], None]:
        def run(to: Path) -> None:
            with psycopg.connect(url) as link, (to / "orders").open("wb") as file:
                link.execute("SET synchronize_seqscans = off")
                with link.cursor().copy(query.encode()) as rows:
                    for row in rows:
                        file.write(row)

        return run

    ordered = "(SELECT * FROM orders ORDER BY id)"
    return {
        "COPY text, as it stands": copy("COPY orders TO STDOUT"),
        "COPY text, by key": copy(f"COPY {ordered} TO STDOUT"),
        "COPY csv, as it stands": copy("COPY orders TO STDOUT (FORMAT csv)"),
        "COPY binary, as it stands": copy("COPY orders TO STDOUT (FORMAT binary)"),
        "pg_dump custom": dump("-Fc"),
        "pg_dump custom, not compressed": dump("-Fc", "-Z0"),
        "pg_dump directory": dump("-Fd"),
        "pg_dump directory, not compressed": dump("-Fd", "-Z0"),
        "pg_dump plain": dump("-Fp"),
    }


def measure(rows: int) -> Iterator[tuple[str, str, float, float, float, float]]:
    """Day, form, MB stored by the full and by the day, MB written to the files, seconds."""
    import pgserver

    programs = Path(pgserver.__file__).parent / "pginstall" / "bin"
    with tempfile.TemporaryDirectory(prefix="bench-pg-") as name:
        top = Path(name)
        top.chmod(0o755)
        server = pgserver.get_server(top / "pg", cleanup_mode="stop")
        url = server.get_uri()
        ways = forms(programs, url)
        for day, change in DAYS.items():
            with psycopg.connect(url, autocommit=True) as link:
                link.execute(MAKE.format(rows=rows).encode())
            repositories = {}
            for form, write in ways.items():
                folder = top / f"{day}-{form}"
                folder.mkdir()
                write(folder)
                store = LocalStore(str(top / f"store-{day}-{form}"))
                repository = unlock_store(store, [PLAINTEXT], create=True).create("x", tier="t")
                full = backup(repository, FilesSource(folder), day=DAY, kind="full")
                repositories[form] = (repository, folder, full)
            with psycopg.connect(url, autocommit=True) as link:
                link.execute(change.format(rows=rows).encode())
            for form, (repository, folder, full) in repositories.items():
                subprocess.run(["rm", "-rf", folder], check=True)
                folder.mkdir()
                began_s = time.perf_counter()
                ways[form](folder)
                took_s = time.perf_counter() - began_s
                files = sum(one.stat().st_size for one in folder.rglob("*") if one.is_file())
                change_only = backup(
                    repository,
                    FilesSource(folder),
                    day=DAY,
                    kind="incremental",
                    parent=full,
                    base=full,
                )
                yield (
                    day,
                    form,
                    full.stored_bytes / 1e6,
                    change_only.stored_bytes / 1e6,
                    files / 1e6,
                    took_s,
                )
        server.cleanup()


def main() -> None:
    """Print a table."""
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    print(
        f"| Day ({rows:,} rows) | Form | Full, MB | Day, MB | Day / full | Files, MB | Written, s |"
    )
    print("|---|---|---|---|---|---|---|")
    for day, form, full, added, files, took_s in measure(rows):
        share = f"{added / full:.1%}"
        print(
            f"| {day} | {form} | {full:.1f} | {added:.1f} | {share} | {files:.0f} | {took_s:.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()

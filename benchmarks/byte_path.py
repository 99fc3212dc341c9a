"""obstore beside boto3 as the way bytes take to S3: time and processor time of the same requests.

Run as ``python -m benchmarks.byte_path``. Starts its own S3 server on 127.0.0.1. Each round gives
each client a process of its own and a fresh prefix, in turn, so that both meet the same weather.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, Protocol

from backup_pipeline.s3_server import S3Server

__all__ = ["main"]

MIB: Final = 1 << 20
CLIENTS: Final = ("obstore", "boto3")
ROUNDS: Final = 5
LISTED: Final = 2000


@dataclass(frozen=True)
class Case:
    """One row of the table: ``count`` objects of ``size_bytes``, by ``threads`` at once."""

    name: str
    size_bytes: int
    count: int
    threads: int


CASES: Final = (
    Case("pack of 16 MiB", 16 * MIB, 16, 1),
    Case("pack of 16 MiB, 4 threads", 16 * MIB, 16, 4),
    Case("record of 4 KiB", 4096, 300, 1),
    Case("record of 4 KiB, 8 threads", 4096, 600, 8),
)


class Client(Protocol):
    """What both do, with the same guarantees: create only, SHA-256 checked by the server."""

    def put(self, name: str, content: memoryview) -> None: ...
    def get(self, name: str) -> int: ...
    def list(self) -> int: ...


class ByObstore:
    """The store of this package."""

    def __init__(self, spec: dict[str, str]) -> None:
        from backup_pipeline.engine.store import open_store

        self._store = open_store(spec)

    def put(self, name: str, content: memoryview) -> None:
        self._store.put(name, content)

    def get(self, name: str) -> int:
        return len(self._store.get(name))

    def list(self) -> int:
        return sum(1 for _ in self._store.list())


class ByBoto3:
    """The same requests by boto3."""

    def __init__(self, spec: dict[str, str]) -> None:
        import boto3
        from botocore.config import Config

        _, _, self._bucket, self._prefix = spec["url"].split("/", 3)
        config = Config(max_pool_connections=32, s3={"addressing_style": "path"})
        self._client: Any = boto3.Session().client(
            "s3",
            endpoint_url=spec["endpoint"],
            region_name=spec["region"],
            aws_access_key_id=spec["access_key_id"],
            aws_secret_access_key=spec["secret_access_key"],
            config=config,
        )

    def put(self, name: str, content: memoryview) -> None:
        self._client.put_object(
            Bucket=self._bucket,
            Key=f"{self._prefix}/{name}",
            Body=bytes(content),  # boto3 takes bytes or a file
            IfNoneMatch="*",
            ChecksumAlgorithm="SHA256",
        )

    def get(self, name: str) -> int:
        found = self._client.get_object(Bucket=self._bucket, Key=f"{self._prefix}/{name}")
        return len(found["Body"].read())

    def list(self) -> int:
        pages = self._client.get_paginator("list_objects_v2")
        prefix = f"{self._prefix}/"
        return sum(len(p["Contents"]) for p in pages.paginate(Bucket=self._bucket, Prefix=prefix))


def measured(act: Callable[[], Any]) -> tuple[float, float]:
    """Wall seconds and this process's processor seconds of ``act``."""
    before, begun_s = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    act()
    wall_s, after = time.perf_counter() - begun_s, resource.getrusage(resource.RUSAGE_SELF)
    used_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return wall_s, used_s


def work(client_name: str, spec: dict[str, str]) -> dict[str, tuple[float, float]]:
    """All cases by one client; seconds by name of the case."""
    figures: dict[str, tuple[float, float]] = {}
    made: list[Client] = []
    figures["load and connect"] = measured(
        lambda: made.append(ByObstore(spec) if client_name == "obstore" else ByBoto3(spec))
    )
    client = made[0]
    client.put("first", memoryview(b"connects"))
    noise = memoryview(os.urandom(16 * MIB + 1024))
    for number, case in enumerate(CASES):
        names = [f"{number}/{index:05d}" for index in range(case.count)]

        def put(name: str, case: Case = case) -> None:
            start = int(name[-5:])
            client.put(name, noise[start : start + case.size_bytes])

        with ThreadPoolExecutor(case.threads) as pool:
            for verb, act in (("put", put), ("get", client.get)):
                figures[f"{verb} {case.name}"] = measured(
                    lambda a=act, n=names: list(pool.map(a, n))
                )
    missing = LISTED - sum(case.count for case in CASES) - 1
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: client.put(f"l/{i:05d}", memoryview(b"")), range(missing)))

    def list_all() -> None:
        assert client.list() == LISTED

    figures[f"list {LISTED} names"] = measured(list_all)
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    figures["peak memory, MiB"] = (peak_mib, 0.0)
    return figures


def run_worker(client: str, spec: dict[str, str]) -> dict[str, tuple[float, float]]:
    """``work`` in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.byte_path", "--worker", client]
    done = subprocess.run(command, input=json.dumps(spec), stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"the worker for {client} failed")
    return json.loads(done.stdout)


def _unit(name: str) -> tuple[float, str]:
    """What one figure is divided by, and how the quotient is called."""
    for case in CASES:
        if name.endswith(case.name):
            if case.size_bytes >= MIB:
                return case.count * case.size_bytes / 1e9, "s/GB"
            return case.count / 1000, "ms each"
    return 1.0, "s"


def print_table(figures: dict[str, list[dict[str, tuple[float, float]]]]) -> None:
    """Medians over the rounds, one row per case."""
    print(f"| | unit | {' | '.join(f'{c} wall | {c} CPU' for c in CLIENTS)} |")
    print(f"|---|---|{'---:|' * 2 * len(CLIENTS)}")
    for name in figures[CLIENTS[0]][0]:
        divisor, unit = _unit(name)
        if name.startswith("peak"):
            cells = [f"{statistics.median(f[name][0] for f in figures[c]):.0f} |" for c in CLIENTS]
            print(f"| {name} | | {' | '.join(cells)} |")
            continue
        cells = []
        for client in CLIENTS:
            for which in (0, 1):
                middle = statistics.median(found[name][which] for found in figures[client])
                cells.append(f"{middle / divisor:.2f}")
        print(f"| {name} | {unit} | {' | '.join(cells)} |")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all rounds and print the table."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["--worker"]:
        print(json.dumps(work(given[1], json.load(sys.stdin))))
        return 0
    rounds = int(given[0]) if given else ROUNDS
    figures: dict[str, list[dict[str, tuple[float, float]]]] = {client: [] for client in CLIENTS}
    with tempfile.TemporaryDirectory() as directory, S3Server(directory) as server:
        for number in range(rounds):
            order = CLIENTS if number % 2 == 0 else CLIENTS[::-1]
            for client in order:
                spec = server.options(f"s3://backups/{client}-{number}")
                figures[client].append(run_worker(client, spec))
    print_table(figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())

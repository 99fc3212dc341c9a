"""Where a tool keeps its repository while it is measured: a folder, or a bucket of an S3 server."""

from __future__ import annotations

import re
import socket
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from backup_pipeline.s3_server import S3Server
from benchmarks.measure import tree_bytes

__all__ = ["CountingServer", "Place"]

_REQUESTS = re.compile(r'^SeaweedFS_s3_request_total\{bucket="backups",.*\} (\d+)$', re.M)
_METRICS_PORTS = range(9300, 9400)


class CountingServer:
    """SeaweedFS on 127.0.0.1 that says how many requests it answered.

    Args:
        folder: Where its contents go.
    """

    def __init__(self, folder: Path) -> None:
        self._metrics = _free_port()
        flags = (f"-metricsPort={self._metrics}", "-metricsIp=127.0.0.1")
        self.folder = folder
        self._server = S3Server(folder, flags=flags)

    @property
    def endpoint(self) -> str:
        """Its URL once started."""
        return self._server.endpoint

    @property
    def environ(self) -> Mapping[str, str]:
        """The AWS variables that point programs at it."""
        return {**self._server.environ(), "AWS_DEFAULT_REGION": self._server.region}

    def requests(self) -> int:
        """Requests answered since it started."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self._metrics}/metrics") as answer:
            return sum(map(int, _REQUESTS.findall(answer.read().decode())))

    def bytes(self, prefix: str) -> int:
        """Sizes of all objects below a prefix, added up."""
        pages = self._server.client().get_paginator("list_objects_v2")
        found = pages.paginate(Bucket="backups", Prefix=f"{prefix}/")
        return sum(one["Size"] for page in found for one in page.get("Contents", ()))

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.stop()


class Place:
    """One tool's place in one round.

    Args:
        home: An empty folder of the tool's own; its settings and caches go here in any case.
        source: What is backed up.
        server: The S3 server that keeps the repository, where it is not a folder.
    """

    def __init__(self, home: Path, source: Path, server: CountingServer | None = None) -> None:
        self.home = home
        self.source = source
        self.server = server

    @property
    def folder(self) -> Path:
        """The repository's folder, where it is one."""
        return self.home / "repository"

    @property
    def prefix(self) -> str:
        """The repository's prefix in the bucket ``backups``, where it is one."""
        return self.home.name

    @property
    def environ(self) -> Mapping[str, str]:
        """What a tool needs to get there."""
        return self.server.environ if self.server is not None else {}

    def stored_bytes(self) -> int:
        """What the repository has grown to."""
        if self.server is not None:
            return self.server.bytes(self.prefix)
        return tree_bytes(self.folder)


def _free_port() -> int:
    """A port for the metrics; those from 10,000 on are the server's own."""
    for port in _METRICS_PORTS:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as trial:
            try:
                trial.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError("no free port for the server's metrics")

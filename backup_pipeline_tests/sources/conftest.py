"""Fixtures of the tests of sources: servers of their own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from backup_pipeline_tests.sources.nats_server import Nats


@pytest.fixture
def nats(tmp_path: Path) -> Iterator[Nats]:
    """An empty NATS server with JetStream."""
    server = Nats(tmp_path / "nats")
    try:
        yield server
    finally:
        server.close()

"""Every kind of store and wrapper that the conformance suite runs on."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from backup_pipeline.engine.store import Store, open_store
from backup_pipeline.engine.store.memory import MemoryStore
from backup_pipeline.engine.store.wrappers import CountingStore, FaultyStore
from backup_pipeline.s3_server import S3Server
from backup_pipeline_tests.engine.store.lying_s3 import LyingS3
from backup_pipeline_tests.engine.store.places import Place

KINDS = [
    "local",
    "memory",
    "counting-local",
    "faulty-memory",
    pytest.param("s3", marks=pytest.mark.services),
]


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """An empty place of each kind."""
    kind: str = request.param
    if kind == "memory" or kind == "faulty-memory":
        memory = MemoryStore()
        yield Place(kind, lambda: memory if kind == "memory" else FaultyStore(memory))
    elif kind == "local":
        yield Place(kind, lambda: open_store(tmp_path / "deep" / "store"))
    elif kind == "counting-local":
        yield Place(kind, lambda: CountingStore(open_store((tmp_path / "store").as_uri())))
    else:
        server: S3Server = request.getfixturevalue("s3_server")
        spec = server.options(f"s3://backups/conformance/{secrets.token_hex(6)}")
        yield Place(kind, lambda: open_store(spec))


@pytest.fixture
def store(place: Place) -> Iterator[Store]:
    """A store on an empty place."""
    with place.open() as opened:
        yield opened


@pytest.fixture
def lying_s3() -> Iterator[LyingS3]:
    """An S3 server that misbehaves as told."""
    with LyingS3() as server:
        yield server

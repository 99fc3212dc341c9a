"""Fixtures of the Dagster half: an instance of its own for every test, telemetry off."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from backup_pipeline_tests.dagster_half.project import Project


@pytest.fixture(autouse=True)
def dagster_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty Dagster home."""
    home = tmp_path / "dagster_home"
    home.mkdir()
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    monkeypatch.setenv("DAGSTER_DISABLE_TELEMETRY", "1")
    return home


@pytest.fixture
def instance(dagster_home: Path) -> Iterator[dg.DagsterInstance]:
    """A Dagster instance in that home."""
    with dg.DagsterInstance.from_config(str(dagster_home)) as instance:
        yield instance


@pytest.fixture
def project(tmp_path: Path, instance: dg.DagsterInstance) -> Callable[..., Project]:
    """Makes a project; takes what ``Project`` takes."""

    def make(**arguments: Any) -> Project:
        return Project(tmp_path, instance, **arguments)

    return make

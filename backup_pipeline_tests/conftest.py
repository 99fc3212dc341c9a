"""Fixtures for all tests: real S3 servers on 127.0.0.1, and the counting of cases."""

from __future__ import annotations

import os
import secrets
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from backup_pipeline.s3_server import S3Server
from backup_pipeline_tests.promises import cases, pytest_collection_modifyitems

__all__ = ["cases", "pytest_collection_modifyitems"]


if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # Begun in the background by a shell, which has such processes ignore it; tests interrupt
    # processes of theirs, which would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # begun by nohup
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"  # tests talk to this machine only


@pytest.fixture(autouse=True)
def _no_aws_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the AWS settings of whoever runs the tests out of them."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture(autouse=True)
def _no_state(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Let no test remember how fast this machine restored."""
    state = tmp_path_factory.getbasetemp() / "state"
    monkeypatch.setenv("XDG_STATE_HOME", str(state))


@pytest.fixture(autouse=True)
def _no_modules(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let no test find the modules that another one wrote, under the same name perhaps."""
    written = tmp_path_factory.getbasetemp()
    path, known = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    for name in sys.modules.keys() - known:
        # Asked for as an attribute, it would have a lazy module load.
        file = getattr(sys.modules[name], "__dict__", {}).get("__file__")
        if written in Path(file or os.devnull).parents:
            del sys.modules[name]


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """One S3 server for all tests of this process, with the buckets ``backups`` and ``lake``."""
    directory = tmp_path_factory.mktemp("s3")
    with S3Server(directory, buckets=("backups", "lake")) as server:
        yield server


@pytest.fixture(scope="session")
def second_s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """Another S3 server, as another region."""
    with S3Server(tmp_path_factory.mktemp("s3-second")) as server:
        yield server


@pytest.fixture
def s3_spec(s3_server: S3Server) -> dict[str, str]:
    """What ``open_store`` needs for a fresh prefix of the server's bucket."""
    return s3_server.options(f"s3://backups/{secrets.token_hex(6)}")

"""Starting the engine's own process: what it loads, and what it leaves out."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from backup_pipeline.runner.headstart import begin_deriving

_START = """
import sys, threading
from backup_pipeline.engine.keys import KeyEncryptionKey, Passphrase
from backup_pipeline.engine.startup import start_engine
start_engine()
assert 'pyarrow' not in sys.modules
KeyEncryptionKey.from_secret(Passphrase(b"secret"), KeyEncryptionKey.new_parameters())
for thread in threading.enumerate():
    if thread is not threading.current_thread():
        thread.join()
"""


def _run(code: str) -> None:
    subprocess.run([sys.executable, "-c", code], check=True)


def test_pyarrow_is_loaded_while_a_passphrase_is_stretched() -> None:
    _run(_START + "assert 'pyarrow.parquet' in sys.modules")


def test_an_engine_process_does_without_pandas() -> None:
    _run(_START + "import pyarrow as pa; pa.array([1]); assert 'pandas' not in sys.modules")


def test_opening_a_repository_loads_no_pyarrow() -> None:
    _run("import backup_pipeline.engine.repository, sys; assert 'pyarrow' not in sys.modules")


_HEAD_START = """
import os, sys
from datetime import date
from pathlib import Path
from backup_pipeline.engine.keys import Passphrase, _argon2id
from backup_pipeline.engine.repository import unlock_store
from backup_pipeline.engine.store import open_store
from backup_pipeline.plan import load_plan
from backup_pipeline.runner.headstart import begin_deriving
assert "pydantic" not in sys.modules
root = Path(sys.argv[1])
os.environ["BACKUP_PASSPHRASE"] = "secret"
unlock_store(open_store(str(root / "store")), [Passphrase(b"secret")], create=True)
_argon2id.cache_clear()
def meanwhile(content, folder):
    begin_deriving(content, folder)
    assert "pydantic" not in sys.modules
    assert _argon2id.cache_info().currsize == BEGUN
plan = load_plan(
    {"start": "2026-01-01", "stores": STORES, "datasets": [{"asset": "a", "source": "/data"}]},
    meanwhile=meanwhile,
)
from backup_pipeline.runner import Runner
with Runner(plan) as runner:
    assert runner.snapshots() == []
assert _argon2id.cache_info().misses == 1
"""


@pytest.mark.parametrize(
    ("stores", "begun"),
    [
        ('{"local": str(root / "store")}', 1),
        ('{"local": {"url": (root / "store").as_uri()}}', 1),
        ('{"local": {"url": {"env": "STORE"}}}', 0),
    ],
)
def test_a_key_is_derived_while_the_plan_is_checked(
    tmp_path: Path, stores: str, begun: int
) -> None:
    code = _HEAD_START.replace("STORES", stores).replace("BEGUN", str(begun))
    environ = {**os.environ, "STORE": str(tmp_path / "store")}
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, env=environ)


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"stores": None},
        {"stores": {}},
        {"stores": {"a": 5}},
        {"stores": {"a": "s3://bucket/prefix"}},
        {"stores": {"a": "/nowhere"}},
        {"stores": {"a": "/nowhere"}, "keys": {"main": {"key_file": {"file": "/k"}}}},
        {"stores": {"a": "/nowhere\0"}, "keys": []},
    ],
)
def test_a_plan_that_gives_no_head_start_raises_nothing(content: dict[str, Any]) -> None:
    begin_deriving(content, Path("/"), {"BACKUP_PASSPHRASE": "secret"})

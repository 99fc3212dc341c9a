"""Starting the engine's own process: what it loads, and what it leaves out."""

from __future__ import annotations

import subprocess
import sys

_START = """
import sys, threading
from backup_pipeline.engine.startup import start_engine
start_engine()
import pyarrow as pa
pa.array([1, 2])
for thread in threading.enumerate():
    if thread is not threading.current_thread():
        thread.join()
pa.array([1, 2])
"""


def _run(after: str) -> None:
    subprocess.run([sys.executable, "-c", _START + after], check=True)


def test_an_engine_process_does_without_pandas() -> None:
    _run("assert 'pandas' not in sys.modules")


def test_pandas_can_still_be_had_by_name() -> None:
    _run("assert pa.table({'a': [1]}).to_pandas()['a'].tolist() == [1]")


def test_opening_a_repository_loads_no_pyarrow() -> None:
    code = "import backup_pipeline.engine.repository, sys; assert 'pyarrow' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)

"""Starting the engine's own process: what it loads, and what it leaves out."""

from __future__ import annotations

import subprocess
import sys

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

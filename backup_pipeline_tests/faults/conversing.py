"""A process of its own that answers documents line by line, and imports once what many need."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

__all__ = ["Conversation"]


class Conversation:
    """The test's side: starts the process, asks it, and ends it.

    Args:
        module: What runs in it, by ``python -m``.
        arguments: What it is told at its start.
        limit_s: How long it may take to end.
        folder: Its working directory.
        environ: Environment variables besides this process's own.
    """

    def __init__(
        self,
        module: str,
        *arguments: str,
        limit_s: float,
        folder: Path | None = None,
        environ: dict[str, str] | None = None,
    ) -> None:
        self._limit_s = limit_s
        paths = os.pathsep.join(filter(None, sys.path))
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=folder,
            env={**os.environ, "PYTHONPATH": paths, **(environ or {})},
        )

    def ask(self, document: Any) -> Any:
        """Say a document, and return what is answered."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(document) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(self._limit_s)
        self._process.stdout.close()

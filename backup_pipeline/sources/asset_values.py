"""What a dataset's own asset holds, loaded by its IO manager: tables, each as a Parquet file."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, BinaryIO
from urllib.parse import quote

from backup_pipeline.engine.errors import SourceError
from backup_pipeline.engine.scratch import ScratchFolder
from backup_pipeline.sources.base import UNREADABLE, Unreadable
from backup_pipeline.sources.listing import Item, ListedSource

__all__ = ["AssetValues"]

SUPPOSED_BYTES = 1024 * 1024
"""A size for entries of which nobody knows one before they are loaded."""

ENDING_S = 10


class AssetValues(ListedSource):
    """Partitions of an asset, or all of it where it has none.

    Consistency: each partition is what its IO manager loads at once; of a database, what one query
    answers. One that was materialized since the last backup is loaded again, all others are not. A
    partition that the definitions have no more is no part of it any more.

    Loading needs Dagster and the user's code; both run in a process of their own, which is started
    with the first listing and ended by ``close``.

    Args:
        key: The asset.
        definitions: ``module`` or ``module:attribute`` of the Dagster definitions that it is in.
        events: By partition (``""`` where it has none), what tells its materializations apart.
        modules: Folders in which modules are looked for first.
        environ: The process's environment.
    """

    kind = "asset"

    def __init__(
        self,
        key: str,
        definitions: str,
        events: Mapping[str, str],
        *,
        modules: Sequence[str] = (),
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self._key = key
        self._definitions = definitions
        self._partitions = {self._path(partition): partition for partition in events}
        self._events = events
        self._modules = modules
        self._environ = environ
        self._loader: subprocess.Popen[str] | None = None
        self._folder: ScratchFolder | None = None

    def describe(self) -> str:
        """The asset."""
        return f"asset {self._key} as {self._definitions} loads it"

    def items(self) -> Iterable[Item]:
        """A Parquet file for each partition that there is; nothing is loaded."""
        known = self._ask({})["partitions"]
        present = {"", *known} if known is not None else self._events.keys()
        if not self._events.keys() & present:
            raise SourceError(
                f"{self._definitions} has none of the {len(self._events)} partitions of"
                f" {self._key} that were materialized",
                "materialize those that it has now, and back it up then",
            )
        for path in sorted(self._partitions, key=str.encode):
            partition = self._partitions[path]
            if partition in present:
                yield Item(path, SUPPOSED_BYTES, etag=self._events[partition])

    def fingerprint(self) -> str:
        """Over what tells materializations apart; nothing is asked."""
        return hashlib.sha256(json.dumps(sorted(self._events.items())).encode()).hexdigest()

    def scanned(self) -> str:
        """The same, of what was listed."""
        return self.fingerprint()

    def stream(self, path: str) -> BinaryIO:
        """Load a partition; its bytes lie in a file that is gone once it is closed.

        Raises:
            SourceError: The definitions cannot be loaded.
            Unreadable: The IO manager cannot load this partition, or it is no table.
        """
        if self._folder is None:
            self._folder = ScratchFolder()
        table = self._folder.path / "table.parquet"
        try:
            answer = self._ask({"partition": self._partitions[path] or None, "to": str(table)})
            if "error" in answer:
                raise Unreadable(UNREADABLE, f"its IO manager: {answer['error']}")
            return table.open("rb")
        finally:
            table.unlink(missing_ok=True)

    def close(self) -> None:
        """End the process that loads."""
        if self._folder is not None:
            self._folder.close()
            self._folder = None
        self._end()

    def _end(self) -> None:
        loader, self._loader = self._loader, None
        if loader is None:
            return
        assert loader.stdin is not None
        assert loader.stdout is not None
        loader.stdin.close()
        try:
            loader.wait(ENDING_S)
        except subprocess.TimeoutExpired:
            loader.kill()
            loader.wait()
        loader.stdout.close()

    def _path(self, partition: str) -> str:
        name = partition or self._key.rpartition("/")[2]
        return f"{quote(name, safe=' |=:,+@~')}.parquet"

    def _ask(self, question: Mapping[str, Any]) -> dict[str, Any]:
        if self._loader is None:
            self._loader = self._start()
        assert self._loader.stdin is not None
        assert self._loader.stdout is not None
        try:
            self._loader.stdin.write(json.dumps(question) + "\n")
            self._loader.stdin.flush()
            answer = self._loader.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            code = self._loader.wait(ENDING_S)
            self._end()
            raise SourceError(
                f"what loads {self._key} ended by itself, with code {code}",
                "it says more on standard error; is there memory enough for the whole table?",
            )
        found: dict[str, Any] = json.loads(answer)
        if "unloaded" in found:
            raise SourceError(
                f"{self._definitions} cannot be loaded: {found['unloaded']}",
                "name the module of your code location's definitions; it is looked for beside"
                " the plan, and wherever this process finds modules",
            )
        return found

    def _start(self) -> subprocess.Popen[str]:
        folders = [*self._modules, *filter(None, sys.path)]
        return subprocess.Popen(
            [
                *(sys.executable, "-P", "-m", "backup_pipeline.value_loader"),
                *(self._definitions, self._key),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**self._environ, "PYTHONPATH": os.pathsep.join(folders)},
        )

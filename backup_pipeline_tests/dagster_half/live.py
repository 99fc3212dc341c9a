"""A real Dagster: code server, daemon and web server as processes, spoken to over GraphQL."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import requests

T = TypeVar("T")

SETTINGS = Path(__file__).parents[2] / "dagster.yaml"
LOCATION = "backups"
REPOSITORY = "__repository__"
STARTING_S = 60


class LiveDagster:
    """Dagster's servers on free ports of 127.0.0.1; use it in a ``with`` block.

    Args:
        home: The Dagster home; gets the settings that the project ships.
        definitions: A Python file with ``defs``.
        environ: Further variables for the servers.
        daemon: Whether schedules, sensors and backfills run.
    """

    def __init__(
        self,
        home: Path,
        definitions: Path,
        environ: Mapping[str, str],
        *,
        daemon: bool = True,
    ) -> None:
        self.home = home
        self._definitions = definitions
        self._daemon = daemon
        self._environ = {
            **os.environ,
            **environ,
            "DAGSTER_HOME": str(home),
            "DAGSTER_DISABLE_TELEMETRY": "1",
        }
        self._processes: list[tuple[subprocess.Popen[bytes], Any]] = []
        self.url = ""

    def __enter__(self) -> LiveDagster:
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *failure: object) -> None:
        self.stop()

    def _start(self) -> None:
        shutil.copy(SETTINGS, self.home / "dagster.yaml")
        code_port, web_port = free_port(), free_port()
        workspace = self.home / "workspace.yaml"
        workspace.write_text(
            f"load_from:\n  - grpc_server: {{host: 127.0.0.1, port: {code_port},"
            f" location_name: {LOCATION}}}\n"
        )
        self._run(
            "code_server",
            ["dagster", "code-server", "start", "-f", str(self._definitions)],
            ["--host", "127.0.0.1", "--port", str(code_port)],
        )
        wait_for(lambda: answers(code_port), STARTING_S, "the code server")
        if self._daemon:
            self._run("daemon", ["dagster-daemon", "run", "-w", str(workspace)])
        self._run(
            "webserver",
            ["dagster-webserver", "-w", str(workspace)],
            ["-h", "127.0.0.1", "-p", str(web_port)],
        )
        self.url = f"http://127.0.0.1:{web_port}"
        wait_for(self._is_up, STARTING_S, "the web server")

    def _run(self, name: str, *words: Sequence[str]) -> None:
        first, *rest = [word for part in words for word in part]
        program = str(Path(sys.executable).parent / first)
        log = (self.home / f"{name}.log").open("wb")
        # A session of its own, so that its children end with it.
        process = subprocess.Popen(
            [program, *rest],
            env=self._environ,
            cwd=self.home,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._processes.append((process, log))

    def _is_up(self) -> bool:
        for process, log in self._processes:
            if process.poll() is not None:
                raise AssertionError(f"ended: {Path(log.name).read_text()[-3000:]}")
        try:
            loaded = self.ask(_WORKSPACE)["workspaceOrError"]["locationEntries"]
        except requests.ConnectionError:
            return False
        for entry in loaded:
            error = (entry["locationOrLoadError"] or {}).get("message")
            assert not error, error
        return bool(loaded) and all(entry["loadStatus"] == "LOADED" for entry in loaded)

    def stop(self) -> None:
        """End what was started, and what that started."""
        for sent in (signal.SIGINT, signal.SIGKILL):
            for process, _ in self._processes:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, sent)
            for process, _ in self._processes:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(5)
        for _, log in self._processes:
            log.close()
        self._processes.clear()

    def logs(self) -> str:
        """The end of what the servers wrote, for a failed test."""
        return "\n".join(
            f"--- {Path(log.name).name}\n{Path(log.name).read_text()[-2500:]}"
            for _, log in self._processes
        )

    def ask(self, query: str, **variables: Any) -> Any:
        """What a GraphQL query or mutation answers.

        Raises:
            AssertionError: The server refused it.
        """
        answer = requests.post(
            f"{self.url}/graphql", json={"query": query, "variables": variables}, timeout=30
        )
        body = answer.json()
        assert answer.ok and "errors" not in body, body
        return body["data"]

    def launch_check(self, path: Sequence[str], name: str, day: str) -> str:
        """Evaluate one check of one day, as the UI's button does; the run's id."""
        params = {
            "selector": {
                "repositoryLocationName": LOCATION,
                "repositoryName": REPOSITORY,
                "pipelineName": "__ASSET_JOB",
                "assetSelection": [],
                "assetCheckSelection": [{"assetKey": {"path": list(path)}, "name": name}],
            },
            "mode": "default",
            "runConfigData": {},
            "executionMetadata": {"tags": [{"key": "dagster/partition", "value": day}]},
        }
        found = self.ask(_LAUNCH, params=params)["launchPipelineExecution"]
        assert found["__typename"] == "LaunchRunSuccess", found
        return found["run"]["runId"]

    def launch_backfill(self, path: Sequence[str], days: Sequence[str]) -> str:
        """Materialize days of an asset; the backfill's id."""
        params = {"assetSelection": [{"path": list(path)}], "partitionNames": list(days)}
        found = self.ask(_BACKFILL, params=params)["launchPartitionBackfill"]
        assert found["__typename"] == "LaunchBackfillSuccess", found
        return found["backfillId"]

    def runs(self, **tags: str) -> list[dict[str, Any]]:
        """Runs with these tags (``__`` in a name stands for ``/``), newest first."""
        wanted = [{"key": key.replace("__", "/"), "value": value} for key, value in tags.items()]
        return self.ask(_RUNS, filter={"tags": wanted})["runsOrError"]["results"]

    def status(self, run_id: str) -> str:
        """A run's status."""
        return self.ask(_STATUS, id=run_id)["runOrError"]["status"]

    def materialized(self, path: Sequence[str]) -> set[str]:
        """The days of an asset that the UI shows green."""
        node = self.ask(_PARTITIONS, key={"path": list(path)})["assetNodeOrError"]
        ranges = node["assetPartitionStatuses"]["ranges"]
        return {one["startKey"] for one in ranges if one["status"] == "MATERIALIZED"} | {
            one["endKey"] for one in ranges if one["status"] == "MATERIALIZED"
        }

    def check_status(self, path: Sequence[str], name: str) -> list[str]:
        """How the latest evaluations of a check came out."""
        found = self.ask(_CHECK, key={"path": list(path)}, name=name)["assetCheckExecutions"]
        return [one["status"] for one in found]


def free_port() -> int:
    """A port of 127.0.0.1 that nothing listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def answers(port: int) -> bool:
    """Whether something listens on a port."""
    with socket.socket() as one:
        one.settimeout(1)
        return one.connect_ex(("127.0.0.1", port)) == 0


def wait_for(condition: Callable[[], T], seconds: float, what: str) -> T:
    """Ask again and again until the answer is true.

    Raises:
        AssertionError: It was not within these seconds.
    """
    ends_at = time.monotonic() + seconds
    while True:
        answer = condition()
        if answer:
            return answer
        assert time.monotonic() < ends_at, f"waited {seconds} s for {what}"
        time.sleep(0.5)


@contextlib.contextmanager
def with_logs(live: LiveDagster) -> Iterator[None]:
    """Adds what the servers wrote to a failure."""
    try:
        yield
    except AssertionError as error:
        error.add_note(live.logs())
        raise


_WORKSPACE = """
query {
  workspaceOrError {
    ... on Workspace {
      locationEntries {
        loadStatus
        locationOrLoadError { ... on PythonError { message } }
      }
    }
  }
}"""

_LAUNCH = """
mutation($params: ExecutionParams!) {
  launchPipelineExecution(executionParams: $params) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on PythonError { message }
  }
}"""

_BACKFILL = """
mutation($params: LaunchBackfillParams!) {
  launchPartitionBackfill(backfillParams: $params) {
    __typename
    ... on LaunchBackfillSuccess { backfillId }
    ... on PythonError { message }
  }
}"""

_RUNS = """
query($filter: RunsFilter!) {
  runsOrError(filter: $filter, limit: 50) {
    ... on Runs {
      results {
        runId
        status
        tags { key value }
        stepStats { stepKey status }
      }
    }
  }
}"""

_STATUS = "query($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }"

_PARTITIONS = """
query($key: AssetKeyInput!) {
  assetNodeOrError(assetKey: $key) {
    ... on AssetNode {
      assetPartitionStatuses {
        ... on TimePartitionStatuses { ranges { status startKey endKey } }
      }
    }
  }
}"""

_CHECK = """
query($key: AssetKeyInput!, $name: String!) {
  assetCheckExecutions(assetKey: $key, checkName: $name, limit: 5) { status }
}"""

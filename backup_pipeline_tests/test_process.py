"""A verb in a process of its own: its answer, its errors, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest

from backup_pipeline.engine.errors import (
    DayUnavailable,
    Problem,
    SourceError,
    StoreError,
    UsageError,
    WrongKey,
)
from backup_pipeline.engine.errors import PlanError as PlanMistakes
from backup_pipeline.engine.keys import new_key_file
from backup_pipeline.plan import Plan, load_plan
from backup_pipeline.process import (
    EngineCrashed,
    rebuild_error,
    run_here,
    run_in_process,
    write_error,
)
from backup_pipeline.runner import Runner

DATASET = "vision/a"
NOW = datetime(2026, 11, 20, 10, tzinfo=UTC)


@pytest.fixture
def environ() -> dict[str, str]:
    return {**os.environ, "TEST_KEY": new_key_file()}


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.txt").write_text("one")
    return load_plan(_document(tmp_path))


def _document(root: Path, **more: Any) -> dict[str, Any]:
    return {
        "start": "2026-11-01",
        "stores": {"local": str(root / "local")},
        "keys": {"main": {"key_file": {"env": "TEST_KEY"}}},
        "datasets": [{"asset": DATASET, "source": str(root / "data")}],
        **more,
    }


@pytest.fixture
def silent_server() -> Iterator[int]:
    """The port of a server that takes connections and never answers."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(16)
        yield listening.getsockname()[1]


def _hanging(root: Path, port: int) -> dict[str, Any]:
    store = {
        "url": "s3://backups/x",
        "endpoint": f"http://127.0.0.1:{port}",
        "region": "us-east-1",
        "access_key_id": {"env": "PATH"},
        "secret_access_key": {"env": "PATH"},
    }
    return _document(root, stores={"local": store})


def _children() -> list[int]:
    """Processes of the engine that this process has started and that are still there."""
    found = []
    for task in Path("/proc/self/task").iterdir():
        for pid in (task / "children").read_text().split():
            try:
                words = Path(f"/proc/{pid}/cmdline").read_bytes()
            except FileNotFoundError:
                continue
            if b"backup_pipeline.process" in words:
                found.append(int(pid))
    return found


def test_a_verb_answers_as_the_runner_does_and_tells_how_far_it_is(
    plan: Plan, environ: dict[str, str]
) -> None:
    events: list[dict[str, Any]] = []
    answer = run_in_process(
        plan, "backup", {"dataset": DATASET}, now=NOW, on_event=events.append, environ=environ
    )
    assert answer["created"] is True
    assert answer["snapshot"]["day"] == "2026-11-20"
    assert answer["snapshot"]["captured_at"].startswith("2026-11-20T10:00")
    assert {event["event"] for event in events} == {"progress"}
    assert events[0]["operation"] in events[0]["line"]
    [listed] = run_in_process(plan, "snapshots", {"dataset": DATASET}, environ=environ)
    assert listed == answer["snapshot"]
    with Runner(plan, environ=environ) as runner:
        assert runner.snapshots()[0].to_json() == listed
    assert _children() == []


def test_a_verb_in_this_process_answers_the_same(plan: Plan, environ: dict[str, str]) -> None:
    made = run_here(plan, "backup", {"dataset": DATASET}, now=NOW, environ=environ)
    assert run_in_process(plan, "snapshots", {}, environ=environ) == [made["snapshot"]]
    assert run_here(
        plan,
        "verify",
        {"dataset": DATASET, "day": date(2026, 11, 20), "read_data": "all"},
        environ=environ,
    )["ok"]


def test_errors_come_back_as_they_were_raised(
    plan: Plan, environ: dict[str, str], tmp_path: Path
) -> None:
    run_here(plan, "backup", {"dataset": DATASET}, now=NOW, environ=environ)
    with pytest.raises(DayUnavailable, match="knows no past states") as refused:
        run_in_process(
            plan,
            "backup",
            {"dataset": DATASET, "day": date(2026, 11, 18)},
            environ=environ,
            now=NOW,
        )
    assert refused.value.available == (date(2026, 11, 20),)
    assert refused.value.exit_code == 3
    with pytest.raises(WrongKey) as wrong:
        run_in_process(plan, "snapshots", {}, environ=_other_key(environ))
    assert wrong.value.exit_code == 2
    assert wrong.value.hint
    with pytest.raises(UsageError, match="no verb 'bakup'"):
        run_in_process(plan, "bakup", {}, environ=environ)
    (tmp_path / "data" / "a.txt").unlink()
    (tmp_path / "data").rmdir()
    with pytest.raises(SourceError):
        run_in_process(plan, "fingerprint", {"dataset": DATASET}, environ=environ)


def _other_key(environ: dict[str, str]) -> dict[str, str]:
    return environ | {"TEST_KEY": new_key_file()}


def test_every_error_survives_the_way_through_json() -> None:
    mistakes = PlanMistakes([Problem("stores", "empty", 3, 1, "name one", "backup.yaml")])
    unavailable = DayUnavailable("no", "yes", available=[date(2026, 11, 1)])

    class Special(StoreError):
        """A class that only one side knows."""

    for error, cls in (
        (mistakes, PlanMistakes),
        (unavailable, DayUnavailable),
        (Special("odd", "hint"), StoreError),
        (EngineCrashed("dead"), EngineCrashed),
    ):
        back = rebuild_error(json.loads(json.dumps(write_error(error))))
        assert type(back) is cls
        assert str(back) == str(error)
        assert back.exit_code == error.exit_code
    again = rebuild_error(write_error(mistakes))
    assert isinstance(again, PlanMistakes)
    assert again.problems == mistakes.problems


def test_an_unexpected_error_is_told_with_its_traceback(
    plan: Plan, environ: dict[str, str]
) -> None:
    with pytest.raises(EngineCrashed, match="unexpected TypeError") as crash:
        run_in_process(plan, "backup", {"no such": 1}, environ=environ)
    assert "Traceback" in "".join(crash.value.__notes__)


def test_a_killed_engine_is_told_with_its_last_words(
    tmp_path: Path, silent_server: int, environ: dict[str, str], plan: Plan
) -> None:
    hanging = load_plan(_hanging(tmp_path, silent_server))

    def kill() -> None:
        while not (found := _children()):
            time.sleep(0.02)
        os.kill(found[0], signal.SIGKILL)

    with ThreadPoolExecutor() as pool:
        killing = pool.submit(kill)
        with pytest.raises(EngineCrashed, match="signal 9"):
            run_in_process(hanging, "snapshots", {}, environ=environ)
        killing.result()


def test_an_interrupted_parent_takes_the_engine_with_it(
    tmp_path: Path, silent_server: int, environ: dict[str, str], plan: Plan
) -> None:
    hanging = load_plan(_hanging(tmp_path, silent_server))
    seen: list[int] = []

    def interrupt(*_: object) -> None:
        seen.extend(_children())
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 1.5)
        with pytest.raises(KeyboardInterrupt):
            run_in_process(hanging, "snapshots", {}, environ=environ)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    assert len(seen) == 1
    assert not _alive(seen[0])


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_the_engine_ends_when_its_parent_is_gone(
    tmp_path: Path, silent_server: int, environ: dict[str, str], plan: Plan
) -> None:
    document = dict(load_plan(_hanging(tmp_path, silent_server)).document)
    code = (
        "import json, sys; from backup_pipeline.plan import load_plan;"
        "from backup_pipeline.process import run_in_process;"
        "run_in_process(load_plan(json.loads(sys.argv[1])), 'snapshots', {})"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, json.dumps(document)], env=environ)
    engine = _child_of(parent.pid)
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 10
    while _alive(engine) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _alive(engine)


def _child_of(pid: int) -> int:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        if (
            children
            and b"backup_pipeline.process" in Path(f"/proc/{children[0]}/cmdline").read_bytes()
        ):
            return int(children[0])
        time.sleep(0.02)
    raise AssertionError("the engine did not start")


def test_what_prints_to_standard_output_does_not_break_the_conversation(
    plan: Plan, environ: dict[str, str], tmp_path: Path
) -> None:
    hooks = tmp_path / "hooks"
    hooks.mkdir()
    (hooks / "sitecustomize.py").write_text(
        "import sys\n"
        "class Noise:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'backup_pipeline.runner':\n"
        '            print(\'{"event": "result", "result": "noise"}\', flush=True)\n'
        "print('not JSON', flush=True)\n"
        "sys.meta_path.insert(0, Noise())\n"
    )
    noisy = environ | {"PYTHONPATH": str(hooks)}
    answer = run_in_process(plan, "backup", {"dataset": DATASET}, environ=noisy)
    assert answer["snapshot"]["files"] == 1


def test_two_tiers_that_begin_at_once_come_to_the_same_keys(
    plan: Plan, environ: dict[str, str], tmp_path: Path
) -> None:
    tier = {"every": "day", "kind": "full"}
    tiers = [{"name": "local", **tier}, {"name": "cloud", **tier, "from": "source"}]
    both = load_plan(
        _document(
            tmp_path,
            stores={"local": str(tmp_path / "local"), "cloud": str(tmp_path / "cloud")},
            policies={"default": {"tiers": tiers}},
        )
    )
    with ThreadPoolExecutor() as pool:
        runs = [
            pool.submit(
                run_in_process, both, "backup", {"dataset": DATASET, "tier": name}, environ=environ
            )
            for name in ("local", "cloud")
        ]
        assert all(run.result()["created"] for run in runs)
    with Runner(both, environ=environ) as runner:
        first, second = runner.repositories(DATASET)
        assert first.keys == second.keys


def test_the_engine_and_all_around_it_load_neither_dagster_nor_boto3(
    plan: Plan, environ: dict[str, str]
) -> None:
    code = (
        "import json, sys;"
        "import backup_pipeline, backup_pipeline.cli, backup_pipeline.process;"
        "import backup_pipeline.doctor, backup_pipeline.instance;"
        "from backup_pipeline.plan import load_plan;"
        "plan = load_plan(json.loads(sys.argv[1]));"
        "run = backup_pipeline.process.run_here;"
        "run(plan, 'backup', {'dataset': 'vision/a'});"
        "run(plan, 'verify', {'dataset': 'vision/a'});"
        "run(plan, 'status', {});"
        "run(plan, 'drill', {'dataset': 'vision/a', 'sample': 'all'});"
        "heavy = {name.partition('.')[0] for name in sys.modules};"
        "print(sorted(heavy & {'dagster', 'dagster_aws', 'boto3', 'botocore', 'obstore',"
        " 'great_expectations'}))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, json.dumps(dict(plan.document))],
        env=environ,
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.strip() == "[]"

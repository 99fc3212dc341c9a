"""Consistent sets from the command line: answers, exit codes, and how they fail."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from backup_pipeline.runner import capture as capturing
from backup_pipeline.runner.planned import ONE_DAY
from backup_pipeline_tests.clock import set_clock
from backup_pipeline_tests.test_cli import COMMAND, Shell, today

PLAN = """\
start: {start}
encryption: none
stores: {{local: stores/local, cloud: stores/cloud}}
policies:
  default:
    tiers:
      - {{name: local, every: day, kind: incremental, full_every: 4 weeks, keep: {{daily: 7}}}}
      - {{name: cloud, every: day, kind: incremental, full_every: 4 weeks, keep: {{daily: 7}}}}
datasets:
  - {{assets: [vision/a, vision/b, single], source: "data/{{asset}}"}}
sets:
  champion: {{members: [vision/a, vision/b]HOOKS}}
"""


@pytest.fixture
def shell(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Shell:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(capturing, "sleep", lambda _: None)
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    shell = Shell(tmp_path, capsys)
    for key in ("vision/a", "vision/b", "single"):
        (tmp_path / "data" / key).mkdir(parents=True)
        (tmp_path / "data" / key / "state").write_text(key)
    shell.write_plan(PLAN.replace("HOOKS", ""))
    return shell


def test_a_set_is_backed_up_listed_and_restored(shell: Shell) -> None:
    made = shell.good("backup", "--set", "champion", "--json").json
    assert made["ok"]
    assert set(made["members"]) == {"vision/a", "vision/b"}
    (cut,) = shell.good("snapshots", "--set", "champion", "--json").json
    assert cut["cut"] == made["cut"]["cut"]
    assert cut["whole"]
    assert "2 of 2" in shell.good("snapshots", "--set", "champion").out
    said = shell.good("restore", "--set", "champion", "--to", "back").out
    assert f"set champion of {today()}" in said
    assert (shell.root / "back/vision/b/state").read_text() == "vision/b"
    store = ("--store", "stores/local", "--encryption", "none")
    bare = shell.good("restore", "--set", "champion", "--to", "bare", *store, "--json").json
    assert bare["ok"]
    assert bare["cut"] == cut["cut"]


def test_a_backup_of_everything_does_sets_as_sets(shell: Shell) -> None:
    said = shell.good("backup", "--json").json
    assert [one.get("set") for one in said] == ["champion", None]
    status = shell.good("status", "--tier", "local", "--json").json
    (standing,) = status["sets"]
    assert standing["fresh"]
    assert standing["newest"]["cut"] == said[0]["cut"]["cut"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["backup", "vision/a"], "--set champion"),
        (["backup", "--set", "champoin"], "did you mean 'champion'"),
        (["backup", "single", "--set", "champion"], "both given"),
        (["restore", "--set", "champion", "--snapshot", "ab", "--to", "x"], "about one dataset"),
        (["restore", "--set", "champion", "--include", "*", "--to", "x"], "about one dataset"),
    ],
)
def test_what_does_not_go_together_is_refused(shell: Shell, words: list[str], says: str) -> None:
    ran = shell(*words)
    assert ran.code == 2
    assert says in ran.err


def test_a_set_that_lacks_a_member_is_not_restored_and_not_fresh(shell: Shell) -> None:
    shell.good("backup", "--set", "champion")
    shutil.rmtree(shell.root / "stores" / "local")
    ran = shell("restore", "--set", "champion", "--to", "back")
    assert ran.code == 3
    assert "has no cut" in ran.err
    assert not (shell.root / "back").exists()
    shell.write_plan(PLAN.replace("HOOKS", ""), start="2026-01-01")
    ran = shell("status")
    assert ran.code == 1
    assert "STALE" in ran.out.partition("set ")[2]


def test_missing_names_the_days_without_a_whole_cut_and_what_they_lack(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = date(2026, 11, 2)
    set_clock(monkeypatch, first)
    shell.write_plan(PLAN.replace("HOOKS", ""), start=str(first))
    shell.good("backup", "--set", "champion")
    set_clock(monkeypatch, first + ONE_DAY)
    shutil.rmtree(next((shell.root / "stores" / "local").rglob("log")).parent)
    ran = shell("missing", "--set", "champion", "--tier", "local", "--json")
    assert ran.code == 1
    (one,) = ran.json
    assert one["day"] == str(first)
    assert one["lacks"] in (["vision/a"], ["vision/b"])


def test_a_set_that_never_rests_is_stored_without_a_cut_and_exit_code_1(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    from backup_pipeline.sources.files import FilesSource

    monkeypatch.setattr(FilesSource, "fingerprint", lambda self: os.urandom(32).hex())
    ran = shell("backup", "--set", "champion")
    assert ran.code == 1
    assert "NO CUT" in ran.out
    assert "of 4 attempts: vision/a (in 4), vision/b (in 4)" in ran.err
    assert "whole" not in shell.good("snapshots", "--set", "champion").out.partition("0 whole")[0]
    assert len(shell.good("snapshots", "--json").json) == 2


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_the_command_that_is_stopped_while_frozen_thaws(shell: Shell, stop: signal.Signals) -> None:
    os.mkfifo(shell.root / "frozen")
    hooks: dict[str, Any] = {
        "freeze": ["/bin/sh", "-c", "echo frozen > frozen; sleep 30"],
        "thaw": ["/bin/sh", "-c", "sleep 2.5; echo thawed > thawed"],
    }
    shell.write_plan(PLAN.replace("HOOKS", f", {json.dumps(hooks)[1:-1]}".replace("{", "{{")))
    command = [str(COMMAND)] if COMMAND.exists() else [sys.executable, "-m", "backup_pipeline"]
    with subprocess.Popen([*command, "backup", "--set", "champion"], cwd=shell.root) as process:
        assert (shell.root / "frozen").read_text() == "frozen\n"
        process.send_signal(stop)
        assert process.wait(30) == 130
    assert (shell.root / "thawed").read_text() == "thawed\n", "ended before the thaw did"

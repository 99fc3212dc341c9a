"""The command line, end to end on local stores: answers, exit codes, and how it fails."""

from __future__ import annotations

import json
import os
import pty
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from backup_pipeline.cli import main
from backup_pipeline.engine.keys import new_key_file
from backup_pipeline.s3_server import S3Server

DATASET = "vision/a"
COMMAND = Path(sys.executable).with_name("backup-pipeline")
PLAN = """\
start: {start}
stores: {{local: stores/local, cloud: stores/cloud}}
policies:
  default:
    tiers:
      - {{name: local, every: day, kind: incremental, full_every: 4 weeks, keep: {{daily: 7}}}}
      - {{name: cloud, every: day, kind: incremental, full_every: 4 weeks, keep: {{daily: 7}}}}
datasets: [{{asset: vision/a, source: data}}]
"""


def today() -> date:
    """The day by the plan's timezone, which midnight may have changed since the tests began."""
    return datetime.now(UTC).date()


@dataclass
class Ran:
    """What a call said."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one document on standard output."""
        return json.loads(self.out)


class Shell:
    """Calls the command line in a directory with a plan and a dataset."""

    def __init__(self, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.root = root
        self._capsys = capsys
        (root / "data" / "sub").mkdir(parents=True)
        (root / "data" / "a.txt").write_text("one")
        (root / "data" / "sub" / "b.bin").write_bytes(os.urandom(300_000))
        self.write_plan()

    def write_plan(self, text: str = PLAN, start: str = "") -> None:
        (self.root / "backup.yaml").write_text(text.format(start=start or today()))

    def __call__(self, *words: str) -> Ran:
        self._capsys.readouterr()
        code = main(words)
        captured = self._capsys.readouterr()
        return Ran(code, captured.out, captured.err)

    def good(self, *words: str) -> Ran:
        ran = self(*words)
        assert ran.code == 0, (ran.out, ran.err)
        return ran

    def snapshot(self, tier: str = "local") -> dict[str, Any]:
        return self.good("snapshots", "--tier", tier, "--json").json[-1]


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("BACKUP_PLAN", "DAGSTER_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("BACKUP_PASSPHRASE", "five words for this test")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def shell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(tmp_path, capsys)


def run_command(*words: str, **more: Any) -> Ran:
    """The real console command, in a process of its own."""
    ran = subprocess.run(
        [str(COMMAND), *words], capture_output=True, text=True, check=False, timeout=60, **more
    )
    return Ran(ran.returncode, ran.stdout, ran.stderr)


# -- the whole way


def test_the_console_command_backs_up_lists_and_restores(shell: Shell) -> None:
    for words in (("validate",), ("doctor", "--no-dagster")):
        ran = run_command(*words)
        assert (ran.code, ran.err) == (0, "")
    ran = run_command("backup", DATASET)
    assert ran.code == 0 and ran.err.endswith("held no backups: it is prepared as store local\n")
    ran = run_command("backup", DATASET)
    assert (ran.code, ran.err) == (0, "")
    listed = run_command("snapshots", "--json").json[-1]
    assert set(listed) >= {
        "id", "dataset", "tier", "day", "kind", "parent", "captured_at", "files", "bytes",
        "stored_bytes", "status",
    }  # fmt: skip
    assert (listed["dataset"], listed["day"], listed["files"]) == (DATASET, str(today()), 2)
    ran = run_command("restore", DATASET, "--to", "back")
    assert ran.code == 0, ran.err
    same = subprocess.run(["diff", "-r", "data", "back"], capture_output=True, check=False)
    assert same.returncode == 0, same.stdout


def test_every_verb_answers_with_one_json_document(shell: Shell) -> None:
    assert shell.good("validate", "--json").json["datasets"] == [DATASET]
    findings = shell.good("doctor", "--no-dagster", "--json").json
    assert findings["ok"]
    assert {one["level"] for one in findings["findings"]} <= {"good", "note"}
    first = shell.good("backup", DATASET, "--json").json
    assert (first["created"], first["snapshot"]["kind"]) == (True, "full")
    (shell.root / "data" / "c.txt").write_text("three")
    [second] = shell.good("backup", "--json").json
    assert second["snapshot"]["parent"] == first["snapshot"]["id"]
    copied = shell.good("copy", "--from", "local", "--to", "cloud", "--json").json
    assert copied["snapshot"]["origin"]["snapshot"] == second["snapshot"]["id"]
    assert len(shell.good("snapshots", "--json").json) == 3
    assert [one["path"] for one in shell.good("ls", "--json").json] == [
        "a.txt", "c.txt", "sub", "sub/b.bin",
    ]  # fmt: skip
    [change] = shell.good("diff", "--json", "--tier", "local").json
    assert (change["path"], change["change"]) == ("c.txt", "added")
    assert shell.good("diff", DATASET, "local:latest", "cloud:latest", "--json").json == []
    dry = shell.good("restore", "--to", "back", "--dry-run", "--json").json
    assert (dry["files"], dry["dry_run"]) == (3, True)
    assert not (shell.root / "back").exists()
    assert shell.good("restore", "--to", "back", "--json").json["written_files"] == 3
    assert shell.good("restore", "--to", "back", "--json").json["skipped_files"] == 3
    verified = shell.good("verify", "--json").json
    assert (verified["ok"], verified["coverage"]) == (True, 1.0)
    assert [one["tier"] for one in verified["tiers"]] == ["local", "cloud"]
    partly = shell.good("verify", "--read-data", "0%", "--json").json
    assert (partly["ok"], partly["bytes_checked"]) == (True, 0)
    standing = shell.good("status", "--json").json
    assert standing["fresh"]
    assert [one["tier"] for one in standing["tiers"]] == ["local", "cloud"]


def test_every_verb_tells_people_what_it_did(shell: Shell) -> None:
    assert "2 tiers" in shell.good("validate").out
    assert "all is well" in shell.good("doctor", "--no-dagster").out
    assert "2 files" in shell.good("backup").out
    listed = shell.good("snapshots").out.splitlines()
    assert listed[0].split()[:3] == ["id", "dataset", "tier"]
    assert listed[-1] == "1 snapshot"
    assert "sub/b.bin" in shell.good("ls").out
    (shell.root / "data" / "a.txt").unlink()
    shell.good("backup")
    assert shell.good("diff").out.startswith("- a.txt")
    assert "no difference" in shell.good("diff", DATASET, "latest").out
    assert "restored vision/a" in shell.good("restore", "--to", "back").out
    assert "good" in shell.good("verify").out
    assert "fresh" in shell.good("status").out


def test_a_part_of_a_day_is_restored_by_glob_time_and_id(shell: Shell) -> None:
    shell.good("backup")
    first = shell.snapshot()
    (shell.root / "data" / "a.txt").write_text("two")
    time.sleep(0.01)
    shell.good("backup")
    shell.good("restore", "--to", "by-id", "--snapshot", first["id"][:8], "--include", "*.txt")
    assert [path.name for path in (shell.root / "by-id").iterdir()] == ["a.txt"]
    assert (shell.root / "by-id" / "a.txt").read_text() == "one"
    shell.good("restore", "--to", "by-time", "--at", first["captured_at"])
    assert (shell.root / "by-time" / "a.txt").read_text() == "one"
    shell.good("restore", "--to", "by-day", "--day", str(today()))
    assert (shell.root / "by-day" / "a.txt").read_text() == "two"


def test_the_plan_is_named_in_the_environment_or_lies_here(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    missing = shell("backup", "--json")
    assert (missing.code, missing.json["error"]["type"]) == (2, "UsageError")
    assert "BACKUP_PLAN" in missing.json["error"]["hint"]
    monkeypatch.setenv("BACKUP_PLAN", "../backup.yaml")
    shell.good("backup")
    shell.good("validate", "../backup.yaml")


# -- a store without a plan


def test_a_store_and_a_key_are_enough(shell: Shell) -> None:
    shell.good("backup")
    store = ("--store", "stores/local")
    (shell.root / "backup.yaml").unlink()
    assert [one["dataset"] for one in shell.good("snapshots", *store, "--json").json] == [DATASET]
    named = (*store, "--dataset", DATASET)
    assert shell.good("ls", *named, "--json").json
    assert shell.good("verify", *named, "--json").json["ok"]
    assert shell.good("restore", *named, "--to", "back", "--json").json["ok"]
    assert shell.good("diff", *named, "latest", "latest", "--json").json == []
    assert shell("snapshots", "--store", "stores/nothing").code == 3
    assert shell("ls", *store, "--dataset", "vision/b").code == 3
    assert shell("backup", "--plan", "x", "--key-file", "y").code == 2
    assert shell("snapshots", *store, "--plan", "backup.yaml").code == 2


def test_a_store_opens_with_its_key_file(shell: Shell) -> None:
    (shell.root / "key").write_text(new_key_file())
    shell.write_plan(PLAN + "keys: {{main: {{key_file: {{file: key}}}}}}\n")
    shell.good("backup")
    store = ("--store", "stores/local")
    assert shell.good("snapshots", *store, "--key-file", "key", "--json").json
    assert shell("snapshots", *store).code == 2
    assert "cannot read nothing" in shell("snapshots", *store, "--key-file", "nothing").err
    assert "no key file" in shell("snapshots", *store, "--key-file", "backup.yaml").err.replace(
        "is not a key file", "no key file"
    )


def test_a_store_without_encryption_is_read_as_one(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    shell.write_plan(PLAN + "encryption: none\n")
    shell.good("backup")
    store = ("--store", "stores/local")
    assert shell("snapshots", *store).code == 2  # a key is given, and it opens nothing
    assert shell.good("snapshots", *store, "--encryption", "none", "--json").json
    monkeypatch.delenv("BACKUP_PASSPHRASE")
    assert shell.good("snapshots", *store, "--json").json


def test_a_store_is_restored_where_dagster_cannot_be_imported(shell: Shell) -> None:
    shell.good("backup")
    (shell.root / "backup.yaml").unlink()
    hooks = shell.root / "hooks"
    hooks.mkdir()
    (hooks / "sitecustomize.py").write_text(
        "import sys\n"
        "class Block:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0].startswith('dagster'):\n"
        "            raise ImportError('there is no Dagster here')\n"
        "sys.meta_path.insert(0, Block())\n"
    )
    environ = {**os.environ, "PYTHONPATH": str(hooks)}
    blocked = subprocess.run(
        [sys.executable, "-c", "import dagster"], env=environ, capture_output=True, check=False
    )
    assert b"there is no Dagster here" in blocked.stderr
    store = ("--store", "stores/local", "--dataset", DATASET)
    for words in (("verify",), ("restore", "--to", "back")):
        ran = run_command(*words, *store, env=environ)
        assert ran.code == 0, ran.err
    assert (shell.root / "back" / "a.txt").read_text() == "one"


@pytest.mark.parametrize(
    ("words", "unwanted"),
    [
        (("--help",), {"yaml", "pydantic", "pyarrow", "rich", "cryptography"}),
        (("backup", "--help"), {"yaml", "pydantic", "pyarrow", "rich", "cryptography"}),
        (("backup", "--json"), {"rich", "pandas"}),
        (("snapshots", "--json"), {"rich", "pandas", "pyarrow"}),
        (("restore", "--to", "back", "--json"), {"rich", "pandas"}),
        (("verify", "--json"), {"rich", "pandas"}),
    ],
    ids=lambda value: "-".join(value[:1]) if isinstance(value, tuple) else "",
)
def test_nothing_heavy_is_loaded_before_it_is_needed(
    shell: Shell, words: tuple[str, ...], unwanted: set[str]
) -> None:
    shell.good("backup")
    ran = subprocess.run(
        [sys.executable, "-X", "importtime", str(COMMAND), *words],
        capture_output=True,
        text=True,
        check=True,
    )
    imported = set(re.findall(r"\| +(\S+)$", ran.stderr, re.M))
    assert "click.core" in imported
    always = {"dagster", "dagster_aws", "boto3", "botocore", "obstore", "great_expectations"}
    # A package that was looked for in vain is listed too, but nothing below it.
    packages = {name.partition(".")[0] for name in imported if "." in name}
    assert packages & (unwanted | always) == set()


@pytest.mark.services
def test_a_tier_on_s3_brings_a_lost_tier_back(
    shell: Shell, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"s3://backups/{secrets.token_hex(6)}"
    for name, value in s3_server.environ().items():
        monkeypatch.setenv(name, value)
    cloud = f'cloud: {{{{url: "{url}", endpoint: "{s3_server.endpoint}", region: us-east-1}}}}'
    shell.write_plan(PLAN.replace("cloud: stores/cloud", cloud))
    assert shell.good("doctor", "--no-dagster", "--json").json["ok"]
    shell.good("backup")
    shell.good("copy", "--from", "local", "--to", "cloud")
    shutil.rmtree(shell.root / "stores")
    shutil.rmtree(shell.root / "data")
    (shell.root / "backup.yaml").unlink()
    store = ("--store", url, "--endpoint", s3_server.endpoint, "--region", "us-east-1")
    assert shell.good("verify", *store, "--json").json["coverage"] == 1.0
    shell.good("restore", *store, "--dataset", DATASET, "--to", "data")
    assert (shell.root / "data" / "a.txt").read_text() == "one"
    shell.write_plan(PLAN.replace("cloud: stores/cloud", cloud))
    shell.good("copy", "--from", "cloud", "--to", "local")
    assert shell.good("verify", "--json").json["ok"]


# -- what is wrong with the backups: exit code 1


def test_damage_is_found_named_and_put_right_from_another_tier(shell: Shell) -> None:
    shell.good("backup")
    shell.good("copy", "--from", "local", "--to", "cloud")
    packs = [path for path in (shell.root / "stores/local").rglob("packs/*/*") if path.is_file()]
    pack = max(packs, key=lambda path: path.stat().st_size)
    content = bytearray(pack.read_bytes())
    content[len(content) // 2] ^= 0xFF
    pack.chmod(0o600)
    pack.write_bytes(content)
    found = shell("verify", "--json")
    assert found.code == 1
    assert not found.json["ok"]
    [damage] = found.json["damage"]
    assert pack.name in damage["name"]
    assert damage["snapshots"] == [shell.snapshot()["id"]]
    told = shell("verify", "--tier", "local")
    assert (told.code, "DAMAGED" in told.out) == (1, True)
    helped = shell.good("restore", "--tier", "local", "--to", "helped", "--json").json
    assert (helped["damaged_packs"], list(helped["elsewhere"])) == (1, ["cloud"])
    assert "had from tier cloud" in shell.good("restore", "--tier", "local", "--to", "again").out
    assert shell.good("restore", "--tier", "cloud", "--to", "back", "--json").json["ok"]
    would = shell("repair", "--tier", "local", "--json")
    [told] = would.json["tiers"]
    assert (would.code, told["mended_count"], told["left_count"]) == (1, 1, 0)
    assert "would be repaired" in shell("repair").out.lower()
    assert shell("verify", "--tier", "local").code == 1
    done = shell.good("repair", DATASET, "--apply")
    assert "healed with the same bytes of another tier" in done.out
    shell.good("verify", "--tier", "local")
    assert "nothing is damaged" in shell.good("repair", "--no-source").out
    mended = shell.good("restore", "--tier", "local", "--to", "mended", "--json").json
    assert not mended["damaged_packs"]


def test_a_file_that_changes_while_it_is_read_makes_the_backup_incomplete(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    from backup_pipeline.sources.files import FilesSource

    restless = shell.root / "data" / "restless"
    restless.write_bytes(os.urandom(4_000_000))
    opened = FilesSource.open

    def write_behind(self: FilesSource, path: bytes, *rest: Any, **more: Any) -> Any:
        reader = opened(self, path, *rest, **more)
        if path == b"restless":
            with restless.open("ab") as content:
                content.write(b"more")
        return reader

    monkeypatch.setattr(FilesSource, "open", write_behind)
    ran = shell("backup", DATASET, "--json")
    assert ran.code == 1
    snapshot = ran.json["snapshot"]
    assert (snapshot["status"], snapshot["problem_count"]) == ("incomplete", 1)
    assert snapshot["problems"][0]["path"] == "restless"
    refused = shell("restore", "--to", "back")
    assert refused.code == 3
    assert f"--snapshot {snapshot['id'][:12]}" in refused.err


def test_a_fifo_is_recorded_and_costs_no_completeness(shell: Shell) -> None:
    os.mkfifo(shell.root / "data" / "pipe")
    assert shell.good("backup", DATASET, "--json").json["snapshot"]["status"] == "complete"
    states = {one["path"]: one["state"] for one in shell.good("ls", "--json").json}
    assert states["pipe"] == "skipped"


def test_a_stale_tier_is_told_by_the_exit_code(shell: Shell) -> None:
    shell.write_plan(start=(today() - timedelta(days=5)).isoformat())
    ran = shell("status", "--json")
    assert ran.code == 1
    assert [one["fresh"] for one in ran.json["tiers"]] == [False, False]
    assert len(ran.json["tiers"][0]["missing_days"]) >= 4


# -- what is wrong with the call: exit code 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("restor",), "did you mean restore"),
        (("backup", "--tear", "x"), "No such option"),
        (("backup", "vision/b"), "did you mean 'vision/a'"),
        (("backup", "--tier", "clod"), "tiers: local, cloud"),
        (("backup", "--day", "yesterday"), "yesterday"),
        (("backup", DATASET, "--day", "2999-01-01"), "in the future"),
        (("backup", "--kind", "partial"), "partial"),
        (("restore",), "--to DIR"),
        (("restore", "--to", "x", "--at", "noon"), "noon"),
        (("restore", "--to", "x", "--day", "2026-01-01", "--snapshot", "a"), "one of them"),
        (("verify", "--read-data", "half"), "5%"),
        (("copy", "--from", "local"), "--to TIER"),
        (("copy", "--from", "local", "--to", "local"), "itself"),
        (("diff", DATASET, "a", "b", "c"), "not 3"),
        (("backup", "--store", "x"), "No such option"),
        (("snapshots", "--plan", "nowhere.yaml"), "nowhere.yaml"),
        (("snapshots", "--region", "x"), "belongs to --store"),
    ],
)
def test_a_mistake_is_explained_without_a_traceback(
    shell: Shell, words: tuple[str, ...], said: str
) -> None:
    shell.good("backup")
    ran = shell(*words)
    assert ran.code == 2
    assert said in ran.err
    assert "Traceback" not in ran.err
    assert ran.out == ""
    as_json = shell(*words, "--json")
    assert as_json.code == 2
    error = as_json.json["error"]
    assert error["exit_code"] == 2
    assert said in f"{error['message']} {error['hint']}"


def test_all_mistakes_of_a_plan_are_told_with_their_lines(shell: Shell) -> None:
    shell.write_plan(PLAN.replace("every: day", "evry: day", 1) + "datsets: []\n")
    ran = shell("validate")
    assert ran.code == 2
    assert "backup.yaml:6:" in ran.err
    assert "did you mean 'every'" in ran.err
    assert "backup.yaml:9:" in ran.err
    problems = shell("validate", "--json").json["error"]["problems"]
    assert [one["line"] for one in problems] == [6, 9]
    assert shell("backup").code == 2


def test_an_edit_that_hides_days_is_refused(shell: Shell) -> None:
    before = (shell.root / "backup.yaml").read_text()
    (shell.root / "old.yaml").write_text(before)
    shell.good("validate", "--against", "old.yaml")
    (shell.root / "backup.yaml").write_text(before + "timezone: Asia/Tokyo\n")
    ran = shell("validate", "--against", "old.yaml")
    assert ran.code == 2
    assert "accept_history_change: [timezone]" in ran.err


def test_keys_that_are_wrong_or_missing_are_told_apart(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    shell.good("backup")
    monkeypatch.setenv("BACKUP_PASSPHRASE", "other words")
    for words in (("snapshots",), ("backup",), ("snapshots", "--store", "stores/local")):
        ran = shell(*words)
        assert ran.code == 2
        assert "none of the keys given opens" in ran.err
    monkeypatch.delenv("BACKUP_PASSPHRASE")
    ran = shell("backup", DATASET, "--json")
    assert (ran.code, ran.json["error"]["type"]) == (2, "KeyMissing")
    assert "export BACKUP_PASSPHRASE" in ran.json["error"]["hint"]


# -- what could not be done: exit code 3


def test_a_store_out_of_reach_is_told(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    shell.good("backup")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    away = ("--store", "s3://backups/x", "--endpoint", "http://127.0.0.1:9", "--region", "x")
    ran = shell("snapshots", *away, "--json")
    assert (ran.code, ran.json["error"]["type"]) == (3, "StoreUnavailable")
    text = PLAN.replace(
        "cloud: stores/cloud",
        'cloud: {{url: "s3://backups/x", endpoint: "http://127.0.0.1:9", region: x}}',
    )
    shell.write_plan(text)
    assert shell("snapshots", "--tier", "cloud").code == 3
    listed = shell.good("snapshots", "--json")
    assert len(listed.json) == 1
    assert "out of reach" in listed.err
    assert shell("status").code == 1
    problem = shell("doctor", "--no-dagster", "--json")
    assert problem.code == 1
    assert [one["area"] for one in problem.json["findings"] if one["level"] == "problem"] == [
        "store cloud"
    ]


def test_a_day_that_cannot_be_had_is_refused_with_those_that_can(shell: Shell) -> None:
    shell.good("backup")
    past = (today() - timedelta(days=3)).isoformat()
    ran = shell("backup", DATASET, "--day", past, "--json")
    assert ran.code == 3
    assert ran.json["error"]["type"] == "DayUnavailable"
    assert ran.json["error"]["available"] == [str(today())]
    assert shell("restore", "--day", past, "--to", "back").code == 3


def test_one_dataset_that_fails_does_not_cost_the_others_their_backup(shell: Shell) -> None:
    shell.write_plan(
        PLAN.replace("datasets: [", "datasets: [{{asset: vision/gone, source: nowhere}}, ")
    )
    ran = shell("backup", "--json")
    assert ran.code == 3
    failed, made = ran.json
    assert (failed["dataset"], failed["error"]["type"]) == ("vision/gone", "SourceError")
    assert made["snapshot"]["dataset"] == DATASET


# -- how it fails


def test_an_unexpected_error_is_one_line_and_a_request_to_report_it(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    from backup_pipeline.runner import Runner

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("of no one's doing\nat all")

    monkeypatch.setattr(Runner, "posture", fail)
    ran = shell("status")
    assert ran.code == 3
    assert len(ran.err.splitlines()) == 1
    assert "please report" in ran.err
    assert shell("status", "--json").json["error"]["exit_code"] == 3
    with pytest.raises(RuntimeError):
        main(["status", "--debug"])


@pytest.fixture
def silent_server() -> Iterator[int]:
    """The port of a server that takes connections and never answers."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(16)
        yield listening.getsockname()[1]


def test_an_interruption_ends_it_quietly(shell: Shell, silent_server: int) -> None:
    environ = {**os.environ, "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
    endpoint = f"http://127.0.0.1:{silent_server}"
    child = subprocess.Popen(
        [COMMAND, "snapshots", "--store", "s3://backups/x", "--endpoint", endpoint],
        env=environ | {"AWS_REGION": "x"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    time.sleep(2.5)
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=20)
    assert (child.returncode, out, err) == (130, "", "")


def test_a_reader_that_leaves_is_no_error(shell: Shell) -> None:
    for number in range(3000):
        (shell.root / "data" / f"a file with a long name, number {number}").touch()
    shell.good("backup")
    child = subprocess.Popen([COMMAND, "ls"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert child.stdout
    assert child.stderr
    child.stdout.readline()
    child.stdout.close()
    assert child.stderr.read() == b""
    assert child.wait(20) == 141
    child.stderr.close()


# -- progress


def test_progress_is_plain_lines_that_leave_the_json_alone(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backup_pipeline.cli.progress.LINE_INTERVAL_S", 0.0)
    ran = shell.good("backup", DATASET, "--json")
    assert ran.json["snapshot"]["files"] == 2
    assert f"backup {DATASET}" in ran.err
    ran = shell.good("backup", DATASET)
    assert "reading" in ran.out
    assert ran.err == ""


def test_on_a_terminal_a_bar_is_drawn_and_taken_away(shell: Shell) -> None:
    ours, theirs = pty.openpty()
    ran = subprocess.run(
        [COMMAND, "backup", "--json"], stdout=subprocess.PIPE, stderr=theirs, check=True
    )
    os.close(theirs)
    drawn = os.read(ours, 65536).decode()
    os.close(ours)
    assert f"backup {DATASET}" in drawn
    assert json.loads(ran.stdout)[0]["created"]


# -- the doctor


def _problems(ran: Ran) -> list[str]:
    return [one["message"] for one in ran.json["findings"] if one["level"] == "problem"]


def _notes(ran: Ran) -> list[str]:
    return [one["message"] for one in ran.json["findings"] if one["level"] == "note"]


def test_the_doctor_finds_what_has_to_be_put_right(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    doctor: Callable[[], Ran] = lambda: shell("doctor", "--no-dagster", "--json")  # noqa: E731
    shell.good("backup")
    assert _problems(doctor()) == []
    shell.write_plan(PLAN + "deployment: prod\n", start=(today() + timedelta(days=2)).isoformat())
    ran = doctor()
    assert ran.code == 1
    assert "deployment None" in _problems(ran)[0]
    assert any(str(today()) in note for note in _notes(ran))
    shell.write_plan(PLAN.replace("source: data", "source: nowhere"))
    assert "nowhere" in _problems(doctor())[0]
    shell.write_plan()
    monkeypatch.setenv("BACKUP_PASSPHRASE", "other words")
    assert "none of the keys given opens" in _problems(doctor())[0]
    monkeypatch.delenv("BACKUP_PASSPHRASE")
    assert "BACKUP_PASSPHRASE" in _problems(doctor())[0]


def test_the_doctor_tells_what_the_dagster_instance_lacks(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = shell.root / "dagster_home"
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    assert any("no directory" in message for message in _problems(shell("doctor", "--json")))
    home.mkdir()
    bare = shell("doctor", "--json")
    assert bare.code == 1
    assert any("daemon" in message for message in _problems(bare))
    advice = "\n".join(str(one["next"]) for one in bare.json["findings"])
    assert "dagster instance concurrency set backup_local 2" in advice
    assert "applyLimitPerUniqueValue" in advice
    ours = Path(__file__).parents[1] / "dagster.yaml"
    (home / "dagster.yaml").write_text(ours.read_text())
    suited = shell("doctor", "--json")
    assert all("daemon" in message for message in _problems(suited))
    assert not any("concurrency" in str(one["next"]) for one in suited.json["findings"])


def test_a_restore_in_place_is_told_done_undone_and_accepted(shell: Shell) -> None:
    shell.good("backup")
    (shell.root / "data" / "a.txt").write_text("spoilt")
    (shell.root / "data" / "extra").write_text("mine")
    told = shell.good("restore", "--in-place", "--dry-run")
    assert "would make" in told.out and "assumed" in told.out and "1 file, 4 B" in told.out
    done = shell.good("restore", "--in-place", "--delete", "--json").json
    assert (done["written_files"], done["removed_files"], done["verified"]) == (1, 1, True)
    assert (shell.root / "data" / "a.txt").read_text() == "one"
    assert "equal to vision/a" in shell.good("restore", "--in-place", "--delete").out
    refused = shell("restore", "--in-place", "--day", str(today()))
    assert refused.code == 2 and "--accept" in refused.err
    shutil.move(shell.root / "stores", shell.root / "out of reach")  # it needs none
    assert shell.good("restore", "--undo", "--json").json["files"] == 2
    assert (shell.root / "data" / "a.txt").read_text() == "spoilt"
    assert (shell.root / "data" / "extra").read_text() == "mine"
    shutil.move(shell.root / "out of reach", shell.root / "stores")
    shell.good("restore", "--in-place", "--to", "data")
    assert "dropped" in shell.good("restore", "--accept", "--to", "data").out
    assert shell("restore", "--undo").code == 3
    for words in (("--in-place", "--undo"), ("--to", "x", "--delete"), ("--in-place", "--to", "")):
        assert shell("restore", *words).code == 2

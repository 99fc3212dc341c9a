"""Drills by the command line: they take turns, are held against the plan, and tell the truth."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from backup_pipeline.cli import main
from backup_pipeline.engine.keys import new_key_file
from backup_pipeline.plan import load_plan
from backup_pipeline.process import run_in_process
from backup_pipeline.runner import Runner

FUNCTIONS = "backup_pipeline_tests.drilling.drill_functions"


class Place:
    """A dataset and a plan in a folder of its own."""

    def __init__(self, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.root, self._capsys = root, capsys
        self.source = root / "data"
        self.source.mkdir()
        (root / "key").write_text(new_key_file())

    def write(self, name: str, size: int, byte: bytes = b"x") -> None:
        path = self.source / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(byte * size)

    def plan(self, drill: dict[str, Any], **policy: Any) -> None:
        tier = {"name": "local", "kind": "full"}
        document = {
            "start": "2026-11-01",
            "stores": {"local": str(self.root / "store")},
            "keys": {"main": {"key_file": {"file": "key"}}},
            "scratch": {"url": str(self.root / "scratch")},
            "policies": {"default": {"tiers": [tier], "drill": drill, "anomaly": False, **policy}},
            "datasets": [{"asset": "vision/a", "source": "data"}],
        }
        (self.root / "backup.yaml").write_text(yaml.safe_dump(document))

    def run(self, *words: str, code: int = 0) -> Any:
        self._capsys.readouterr()
        plan = [] if "--store" in words else ["--plan", str(self.root / "backup.yaml")]
        assert main([*words, *plan, "--json"]) == code, self._capsys.readouterr().err
        return json.loads(self._capsys.readouterr().out)

    def drill(self, *words: str, code: int = 0) -> dict[str, Any]:
        answer = self.run("drill", *words, code=code)
        assert answer["ok"] == (code == 0)
        [report] = answer["drills"]
        assert not list((self.root / "scratch").iterdir())
        return report

    def back_up(self) -> None:
        self.run("backup", "--force")


@pytest.fixture
def place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Place]:
    yield Place(tmp_path, capsys)


def test_drills_take_turns_by_the_log_alone_and_a_lost_machine_loses_no_turn(
    place: Place,
) -> None:
    for number in range(20):
        place.write(f"{number}", 1000 + number)
    place.plan({"every": "week", "sample": "25%"})
    place.back_up()
    shares = [place.drill()["verified_share"] for _ in range(4)]
    assert shares == sorted(shares) and 0.25 <= shares[0] < 1 and shares[-1] == 1
    place.write("later", 4000)
    place.back_up()
    last = place.drill()
    assert last["covers_in_s"] == 4 * 7 * 86_400
    assert last["recorded"] and last["oldest_verified_at"]
    everything = place.drill("--sample", "all")
    assert (everything["verified_share"], everything["sample_fraction"]) == (1.0, 1.0)
    runner = Runner(load_plan(place.root / "backup.yaml"))
    repository, _ = runner.find("vision/a")
    assert len(repository.state.drills) == 6


def test_a_store_alone_is_drilled_and_not_written_to(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.write("one", 10)
    place.plan({})
    place.back_up()
    before = sorted(place.root.joinpath("store").rglob("*"))
    store = ["--store", str(place.root / "store"), "--key-file", str(place.root / "key")]
    answer = place.run("drill", *store)
    assert answer["ok"] and not answer["drills"][0]["recorded"]
    assert sorted(place.root.joinpath("store").rglob("*")) == before


def test_a_file_that_fails_stays_red_until_it_is_right_again(place: Place) -> None:
    for number in range(10):
        place.write(f"{number}", 1, os.urandom(100_000))
    place.plan({"sample": "10%"})
    place.back_up()
    packs = [path for path in (place.root / "store").rglob("packs/*/*") if path.is_file()]
    whole = {path: path.read_bytes() for path in packs}
    for path, content in whole.items():
        path.chmod(0o600)
        path.write_bytes(content[: len(content) // 2])
    first = place.drill(code=1)
    assert not first["equal"] and first["verified_share"] == 0
    for path, content in whole.items():
        path.write_bytes(content)
    second = place.drill()
    assert second["files"] >= 2, "what failed, and what is next"
    assert second["verified_share"] >= 0.2


def test_a_drill_is_held_against_the_rto_where_it_can_tell(place: Place) -> None:
    for number in range(50):
        place.write(f"{number}", 10_000)
    place.plan({"sample": "5%"}, rto="1 second")
    place.back_up()
    assert place.drill("--sample", "all")["in_time"] is True
    place.plan({"sample": "5%"}, rto="0.000001 seconds")
    small = place.drill()
    assert small["in_time"] is None and "too small to tell" in small["time"]
    late = place.drill("--sample", "all", code=1)
    assert late["in_time"] is False and late["equal"]


def test_the_restored_copy_is_tested_as_the_plan_says(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    import joblib
    from sklearn.linear_model import LogisticRegression

    frame = pd.DataFrame({"id": range(100), "price": [2.0] * 100})
    frame.to_parquet(place.source / "orders.parquet")
    model = LogisticRegression().fit([[0.0], [1.0], [2.0], [3.0]], [0, 0, 1, 1])
    joblib.dump(model, place.source / "model.joblib")
    for number in range(50):
        place.write(f"images/{number}", 10_000, os.urandom(1))
    expected = {"type": "expect_column_mean_to_be_between", "kwargs": {"column": "price"}}
    expected["kwargs"] |= {"min_value": 1, "max_value": 3}
    (place.root / "suite.json").write_text(json.dumps({"expectations": [expected]}))
    (place.root / "beside.py").write_text("def fine(place):\n    return place.is_dir()\n")
    place.plan(
        {
            "sample": "1%",
            "tests": [
                {"table": "*.parquet", "rows": 100, "suite": "suite.json"},
                {"check": f"{FUNCTIONS}:predicts", "needs": ["model.joblib"]},
                {"check": "beside:fine", "needs": ["images/7"]},
            ],
        }
    )
    place.back_up()
    report = place.drill()
    assert [(one["passed"], one["files"]) for one in report["tests"]] == [(True, 1)] * 3
    assert report["tests"][1]["said"] == {"accuracy": 1.0}
    assert 3 <= report["files"] <= 6, "the sample and what the tests need, and no more"
    frame.assign(price=9.0).to_parquet(place.source / "orders.parquet")
    joblib.dump(LogisticRegression().fit([[0.0], [3.0]], [1, 0]), place.source / "model.joblib")
    place.back_up()
    report = place.drill(code=1)
    assert [one["passed"] for one in report["tests"]] == [False, False, True]
    assert report["equal"], "the bytes are right; what they say is not"
    assert "mean" in report["tests"][0]["reason"]
    assert place.drill("--no-tests")["tests"] == []


def test_room_that_tests_need_is_counted_before_anything_is_restored(place: Place) -> None:
    for number in range(10):
        place.write(f"{number}", 1000)
    place.plan({"sample": "1%", "tests": [{"check": f"{FUNCTIONS}:sees"}]})
    document = yaml.safe_load((place.root / "backup.yaml").read_text())
    document["scratch"]["max"] = "5 KB"
    (place.root / "backup.yaml").write_text(yaml.safe_dump(document))
    place.back_up()
    answer = place.run("drill", code=2)
    assert "10000 bytes" in answer["errors"][0]["error"]["message"]
    assert place.drill("--no-tests")["files"] >= 1


def test_the_page_works_as_it_shows(place: Place) -> None:
    import joblib
    from sklearn.linear_model import LogisticRegression

    page = (Path(__file__).parents[2] / "docs" / "how-to" / "drills.md").read_text()
    [written] = re.findall(r"^```yaml\n(.*?)^```", page, re.M | re.S)
    functions, _ = re.findall(r"^```python\n(.*?)^```", page, re.M | re.S)
    (place.root / "my_checks.py").write_text(functions)
    (place.root / "suites").mkdir()
    expected = {"type": "expect_column_to_exist", "kwargs": {"column": "note"}}
    (place.root / "suites" / "orders.json").write_text(json.dumps({"expectations": [expected]}))
    place.plan(yaml.safe_load(written)["policies"]["default"]["drill"])
    model = LogisticRegression().fit([[0.0], [1.0], [2.0], [3.0]], [0, 0, 1, 1])
    joblib.dump(model, place.source / "model.joblib")
    (place.source / "orders").mkdir()
    frame = pd.DataFrame({"id": range(1000), "price": [9.5] * 1000, "note": ["as agreed"] * 1000})
    for number in range(3):
        frame.to_parquet(place.source / "orders" / f"{number}.parquet")
    place.back_up()
    report = place.drill()
    assert [one["passed"] for one in report["tests"]] == [True, True]
    assert report["covers_in_s"] == 20 * 7 * 86_400, "within 20 weeks"
    assert report["tests"][1]["said"] == {"accuracy": 1.0}


def test_processes_of_our_own_have_what_tests_need(place: Place) -> None:
    pd.DataFrame({"id": range(10)}).to_parquet(place.source / "orders.parquet")
    (place.root / "beside.py").write_text(
        "def reads(place):\n"
        "    import pandas\n"
        "    return len(pandas.read_parquet(place / 'orders.parquet')) == 10\n"
    )
    place.plan({"tests": [{"table": "*.parquet"}, {"check": "beside:reads"}]})
    place.back_up()
    plan = place.root / "backup.yaml"
    command = [sys.executable, "-m", "backup_pipeline", "drill", "--plan", str(plan), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    answer = run_in_process(load_plan(plan), "drill", {"dataset": "vision/a"})
    assert [one["passed"] for one in answer["tests"]] == [True, True], answer["tests"]

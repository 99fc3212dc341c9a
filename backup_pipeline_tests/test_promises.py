"""The table of what the tests prove: every mark reaches it, with its cases and its result."""

from __future__ import annotations

import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest

from benchmarks.reliability import day_of, proofs_in, table

ROOT = Path(__file__).parents[1]
TESTS = """
import pytest

@pytest.mark.promise("errors")
@pytest.mark.parametrize("way", ["a", "b"])
def test_two_ways(cases, way):
    cases.add(cases.scaled(4))

@pytest.mark.promise("committed")
def test_one_case():
    pass

@pytest.mark.promise("damage")
def test_that_fails(cases):
    cases.add()
    assert cases.seed == 0

@pytest.mark.promise("target")
def test_that_cannot_run():
    pytest.skip("needs root")

def test_without_a_promise():
    pass
"""


def _run(folder: Path, text: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    (folder / "test_it.py").write_text(text)
    (folder / "conftest.py").write_text((ROOT / "backup_pipeline_tests/conftest.py").read_text())
    options = ["-p", "no:cacheprovider", "-c", str(ROOT / "pyproject.toml"), f"--rootdir={folder}"]
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *options, *arguments, str(folder)],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "BACKUP_FAULT_CASES": "0.5"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("workers", [(), ("-n", "2")])
def test_what_tests_prove_reaches_the_table(tmp_path: Path, workers: tuple[str, ...]) -> None:
    done = _run(tmp_path, TESTS, "--junitxml", str(tmp_path / "run.xml"), *workers)
    assert "BACKUP_FAULT_SEED=20261122 repeats this" in done.stdout, done.stdout
    found = proofs_in([tmp_path / "run.xml"])
    assert [(one.promise, one.name, one.cases, one.passed, one.failed) for one in found] == [
        ("committed", "test_one_case", 1, 1, 0),
        ("errors", "test_two_ways", 4, 2, 0),
        ("damage", "test_that_fails", 1, 0, 1),
        ("target", "test_that_cannot_run", 0, 0, 0),
    ]
    text = table(found, day_of([tmp_path / "run.xml"]))
    assert "**1 failed**" in text
    assert "skipped: needs root" in text
    assert f"6 cases in 4 tests, run on {date.today()}." in text


def test_a_mark_that_names_no_promise_is_refused(tmp_path: Path) -> None:
    done = _run(tmp_path, TESTS.replace('"target"', '"targets"'))
    assert "no promise 'targets'" in done.stdout + done.stderr

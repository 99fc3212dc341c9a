"""docs/runbook.md, rehearsed: Dagster, plan and data are gone; a store and its key are left."""

from __future__ import annotations

import json
import shutil
import subprocess
import sysconfig
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from backup_pipeline_tests.dagster_half.project import SUNDAY_THE_FIRST, Project

KEY = "a passphrase that was written down elsewhere"
DATASETS = ("vision/a", "models/champion")
NEXT_DAY = "2026-11-02"


def new_environment(place: Path) -> Path:
    """A virtual environment with what is installed here; the command line in it."""
    venv.create(place, symlinks=True)
    [packages] = (place / "lib").glob("python*/site-packages")
    installed = sysconfig.get_path("purelib")
    (packages / "installed.pth").write_text(f"import site; site.addsitedir({installed!r})\n")
    return place / "bin" / "python"


def test_with_dagster_the_plan_and_the_data_gone_all_comes_back(
    project: Callable[..., Project],
    dagster_home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("BACKUP_PASSPHRASE", KEY)
    sources = [{"asset": key, "source": str(tmp_path / "datasets" / key)} for key in DATASETS]
    one = project(datasets=sources)
    del one.document["encryption"]
    one.write("models/champion", "model.bin", b"weights" * 5_000)
    for day in (SUNDAY_THE_FIRST, NEXT_DAY):
        one.at(f"{day}T10:00:00")
        one.write("vision/a", day, day.encode())
        for key in DATASETS:
            assert one.back_up("local", day, key).success
    held = {
        path.relative_to(tmp_path / "datasets"): path.read_bytes()
        for path in (tmp_path / "datasets").rglob("*")
        if path.is_file()
    }
    for gone in (dagster_home, tmp_path / "datasets"):
        shutil.rmtree(gone)

    python, desk = new_environment(tmp_path / "env"), tmp_path / "desk"
    desk.mkdir()
    store = f"file://{tmp_path}/stores/local"

    def recover(*arguments: str) -> tuple[int, dict[str, Any]]:
        ran = subprocess.run(
            [python, "-m", "backup_pipeline", "recover", "--store", store, "--json", *arguments],
            cwd=desk,
            env={"BACKUP_PASSPHRASE": KEY, "HOME": str(desk)},
            stdout=subprocess.PIPE,
            timeout=120,
        )
        return ran.returncode, json.loads(ran.stdout)

    code, listed = recover()
    assert code == 0 and {one["dataset"] for one in listed["datasets"]} == set(DATASETS)
    assert all(one["days"] == [SUNDAY_THE_FIRST, NEXT_DAY] for one in listed["datasets"])
    code, done = recover("--to", "all")
    assert code == 0 and done["ok"]
    found = {
        path.relative_to(desk / "all"): path.read_bytes()
        for path in (desk / "all").rglob("*")
        if path.is_file()
    }
    assert found == held
    code, done = recover("--to", "first", "--day", SUNDAY_THE_FIRST)
    assert code == 0 and not (desk / "first" / "vision/a" / NEXT_DAY).exists()

    # One dataset that cannot be had keeps nothing else back.
    pack = max((tmp_path / "stores").glob("local/repositories/*/packs/*/*"), key=_size)
    pack.unlink()
    code, done = recover("--to", "again")
    assert code == 1 and not done["ok"]
    assert sorted(one["ok"] for one in done["datasets"]) == [False, True]


def _size(path: Path) -> int:
    return path.stat().st_size

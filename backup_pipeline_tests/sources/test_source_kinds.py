"""Kinds of source that other packages bring: declared, checked, backed up and restored."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from contextlib import closing
from datetime import date
from pathlib import Path

import pytest

from backup_pipeline.plan import load_plan
from backup_pipeline.runner import Runner

PACKAGE = '''
"""A source of weather reports, as another package would bring it."""
import io
from pathlib import Path

from backup_pipeline.engine.errors import SourceError
from backup_pipeline.plan.sourcekind import Option, SourceKind
from backup_pipeline.sources.base import Unreadable
from backup_pipeline.sources.listing import Item, ListedSource


class Weather(ListedSource):
    kind = "weather"

    def __init__(self, station, folder):
        self.station, self.folder, self.opened = station, Path(folder), []

    def describe(self):
        return f"weather of {self.station}"

    def items(self):
        if not self.folder.is_dir():
            raise SourceError(f"no reports of {self.station}", "look at the folder")
        for file in sorted(self.folder.iterdir()):
            yield Item(f"{self.station}/{file.name}", 5, etag=file.read_text()[:3])

    def stream(self, path):
        file = self.folder / path.partition("/")[2]
        if file.name == "broken":
            raise Unreadable("unreadable", "the station does not answer")
        print("READ", file.name)
        return io.BytesIO(file.read_bytes())

    def close(self):
        print("CLOSED")


def open_weather(options, *, exclude, day):
    return Weather(options["station"], options["folder"])


def load(directory, url, *, report):
    report("at it")
    files = sorted(file.name for file in (Path(directory) / "oslo").iterdir())
    Path(url.partition("://")[2]).write_text(" ".join(files))
    return {"summary": f"{len(files)} reports", "reports": len(files)}


WEATHER = SourceKind(
    "weather", "weather_backup:open_weather",
    {"station": Option(needed=True), "folder": Option()}, main="station",
    loads={"weather": "weather_backup:load"},
)
NOT_ONE = "no kind"
'''
PLAN = """
start: 2026-11-01
encryption: none
stores: {{local: {store}}}
datasets: [{{asset: reports, source: {{{source}}}}}]
"""


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A directory with a package that brings a source, as pip would leave it."""
    site = tmp_path / "site"
    metadata = site / "weather_backup-1.0.dist-info"
    metadata.mkdir(parents=True)
    (site / "weather_backup.py").write_text(PACKAGE)
    (metadata / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: weather-backup\nVersion: 1.0\n"
    )
    (metadata / "entry_points.txt").write_text(
        "[backup_pipeline.sources]\n"
        "weather = weather_backup:WEATHER\n"
        "sunken = weather_backup:NOT_ONE\n"
        "drowned = weather_backup:NOWHERE\n"
    )
    return site


def run(site: Path, *arguments: str) -> tuple[int, str]:
    environ = {**os.environ, "PYTHONPATH": f"{site}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    command = [sys.executable, "-m", "backup_pipeline", *arguments]
    ended = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    return ended.returncode, ended.stdout + ended.stderr


def plan(folder: Path, source: str) -> str:
    file = folder / "backup.yaml"
    file.write_text(PLAN.format(store=folder / "store", source=source))
    return str(file)


def test_a_package_brings_a_source_of_its_own(tmp_path: Path, installed: Path) -> None:
    folder = tmp_path / "reports"
    folder.mkdir()
    for name, text in (("a", "one"), ("b", "two, and much longer than the estimate")):
        (folder / name).write_text(text)
    declared = plan(tmp_path, f"weather: {{station: oslo, folder: {folder}}}")
    code, said = run(installed, "backup", "--plan", declared)
    assert (code, said.count("READ"), said.count("CLOSED")) == (0, 2, 1), said

    (folder / "b").write_text("new, and this alone is read again")
    code, said = run(installed, "backup", "--plan", declared)
    assert (code, "READ a" in said, "READ b" in said) == (0, False, True), said
    assert "2 files, 36 B, 33 B read" in said  # true sizes, where the listing only guesses

    # Restored with neither the package nor a plan.
    code, said = run(
        tmp_path,
        "restore",
        "reports",
        "--store",
        str(tmp_path / "store"),
        "--to",
        f"{tmp_path}/out",
    )
    assert code == 0, said
    restored = {file.name: file.read_text() for file in (tmp_path / "out" / "oslo").iterdir()}
    assert restored == {file.name: file.read_text() for file in folder.iterdir()}

    (folder / "broken").write_text("x")
    code, said = run(installed, "backup", "--plan", declared, "--json")
    assert (code, json.loads(said[said.index("[") :])[0]["snapshot"]["status"]) == (1, "incomplete")
    assert "the station does not answer" in said


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("weather: {folder: /x}", "source weather needs station"),
        ("weather: {station: oslo, stattion: x}", "did you mean 'station'?"),
        ("weather: {station: [1]}", "station of source weather is not text"),
        ("weathr: oslo", "did you mean 'weather'?"),
        ("sunken: x", "is no SourceKind named sunken"),
        ("drowned: x", "source drowned cannot be loaded"),
    ],
)
def test_a_foreign_kind_is_checked_like_ours(
    tmp_path: Path, installed: Path, source: str, message: str
) -> None:
    code, said = run(installed, "validate", "--plan", plan(tmp_path, source))
    assert code == 2, said
    assert message in said
    assert "backup.yaml:5" in said or "line 5" in said, said


def test_a_source_knows_when_a_day_ends_in_the_plans_zone(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    file = tmp_path / "backup.yaml"
    file.write_text(
        "start: 2026-10-01\ntimezone: Europe/Berlin\nencryption: none\n"
        f"stores: {{local: {tmp_path / 'store'}}}\n"
        f"datasets: [{{asset: a, source: {tmp_path / 'a'}}}]\n"
    )
    with Runner(load_plan(file)) as runner, closing(runner.source("a")) as source:
        assert source.end_of(date(2026, 10, 24)).isoformat() == "2026-10-24T22:00:00+00:00"
        assert source.end_of(date(2026, 10, 25)).isoformat() == "2026-10-25T23:00:00+00:00"


def test_the_documented_package_works(tmp_path: Path, installed: Path) -> None:
    page = (Path(__file__).parents[2] / "docs/how-to/own-source.md").read_text()
    [code] = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (installed / "weather_backup.py").write_text(code)
    declared = plan(tmp_path, "weather: oslo")
    for expected in ("2 files, 22 B, 22 B read", "2 files, 22 B, 0 B read"):
        code, said = run(installed, "backup", "--plan", declared)
        assert (code, expected in said) == (0, True), said


def test_what_was_restored_is_loaded_into_a_system_of_its_kind(
    tmp_path: Path, installed: Path
) -> None:
    folder = tmp_path / "reports"
    folder.mkdir()
    (folder / "a").write_text("one")
    declared = plan(tmp_path, f"weather: {{station: oslo, folder: {folder}}}")
    assert run(installed, "backup", "--plan", declared)[0] == 0
    restore = ("restore", "reports", "--store", f"{tmp_path}/store", "--to", f"{tmp_path}/out")

    code, said = run(installed, *restore, "--into", f"weather://{tmp_path}/loaded")
    assert (code, "at it" in said, "loaded 1 reports" in said) == (0, True, True), said
    assert (tmp_path / "loaded").read_text() == "a"
    code, said = run(installed, *restore, "--into", f"weather://{tmp_path}/loaded", "--json")
    answer, _ = json.JSONDecoder().raw_decode(said[said.index("{") :])  # "at it" follows
    assert (code, answer["loaded"]["reports"]) == (0, 1), said

    (tmp_path / "out" / "oslo" / "a").unlink()
    for wrong in (("--into", "wether://u:secret@x"), ("--into", "weather://x", "--dry-run")):
        code, said = run(installed, *restore, *wrong)
        assert (code, "secret" in said) == (2, False), said
    assert not (tmp_path / "out" / "oslo" / "a").exists(), "refused before anything is restored"

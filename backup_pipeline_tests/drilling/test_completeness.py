"""Expectations of the manifest: what normal life does passes, what loses something does not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from backup_pipeline_tests.drilling.test_drills import FUNCTIONS, Place


@pytest.fixture
def place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Place:
    place = Place(tmp_path, capsys)
    for number in range(10):
        place.write(f"images/{number}.png", 1000)
    place.write("labels.csv", 100)
    place.write("marker", 0)
    return place


def expect(place: Place, **rules: Any) -> None:
    place.plan({}, completeness=rules or True)


def failed(place: Place) -> list[str]:
    answer = place.run("complete", code=1)
    [report] = answer["snapshots"]
    assert not answer["ok"]
    return [f"{one['name']}: {one['reason']}" for one in report["tests"] if not one["passed"]]


def test_normal_life_passes_and_says_what_it_looked_at(place: Place) -> None:
    expect(place, shrink="20%", paths=["images/*.png", "labels.csv", "marker"])
    place.back_up()
    place.write("images/10.png", 1000)
    (place.source / "images" / "3.png").unlink()
    place.back_up()
    [report] = place.run("complete")["snapshots"]
    assert len(report["tests"]) == 3 and report["compared_with"]
    assert report["tests"][0]["said"] == {"gone_files": 0.0, "gone_bytes": 0.0}
    assert report["tests"][1]["said"] == {"emptied": 0, "empty": 1}


def test_what_shrinks_is_emptied_or_has_a_strange_path_is_named(place: Place) -> None:
    expect(place, shrink="20%", paths=["images/*.png", "labels.csv", "marker"])
    place.back_up()
    for number in range(4):
        (place.source / "images" / f"{number}.png").unlink()
    place.write("labels.csv", 0)
    place.write("images/7.png.locked", 1000)
    place.back_up()
    shrink, emptied, paths = failed(place)
    assert "12 files became 9" in shrink and "10100 bytes 7000" in shrink
    assert emptied.endswith("emptied: labels.csv")
    assert "images/7.png.locked" in paths
    first = place.run("snapshots")[0]["id"]
    assert place.run("complete", "vision/a", "--snapshot", first)["ok"]


def test_an_export_cut_to_half_is_caught_by_bytes_though_no_file_is_gone(place: Place) -> None:
    expect(place)
    place.write("labels.csv", 1_000_000)
    place.back_up()
    place.write("labels.csv", 400_000)
    place.back_up()
    assert "bytes" in failed(place)[0]


def test_a_suite_of_the_users_sees_the_manifest_as_a_table(place: Place) -> None:
    def suite(**kwargs: Any) -> None:
        kind = {"type": "expect_column_values_to_be_in_set", "kwargs": kwargs}
        pairs = {"column_A": "size", "column_B": "size_before"}
        same = {"type": "expect_column_pair_values_to_be_equal", "kwargs": pairs}
        document = {"expectations": [kind, same]}
        (place.root / "manifest.json").write_text(json.dumps(document))

    suite(column="suffix", value_set=[".png", ".csv", ""])
    expect(place, suite="manifest.json")
    place.back_up()
    place.back_up()
    assert place.run("complete")["ok"]
    suite(column="suffix", value_set=[".png"])
    [one] = failed(place)
    assert "values_to_be_in_set of suffix" in one and ".csv" in one
    expect(place, suite=f"{FUNCTIONS}:empty_suite")
    assert "expects nothing" in failed(place)[0]


def test_without_a_suite_no_expectation_library_is_loaded(place: Place) -> None:
    expect(place)
    place.back_up()
    code = (
        "import sys; from backup_pipeline.cli import main;"
        f"main(['complete', '--plan', {str(place.root / 'backup.yaml')!r}]);"
        "sys.exit('great_expectations' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_dataset_may_expect_otherwise_than_its_policy(place: Place) -> None:
    expect(place, shrink="20%")
    document = yaml.safe_load((place.root / "backup.yaml").read_text())
    document["datasets"][0]["override"] = {"completeness": {"emptied": "accept"}}
    (place.root / "backup.yaml").write_text(yaml.safe_dump(document))
    place.back_up()
    place.write("labels.csv", 0)
    place.back_up()
    [report] = place.run("complete")["snapshots"]
    assert [one["name"] for one in report["tests"]] == ["shrinks by 0.2 at most"]

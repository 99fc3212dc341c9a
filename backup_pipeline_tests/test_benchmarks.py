"""The measurements put data back as it was, mix no versions, and draw what can be read."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from benchmarks import sensor_tick
from benchmarks.edits import GROWING, Edits
from benchmarks.floors import floors
from benchmarks.measure import tree_files
from benchmarks.plots import Panel, Series, draw
from benchmarks.results import OtherVersions, merged, rounds_in

LIMITS = {
    "start of a bare Python, s": 0.01,
    "argon2id, s": 0.1,
    "scandir and stat, files/s": 100_000,
    "open and close, files/s": 1_000_000,
    "create and close, files/s": 10_000,
    "share of the data that zstd shortens, %": 50,
    "zstd of it, MB/s": 500,
    "zstd of it, back, MB/s": 1000,
    "read from the page cache, MB/s": 10_000,
    "write to the page cache, MB/s": 5000,
    "write and fsync, MB/s": 1000,
    "BLAKE3, MB/s": 5000,
    "SHA-256, MB/s": 2000,
    "AES-256-GCM, MB/s": 10_000,
}


def _contents(folder: Path) -> dict[str, bytes]:
    return {path: Path(path).read_bytes() for path in tree_files(folder)}


@pytest.mark.parametrize("in_place", [True, False])
def test_edits_are_undone_byte_by_byte(tmp_path: Path, in_place: bool) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / GROWING).write_bytes(os.urandom(700_000))
    (folder / "short").write_bytes(b"short")
    before = _contents(folder)
    edits = Edits(in_place, folder, tmp_path / "saved", 0.01)
    changed = edits.apply()
    assert changed.files == (2 if in_place else 1)
    assert _contents(folder) != before
    edits.revert()
    assert _contents(folder) == before
    assert not (tmp_path / "saved").exists()


def test_a_floor_is_the_sum_that_the_documentation_gives() -> None:
    data = {"files": 10_000, "bytes": 1e9, "changed_files": 100, "changed_bytes": 1e7}
    found = floors(
        data, {"first": 5e8, "no-change": 5e8, "changed": 5.1e8}, LIMITS, cores=2, local=True
    )
    assert found["snapshots"] == pytest.approx(0.11)
    assert found["no-change"] == pytest.approx(0.11 + 0.1)
    work = 0.1 + 0.01 + 0.1 + 0.2 + 1.0 + 0.05 + 0.25
    assert found["first"] == pytest.approx(0.11 + work / 2)
    assert found["restore"] == pytest.approx(0.11 + (0.05 + 0.05 + 0.5 + 0.2 + 0.2 + 1.0) / 2)


def _document(version: str, wall_s: float) -> dict[str, Any]:
    return {
        "versions": {"ours": version},
        "data": {"files": 1},
        "samples": {"first": {"ours": [{"wall_s": wall_s}]}},
        "stored": {"first": {"ours": 10}},
        "runs": [{"measured_at": "2026-01-01"}],
    }


def test_rounds_are_added_to_those_of_the_same_code_only() -> None:
    both = merged(_document("1", 2.0), _document("1", 3.0))
    assert [one["wall_s"] for one in both["samples"]["first"]["ours"]] == [2.0, 3.0]
    assert rounds_in(both) == 2
    assert len(both["runs"]) == 2
    with pytest.raises(OtherVersions, match="begin anew"):
        merged(_document("1", 2.0), _document("2", 3.0))


@pytest.mark.parametrize("logarithmic", [True, False])
def test_a_plot_is_well_formed_and_keeps_to_its_page(logarithmic: bool) -> None:
    ours = Series("first & last", 0, [(10, 1.5), (1000, 900.0)])
    peer = Series("peer", 1, [(10, 7.0)], peer=True)
    root = ElementTree.fromstring(
        draw("a <title>", [Panel("seconds", "files", [ours, peer], logarithmic)])
    )
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    dots = list(root.iter("{http://www.w3.org/2000/svg}circle"))
    assert len(dots) == 5  # three points, and two in the legend
    for dot in dots:
        assert 0 < float(dot.attrib["cx"]) < width
        assert 0 < float(dot.attrib["cy"]) < height


def test_one_tick_of_the_sensor_looks_at_many_datasets_and_asks_for_none_that_is_unchanged(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["sensor_tick", "25", "3"])
    assert sensor_tick.main() == 0
    heading, _, *ticks = capsys.readouterr().out.splitlines()
    assert heading == "25 datasets of 3 files"
    assert [(line.split()[0], line.split()[2]) for line in ticks] == [("1", "25")]

"""A restore writes below its target and nowhere else, whatever the snapshot says and meets."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, seed, settings
from hypothesis import strategies as st

from backup_pipeline.engine.errors import BackupError, DamageError, UsageError
from backup_pipeline.engine.format.record import Snapshot
from backup_pipeline.engine.manifest import printable
from backup_pipeline.engine.operations.drill import drill
from backup_pipeline.engine.operations.restore import RestoreReport, restore
from backup_pipeline_tests.engine.trees import NOBODY, no_privileges, place_of_nobody, state_of
from backup_pipeline_tests.faults.forging import (
    FOLDINGS,
    REAL_FOLDINGS,
    Forge,
    mounted,
    surroundings_unchanged,
    taking_names_for_the_same,
)
from backup_pipeline_tests.promises import Cases

pytestmark = pytest.mark.promise("target")
Row = dict[str, Any]


@pytest.fixture(scope="module")
def forge(tmp_path_factory: pytest.TempPathFactory) -> Forge:
    return Forge(tmp_path_factory.mktemp("forge"))


@pytest.fixture
def yard(tmp_path: Path) -> Path:
    """A target, and things around it that a restore must leave alone."""
    return made_yard(tmp_path / "yard")


def made_yard(yard: Path) -> Path:
    (yard / "outside" / "a").mkdir(parents=True)
    (yard / "outside" / "a" / "file").write_text("stays")
    (yard / "file").write_text("stays, too")
    (yard / "file").chmod(0o640)
    (yard / "target").mkdir()
    return yard


def lost(report: RestoreReport) -> dict[str, str]:
    """What a report names as damage, each once."""
    found = {one["path"]: one["reason"] for one in report.damage}
    assert len(found) == report.damage_count == len(report.damage)
    assert report.ok == (not found)
    return found


def hold(forge: Forge, row: Row, root: Path) -> bool:
    """Whether a target has what a row says, under exactly this name."""
    if row["type"] not in ("directory", "symlink", "file"):
        return True
    path = os.fsencode(root)
    for name in row["path"].split(b"/"):
        if not stat.S_ISDIR(os.lstat(path).st_mode) or name not in os.listdir(path):
            return False
        path = os.path.join(path, name)
    found = os.lstat(path)
    if row["type"] == "directory":
        return stat.S_ISDIR(found.st_mode)
    if row["type"] == "symlink":
        return stat.S_ISLNK(found.st_mode) and os.readlink(path) == row["link_target"]
    if not stat.S_ISREG(found.st_mode):
        return False
    with open(path, "rb") as file:
        return file.read() == forge.content(row)


# -- whatever the manifest says

COMPONENTS = (b"a", b"b", b"A", b"a.b", b"outside", b"file", b"\xff", b"n" * 255, b"m" * 256)
IMPOSSIBLE = (b"..", b".", b"", b"a\0")
LINKS = (b"/etc", b"..", b"../outside", b"../outside/a", b"../file", b".", b"a", b"b", b"%s")
KINDS = ("file", "directory", "symlink", "symlink", "fifo", "character device", "block device")


@st.composite
def rows_of_any_kind(draw: st.DrawFn) -> list[Row]:
    """Rows as a mapping of what ``Forge.row`` takes; most lead somewhere, some nowhere."""
    depth = st.lists(st.sampled_from(COMPONENTS), min_size=1, max_size=4)
    paths = draw(st.sets(depth.map(b"/".join), min_size=1, max_size=9))
    if draw(st.integers(0, 9)) == 0:
        odd = draw(st.lists(st.sampled_from((*IMPOSSIBLE, b"a", b"outside")), min_size=1))
        paths.add(b"/".join(odd))
    return [
        {
            "path": path,
            "kind": draw(st.sampled_from(KINDS)),
            "number": draw(st.integers(0, 5)),
            "link": draw(st.sampled_from(LINKS)),
            "inode": draw(st.sampled_from([None, 7, 8])),
            "mode": draw(st.sampled_from([0o600, 0o4777, 0o2777, 0o0])),
        }
        for path in sorted(paths)
    ]


AT_FIRST = ("nothing", "links", "files", "a hard link", "folders", "a fifo")


def begin(target: Path, how: str, outside: Path) -> None:
    """Put something into a target."""
    for name in ("a", "b", "outside"):
        place = target / name
        match how:
            case "links":
                place.symlink_to(outside)
            case "files":
                place.write_text("in the way")
            case "a hard link":
                os.link(outside.parent / "file", place)
            case "folders":
                (place / "a").mkdir(parents=True)
                (place / "a" / "b").symlink_to(outside / "a")
                (place / "b").symlink_to("../../outside")
            case "a fifo":
                os.mkfifo(place)
            case _:
                pass


def as_row(forge: Forge, said: Row, outside: Path) -> Row:
    rest: Row = {"mode": said["mode"]}
    if said["kind"] == "symlink":
        where = os.fsencode(outside)
        rest = {"link_target": said["link"].replace(b"%s", where)}
    if said["kind"] == "file" and said["inode"] is not None:
        rest.update(inode=said["inode"], device=1, links=2)
    return forge.row(said["path"], said["kind"], said["number"], **rest)


LINK_THEN_BELOW = [
    {"path": b"a", "kind": "symlink", "number": 0, "link": b"%s", "inode": None, "mode": 0},
    {"path": b"a/out", "kind": "file", "number": 0, "link": b"", "inode": None, "mode": 0o777},
]


@given(rows_of_any_kind(), st.sampled_from(AT_FIRST))
@example(LINK_THEN_BELOW, "nothing")
@example([{**LINK_THEN_BELOW[0], "path": b"../out"}], "nothing")
@example([{**LINK_THEN_BELOW[1], "path": b"/out"}], "nothing")
@example([{**LINK_THEN_BELOW[1], "path": b"a/../../out"}], "nothing")
@example([{**LINK_THEN_BELOW[1], "path": b"a/b/x"}], "folders")
@example([{**LINK_THEN_BELOW[1], "path": b"a"}], "a hard link")
def check_manifest(forge: Forge, cases: Cases, said: list[Row], at_first: str) -> None:
    cases.add()
    yard = made_yard(forge.place / "yard")
    try:
        outside, target = yard / "outside", yard / "target"
        begin(target, at_first, outside)
        rows = [as_row(forge, one, outside) for one in said]
        snapshot = forge.snapshot_of(rows)
        odd = any(set(row["path"].split(b"/")) & {*IMPOSSIBLE} for row in rows)
        odd = odd or any(b"\0" in row["path"] for row in rows)
        for _ in range(2):
            with surroundings_unchanged(yard, target):
                try:
                    report = restore(forge.repository, snapshot, target)
                except BackupError as error:
                    assert isinstance(error, DamageError) or not odd
                    continue
            assert not odd
            gone = lost(report)
            for row in rows:
                assert printable(row["path"]) in gone or hold(forge, row, target)
    finally:
        shutil.rmtree(yard)


def test_no_manifest_leads_a_restore_out_of_its_target(forge: Forge, cases: Cases) -> None:
    usual = settings(max_examples=cases.scaled(150), deadline=None)
    seed(cases.seed)(usual(check_manifest))(forge, cases)


@pytest.mark.parametrize(
    "path", [b"../out", b"/out", b"a/../../out", b"a//out", b"./out", b"a/.", b"out/", b"", b"a\0"]
)
def test_a_path_that_no_backup_makes_is_damage(forge: Forge, yard: Path, path: bytes) -> None:
    snapshot = forge.snapshot_of([forge.row(b"a"), forge.row(path, "symlink")])
    with (
        surroundings_unchanged(yard, yard / "target"),
        pytest.raises(DamageError, match="impossible path"),
    ):
        restore(forge.repository, snapshot, yard / "target")
    assert not Path("/out").exists()


# -- what the target is


def test_a_target_may_be_reached_by_links_but_must_be_a_folder(forge: Forge, yard: Path) -> None:
    row = forge.row(b"a/file", number=3)
    snapshot = forge.snapshot_of([forge.row(b"a", "directory"), row])
    (yard / "link").symlink_to("target")
    (yard / "parent").symlink_to(".")
    (yard / "dangling").symlink_to("nowhere")
    for place in ("link", "parent/target", "parent/link/new", "target/new/folder"):
        with surroundings_unchanged(yard, yard / "target"):
            assert restore(forge.repository, snapshot, yard / place).ok
        assert (yard / place / "a" / "file").read_bytes() == forge.content(row)
    with surroundings_unchanged(yard, yard / "target"):
        for place in ("file", "file/below", "dangling"):
            with pytest.raises(UsageError, match="cannot restore to"):
                restore(forge.repository, snapshot, yard / place)


# -- what a target cannot hold

LONG = b"n" * 256


@pytest.mark.parametrize("first", ["nothing", "something"])
def test_names_too_long_cost_themselves_and_what_is_below(
    forge: Forge, yard: Path, first: str
) -> None:
    target = yard / "target"
    if first == "something":
        (target / "mine").touch()
    row = forge.row
    rows = [
        row(b"a", number=1, inode=9, device=1, links=3),
        row(b"a folder", "directory"),
        row(b"a folder/" + LONG, "directory"),
        row(b"a folder/" + LONG + b"/b", "directory"),
        row(b"a folder/" + LONG + b"/b/c", number=2),
        row(b"a folder/" + LONG + b"/l", "symlink"),
        row(b"a folder/" + LONG + b"/one more name", number=1, inode=9, device=1, links=3),
        row(b"a folder/z", number=3),
        row(b"b/" + LONG + b"/x", number=4),
        row(b"b/" + LONG + b"/y", number=5),
        row(b"c" + LONG, number=2),
        row(b"d" + LONG, "symlink"),
        row(b"e" + LONG, number=1, inode=9, device=1, links=3),
        row(b"f", "symlink"),
        row(b"z", "directory"),
        row(b"z/" + LONG, "fifo", state="skipped"),
    ]
    # (a name of a thing that is not made costs nothing)
    wanted = {
        os.fsdecode(one["path"]) for one in rows if LONG in one["path"] and one["type"] != "fifo"
    }
    snapshot = forge.snapshot_of(rows)
    told = None
    for turn in range(3):
        with surroundings_unchanged(yard, target):
            report = restore(forge.repository, snapshot, target)
        gone = lost(report)
        assert wanted <= gone.keys() and len(gone) - len(wanted) <= 1
        right = [one for one in rows if LONG not in one["path"]]
        assert all(hold(forge, one, target) for one in right)
        files = sum(one["type"] == "file" for one in right)
        if turn == 0:
            assert report.written_files == files
            assert report.written_bytes == len(forge.contents[1]) + len(forge.contents[3])
        else:
            assert (report.written_files, report.skipped_files) == (0, files)
            assert told in (None, gone)
            told = gone
    told = restore(forge.repository, snapshot, target, dry_run=True)
    assert lost(told) == gone and told.written_files == 0


TWINS: tuple[tuple[bytes, str, bytes, str], ...] = (
    (b"README", "file", b"readme", "file"),
    (b"Data", "directory", b"data", "directory"),
    (b"Link", "symlink", b"link", "symlink"),
    (b"Folder", "directory", b"folder", "symlink"),
    (b"File", "file", b"file", "symlink"),
    (b"Symbolic", "symlink", b"symbolic", "file"),
    (b"Thing", "file", b"thing", "directory"),
    (b"e\xcc\x81t\xc3\xa9", "file", b"\xc3\xa9t\xc3\xa9", "file"),
    (b"E\xcc\x81cole", "directory", b"\xc3\x89cole", "file"),
)


def folding_rows(forge: Forge) -> Iterator[Row]:
    """Pairs of entries that some file systems cannot tell apart, with something in folders."""
    numbers = iter(range(1000))
    for first, kind, second, other in TWINS:
        for path, said in ((first, kind), (second, other)):
            number = next(numbers)
            if said == "symlink":
                yield forge.row(path, said, link_target=b"%d" % number)
            else:
                yield forge.row(path, said, number)
            if said == "directory":
                yield forge.row(path + b"/same", number=number)
                yield forge.row(path + b"/%d" % number, number=number)
    for path in (b"again", b"first", b"First", b"plain"):
        yield forge.row(path, number=1, inode=5, device=1, links=4)
    yield forge.row(b"Again", number=2)


def check_folded(forge: Forge, yard: Path, target: Path) -> None:
    """Restore what cannot all be there: what is not is named, and what is not named is right."""
    rows = sorted(folding_rows(forge), key=lambda row: row["path"])
    snapshot = forge.snapshot_of(rows)
    gone: list[set[str]] = []
    for turn in range(3):
        with surroundings_unchanged(yard, target):
            report = restore(forge.repository, snapshot, target)
        gone.append(set(lost(report)))
        there = {row["path"].decode() for row in rows if hold(forge, row, target)}
        assert there == {row["path"].decode() for row in rows} - gone[-1]
        assert turn == 0 or report.written_files == 0
    assert gone[0] == gone[1] == gone[2]
    assert {"plain"} <= there and gone[0]


@pytest.mark.parametrize("folding", sorted(FOLDINGS))
def test_names_that_a_target_does_not_tell_apart_are_told(
    forge: Forge, yard: Path, folding: str
) -> None:
    with taking_names_for_the_same(FOLDINGS[folding]):
        check_folded(forge, yard, yard / "target")


@pytest.mark.parametrize("kind", sorted(REAL_FOLDINGS))
def test_names_that_a_real_target_does_not_tell_apart_are_told(
    forge: Forge, tmp_path: Path, kind: str
) -> None:
    with mounted(kind, tmp_path) as root:
        check_folded(forge, root, root / "target")


# -- who restores


@pytest.mark.skipif(os.geteuid() != 0, reason="what others own can be made by root alone")
def test_a_user_without_privileges_gets_no_others_owners_devices_or_set_ids(forge: Forge) -> None:
    restore(forge.repository, forge.snapshot, forge.place / "warm")  # all modules are loaded
    rows = [
        forge.row(b"root's", number=1, uid=0, gid=0, mode=0o6755),
        forge.row(b"mine", number=2, uid=NOBODY, gid=NOBODY, mode=0o6755),
        forge.row(b"mine, not my group's", number=3, uid=NOBODY, gid=0, mode=0o6755),
        forge.row(b"folder", "directory", uid=0, gid=0, mode=0o3770),
        forge.row(b"tape", "character device", state="skipped", mode=0o666),
        forge.row(b"disk", "block device", mode=0o666),
    ]
    snapshot = forge.snapshot_of(rows)
    with place_of_nobody() as top, no_privileges():
        for _ in range(2):
            report = restore(forge.repository, snapshot, top / "target")
            assert report.ok
            state = state_of(top / "target")
            assert {path: one.mode for path, one in state.items()} == {
                b"root's": 0o755,
                b"mine": 0o6755,
                b"mine, not my group's": 0o755,
                b"folder": 0o1770,
            }
            assert all(one.owner == (NOBODY, NOBODY) for one in state.values())
            notices = " ".join(report.notices)
            assert "tape" in notices and "disk" in notices and "root's: set-id" in notices
        assert drill(forge.repository, snapshot, top, sample=1.0).mismatches == []


def test_set_id_bits_are_not_given_to_whom_a_file_stays_with(
    forge: Forge, yard: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container that may not give files away: root's copy of a user's program."""

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "chown", refuse)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    snapshot = forge.snapshot_of([forge.row(b"a", uid=12345, gid=12345, mode=0o6755)])
    report = restore(forge.repository, snapshot, yard / "target")
    assert stat.S_IMODE((yard / "target" / "a").stat().st_mode) == 0o755
    assert any("set-id" in notice for notice in report.notices)


# -- who else is there


def nested(forge: Forge) -> Snapshot:
    """Folders in a folder, and in each of them all that is made by name."""
    rows = [forge.row(b"a", "directory"), forge.row(b"a/z", inode=1, device=1, links=2)]
    for number in range(3):
        folder = b"a/%d" % number
        rows += [forge.row(folder, "directory"), forge.row(folder + b"/file", number=number)]
        rows += [forge.row(folder + b"/link", "symlink"), forge.row(folder + b"/b", "directory")]
    rows.append(forge.row(b"a/2/z", inode=1, device=1, links=2))
    return forge.snapshot_of(rows)


CALLS = ("open", "mkdir", "stat", "unlink", "link", "rename", "symlink", "readlink", "utime")


@pytest.mark.parametrize("first", ["nothing", "all of it", "changed"])
@pytest.mark.parametrize("which", ["a", "a/1"])
def test_a_folder_that_becomes_a_link_before_any_call_leads_nowhere(
    forge: Forge,
    tmp_path: Path,
    which: str,
    first: str,
    cases: Cases,
) -> None:
    snapshot, number, swapped = nested(forge), 0, True
    while swapped:
        number += 1
        yard = made_yard(tmp_path / str(number))
        target, outside = yard / "target", yard / "outside"
        for name in ("1", "b"):
            (outside / name).mkdir()
        if first != "nothing":
            assert restore(forge.repository, snapshot, target).ok
        if first == "changed":
            for place in (target / "a").glob("?/file"):
                place.write_text("changed")
            (target / "a" / "2" / "z").unlink()
        with surroundings_unchanged(yard, target), pytest.MonkeyPatch.context() as patch:
            swap_before_call(patch, number, target / which, outside)
            with suppress(BackupError):
                restore(forge.repository, snapshot, target)
            swapped = (target / "moved").exists()
        shutil.rmtree(yard)
    cases.add(number - 1)
    assert number > 20


def swap_before_call(patch: pytest.MonkeyPatch, number: int, place: Path, outside: Path) -> None:
    """Before the given call by name that follows, have a folder be a link."""
    calls, rename, symlink = iter(range(1, 1 << 30)), os.rename, os.symlink

    def counted(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **said: Any) -> Any:
            if said.keys() & {"dir_fd", "src_dir_fd"} and next(calls) == number:
                moved = place.parents[0 if place.name == "a" else 1] / "moved"
                with suppress(FileNotFoundError):
                    rename(place, moved)
                moved.mkdir(exist_ok=True)
                with suppress(FileNotFoundError, FileExistsError):
                    symlink(outside, place)
            return original(*given, **said)

        return call

    for name in CALLS:
        patch.setattr(os, name, counted(getattr(os, name)))


FLIP = """
import os, sys
target, outside = sys.argv[1:]
place, spare = target + "/a", target + "/spare"
while True:
    for step in (
        lambda: os.rename(place, spare),
        lambda: os.symlink(outside, place),
        lambda: os.unlink(place),
        lambda: os.rename(spare, place),
    ):
        try:
            step()
        except OSError:
            pass
"""


def test_a_folder_that_is_now_a_folder_and_now_a_link_leads_nowhere(
    forge: Forge, yard: Path, cases: Cases
) -> None:
    target = yard / "target"
    snapshot = nested(forge)
    for name in ("0", "1", "2"):
        (yard / "outside" / name).mkdir()
    other = subprocess.Popen([sys.executable, "-c", FLIP, target, yard / "outside"])
    try:
        with surroundings_unchanged(yard, target):
            for _ in range(cases.scaled(60)):
                cases.add()
                with suppress(BackupError):
                    restore(forge.repository, snapshot, target)
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()

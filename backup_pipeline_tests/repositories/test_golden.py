"""Repositories of earlier versions: this version lists, verifies, restores and continues them."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from backup_pipeline.engine.errors import DamageError
from backup_pipeline.engine.keys import PLAINTEXT, KeyFile, Passphrase, Secret
from backup_pipeline.engine.log import EPOCH_RECORDS
from backup_pipeline.engine.operations.backup import backup
from backup_pipeline.engine.operations.restore import restore
from backup_pipeline.engine.operations.verify import verify
from backup_pipeline.engine.repository import Repository, unlock_store
from backup_pipeline.engine.store import open_store
from backup_pipeline.sources.files import FilesSource
from backup_pipeline_tests.format import reader
from backup_pipeline_tests.repositories import make_v1
from backup_pipeline_tests.repositories.trees_v1 import digest_of, listing

HERE = Path(__file__).parent
IMAGES, OBJECTS = "vision/train_images", "lake/objects"
# Never changed: a later format gets repositories of its own beside these.
DIGESTS = {
    "v1-encrypted": "a7ddb1dcfc6ab7cb65ad1eea6a2feaceef60580fde52e41d0dfc5e61115326fc",
    "v1-plaintext": "d5a81ca994e14ff12c603a8b4b9edf37b6635bd651da4d171fcc45f0143550c5",
    "v1-kept": "2ee315c8b5422e35bb25425708d9dbc04dcc14b31e6a00771200e1c26d3d7c2e",
}
PLACES = [
    ("v1-encrypted", "local", IMAGES),
    ("v1-encrypted", "cloud", IMAGES),
    ("v1-plaintext", "local", IMAGES),
    ("v1-plaintext", "local", OBJECTS),
    ("v1-kept", "local", IMAGES),
]
every_place = pytest.mark.parametrize(("name", "tier", "dataset"), PLACES)


def _expected(name: str) -> dict[str, Any]:
    return json.loads((HERE / name / "expected.json").read_text())


def _secret(name: str) -> Secret:
    said = _expected(name)
    return Passphrase(said["passphrase"].encode()) if "passphrase" in said else PLAINTEXT


def _open(root: Path, name: str, tier: str, dataset: str, secret: Secret | None = None) -> Any:
    unlocked = unlock_store(open_store(str(root / name / tier)), [secret or _secret(name)])
    return unlocked.repository(dataset)


def _read(root: Path, name: str, tier: str) -> reader.Store:
    said = _expected(name)
    secret = said["passphrase"].encode() if "passphrase" in said else None
    return reader.Store(root / name / tier, secret)


def _digest(root: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*"), key=lambda one: one.relative_to(root).as_posix()):
        if path.is_file():
            digest.update(path.relative_to(root).as_posix().encode() + b"\0")
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _timeless(said: Any) -> Any:
    """What is expected, without what differs each time it is made."""
    if isinstance(said, list):
        return [_timeless(one) for one in said]
    if not isinstance(said, dict):
        return said
    drawn = {"id", "chain", "digest", "content", "condemned", "replaced", "expired", "pinned"}
    return {name: _timeless(one) for name, one in said.items() if name not in drawn}


@pytest.fixture
def copies(tmp_path: Path) -> Iterator[Path]:
    """Copies that may be changed."""
    for name in DIGESTS:
        shutil.copytree(HERE / name, tmp_path / "copies" / name)
    yield tmp_path / "copies"


@every_place
def test_a_golden_repository_lists_its_snapshots(name: str, tier: str, dataset: str) -> None:
    expected = _expected(name)[dataset][tier]
    repository = _open(HERE, name, tier, dataset)
    found = repository.snapshots()
    assert [one.id for one in found] == [one["id"] for one in expected["snapshots"]]
    for snapshot, wanted in zip(found, expected["snapshots"], strict=True):
        said = snapshot.to_json()
        assert {field: said[field] for field in wanted if field in said} == {
            field: value for field, value in wanted.items() if field in said
        }
        assert {"day", "digest", "kind", "status", "sequence"} < said.keys() & wanted.keys()
    state = repository.state
    assert (repository.tier, repository.log.next_sequence) == (tier, expected["records"])
    assert (state.expired, state.pinned) == (expected["expired"], expected["pinned"])
    assert sorted(state.condemned) == expected["condemned"]
    assert sorted(state.replacements) == expected["replaced"]
    assert sorted(state.expired_days) == expected.get("expired_days", [])


@every_place
def test_a_golden_repository_is_whole(name: str, tier: str, dataset: str) -> None:
    report = verify(_open(HERE, name, tier, dataset))
    assert report.damage == []
    assert report.ok
    assert report.coverage == 1


@every_place
def test_a_golden_repository_restores(name: str, tier: str, dataset: str, tmp_path: Path) -> None:
    repository = _open(HERE, name, tier, dataset)
    for snapshot, wanted in zip(
        repository.snapshots(), _expected(name)[dataset][tier]["snapshots"], strict=True
    ):
        report = restore(repository, snapshot, tmp_path / snapshot.id)
        assert report.ok == (wanted["status"] == "complete")
        _is_as_expected(tmp_path / snapshot.id, wanted)


@every_place
def test_the_independent_reader_restores_a_golden_repository(
    name: str, tier: str, dataset: str, tmp_path: Path
) -> None:
    repository = _read(HERE, name, tier).repository(dataset)
    snapshots = repository.snapshots()
    assert repository.lost == []
    for snapshot, wanted in zip(
        snapshots, _expected(name)[dataset][tier]["snapshots"], strict=True
    ):
        assert snapshot["id"] == wanted["id"]
        lost = repository.restore(snapshot, tmp_path / wanted["id"])
        assert bool(lost) == (wanted["status"] == "incomplete")
        _is_as_expected(tmp_path / wanted["id"], wanted)


def _is_as_expected(restored: Path, wanted: dict[str, Any]) -> None:
    if wanted["content"] is not None:
        assert digest_of(listing(restored)) == wanted["content"]
        assert (restored / "sparse").stat().st_size == 2 << 20
        return
    for part in ("part-0", "part-1"):
        path = f"day=1/{part}"
        assert (restored / path).read_bytes() == path.encode().rjust(20, b"\n")


def test_the_reader_works_where_this_package_is_not_installed(tmp_path: Path) -> None:
    tree = ast.parse(Path(reader.__file__).read_text())
    imported = {
        (name if isinstance(node, ast.Import) else str(node.module)).partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in [alias.name for alias in node.names]
    }
    foreign = imported - sys.stdlib_module_names
    assert foreign == {"blake3", "cryptography", "pyarrow", "zstandard"}
    root, script = HERE / "v1-encrypted" / "cloud", shutil.copy(reader.__file__, tmp_path)
    target, passphrase = tmp_path / "back", _expected("v1-encrypted")["passphrase"]
    subprocess.run(
        [sys.executable, script, str(root), IMAGES, str(target)],
        env={**os.environ, "BACKUP_PASSPHRASE": passphrase},
        cwd=tmp_path,
        check=True,
        timeout=60,
    )
    _is_as_expected(target, _expected("v1-encrypted")[IMAGES]["cloud"]["snapshots"][-1])


def test_a_checkpoint_says_what_all_records_before_it_say() -> None:
    repository = _read(HERE, "v1-encrypted", "local").repository(IMAGES)
    assert repository.last >= EPOCH_RECORDS
    assert repository.state == repository.added_up_from_the_first()
    assert [said["type"] for _, said in repository.state.unknown] == ["note"]


def test_either_key_opens_a_store_with_two_key_sets(tmp_path: Path) -> None:
    content = bytes.fromhex(_expected("v1-encrypted")["key_file"])
    repository = _open(HERE, "v1-encrypted", "local", IMAGES, KeyFile(content))
    snapshot = repository.snapshots()[0]
    assert restore(repository, snapshot, tmp_path).ok


def test_all_that_a_manifest_keeps_comes_back() -> None:
    for name, tier in (("v1-encrypted", "cloud"), ("v1-plaintext", "local")):
        mine = _open(HERE, name, tier, IMAGES)
        other = _read(HERE, name, tier).repository(IMAGES)
        for snapshot, said in zip(mine.snapshots(), other.snapshots(), strict=True):
            rows = mine.manifest(snapshot).table.drop_columns("chunks").to_pylist()
            theirs = [
                {field: value for field, value in row.items() if field != "chunks"}
                for row in other.entries(said)
            ]
            assert rows == theirs
            by_path = {row["path"]: row for row in rows}
            executable = by_path[b"folder/executable"]
            assert executable["xattrs"] == [{"name": b"user.comment", "value": b"kept \xff too"}]
            assert by_path[b"pipe"]["state"] == "skipped"
            assert max(len(path) for path in by_path) == 300
    objects = _open(HERE, "v1-plaintext", "local", OBJECTS)
    row = objects.manifest(objects.snapshots()[0]).table.to_pylist()[0]
    assert (row["content_type"], row["version_id"]) == ("text/plain", "v1")
    assert row["metadata"] == [{"name": "owner", "value": "größe"}, {"name": "empty", "value": ""}]


@pytest.mark.parametrize("name", list(DIGESTS))
def test_this_version_continues_a_golden_repository(
    name: str, copies: Path, tmp_path: Path
) -> None:
    repository: Repository = _open(copies, name, "local", IMAGES)
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "a.txt").write_text("written by a later version")
    last = repository.snapshots()[-1]
    full = [one for one in repository.snapshots() if one.kind == "full"][-1]
    made = backup(
        repository,
        FilesSource(tmp_path / "tree"),
        day=date(2026, 11, 23),
        kind="incremental",
        parent=last,
        base=full,
    )
    assert verify(repository).ok
    other = _read(copies, name, "local").repository(IMAGES)
    assert [one["id"] for one in other.snapshots()][-2:] == [last.id, made.id]
    assert other.restore(other.snapshots()[-1], tmp_path / "back") == []
    assert listing(tmp_path / "back") == listing(tmp_path / "tree")


def test_a_lost_checkpoint_is_told_and_costs_nothing_else(copies: Path, tmp_path: Path) -> None:
    expected = _expected("v1-encrypted")[IMAGES]["local"]
    before = _open(copies, "v1-encrypted", "local", IMAGES)
    for twin in (False, True):
        path = copies / "v1-encrypted" / "local" / before.log.name(EPOCH_RECORDS, twin=twin)
        path.unlink()
    repository = _open(copies, "v1-encrypted", "local", IMAGES)
    assert list(repository.log.lost) == [EPOCH_RECORDS]
    assert repository.state == before.state
    assert [one.digest for one in repository.snapshots()] == [
        one["digest"] for one in expected["snapshots"]
    ]
    named = {one["name"] for one in verify(repository).damage}
    assert named == {repository.log.name(EPOCH_RECORDS, twin=twin) for twin in (False, True)}
    with pytest.raises(DamageError, match="not written to"):
        repository.log.append({"type": "pin", "snapshot": "", "pinned": True, "reason": ""})
    other = _read(copies, "v1-encrypted", "local").repository(IMAGES)
    assert other.lost == [EPOCH_RECORDS]
    assert len(other.snapshots()) == len(expected["snapshots"])


@pytest.mark.parametrize("name", list(DIGESTS))
def test_golden_repositories_are_never_changed(name: str) -> None:
    assert _digest(HERE / name) == DIGESTS[name]


def test_they_can_be_made_again_and_say_the_same(tmp_path: Path) -> None:
    make_v1.main(tmp_path)
    for name in DIGESTS:
        made = json.loads((tmp_path / name / "expected.json").read_text())
        assert _timeless(made) == _timeless(_expected(name))

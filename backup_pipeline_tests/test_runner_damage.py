"""What the runner says and does when a store, a log or a source is not as it was left."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from backup_pipeline.engine.errors import DamageError, UsageError
from backup_pipeline_tests.test_runner import DAILY, DATASET, Scene

LOCAL = {"name": "local", **DAILY}


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    """A dataset with two snapshots in one local tier."""
    made = Scene(tmp_path)
    for text in ("one", "two"):
        made.write("a.txt", text)
        made.runner(LOCAL).backup(DATASET)
    return made


def stored(scene: Scene, pattern: str) -> list[Path]:
    return sorted((scene.root / "stores/local/repositories").glob(f"*/{pattern}"))


def restored(scene: Scene) -> str:
    target = scene.root / "out"
    shutil.rmtree(target, ignore_errors=True)
    assert scene.runner(LOCAL).restore(DATASET, target).ok
    return (target / "a.txt").read_text()


def spoil(*paths: Path) -> None:
    for path in paths:
        path.chmod(0o600)
        content = bytearray(path.read_bytes())
        content[-20] ^= 1
        path.write_bytes(content)


@pytest.mark.parametrize("harm", ["packs missing", "packs emptied", "manifests missing"])
def test_nothing_is_built_on_a_parent_whose_bytes_are_gone(scene: Scene, harm: str) -> None:
    what, how = harm.split()
    for path in stored(scene, f"{what}/**/*"):
        if path.is_file():
            path.unlink() if how == "missing" else path.write_bytes(b"")
    result = scene.runner(LOCAL).backup(DATASET)
    assert result.snapshot.kind == "full"
    assert any("new chain begins" in notice for notice in result.notices)
    assert restored(scene) == "two"
    after = scene.runner(LOCAL).backup(DATASET)
    assert after.snapshot.kind == "incremental" and not after.notices


def test_a_kind_that_was_asked_for_is_refused_on_a_damaged_parent(scene: Scene) -> None:
    for path in stored(scene, "packs/*/*"):
        path.unlink()
    with pytest.raises(DamageError, match="nothing can build on it"):
        scene.runner(LOCAL).backup(DATASET, kind="incremental")
    assert len(scene.runner(LOCAL).snapshots(DATASET)) == 2


def test_a_lost_newest_record_is_told_wherever_an_older_snapshot_shows(scene: Scene) -> None:
    newest = stored(scene, "log/*/*")[-1]
    spoil(newest, *stored(scene, f"twin/*/{newest.name}"))
    runner = scene.runner(LOCAL)
    report = runner.restore(DATASET, scene.root / "out")
    assert any("a newer snapshot may not show" in notice for notice in report.notices)
    (standing,) = scene.runner(LOCAL).status()
    assert not standing.fresh and standing.error is not None and "damaged" in standing.error
    with pytest.raises(DamageError, match="is not written to"):
        scene.runner(LOCAL).backup(DATASET)


def test_a_lost_first_record_is_damage_and_no_mistake_of_the_plan(scene: Scene) -> None:
    spoil(stored(scene, "log/*/*")[0], stored(scene, "twin/*/*")[0])
    with pytest.raises(DamageError, match="is not written to"):
        scene.runner(LOCAL).backup(DATASET)


def test_a_source_that_lost_all_its_files_is_told(scene: Scene) -> None:
    (scene.source / "a.txt").unlink()
    result = scene.runner(LOCAL).backup(DATASET)
    assert result.snapshot.status == "complete"
    assert any("is it mounted?" in notice for notice in result.notices)
    assert not scene.runner(LOCAL).backup(DATASET).notices


def test_a_store_that_is_made_anew_is_told(scene: Scene) -> None:
    shutil.rmtree(scene.root / "stores")
    result = scene.runner(LOCAL).backup(DATASET)
    assert any("held no backups" in notice for notice in result.notices)


@pytest.mark.parametrize("below", [".", "repositories/x"])
def test_a_store_is_never_restored_into(scene: Scene, below: str) -> None:
    before = sorted((scene.root / "stores").rglob("*"))
    with pytest.raises(UsageError, match="is a store of backups"):
        scene.runner(LOCAL).restore(DATASET, scene.root / "stores/local" / below)
    assert sorted((scene.root / "stores").rglob("*")) == before


def test_verify_counts_missing_packs_as_not_covered(scene: Scene) -> None:
    for path in stored(scene, "packs/*/*"):
        path.unlink()
    report = scene.runner(LOCAL).verify(DATASET)
    assert not report.ok and report.coverage == 0.0 and report.bytes_total > 0


def test_entries_without_bytes_are_recorded_and_told(scene: Scene) -> None:
    for number in range(12):
        os.mkfifo(scene.source / f"queue-{number:02}")
    result = scene.runner(LOCAL).backup(DATASET)
    assert (result.snapshot.status, result.snapshot.entries) == ("complete", 13)
    told = [notice for notice in result.notices if "recorded and skipped" in notice]
    assert told[0] == "queue-00 is recorded and skipped: a fifo has no bytes to keep"
    assert told[10:] == ["2 more entries are recorded and skipped"]


def test_a_restore_has_from_another_tier_what_its_own_lost(scene: Scene) -> None:
    cloud = {"name": "cloud", "every": "day", "kind": "full"}
    scene.runner(LOCAL, cloud).copy(DATASET, from_tier="local", to_tier="cloud")
    for path in stored(scene, "packs/*/*"):
        path.unlink()
    report = scene.runner(LOCAL, cloud).restore(DATASET, scene.root / "out", tier="local")
    assert report.ok and (scene.root / "out" / "a.txt").read_text() == "two"
    assert report.elsewhere == {"cloud": 3} and report.damaged_packs == 1
    assert any("is missing; its content is sought elsewhere" in one for one in report.notices)


def test_a_tier_that_cannot_be_opened_does_not_keep_another_from_a_restore(scene: Scene) -> None:
    cloud = {"name": "cloud", "every": "day", "kind": "full"}
    scene.runner(LOCAL, cloud).copy(DATASET, from_tier="local", to_tier="cloud")
    shutil.rmtree(stored(scene, "keys")[0])
    report = scene.runner(LOCAL, cloud).restore(DATASET, scene.root / "out")
    assert report.ok and report.tier == "cloud"
    assert any("lost its key sets" in notice for notice in report.notices)
    with pytest.raises(DamageError, match="lost its key sets"):
        scene.runner(LOCAL, cloud).restore(DATASET, scene.root / "out", tier="local")

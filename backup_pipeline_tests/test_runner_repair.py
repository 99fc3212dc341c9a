"""A plan's tiers repair one another, on real stores."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from backup_pipeline.engine.errors import NotFound, UsageError
from backup_pipeline.engine.store import open_store
from backup_pipeline.s3_server import S3Server
from backup_pipeline_tests.test_runner import AWAY, DAILY, DATASET, Scene

LOCAL = {"name": "local", **DAILY}
CLOUD = {"name": "cloud", **DAILY}


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    """A dataset with large and small files."""
    made = Scene(tmp_path)
    (made.source / "large").write_bytes(os.urandom(900_000))
    return made


def test_a_bucket_and_a_folder_repair_each_other(
    scene: Scene, s3_server: S3Server, s3_spec: dict[str, str]
) -> None:
    named = {"access_key_id": {"env": "ID"}, "secret_access_key": {"env": "SECRET"}}
    environ = {"ID": s3_spec["access_key_id"], "SECRET": s3_spec["secret_access_key"]}
    more: dict[str, Any] = {"stores": {"cloud": {**s3_spec, **named}}, "environ": environ}
    for text in ("two", "three"):
        scene.write("a.txt", text)
        scene.runner(LOCAL, CLOUD, **more).backup(DATASET)
        tiers = scene.runner(LOCAL, CLOUD, **more)
        tiers.copy(DATASET, from_tier="local", to_tier="cloud", force=True)
    store = open_store(s3_spec)
    names = [one.name for one in store.list("repositories/")]
    for name in names:
        if "/packs/" in name:
            store.delete(name)
        elif "/manifests/" in name or "/log/" in name:
            content = bytearray(store.get(name))
            content[len(content) // 2] ^= 1
            store.heal(name, bytes(content))
    runner = scene.runner(LOCAL, CLOUD, **more)
    assert not runner.verify(DATASET, tier="cloud").ok
    would = runner.repair(DATASET, "cloud")
    assert not would.ok and not would.left_count
    assert runner.restore(DATASET, scene.root / "helped", tier="cloud").tier == "local"
    done = runner.repair(DATASET, "cloud", apply=True)
    assert done.ok and not done.lost_count and not done.from_source_bytes
    # Now the folder is lost, and the dataset with it: the bucket alone gives all back.
    shutil.rmtree(scene.root / "stores")
    report = scene.runner(LOCAL, CLOUD, **more).restore(DATASET, scene.root / "out")
    assert report.ok and report.tier == "cloud" and not report.damaged_packs
    for name in ("a.txt", "large"):
        assert (scene.root / "out" / name).read_bytes() == (scene.source / name).read_bytes()


def test_a_single_tier_is_repaired_from_the_dataset_unless_that_is_refused(scene: Scene) -> None:
    scene.runner(LOCAL).backup(DATASET)
    for path in (scene.root / "stores/local/repositories").glob("*/packs/*/*"):
        path.unlink()
    refused = scene.runner(LOCAL).repair(DATASET, apply=True, from_source=False)
    assert not refused.ok and refused.lost_count == 2
    done = scene.runner(LOCAL).repair(DATASET, apply=True)
    assert done.ok and done.from_source_bytes == 900_003
    assert scene.runner(LOCAL).verify(DATASET).ok


def test_a_plan_that_asks_for_parity_later_has_it_added(scene: Scene) -> None:
    scene.runner(LOCAL).backup(DATASET)
    asking = {**LOCAL, "parity": "10%"}
    assert scene.runner(asking).verify(DATASET).without_parity == 1
    assert scene.runner(asking).repair(DATASET, apply=True).parity_added == 1
    assert not scene.runner(asking).verify(DATASET).without_parity
    [pack] = (scene.root / "stores/local/repositories").glob("*/packs/*/*")
    content = bytearray(pack.read_bytes())
    content[len(content) // 2] ^= 1
    pack.chmod(0o600)
    pack.write_bytes(content)
    assert scene.runner(LOCAL).repair(DATASET, apply=True, from_source=False).ok


def test_a_tier_out_of_reach_is_told_where_something_stays_lost(scene: Scene) -> None:
    scene.runner(LOCAL).backup(DATASET)
    next((scene.root / "stores/local/repositories").glob("*/packs/*/*")).unlink()
    runner = scene.runner(LOCAL, CLOUD, **AWAY)
    report = runner.repair(DATASET, "local", from_source=False)
    assert report.lost_count and any("tier cloud" in notice for notice in runner.notices)


def test_what_is_not_there_or_not_ours_is_refused(scene: Scene) -> None:
    with pytest.raises(NotFound):
        scene.runner(LOCAL).repair(DATASET)
    scene.runner(LOCAL).backup(DATASET)
    with pytest.raises(UsageError, match="deployment"):
        scene.runner(LOCAL, deployment="other").repair(DATASET)

"""Snapshots are read through fsspec as if they had been restored."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import fsspec
import pandas as pd
import pyarrow.dataset as ds
import pytest
import yaml

from backup_pipeline.engine.chunker import CHUNK_MOST_BYTES
from backup_pipeline.engine.crypto import TAG_BYTES
from backup_pipeline.engine.errors import DamageError, UsageError
from backup_pipeline.engine.operations.frames import UNFOLDED_BYTES, FramePlan
from backup_pipeline.filesystem import BackupFileSystem
from backup_pipeline.plan import load_plan
from backup_pipeline.runner import Runner

DATASET = "vision/train_images"
TABLE = pd.DataFrame({"label": range(20_000), "name": [f"image {n}" for n in range(20_000)]})


class Scene:
    """A dataset of every kind of entry in two tiers, and the plan that backed it up."""

    def __init__(self, root: Path, patch: pytest.MonkeyPatch) -> None:
        self.root, self.data = root, root / "data"
        chance = random.Random(7)
        (self.data / "deep" / "er").mkdir(parents=True)
        (self.data / "empty").mkdir()
        (self.data / "nothing").write_bytes(b"")
        (self.data / "deep" / "er" / "small").write_bytes(b"small")
        (self.data / "deep0").write_bytes(b"sorts behind deep/")
        (self.data / "large").write_bytes(chance.randbytes(3_000_000))
        with (self.data / "sparse").open("wb") as file:
            for at in (0, 1_000_000, 2_500_000):
                file.seek(at)
                file.write(chance.randbytes(70_000))
            file.truncate(4_000_000)
        (self.data / "größe ✓").write_bytes(b"a name")
        (self.data / "link").symlink_to("deep/er")
        (self.data / "deep" / "up").symlink_to("../large")
        (self.data / "circle").symlink_to("circle")
        (self.data / "out").symlink_to("/etc/hostname")
        TABLE.to_parquet(self.data / "labels.parquet", row_group_size=2_000)
        self.path = root / "backup.yaml"
        patch.setenv("BACKUP_PASSPHRASE", "of these tests")
        self.path.write_text(
            yaml.safe_dump(
                {
                    "start": "2026-11-22",
                    "stores": {tier: f"file://{root}/{tier}" for tier in ("local", "cloud")},
                    "policies": {
                        "default": {
                            "tiers": [{"name": "local"}, {"name": "cloud", "from": "local"}]
                        }
                    },
                    "datasets": [{"asset": DATASET, "source": str(self.data)}],
                }
            )
        )
        with self.runner() as runner:
            self.snapshot = runner.backup(DATASET).snapshot
            runner.copy(DATASET, from_tier="local", to_tier="cloud", force=True)
        self.day = self.snapshot.day.isoformat()

    def runner(self) -> Runner:
        return Runner(load_plan(self.path))

    def packs(self, tier: str) -> list[Path]:
        return list((self.root / tier / "repositories").glob("*/packs/*/*"))


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with pytest.MonkeyPatch.context() as patch:
        yield Scene(tmp_path_factory.mktemp("filesystem"), patch)


@pytest.fixture
def fs(scene: Scene) -> BackupFileSystem:
    return BackupFileSystem(scene.path, skip_instance_cache=True)


def test_any_range_of_any_file_is_what_it_was(scene: Scene, fs: BackupFileSystem) -> None:
    chance = random.Random(11)
    for name in ("large", "sparse", "deep/er/small", "nothing", "größe ✓", "deep/up", "link/small"):
        whole = (scene.data / name).read_bytes()
        address = f"backup://{DATASET}@{scene.day}/{name}"
        assert fs.cat_file(address) == whole and fs.size(address) == len(whole)
        for block in (1, 5_000, 10**6) if whole else ():
            with fs.open(address, block_size=block) as file:
                for _ in range(6):
                    start = chance.randrange(len(whole) + 1)
                    count = chance.choice((1, 700, 200_000, 2_000_000))
                    file.seek(start)
                    assert file.read(count) == whole[start : start + count]


def test_folders_list_what_the_dataset_had(scene: Scene, fs: BackupFileSystem) -> None:
    root = f"{DATASET}@latest"
    found = {
        os.path.relpath(Path(place) / name, scene.data)
        for place, folders, files in os.walk(scene.data)
        for name in (*folders, *files)
    }
    told = {name.removeprefix(root).lstrip("/") for name in fs.find(root, withdirs=True)} - {""}
    assert {name for name in told if not name.startswith("link/")} == found
    assert {name for name in told if name.startswith("link/")} == {"link/small"}
    assert fs.isdir(f"{root}/deep") and fs.isdir(f"{root}/link") and fs.isfile(f"{root}/deep/up")
    assert fs.ls(f"{root}/deep", detail=False) == [f"{root}/deep/er", f"{root}/deep/up"]
    assert fs.ls(f"{root}/empty") == []
    assert fs.info(f"{root}/out")["type"] == fs.info(f"{root}/circle")["type"] == "link"
    assert fs.modified(f"{root}/large").timestamp() == pytest.approx(
        (scene.data / "large").stat().st_mtime
    )
    assert [one["name"] for one in fs.ls("")] == ["vision"]
    assert [one["name"] for one in fs.ls("vision")] == [DATASET]
    assert [one["name"] for one in fs.ls(DATASET)] == [f"{DATASET}@{scene.day}"]
    assert fs.glob(f"{root}/*.parquet") == [f"{root}/labels.parquet"]


@pytest.mark.parametrize(
    "missing",
    ["@latest/none", "@2020-01-01/large", "s@latest/large", "s", "@latest/out", "@latest/circle"],
)
def test_what_is_not_there_is_not_found(fs: BackupFileSystem, missing: str) -> None:
    with pytest.raises(FileNotFoundError):
        fs.open(DATASET + missing)


def test_nothing_is_ever_written(scene: Scene, fs: BackupFileSystem) -> None:
    for mode in ("wb", "ab", "r+b"):
        with pytest.raises(NotImplementedError):
            fs.open(f"{DATASET}@latest/large", mode)
    with pytest.raises(NotImplementedError):
        fs.rm_file(f"{DATASET}@latest/large")
    with pytest.raises((IsADirectoryError, FileNotFoundError)):
        fs.open(f"{DATASET}@latest/deep")


def test_pandas_arrow_and_duckdb_read_tables_straight_out_of_it(scene: Scene) -> None:
    options: dict[str, Any] = {"plan": str(scene.path)}
    address = f"backup://{DATASET}@{scene.day}/labels.parquet"
    assert pd.read_parquet(address, storage_options=options).equals(TABLE)
    fs = fsspec.filesystem("backup", **options)
    table = ds.dataset(address.removeprefix("backup://"), filesystem=fs)
    assert table.count_rows(filter=ds.field("label") >= 19_000) == 1_000
    with duckdb.connect() as connection:
        connection.register_filesystem(fs)
        [row] = connection.execute(
            f"select count(*), max(name) from read_parquet('{address}') where label < 10"
        ).fetchall()
    assert row == (10, "image 9")


def test_few_bytes_of_a_large_file_are_read_for_few(scene: Scene, fs: BackupFileSystem) -> None:
    with fs.open(f"{DATASET}@latest/large", block_size=1, cache_type="none") as file:
        content = file._content
        file.seek(1_500_000)
        asked: list[int] = []
        fetcher = content._snapshot.fetcher()
        inner = fetcher.contents

        def contents(plan: FramePlan) -> Any:
            asked.extend(fetch.length for fetch in plan.fetches(UNFOLDED_BYTES))
            return inner(plan)

        fetcher.contents = contents  # type: ignore[method-assign]
        file.read(100)
    assert 0 < sum(asked) <= CHUNK_MOST_BYTES + TAG_BYTES, "one chunk, sealed"


def test_a_store_and_a_key_are_enough(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(scene.root / "data")
    with pytest.raises(UsageError, match="plan"):
        BackupFileSystem(skip_instance_cache=True)
    fs = BackupFileSystem(store=str(scene.root / "cloud"), skip_instance_cache=True)
    assert fs.cat_file(f"{DATASET}@latest/deep/er/small") == b"small"
    with pytest.raises(UsageError):
        BackupFileSystem(scene.path, store="x", skip_instance_cache=True)


def test_damage_is_read_around_and_never_returned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = Scene(tmp_path, monkeypatch)
    whole = (scene.data / "large").read_bytes()

    def harm(tier: str) -> None:
        for path in scene.packs(tier):
            content = bytearray(path.read_bytes())
            for at in range(2_000, len(content), 40_000):
                content[at] ^= 1
            path.chmod(0o600)
            path.write_bytes(content)

    harm("local")
    fs = BackupFileSystem(scene.path, tier="local", skip_instance_cache=True)
    assert fs.cat_file(f"{DATASET}@latest/large") == whole
    harm("cloud")
    fs = BackupFileSystem(scene.path, skip_instance_cache=True)
    with pytest.raises(DamageError, match="large"):
        fs.cat_file(f"{DATASET}@latest/large")

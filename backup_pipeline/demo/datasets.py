"""The demo's datasets: Dagster assets that write real files, changing a little from day to day."""

import json
import random
import shutil
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path

import dagster as dg

DATASETS = ("demo/training_data", "demo/model", "demo/python_tree", "demo/measurements")

FIRST_DIGITS = 300
DIGITS_PER_DAY = 25
ROWS_PER_DAY = 40
MODULES_EDITED_PER_DAY = 12
GROUP = "demo"


@dataclass(frozen=True, slots=True)
class Scene:
    """Where the demo's datasets lie and how they grow.

    Attributes:
        directory: Everything the demo writes lies below it.
        start: The first simulated day.
        clock: Tells the simulated time (UTC, aware).
        tree_limit_bytes: How much of Python's installation tree is taken.
    """

    directory: Path
    start: date
    clock: Callable[[], datetime]
    tree_limit_bytes: int = 1 << 30

    @property
    def datasets(self) -> Path:
        """The directory that holds one directory per dataset."""
        return self.directory / "datasets"

    def path(self, dataset: str) -> Path:
        """The directory of one dataset, such as ``demo/model``."""
        return self.datasets / dataset

    @property
    def today(self) -> date:
        """The simulated day, in UTC."""
        return self.clock().astimezone(UTC).date()

    @property
    def days_passed(self) -> int:
        """How many days after the first one it is."""
        return max((self.today - self.start).days, 0)


def write_training_data(scene: Scene) -> int:
    """Write scikit-learn's bundled photographs, tables and, day by day, more of its digits.

    Returns:
        How many digits there are now.
    """
    import sklearn.datasets

    root = scene.path("demo/training_data")
    bundled = Path(sklearn.datasets.__file__).parent
    for photograph in sorted((bundled / "images").glob("*.jpg")):
        _copy_once(photograph, root / "photographs" / photograph.name)
    for table in sorted((bundled / "data").glob("*.csv*")):
        _copy_once(table, root / "tables" / table.name)

    pixels, labels = sklearn.datasets.load_digits(return_X_y=True)
    count = min(len(labels), FIRST_DIGITS + DIGITS_PER_DAY * scene.days_passed)
    for number in range(count):
        folder = root / "digits" / str(labels[number])
        folder.mkdir(parents=True, exist_ok=True)
        picture = folder / f"{number:04d}.pgm"
        if not picture.exists():
            picture.write_bytes(b"P5 8 8 16\n" + bytes(pixels[number].astype("uint8")))
    return count


def train_model(scene: Scene) -> dict[str, float]:
    """Train a forest on the digits written so far and store it as joblib does.

    Returns:
        The model's figures: digits learnt from and accuracy on the digits not yet seen.
    """
    import joblib
    import numpy as np
    from sklearn.ensemble import RandomForestClassifier

    pictures = sorted((scene.path("demo/training_data") / "digits").rglob("*.pgm"))
    pixels = np.stack([np.frombuffer(p.read_bytes()[-64:], dtype="uint8") for p in pictures])
    labels = np.array([int(p.parent.name) for p in pictures])
    held_out = np.arange(len(labels)) % 5 == 0
    forest = RandomForestClassifier(n_estimators=50, random_state=0)
    forest.fit(pixels[~held_out], labels[~held_out])
    accuracy = float(forest.score(pixels[held_out], labels[held_out]))

    root = scene.path("demo/model")
    root.mkdir(parents=True, exist_ok=True)
    joblib.dump(forest, root / "digits.joblib")
    figures = {"digits": float(len(labels)), "accuracy": round(accuracy, 4)}
    (root / "figures.json").write_text(json.dumps(figures, indent=2) + "\n")
    return figures


def write_python_tree(scene: Scene) -> int:
    """Copy Python's own standard library once, then edit a dozen of its modules a day.

    Returns:
        How many files the tree has.
    """
    root = scene.path("demo/python_tree")
    if not root.exists():
        _copy_tree(Path(sysconfig.get_paths()["stdlib"]), root, scene.tree_limit_bytes)
        return _count_files(root)
    modules = sorted(root.rglob("*.py"))
    choice = random.Random(scene.today.toordinal())
    for module in choice.sample(modules, min(MODULES_EDITED_PER_DAY, len(modules))):
        with module.open("ab") as text:
            text.write(f"\n# read again on {scene.today}\n".encode())
    (root / f"notes-{scene.today}.txt").write_text(f"read on {scene.today}\n")
    choice.choice(modules).unlink()
    return _count_files(root)


def write_measurements(scene: Scene, day: date) -> int:
    """Write one day's slice: rows of the breast cancer table, as if measured on that day.

    Returns:
        How many rows the slice has.
    """
    import pandas as pd
    import sklearn.datasets

    bundled = Path(sklearn.datasets.__file__).parent / "data" / "breast_cancer.csv"
    table = pd.read_csv(bundled, skiprows=1, header=None)
    rows = table.sample(ROWS_PER_DAY, random_state=day.toordinal() % (1 << 31))
    folder = scene.path("demo/measurements") / f"day={day}"
    folder.mkdir(parents=True, exist_ok=True)
    rows.to_csv(folder / "measurements.csv", index=False)
    return len(rows)


def dataset_assets(scene: Scene) -> list[dg.AssetsDefinition]:
    """The datasets as assets, the way a project has them before it knows of backups."""

    @dg.asset(key_prefix="demo", group_name=GROUP, kinds={"python", "file"})
    def training_data() -> dg.MaterializeResult:
        """Photographs, tables and a growing number of digits, from scikit-learn."""
        return dg.MaterializeResult(metadata={"digits": write_training_data(scene)})

    @dg.asset(
        key_prefix="demo",
        group_name=GROUP,
        kinds={"scikitlearn"},
        deps=[dg.AssetKey(["demo", "training_data"])],
    )
    def model() -> dg.MaterializeResult:
        """A forest that reads digits, trained again each day."""
        return dg.MaterializeResult(metadata=dict(train_model(scene)))

    @dg.asset(key_prefix="demo", group_name=GROUP, kinds={"python", "file"})
    def python_tree() -> dg.MaterializeResult:
        """Python's own installation tree: thousands of files, a dozen of them edited a day."""
        return dg.MaterializeResult(metadata={"files": write_python_tree(scene)})

    @dg.asset(
        key_prefix="demo",
        group_name=GROUP,
        kinds={"csv"},
        partitions_def=dg.DailyPartitionsDefinition(start_date=str(scene.start), end_offset=1),
    )
    def measurements(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        """One folder of measurements a day; no later day holds an earlier one's."""
        day = date.fromisoformat(context.partition_key)
        return dg.MaterializeResult(metadata={"rows": write_measurements(scene, day)})

    return [training_data, model, python_tree, measurements]


def _copy_once(source: Path, target: Path) -> None:
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target)


def _copy_tree(source: Path, target: Path, limit_bytes: int) -> None:
    copied_bytes = 0
    for path in sorted(source.rglob("*")):
        inner = path.relative_to(source)
        if "site-packages" in inner.parts or "__pycache__" in inner.parts:
            continue
        if not path.is_file() or path.is_symlink():
            continue
        copied_bytes += path.stat().st_size
        if copied_bytes > limit_bytes:
            break
        (target / inner).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target / inner)


def _count_files(root: Path) -> int:
    return sum(1 for path in root.rglob("*") if path.is_file())

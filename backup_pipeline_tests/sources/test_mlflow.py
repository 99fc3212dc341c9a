"""An MLflow registry as a consistent set; where MLflow is installed, for no other test needs it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from backup_pipeline.plan import load_plan
from backup_pipeline.runner import Runner

PAGE = Path(__file__).parents[2] / "docs/how-to/models.md"
ROWS = [[0.9, 0.1], [0.1, 0.9]]


@pytest.mark.filterwarnings("ignore")
def test_a_registry_comes_back_elsewhere_and_its_model_predicts_the_same(tmp_path: Path) -> None:
    mlflow: Any = pytest.importorskip("mlflow", reason="MLflow is not installed here")
    sklearn = pytest.importorskip("sklearn.linear_model")
    home = tmp_path / "mlflow"
    home.mkdir()
    mlflow.set_tracking_uri(f"sqlite:///{home}/mlflow.db")
    where = f"file://{home}/artifacts"
    mlflow.set_experiment(experiment_id=mlflow.MlflowClient().create_experiment("churn", where))
    model = sklearn.LogisticRegression().fit([*ROWS, [0.8, 0.2], [0.3, 0.7]], [1, 0, 1, 0])
    with mlflow.start_run():
        mlflow.sklearn.log_model(model, name="model", registered_model_name="churn")

    document = {
        "start": "2026-11-01",
        "encryption": "none",
        "stores": {"local": str(tmp_path / "store")},
        "datasets": [
            {"asset": "registry/database", "source": {"sqlite": str(home / "mlflow.db")}},
            {"asset": "registry/artifacts", "source": str(home / "artifacts")},
        ],
        "sets": {"registry": {"members": ["registry/database", "registry/artifacts"]}},
    }
    with Runner(load_plan(document)) as runner:
        runner.backup_set("registry")
        runner.restore_set("registry", to=tmp_path / "back")
    home.rename(tmp_path / "gone")

    [code] = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    back = tmp_path / "back/registry"
    moved = (str(back / "database/mlflow.db"), where, f"file://{back}/artifacts")
    subprocess.run([sys.executable, "-c", code, *moved], check=True)
    mlflow.set_tracking_uri(f"sqlite:///{moved[0]}")
    [version] = mlflow.MlflowClient().search_model_versions("name='churn'")
    restored = mlflow.sklearn.load_model(f"models:/churn/{version.version}")
    assert list(restored.predict(ROWS)) == list(model.predict(ROWS)) == [1, 0]

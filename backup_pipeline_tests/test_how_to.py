"""The how-to pages work as they are shown: every block, in order, against the real thing."""

from __future__ import annotations

import json
import secrets
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import fsspec
import joblib
import obstore
import pytest
import yaml
from obstore.store import MemoryStore

from backup_pipeline.definitions import build_backup_defs
from backup_pipeline.s3_server import S3Server
from backup_pipeline_tests.pages import Page, contents
from backup_pipeline_tests.sources.sftp_servers import Served, serve_here
from backup_pipeline_tests.sources.test_versions import Versioned

Patch = pytest.MonkeyPatch


@pytest.fixture
def versioned(s3_server: S3Server, monkeypatch: Patch) -> Iterator[Versioned]:
    """A bucket that keeps versions, which AWS's variables lead to."""
    for name, value in s3_server.environ().items():
        monkeypatch.setenv(name, value)
    found = Versioned(s3_server, monkeypatch)
    yield found
    found.client.close()


@pytest.mark.services
def test_the_page_on_objects_works_as_it_is_shown(
    versioned: Versioned, tmp_path: Path, monkeypatch: Patch
) -> None:
    client, target = versioned.client, f"restored-{secrets.token_hex(4)}"
    client.create_bucket(Bucket=target)
    places = {
        "s3://lake/images/": f"s3://{versioned.bucket}/p/",
        "s3://lake-restored/": f"s3://{target}/",
        "https://s3.example.org": versioned.server.endpoint,
        "/srv/backups": f"{tmp_path}/store",
    }
    kept = {
        "ContentType": "image/png",
        "CacheControl": "no-cache",
        "ContentDisposition": "inline",
        "ContentEncoding": "identity",
        "ContentLanguage": "de",
        "Metadata": {"owner": "lake"},
    }
    versioned.put("a/one.png", b"as it was", **kept, Tagging="team=a")
    versioned.put("two.png", b"deleted since")
    versioned.end(date(2026, 11, 20))
    versioned.put("a/one.png", b"as it is")
    versioned.delete("two.png")
    with Page("how-to/objects.md", tmp_path, monkeypatch, places) as page:
        page.plan()
        page.run("backup-pipeline backup lake/images")
        page.run("backup-pipeline restore lake/images --to now")
        assert contents(tmp_path / "now") == {"a/one.png": b"as it is"}
        shutil.rmtree(tmp_path / "store")

        for name in versioned.server.environ():
            monkeypatch.delenv(name)
        monkeypatch.setenv("LAKE_KEY_ID", versioned.server.access_key)
        monkeypatch.setenv("LAKE_SECRET", versioned.server.secret_key)
        page.plan()
        assert "exact" in page.shell()
        page.shell()
    listed = client.list_objects_v2(Bucket=target)["Contents"]
    assert [one["Key"] for one in listed] == ["images/a/one.png", "images/two.png"]
    where = {"Bucket": target, "Key": "images/a/one.png"}
    got = client.get_object(**where)
    assert got["Body"].read() == b"as it was"
    assert {name: got[name] for name in kept} == kept
    assert client.get_object_tagging(**where)["TagSet"] == [{"Key": "team", "Value": "a"}]


@pytest.fixture
def clouds(monkeypatch: Patch) -> dict[str, tuple[Any, dict[str, str]]]:
    """Google's and Azure's buckets that were opened, each in memory, with how they were asked for.

    Neither service can be had here: what stands between the plan and their clients is run.
    """
    opened: dict[str, tuple[Any, dict[str, str]]] = {}

    def opens(scheme: str) -> Any:
        def store(bucket: str, *, config: dict[str, str], **_: Any) -> Any:
            memory, _ = opened.get(f"{scheme}://{bucket}", (MemoryStore(), {}))
            opened[f"{scheme}://{bucket}"] = memory, config
            return memory

        return store

    monkeypatch.setattr("obstore.store.GCSStore", opens("gs"))
    monkeypatch.setattr("obstore.store.AzureStore", opens("az"))
    return opened


@pytest.fixture
def partner(tmp_path: Path, monkeypatch: Patch) -> Iterator[Served]:
    """An SFTP server whose key stands in the user's ``known_hosts``."""
    (tmp_path / "partner").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = Served(tmp_path / "partner", listener.getsockname()[1])
        (tmp_path / ".ssh").mkdir()
        shutil.copy(server.folder / "known", tmp_path / ".ssh/known_hosts")
        monkeypatch.setenv("HOME", str(tmp_path))
        serve_here(listener, server)
        yield server


@pytest.mark.services
def test_the_page_on_other_urls_works_as_it_is_shown(
    versioned: Versioned,
    clouds: dict[str, Any],
    partner: Served,
    tmp_path: Path,
    monkeypatch: Patch,
) -> None:
    nas = f"memory://nas-{secrets.token_hex(4)}"
    places = {
        "sftp://files.example.org/out": partner.options("/out")["url"],
        "/etc/backup/sftp_key": str(partner.folder / "user"),
        "smb://nas": nas,
        "s3://lake/": f"s3://{versioned.bucket}/p/",
        "/srv/backups": f"{tmp_path}/store",
    }
    monkeypatch.setenv("AZURE_KEY", "c2VjcmV0")
    monkeypatch.setenv("NAS", "secret")
    for bucket in ("gs://lake", "az://images", "az://lake"):
        clouds[bucket] = MemoryStore(), {}

    def put(bucket: str, key: str) -> None:
        obstore.put(clouds[bucket][0], key, key.encode())

    put("gs://lake", "events/a")
    put("az://images", "train/b")
    (partner.root / "out").mkdir()
    (partner.root / "out/c").write_bytes(b"out/c")
    fsspec.filesystem("memory").pipe(f"{nas.removeprefix('memory:/')}/papers/d", b"papers/d")
    with Page("how-to/other-urls.md", tmp_path, monkeypatch, places) as page:
        page.plan()
        for asset, name, content in (
            ("lake/events", "a", b"events/a"),
            ("lake/images", "b", b"train/b"),
            ("partner/prices", "c", b"out/c"),
            ("shared/papers", "d", b"papers/d"),
        ):
            page.run(f"backup-pipeline backup {asset}")
            page.run(f"backup-pipeline restore {asset} --to back/{asset}")
            assert contents(tmp_path / "back" / asset) == {name: content}
        assert clouds["gs://lake"][1] == {}
        assert clouds["az://images"][1] == {"account_name": "acme", "account_key": "c2VjcmV0"}

        page.plan()
        put("az://lake", "views/2026/11/21/rows")
        page.run("backup-pipeline backup lake/views --day 2026-11-21")
        page.run("backup-pipeline restore lake/views --to views")
        assert contents(tmp_path / "views") == {"rows": b"views/2026/11/21/rows"}
        for day in ("20", "21"):
            versioned.put(f"clicks/year=2026/month=11/day={day}/rows", b"early")
            page.run(f"backup-pipeline backup lake/clicks --day 2026-11-{day}")
        # It is as it was; then it is written again, which is noticed with the day and without.
        one_day = page.inline("backup-pipeline backup lake/clicks --day 2026-11-20")
        any_day = page.inline("backup-pipeline backup lake/clicks")
        page.run(one_day)
        for content, command in ((b"late", one_day), (b"later", any_day)):
            versioned.put("clicks/year=2026/month=11/day=20/rows", content)
            page.run(command)
        found: list[tuple[str, bytes]] = []
        for one in json.loads(page.run("backup-pipeline snapshots lake/clicks --json")):
            page.run(f"backup-pipeline restore lake/clicks --snapshot {one['id']} --to {one['id']}")
            found.append((one["day"], (tmp_path / one["id"] / "rows").read_bytes()))
    assert sorted(found) == [
        ("2026-11-20", b"early"),
        ("2026-11-20", b"late"),
        ("2026-11-20", b"later"),
        ("2026-11-21", b"early"),
    ]


def _merged(one: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    """A plan with what a page says that it may say besides."""
    both = {key: _merged(one[key], more[key]) for key in one.keys() & more.keys()}
    return {**one, **more, **both}


@pytest.mark.services
def test_the_page_on_backfills_works_as_it_is_shown(
    versioned: Versioned, tmp_path: Path, monkeypatch: Patch
) -> None:
    first, moved, last = date(2026, 10, 23), date(2026, 10, 28), date(2026, 11, 1)
    url = f"s3://{versioned.bucket}/p/"
    document: dict[str, Any] = {
        "start": str(first),
        "encryption": "none",
        "stores": {name: f"{tmp_path}/{name}" for name in ("local", "cloud", "offsite")},
        "policies": {
            "default": {
                "tiers": [
                    {"name": "local", "every": "day", "keep": {"daily": 14}},
                    {"name": "cloud", "every": "week"},
                    {"name": "offsite", "every": "month", "kind": "full"},
                ]
            }
        },
        "datasets": [{"asset": "lake/events", "source": url}],
    }

    def plan(more: str = "{}") -> str:
        (tmp_path / "backup.yaml").write_text(json.dumps(_merged(document, yaml.safe_load(more))))
        return str(tmp_path / "backup.yaml")

    for day, content in ((moved - timedelta(days=1), b"early"), (last, b"late")):
        versioned.put("rows", content)
        versioned.end(day)
    for age in range(10):
        day = first + timedelta(days=age)
        versioned.ends[day] = versioned.ends[last if day >= moved else moved - timedelta(days=1)]
    versioned.put("rows", b"today")
    with Page(
        "how-to/backfill.md",
        tmp_path,
        monkeypatch,
        {"s3://lake/events/": url},
        now="2026-11-02T12:00:00",
    ) as page:
        plan()
        missing, backfill = page.take("bash").splitlines()
        assert page.run(missing, 1).split() == page.take("").split()
        assert "13 days filled, 0 of them late" in page.run(backfill)
        assert "0 missed days" in page.run(missing)
        for day in (first, moved, last):
            page.run(f"backup-pipeline restore lake/events --tier local --day {day} --to {day}")
            kept = b"early" if day < moved else b"late"
            assert contents(tmp_path / str(day)) == {"rows": kept}
        again = page.inline("backup-pipeline backup lake/events --day 2026-10-23")
        assert "nothing was read" in page.run(again)
        assert "nothing was read" not in page.run(f"{again} {page.inline('--force')}")

        schedules = build_backup_defs(plan(page.take("yaml"))).schedules or ()
        assert "backup_backfill_schedule" in {one.name for one in schedules}

        # A source that knows no past.
        (tmp_path / "rows").write_bytes(b"now")
        document["datasets"] = [{"asset": "lake/rows", "source": f"{tmp_path}/rows"}]
        plan()
        late = "backup-pipeline backup lake/rows --tier local --day 2026-10-23"
        assert "days that can be had: 2026-11-02" in page.run(late, 3)
        plan(page.take("yaml"))
        page.run(late)
        [snapshot] = json.loads(page.run("backup-pipeline snapshots --json"))
        assert (snapshot["day"], snapshot["timing"]) == (str(first), "late")
        [status, *_] = json.loads(page.run("backup-pipeline status --json", 1))["tiers"]
        assert status["late_days"] == [str(first)]


ROWS = [[0.9, 0.1], [0.1, 0.9]]
ANSWERS = [1, 0]


def _model() -> Any:
    """A model that answers ``ANSWERS`` to ``ROWS``."""
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression().fit([*ROWS, [0.8, 0.2], [0.3, 0.7]], [*ANSWERS, 1, 0])


def test_the_page_on_models_works_as_it_is_shown(tmp_path: Path, monkeypatch: Patch) -> None:
    places = {
        "/srv/backups": f"{tmp_path}/store",
        "/srv/restore": f"{tmp_path}/scratch",
        "/data/models/": f"{tmp_path}/",
    }
    expected = tmp_path / "churn/expected.json"
    expected.parent.mkdir()
    joblib.dump(_model(), expected.with_name("model.joblib"))
    page = Page("how-to/models.md", tmp_path, monkeypatch, places, section="A directory with")
    with page:
        page.plan()
        (tmp_path / "my_checks.py").write_text(page.take("python"))
        for answers, code in ((ANSWERS, 0), ([0, 0], 1)):
            expected.write_text(json.dumps({"rows": ROWS, "answers": answers}))
            page.run("backup-pipeline backup models/churn")
            said = page.run("backup-pipeline drill models/churn", code)
            assert ("good" if code == 0 else "FAILED") in said


@pytest.mark.filterwarnings("ignore")
def test_the_page_on_mlflow_works_as_it_is_shown(tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    mlflow: Any = pytest.importorskip("mlflow")
    home = tmp_path / "mlflow"
    home.mkdir()
    places = {
        "/srv/backups": f"{tmp_path}/store",
        "/srv/back": f"{tmp_path}/back",
        "/srv/mlflow": str(home),
    }
    page = Page("how-to/models.md", tmp_path, monkeypatch, places, section="An MLflow registry")
    database, old, new = (
        page.own(path)
        for path in (
            "/srv/back/registry/database/mlflow.db",
            "file:///srv/mlflow/artifacts",
            "file:///srv/back/registry/artifacts",
        )
    )
    mlflow.set_tracking_uri(f"sqlite:///{home}/mlflow.db")
    mlflow.set_experiment(experiment_id=mlflow.MlflowClient().create_experiment("churn", old))
    with mlflow.start_run():
        mlflow.sklearn.log_model(
            _model(),
            name="model",
            registered_model_name="churn",
            serialization_format="cloudpickle",  # MLflow's usual one is not in mlflow-skinny
            pip_requirements=["scikit-learn"],  # or it would find out, in a process of its own
        )
    with page:
        page.plan()
        page.shell()
        home.rename(tmp_path / "gone")
        subprocess.run([sys.executable, "-c", page.take("python"), database, old, new], check=True)
    mlflow.set_tracking_uri(f"sqlite:///{database}")
    [version] = mlflow.MlflowClient().search_model_versions("name='churn'")
    restored = mlflow.sklearn.load_model(f"models:/churn/{version.version}")
    assert list(restored.predict(ROWS)) == ANSWERS

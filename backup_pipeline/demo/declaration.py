"""Writes the demo's plan: three tiers, four datasets, one key file."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from backup_pipeline.s3_server import S3Server

PLAN_FILE = "backup.yaml"
KEY_FILE = "backup.key"
TIERS = ("local", "cloud", "offsite")


def write_key(directory: Path) -> Path:
    """Make the demo's key file if it is not there.

    Returns:
        Its path.
    """
    from backup_pipeline.engine.keys import new_key_file

    path = directory / KEY_FILE
    if not path.exists():
        directory.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        path.write_text(new_key_file())
    return path


def write_plan(
    directory: Path,
    start: date,
    *,
    cloud: S3Server | None = None,
    offsite: S3Server | None = None,
    automation: bool = False,
) -> Path:
    """Write the plan of the demo as YAML.

    Args:
        directory: The demo's directory; datasets, stores and key lie below it.
        start: The first day that has a backup.
        cloud: The S3 server of the cloud tier; without one the tier is a directory.
        offsite: The same for the offsite tier.
        automation: Whether schedules and the change sensor run by themselves.

    Returns:
        The plan's path.
    """
    import yaml

    write_key(directory)
    servers = {"cloud": cloud, "offsite": offsite}
    stores: dict[str, Any] = {"local": f"file://{directory}/stores/local"}
    for name, server in servers.items():
        stores[name] = (
            _s3_store(directory, name, server) if server else f"file://{directory}/stores/{name}"
        )
    path = directory / PLAN_FILE
    document = _document(directory, start, stores, automation)
    text = yaml.safe_dump(document, sort_keys=False, width=100, default_flow_style=None)
    path.write_text(f"# The demo's plan, written by the demo; docs/plan.md has every key.\n{text}")
    return path


def _document(
    directory: Path, start: date, stores: Mapping[str, Any], automation: bool
) -> dict[str, Any]:
    every_day = {"every": "day", "if_missed": "fail"}
    return {
        "start": start.isoformat(),
        "deployment": "demo",
        "automation": automation,
        "stores": dict(stores),
        "scratch": {"url": f"file://{directory}/scratch"},
        "keys": {"main": {"key_file": {"file": str(directory / KEY_FILE)}}},
        "policies": {
            "default": {
                "tiers": [
                    {
                        "name": "local",
                        "every": "day",
                        "at": "02:00",
                        "kind": "incremental",
                        "full_every": "4 weeks",
                        "keep": {"daily": 7},
                    },
                    {
                        "name": "cloud",
                        "every": "week",
                        "weekday": "sunday",
                        "kind": "incremental",
                        "full_every": "12 weeks",
                        "if_missed": "nearest",
                        "keep": {"weekly": 12},
                    },
                    {
                        "name": "offsite",
                        "every": "month",
                        "kind": "full",
                        "keep": {"monthly": 12},
                    },
                ],
                "rpo": {"local": "26 hours", "cloud": "8 days"},
                "rto": "1 hour",
                "drill": {"every": "week", "sample": "5%"},
            }
        },
        "datasets": [
            {
                "assets": ["demo/training_data", "demo/model", "demo/python_tree"],
                "source": f"{directory}/datasets/{{asset}}",
            },
            {
                "asset": "demo/measurements",
                "source": {"day_paths": f"{directory}/datasets/demo/measurements/day={{day}}"},
                "holds": "slice",
                "keep_slices": "forever",
                # A slice that is copied on Sundays only would leave six days in one place.
                "override": {"tiers": {"cloud": every_day, "offsite": False}},
            },
        ],
    }


def _s3_store(directory: Path, name: str, server: S3Server) -> dict[str, Any]:
    secrets = directory / "secrets"
    secrets.mkdir(mode=0o700, parents=True, exist_ok=True)
    references: dict[str, Any] = {}
    for option, value in (
        ("access_key_id", server.access_key),
        ("secret_access_key", server.secret_key),
    ):
        file = secrets / f"{name}-{option}"
        file.touch(mode=0o600)
        file.write_text(value)
        references[option] = {"file": str(file)}
    return {
        "url": f"s3://{server.buckets[0]}/{name}",
        "endpoint": server.endpoint,
        "region": server.region,
        **references,
    }

"""Dagster asset checks of the user's as tests of a drill: what they load, they load restored.

    orders_restored = drill_test(orders_not_empty, assets=[orders], resources={"io_manager": ...})

The check runs as it does in its own code location, but for its IO managers: each is pointed at the
restored copy, or the test fails. One that still read the live data would prove nothing.
"""

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg

from backup_pipeline.engine.errors import UsageError

__all__ = ["Answer", "drill_test"]

IO_MANAGER = "io_manager"
"""The key of the IO manager of assets that name none."""

_FOLDER_FIELDS = ("base_dir", "base_path", "base_folder", "root", "root_path", "path")
_QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}

Resources = Mapping[str, Any] | Callable[[Path], Mapping[str, Any]]


@dataclass(frozen=True)
class Answer:
    """What a check came to on the restored copy."""

    passed: bool
    description: str
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any])


def drill_test(
    check: dg.AssetChecksDefinition,
    *,
    assets: Sequence[Any],
    resources: Resources | None = None,
    at: str = "",
    partition: str | None = None,
) -> Callable[[Path], Answer]:
    """Make an asset check a function that ``drill.tests`` of a plan can name.

    Args:
        check: The check, which takes what it judges as an argument, through an IO manager.
        assets: The assets that it loads.
        resources: The resources of check and assets as in your own ``Definitions``, where IO
            managers that keep files below a folder, in S3 or in one DuckDB file are pointed at
            the restored copy; or a function that is given the copy's folder and returns them, for
            those of any other kind.
        at: Where the dataset's root lies below the IO manager's folder: ``orders`` for a dataset
            whose source is ``<base_dir>/orders``; empty where they are the same.
        partition: The partition to load, where the assets have some.

    Returns:
        A function of the restored copy's path.
    """

    def test(restored: Path) -> Answer:
        with tempfile.TemporaryDirectory(prefix="staged-", dir=restored.parent) as folder:
            base = restored
            if at.strip("/"):
                base = Path(folder)
                place = base / at.strip("/")
                place.parent.mkdir(parents=True, exist_ok=True)
                place.symlink_to(restored, target_is_directory=True)
            return _evaluate(check, assets, _resources(resources, assets, base), partition)

    return test


def _evaluate(
    check: dg.AssetChecksDefinition,
    assets: Sequence[Any],
    resources: Mapping[str, Any],
    partition: str | None,
) -> Answer:
    if not any(not one.dagster_type.is_nothing for one in check.node_def.input_defs):
        raise UsageError(
            "the check loads nothing through an IO manager, so it would not see the restored copy",
            "give it an argument for its asset, or write a function of the restored path",
        )
    selection = dg.AssetSelection.checks(*check.check_keys)
    defs = dg.Definitions(
        assets=list(assets),
        asset_checks=[check],
        resources=resources,
        jobs=[dg.define_asset_job("drill_test", selection, executor_def=dg.in_process_executor)],
    )
    with dg.DagsterInstance.ephemeral() as instance:
        result = defs.resolve_job_def("drill_test").execute_in_process(
            instance=instance,
            raise_on_error=False,
            run_config=_QUIET,
            tags={"dagster/partition": partition} if partition else None,
        )
        return _answer(check, result)


def _answer(check: dg.AssetChecksDefinition, result: dg.ExecuteInProcessResult) -> Answer:
    for event in result.get_step_failure_events():
        error = event.step_failure_data.error
        while error is not None and error.cause is not None:
            error = error.cause
        return Answer(False, f"raised {error.message if error else 'an error'}".strip())
    found = result.get_asset_check_evaluations()
    missing = {key.name for key in check.check_keys} - {one.check_name for one in found}
    if missing or not result.success:
        return Answer(False, f"gave no result for {', '.join(sorted(missing)) or 'its checks'}")
    said: dict[str, Any] = {}
    for one in found:
        head = "" if len(found) == 1 else f"{one.check_name}_"
        said |= {f"{head}{name}": value for name, value in one.metadata.items()}
    failed = [one for one in found if not one.passed]
    shown = failed or found
    words = "; ".join(f"{one.check_name}: {one.description or 'passed'}" for one in shown)
    if failed:
        words = "; ".join(
            f"{one.check_name}: {one.description or 'did not pass'}" for one in failed
        )
    return Answer(not failed, words, said)


# -- IO managers that read the copy


def _resources(given: Resources | None, assets: Sequence[Any], base: Path) -> dict[str, Any]:
    """The resources, with every IO manager pointed at the copy."""
    if callable(given):
        found = dict(given(base))
    else:
        found = {
            name: _pointed(name, one, base) if _manages_io(one) else one
            for name, one in (given or {}).items()
        }
    # Without one, Dagster would take its own, which reads the live data.
    found.setdefault(IO_MANAGER, dg.FilesystemIOManager(base_dir=str(base)))
    for asset in assets:
        for key in _io_manager_keys(asset):
            if key not in found:
                raise UsageError(
                    f"IO manager {key} is not among the resources",
                    "give drill_test the resources of your Definitions",
                )
    return found


def _io_manager_keys(asset: Any) -> set[str]:
    if isinstance(asset, dg.AssetsDefinition):
        return {asset.get_io_manager_key_for_asset_key(key) for key in asset.keys}
    return set()


def _manages_io(resource: Any) -> bool:
    kinds = (dg.IOManager, dg.IOManagerDefinition, dg.ConfigurableIOManagerFactory)
    return isinstance(resource, kinds)


def _pointed(name: str, manager: Any, base: Path) -> Any:
    """An IO manager of the same kind that reads below the copy's folder."""
    fields: Mapping[str, Any] = getattr(type(manager), "model_fields", {})
    if {"s3_bucket", "s3_prefix"} <= set(fields):
        # It pickles below a prefix as this one does below a folder.
        return dg.FilesystemIOManager(base_dir=str(base))
    if "database" in fields:
        return _with(manager, "database", str(_database(name, manager, base)))
    known = [one for one in _FOLDER_FIELDS if one in fields]
    if len(known) == 1:
        return _with(manager, known[0], str(base))
    if isinstance(manager, dg.UPathIOManager) and not fields:
        from upath import UPath

        try:
            return type(manager)(UPath(base))
        except TypeError:
            pass
    raise UsageError(
        f"IO manager {name}, a {type(manager).__name__}, cannot be pointed at the restored copy",
        "give drill_test a function: resources=lambda folder: {...}",
    )


def _with(manager: Any, changed: str, value: str) -> Any:
    given = {one: getattr(manager, one) for one in type(manager).model_fields}
    return type(manager)(**{**given, changed: value})


def _database(name: str, manager: Any, base: Path) -> Path:
    """The restored file of a database, by its name."""
    written = str(manager.database)
    if isinstance(manager.database, dg.EnvVar):
        written = os.environ.get(str(manager.database.env_var_name), "")
    found = [one for one in base.rglob(Path(written).name) if one.is_file()] if written else []
    if len(found) != 1:
        raise UsageError(
            f"the restored copy has {len(found)} files named {Path(written).name or '?'} for the"
            f" IO manager {name}",
            "name it in the test's `needs`, or give drill_test a function for its resources",
        )
    return found[0]

"""What a drill's report comes to as two asset checks: ``restores`` and ``makes_sense``."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import dagster as dg

from backup_pipeline.engine.errors import DamageError
from backup_pipeline.engine.progress import human_bytes
from backup_pipeline.metadata import key
from backup_pipeline.translator import TierAsset

__all__ = [
    "MAKES_SENSE",
    "RESTORES",
    "Verdict",
    "check_spec",
    "drill_verdicts",
    "sense_specs",
]

RESTORES = "restores"
MAKES_SENSE = "makes_sense"

SHOWN_MISMATCHES = 100

Verdict = tuple[bool, str, dict[str, Any]]
"""Passed or not, one sentence, metadata."""


def check_spec(
    asset: TierAsset, name: str, description: str, *, partitioned: bool, blocking: bool = False
) -> dg.AssetCheckSpec:
    """The spec of a check.

    Partitions on checks are a preview of Dagster's: this is the only place that asks for them.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.PreviewWarning)
        return dg.AssetCheckSpec(
            name,
            asset=asset.asset_key,
            description=description,
            blocking=blocking,
            partitions_def=asset.partitions if partitioned else None,
        )


def sense_specs(asset: TierAsset) -> list[dg.AssetCheckSpec]:
    drill = asset.dataset.drill
    if drill is None or not drill.tests:
        return []
    description = "Does what was restored pass the plan's tests of it: tables, functions, models?"
    return [check_spec(asset, MAKES_SENSE, description, partitioned=True)]


def drill_verdicts(
    asset: TierAsset, drill: Callable[[], Mapping[str, Any]]
) -> Iterator[tuple[str, Verdict]]:
    """Names of checks and their verdicts after a drill; damage that ended it early says no to all.

    Raises:
        BackupError: The drill could not be done.
    """
    tested = bool(sense_specs(asset))
    try:
        report = drill()
    except DamageError as error:
        verdict = False, str(error), {key("error"): error.message}
        yield RESTORES, verdict
        if tested:
            yield MAKES_SENSE, (False, f"not tested: {error}", {key("error"): error.message})
        return
    yield RESTORES, drill_verdict(report)
    if tested:
        yield MAKES_SENSE, sense_verdict(report)


def drill_verdict(report: Mapping[str, Any]) -> Verdict:
    """What a drill report comes to beside its tests: passed, one sentence, metadata."""
    numbers = ("whole_s", "rto_s", "verified_share", "covers_in_s")
    said: dict[str, Any] = {
        key("files"): int(report["files"]),
        key("bytes"): int(report["bytes"]),
        key("coverage"): float(report["sample_fraction"]),
        key("duration_s"): float(report["duration_s"]),
        key("speed_bytes_per_s"): float(report["speed_bytes_per_s"]),
        key("snapshot"): str(report["snapshot"]),
        key("mismatch_count"): int(report["mismatch_count"]),
        **{key(name): float(report[name]) for name in numbers if report[name] is not None},
    }
    if report["in_time"] is not None:
        said[key("in_time")] = bool(report["in_time"])
    if report["oldest_verified_at"]:
        moment = datetime.fromisoformat(report["oldest_verified_at"])
        said[key("oldest_verified_at")] = dg.MetadataValue.timestamp(moment)
    if report["mismatches"]:
        said[key("mismatches")] = dg.MetadataValue.json(report["mismatches"][:SHOWN_MISMATCHES])
    found = (
        "equal to the manifest"
        if report["equal"]
        else f"{report['mismatch_count']} differ from the manifest"
    )
    done = f"{report['files']} files, {human_bytes(report['bytes'])}, {found}"
    passed = report["equal"] and report["in_time"] is not False
    return passed, f"{done}; {report['time']}", said


def sense_verdict(report: Mapping[str, Any]) -> Verdict:
    """What a drill's tests of the restored copy come to: passed, one sentence, metadata."""
    tests = report["tests"]
    failed = [one for one in tests if not one["passed"]]
    files, of_files = (sum(one[name] for one in tests) for name in ("files", "of_files"))
    said: dict[str, Any] = {
        key("tests"): len(tests),
        key("failed_tests"): len(failed),
        key("coverage"): files / of_files if of_files else 0.0,
        key("snapshot"): str(report["snapshot"]),
        key("results"): _tests_table(tests),
    }
    for number, one in enumerate(tests):
        for name, value in one["said"].items():
            # Numbers are plotted over time; tests of one name are told apart by their place.
            said[key(f"test_{number + 1}_{name}")] = value
    if not failed:
        return bool(tests), f"{len(tests)} tests passed on {files} files", said
    first = failed[0]
    sentence = f"{len(failed)} of {len(tests)} tests failed: {first['name']}: {first['reason']}"
    return False, sentence, said


def _tests_table(tests: Sequence[Mapping[str, Any]]) -> dg.TableMetadataValue:
    names = ("test", "passed", "files", "of_files", "seconds", "found")
    types = ("string", "bool", "int", "int", "float", "string")
    columns = [dg.TableColumn(*pair) for pair in zip(names, types, strict=True)]
    records = [
        dg.TableRecord(
            {
                "test": one["name"],
                "passed": one["passed"],
                "files": one["files"],
                "of_files": one["of_files"],
                "seconds": round(one["elapsed_s"], 2),
                "found": one["reason"],
            }
        )
        for one in tests
    ]
    return dg.MetadataValue.table(records, dg.TableSchema(columns))

"""What a materialization says: numbers that plot over time, tables, a picture, tags."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import Any

import dagster as dg

from backup_pipeline.engine.progress import human_bytes

__all__ = [
    "DATASET",
    "FINGERPRINT_TAG",
    "FORCE_TAG",
    "HISTORY_DAYS",
    "NAMESPACE",
    "REPOSITORY_TAG",
    "SNAPSHOT_TAG",
    "STATUS_TAG",
    "UPSTREAM_TAG",
    "complete_evaluation",
    "completeness",
    "history_picture",
    "key",
    "mentioned",
    "short",
    "snapshot_metadata",
    "snapshot_tags",
    "stored_by_day",
]

NAMESPACE = "backup"
HISTORY_DAYS = 30
"""How many days the picture of stored bytes shows."""

TAG_VALUE_LENGTH = 32
"""Dagster takes at most 63 characters of a tag's value; 128 bits tell fingerprints apart."""


def key(name: str) -> str:
    """The name of a metadata entry or tag of ours, such as ``backup/stored_bytes``."""
    return f"{NAMESPACE}/{name}"


DATASET = key("dataset")
FINGERPRINT_TAG = key("fingerprint")
FORCE_TAG = key("force")
REPOSITORY_TAG = key("repository")
SNAPSHOT_TAG = key("snapshot")
STATUS_TAG = key("status")
UPSTREAM_TAG = key("upstream")

_NUMBERS = (
    "entries",
    "files",
    "bytes",
    "read_bytes",
    "stored_bytes",
    "deduplicated_bytes",
    "duration_s",
    "speed_bytes_per_s",
    "integrity",
)
_TIMES = ("started_at", "captured_at", "finished_at")


def snapshot_metadata(
    snapshot: Mapping[str, Any],
    *,
    reason: str | None = None,
    notices: Sequence[str] = (),
    stored: Mapping[date, int] | None = None,
) -> dict[str, Any]:
    """The metadata of a snapshot's materialization.

    Args:
        snapshot: A snapshot as JSON.
        reason: Why it has this kind, or why nothing was read.
        notices: What else the user should know.
        stored: Bytes stored on each of the days before, for the picture; None draws none.
    """
    said: dict[str, Any] = {
        DATASET: snapshot["dataset"],
        key("tier"): snapshot["tier"],
        **_words(snapshot, ("day", "kind", "timing", "status")),
        key("late"): snapshot["timing"] == "late",
    }
    if reason:
        said[key("reason")] = reason
    if notices:
        said[key("notices")] = dg.MetadataValue.md("\n".join(f"- {line}" for line in notices))
    if stored is not None:
        day = date.fromisoformat(snapshot["day"])
        said[key("stored_last_30_days")] = history_picture(stored, day)
    said |= {key(name): snapshot[name] for name in _NUMBERS if snapshot.get(name) is not None}
    said |= _changes(snapshot.get("changes") or {})
    if snapshot.get("problem_count"):
        said[key("problem_count")] = int(snapshot["problem_count"])
        said[key("problems")] = _problems_table(snapshot.get("problems") or ())
    said[key("snapshot")] = snapshot["id"]
    said |= _words(snapshot, ("digest", "chain", "parent", "base"))
    cut = snapshot.get("cut")
    if cut:
        said |= {
            key("set"): cut["set"],
            key("cut"): cut["id"],
            key("cut_proof"): cut["proof"],
            key("cut_members"): ", ".join(cut["members"]),
        }
    origin = snapshot.get("origin")
    if origin:
        said[key("copied_from")] = f"{origin.get('tier')}: {origin.get('snapshot')}"
        said[key("synthetic")] = bool(snapshot.get("synthetic"))
    said |= {
        key(name): dg.MetadataValue.timestamp(datetime.fromisoformat(snapshot[name]))
        for name in _TIMES
        if snapshot.get(name)
    }
    said[key("restore")] = dg.MetadataValue.md(f"`{_restore_line(snapshot)}`")
    return said


def _words(snapshot: Mapping[str, Any], names: Sequence[str]) -> dict[str, str]:
    return {key(name): snapshot[name] for name in names if snapshot.get(name)}


def _changes(changes: Mapping[str, Any]) -> dict[str, Any]:
    said: dict[str, Any] = {
        key(f"entries_{name}"): int(changes[name])
        for name in ("added", "changed", "deleted")
        if name in changes
    }
    if changes.get("largest"):
        said[key("largest_changes")] = _changes_table(changes["largest"])
    return said


def snapshot_tags(snapshot: Mapping[str, Any], *, upstream: str | None = None) -> dict[str, str]:
    """The tags of a snapshot's materialization: what sensors and ``sync`` compare.

    Args:
        snapshot: A snapshot as JSON.
        upstream: Which materialization of the dataset's own asset it was taken after.
    """
    tags = {
        FINGERPRINT_TAG: short(snapshot["fingerprint"]),
        SNAPSHOT_TAG: short(snapshot["id"]),
        STATUS_TAG: snapshot["status"],
    }
    if upstream:
        tags[UPSTREAM_TAG] = upstream
    return tags


def short(value: str) -> str:
    """The first characters of a hexadecimal value, as many as tags carry."""
    return value[:TAG_VALUE_LENGTH]


def mentioned(metadata: Mapping[str, dg.MetadataValue], name: str) -> Any:
    """The plain value of one of our metadata entries; None where it is not there."""
    entry = metadata.get(key(name))
    return None if entry is None else entry.value


def completeness(
    snapshot: Mapping[str, Any], expected: Mapping[str, Any] | None = None
) -> tuple[bool, str, dict[str, Any]]:
    """Whether everything that the source listed was read, and is as the plan expects.

    Args:
        snapshot: A snapshot as JSON.
        expected: What the plan's expectations of its manifest came to, as JSON.

    Returns:
        Passed or not, one sentence, and the numbers: I = good entries / all entries.
    """
    good, entries = int(snapshot["good_entries"]), int(snapshot["entries"])
    passed = snapshot["status"] == "complete"
    said: dict[str, Any] = {
        key("good_entries"): good,
        key("entries"): entries,
        key("integrity"): float(snapshot["integrity"]),
        key("bytes"): int(snapshot["bytes"]),
        key("snapshot"): snapshot["id"],
    }
    tests = expected["tests"] if expected else ()
    for one in tests:
        said |= {key(f"expected_{name}"): value for name, value in one.get("said", {}).items()}
    unmet = [one for one in tests if not one["passed"]]
    if tests:
        said[key("unmet_expectations")] = len(unmet)
    if passed and unmet:
        words = "; ".join(f"{one['name']}: {one['reason']}" for one in unmet)
        return False, f"all {entries} entries are stored, and are not as expected: {words}", said
    if passed:
        sentence = f"all {entries} entries that the source listed are stored"
        if snapshot["timing"] == "late":
            said[key("late")] = True
            sentence += f"; late: the state is not that of {snapshot['day']}"
        return True, sentence, said
    said[key("problem_count")] = int(snapshot["problem_count"])
    if snapshot.get("problems"):
        said[key("problems")] = _problems_table(snapshot["problems"])
    missing = entries - good
    return False, f"{missing} of {entries} entries could not be read whole", said


def complete_evaluation(
    asset_key: dg.AssetKey, snapshot: Mapping[str, Any]
) -> dg.AssetCheckEvaluation:
    """The ``complete`` check of a snapshot that no run of Dagster's made, for its day."""
    passed, sentence, said = completeness(snapshot)
    return dg.AssetCheckEvaluation(
        asset_key=asset_key,
        check_name="complete",
        passed=passed,
        metadata=said,
        description=sentence,
        blocking=True,
        partition=snapshot["day"],
    )


def stored_by_day(materializations: Sequence[dg.AssetMaterialization]) -> dict[date, int]:
    """Bytes stored per day, from a tier's materializations; each snapshot counts once."""
    seen: set[str] = set()
    stored: dict[date, int] = {}
    for materialization in materializations:
        snapshot = mentioned(materialization.metadata, "snapshot")
        amount = mentioned(materialization.metadata, "stored_bytes")
        day = mentioned(materialization.metadata, "day")
        if snapshot is None or amount is None or day is None or snapshot in seen:
            continue
        seen.add(snapshot)
        day = date.fromisoformat(day)
        stored[day] = stored.get(day, 0) + int(amount)
    return stored


_BAR_WIDTH, _BAR_GAP, _BAR_HEIGHT = 7, 2, 44


def history_picture(stored: Mapping[date, int], last: date) -> dg.MarkdownMetadataValue:
    """Bars of the bytes stored on each of the last days, the newest at the right.

    The UI strips raw SVG from Markdown; as the address of an image it is shown.
    """
    days = [last - timedelta(days=back) for back in range(HISTORY_DAYS - 1, -1, -1)]
    most = max((stored.get(day, 0) for day in days), default=0)
    step = _BAR_WIDTH + _BAR_GAP
    width, height = HISTORY_DAYS * step, _BAR_HEIGHT + 2
    bars: list[str] = []
    for number, day in enumerate(days):
        amount = stored.get(day)
        if amount is None:
            size, colour = 2, "#d5d7dc"
        else:
            size = max(2, round(_BAR_HEIGHT * amount / most)) if most else 2
            colour = "#4f43dd" if day == last else "#9a93ee"
        bars.append(
            f'<rect x="{number * step}" y="{height - size}" width="{_BAR_WIDTH}"'
            f' height="{size}" rx="1" fill="{colour}"/>'
        )
    drawing = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}"'
        f' viewBox="0 0 {width} {height}">{"".join(bars)}</svg>'
    )
    encoded = base64.b64encode(drawing.encode()).decode()
    label = f"stored per day until {last.isoformat()}, at most {human_bytes(most)}"
    return dg.MetadataValue.md(f"![{label}](data:image/svg+xml;base64,{encoded})\n\n{label}")


def _changes_table(largest: Sequence[Mapping[str, Any]]) -> dg.TableMetadataValue:
    columns = [
        dg.TableColumn("path", "string"),
        dg.TableColumn("change", "string"),
        dg.TableColumn("bytes", "int"),
    ]
    records = [
        dg.TableRecord(
            {
                "path": str(row.get("path")),
                "change": str(row.get("change")),
                "bytes": int(row.get("bytes") or 0),
            }
        )
        for row in largest
    ]
    return dg.MetadataValue.table(records, dg.TableSchema(columns))


def _problems_table(problems: Sequence[Mapping[str, Any]]) -> dg.TableMetadataValue:
    columns = [dg.TableColumn("path", "string"), dg.TableColumn("reason", "string")]
    records = [
        dg.TableRecord({"path": str(row.get("path")), "reason": str(row.get("reason"))})
        for row in problems
    ]
    return dg.MetadataValue.table(records, dg.TableSchema(columns))


def _restore_line(snapshot: Mapping[str, Any]) -> str:
    return (
        f"backup-pipeline restore {snapshot['dataset']} --tier {snapshot['tier']}"
        f" --snapshot {snapshot['id'][:12]} --to DIR"
    )

"""Where the files of an Iceberg table stand in a snapshot: paths from the URIs of its metadata."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

__all__ = ["METADATA", "metadata_path", "relative_path", "snapshot_of"]

METADATA = "metadata"
_OUTSIDE = "outside"
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/*")


def relative_path(location: str, uri: str) -> str:
    """The path of a file below the restored table's root.

    What lies below the table's location keeps its place; what lies elsewhere (another data path,
    files that were added where they stood) goes below ``outside/``, by its scheme and path.

    Args:
        location: The table's location, as its metadata has it.
        uri: The file's, as the metadata has it. Iceberg takes URIs literally: ``%2F`` stays.
    """
    whole = _bare(uri)
    root = _bare(location).rstrip("/") + "/"
    if whole.startswith(root):
        return _safe(whole[len(root) :])
    match = _SCHEME.match(uri)
    scheme = match[0].partition(":")[0].lower() if match else "file"
    return f"{_OUTSIDE}/{scheme}/{_safe(whole)}"


def metadata_path(uri: str) -> str:
    """The path of the table's own metadata file, wherever it was."""
    return f"{METADATA}/{uri.rstrip('/').rpartition('/')[2]}"


def snapshot_of(metadata: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The current snapshot of a table's metadata; None where the table is empty."""
    current = metadata.get("current-snapshot-id")
    found = (one for one in metadata.get("snapshots", ()) if one["snapshot-id"] == current)
    return next(found, None)


def _bare(uri: str) -> str:
    """Without the scheme: ``file:///a``, ``file:/a`` and ``/a`` are one place, s3 and s3a too."""
    return _SCHEME.sub("", uri, count=1).lstrip("/")


def _safe(path: str) -> str:
    """A path that stays below its root and has no empty parts."""
    parts = [part for part in path.split("/") if part]
    return "/".join(re.sub(r"^\.{1,2}$", lambda match: "%2E" * len(match[0]), one) for one in parts)

"""The time below which no program gets that does a row's work with the parts that we use.

A floor counts what every such program does to the bytes at hand, at this machine's own rates, and
nothing else: no Python but its start, no chunking, no manifest, no index, no waiting.
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["floors"]


def floors(
    data: Mapping[str, float],
    stored: Mapping[str, float],
    limits: Mapping[str, float],
    *,
    cores: int,
    local: bool,
) -> dict[str, float]:
    """Seconds by row, by the formulas in docs/performance.md.

    Args:
        data: What the data set holds and what changes in it: ``files``, ``bytes``,
            ``changed_files``, ``changed_bytes``, ``changed_new_bytes``.
        stored: The repository's bytes after ``first`` and, where it was run, ``changed``.
        limits: As ``measure_limits`` returns them.
        cores: How many share the work.
        local: The store is a folder: what is written also passes the disk.
    """

    def each(size_bytes: float, what: str) -> float:
        return size_bytes / 1e6 / limits[f"{what}, MB/s"]

    start = limits["start of a bare Python, s"] + limits["argon2id, s"]
    size, files = data["bytes"], data["files"]
    kept = stored["first"]
    walk = files / limits["scandir and stat, files/s"]
    opening = 1 / limits["open and close, files/s"]
    shortened = size * limits["share of the data that zstd shortens, %"] / 100
    packing = each(shortened, "zstd of it") if shortened else 0.0
    unpacking = each(shortened, "zstd of it, back") if shortened else 0.0

    def looked_at(read_bytes: float, opened: float) -> float:
        return (
            opened * opening
            + each(read_bytes, "read from the page cache")
            + each(read_bytes, "BLAKE3")
        )

    def sealed(new_bytes: float) -> float:
        return each(new_bytes, "AES-256-GCM") + each(new_bytes, "SHA-256")

    def durable(new_bytes: float) -> float:
        return each(new_bytes, "write and fsync") if local else 0.0

    def backup(work: float, new_bytes: float) -> float:
        return start + max(walk, (walk + work + sealed(new_bytes)) / cores, durable(new_bytes))

    found = {
        "first": backup(looked_at(size, files) + packing, kept),
        "no-change": start + walk,
        "snapshots": start,
        "restore-one": start,
    }
    if "changed" in stored:
        added = stored["changed"] - stored.get("no-change", kept)
        work = looked_at(data["changed_bytes"], data["changed_files"])
        found["changed"] = backup(work, added)
    held = stored.get("changed", kept)
    opened = each(held, "read from the page cache") + each(held, "AES-256-GCM")
    checked = unpacking + each(size, "BLAKE3")
    found["verify"] = start + (opened + each(held, "SHA-256") + checked) / cores
    opened = each(kept, "read from the page cache") + each(kept, "AES-256-GCM")
    placed = each(size, "write to the page cache") + files / limits["create and close, files/s"]
    found["restore"] = start + (opened + checked + placed) / cores
    return found

"""The last good snapshot before a change: the newest in which some files were still otherwise."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from backup_pipeline.engine.errors import NotFound
from backup_pipeline.runner.days import is_good, rank

if TYPE_CHECKING:
    from backup_pipeline.engine.format.record import Snapshot
    from backup_pipeline.engine.repository import Repository

__all__ = ["before_change"]

_MAGIC = "*?["
_COLUMNS = ("path", "type", "link_target", "chunks")
_AFTER_ALL = b"\xff" * 4096  # longer than any path is

Found = tuple["Repository", "Snapshot"]


def before_change(
    dataset: str, repositories: Sequence[Repository], globs: Sequence[str], at: datetime | None
) -> tuple[Found, str]:
    """Find the newest good snapshot from before the newest change of some files.

    A change is another content, another type or target of a link, or that one came or went; a new
    time or mode alone is none.

    Args:
        dataset: The dataset's key, for messages.
        repositories: Where to look.
        globs: Which files: globs over whole paths.
        at: Look only at what had been read by then.

    Returns:
        Where it is and which, and a sentence about the change.

    Raises:
        NotFound: No snapshot has such files, or they are the same in all.
    """
    moments = _by_moment(repositories, at)
    if not moments:
        raise NotFound(
            f"{dataset} has no good snapshot to look at", "`backup-pipeline snapshots` lists all"
        )
    words = ", ".join(globs)
    newest = after = moments[0]
    wanted, said = _digest(*newest, globs), {newest[1].digest}
    for found in moments[1:]:
        repository, snapshot = found
        if snapshot.digest not in said:
            said.add(snapshot.digest)
            if _digest(repository, snapshot, globs) != wanted:
                sentence = (
                    f"{words} changed between {_named(snapshot)} and {_named(after[1])}:"
                    f" the former is taken"
                )
                return found, sentence
        after = found
    if wanted == _digest_of([]):
        raise NotFound(
            f"no snapshot of {dataset} has anything that matches {words}",
            "`backup-pipeline ls` lists paths; globs match whole paths, ** crosses folders",
        )
    raise NotFound(
        f"{words} is the same in all {len(moments)} good snapshots of {dataset}, since"
        f" {_named(moments[-1][1])}",
        "if it changed after the newest of them, leave the option out: the newest is from before",
    )


def _by_moment(repositories: Sequence[Repository], at: datetime | None) -> list[Found]:
    """The good snapshots, newest first; of those of one moment, which are copies, one."""
    best: dict[datetime, Found] = {}
    for repository in repositories:
        for snapshot in repository.snapshots():
            known = best.get(snapshot.captured_at)
            if (
                is_good(snapshot)
                and (at is None or snapshot.captured_at <= at)
                and (known is None or rank(known[1]) < rank(snapshot))
            ):
                best[snapshot.captured_at] = (repository, snapshot)
    return [best[moment] for moment in sorted(best, reverse=True)]


def _named(snapshot: Snapshot) -> str:
    read = snapshot.captured_at.isoformat(timespec="minutes").replace("+00:00", "Z")
    return f"{snapshot.id[:12]} of {snapshot.day} (read {read})"


def _digest(repository: Repository, snapshot: Snapshot, globs: Sequence[str]) -> bytes:
    """Of what a snapshot says of the content of some files."""
    from backup_pipeline.engine.manifest import matching

    first, last = _range(globs)
    entries = repository.segments.entries(snapshot)
    rows: list[Any] = []
    for table in entries.batches(_COLUMNS, first=first, last=last):
        for row in table.filter(matching(table.column("path"), globs)).to_pylist():
            ids = [(chunk["id"], chunk["size"]) for chunk in row["chunks"] or ()]
            rows.append((row["path"], row["type"], row["link_target"], ids))
    return _digest_of(rows)


def _digest_of(rows: Sequence[Any]) -> bytes:
    return hashlib.sha256(repr(rows).encode()).digest()


def _range(globs: Sequence[str]) -> tuple[bytes, bytes | None]:
    """Between which paths all lies that some globs match."""
    fixed: list[bytes] = []
    for glob in globs:
        text = glob.strip("/")
        end = min((text.find(sign) for sign in _MAGIC if sign in text), default=len(text))
        fixed.append(text[:end].encode("utf-8", "surrogateescape"))
    return min(fixed), max(fixed) + _AFTER_ALL

"""Owner, extended attributes, mode and times of what was restored, set in this order.

Owners first, for a change of owner takes capabilities and set-id bits away; modes after
attributes, for a file that may not be written takes no attributes either; times last.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from typing import Any, NamedTuple

from backup_pipeline.engine.operations.rows import Row

__all__ = ["Found", "found_of", "mode_kept", "set_link_metadata", "set_metadata"]


class Found(NamedTuple):
    """Owner and mode of something."""

    uid: int
    gid: int
    mode: int


def found_of(fd: int) -> Found:
    """Owner and mode of what is open; raises ``OSError``."""
    found = os.fstat(fd)  # looking takes a tenth of the time of setting what is set already
    return Found(found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode))


def mode_kept(
    mode: int | None, uid: int | None, gid: int | None, owner: int, group: int
) -> int | None:
    """The mode of a manifest's row, as far as it may be given to what belongs to these two.

    As with ``cp -p``: bits that let others act as the owner or group are for those that were
    recorded, and for nobody else.
    """
    if mode is None or uid is None or (uid, gid) == (owner, group):
        return mode
    return mode & ~(stat.S_ISUID | stat.S_ISGID)


def set_metadata(fd: int, row: Row, found: Found, *, owners: bool, fresh: bool) -> list[str]:
    """Give a file or folder the metadata of a manifest's row.

    Args:
        fd: It, open.
        row: The row.
        found: The owner and mode that it has.
        owners: Whether to set owners.
        fresh: Whether it was made just now, and has no attributes yet.

    Returns:
        What could not be set, one sentence each.
    """
    notices: list[str] = []
    strange = owners and row.uid is not None and (row.uid, row.gid) != found[:2]
    if strange:
        _try(notices, "owner", os.chown, fd, row.uid, row.gid)
    given = strange and not notices
    if row.xattrs or not fresh:
        _set_xattrs(notices, fd, row.xattrs or [])
    mode = row.mode if given else mode_kept(row.mode, row.uid, row.gid, found.uid, found.gid)
    if mode != row.mode:
        notices.append("set-id bits are left out, for it belongs to another here")
    if mode is not None and (strange or row.xattrs or mode != found.mode):
        _try(notices, "mode", os.chmod, fd, mode)
    if row.mtime_ns is not None:
        times = (row.mtime_ns, row.mtime_ns)
        _try(notices, "time of modification", os.utime, fd, ns=times)
    return notices


def set_link_metadata(name: bytes, folder: int, row: Row, *, owners: bool) -> list[str]:
    """The same for a symbolic link, by its name in a folder: it cannot be opened."""
    notices: list[str] = []
    itself: dict[str, Any] = {"dir_fd": folder, "follow_symlinks": False}
    if owners and row.uid is not None:
        _try(notices, "owner", os.chown, name, row.uid, row.gid, **itself)
    # There is no setxattr below a descriptor; the folder's own path in /proc is one.
    place = b"/proc/self/fd/%d/%s" % (folder, name)
    for pair in row.xattrs or ():
        what = f"extended attribute {os.fsdecode(pair['name'])}"
        _try(notices, what, os.setxattr, place, pair["name"], pair["value"], follow_symlinks=False)
    if row.mtime_ns is not None:
        times = (row.mtime_ns, row.mtime_ns)
        _try(notices, "time of modification", os.utime, name, ns=times, **itself)
    return notices


def _set_xattrs(notices: list[str], fd: int, wanted: list[dict[str, bytes]]) -> None:
    """Set those that are wanted and differ; remove users' that are not wanted."""
    try:
        present = {os.fsencode(name): os.getxattr(fd, name) for name in os.listxattr(fd)}
    except OSError:  # a file system without them: setting one will say so
        present = {}
    for pair in wanted:
        name, value = pair["name"], pair["value"]
        if present.pop(name, None) != value:
            _try(notices, f"extended attribute {os.fsdecode(name)}", os.setxattr, fd, name, value)
    for name in present:
        if name.startswith(b"user."):
            _try(notices, f"extended attribute {os.fsdecode(name)}", os.removexattr, fd, name)


def _try(
    notices: list[str], what: str, set_it: Callable[..., None], *place: Any, **options: Any
) -> None:
    try:
        set_it(*place, **options)
    except OSError as error:
        notices.append(f"{what} not set: {error.strerror}")

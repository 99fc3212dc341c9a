"""What differs between a folder and the entries of a snapshot; nothing is changed to know it.

Both are read in order of path, side by side. Size and time of modification speak for a file's
bytes, unless they are to be read; a file of another time is read, for perhaps that is all.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from backup_pipeline.engine.errors import BackupError
from backup_pipeline.engine.folders import Folders, split
from backup_pipeline.engine.format.manifest import count_through
from backup_pipeline.engine.manifest import matching, printable
from backup_pipeline.engine.operations.metadata import mode_kept
from backup_pipeline.engine.operations.readback import has_content
from backup_pipeline.engine.operations.restore_plan import MADE, WITH_BYTES
from backup_pipeline.engine.operations.rows import Row, rows_of
from backup_pipeline.engine.operations.selection import Batches
from backup_pipeline.engine.operations.target import Target
from backup_pipeline.sources.base import GOOD, scan_schema
from backup_pipeline.sources.file_scan import Folder, Rows, Run, list_tree

__all__ = ["Delta", "compare"]

SCAN_ROWS = 8192
_GONE = frozenset({"unreadable", "vanished"})
_THERE = ("type", "size", "mtime_ns", "inode", "device", "links", "mode", "uid", "gid")
_There = dict[str, Any]
_Paths = list[bytes]
_Kept = dict[bytes, tuple[int, int]]
_Lost = list[tuple[bytes, str]]


@dataclass(slots=True)
class Delta:
    """What differs.

    Attributes:
        entries: Entries of the snapshot.
        files: Files among them.
        bytes: Their logical bytes.
        same_files: Files that are right as they stand.
        wanted: Files and links to put in place.
        wanted_files: Files among them.
        wanted_bytes: Their logical bytes.
        folders: Folders to make.
        retouched: Files and folders that are right but for owner, mode, time or attributes.
        replaced: What stands where another thing belongs, by path: files in it, and their bytes.
        extras: What stands there and is not in the snapshot; what lies below one is left out.
        extra_files: Files among them, and below them.
        extra_bytes: Their bytes.
        stores: Extras that may be what a store begins with.
        lost: Entries whose content the snapshot does not have, with the reason.
        notices: What else is worth knowing.
    """

    entries: int = 0
    files: int = 0
    bytes: int = 0
    same_files: int = 0
    wanted: _Paths = field(default_factory=_Paths)
    wanted_files: int = 0
    wanted_bytes: int = 0
    folders: _Paths = field(default_factory=_Paths)
    retouched: _Paths = field(default_factory=_Paths)
    replaced: _Kept = field(default_factory=_Kept)
    extras: _Paths = field(default_factory=_Paths)
    extra_files: int = 0
    extra_bytes: int = 0
    stores: _Paths = field(default_factory=_Paths)
    lost: _Lost = field(default_factory=_Lost)
    notices: list[str] = field(default_factory=list[str])

    def __bool__(self) -> bool:
        """Whether anything has to be done, extras aside."""
        return bool(self.wanted or self.folders or self.retouched)


def compare(
    place: Target,
    batches: Batches,
    identity_key: bytes,
    *,
    checksum: bool = False,
    include: Sequence[str] = (),
    alone: bytes | None = None,
) -> Delta:
    """Hold a folder against the rows of a snapshot.

    Args:
        place: The folder.
        batches: The rows.
        identity_key: Names chunks.
        checksum: Whether every file is read, and attributes compared.
        include: Only what these globs match is extra where the snapshot does not have it.
        alone: The dataset is this one file of the folder; the rest of it is no concern.

    Raises:
        BackupError: A folder there cannot be listed.
    """
    comparison = _Comparison(place, identity_key, checksum, include)
    return comparison.run(batches, _scan(place, alone))


def _scan(place: Target, alone: bytes | None) -> Iterator[pa.Table]:
    if not place.existed:
        return
    root = place.folder(b"")
    if alone is not None:
        try:
            found = os.stat(alone, dir_fd=root, follow_symlinks=False)
        except FileNotFoundError:
            return
        rows = Rows()
        rows.add(Run([alone], [found]))
        yield pa.Table.from_batches([rows.batch()])
        return
    folders = Folders(root)
    try:
        for batch in list_tree(Folder(folders, b"", None), SCAN_ROWS):
            rows = pa.Table.from_batches([batch])
            closed = rows.filter(pc.equal(rows.column("state"), "unreadable"))
            if len(closed):
                raise BackupError(
                    f"{place.shown(closed.column('path')[0].as_py())} cannot be read, so it is not"
                    " known what lies there; nothing was changed",
                    "run this as a user who may read it, or move it aside",
                )
            yield rows
    finally:
        folders.close()


class _Comparison:
    """One walk over both."""

    def __init__(
        self, place: Target, identity_key: bytes, checksum: bool, include: Sequence[str]
    ) -> None:
        self.place = place
        self.identity_key = identity_key
        self.checksum = checksum
        self.include = include
        self.owners = os.geteuid() == 0
        self.delta = Delta()
        self._linked: list[tuple[Row, _There | None, bool]] = []
        self._gone: set[bytes] = set()  # folders that go as a whole
        self._rest: pa.Table | None = None

    def run(self, batches: Batches, scan: Iterator[pa.Table]) -> Delta:
        for table in batches():
            if not len(table):
                continue
            there = self._take_through(scan, table.column("path")[-1].as_py())
            self._batch(table, there)
        self._extras(self._rest)
        for there in scan:
            self._extras(there)
        self._judge_linked()
        self.delta.wanted.sort()
        return self.delta

    def _take_through(self, scan: Iterator[pa.Table], path: bytes) -> pa.Table:
        """What stands up to a path, from where the last such ended."""
        taken: list[pa.Table] = []
        while True:
            if self._rest is None or not len(self._rest):
                self._rest = next(scan, None)
                if self._rest is None:
                    break
            count = count_through(self._rest, path)
            taken.append(self._rest.slice(0, count))
            self._rest = self._rest.slice(count)
            if len(self._rest):
                break
        return pa.concat_tables(taken) if taken else scan_schema().empty_table()

    def _batch(self, table: pa.Table, there: pa.Table) -> None:
        delta, paths = self.delta, table.column("path").combine_chunks()
        kinds = table.column("type")
        with_bytes = pc.is_in(kinds, value_set=pa.array(sorted(WITH_BYTES)))
        sizes = table.filter(with_bytes).column("size")
        delta.entries += len(table)
        delta.files += len(sizes)
        delta.bytes += pc.sum(sizes).as_py() or 0
        where = pc.index_in(paths, value_set=there.column("path").combine_chunks())
        beside = there.take(where)
        same = self._plainly_same(table, beside)
        delta.same_files += int((same & with_bytes.to_numpy()).sum())
        rest = table.filter(pa.array(~same))
        lists: Any = rest.column("chunks").combine_chunks()
        found = beside.filter(pa.array(~same)).select(_THERE).to_pylist()
        for number, (row, one) in enumerate(zip(rows_of(rest), found, strict=True)):
            self._judge(row, one if one["type"] is not None else None, lists, number)
        # Where a fifo or socket was, which is not made again, another thing is extra.
        made = pc.is_in(kinds, value_set=pa.array(sorted(MADE)))
        meant = pc.fill_null(pc.or_kleene(made, pc.equal(kinds, beside.column("type"))), False)
        met = np.zeros(len(there), bool)
        met[where.filter(meant.combine_chunks()).drop_null().to_numpy(zero_copy_only=False)] = True
        self._extras(there.filter(pa.array(~met)))

    def _plainly_same(self, table: pa.Table, beside: pa.Table) -> Any:
        """Which rows are so by all that a scan tells; the others are looked at one by one."""
        kinds = pc.is_in(table.column("type"), value_set=pa.array(["file", "directory"]))
        masks = [kinds, pc.equal(table.column("state"), GOOD)]
        masks += [
            pc.equal(table.column(name), beside.column(name))
            for name in (
                "type",
                "size",
                "mtime_ns",
                "mode",
                *(("uid", "gid") if self.owners else ()),
            )
        ]
        folder = pc.equal(table.column("type"), "directory")
        one_name = pc.and_(pc.equal(table.column("links"), 1), pc.equal(beside.column("links"), 1))
        masks.append(pc.or_kleene(folder, one_name))
        same = np.full(len(table), not self.checksum)
        for mask in masks:
            same &= pc.fill_null(mask, False).to_numpy(zero_copy_only=False)
        return same

    def _judge(self, row: Row, there: _There | None, lists: Any, number: int) -> None:
        delta = self.delta
        if row.state in _GONE:
            delta.lost.append((row.path, f"{row.state} when it was backed up: {row.reason}"))
        elif row.state == "skipped" or row.type not in MADE:
            delta.notices.append(f"{printable(row.path)}: a {row.type} is not restored")
        elif row.type == "directory":
            self._judge_folder(row, there)
        elif row.type == "symlink":
            if there is None or not self._is_link(row, there):
                self._want(row, there)
        else:
            if row.state == "torn":
                delta.notices.append(f"{printable(row.path)}: it changed while it was backed up")
            self._judge_file(row, there, lists[number].as_py() or ())

    def _judge_folder(self, row: Row, there: _There | None) -> None:
        if there is not None and there["type"] == "directory":
            if not self._same_metadata(row, there):
                self.delta.retouched.append(row.path)
            return
        self.delta.folders.append(row.path)
        self._replace(row.path, there)

    def _judge_file(self, row: Row, there: _There | None, chunks: Sequence[Any]) -> None:
        delta = self.delta
        right = (
            there is not None
            and there["type"] == "file"
            and there["size"] == row.size
            and (
                (not self.checksum and there["mtime_ns"] == row.mtime_ns)
                or has_content(self.place, row, chunks, self.identity_key)
            )
        )
        if (row.links or 1) > 1 or (right and there is not None and there["links"] > 1):
            same = right and there is not None and self._same_metadata(row, there)
            self._linked.append((row, there, same))
        elif there is None or not right:
            self._want(row, there)
        else:
            delta.same_files += 1
            if not self._same_metadata(row, there):
                delta.retouched.append(row.path)

    def _judge_linked(self) -> None:
        """Files of several names are right where the same names are of the same file."""
        groups: defaultdict[Any, list[tuple[Row, _There | None, bool]]] = defaultdict(list)
        names: defaultdict[Any, set[Any]] = defaultdict(set)
        for one in self._linked:
            row, there, _ = one
            many = (row.links or 1) > 1
            key = (row.device, row.inode, row.size, row.mtime_ns) if many else row.path
            groups[key].append(one)
            names[_file(there)].add(key)
        for members in groups.values():
            files = {_file(there) for _, there, _ in members}
            one_file = len(files) == 1 and len(names[files.pop()]) == 1
            if one_file and all(same for _, _, same in members):
                self.delta.same_files += len(members)
                continue
            for row, there, _ in members:
                self._want(row, there)

    def _want(self, row: Row, there: _There | None) -> None:
        delta = self.delta
        delta.wanted.append(row.path)
        if row.type in WITH_BYTES:
            delta.wanted_files += 1
            delta.wanted_bytes += row.size
        self._replace(row.path, there)

    def _replace(self, path: bytes, there: _There | None) -> None:
        if there is None:
            return
        is_file = there["type"] == "file"
        self.delta.replaced[path] = (int(is_file), there["size"] if is_file else 0)
        if there["type"] == "directory":
            self._gone.add(path)

    def _is_link(self, row: Row, there: _There) -> bool:
        if there["type"] != "symlink" or not self._same_metadata(row, there, mode=False):
            return False
        return self.place.read_link(row.path) == row.link_target

    def _same_metadata(self, row: Row, there: _There, *, mode: bool = True) -> bool:
        owner = there["uid"], there["gid"]
        if row.mtime_ns is not None and row.mtime_ns != there["mtime_ns"]:
            return False
        if self.owners and row.uid is not None and (row.uid, row.gid) != owner:
            return False
        kept = mode_kept(row.mode, row.uid, row.gid, *owner) if mode else None
        if kept is not None and kept != there["mode"]:
            return False
        return not (self.checksum and mode) or self._same_xattrs(row)

    def _same_xattrs(self, row: Row) -> bool:
        folder, name = split(row.path)
        path = b"/proc/self/fd/%d/%s" % (self.place.folder(folder), name)
        try:
            names = os.listxattr(path, follow_symlinks=False)
            found = {
                os.fsencode(one): os.getxattr(path, one, follow_symlinks=False) for one in names
            }
        except OSError:
            found = {}
        wanted = {pair["name"]: pair["value"] for pair in row.xattrs or ()}
        users = {one for one in found if one.startswith(b"user.")}
        return users <= set(wanted) and all(found.get(one) == wanted[one] for one in wanted)

    def _extras(self, there: pa.Table | None) -> None:
        if there is None or not len(there):
            return
        if self.include:
            there = there.filter(matching(there.column("path"), self.include))
        columns = (there.column(name).to_pylist() for name in ("path", "type", "size"))
        for path, kind, size in zip(*columns, strict=True):
            above, name = split(path)
            if name == b"store":
                self.delta.stores.append(path)
            inside = above in self._gone
            if inside and kind == "directory":
                self._gone.add(path)
            if kind == "file":
                self._count(path, size, inside)
            if not inside:
                self.delta.extras.append(path)
                if kind == "directory":
                    self._gone.add(path)

    def _count(self, path: bytes, size: int, inside: bool) -> None:
        """A file that is extra, or lies in a folder that is replaced."""
        at = path
        while inside and at not in self.delta.replaced:
            at = split(at)[0]
            if not at:
                break
        if inside and at:
            files, total = self.delta.replaced[at]
            self.delta.replaced[at] = (files + 1, total + size)
        else:
            self.delta.extra_files += 1
            self.delta.extra_bytes += size


def _file(there: _There | None) -> tuple[int, int] | None:
    return None if there is None else (there["device"], there["inode"])

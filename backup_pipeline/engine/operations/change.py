"""How much of a dataset changed from one snapshot to the next, and how: the gate's measure.

It is taken from the rows that a run reads anyway, so it costs nothing where nothing changed. What a
file's content looks like is told by how far its chunks were compressed and by a few of its bytes,
which are looked at on their way into a pack.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from backup_pipeline.engine.chunker import SOLID_LIMIT_BYTES
from backup_pipeline.engine.crypto import TAG_BYTES
from backup_pipeline.engine.looks import (
    BLANK,
    HEADS_OF_SUFFIX,
    RANDOM,
    TEXT_SUFFIXES,
    UNKNOWN,
    head_of,
    look_of,
)
from backup_pipeline.engine.manifest import printable
from backup_pipeline.engine.measure import MOST_EXAMPLES, Measure
from backup_pipeline.engine.operations.compare import same_lists

__all__ = ["ChangeMeter"]

COMPRESSIBLE_BELOW = 0.9
"""A file is compressible where its frames were stored in less than this share of their content."""
SHARED_COMPRESSIBLE_BELOW = 0.75
"""The same where others share its frames: some of them may be compressible and it is not."""
INCOMPRESSIBLE_FROM = 0.97
"""From this share on, content of which no bytes were looked at counts as random."""
BLANK_BELOW = 0.002
"""A chunk in a frame of its own that was stored in less holds one value all over."""
HOLLOW_FROM = 0.5
"""A file is blank where holes and blank chunks make up this share of it."""
SHRUNK_BELOW = 0.7
"""A file has shrunk where it kept less than this share of its bytes."""
LEAST_BYTES = 64
"""Content below this is too short to tell anything."""
_MIX = np.uint64(0x9E3779B97F4A7C15)  # spreads sizes over all bits


class ChangeMeter:
    """Takes in the rows of a run and what a snapshot before has of them.

    Args:
        pairing: Whether what is new is held against what is gone; in vain where nothing was before.
        sampled: Whether what nobody looked at is counted and passed over.
    """

    def __init__(self, *, pairing: bool = True, sampled: bool = False) -> None:
        self._measure = Measure()
        self._pairing = pairing
        self._sampled = sampled
        self._gone: list[_Files] = []
        self._added: list[_Files] = []

    def take(
        self, rows: pa.Table, older: pa.Table | None, looks: Any = None, same: Any = None
    ) -> None:
        """Take in rows that a run read, or that differ.

        Args:
            rows: Of a manifest.
            older: What the snapshot before has of them; other rows are passed over.
            looks: How each row's content looks, as ``looks_of`` says; None where nobody looked.
            same: Mask of the rows that are known to be as they were.
        """
        if looks is None:
            looks = np.zeros(len(rows), np.uint8)
        chosen = _with_content(rows) if same is None else _with_content(rows) & ~same
        if self._sampled:
            unseen = chosen & (looks == 0)
            self._measure.added += int(unseen.sum())
            self._measure.added_bytes += int(rows.column("size").to_numpy()[unseen].sum())
            chosen &= ~unseen
        if not chosen.any():
            return
        rows, looks = rows.filter(pa.array(chosen)), looks[chosen]
        files = _Files.of(rows, looks)
        names = _Names.of(files)
        self._measure.named += int(names.known.sum())
        self._measure.unlike += int((names.known & ~names.right).sum())
        self._measure.looked += int((files.look != UNKNOWN).sum())
        self._measure.random += int(((files.look == RANDOM) & ~names.right).sum())
        if older is None or not len(older):
            self._keep_added(files)
            return
        older = older.filter(pa.array(_with_content(older)))
        where = pc.index_in(
            rows.column("path").combine_chunks(), value_set=older.column("path").combine_chunks()
        )
        known = pc.is_valid(where).to_numpy(zero_copy_only=False)
        if not known.all():
            self._keep_added(files.take(~known))
        beside = older.take(where.drop_null())
        changed = known.copy()
        changed[known] = ~_same_content(rows.filter(pa.array(known)), beside)
        if changed.any():
            then = _Files.of(beside.filter(pa.array(changed[known])), None)
            self._note("changed", files, changed)
            self._compare(files.take(changed), then, names.take(changed))

    def gone(self, rows: pa.Table) -> None:
        """Take in rows of the snapshot before that are there no more."""
        rows = rows.filter(pa.array(_with_content(rows)))
        if len(rows):
            self._gone.append(_Files.of(rows, None))

    def finish(self, *, files_before: int, files: int, bytes_before: int, bytes: int) -> Measure:
        """Hold what is new against what is gone, and say it all."""
        measure = self._measure
        measure.files_before, measure.files = files_before, files
        measure.bytes_before, measure.bytes = bytes_before, bytes
        gone, added = _Files.together(self._gone), _Files.together(self._added)
        old, new = _pairs(gone, added)
        if len(old):
            then, now = gone.at(old), added.at(new)
            self._note("renamed", now)
            suffixes = Counter(_suffix(path) for path in now.paths())
            kept = {_suffix(path) for path in then.paths()}
            named = [(n, one) for one, n in suffixes.items() if one and one not in kept]
            measure.suffix = printable(max(named)[1]) if named else ""
            other = then.key != now.key
            names = _Names.of(now, then).take(other)
            measure.named += int(names.known.sum())
            measure.unlike += int((names.known & ~names.right).sum())
            self._compare(now.take(other), then.take(other), names)
        left, fresh = _but(len(gone), old), _but(len(added), new)
        self._note("deleted", gone, left)
        measure.deleted_bytes = int(gone.size[left].sum())
        measure.added += int(fresh.sum())
        measure.added_bytes += int(added.size[fresh].sum())
        return measure

    def _note(self, what: str, files: _Files, mask: Any = None) -> None:
        """Count files, and keep the first few paths."""
        count = len(files) if mask is None else int(mask.sum())
        if count:
            chosen = files.path if mask is None else files.path.filter(pa.array(mask))
            paths = [printable(path) for path in chosen.slice(0, MOST_EXAMPLES).to_pylist()]
            self._measure.note(what, count, paths)

    def _keep_added(self, files: _Files) -> None:
        if self._pairing:
            self._added.append(files)
        else:
            self._measure.added += len(files)
            self._measure.added_bytes += int(files.size.sum())

    def _compare(self, now: _Files, then: _Files, names: _Names) -> None:
        """Judge the content of files that is other than it was, each beside its former self."""
        measure, some = self._measure, then.size >= LEAST_BYTES
        shrunk = some & (now.size < SHRUNK_BELOW * then.size)
        self._note("shrunk", now, shrunk)
        if shrunk.any():
            lost = (then.size - now.size)[shrunk]
            measure.lost_bytes += int(lost.sum())
            measure.largest_lost_bytes = max(measure.largest_lost_bytes, int(lost.max()))
        blank = some & (now.look == BLANK) & (then.look != BLANK)
        self._note("blank", now, blank)
        measure.blank_bytes += int(then.size[blank].sum())
        if blank.any():
            most = int(then.size[blank].max())
            measure.largest_blank_bytes = max(measure.largest_blank_bytes, most)
        random = now.look == RANDOM
        turned = some & random & ~names.right & (then.share < then.own)
        self._note("turned", now, turned)
        measure.turned_bytes += int(then.size[turned].sum())
        self._note("opaque", now, random & ~names.right & (now.head == 0))
        wrong = some & names.known & ~names.right & (now.size >= LEAST_BYTES)
        self._note("misnamed", now, wrong)
        measure.misnamed_bytes += int(then.size[wrong].sum())


@dataclass(frozen=True, slots=True)
class _Files:
    """Columns of some files.

    Attributes:
        path: Their paths.
        size: Logical bytes.
        key: The same for files of the same content, and hardly ever for others.
        share: Share of their content's bytes that was stored, by their frames.
        own: Below which share they are compressible, for sure.
        look: Of content.
        head: Of content; 0 where it is not known or none.
        headed: Whether the content's first bytes were looked at.
    """

    path: pa.Array
    size: Any
    key: Any
    share: Any
    own: Any
    look: Any
    head: Any
    headed: Any

    @staticmethod
    def of(rows: pa.Table, looks: Any) -> _Files:
        """Of manifest rows that hold content."""
        lists: Any = rows.column("chunks").combine_chunks()
        counts = lists.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
        flat = lists.flatten()
        size, stored, raw = (
            flat.field(name).to_numpy(zero_copy_only=False).astype(np.float64)
            for name in ("size", "stored", "raw")
        )
        share = (stored - TAG_BYTES) / np.maximum(raw, 1)
        content = _sum(size, counts)
        blank = _sum(np.where((share < BLANK_BELOW) & (size == raw), size, 0), counts)
        total = rows.column("size").to_numpy()
        shares = np.where(content > 0, _sum(size * share, counts) / np.maximum(content, 1), 0)
        hollow = blank + np.maximum(total - content, 0) >= HOLLOW_FROM * total
        look = np.where(shares >= INCOMPRESSIBLE_FROM, RANDOM, UNKNOWN)
        look[(total > 0) & hollow] = BLANK
        looked = np.zeros(len(rows), np.uint8) if looks is None else looks
        small = (counts == 1) & (total < SOLID_LIMIT_BYTES) & (look_of(looked) != UNKNOWN)
        look = np.where(small, look_of(looked), look)
        heads = np.where(content == total, head_of(looked), 0)  # a hole may be what it begins with
        headed = (looked != 0) & (content == total)
        path = rows.column("path").combine_chunks()
        alone = _sum(np.where(size == raw, size, 0), counts) >= HOLLOW_FROM * content
        own = np.where(alone, COMPRESSIBLE_BELOW, SHARED_COMPRESSIBLE_BELOW)
        key = _keys(flat, counts, total)
        return _Files(path, total, key, shares, own, look, heads, headed)

    @staticmethod
    def together(parts: Sequence[_Files]) -> _Files:
        """All of some."""
        if not parts:
            none = np.zeros(0)
            return _Files(pa.array([], pa.binary()), *[none] * len(_COLUMNS))
        columns = (np.concatenate([getattr(one, name) for one in parts]) for name in _COLUMNS)
        return _Files(pa.concat_arrays([one.path for one in parts]), *columns)

    def __len__(self) -> int:
        return len(self.path)

    def take(self, mask: Any) -> _Files:
        """Those of a mask."""
        return self.at(np.flatnonzero(mask))

    def at(self, where: Any) -> _Files:
        """Those of some numbers."""
        columns = (getattr(self, name)[where] for name in _COLUMNS)
        return _Files(self.path.take(pa.array(where, pa.int64())), *columns)

    def paths(self, mask: Any = None) -> list[bytes]:
        """Paths of all, or of a mask."""
        chosen = self.path if mask is None else self.path.filter(pa.array(mask))
        return chosen.to_pylist()


_COLUMNS = ("size", "key", "share", "own", "look", "head", "headed")


@dataclass(frozen=True, slots=True)
class _Names:
    """What names say of content: whether it is known how it has to begin, and whether it does."""

    known: Any
    right: Any

    @staticmethod
    def of(now: _Files, called: _Files | None = None) -> _Names:
        """Of content, by its own names or by those that it had."""
        suffixes = [_suffix(path).lower() for path in (called or now).paths()]
        known = np.zeros(len(now), bool)
        right = np.zeros(len(now), bool)
        for number, suffix in enumerate(suffixes):
            heads = HEADS_OF_SUFFIX.get(suffix)
            if heads is not None:
                known[number] = now.headed[number]
                right[number] = known[number] and int(now.head[number]) in heads
            elif suffix in TEXT_SUFFIXES:
                known[number] = now.look[number] != UNKNOWN
                right[number] = known[number] and now.look[number] != RANDOM
        return _Names(known, right)

    def take(self, mask: Any) -> _Names:
        return _Names(self.known[mask], self.right[mask])


def _with_content(rows: pa.Table) -> Any:
    """Mask of files and objects whose content is there."""
    typed = pc.is_in(rows.column("type"), value_set=pa.array(["file", "object"]))
    mask = pc.and_(typed, pc.equal(rows.column("state"), "good"))
    return mask.to_numpy(zero_copy_only=False) if len(rows) else np.zeros(0, bool)


def _same_content(now: pa.Table, then: pa.Table) -> Any:
    same = now.column("size").to_numpy() == then.column("size").to_numpy()
    for name, members in (("chunks", ("id",)), ("holes", ("offset", "length"))):
        mine, theirs = now.column(name).combine_chunks(), then.column(name).combine_chunks()
        same &= same_lists(mine, theirs, members)
    return same


def _sum(values: Any, counts: Any) -> Any:
    upto = np.concatenate([[0.0], np.cumsum(values)])
    ends = np.cumsum(counts)
    return upto[ends] - upto[ends - counts]


def _keys(flat: Any, counts: Any, size: Any) -> Any:
    """Eight bytes of the first chunk's id, mixed with the size; 0 where there is no content."""
    found = np.zeros(len(counts), np.uint64)
    some = np.flatnonzero(counts)
    if len(some):
        ids: Any = flat.field("id")
        width = ids.type.byte_width
        raw = np.frombuffer(ids.buffers()[1], np.uint8)[ids.offset * width :]
        heads = raw[: len(ids) * width].reshape(-1, width)[:, :8]
        firsts = (np.cumsum(counts) - counts)[some]
        found[some] = np.ascontiguousarray(heads[firsts]).view("<u8")[:, 0]
    return found ^ (size.astype(np.uint64) * _MIX)


def _suffix(path: bytes) -> bytes:
    name = path[path.rfind(b"/") + 1 :]
    _, dot, suffix = name.rpartition(b".")
    return suffix if dot else b""


def _pairs(gone: _Files, added: _Files) -> tuple[list[int], list[int]]:
    """Which of those that are gone came back as which of those that are new: with the same content,
    with a suffix put behind their names, or with another suffix."""
    if not len(gone) or not len(added):
        return [], []
    pool = _Pool()
    for number, path in enumerate(gone.paths()):
        if gone.size[number]:
            pool.offer(int(gone.key[number]), number)
        pool.offer(path, number)
        pool.offer(_stem(path), number)
    old: list[int] = []
    new: list[int] = []
    was = gone.paths()
    for number, path in enumerate(added.paths()):
        found = pool.take(int(added.key[number])) if added.size[number] else None
        if found is None:
            found = pool.take(path.rpartition(b".")[0])
        if found is None:
            mine = _suffix(path)
            # What is dated in its suffix, as model.2026-11-23 is, is no new name of the last one.
            found = pool.take(
                _stem(path), lambda one, mine=mine: not (_dated(mine) and _dated(_suffix(was[one])))
            )
        if found is not None:
            old.append(found)
            new.append(number)
    return old, new


class _Pool:
    """Numbers to be taken once, each under several names."""

    def __init__(self) -> None:
        self._offered: dict[bytes | int | tuple[bytes], list[int]] = {}
        self._taken: set[int] = set()

    def offer(self, name: bytes | int | tuple[bytes], number: int) -> None:
        self._offered.setdefault(name, []).append(number)

    def take(
        self,
        name: bytes | int | tuple[bytes],
        fits: Callable[[int], bool] = lambda _: True,
    ) -> int | None:
        offered = self._offered.get(name, [])
        while offered:
            number = offered.pop()
            if number not in self._taken and fits(number):
                self._taken.add(number)
                return number
        return None


def _stem(path: bytes) -> tuple[bytes]:
    """A path without its suffix, as a name of its own sort."""
    folder, slash, name = path.rpartition(b"/")
    return (folder + slash + (name.rpartition(b".")[0] or name),)


def _dated(suffix: bytes) -> bool:
    return any(48 <= one <= 57 for one in suffix)


def _but(count: int, taken: Sequence[int]) -> Any:
    mask = np.ones(count, bool)
    mask[taken] = False
    return mask

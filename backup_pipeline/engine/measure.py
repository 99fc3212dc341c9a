"""What changed from one snapshot to the next, in numbers, and the shares that are judged by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["COUNTS", "MOST_EXAMPLES", "Measure"]

MOST_EXAMPLES = 5
LEAST_FILES = 3
"""Fewer files than this count by their bytes alone: one of three is no share of anything."""
LEAST_CUT_BYTES = 2048
"""A single file that lost less is a note that somebody shortened."""
FEW_FILES = 10
"""Where fewer files than this are gone, new ones may have come in their place."""

COUNTS = (
    *("files_before", "files", "bytes_before", "bytes", "added", "added_bytes", "changed"),
    *("deleted", "deleted_bytes", "renamed"),
    *(
        "shrunk",
        "lost_bytes",
        "largest_lost_bytes",
        "turned",
        "turned_bytes",
        "opaque",
        "blank",
        "blank_bytes",
    ),
    *("largest_blank_bytes", "named", "unlike", "misnamed", "misnamed_bytes", "looked", "random"),
)


@dataclass(slots=True)
class Measure:
    """What changed; all counts are of files with content, whatever their metadata did.

    Attributes:
        files_before: Files of the snapshot that was compared with.
        files: Files now.
        bytes_before: Their logical bytes then.
        bytes: And now.
        added: New names, but for those that are new names of files that were there.
        added_bytes: What these hold.
        changed: Files with other content than before, under their old names.
        deleted: Names that are gone, but for those of renamed files.
        deleted_bytes: What these held.
        renamed: Files whose content, or whose name but for its suffix, is that of one that is gone.
        shrunk: Files that kept less than 70 % of their bytes.
        lost_bytes: What these lost.
        largest_lost_bytes: The most that one of them lost.
        turned: Files that compressed before and look random now.
        turned_bytes: What they held before.
        opaque: Changed files that look random now and do not begin as any known format does.
        blank: Files that held something and are now zeros, or one other value all over.
        blank_bytes: What they held before.
        largest_blank_bytes: The most that one of them held.
        named: Files read whose suffix tells how their content begins.
        unlike: Those among them that begin otherwise.
        misnamed: Those among these that changed.
        misnamed_bytes: What these held before.
        looked: Files read whose content was looked at.
        random: Those among them that look random and do not begin as their names say.
        suffix: The suffix that most renamed files got; empty where they kept theirs.
        examples: For each of these counts, some paths.
    """

    files_before: int = 0
    files: int = 0
    bytes_before: int = 0
    bytes: int = 0
    added: int = 0
    added_bytes: int = 0
    changed: int = 0
    deleted: int = 0
    deleted_bytes: int = 0
    renamed: int = 0
    shrunk: int = 0
    lost_bytes: int = 0
    largest_lost_bytes: int = 0
    turned: int = 0
    turned_bytes: int = 0
    opaque: int = 0
    blank: int = 0
    blank_bytes: int = 0
    largest_blank_bytes: int = 0
    named: int = 0
    unlike: int = 0
    misnamed: int = 0
    misnamed_bytes: int = 0
    looked: int = 0
    random: int = 0
    suffix: str = ""
    examples: dict[str, list[str]] = field(default_factory=dict[str, list[str]])

    def note(self, what: str, count: int, paths: Sequence[str]) -> None:
        """Count files, and keep the first few paths."""
        setattr(self, what, getattr(self, what) + count)
        kept = self.examples.setdefault(what, [])
        kept += paths[: MOST_EXAMPLES - len(kept)]

    def to_json(self) -> dict[str, Any]:
        """Counts by name; zeros and what is empty left out."""
        said: dict[str, Any] = {name: getattr(self, name) for name in COUNTS if getattr(self, name)}
        if self.suffix:
            said["suffix"] = self.suffix
        return said

    @staticmethod
    def from_json(said: Mapping[str, Any]) -> Measure:
        """What ``to_json`` wrote; what is of another type counts as 0."""
        measure = Measure()
        for name in COUNTS:
            count = said.get(name, 0)
            setattr(measure, name, count if isinstance(count, int) else 0)
        return measure

    def shares(self) -> dict[str, float]:
        """What is judged, each between 0 and 1 and of what there was before.

        Returns:
            ``changed``, ``renamed`` and ``opaque``: of the files; ``shrunk``: bytes that shrunk
            files lost, and ``cut``: the most that one of them lost; ``fell``: by how much all bytes
            together fell; ``deleted``, ``incompressible``, ``blank`` and ``misnamed``: of the files
            or of the bytes, whichever is more; ``random`` and ``unlike``: of the files read, and of
            those whose suffix is known.
        """
        files, size = max(1, self.files_before), max(1, self.bytes_before)

        def share(count: int, size_bytes: int = 0) -> float:
            of_files = count / files if count >= LEAST_FILES else 0.0
            return min(1.0, max(of_files, size_bytes / size))

        gone, gone_bytes = self.deleted, self.deleted_bytes
        if gone < FEW_FILES:
            gone = max(0, gone - self.added)
            gone_bytes = max(0, gone_bytes - self.added_bytes)
        all_gone = self.files_before > 0 and self.files == 0
        return {
            "changed": share(self.changed),
            "deleted": share(gone, gone_bytes),
            "renamed": share(self.renamed),
            "shrunk": min(1.0, self.lost_bytes / size),
            "cut": largest / size
            if (largest := self.largest_lost_bytes) >= LEAST_CUT_BYTES
            else 0.0,
            "fell": 1.0 if all_gone else max(0.0, 1 - self.bytes / size) * bool(self.bytes_before),
            "incompressible": share(self.turned, self.turned_bytes),
            "opaque": share(self.opaque),
            "blank": share(self.blank, self.blank_bytes),
            "misnamed": share(self.misnamed, self.misnamed_bytes),
            "unlike": self.unlike / self.named if self.named >= LEAST_FILES else 0.0,
            "random": self.random / self.looked if self.looked >= LEAST_FILES else 0.0,
        }

"""What a restore does about packs and manifests that it cannot read: it has the same elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from backup_pipeline.engine.crypto import Buffer
from backup_pipeline.engine.errors import BackupError, DamageError, StoreError
from backup_pipeline.engine.format.record import Snapshot
from backup_pipeline.engine.operations.donors import Chunk, Donors
from backup_pipeline.engine.operations.frames import Loss
from backup_pipeline.engine.operations.rows import Row
from backup_pipeline.engine.repository import Repository
from backup_pipeline.engine.segments import Entries

__all__ = ["MOST_LOST", "Fallback", "readable"]

MOST_LOST = 4096
"""Pieces that are sought elsewhere at once: one manifest is read for all of them."""


def readable(
    repository: Repository, snapshot: Snapshot, donors: Donors | None
) -> tuple[Repository, Snapshot, Entries, Donors | None, str | None]:
    """A snapshot with its entries, or a sibling's of the same where its manifest is lost.

    Returns:
        Where it is, which, its entries, who may hold what is lost there, and a notice if it is not
        the one that was asked for.

    Raises:
        DamageError: The manifest is lost, and no sibling has the same.
        StoreError: The store failed, and no sibling has the same.
    """
    try:
        return repository, snapshot, repository.segments.entries(snapshot), donors, None
    except (DamageError, StoreError) as error:
        if donors is None:
            raise
        for sibling, other in donors.counterparts(snapshot):
            try:
                entries = sibling.segments.entries(other)
            except (DamageError, StoreError) as second:
                donors.note(f"tier {sibling.tier} could not help: {second.message}")
                continue
            rest = [one for one in donors.siblings() if one is not sibling]
            others = Donors(sibling, partial(tuple, (*rest, repository)))
            notice = (
                f"the manifest in tier {repository.tier} cannot be read ({error.message});"
                f" snapshot {other.id[:12]} of tier {sibling.tier} holds the same and is restored"
            )
            return sibling, other, entries, others, notice
        raise


class Fallback:
    """Has pieces elsewhere that a restore's own repository lost.

    Args:
        donors: Who may hold them.
        snapshot: What is restored.
        notice: Is told of each pack that something was lost of.

    Attributes:
        packs: Packs that something was lost of.
    """

    def __init__(self, donors: Donors, snapshot: Snapshot, notice: Callable[[str], None]) -> None:
        self._donors = donors
        self._snapshot = snapshot
        self._notice = notice
        self.packs: set[bytes] = set()

    def pieces(
        self, lost: Sequence[Loss], rows: Sequence[Row]
    ) -> Iterator[tuple[int, int, Buffer]]:
        """Row, place in its content and bytes of what was found; the rest is left out."""
        wanted: dict[bytes, list[Loss]] = {}
        chunks: list[Chunk] = []
        for loss in lost:
            if loss.pack not in self.packs:
                self.packs.add(loss.pack)
                self._notice(f"{loss.error.message}; its content is sought elsewhere")
            if isinstance(loss.error, StoreError):
                self._donors.give_up()
            if loss.piece.id not in wanted:
                chunks.append(_chunk(loss))
                self._donors.refuse(loss.pack, loss.frame.ordinal)
            wanted.setdefault(loss.piece.id, []).append(loss)
        paths = sorted(rows[loss.row].path for loss in lost)
        between = (paths[0], paths[-1])
        for found in self._donors.chunks(chunks, snapshot=self._snapshot, paths=between):
            for loss in wanted.pop(found.id):
                yield loss.row, loss.piece.at, found.content
        for losses in wanted.values():
            _raise_for_store([loss.error for loss in losses])

    def tell(self) -> None:
        """Say what came from where, and who could not help."""
        for note in self._donors.notes:
            self._notice(note)


def _chunk(loss: Loss) -> Chunk:
    frame, piece = loss.frame, loss.piece
    return Chunk(
        loss.pack,
        frame.ordinal,
        frame.offset,
        frame.stored,
        frame.raw,
        piece.inner,
        piece.size,
        piece.id,
    )


def _raise_for_store(errors: Sequence[BackupError]) -> None:
    """What a store did not give, and nobody else has, is not lost: it is out of reach."""
    for error in errors:
        if isinstance(error, StoreError):
            raise error

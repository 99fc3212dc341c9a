"""A store without a plan: its URL and a key are enough to list, verify and restore."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from backup_pipeline.engine.errors import BackupError, NotFound, UsageError
from backup_pipeline.runner.cuts import SetReader
from backup_pipeline.runner.places import OpenStores, Place

if TYPE_CHECKING:
    from backup_pipeline.engine.keys import Secret
    from backup_pipeline.engine.progress import Report
    from backup_pipeline.engine.repository import Repository

__all__ = ["StoreReader"]

_STORE = "store"


class StoreReader(SetReader):
    """The verbs that read, over one store.

    Args:
        url: The store's URL, or a mapping as ``open_store`` takes it.
        dataset: The one dataset to look at; None for all that the store holds.
        secrets: The keys to try.
        report: Is told how far a long verb has come.
    """

    def __init__(
        self,
        url: str | Mapping[str, Any],
        dataset: str | None,
        secrets: Sequence[Secret],
        *,
        report: Report | None = None,
    ) -> None:
        super().__init__(OpenStores(lambda _: url, lambda _: secrets), report=report)
        self._dataset = dataset

    def datasets(self) -> list[str]:
        """Keys of the store's datasets, in order.

        Raises:
            NotFound: The store holds no backups.
            WrongKey: None of the keys opens it.
        """
        if self._dataset is not None:
            return [self._dataset]
        return self._all()

    def places(self, dataset: str, tier: str | None = None) -> list[Place]:
        """The one place where the store has the dataset.

        Raises:
            NotFound: The store holds no such dataset.
            UsageError: It holds the dataset for another tier.
        """
        self._stores.unlocked(_STORE)
        repository = self._stores.repository(_STORE, dataset)
        url = self._stores.store(_STORE).url
        if repository is None:
            raise NotFound(
                f"{url} holds no backups of {dataset}", f"it holds: {', '.join(self._all()) or '–'}"
            )
        if tier is not None and tier != repository.tier:
            raise UsageError(
                f"{url} holds tier {repository.tier} of {dataset}, not {tier}",
                "leave --tier out, or give the store of that tier",
            )

        def find() -> Repository | None:
            return repository

        return [Place(dataset, repository.tier, url, find)]

    def _all(self) -> list[str]:
        def tell(prefix: str, error: BackupError) -> None:
            self._notice(f"{prefix} cannot be opened and is left out: {error.message}")

        return [one.dataset for one in self._stores.unlocked(_STORE).repositories(tell)]

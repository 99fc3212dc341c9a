"""Where a dataset's repositories are, opened once each and kept open."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from backup_pipeline.engine.errors import NotFound

if TYPE_CHECKING:
    from backup_pipeline.engine.keys import Secret
    from backup_pipeline.engine.repository import Repository, UnlockedStore
    from backup_pipeline.engine.store import Store

__all__ = ["OpenStores", "Place"]

StoreOptions = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Place:
    """Where one dataset's snapshots of one tier are, or would be.

    Attributes:
        dataset: The dataset's key.
        tier: The tier's name.
        store: The store's URL, without secrets.
        find: Opens the repository as it is now; None where there is none yet.
    """

    dataset: str
    tier: str
    store: str
    find: Callable[[], Repository | None]


class OpenStores:
    """Stores by name: each is opened and unlocked at its first use, and once.

    Args:
        options: Gives what ``open_store`` takes, by the store's name.
        secrets: Gives the keys to try, for reading (False) or for preparing a store (True).
    """

    def __init__(
        self,
        options: Callable[[str], StoreOptions | str],
        secrets: Callable[[bool], Sequence[Secret]],
    ) -> None:
        self._options = options
        self._secrets = secrets
        self._stores: dict[str, Store] = {}
        self._unlocked: dict[str, UnlockedStore] = {}
        self._repositories: dict[tuple[str, str], Repository] = {}

    def store(self, name: str) -> Store:
        """The store itself, not unlocked.

        Raises:
            UsageError: Its URL or options are not ones that are supported.
        """
        if name not in self._stores:
            from backup_pipeline.engine.store import open_store

            self._stores[name] = open_store(self._options(name))
        return self._stores[name]

    def unlocked(self, name: str, *, create: bool = False) -> UnlockedStore:
        """The store with its key.

        Raises:
            NotFound: Nothing of ours is there, and ``create`` is off.
            WrongKey: None of the keys opens it.
            StoreUnavailable: It cannot be reached.
        """
        if name not in self._unlocked:
            from backup_pipeline.engine.repository import unlock_store

            self._unlocked[name] = unlock_store(
                self.store(name), self._secrets(create), create=create
            )
        return self._unlocked[name]

    def repository(self, name: str, dataset: str) -> Repository | None:
        """A dataset's repository with all that was appended to it; None where there is none.

        Raises:
            WrongKey: None of the keys opens it.
            StoreUnavailable: The store cannot be reached.
        """
        known = self._repositories.get((name, dataset))
        if known is not None:
            known.refresh()
            return known
        try:
            found = self.unlocked(name).repository(dataset)
        except NotFound:
            return None
        self._repositories[name, dataset] = found
        return found

    def close(self) -> None:
        """Let go of every connection."""
        for store in self._stores.values():
            store.close()
        self._stores.clear()
        self._unlocked.clear()
        self._repositories.clear()

"""Asks every dataset × tier of a plan how it is protected: one opening of each repository."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC
from typing import TYPE_CHECKING

from backup_pipeline.engine.errors import BackupError, NotFound, UsageError
from backup_pipeline.runner.setstanding import SetStanding
from backup_pipeline.runner.standing import STATUS_DAYS

if TYPE_CHECKING:
    from backup_pipeline.posture.model import Posture
    from backup_pipeline.posture.tier import TierPosture
    from backup_pipeline.posture.witness import Claim
    from backup_pipeline.runner.looking import StoreFacts
    from backup_pipeline.runner.places import Place

__all__ = ["WINDOW_DAYS", "Overseer"]

WINDOW_DAYS = 30
"""How far back a posture looks, unless it is told otherwise."""

ASKED_AT_ONCE = 8
"""Repositories that are opened at the same time: opening waits for the store far more than it
computes."""


class Overseer(SetStanding):
    """All that ``SetStanding`` can do, and how a plan's datasets are protected."""

    def posture(
        self,
        dataset: str | None = None,
        tier: str | None = None,
        *,
        days: int = WINDOW_DAYS,
        claims: Sequence[Claim] = (),
    ) -> Posture:
        """How each dataset stands in each tier, and by what evidence; nothing is read of content.

        A store that is out of reach is asked once, and its tiers say so.

        Args:
            dataset: One dataset only.
            tier: One tier only.
            days: Length of the window that missing days, I and trends are about.
            claims: What others say that the tiers hold, besides the tiers of one another.

        Raises:
            UsageError: The dataset or tier is not known, or the window is none.
        """
        if not 1 <= days <= STATUS_DAYS:
            raise UsageError(
                f"a window of {days} days cannot be shown",
                f"take 1 to {STATUS_DAYS} days; what is older is retention's concern",
            )
        from backup_pipeline.posture.model import Posture
        from backup_pipeline.runner.looking import Look, by_dataset

        self.notices.clear()
        began_s, now = time.monotonic(), self._clock().astimezone(UTC)
        places = self.all_places(dataset, tier)
        stores = {
            name: self._ask_store(name)
            for name in dict.fromkeys(self._store_of(place) for place in places)
        }
        look = Look(self.plan, now, days)

        def ask(place: Place) -> TierPosture:
            return look.tier(place, stores[self._store_of(place)])

        with ThreadPoolExecutor(ASKED_AT_ONCE, "posture") as pool:
            tiers = look.testified(list(pool.map(ask, places)), claims)
        return Posture(
            at=now,
            days=days,
            timezone=self.plan.timezone,
            datasets=by_dataset(self.plan, tiers, now),
            plan=self.plan.file,
            deployment=self.plan.deployment,
            encryption=self.plan.encryption,
            sets=() if dataset else self.set_status(tier=tier),
            took_s=time.monotonic() - began_s,
        )

    def _store_of(self, place: Place) -> str:
        return self.plan.dataset(place.dataset).tier(place.tier).store

    def _ask_store(self, name: str) -> StoreFacts:
        """Open a store once, before its repositories are asked side by side."""
        from backup_pipeline.runner.looking import StoreFacts

        url, settings = self.plan.stores[name].display_url, {}
        try:
            settings = self.plan.stores[name].options(self._environ)
            url = settings["url"]
            self.unlock(name)
            return StoreFacts(url, settings, lock=self._stores.store(name).default_lock())
        except NotFound:
            return StoreFacts(url, settings)
        except BackupError as error:
            # What is wrong with the store as such, a key that does not open it, say, is wrong
            # for all of its repositories.
            return StoreFacts(url, settings, error=error)

"""Repairs a plan's tiers from one another and from the source."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backup_pipeline.engine.errors import NotFound, UsageError
from backup_pipeline.runner.planned import PlanReader
from backup_pipeline.runner.reading import parse_share

if TYPE_CHECKING:
    from backup_pipeline.engine.operations.repair import RepairReport
    from backup_pipeline.engine.repository import Repository
    from backup_pipeline.plan import Dataset, Tier

__all__ = ["Repairer"]


class Repairer(PlanReader):
    """All that ``PlanReader`` can do, and putting right what it finds damaged."""

    def repair(
        self,
        dataset: str,
        tier: str | None = None,
        *,
        apply: bool = False,
        from_source: bool = True,
        read_data: str | float = "all",
    ) -> RepairReport:
        """Put right what is damaged or missing in one tier.

        Args:
            dataset: The dataset's key.
            tier: The tier; default: the first.
            apply: Whether to write; if not, it is only told what would be done.
            from_source: Whether content may be had from the dataset's source, where it still is.
            read_data: ``all``, or the share of the packs that are read to find damage.

        Raises:
            NotFound: The tier holds nothing of the dataset.
            DamageError: The repository is too damaged to be opened.
            UsageError: It is another deployment's.
        """
        from backup_pipeline.engine.operations.donors import Donors
        from backup_pipeline.engine.operations.repair import repair

        self.notices.clear()
        spec = self.plan.dataset(dataset)
        rules = spec.first_tier if tier is None else spec.tier(tier)
        repository = self._repairable(spec, rules)
        # A slice's source shows one day only, and nobody knows which day was lost.
        reads = from_source and spec.holds == "whole"
        return repair(
            repository,
            donors=Donors(repository, lambda: self._siblings(dataset, repository)),
            source=(lambda: self.source(dataset)) if reads else None,
            read_data=parse_share(read_data),
            apply=apply,
            clock=self._clock,
            report=self._report,
        )

    def _repairable(self, spec: Dataset, rules: Tier) -> Repository:
        """The repository of a tier, once it is clear that we may write there."""
        found = self._repository(spec, rules)
        if found is None:
            raise NotFound(
                f"tier {rules.name} holds nothing of {spec.key}",
                f"`backup-pipeline backup {spec.key} --tier {rules.name}` makes a snapshot there",
            )
        if found.tier not in ("", rules.name) or found.deployment != self.plan.deployment:
            raise UsageError(
                f"store {rules.store} holds {spec.key} of tier {found.tier}, deployment"
                f" {found.deployment}, and not this plan's",
                "repair it with the plan that writes it",
            )
        return found

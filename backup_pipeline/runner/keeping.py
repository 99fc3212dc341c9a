"""What a plan keeps: expiry with reasons, deletion, pins, and why a thing is still there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

from backup_pipeline.engine.errors import BackupError, NotFound, UsageError
from backup_pipeline.plan.retention import Protection, Verdict, awaited_days, decide
from backup_pipeline.runner.cuts import best_cuts
from backup_pipeline.runner.judging import Judge

if TYPE_CHECKING:
    from backup_pipeline.engine.format.record import Snapshot
    from backup_pipeline.engine.operations.prune import PruneReport
    from backup_pipeline.engine.repository import Repository
    from backup_pipeline.plan import Dataset, Tier

__all__ = ["ExpireReport", "Keeper"]


@dataclass(frozen=True, slots=True)
class ExpireReport:
    """What stays in a tier, what goes, and why.

    Attributes:
        dataset: The dataset's key.
        tier: The tier's name.
        applied: Whether what goes has been expired; else it is only said.
        verdicts: One for each snapshot that was live.
    """

    dataset: str
    tier: str
    applied: bool
    verdicts: Sequence[Verdict[Snapshot]]

    @property
    def expired(self) -> list[Verdict[Snapshot]]:
        """Those that go."""
        return [verdict for verdict in self.verdicts if not verdict.kept]

    def to_json(self) -> dict[str, Any]:
        """Fields by name; of a snapshot what tells it apart."""
        return {
            "dataset": self.dataset,
            "tier": self.tier,
            "applied": self.applied,
            "kept": len(self.verdicts) - len(self.expired),
            "expired": len(self.expired),
            "snapshots": [_row(verdict) for verdict in self.verdicts],
        }


def _row(verdict: Verdict[Snapshot]) -> dict[str, Any]:
    one = verdict.snapshot
    return {
        "id": one.id,
        "day": one.day.isoformat(),
        "kind": one.kind,
        "timing": one.timing,
        "status": one.status,
        "captured_at": one.captured_at.isoformat().replace("+00:00", "Z"),
        "bytes": one.bytes,
        "stored_bytes": one.stored_bytes,
        "kept": verdict.kept,
        "reasons": list(verdict.reasons),
    }


class Keeper(Judge):
    """All that ``Judge`` can do, and the verbs that keep, expire and delete."""

    def expire(self, dataset: str, tier: str, *, apply: bool = False) -> ExpireReport:
        """Expire what a tier's ``keep`` does not keep.

        Args:
            dataset: The dataset's key.
            tier: The tier.
            apply: Whether to do it; else it is only said what would go.

        Raises:
            NotFound: The tier has no repository.
            UsageError: The machine's clock is wrong, or the repository is another deployment's.
        """
        self.notices.clear()
        spec = self.plan.dataset(dataset)
        rules = spec.tier(tier)
        repository = self._existing(spec, rules)
        if not apply:
            return ExpireReport(dataset, tier, False, self._verdicts(spec, rules, repository))
        self._require_ours(spec, rules, repository)
        from backup_pipeline.engine.operations.expire import expire

        decided: list[Verdict[Snapshot]] = []

        def choose(_: Sequence[Snapshot]) -> Mapping[str, str]:
            decided[:] = self._verdicts(spec, rules, repository)
            return {one.snapshot.id: one.reasons[0] for one in decided if not one.kept}

        expire(repository, choose, slices=spec.holds == "slice", clock=self._clock)
        return ExpireReport(dataset, tier, True, decided)

    def prune(self, dataset: str, tier: str, *, apply: bool = False) -> PruneReport:
        """Delete from a tier what no live snapshot needs: announced first, after a grace.

        Args:
            dataset: The dataset's key.
            tier: The tier.
            apply: Whether to do it; else it is only said what would be deleted.

        Raises:
            NotFound: The tier has no repository.
            UsageError: The machine's clock is wrong, the dataset is held, or the repository is
                another deployment's.
            DamageError: What the snapshots need is not known.
        """
        self.notices.clear()
        spec = self.plan.dataset(dataset)
        rules = spec.tier(tier)
        repository = self._existing(spec, rules)
        if apply:
            self._require_ours(spec, rules, repository)
            if spec.legal_hold is not None:
                raise UsageError(
                    f"{dataset} is under a legal hold: {spec.legal_hold}",
                    "nothing of it is deleted until `legal_hold` is taken out of the plan",
                )
        from backup_pipeline.engine.operations.prune import prune

        return prune(repository, apply=apply, clock=self._clock, report=self._report)

    def pin(
        self,
        dataset: str,
        tier: str | None = None,
        *,
        day: date | None = None,
        snapshot: str | None = None,
        reason: str,
        pinned: bool = True,
    ) -> Snapshot:
        """Exempt a snapshot from expiry, or no longer.

        Args:
            dataset: The dataset's key.
            tier: The tier; default: the first that has it.
            day: The day whose best snapshot is meant.
            snapshot: Its id, instead.
            reason: Why, for whoever asks later.
            pinned: Whether it is to be kept; False takes the pin off.

        Returns:
            The snapshot.

        Raises:
            NotFound: There is no such snapshot.
            UsageError: Neither a day nor a snapshot is named.
        """
        self.notices.clear()
        if day is None and snapshot is None:
            raise UsageError("which snapshot?", "name its --day or --snapshot")
        spec = self.plan.dataset(dataset)
        repository, found = self.find(dataset, tier=tier, day=day, snapshot=snapshot)
        self._require_ours(spec, spec.tier(repository.tier), repository)
        from backup_pipeline.engine.operations.expire import pin

        pin(repository, found.id, pinned=pinned, reason=reason, clock=self._clock)
        return found

    def why(self, dataset: str, thing: str, tier: str | None = None) -> list[str]:
        """Says why a snapshot, a pack or a segment is kept, in every tier that has it.

        Args:
            dataset: The dataset's key.
            thing: A snapshot's id, a day, or a stored object's name; a beginning will do.
            tier: Look in this tier alone.

        Returns:
            One sentence each.

        Raises:
            NotFound: No tier has such a thing.
        """
        from backup_pipeline.engine.operations.prune import why_pack

        self.notices.clear()
        spec = self.plan.dataset(dataset)
        said: list[str] = []
        for repository in self.repositories(dataset, tier):
            rules = spec.tier(repository.tier)
            for verdict in self._verdicts(spec, rules, repository):
                one = verdict.snapshot
                if one.id.startswith(thing) or one.day.isoformat() == thing:
                    what = "is kept" if verdict.kept else "would expire"
                    said.append(
                        f"{rules.name}: snapshot {one.id[:12]} of {one.day} {what}:"
                        f" {'; '.join(verdict.reasons)}"
                    )
            for identity, reason in repository.state.expired.items():
                if identity.startswith(thing):
                    said.append(f"{rules.name}: snapshot {identity[:12]} has expired: {reason}")
            said += [f"{rules.name}: {text}" for text in why_pack(repository, thing)]
        if not said:
            raise NotFound(
                f"{dataset} has no snapshot, day, pack or segment {thing!r}",
                "list snapshots with `backup-pipeline snapshots`",
            )
        return said

    # -- what they have in common

    def _existing(self, spec: Dataset, rules: Tier) -> Repository:
        found = self._repository(spec, rules)
        if found is None:
            raise NotFound(
                f"{spec.key} has no snapshots in tier {rules.name} yet",
                f"`backup-pipeline backup {spec.key} --tier {rules.name}` makes one",
            )
        return found

    def _verdicts(
        self, spec: Dataset, rules: Tier, repository: Repository
    ) -> list[Verdict[Snapshot]]:
        now = self._clock()
        slices = spec.holds == "slice"
        awaited = awaited_days(
            spec,
            rules,
            self._stored(spec, but=rules.name) | {rules.name: repository.snapshots()},
            start=self.plan.start,
            now=now,
            zone=self.plan.zone,
        )
        protection = Protection(
            legal_hold=spec.legal_hold,
            pinned=repository.state.pinned,
            lock=timedelta(days=rules.lock.days) if rules.lock is not None else None,
            awaited=awaited,
            cuts=self._in_best_cuts(spec, rules),
            suspicious=[
                (one.captured_at, one.day) for one in self.suspicions(spec.key, repository)
            ],
        )
        return decide(
            repository.snapshots(),
            rules.keep,
            now=now,
            zone=self.plan.zone,
            protection=protection,
            slices=slices,
            keep_slices=spec.keep_slices,
        )

    def _in_best_cuts(self, spec: Dataset, rules: Tier) -> frozenset[str]:
        """Ids of a set member's snapshots in each day's best whole cut of this tier."""
        one = self.plan.set_of(spec.key)
        if one is None or any(rules.name not in self.plan.dataset(k).tiers for k in one.members):
            return frozenset()
        whole = best_cuts(self.cuts(one.name, rules.name)).values()
        return frozenset(cut.found[spec.key].id for cut in whole if spec.key in cut.found)

    def _stored(self, spec: Dataset, *, but: str) -> dict[str, Sequence[Snapshot] | None]:
        """What the other tiers hold; None of one that cannot be asked, which then counts as
        lacking all."""
        stored: dict[str, Sequence[Snapshot] | None] = {}
        for rules in spec.tiers.values():
            if rules.name == but:
                continue
            try:
                found = self._repository(spec, rules)
            except BackupError as error:
                stored[rules.name] = None
                self._notice(
                    f"tier {rules.name} cannot be asked, so what it may still have to copy is"
                    f" kept: {error.message}"
                )
                continue
            stored[rules.name] = found.snapshots() if found is not None else ()
        return stored

"""What is suspicious in a plan's tiers: what a backup is judged by, and who clears it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from backup_pipeline.engine.errors import BackupError, NotFound, UsageError
from backup_pipeline.runner.planned import PlanReader

if TYPE_CHECKING:
    from backup_pipeline.engine.format.record import Snapshot
    from backup_pipeline.engine.judgement import Gate
    from backup_pipeline.engine.repository import Repository
    from backup_pipeline.engine.suspicions import Suspicion
    from backup_pipeline.plan import Anomaly

__all__ = ["Cleared", "Judge", "bring_clearances", "gate_of", "hint_of", "said_of"]


def gate_of(
    anomaly: Anomaly | None, *, slices: bool, explained: str | None, upstream: str | None
) -> Gate:
    """What a backup is judged by.

    Args:
        anomaly: The plan's limits; None where it has them switched off.
        slices: Whether the dataset holds slices.
        explained: Why much may have changed, in a person's words.
        upstream: Which materialization may have changed much.
    """
    from backup_pipeline.engine.judgement import Explained, Gate

    why: Explained | None = None
    if explained:
        why = Explained("person", explained)
    elif upstream:
        why = Explained("materialization", upstream)
    if anomaly is None:
        return Gate(explained=why, slices=slices, off=True)
    limits = {name: share for name, share in asdict(anomaly).items() if isinstance(share, float)}
    return Gate(limits, why, slices)


def hint_of(dataset: str, identity: str) -> str:
    """What to do about a suspicious snapshot."""
    return (
        "nothing older expires until somebody looks: `backup-pipeline diff` shows what changed;"
        f' if it is as it should be: `backup-pipeline clear {dataset} {identity[:12]} --reason "…"`'
    )


def said_of(snapshot: Snapshot) -> list[str]:
    """What is suspicious of a snapshot that was just made, and what to do; nothing where it is
    not."""
    from backup_pipeline.engine.suspicions import findings_of

    said: list[str] = []
    for one in findings_of(snapshot.anomaly):
        examples = ", ".join(one.get("examples") or ())
        such = f", such as {examples}" if examples else ""
        said.append(f"suspicious: {one.get('says')}{such}")
    return [*said, hint_of(snapshot.dataset, snapshot.id)] if said else []


@dataclass(frozen=True, slots=True)
class Cleared:
    """Answer of ``clear``.

    Attributes:
        dataset: The dataset's key.
        snapshot: The suspicion's id, that of the snapshot in the tier that read the source.
        day: The day that it stands for.
        cleared: Whether it is cleared now; else it is suspicious again.
        reason: Why.
        by: Who says so.
        tiers: Where that was written down.
        says: What was suspicious.
    """

    dataset: str
    snapshot: str
    day: str
    cleared: bool
    reason: str
    by: str
    tiers: tuple[str, ...]
    says: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Fields by name."""
        return asdict(self)


class Judge(PlanReader):
    """All that ``PlanReader`` can do, and to know and clear what is suspicious."""

    def suspicions(self, dataset: str, own: Repository | None = None) -> list[Suspicion]:
        """Suspicious snapshots of a dataset that nobody cleared, in whichever tier, oldest first.

        Args:
            dataset: The dataset's key.
            own: A repository in which those that it holds open count, though they were cleared in
                another.
        """
        found: dict[str, Suspicion] = {}
        cleared: set[str] = set()
        for place in self.places(dataset):
            try:
                repository = place.find()
            except BackupError as error:
                self._notice(
                    f"tier {place.tier} was not asked for suspicious snapshots: {error.message}"
                )
                continue
            if repository is not None:
                found |= {one.id: one for one in repository.state.suspicions.open()}
                cleared |= repository.state.suspicions.cleared.keys()
        if own is not None:
            cleared -= {one.id for one in own.state.suspicions.open()}
        waiting = [one for one in found.values() if one.id not in cleared]
        return sorted(waiting, key=lambda one: (one.captured_at, one.id))

    def clear(
        self, dataset: str, snapshot: str, *, reason: str, by: str, cleared: bool = True
    ) -> Cleared:
        """Say in every tier that a suspicious snapshot is as it should be.

        Args:
            dataset: The dataset's key.
            snapshot: Its id in any tier; a beginning will do.
            reason: Why, for whoever asks later.
            by: Who says so.
            cleared: False takes it back.

        Raises:
            NotFound: No tier has such a suspicious snapshot.
            UsageError: The id is ambiguous, no reason is given, or a repository is another
                deployment's.
        """
        self.notices.clear()
        if not reason.strip():
            raise UsageError("clear needs a reason, for whoever asks later", 'give --reason "…"')
        spec = self.plan.dataset(dataset)
        repositories = self.repositories(dataset)
        one = self._flagged(dataset, repositories, snapshot)
        holding = [r for r in repositories if one.id in r.state.suspicions.flagged]
        from backup_pipeline.engine.operations.judging import clear

        for repository in holding:
            self._require_ours(spec, spec.tier(repository.tier), repository)
        for repository in holding:
            clear(repository, one.id, cleared=cleared, reason=reason, by=by, clock=self._clock)
        tiers = tuple(repository.tier for repository in holding)
        day = one.day.isoformat()
        return Cleared(dataset, one.id, day, cleared, reason, by, tiers, tuple(one.says))

    def _flagged(self, dataset: str, repositories: list[Repository], prefix: str) -> Suspicion:
        wanted = prefix.lower()
        found: dict[str, Suspicion] = {}
        for repository in repositories:
            suspicions = repository.state.suspicions
            found |= {key: s for key, s in suspicions.flagged.items() if key.startswith(wanted)}
            for key, (_, body) in repository.state.snapshots.items():
                one = suspicions.of(body) if key.startswith(wanted) else None
                if one is not None:
                    found[one.id] = one
        if len(found) == 1 and wanted:
            return next(iter(found.values()))
        if found and wanted:
            raise UsageError(
                f"{len(found)} suspicious snapshots of {dataset} begin with {prefix!r}",
                "write more of the id",
            )
        there = ", ".join(f"{one.id[:12]} of {one.day}" for one in self.suspicions(dataset))
        raise NotFound(
            f"{dataset} has no suspicious snapshot {prefix!r}",
            f"there are {there}" if there else "none of its snapshots is suspicious",
        )


def bring_clearances(source: Repository, target: Repository, clock: Callable[[], datetime]) -> None:
    """Clear in a tier what was cleared in the tier that was copied from, while it was not there."""
    from backup_pipeline.engine.operations.judging import clear

    known: Mapping[str, Mapping[str, Any]] = source.state.suspicions.cleared
    for one in target.state.suspicions.open():
        said = known.get(one.id)
        if said is not None:
            reason, by = str(said.get("reason")), str(said.get("by"))
            clear(target, one.id, cleared=True, reason=reason, by=by, clock=clock)

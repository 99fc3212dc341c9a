"""Prune: delete what no live snapshot needs, long after saying so in the log.

Order of work, harmless when stopped or paused at any point:

1. Names that earlier prunes condemned, and whose grace has passed, are deleted. Nobody can have
   come to need them since: who commits looks for condemned names first, and they never come back.
2. What is needed is added up from the manifests of all live snapshots.
3. The rest that the log knows is condemned by one record, appended only if no other record came
   in since 2. Nothing of it is deleted before its grace has passed.

Things that the log knows nothing of are reported and never touched.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from backup_pipeline.engine.errors import Conflict, DamageError, StoreError
from backup_pipeline.engine.format.record import (
    DIGEST_BYTES,
    ID_BYTES,
    Snapshot,
    from_iso,
    is_hex,
    to_iso,
)
from backup_pipeline.engine.operations.clocks import require_clock
from backup_pipeline.engine.progress import Meter, Report
from backup_pipeline.engine.repository import Repository, utc_now
from backup_pipeline.engine.store import StoredObject

__all__ = ["PRUNE_GRACE", "RUN_ABANDONED_AFTER", "PruneReport", "prune", "why_pack"]

PRUNE_GRACE: Final = timedelta(days=3)
"""How long what was condemned stays in the store: longer than any restore, copy or verification
that may still be reading it takes, and over a weekend, in which nobody looks at what was
announced."""

RUN_ABANDONED_AFTER: Final = timedelta(days=7)
"""How long ago a run that committed nothing must have begun, and have stored its last pack, before
that is waste: a first backup over a slow line takes days, and the next run takes up what an
interrupted one stored."""

MOST_ATTEMPTS = 20
MOST_LISTED = 100
_NEVER = datetime.max.replace(tzinfo=UTC)
_OWN_FOLDERS = ("keys/", "log/", "twin/")


@dataclass(slots=True)
class PruneReport:
    """What a prune did, or with ``applied`` off would do.

    Attributes:
        applied: Whether it was done.
        needed_objects: Packs and segments that live snapshots need.
        needed_bytes: Their stored bytes.
        running_objects: Those of runs that may still be at work or be taken up.
        running_bytes: Their stored bytes.
        condemned_objects: Those that were condemned now, to be deleted after the grace.
        condemned_bytes: Their stored bytes.
        waiting_objects: Those condemned earlier whose grace has not passed.
        waiting_bytes: Their stored bytes.
        next_deletion: When the first of them may be deleted (UTC); None where none waits.
        deleted_objects: Those deleted now.
        deleted_bytes: Their stored bytes.
        refused: Those that the store would not delete (locked, or no permission), with its words.
        refused_count: How many there are; ``refused`` lists the first.
        unknown: Things in the repository that the log knows nothing of; never touched.
        unknown_count: How many there are; ``unknown`` lists the first.
        unknown_bytes: Their bytes.
        duration_s: Seconds it took.
    """

    dataset: str
    tier: str
    applied: bool
    needed_objects: int = 0
    needed_bytes: int = 0
    running_objects: int = 0
    running_bytes: int = 0
    condemned_objects: int = 0
    condemned_bytes: int = 0
    waiting_objects: int = 0
    waiting_bytes: int = 0
    next_deletion: datetime | None = None
    deleted_objects: int = 0
    deleted_bytes: int = 0
    refused: list[str] = field(default_factory=list[str])
    refused_count: int = 0
    unknown: list[str] = field(default_factory=list[str])
    unknown_count: int = 0
    unknown_bytes: int = 0
    duration_s: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Fields by name."""
        value = asdict(self)
        value["next_deletion"] = to_iso(self.next_deletion) if self.next_deletion else None
        return value


class _Overtaken(Exception):
    """Another writer's record came first; what was added up may be wrong by now."""


def prune(
    repository: Repository,
    *,
    apply: bool = False,
    clock: Callable[[], datetime] = utc_now,
    report: Report | None = None,
) -> PruneReport:
    """Delete what was condemned, and condemn what is not needed.

    Args:
        repository: Where.
        apply: Whether to do it; else it is only said what would be done.
        clock: Tells the time.
        report: Is told the progress.

    Raises:
        UsageError: This machine's clock is wrong; nothing was done.
        DamageError: A manifest cannot be read, so what it needs is not known; what was condemned
            before was deleted, and nothing new was condemned.
        Conflict: Other writers kept coming first.
    """
    return _Prune(repository, apply, clock, report).run()


class _Prune:
    """One run of the verb."""

    def __init__(
        self,
        repository: Repository,
        apply: bool,
        clock: Callable[[], datetime],
        report: Report | None,
    ) -> None:
        self.repository = repository
        self.apply = apply
        self.clock = clock
        self.result = PruneReport(repository.dataset, repository.tier, apply)
        self.meter = Meter(f"prune {repository.dataset} in {repository.tier}", report)

    def run(self) -> PruneReport:
        """Do it."""
        repository = self.repository
        repository.refresh()
        require_clock(repository, self.clock())
        self.meter.enter("listing")
        there = self._list()
        self.meter.enter("deleting")
        rest = self._delete(there)
        for _ in range(MOST_ATTEMPTS):
            self.meter.enter("adding up")
            names = self._waste(rest)
            if not names or not self.apply:
                break
            body = {
                "type": "condemn",
                "names": sorted(names),
                "reason": "no live snapshot needs it",
                "not_before": to_iso(self.clock() + PRUNE_GRACE),
                "at": to_iso(self.clock()),
            }
            try:
                repository.log.append(body, _overtaken)
                break
            except _Overtaken:
                continue
        else:
            raise Conflict(
                f"{MOST_ATTEMPTS} other writers came first while {repository.dataset} in tier"
                f" {repository.tier} was pruned",
                "nothing new was condemned; run it again",
            )
        if self.apply:
            repository.store.sweep(repository.prefix, older_than=RUN_ABANDONED_AFTER)
        self.result.duration_s = self.meter.elapsed_s
        self.meter.show(now=True)
        return self.result

    # -- what is there

    def _list(self) -> dict[str, StoredObject]:
        """Packs and segments by name below the prefix; what is unknown is noted."""
        prefix, runs = self.repository.prefix, self.repository.state.runs
        there: dict[str, StoredObject] = {}
        for found in self.repository.store.list(prefix):
            name = found.name.removeprefix(prefix)
            if name.startswith(_OWN_FOLDERS):
                continue
            if _is_ours(name, runs):
                there[name] = found
                continue
            self.result.unknown_count += 1
            self.result.unknown_bytes += found.size_bytes
            if len(self.result.unknown) < MOST_LISTED:
                self.result.unknown.append(name)
        return there

    # -- what goes

    def _delete(self, there: Mapping[str, StoredObject]) -> dict[str, StoredObject]:
        """Delete what was condemned and has waited; the others that are there."""
        result, state = self.result, self.repository.state
        due = _Due(self.repository)
        now = min(self.clock(), self.repository.store.now())
        rest: dict[str, StoredObject] = {}
        for name, found in there.items():
            if not state.is_condemned(_protects(name)):
                rest[name] = found
                continue
            not_before = due.of(_protects(name))
            if not_before > now:
                result.waiting_objects += 1
                result.waiting_bytes += found.size_bytes
                earliest = result.next_deletion
                result.next_deletion = min(earliest or not_before, not_before)
            elif self._deleted(found):
                result.deleted_objects += 1
                result.deleted_bytes += found.size_bytes
                self.meter.add(found.size_bytes, 1)
        return rest

    def _deleted(self, found: StoredObject) -> bool:
        if not self.apply:
            return True
        try:
            self.repository.store.delete(found.name)
        except StoreError as error:
            self.result.refused_count += 1
            if len(self.result.refused) < MOST_LISTED:
                self.result.refused.append(f"{found.name}: {error.message}")
            return False
        return True

    def _waste(self, there: Mapping[str, StoredObject]) -> set[str]:
        """Names that no live snapshot needs and no run is at work on; whole runs as such, so that
        the log stays small."""
        result, repository = self.result, self.repository
        needed = self._needed()
        active, committed = self._runs_at_work(there), self._segments_of_expired()
        young = repository.store.now() - RUN_ABANDONED_AFTER
        for kind in ("needed", "running", "condemned"):
            setattr(result, f"{kind}_objects", 0)
            setattr(result, f"{kind}_bytes", 0)
        waste: set[str] = set()
        spared = {_run_of(name) for name in needed}  # also where a pack that is needed is lost
        for name, found in there.items():
            protects = _protects(name)
            if protects in needed:
                kind = "needed"
            elif protects.startswith("packs/") and protects.split("/")[1] in active:
                kind = "running"
            elif (
                protects.startswith("manifests/")
                and protects not in committed
                and found.modified_at > young
            ):
                kind = "running"  # no record says whose a segment is before it is committed
            else:
                kind = "condemned"
                waste.add(protects)
            if kind != "condemned":
                spared.add(_run_of(protects))
            setattr(result, f"{kind}_objects", getattr(result, f"{kind}_objects") + 1)
            size = getattr(result, f"{kind}_bytes") + found.size_bytes
            setattr(result, f"{kind}_bytes", size)
        return {
            name if (run := _run_of(name)) is None or run in spared else f"packs/{run}"
            for name in waste
        }

    def _needed(self) -> set[str]:
        repository = self.repository
        segments = {
            segment.name: segment
            for snapshot in repository.snapshots()
            for segment in snapshot.segments
        }
        try:
            return repository.segments.needs(segments.values())
        except DamageError as error:
            raise DamageError(
                f"{repository.dataset} in tier {repository.tier}: what its snapshots need is not"
                f" known, so nothing was condemned: {error.message}",
                "run `backup-pipeline repair` first",
            ) from None

    def _segments_of_expired(self) -> set[str]:
        state = self.repository.state
        bodies = (state.snapshots.get(key, (0, {}))[1] for key in state.expired)
        return {f"manifests/{one['name']}" for body in bodies for one in body.get("segments", ())}

    def _runs_at_work(self, there: Mapping[str, StoredObject]) -> set[str]:
        """Runs without a snapshot that began, or stored something, not long ago."""
        state, store = self.repository.state, self.repository.store
        finished = {body.get("run") for _, body in state.snapshots.values()}
        limit = min(self.clock(), store.now()) - RUN_ABANDONED_AFTER
        recent = {
            name.split("/")[1]
            for name, found in there.items()
            if name.startswith("packs/") and found.modified_at > limit
        }
        return {
            run
            for run, body in state.runs.items()
            if run not in finished
            and not body.get("finished")
            and (run in recent or _began(body, limit) > limit)
        }


class _Due:
    """When condemned names may be deleted, as the records say that condemned them."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._times: dict[int, datetime] = {}

    def of(self, name: str) -> datetime:
        """The time before which a condemned name stays."""
        condemned = self._repository.state.condemned
        at = condemned.get(name, -1)
        at = condemned[name.rsplit("/", 1)[0]] if at < 0 else at
        if at not in self._times:
            self._times[at] = _NEVER  # where its record cannot be read, it stays
            with suppress(DamageError, KeyError, TypeError, ValueError):
                self._times[at] = from_iso(self._repository.log.read(at).body["not_before"])
        return self._times[at]


def _overtaken() -> None:
    raise _Overtaken


def _is_ours(name: str, runs: Mapping[str, Any]) -> bool:
    """Whether a thing below the prefix is a segment, or a pack (or its parity) of a known run."""
    folder, _, rest = name.partition("/")
    if folder == "manifests":
        return is_hex(rest, DIGEST_BYTES)
    run, _, digest = rest.partition("/")
    known = is_hex(run, ID_BYTES) and run in runs
    return folder in ("packs", "parity") and known and is_hex(digest, DIGEST_BYTES)


def _protects(name: str) -> str:
    """The name that a thing stays or goes with: parity goes with its pack."""
    return f"packs/{name.removeprefix('parity/')}" if name.startswith("parity/") else name


def _run_of(name: str) -> str | None:
    return name.split("/")[1] if name.startswith("packs/") else None


def _began(body: Mapping[str, Any], otherwise: datetime) -> datetime:
    with suppress(KeyError, TypeError, ValueError):
        return from_iso(body["started_at"])
    return otherwise


def why_pack(repository: Repository, name: str) -> list[str]:
    """Says why a pack or a segment is in the store.

    Args:
        repository: Where.
        name: Its name below the prefix, or the beginning of its digest.

    Returns:
        One sentence each; none where there is no such thing.
    """
    found = _find(repository, name)
    if not found:
        return []
    state, needing = repository.state, _needing(repository)
    due, said = _Due(repository), list[str]()
    for full in found:
        users = needing.get(_protects(full), [])
        said += [f"{full}: snapshot {one.id[:12]} of {one.day} needs it" for one in users]
        if state.is_condemned(_protects(full)):
            until = due.of(_protects(full))
            said.append(f"{full}: condemned; a prune after {to_iso(until)} deletes it")
        elif not users:
            said.append(
                f"{full}: no live snapshot needs it; prune condemns it unless a run is at work"
            )
    return said


def _needing(repository: Repository) -> dict[str, list[Snapshot]]:
    """The live snapshots that need a thing, by its name."""
    by_segment: dict[str, set[str]] = {}
    needing: dict[str, list[Snapshot]] = {}
    for one in repository.snapshots():
        names: set[str] = set()
        for segment in one.segments:
            if segment.name not in by_segment:
                by_segment[segment.name] = repository.segments.needs([segment])
            names |= by_segment[segment.name]
        for name in names:
            needing.setdefault(name, []).append(one)
    return needing


def _find(repository: Repository, name: str) -> list[str]:
    prefix = repository.prefix
    wanted = name.removeprefix(prefix)
    names = (one.name.removeprefix(prefix) for one in repository.store.list(prefix))
    things = (one for one in names if not one.startswith(_OWN_FOLDERS))
    return [one for one in things if one == wanted or one.rsplit("/", 1)[-1].startswith(wanted)]

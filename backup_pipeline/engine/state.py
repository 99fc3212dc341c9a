"""What a repository's log adds up to: a fold over its records, and the checkpoint of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any, cast

from backup_pipeline.engine.errors import DamageError, UsageError
from backup_pipeline.engine.format.record import Record, Segment, Snapshot, from_iso
from backup_pipeline.engine.suspicions import CLEAR, Suspicions

__all__ = ["MOST_VERIFICATIONS", "RepositoryState", "best_of"]

MOST_DRILLS = 400
"""Records of drills that a checkpoint carries on: a drill that is left out counts as not done."""

MOST_VERIFICATIONS = 100
"""Records of verifications that a checkpoint carries on: the newest are what counts."""

_TIMING_ORDER = {"late": 0, "on-time": 1, "exact": 2}


def _by_name() -> dict[str, Any]:
    return {}


def _in_order() -> list[tuple[int, Mapping[str, Any]]]:
    return []


@dataclass(slots=True)
class RepositoryState:
    """The live facts of a repository.

    Attributes:
        dataset: The dataset's key.
        tier: The tier's name.
        deployment: The deployment allowed to write here; None for any.
        runs: Run id to its wraps and what it set out to do.
        snapshots: Snapshot id to (sequence, body), in commit order.
        expired: Snapshot id to the reason of its expiry; those that a checkpoint left out are gone.
        expired_days: Days of complete snapshots that expired and that a checkpoint left out.
        pinned: Snapshot id to the pin's words.
        condemned: Name of an object to the sequence of the record that condemned it.
        replacements: Name of a pack to the names of the packs that hold its chunks now; name of a
            segment to the segments (as a snapshot lists them) that stand for it now.
        suspicions: Which snapshots are suspicious, which were cleared, and what is usual.
        unknown: Optional records, of drills, verifications and unknown types:
            (sequence, body).
        extra: Members of a checkpoint's state that this version does not know.

    Names of objects are relative to the repository's prefix, such as ``packs/<run>/<sha256>``.
    """

    dataset: str = ""
    tier: str = ""
    deployment: str | None = None
    created_at: str = ""
    key_set: str = ""
    runs: dict[str, dict[str, Any]] = field(default_factory=_by_name)
    snapshots: dict[str, tuple[int, Mapping[str, Any]]] = field(default_factory=_by_name)
    expired: dict[str, str] = field(default_factory=_by_name)
    expired_days: set[str] = field(default_factory=set[str])
    pinned: dict[str, str] = field(default_factory=_by_name)
    condemned: dict[str, int] = field(default_factory=_by_name)
    replacements: dict[str, list[Any]] = field(default_factory=_by_name)
    suspicions: Suspicions = field(default_factory=Suspicions)
    unknown: list[tuple[int, Mapping[str, Any]]] = field(default_factory=_in_order)
    extra: dict[str, Any] = field(default_factory=_by_name)
    parsed: dict[str, Snapshot] = field(default_factory=_by_name, repr=False)

    def apply(self, record: Record) -> None:
        """Take in the next record.

        Raises:
            DamageError: It lacks what its type must say.
            UsageError: It is of a type that only a later version knows.
        """
        body = record.body
        try:
            match record.type:
                case "checkpoint":
                    self._restore(body["state"])
                case "keys":
                    self._keys(body)
                case "run":
                    self._run(body)
                case "snapshot":
                    self.snapshots.setdefault(_text(body, "id"), (record.sequence, body))
                    self.suspicions.take_snapshot(body)
                case "expire":
                    for entry in body["snapshots"]:
                        # A pin that came first counts: who expired had not seen it.
                        if entry["id"] not in self.pinned:
                            self.expired[_text(entry, "id")] = _text(entry, "reason")
                case "pin":
                    self._pin(body)
                case "condemn":
                    self._condemn(_names(body["names"]), record.sequence)
                case "replacement":
                    for name, others in body["replacements"].items():
                        self.replacements[name] = _standing(name, others)
                case "clear":
                    self.suspicions.take_clear(body)
                case _ if body.get("optional") is True:
                    self.unknown.append((record.sequence, body))
                case unknown:
                    raise UsageError(
                        f"log record {record.sequence} is of the unknown type {unknown}",
                        "a later version wrote it; upgrade backup-pipeline",
                    )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DamageError(
                f"log record {record.sequence} ({record.type}) is unusable: {error!r}"
            ) from None

    def _keys(self, body: Mapping[str, Any]) -> None:
        self.key_set = _text(body, "key_set")
        if "dataset" in body:
            self.dataset, self.tier = _text(body, "dataset"), _text(body, "tier")
            self.created_at = _text(body, "created_at")
            self.deployment = _text(body, "deployment") if body.get("deployment") else None

    def _run(self, body: Mapping[str, Any]) -> None:
        own = {**body, "wraps": _wraps(body["wraps"])}
        own.pop("foreign", None)
        self.runs[_text(body, "run")] = own
        for run, wraps in body.get("foreign", {}).items():
            other = {"run": run, "wraps": _wraps(wraps), "foreign_run": True}
            self.runs.setdefault(run, other)

    def _pin(self, body: Mapping[str, Any]) -> None:
        snapshot, reason = _text(body, "snapshot"), _text(body, "reason")
        if body["pinned"]:
            self.pinned[snapshot] = reason
        else:
            self.pinned.pop(snapshot, None)

    def _condemn(self, names: list[str], sequence: int) -> None:
        self.condemned.update(dict.fromkeys(names, sequence))
        runs = {name for name in names if name.startswith("packs/") and name.count("/") == 1}
        if runs:  # the word over a whole run includes those over its packs
            self.condemned = {
                name: at
                for name, at in self.condemned.items()
                if name.count("/") == 1 or name.rsplit("/", 1)[0] not in runs
            }

    @property
    def newest_condemnation(self) -> int:
        """Sequence of the record that condemned something last; -1 where none did."""
        return max(self.condemned.values(), default=-1)

    def is_condemned(self, name: str) -> bool:
        """Whether an object was condemned, by its own name or with its whole run."""
        return name in self.condemned or name.rsplit("/", 1)[0] in self.condemned

    @property
    def drills(self) -> list[Mapping[str, Any]]:
        """Bodies of the records of drills, in order."""
        return [body for _, body in self.unknown if body.get("type") == "drill"]

    @property
    def verifications(self) -> list[Mapping[str, Any]]:
        """Bodies of the records of verifications, in order."""
        return [body for _, body in self.unknown if body.get("type") == "verify"]

    def _carried(self) -> list[tuple[int, Mapping[str, Any]]]:
        """The optional records, but of drills and verifications the newest alone."""
        dropped: set[int] = set()
        for kind, most in (("drill", MOST_DRILLS), ("verify", MOST_VERIFICATIONS)):
            found = [sequence for sequence, body in self.unknown if body.get("type") == kind]
            dropped.update(found[:-most])
        return [(sequence, body) for sequence, body in self.unknown if sequence not in dropped]

    def days_expired(self) -> set[date]:
        """Days that had a good snapshot and have none any more, because it expired."""
        days = set(self.expired_days)
        for key in self.expired:
            _, body = self.snapshots.get(key, (0, {}))
            if body.get("status") == "complete":
                days.add(str(body["day"]))
        live = {one.day for one in self.live() if one.status == "complete"}
        return {date.fromisoformat(day) for day in days} - live

    def newest_moment(self) -> datetime | None:
        """The newest time that a writer's clock left in the log's runs and snapshots."""
        said = [str(body.get("started_at", "")) for body in self.runs.values()]
        said += [str(body["finished_at"]) for _, body in self.snapshots.values()]
        newest = max(said, default="")  # they are written alike, so they compare as text
        return from_iso(newest) if newest else None

    def checkpoint(self) -> dict[str, Any]:
        """The body of a checkpoint record of this state; what expired is left out."""
        state = {name: getattr(self, name) for name in _CHECKPOINT}
        left_out = {key: body for key, (_, body) in self.snapshots.items() if key in self.expired}
        finished = {body.get("run") for body in left_out.values()}
        state["snapshots"] = [
            [sequence, body]
            for key, (sequence, body) in self.snapshots.items()
            if key not in left_out
        ]
        state["expired"] = {}
        state["pinned"] = {
            key: words for key, words in self.pinned.items() if key not in self.expired
        }
        state["runs"] = {
            run: {**body, "finished": True} if run in finished else body
            for run, body in self.runs.items()
        }
        state["unknown"] = [[sequence, body] for sequence, body in self._carried()]
        good = {body["day"] for body in left_out.values() if body["status"] == "complete"}
        days = sorted(self.expired_days | good)
        more = {"expired_days": days} if days else {}
        more |= self.suspicions.to_json()
        return {"type": "checkpoint", "state": {**self.extra, **state, **more}}

    def _restore(self, state: Mapping[str, Any]) -> None:
        for name in _CHECKPOINT:
            kind = "list" if name in _LISTS else type(getattr(self, name)).__name__
            if type(state[name]).__name__ != kind and name != "deployment":
                raise TypeError(f"state.{name} is of another type")
        for name in set(_CHECKPOINT) - set(_LISTS):
            setattr(self, name, state[name])
        for body in self.runs.values():
            _wraps(body["wraps"])
        self.replacements = {
            name: _standing(name, found) for name, found in self.replacements.items()
        }
        self.snapshots = {_text(body, "id"): (int(at), body) for at, body in state["snapshots"]}
        self.unknown = [
            (int(sequence), dict(body))
            for sequence, body in state["unknown"]
            if body.get("type") != CLEAR
        ]
        self.suspicions = Suspicions.from_json(state)
        self.expired_days = {date.fromisoformat(day).isoformat() for day in _days(state)}
        known = {*_CHECKPOINT, "expired_days", "suspicious", "cleared", "profile"}
        self.extra = {name: value for name, value in state.items() if name not in known}
        self.parsed.clear()

    def live(self) -> list[Snapshot]:
        """Snapshots that are not expired, in commit order."""
        return [self.snapshot(key) for key in self.snapshots if key not in self.expired]

    def snapshot(self, key: str) -> Snapshot:
        """One snapshot by its whole id."""
        found = self.parsed.get(key)
        if found is None:
            sequence, body = self.snapshots[key]
            found = Snapshot.from_body(body, sequence, dataset=self.dataset, tier=self.tier)
            self.parsed[key] = found
        return found

    def unfinished_run(
        self, *, kind: str, chain: str | None, parent: str | None, base: str | None, operation: str
    ) -> dict[str, Any] | None:
        """The newest run of the same work that committed no snapshot, to take up its packs."""
        finished = {body.get("run") for _, body in self.snapshots.values()}
        finished |= {run for run, body in self.runs.items() if body.get("finished")}
        # A name that was condemned must not come back, so neither does a run that has one.
        finished |= {name.split("/")[1] for name in self.condemned if name.startswith("packs/")}
        same = [
            body
            for run, body in self.runs.items()
            if run not in finished
            and body.get("operation") == operation
            and (body.get("kind"), body.get("parent"), body.get("base")) == (kind, parent, base)
            and chain in (None, body.get("chain"))
        ]
        return max(same, key=lambda body: str(body.get("started_at")), default=None)


_LISTS = ("snapshots", "unknown")
_CHECKPOINT = (
    "dataset",
    "tier",
    "deployment",
    "created_at",
    "key_set",
    "runs",
    "snapshots",
    "expired",
    "pinned",
    "condemned",
    "replacements",
    "unknown",
)


def _days(state: Mapping[str, Any]) -> list[str]:
    value = state.get("expired_days", [])
    if not isinstance(value, list):
        raise TypeError("expired_days is no list")
    return cast("list[str]", value)


def _text(body: Mapping[str, Any], name: str) -> str:
    value = body[name]
    if not isinstance(value, str):
        raise TypeError(f"{name} is no text")
    return value


def _names(value: object) -> list[str]:
    """Names of objects below the repository's prefix."""
    if not isinstance(value, list):
        raise TypeError("no list of names")
    names = cast("list[object]", value)
    if not all(isinstance(one, str) and one.count("/") in {1, 2} for one in names):
        raise ValueError("a name of another shape")
    return cast("list[str]", names)


def _standing(name: str, value: Any) -> list[Any]:
    """What stands for a pack or a segment."""
    if name.startswith("manifests/"):
        return [Segment.from_json(entry).to_json() for entry in value]
    return _names(value)


def _wraps(value: object) -> list[dict[str, Any]]:
    if not isinstance(value, list):
        raise TypeError("no list of wraps")
    wraps = cast("list[object]", value)
    if not all(isinstance(one, dict) for one in wraps):
        raise TypeError("a wrap of another type")
    return cast("list[dict[str, Any]]", wraps)


def _rank(snapshot: Snapshot) -> tuple[bool, int, Any, int]:
    return (
        snapshot.status == "complete",
        _TIMING_ORDER.get(snapshot.timing, 0),
        snapshot.captured_at,
        snapshot.sequence,
    )


def best_of(snapshots: list[Snapshot], day: date) -> Snapshot | None:
    """The day's snapshot: complete before incomplete, exact before on time before late, then the
    newest captured, then the one committed last."""
    return max((one for one in snapshots if one.day == day), key=_rank, default=None)

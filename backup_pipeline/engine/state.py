"""What a repository's log adds up to: a fold over its records, and the checkpoint of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Any

from backup_pipeline.engine.errors import DamageError
from backup_pipeline.engine.format.record import Record, Snapshot

__all__ = ["RepositoryState", "best_of"]

_TIMING_ORDER = {"late": 0, "on-time": 1, "exact": 2}


def _by_name() -> dict[str, Any]:
    return {}


@dataclass(slots=True)
class RepositoryState:
    """The live facts of a repository.

    Attributes:
        dataset: The dataset's key.
        tier: The tier's name.
        deployment: The deployment allowed to write here; None for any.
        runs: Run id to its wraps and what it set out to do.
        snapshots: Snapshot id to (sequence, body), in commit order.
        expired: Snapshot id to the reason of its expiry.
        pinned: Snapshot id to the pin's words.
        condemned: Name of an object to the sequence of the record that condemned it.
        replacements: Pack name to what replaces it.
    """

    dataset: str = ""
    tier: str = ""
    deployment: str | None = None
    created_at: str = ""
    key_set: str = ""
    runs: dict[str, dict[str, Any]] = field(default_factory=_by_name)
    snapshots: dict[str, tuple[int, Mapping[str, Any]]] = field(default_factory=_by_name)
    expired: dict[str, str] = field(default_factory=_by_name)
    pinned: dict[str, str] = field(default_factory=_by_name)
    condemned: dict[str, int] = field(default_factory=_by_name)
    replacements: dict[str, Any] = field(default_factory=_by_name)
    parsed: dict[str, Snapshot] = field(default_factory=_by_name, repr=False)

    def apply(self, record: Record) -> None:
        """Take in the next record.

        Raises:
            DamageError: It lacks what its type must say.
        """
        body = record.body
        try:
            match record.type:
                case "checkpoint":
                    self._restore(body["state"])
                case "keys":
                    self._keys(body)
                case "run":
                    own = dict(body)
                    foreign = own.pop("foreign", {})
                    self.runs[body["run"]] = own
                    for run, wraps in foreign.items():
                        self.runs.setdefault(run, {"run": run, "wraps": wraps, "foreign_run": True})
                case "snapshot":
                    self.snapshots[body["id"]] = (record.sequence, body)
                case "expire":
                    for entry in body["snapshots"]:
                        self.expired[entry["id"]] = entry["reason"]
                case "pin":
                    self._pin(body)
                case "condemn":
                    self.condemned.update(dict.fromkeys(body["names"], record.sequence))
                case "replacement":
                    self.replacements.update(body["replacements"])
                case unknown if body.get("optional"):
                    del unknown
                case unknown:
                    raise DamageError(
                        f"log record {record.sequence} is of the unknown type {unknown}",
                        "a later version may have written it; upgrade backup-pipeline",
                    )
        except (KeyError, TypeError, AttributeError) as error:
            raise DamageError(
                f"log record {record.sequence} ({record.type}) lacks {error}"
            ) from None

    def _keys(self, body: Mapping[str, Any]) -> None:
        self.key_set = body["key_set"]
        if "dataset" in body:
            self.dataset = body["dataset"]
            self.tier = body["tier"]
            self.deployment = body.get("deployment")
            self.created_at = body["created_at"]

    def _pin(self, body: Mapping[str, Any]) -> None:
        if body["pinned"]:
            self.pinned[body["snapshot"]] = body.get("reason", "")
        else:
            self.pinned.pop(body["snapshot"], None)

    def checkpoint(self) -> dict[str, Any]:
        """The body of a checkpoint record of this state."""
        return {
            "type": "checkpoint",
            "state": {
                "dataset": self.dataset,
                "tier": self.tier,
                "deployment": self.deployment,
                "created_at": self.created_at,
                "key_set": self.key_set,
                "runs": self.runs,
                "snapshots": [[sequence, body] for sequence, body in self.snapshots.values()],
                "expired": self.expired,
                "pinned": self.pinned,
                "condemned": self.condemned,
                "replacements": self.replacements,
            },
        }

    def _restore(self, state: Mapping[str, Any]) -> None:
        self.dataset = state["dataset"]
        self.tier = state["tier"]
        self.deployment = state["deployment"]
        self.created_at = state["created_at"]
        self.key_set = state["key_set"]
        self.runs = dict(state["runs"])
        self.snapshots = {body["id"]: (sequence, body) for sequence, body in state["snapshots"]}
        self.expired = dict(state["expired"])
        self.pinned = dict(state["pinned"])
        self.condemned = dict(state["condemned"])
        self.replacements = dict(state["replacements"])

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
        finished = {body["run"] for _, body in self.snapshots.values()}
        for run, body in reversed(self.runs.items()):
            if body.get("foreign_run") or run in finished or body.get("operation") != operation:
                continue
            same = (body["kind"], body["parent"], body["base"]) == (kind, parent, base)
            if same and chain in (None, body["chain"]):
                return body
        return None


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

"""What a repository's log says of suspicious snapshots: which there are, and which were cleared.

A snapshot is flagged by its own record, so there is no moment at which it is committed and not
flagged. It is named by the id that it had in the tier that read the source; its copies in other
tiers have the same, and name those that were suspicious there when they were copied.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any, cast

from backup_pipeline.engine.format.record import from_iso, is_hex
from backup_pipeline.engine.measure import Measure
from backup_pipeline.engine.profile import Profile

__all__ = ["CLEAR", "Suspicion", "Suspicions", "findings_of"]

CLEAR = "clear"
"""The type of the optional record that clears a snapshot, or takes that back."""

_ID_BYTES = 16


def findings_of(anomaly: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    """What made a snapshot suspicious, from its record; nothing where it is not."""
    found: object = (anomaly or {}).get("findings")
    if not isinstance(found, list):
        return []
    return [one for one in cast("list[Any]", found) if isinstance(one, dict)]


def _anomaly(body: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a snapshot's body says of anomalies; nothing where it has another shape."""
    found: object = body.get("anomaly")
    return cast("dict[str, Any]", found) if isinstance(found, dict) else {}


@dataclass(frozen=True, slots=True)
class Suspicion:
    """A snapshot that was flagged.

    Attributes:
        id: The snapshot's id in the tier that read the source.
        day: The day that it stands for.
        captured_at: When the source began to be read.
        says: What is suspicious, in words.
    """

    id: str
    day: date
    captured_at: datetime
    says: Sequence[str]

    def to_json(self) -> dict[str, Any]:
        """Fields by name, as records keep them."""
        return {
            "snapshot": self.id,
            "day": self.day.isoformat(),
            "captured_at": self.captured_at.isoformat().replace("+00:00", "Z"),
            "says": list(self.says),
        }

    @staticmethod
    def from_json(said: Mapping[str, Any]) -> Suspicion:
        """Read one.

        Raises:
            KeyError, ValueError, TypeError, AttributeError: It is none.
        """
        if not is_hex(said["snapshot"], _ID_BYTES):
            raise ValueError("a suspicion of no snapshot")
        says = [str(one) for one in said.get("says", ())]
        moment = from_iso(said["captured_at"])
        return Suspicion(said["snapshot"], date.fromisoformat(said["day"]), moment, says)


@dataclass(slots=True)
class Suspicions:
    """What the log adds up to.

    Attributes:
        flagged: Every flagged snapshot by its id, cleared or not.
        cleared: Those that somebody cleared: by whom, when and why.
        profile: What the dataset's days are like, without what is suspicious.
    """

    flagged: dict[str, Suspicion] = field(default_factory=dict[str, Suspicion])
    cleared: dict[str, Mapping[str, Any]] = field(default_factory=dict[str, Mapping[str, Any]])
    profile: Profile = field(default_factory=Profile)
    _measured: dict[str, tuple[date, Measure, bool]] = field(
        default_factory=dict[str, tuple[date, Measure, bool]]
    )

    def open(self) -> list[Suspicion]:
        """Those that nobody cleared, the oldest first."""
        waiting = [one for one in self.flagged.values() if one.id not in self.cleared]
        return sorted(waiting, key=lambda one: (one.captured_at, one.id))

    def holds(self, captured_at: datetime) -> bool:
        """Whether a snapshot whose source was read then may not expire, for it may be needed."""
        waiting = self.open()
        return bool(waiting) and captured_at <= waiting[0].captured_at

    def of(self, body: Mapping[str, Any]) -> Suspicion | None:
        """The suspicion of a snapshot, cleared or not, from its record's body."""
        anomaly = _anomaly(body)
        return self.flagged.get(str(anomaly.get("snapshot"))) if findings_of(anomaly) else None

    def take_snapshot(self, body: Mapping[str, Any]) -> None:
        """Take in a snapshot's record; what it says of anomalies in another shape is passed over:
        it was sealed with the dataset's key, so a later version may have written it."""
        anomaly = _anomaly(body)
        if not anomaly:
            return
        try:
            for said in anomaly.get("open", ()):
                other = Suspicion.from_json(said)
                self.flagged.setdefault(other.id, other)
            if isinstance(anomaly.get("cleared"), dict):
                self.cleared[str(anomaly["snapshot"])] = anomaly["cleared"]
            self._take_own(body, anomaly)
        except (KeyError, ValueError, TypeError, AttributeError):
            return

    def _take_own(self, body: Mapping[str, Any], anomaly: Mapping[str, Any]) -> None:
        identity, day = str(anomaly["snapshot"]), date.fromisoformat(body["day"])
        findings = findings_of(anomaly)
        if findings:
            says = [str(one.get("says")) for one in findings]
            own = Suspicion(identity, day, from_iso(body["captured_at"]), says)
            self.flagged.setdefault(identity, own)
        if "measure" in anomaly and "skipped" not in anomaly:
            measure = Measure.from_json(anomaly["measure"])
            explained = bool(anomaly.get("explained"))
            if findings and identity not in self.cleared:
                self._measured[identity] = (day, measure, explained)
            else:
                self.profile.take(day, measure, explained=explained)

    def take_clear(self, body: Mapping[str, Any]) -> None:
        """Take in a record that clears a snapshot, or takes that back.

        Raises:
            KeyError, ValueError, TypeError: It lacks what it must say.
        """
        identity = body["snapshot"]
        if not is_hex(identity, _ID_BYTES):
            raise ValueError("no snapshot is named")
        if not body["cleared"]:
            self.cleared.pop(identity, None)
            return
        self.cleared[identity] = {name: str(body[name]) for name in ("by", "reason", "at")}
        usual = self._measured.pop(identity, None)
        if usual is not None:  # it was normal life after all
            day, measure, explained = usual
            self.profile.take(day, measure, explained=explained)

    def to_json(self) -> dict[str, Any]:
        """Members of a checkpoint's state; none where there is nothing to say."""
        members = {
            "suspicious": [one.to_json() for one in self.flagged.values()],
            "cleared": dict(self.cleared),
            "profile": self.profile.to_json(),
        }
        return {name: value for name, value in members.items() if value}

    @staticmethod
    def from_json(state: Mapping[str, Any]) -> Suspicions:
        """Read a checkpoint's state.

        Raises:
            KeyError, ValueError, TypeError, AttributeError: It has members of another shape.
        """
        flagged = [Suspicion.from_json(one) for one in state.get("suspicious", ())]
        found = Suspicions(
            {one.id: one for one in flagged},
            dict(state.get("cleared", {})),
            Profile.from_json(state.get("profile")),
        )
        # A writer that knows no such records keeps them among the unknown ones.
        for _, body in state["snapshots"]:
            found.take_snapshot(body)
        for _, body in state["unknown"]:
            if body.get("type") == CLEAR:
                found.take_clear(body)
        return found

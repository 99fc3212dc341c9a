"""What a repository tells of its own verifications and restore drills."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import date
from typing import TYPE_CHECKING, Any, TypeVar

from backup_pipeline.engine.format.record import from_iso
from backup_pipeline.posture.tier import Proof

if TYPE_CHECKING:
    from backup_pipeline.engine.repository import Repository

__all__ = ["proofs"]

_Read = TypeVar("_Read")


def proofs(repository: Repository | None) -> tuple[Proof | None, Proof | None]:
    """The last verification and the last restore drill; None where none was written down.

    A verification that found something is the last one until one that looked at as much, of the
    same snapshots or of all of them, finds nothing.
    """
    if repository is None:
        return None, None
    return _verified(repository), _drilled(repository)


def _verified(repository: Repository) -> Proof | None:
    shown: tuple[str | None, Proof] | None = None
    for scope, proof in _readable(repository.state.verifications, _verification):
        if proof.ok and not proof.coverage:
            continue  # names alone were looked at
        still_bad = shown is not None and not shown[1].ok and proof.ok
        if still_bad and shown is not None:
            same = scope is None or scope == shown[0]
            if not same or proof.coverage < shown[1].coverage:
                continue
        shown = scope, proof
    return shown[1] if shown else None


def _verification(body: Mapping[str, Any]) -> tuple[str | None, Proof]:
    total, errors = int(body["bytes_total"]), int(body["errors"])
    scope = body["snapshot"]
    proof = Proof(
        from_iso(body["at"]),
        ok=errors == 0,
        errors=errors,
        coverage=min(1.0, int(body["bytes_checked"]) / total) if total > 0 else 1.0,
    )
    return None if scope is None else str(scope), proof


def _drilled(repository: Repository) -> Proof | None:
    days = {key: body for key, (_, body) in repository.state.snapshots.items()}

    def read(body: Mapping[str, Any]) -> Proof:
        failed = int(body["failed_tests"]) + len(body["failed"])
        whole_ms = body["whole_ms"]
        snapshot = days.get(str(body["snapshot"]), {})
        size = int(snapshot.get("bytes") or 0)
        ok = body["equal"] is True and not failed
        return Proof(
            from_iso(body["at"]),
            ok=ok,
            errors=0 if ok else max(1, failed),
            coverage=min(1.0, int(body["bytes"]) / size) if size else 1.0,
            day=date.fromisoformat(snapshot["day"]) if snapshot.get("day") else None,
            whole_s=None if whole_ms is None else int(whole_ms) / 1000,
        )

    return max(_readable(repository.state.drills, read), key=lambda one: one.at, default=None)


def _readable(
    bodies: Iterable[Mapping[str, Any]], read: Callable[[Mapping[str, Any]], _Read]
) -> list[_Read]:
    """What can be read; a record that says something else proves nothing."""
    found: list[_Read] = []
    for body in bodies:
        try:
            found.append(read(body))
        except (KeyError, TypeError, ValueError, OverflowError):
            continue
    return found

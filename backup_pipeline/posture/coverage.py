"""Which assets of a graph no policy protects, and how much depends on each: pure, no I/O."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from backup_pipeline.posture.tier import iso

__all__ = ["Coverage", "Unprotected", "cover"]


@dataclass(frozen=True, slots=True)
class Unprotected:
    """An asset that no policy protects.

    Attributes:
        asset: Its key, parts joined by ``/``.
        downstream: How many other assets depend on it, near and far; None where its lineage is
            not known.
        upstream: How many assets it is made from directly; 0 where nothing could make it again.
    """

    asset: str
    downstream: int | None
    upstream: int | None

    def to_json(self) -> dict[str, Any]:
        """Fields by name."""
        return {"asset": self.asset, "downstream": self.downstream, "upstream": self.upstream}


@dataclass(frozen=True, slots=True)
class Coverage:
    """What of an asset graph is protected.

    Attributes:
        assets: How many assets there are, the backups themselves left out.
        protected: How many of them are datasets of the plan.
        exempt: Those left out on purpose, and why.
        unprotected: The others; those that most depends on come first.
        unknown: Datasets of the plan that the graph does not know.
        at: When the graph was looked at (UTC).
    """

    assets: int
    protected: int
    exempt: Mapping[str, str]
    unprotected: Sequence[Unprotected]
    unknown: Sequence[str] = ()
    at: datetime | None = None

    def to_json(self) -> dict[str, Any]:
        """Fields by name."""
        return {
            "at": iso(self.at),
            "assets": self.assets,
            "protected": self.protected,
            "exempt": dict(self.exempt),
            "unprotected": [one.to_json() for one in self.unprotected],
            "unknown": list(self.unknown),
        }

    @staticmethod
    def from_json(document: Mapping[str, Any]) -> Coverage:
        """Read what ``to_json`` wrote."""
        at = document.get("at")
        return Coverage(
            int(document["assets"]),
            int(document["protected"]),
            dict(document["exempt"]),
            [Unprotected(**one) for one in document["unprotected"]],
            list(document.get("unknown") or ()),
            datetime.fromisoformat(at) if at else None,
        )


def cover(
    parents: Mapping[str, Collection[str]],
    datasets: Collection[str],
    *,
    exempt: Mapping[str, str] | None = None,
    without_lineage: Collection[str] = (),
    at: datetime | None = None,
) -> Coverage:
    """Compare an asset graph with the datasets of a plan.

    Args:
        parents: Each asset's key, to the keys that it is made from; the backups left out.
        datasets: Keys that the plan protects.
        exempt: Assets that are left out on purpose, and why.
        without_lineage: Further assets that are known to exist, of whose lineage nothing is known.
        at: When the graph was looked at (UTC).
    """
    exempt = exempt or {}
    children: dict[str, set[str]] = {}
    for asset, above in parents.items():
        for parent in above:
            children.setdefault(parent, set()).add(asset)
    known = {*parents, *children}
    alone = set(without_lineage) - known
    spared = {asset: why for asset, why in exempt.items() if asset not in datasets}
    bare = [
        Unprotected(asset, len(_below(asset, children)), len(parents.get(asset, ())))
        for asset in known.difference(datasets, spared)
    ]
    bare += [Unprotected(asset, None, None) for asset in alone.difference(datasets, spared)]
    bare.sort(key=lambda one: (-(one.downstream or 0), one.upstream or 0, one.asset))
    everything = known | alone
    return Coverage(
        assets=len(everything),
        protected=len(everything.intersection(datasets)),
        exempt=dict(sorted(spared.items())),
        unprotected=bare,
        unknown=sorted(set(datasets) - everything),
        at=at,
    )


def _below(asset: str, children: Mapping[str, Collection[str]]) -> set[str]:
    """All that is made from an asset, near and far; itself left out, even in a ring."""
    found: set[str] = set()
    waiting = [asset]
    while waiting:
        for child in children.get(waiting.pop(), ()):
            if child not in found:
                found.add(child)
                waiting.append(child)
    return found - {asset}

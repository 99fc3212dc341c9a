"""Notices when an edit of start, timezone or cadence would hide days that have backups."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import TYPE_CHECKING, Any, cast

from backup_pipeline.engine.errors import Problem

if TYPE_CHECKING:
    from backup_pipeline.plan.model import Plan, Tier

__all__ = ["describe_history", "history_conflicts"]

HISTORY_VERSION = 1


def describe_history(plan: Plan) -> dict[str, Any]:
    """Returns what decides which days exist, as plain content to keep and compare later."""
    return {
        "version": HISTORY_VERSION,
        "start": plan.start.isoformat(),
        "timezone": plan.timezone,
        "datasets": {
            key: {
                "holds": dataset.holds,
                "tiers": {name: _cadence(tier) for name, tier in dataset.tiers.items()},
            }
            for key, dataset in sorted(plan.datasets.items())
        },
        "accepted": sorted(plan.accept_history_change),
    }


def _cadence(tier: Tier) -> str:
    """Names the set of days of a tier; an hourly tier has the days of a daily one."""
    if tier.every == "week":
        return f"week on {tier.weekday}"
    if tier.every == "month":
        return f"month on {tier.day_of_month}"
    return "day"


def history_conflicts(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Problem]:
    """Lists the changes from one ``Plan.history()`` to a later one that hide existing days.

    A tier or dataset that is new, or gone altogether, is no conflict: nothing stands for it that
    could show other days than before. Changes named in the new plan's ``accept_history_change``
    (``start``, ``timezone``, ``holds``, a tier's name or a dataset's key) are left out.
    """
    accepted = set(cast("list[str]", new.get("accepted", [])))
    problems: list[Problem] = []

    def conflict(path: str, names: tuple[str, ...], message: str) -> None:
        if not accepted.intersection(names):
            suggestion = f"undo it, or accept it by name: accept_history_change: [{names[0]}]"
            problems.append(Problem(path, message, suggestion=suggestion))

    if new["timezone"] != old["timezone"]:
        change = f"{old['timezone']} became {new['timezone']}"
        conflict("timezone", ("timezone",), f"{change}: existing days would begin at other times")
    if date.fromisoformat(new["start"]) > date.fromisoformat(old["start"]):
        change = f"{old['start']} became {new['start']}"
        conflict("start", ("start",), f"{change}: days before it would be hidden")
    for key, before in cast("Mapping[str, Any]", old["datasets"]).items():
        after = cast("Mapping[str, Any]", new["datasets"]).get(key)
        if after is None:
            continue
        if after["holds"] != before["holds"]:
            change = f"{before['holds']} became {after['holds']}"
            message = f"{change}: a day would mean something else than it did"
            conflict(f"datasets.{key}.holds", ("holds", key), message)
        for name, cadence in cast("Mapping[str, str]", before["tiers"]).items():
            now = cast("Mapping[str, str]", after["tiers"]).get(name)
            if now is not None and now not in (cadence, "day"):
                message = f"'{cadence}' became '{now}': days that are no longer due would be hidden"
                conflict(f"datasets.{key}.tiers.{name}", (name, key), message)
    return problems

"""What must hold for each consistent set of a plan: its members can be captured as one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from backup_pipeline.plan.checking import Checked
from backup_pipeline.plan.model import Tier
from backup_pipeline.plan.problems import Findings, Path, one_of
from backup_pipeline.plan.resolve import dataset_keys, dataset_tiers
from backup_pipeline.plan.schema import DatasetWritten, SetWritten

__all__ = ["check_sets"]

_CADENCE = ("every", "at", "weekday", "day_of_month")


def check_sets(checked: Checked, places: Mapping[str, Path], findings: Findings) -> None:
    """Reports every rule that a consistent set breaks.

    Args:
        checked: The usable parts of the plan.
        places: Where each dataset's key stands in the plan.
        findings: Takes the mistakes.
    """
    datasets = {key: one for one in checked.plan.datasets for key in dataset_keys(one)}
    taken: dict[str, str] = {}
    for name, written in checked.plan.sets.items():
        path: Path = ("sets", name)
        _check_hooks(written, path, findings)
        members = dict(_members(checked, name, written, places, taken, findings))
        if len(written.members) < 2:
            message = "a set has two members at least; one dataset is a cut by itself"
            findings.report((*path, "members"), message, "name what belongs together")
        known = {key: datasets[key] for key in members if key in datasets}
        _check_alike(checked, members, known, findings)
        _check_apart(members, findings)


def _members(
    checked: Checked,
    name: str,
    written: SetWritten,
    places: Mapping[str, Path],
    taken: dict[str, str],
    findings: Findings,
) -> Iterator[tuple[str, Path]]:
    """Each usable member with its place; what dangles or stands twice is reported."""
    for index, key in enumerate(written.members):
        path = checked.path("sets", name, "members", index)
        if key not in places:
            if not findings.is_refused(("datasets",)):
                findings.report(path, f"there is no dataset '{key}'", one_of(key, places))
        elif key in taken:
            where = "it" if taken[key] == name else f"set '{taken[key]}'"
            message = f"dataset '{key}' is in {where} already"
            findings.report(path, message, "a dataset belongs to one set, once")
        else:
            taken[key] = name
            yield key, path


def _check_alike(
    checked: Checked,
    members: Mapping[str, Path],
    datasets: Mapping[str, DatasetWritten],
    findings: Findings,
) -> None:
    """One cut is one run of one tier: all are read at the same times, and mean the same days."""
    first: tuple[str, DatasetWritten, Tier] | None = None
    for key, dataset in datasets.items():
        tiers = dataset_tiers(checked.plan, dataset)
        if not tiers:
            continue  # its policy was refused
        tier = next(iter(tiers.values()))
        alone = [later.name for later in list(tiers.values())[1:] if later.reads_source]
        if alone:
            message = f"tier '{alone[0]}' of '{key}' reads the source by itself, so holds no cut"
            findings.report(members[key], message, "let later tiers copy: remove from: source")
        if first is None:
            first = key, dataset, tier
            continue
        other, alike, model = first
        message = None
        if dataset.holds != alike.holds:
            message = f"'{key}' holds {dataset.holds}, and '{other}' {alike.holds}"
        elif tier.name != model.name:
            message = f"'{key}' is read by tier '{tier.name}', and '{other}' by '{model.name}'"
        elif any(getattr(tier, name) != getattr(model, name) for name in _CADENCE):
            message = f"'{key}' is read {_when(tier)}, and '{other}' {_when(model)}"
        if message is not None:
            suggestion = "give members the same first tier, cadence and holds"
            findings.report(members[key], message, suggestion)


def _when(tier: Tier) -> str:
    day = f" on {tier.weekday}" if tier.weekday else ""
    day = f" on day {tier.day_of_month}" if tier.day_of_month else day
    return f"every {tier.every}{day} at {tier.at:%H:%M}"


def _check_apart(members: Mapping[str, Path], findings: Findings) -> None:
    """Members are restored into folders of their own, below one directory."""
    for key, path in members.items():
        around = next((other for other in members if key.startswith(f"{other}/")), None)
        if around is not None:
            message = f"'{key}' would be restored into the folder of '{around}'"
            findings.report(path, message, "rename one of them, or leave it out of the set")


def _check_hooks(written: SetWritten, path: Path, findings: Findings) -> None:
    given = [name for name in ("freeze", "thaw") if getattr(written, name) is not None]
    needs = [(*path, "freeze"), (*path, "thaw")]
    if len(given) == 1:
        lacking = "thaw" if given == ["freeze"] else "freeze"
        message = f"{given[0]} goes with {lacking}, which is missing"
        suggestion = f"write {lacking}: [program, argument]"
        findings.report((*path, given[0]), message, suggestion, needs=needs)
    elif not given and "hook_timeout" in written.model_fields_set:
        message = "there are no hooks to time out"
        findings.report(
            (*path, "hook_timeout"), message, "write freeze: and thaw:, or remove it", needs=needs
        )

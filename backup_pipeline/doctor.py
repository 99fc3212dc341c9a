"""Tries what a plan relies on: its keys, stores, sources, scratch, and the Dagster instance."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from datetime import datetime
from typing import TYPE_CHECKING

from backup_pipeline.engine.errors import BackupError, NotFound
from backup_pipeline.findings import Finding, good, note, problem
from backup_pipeline.instance import look_at_instance
from backup_pipeline.plan.cadence import is_cadence_day
from backup_pipeline.runner import Runner, describe_days, utc_now

if TYPE_CHECKING:
    from backup_pipeline.engine.repository import Repository
    from backup_pipeline.engine.store import Probe
    from backup_pipeline.plan import Dataset, Plan, StoreSpec

__all__ = ["examine", "look_at_instance"]


def examine(
    plan: Plan,
    *,
    dagster: bool = True,
    environ: Mapping[str, str] = os.environ,
    clock: Callable[[], datetime] = utc_now,
) -> Iterator[Finding]:
    """Try everything that a plan relies on, and tell each finding as it comes.

    Args:
        plan: The plan.
        dagster: Whether to look at the Dagster instance.
        environ: Where the plan's references are looked up.
        clock: Tells the time.
    """
    with Runner(plan, clock=clock, environ=environ) as runner:
        yield from _keys(plan, environ)
        for spec in plan.stores.values():
            yield from _store(runner, spec)
        yield from _repositories(runner)
        for dataset in plan.datasets.values():
            yield _source(runner, dataset)
        yield from _scratch(plan, environ)
    if dagster:
        yield from look_at_instance(plan, environ)


def _keys(plan: Plan, environ: Mapping[str, str]) -> Iterator[Finding]:
    if plan.encryption == "none":
        yield note(
            "keys",
            "encryption is none: whoever reads a store reads the datasets, whoever writes to it can"
            " forge snapshots",
        )
        return
    for spec in plan.keys.values():
        area = f"key {spec.name}"
        try:
            kind, content = spec.resolve(environ)
            if kind == "key_file":
                from backup_pipeline.engine.keys import parse_key_file

                parse_key_file(content, str(spec.reference))
        except BackupError as error:
            yield problem(area, error.message, error.hint)
        else:
            yield good(area, f"found in {spec.reference}")


def _store(runner: Runner, spec: StoreSpec) -> Iterator[Finding]:
    area = f"store {spec.name}"
    try:
        probe, locks = runner.probe(spec.name), runner.locks(spec.name)
    except BackupError as error:
        yield problem(area, error.message, error.hint)
        return
    for sentence in probe.problems:
        yield problem(area, f"{probe.url}: {sentence}", "choose another store, or mend this one")
    if probe.ok:
        yield good(area, _probe_sentence(probe, locks))
    if spec.lock is not None and not locks:
        yield problem(
            area,
            f"the plan asks for a lock ({spec.lock.mode}), and {probe.url} offers none",
            "create the bucket with Object Lock, or take `lock` out of the plan",
        )
    try:
        runner.unlock(spec.name)
    except NotFound:
        yield note(area, "nothing is stored yet; the first backup prepares it")
    except BackupError as error:
        yield problem(area, error.message, error.hint)
    else:
        yield good(area, "the plan's key opens it")


def _probe_sentence(probe: Probe, locks: bool | None) -> str:
    said = {True: "offers locks", False: "offers no locks", None: "does not say if it locks"}
    return (
        f"{probe.url} can be read and written, creates names only once, its clock is"
        f" {abs(probe.clock_skew_s):.0f} s off, and it {said[locks]}"
    )


def _repositories(runner: Runner) -> Iterator[Finding]:
    """What stands in the stores and contradicts the plan."""
    for dataset in runner.plan.datasets.values():
        for place in runner.places(dataset.key):
            try:
                repository = place.find()
            except BackupError:
                continue  # the store's own finding says it
            if repository is not None:
                yield from _repository(runner, dataset, place.tier, repository)


def _repository(
    runner: Runner, dataset: Dataset, tier: str, repository: Repository
) -> Iterator[Finding]:
    area = f"{dataset.key} in {tier}"
    if repository.tier != tier:
        yield problem(
            area,
            f"its store holds tier {repository.tier} of this dataset",
            "give each tier of a dataset a store, or a prefix in it, of its own",
        )
    if repository.deployment != runner.plan.deployment:
        yield problem(
            area,
            f"it belongs to deployment {repository.deployment}, and the plan is deployment"
            f" {runner.plan.deployment}",
            "give each deployment stores of its own, or correct `deployment` in the plan",
        )
    rules = dataset.tiers[tier]
    hidden = sorted(
        {
            one.day
            for one in repository.snapshots()
            if not is_cadence_day(rules, one.day) or one.day < runner.plan.start
        }
    )
    if hidden:
        yield note(
            area,
            f"days that are no partitions of the plan, so Dagster does not show them:"
            f" {describe_days(hidden)}",
            "the command line lists and restores them all the same",
        )


def _source(runner: Runner, dataset: Dataset) -> Finding:
    area = f"source of {dataset.key}"
    try:
        source = runner.source(dataset.key)
        with closing(source):
            scan = source.scan()
            first = next(scan, None)
            if isinstance(scan, Generator):
                scan.close()  # the rest is not looked at: let go of what it holds open
    except BackupError as error:
        return problem(area, error.message, error.hint)
    if first is None or not len(first):
        return note(area, f"{source.describe()} can be read, and nothing is in it")
    return good(area, f"{source.describe()} can be read")


def _scratch(plan: Plan, environ: Mapping[str, str]) -> Iterator[Finding]:
    if plan.scratch is None:
        return
    try:
        path = plan.scratch.path(environ)
        path.mkdir(parents=True, exist_ok=True)
    except BackupError as error:
        yield problem("scratch", error.message, error.hint)
        return
    except OSError as error:
        yield problem("scratch", f"{error.filename} cannot be made: {error.strerror}")
        return
    if os.access(path, os.W_OK | os.X_OK):
        yield good("scratch", f"{path} can be written")
    else:
        yield problem("scratch", f"{path} cannot be written", "give drills a directory of theirs")

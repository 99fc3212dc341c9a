"""The verbs that write to stores: backup and copy."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from backup_pipeline.cli.call import Call, explain
from backup_pipeline.cli.options import DAY, SNAPSHOT, TIER, day_or_none, verb
from backup_pipeline.cli.sets import SET, refuse_both, tell_set
from backup_pipeline.engine.errors import BackupError

if TYPE_CHECKING:
    from backup_pipeline.runner import Result, Runner

__all__ = ["backup", "copy"]

SHOWN_PROBLEMS = 20
_KIND = click.option(
    "--kind",
    type=click.Choice(["full", "incremental", "differential"]),
    help="Which older packs the snapshot may refer to; default: as the tier's rules say.",
)


@verb(bare=False, content=True)
@SET
@TIER
@DAY
@_KIND
@click.option("--force", is_flag=True, help="Make another snapshot although the day has one.")
@click.option(
    "--explained", metavar="REASON", help="Why much changed, so that it is not suspicious."
)
def backup(
    call: Call,
    set_name: str | None,
    tier: str | None,
    day: datetime | None,
    kind: str | None,
    force: bool,
    explained: str | None,
) -> int:
    """Back up a dataset, a consistent set, or all of them.

    The first tier reads the dataset; a later one copies a closed day. Without --day: today where
    the tier reads the dataset, else the newest closed day of its cadence; of a dataset of slices
    also the days whose slice was written again since. Members of a set are read together, as one
    cut.

    Exit code 1 where entries could not be read, or where what changed is suspicious; the snapshot
    is kept all the same.
    """
    refuse_both(call, set_name)
    if explained is not None and not explained.strip():
        raise click.UsageError("--explained needs a reason, for whoever asks later")
    with call.runner() as runner:
        runner.explained = explained
        if set_name is not None:
            made = runner.backup_set(set_name, tier, day=day_or_none(day), kind=kind, force=force)
            code = tell_set(call, made, _tell)
            runner.notices.clear()
            call.answer(made.to_json(), lambda: None)
            return code
        places = runner.all_places(call.dataset, tier)
        document: list[dict[str, Any]] = []
        worst = 0
        for key, one in _one_by_one(runner, [place.dataset for place in places], tier):
            try:
                if one is not None:
                    made = runner.backup_set(
                        one, tier, day=day_or_none(day), kind=kind, force=force
                    )
                    document.append(made.to_json())
                    worst = max(worst, tell_set(call, made, _tell))
                    continue
                result = runner.backup(key, tier, day=day_or_none(day), kind=kind, force=force)
                again = _again(runner, key, tier) if day is None else []
            except BackupError as error:
                if call.dataset:
                    raise
                # One dataset's failure must not cost the others their backup.
                document.append({"dataset": key, "error": explain(error)})
                call.notice(f"{key}: {error}", "error")
                worst = max(worst, error.exit_code)
                continue
            document.append({**result.to_json(), **_rewritten(again)})
            for one in (result, *again):
                worst = max(worst, _code(one), int(_suspicious(one)))
                _tell(call, one)
        runner.notices.clear()  # each result has its own
        call.answer(document[0] if call.dataset else document, lambda: None)
    return worst


def _one_by_one(
    runner: Runner, keys: list[str], tier: str | None
) -> Iterator[tuple[str, str | None]]:
    """Each dataset, or once the set that reads it where it is a member; not if it was named."""
    done: set[str] = set()
    named = len(set(keys)) == 1
    for key in dict.fromkeys(keys):
        one = runner.plan.set_of(key)
        if one is None or named or tier not in (None, runner.plan.dataset(key).first_tier.name):
            yield key, None
        elif one.name not in done:
            done.add(one.name)
            yield f"set {one.name}", one.name


def _again(runner: Runner, key: str, tier: str | None) -> list[Result]:
    """New versions of slices that were written again after they were backed up."""
    if tier not in (None, runner.plan.dataset(key).first_tier.name):
        return []
    return [runner.backup(key, tier, day=day) for day in runner.rewritten(key)]


def _rewritten(again: list[Result]) -> dict[str, Any]:
    return {"rewritten": [one.to_json() for one in again]} if again else {}


@verb(bare=False, content=True)
@click.option("--from", "from_tier", metavar="TIER", help="The tier that holds the snapshot.")
@click.option("--to", "--tier", "to_tier", metavar="TIER", help="The tier that will hold it.")
@DAY
@SNAPSHOT
@_KIND
@click.option("--force", is_flag=True, help="Copy although the tier has the day already.")
def copy(
    call: Call,
    from_tier: str | None,
    to_tier: str | None,
    day: datetime | None,
    snapshot: str | None,
    kind: str | None,
    force: bool,
) -> int:
    """Copy a snapshot from one tier to another.

    Without --day or --snapshot: the newest good one. A tier whose bytes were damaged is put right
    with --kind full, which shares nothing with what is there.
    """
    if from_tier is None or to_tier is None:
        raise click.UsageError("copy needs --from TIER and --to TIER")
    with call.runner() as runner:
        result = runner.copy(
            call.wanted(runner),
            from_tier=from_tier,
            to_tier=to_tier,
            day=day_or_none(day),
            snapshot=snapshot,
            kind=kind,
            force=force,
        )
        _tell(call, result)
        runner.notices.clear()
        call.answer(result.to_json(), lambda: None)
    return _code(result)


def _tell(call: Call, result: Result) -> None:
    from backup_pipeline.cli.tables import count, describe_snapshot

    snapshot = result.snapshot
    call.say(describe_snapshot(snapshot))
    call.say(f"  {result.reason}")
    for text in result.notices:
        call.notice(text)
    if snapshot.status == "complete":
        return
    call.say(f"  not stored: {count(snapshot.problem_count, 'entry', 'entries')}")
    for problem in snapshot.problems[:SHOWN_PROBLEMS]:
        call.say(f"    {problem['path']}: {problem['reason']}")
    if snapshot.problem_count > SHOWN_PROBLEMS:
        call.say(f"    and {snapshot.problem_count - SHOWN_PROBLEMS} more")


def _suspicious(result: Result) -> bool:
    """Whether this backup found something suspicious; a copy does not find, it brings along."""
    from backup_pipeline.engine.suspicions import findings_of

    snapshot = result.snapshot
    return result.created and snapshot.origin is None and bool(findings_of(snapshot.anomaly))


def _code(result: Result) -> int:
    return 0 if result.snapshot.status == "complete" else 1

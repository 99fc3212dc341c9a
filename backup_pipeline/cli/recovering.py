"""The verb for the day after: recover everything that a store, or a plan's tiers, can give back."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from backup_pipeline.cli.call import Call, explain
from backup_pipeline.cli.options import AT, DAY, TIER, day_or_none, verb
from backup_pipeline.engine.errors import BackupError, NotFound, UsageError

if TYPE_CHECKING:
    from backup_pipeline.engine.format.record import Snapshot
    from backup_pipeline.engine.operations.restore_report import RestoreReport
    from backup_pipeline.runner import Reader

__all__ = ["recover"]

SHOWN_LINES = 20


@dataclass
class _Found:
    """What is there of one dataset.

    Attributes:
        dataset: Its key.
        snapshot: What would be restored; None where nothing fits.
        days: All days that have a good snapshot, in all tiers that were looked into.
        report: What was restored.
        error: Why there is nothing, or nothing was restored.
    """

    dataset: str
    snapshot: Snapshot | None = None
    days: list[date] = field(default_factory=list[date])
    report: RestoreReport | None = None
    error: BackupError | None = None

    @property
    def ok(self) -> bool:
        return self.error is None and (self.report is None or self.report.ok)

    def to_json(self) -> dict[str, Any]:
        return {
            "dataset": self.dataset,
            "ok": self.ok,
            "snapshot": None if self.snapshot is None else self.snapshot.to_json(),
            "days": [day.isoformat() for day in self.days],
            "restored": None if self.report is None else self.report.to_json(),
            "error": None if self.error is None else explain(self.error),
        }


@verb(bare=True, content=True)
@click.option("--to", metavar="DIR", help="Restore all of it, each dataset to a folder of its own.")
@TIER
@DAY
@AT
def recover(
    call: Call, to: str | None, tier: str | None, day: datetime | None, at: str | None
) -> int:
    """Say all that can be restored; with --to, restore all of it.

    For the day when Dagster, the plan and the machine are gone: a store and its key are enough. Of
    each dataset the newest good snapshot, or that of a day or time. One that fails does not keep
    the others back, and run again it goes on where it stopped.
    """
    from backup_pipeline.runner import parse_time

    with call.reader() as reader:
        chosen = {"day": day_or_none(day), "at": parse_time(at, reader.zone) if at else None}
        keys = [call.dataset] if call.dataset is not None else reader.datasets()
        if to is not None:
            _require_apart(keys)
        found = [_look(reader, key, tier, chosen) for key in keys]
        if not found:
            raise NotFound("nothing is there to be recovered", "is this the right store?")
        for one in found:
            if to is not None and one.snapshot is not None:
                _restore(reader, one, Path(to))
        call.answer(
            {"ok": all(one.ok for one in found), "datasets": [one.to_json() for one in found]},
            lambda: _show(reader, found, to),
        )
    if any(one.report is not None and not one.report.ok for one in found):
        return 1
    return max((one.error.exit_code for one in found if one.error is not None), default=0)


def _require_apart(keys: list[str]) -> None:
    """Refuse datasets of which one's folder would lie in another's."""
    for key in keys:
        inside = [other for other in keys if other.startswith(f"{key}/")]
        if inside:
            raise UsageError(
                f"{inside[0]} would be restored into the folder of {key}",
                "restore them one by one: backup-pipeline restore --dataset KEY --to DIR",
            )


def _look(reader: Reader, key: str, tier: str | None, chosen: dict[str, Any]) -> _Found:
    from backup_pipeline.runner.days import is_good

    found = _Found(key)
    try:
        known = reader.snapshots(key, tier)
        found.days = sorted({one.day for one in known if is_good(one)})
        _, found.snapshot = reader.find(key, tier=tier, **chosen)
    except BackupError as error:
        found.error = error
    return found


def _restore(reader: Reader, found: _Found, to: Path) -> None:
    assert found.snapshot is not None
    try:
        found.report = reader.restore(
            found.dataset,
            to / found.dataset,
            tier=found.snapshot.tier,
            snapshot=found.snapshot.id,
        )
    except BackupError as error:
        found.error = error


def _show(reader: Reader, found: list[_Found], to: str | None) -> None:
    from backup_pipeline.cli.tables import count, moment, print_table
    from backup_pipeline.engine.progress import human_bytes

    rows = [
        (
            one.dataset,
            one.snapshot.tier,
            one.snapshot.day,
            moment(one.snapshot.captured_at, reader.zone),
            f"{one.snapshot.files:,}",
            human_bytes(one.snapshot.bytes),
            _days(one.days),
            _standing(one),
        )
        for one in found
        if one.snapshot is not None
    ]
    if rows:
        headings = "dataset tier day read >files >bytes can-be-had state"
        print_table(headings.split(), rows)
    for one in found:
        if one.error is not None:
            hint = f" ({one.error.hint})" if one.error.hint else ""
            print(f"NOT RECOVERED: {one.dataset}: {one.error.message}{hint}")
        elif one.report is not None and not one.report.ok:
            print(f"NOT WHOLE: {one.dataset}: {count(one.report.damage_count, 'entry', 'entries')}")
            for lost in one.report.damage[:SHOWN_LINES]:
                print(f"  {lost['path']}: {lost['reason']}")
    good = sum(one.ok for one in found)
    if to is not None:
        print(f"{good} of {count(len(found), 'dataset')} restored to {to}")
    else:
        print(f"{good} of {count(len(found), 'dataset')} can be restored; --to DIR does it")


def _days(days: list[date]) -> str:
    if len(days) < 2:
        return "".join(map(str, days))
    return f"{days[0]} to {days[-1]}, {len(days):,} days"


def _standing(one: _Found) -> str:
    if one.error is not None:
        return "failed"
    if one.report is None:
        return "can be restored"
    return "restored" if one.report.ok else "restored in part"

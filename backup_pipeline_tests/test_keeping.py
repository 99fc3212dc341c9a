"""Retention through the runner and the command line: over real tiers, by the plan's rules."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest

from backup_pipeline.engine.errors import NotFound, UsageError
from backup_pipeline.engine.store.local import LocalStore
from backup_pipeline_tests.test_cli import Shell
from backup_pipeline_tests.test_runner import AWAY, DAILY, DATASET, WEEKLY, Scene, day

FULL = {"every": "day", "kind": "full"}


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    """A scene whose stores, once prepared, keep time by its clock."""
    one = Scene(tmp_path)
    monkeypatch.setattr(LocalStore, "probe", lambda _: type("Fine", (), {"require": lambda _: 0})())
    monkeypatch.setattr(LocalStore, "now", lambda _: one.now)
    return one


def days(scene: Scene, count: int, *tiers: dict[str, Any], **more: Any) -> None:
    """A backup of each of so many days to the first tier, with a new file each day."""
    for _ in range(count):
        scene.write(f"{scene.now:%m-%d}.txt", f"{scene.now:%F}" * 100)
        with scene.runner(*tiers, **more) as runner:
            runner.backup(DATASET)
        scene.now += timedelta(days=1)


def test_a_day_that_a_later_tier_has_still_to_copy_stays_until_it_did(scene: Scene) -> None:
    tiers = (
        {"name": "local", **FULL, "keep": {"daily": 2}},
        {"name": "cloud", **WEEKLY, "keep": {"weekly": 4}},
    )
    days(scene, 8, *tiers)  # Friday to Friday
    with scene.runner(*tiers) as runner:
        report = runner.expire(DATASET, "local", apply=True)
        assert [one.snapshot.day for one in report.verdicts if one.kept] == [
            day("11-22"), day("11-26"), day("11-27")
        ]  # fmt: skip
        [sunday] = [one for one in report.verdicts if one.snapshot.day == day("11-22")]
        assert sunday.reasons == ("tier cloud has still to copy 2026-11-22",)
        runner.backup(DATASET, "cloud", day=day("11-22"))
        [gone] = runner.expire(DATASET, "local", apply=True).expired
        assert gone.snapshot.day == day("11-22")
        (local, _) = runner.status(DATASET)
        assert day("11-22") not in local.missing_days
        assert [one.day for one in runner.snapshots(DATASET, "local")] == [
            day("11-26"), day("11-27")
        ]  # fmt: skip


def test_what_a_tier_out_of_reach_may_lack_is_kept_and_said(scene: Scene) -> None:
    tiers = (
        {"name": "local", **FULL, "keep": {"daily": 1}},
        {"name": "cloud", **DAILY, "keep": {"daily": 3}},
    )
    days(scene, 5, *tiers)
    with scene.runner(*tiers, **AWAY) as runner:
        kept = [one.snapshot.day for one in runner.expire(DATASET, "local").verdicts if one.kept]
        assert kept == [day("11-23"), day("11-24")], "today's and two more of the cloud's three"
        assert "tier cloud cannot be asked" in runner.notices[0]


def test_a_pin_keeps_a_day_and_why_says_so(scene: Scene) -> None:
    tier = {"name": "local", **FULL, "keep": {"daily": 1}}
    days(scene, 3, tier)
    with scene.runner(tier) as runner:
        with pytest.raises(UsageError, match="which snapshot"):
            runner.pin(DATASET, reason="none")
        runner.pin(DATASET, day=day("11-20"), reason="the release")
        [gone] = runner.expire(DATASET, "local", apply=True).expired
        assert gone.snapshot.day == day("11-21")
        [said] = runner.why(DATASET, "2026-11-20")
        assert said.endswith("is kept: pinned: the release")
        [said] = runner.why(DATASET, gone.snapshot.id[:8])
        assert said.endswith("has expired: beyond keep: daily 1")
        pack = runner.prune(DATASET, "local")
        assert pack.condemned_objects == 2
        with pytest.raises(NotFound, match="has no snapshot, day, pack or segment"):
            runner.why(DATASET, "nothing")


def test_another_deployment_expires_and_deletes_nothing_here(scene: Scene) -> None:
    tier = {"name": "local", **FULL, "keep": {"daily": 1}}
    days(scene, 2, tier, deployment="prod")
    with scene.runner(tier, deployment="staging") as runner:
        for verb in (runner.expire, runner.prune):
            with pytest.raises(UsageError, match="belongs to deployment prod"):
                verb(DATASET, "local", apply=True)
    with scene.runner(tier, deployment="prod") as runner:
        assert len(runner.snapshots(DATASET)) == 2


def test_slices_are_kept_whatever_keep_says(scene: Scene) -> None:
    def at(moment: date) -> None:
        for back in (1, 2, 3):
            scene.write(f"{moment - timedelta(days=back):%F}/x.txt", f"{back}")

    tier = {"name": "local", **FULL, "keep": {"daily": 1}}
    source = {"day_paths": str(scene.source / "{day}")}
    more = {"dataset": {"source": source, "holds": "slice", "keep_slices": "30 days"}}
    at(scene.now.date())
    with scene.runner(tier, **more) as runner:
        for back in (3, 2, 1):
            runner.backup(DATASET, day=scene.now.date() - timedelta(days=back))
        assert runner.expire(DATASET, "local").expired == []
        scene.now += timedelta(days=28)
        [gone] = runner.expire(DATASET, "local", apply=True).expired
        assert gone.reasons == ("its slice is older than keep_slices, 30 days",)
        scene.now += timedelta(days=5)
        assert len(runner.expire(DATASET, "local", apply=True).expired) == 2
        assert runner.snapshots(DATASET) == []


# -- the command line


@pytest.fixture
def shell(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Shell:
    for name in ("BACKUP_PLAN", "DAGSTER_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("BACKUP_PASSPHRASE", "five words for this test")
    monkeypatch.chdir(tmp_path)
    return Shell(tmp_path, capsys)


Ask = Callable[..., dict[str, Any]]


def test_expire_and_prune_only_say_what_would_be_until_told_to(shell: Shell) -> None:
    plan = (shell.root / "backup.yaml").read_text()
    for _ in range(3):
        shell.good("backup", DATASET, "--kind", "full")
    first, second, third = shell.good("snapshots", "--json").json
    assert plan
    shell.good("pin", "--snapshot", first["id"], "--reason", "the release")
    ran = shell.good("expire", "--tier", "local")
    assert "2 snapshots kept, 1 would expire" in ran.out and "--apply does it" in ran.out
    assert "pinned: the release" in ran.out
    [report] = shell.good("expire", "--tier", "local", "--apply", "--json").json
    gone = [one["id"] for one in report["snapshots"] if not one["kept"]]
    assert gone == [second["id"]] and report["applied"]
    assert [one["id"] for one in shell.good("snapshots", "--json").json] == [
        first["id"], third["id"]
    ]  # fmt: skip
    assert shell("restore", "--snapshot", second["id"], "--to", "x").code == 3
    assert "would be condemned: 2 objects" in shell.good("prune", "--tier", "local").out
    [done] = shell.good("prune", "--tier", "local", "--apply", "--json").json
    assert (done["condemned_objects"], done["deleted_objects"]) == (2, 0)
    [waiting] = shell.good("prune", "--tier", "local", "--json").json
    assert waiting["waiting_objects"] == 2 and waiting["next_deletion"]
    assert "is kept" in shell.good("why", first["id"][:10]).out
    shell.good("unpin", "--snapshot", first["id"])
    [report] = shell.good("expire", "--tier", "local", "--json").json
    assert report["expired"] == 1
    assert shell("why", "--tier", "local").code == 2
    assert shell.good("restore", "--to", "back").code == 0


def test_a_tier_without_backups_is_a_note_and_no_failure(shell: Shell) -> None:
    ran = shell.good("expire")
    assert "has no snapshots in tier local yet" in ran.err

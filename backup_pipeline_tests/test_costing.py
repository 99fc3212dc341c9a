"""What backups cost, from the command line."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import dagster as dg
import pytest

from backup_pipeline_tests.test_cli import Shell

PLAN = """\
start: {start}
stores:
  local: stores/local
  cloud:
    url: stores/cloud
    prices: {{like: s3-standard-ia, store_gb_month: 5000, currency: EUR}}
policies:
  default:
    rpo: 26 hours
    tiers:
      - {{name: local, kind: incremental, full_every: 4 weeks, keep: {{daily: 7}}}}
      - {{name: cloud, kind: incremental, full_every: 4 weeks, keep: {{daily: 7}}}}
datasets: [{{asset: vision/a, source: data}}]
"""


@pytest.fixture
def shell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Shell:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BACKUP_PASSPHRASE", "of these tests")
    made = Shell(tmp_path, capsys)
    made.write_plan(PLAN)
    return made


def test_each_tier_costs_what_its_store_holds_at_the_plans_prices(shell: Shell) -> None:
    assert shell("cost").code == 3
    shell.good("backup", "vision/a")
    shell.good("copy", "vision/a", "--from", "local", "--to", "cloud", "--force")
    local, cloud = shell.good("cost", "--json").json
    assert (local["prices"], cloud["prices"]) == ("local-disk", "s3-standard-ia")
    assert cloud["currency"] == "EUR" and cloud["objects"] > 4
    paid = max(cloud["stored_bytes"], cloud["objects"] * 128 * 1024)
    assert cloud["month"]["store"] == pytest.approx(paid / 2**30 * 5000)
    total = sum(cloud["month"][part] for part in ("store", "backup", "restore"))
    assert cloud["month"]["total"] == pytest.approx(total)
    dearer = shell.good(
        "cost", "vision/a", "--tier", "cloud", "--restores-per-year", "12", "--json"
    )
    assert dearer.json[0]["month"]["restore"] > cloud["month"]["restore"]
    assert "in all" in shell.good("cost").out


def test_policies_are_compared_on_what_was_measured_or_is_said(shell: Shell) -> None:
    refused = shell("plan-cost", "vision/a")
    assert refused.code == 3 and "--change" in refused.err
    size = ("--size", "1 TB", "--change", "2%", "--prices", "s3-standard", "--json")
    said = (*size, "--backup-speed", "500 MB", "--picture", "cost.svg")
    for_plan = shell.good("plan-cost", "vision/a", *said).json
    assert for_plan["measured"]["data_bytes"] == 1e12 and for_plan["rpo_s"] == 26 * 3600
    chosen = for_plan["recommended"]
    assert chosen in for_plan["frontier"]
    assert chosen["kind"] == "incremental" and chosen["recovery_point_s"] <= 26 * 3600
    assert not for_plan["warnings"]
    ElementTree.parse(shell.root / "cost.svg")
    slow = shell.good("plan-cost", "vision/a", *size[:-1], "--backup-speed", "5 MB")
    assert "CANNOT BE MET: tier local" in slow.out


def test_computing_again_is_compared_by_the_runs_that_dagster_knows(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    shell.good("backup", "vision/a")
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    asked = ("cost", "--tier", "local", "--restores-per-year", "2", "--recompute-per-hour")
    assert "DAGSTER_HOME is not set" in shell(*asked, "3600").err
    (shell.root / "home").mkdir()
    monkeypatch.setenv("DAGSTER_HOME", str(shell.root / "home"))
    assert "Dagster knows no run that computed it" in shell.good(*asked, "3600").out

    @dg.asset(key=["vision", "a"])
    def computed() -> None: ...

    with dg.DagsterInstance.get() as instance:
        assert dg.materialize([computed], instance=instance).success
        [run] = instance.get_run_records()
    assert run.start_time is not None and run.end_time is not None
    took_s = run.end_time - run.start_time
    # At a price of one for a second, and hardly anything for 20 kB on a disk.
    [dear] = shell.good(*asked, "3600", "--json").json["rebuild"]
    assert dear["rebuild_year"] == pytest.approx(2 * took_s)
    assert (dear["choice"], dear["rebuild_s"]) == ("backup", pytest.approx(took_s))
    [free] = shell.good(*asked, "0", "--json").json["rebuild"]
    assert (free["choice"], free["losses_to_pay"]) == ("rebuild", None)
    assert "rebuild: computing it again costs less" in shell.good(*asked, "0").out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--change", "2 percent"), "is not a share"),
        (("--size", "big"), "size"),
        (("--prices", "s3"), "no prices are known"),
        (("--rpo", "soon"), "soon"),
        (("--picture", "no/such/folder/cost.svg"), "cannot be written to no/such/folder"),
    ],
)
def test_what_makes_no_sense_is_one_clear_error(
    shell: Shell, words: tuple[str, ...], told: str
) -> None:
    ran = shell("plan-cost", "vision/a", "--size", "1 TB", "--change", "2%", *words)
    assert ran.code == 2 and told in ran.err


def test_prices_that_no_one_knows_are_refused_with_their_line(shell: Shell) -> None:
    shell.write_plan(PLAN.replace("like: s3-standard-ia", "like: s3-standart-ia"))
    ran = shell("validate")
    assert ran.code == 2 and "did you mean 's3-standard-ia'" in ran.err + ran.out

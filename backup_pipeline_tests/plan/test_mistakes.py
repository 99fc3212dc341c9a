"""Every mistake is refused with its path, its line and what to write instead."""

from __future__ import annotations

from pathlib import Path

import pytest

from backup_pipeline.engine.errors import PlanError
from backup_pipeline.plan import load_plan
from backup_pipeline_tests.plan import (
    mistakes_datasets,
    mistakes_drills,
    mistakes_sets,
    mistakes_tiers,
    mistakes_whole,
)
from backup_pipeline_tests.plan.mistakes import DATASETS, HEAD, MARK, Mistake

MISTAKES = [
    *mistakes_whole.MISTAKES,
    *mistakes_tiers.MISTAKES,
    *mistakes_datasets.MISTAKES,
    *mistakes_drills.MISTAKES,
    *mistakes_sets.MISTAKES,
]


def problems_of(plan: str, folder: Path) -> PlanError:
    """Loads a plan that must be refused."""
    file = folder / "backup.yaml"
    file.write_text(plan, encoding="utf-8")
    with pytest.raises(PlanError) as caught:
        load_plan(file, environ={})
    return caught.value


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name)
def test_a_mistake_is_told_once_at_its_place(mistake: Mistake, tmp_path: Path) -> None:
    marked = [n for n, line in enumerate(mistake.plan.splitlines(), 1) if line.endswith(MARK)]
    assert len(marked) == 1
    error = problems_of(mistake.plan, tmp_path)
    assert len(error.problems) == 1, str(error)
    problem = error.problems[0]
    assert (problem.path, problem.line) == (mistake.path, marked[0]), str(error)
    assert mistake.says in problem.message
    if mistake.suggests is not None:
        assert problem.suggestion is not None
        assert mistake.suggests in problem.suggestion
    assert error.exit_code == 2


def test_there_are_enough_mistakes_and_each_has_its_own_name() -> None:
    assert len(MISTAKES) >= 40
    assert len({mistake.name for mistake in MISTAKES}) == len(MISTAKES)


def test_all_mistakes_are_told_together(tmp_path: Path) -> None:
    plan = """\
start: tomorrow
timezone: Europe/Nowhere
timezone: UTC
stores: {local: gs://bucket, cloud: s3://bucket/p}
policies:
  default:
    tiers:
      - {name: local, every: dayly}
      - {name: cloud, form: local, every: week}
    rpo: {cluod: 8 days}
datasets:
  - {asset: vision/a}
  - {asset: vision/b, source: /data, policy: defualt}
  - {asset: vision/b, source: /data/{asset}}
  - {assets: [], source: /data, holds: nothing}
"""
    plan = plan.replace("/data/{asset}}", "'/data/{asset}'}")
    error = problems_of(plan, tmp_path)
    told = [(problem.line, problem.path) for problem in error.problems]
    assert told == [
        (1, "start"),
        (2, "timezone"),
        (3, "timezone"),
        (4, "stores.local"),
        (8, "policies.default.tiers[0].every"),
        (9, "policies.default.tiers[1].form"),
        (10, "policies.default.rpo.cluod"),
        (12, "datasets[0].source"),
        (13, "datasets[1].policy"),
        (14, "datasets[2].asset"),
        (15, "datasets[3].assets"),
        (15, "datasets[3].holds"),
    ]
    assert f"{tmp_path}/backup.yaml:9:" in str(error)
    assert "12 mistakes" in str(error)


def test_a_refused_value_has_no_consequences(tmp_path: Path) -> None:
    plan = HEAD.replace("s3://bucket/prefix", "nfs://x") + (
        "policies: {default: {tiers: [{name: local, kind: ful, full_every: 4 weeks},"
        " {name: cloud, from: local}]}}\n" + DATASETS
    )
    error = problems_of(plan, tmp_path)
    assert [p.path for p in error.problems] == [
        "stores.cloud",
        "policies.default.tiers[0].kind",
    ]


def test_a_mapping_has_paths_and_no_lines() -> None:
    with pytest.raises(PlanError) as caught:
        load_plan({"start": "2026-11-22", "stores": {"local": "ftp://x"}, "datasets": [{}]})
    problems = {problem.path: problem for problem in caught.value.problems}
    assert set(problems) == {"stores.local", "datasets[0]", "datasets[0].source"}
    assert all(problem.line is None for problem in problems.values())


def test_what_follows_an_unusable_item_keeps_its_place(tmp_path: Path) -> None:
    plan = """\
start: 2026-11-22
stores: {local: /srv/b, cloud: s3://b/p}
policies:
  default:
    tiers:
      - {every: day}
      - {name: local}
      - {name: cloud, every: month}
datasets:
  - just text
  - {asset: vision/a, source: /data, keep_slices: 1 year}
  - {asset: vision/b, source: /data, policy: nothing}
"""
    error = problems_of(plan, tmp_path)
    assert [(problem.line, problem.path) for problem in error.problems] == [
        (6, "policies.default.tiers[0].name"),
        (8, "policies.default.tiers[2].full_every"),
        (10, "datasets[0]"),
        (11, "datasets[1].keep_slices"),
        (12, "datasets[2].policy"),
    ]

"""What is proved by whom: verifications and drills leave records, and posture reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from backup_pipeline.engine.format.record import to_iso
from backup_pipeline.engine.operations.verified import record_verification
from backup_pipeline.engine.operations.verify import VerifyReport
from backup_pipeline.engine.state import MOST_VERIFICATIONS
from backup_pipeline.posture.conditions import conditions
from backup_pipeline.posture.tier import TierPosture
from backup_pipeline.runner import Runner
from backup_pipeline_tests.posture.scene import DATASET, Scene, moment


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    one = Scene(tmp_path, scratch=str(tmp_path / "scratch"), policy={"rto": "1 hour"})
    one.at("11-20T02:00").back_up()
    return one


def local(runner: Runner) -> TierPosture:
    return runner.posture().tiers[0]


def test_a_verification_and_a_drill_are_known_afterwards(scene: Scene) -> None:
    with scene.runner() as runner:
        assert (local(runner).verified, local(runner).drilled) == (None, None)
        scene.at("11-20T03:00")
        runner.verify(DATASET, tier="local")
        scene.at("11-20T04:00")
        runner.drill(DATASET, tier="local", sample="all")
    one = local(scene.runner())
    assert one.verified is not None and one.drilled is not None
    assert (one.verified.at, one.verified.ok, one.verified.coverage) == (
        moment("11-20T03:00"),
        True,
        1.0,
    )
    assert (one.drilled.at, one.drilled.ok, one.drilled.coverage) == (
        moment("11-20T04:00"),
        True,
        1.0,
    )
    assert one.drilled.whole_s is not None
    assert one.rto_met is True
    assert scene.runner().posture().datasets[0].copies.rules[4].met


def test_damage_that_was_found_needs_a_person_until_it_is_gone(scene: Scene) -> None:
    pack = max(
        (path for path in (scene.root / "stores/local").rglob("packs/*/*") if path.is_file()),
        key=lambda path: path.stat().st_size,
    )
    content = pack.read_bytes()
    pack.write_bytes(content[:-1] + b"x")
    with scene.runner() as runner:
        assert not runner.verify(DATASET, tier="local").ok
        assert [one.key for one in conditions(runner.posture())] == [f"verify:{DATASET}:local"]
        # A glance at nothing clears nothing.
        assert runner.verify(DATASET, tier="local", read_data="0%").ok
        assert [one.key for one in conditions(runner.posture())] == [f"verify:{DATASET}:local"]
        pack.write_bytes(content)
        runner.verify(DATASET, tier="local")
        assert conditions(runner.posture()) == []


def test_a_store_alone_is_verified_without_a_trace(scene: Scene) -> None:
    from backup_pipeline.engine.keys import parse_key_file

    before = sorted((scene.root / "stores/local").rglob("*"))
    key = parse_key_file(scene.environ["TEST_KEY"].encode(), "the test's")
    with Runner.for_store(str(scene.root / "stores/local"), DATASET, [key]) as reader:
        assert reader.verify(DATASET).ok
    assert sorted((scene.root / "stores/local").rglob("*")) == before


def test_a_store_that_cannot_be_written_is_verified_all_the_same(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    from backup_pipeline.engine.errors import StoreError
    from backup_pipeline.engine.store.local import LocalStore

    def refuse(*_: Any) -> None:
        raise StoreError("read only")

    monkeypatch.setattr(LocalStore, "put", refuse)
    with scene.runner() as runner:
        assert runner.verify(DATASET, tier="local").ok
        assert "this verification is not recorded: read only" in runner.notices


def test_records_that_say_something_else_prove_nothing(scene: Scene) -> None:
    with scene.runner() as runner:
        (repository,) = runner.repositories(DATASET, "local")
        at = to_iso(moment("11-20T05:00"))
        for body in (
            {"type": "verify"},
            {"type": "verify", "at": at, "snapshot": None, "bytes_total": "x"},
            {"type": "drill", "at": 7},
        ):
            repository.log.append({**body, "optional": True})
        assert local(runner).verified is None
        assert local(runner).drilled is None


def test_a_checkpoint_carries_the_newest_verifications(scene: Scene) -> None:
    with scene.runner() as runner:
        (repository,) = runner.repositories(DATASET, "local")
        for _ in range(140):
            record_verification(repository, VerifyReport(DATASET, "local"), None)
    one = scene.runner()
    (repository,) = one.repositories(DATASET, "local")
    assert len(repository.state.verifications) < 140
    carried = repository.state.checkpoint()["state"]["unknown"]
    assert len(carried) == MOST_VERIFICATIONS

"""Repair gives back what any tier still holds, names the rest, and harms nothing."""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from backup_pipeline.engine import log
from backup_pipeline.engine.errors import BackupError, Conflict
from backup_pipeline.engine.operations.donors import Donors
from backup_pipeline.engine.operations.expire import expire, pin
from backup_pipeline.engine.operations.repair import RepairReport, repair
from backup_pipeline.engine.operations.repair_packs import PackRepair
from backup_pipeline.engine.operations.restore import restore
from backup_pipeline.engine.operations.verify import verify
from backup_pipeline.engine.repository import Repository
from backup_pipeline.engine.store.memory import MemoryStore
from backup_pipeline.sources.files import FilesSource
from backup_pipeline_tests.engine.repositories import (
    back_up,
    copy_over,
    make_repository,
    open_repository,
)
from backup_pipeline_tests.engine.trees import State, state_of
from backup_pipeline_tests.promises import Cases

TIERS = ("one", "two", "three")


class Scene:
    """A dataset in some tiers, with all that each snapshot stood for."""

    def __init__(self, root: Path, number: int = 1) -> None:
        self.root = root
        self.chance = random.Random(number)
        self.source = root / "source"
        self.source.mkdir()
        self.stores = [MemoryStore(name) for name in TIERS]
        self.first = make_repository(self.stores[0], tier=TIERS[0])
        self.stood_for: dict[str, State] = {}  # by the id of the first tier's snapshot

    def write(self, name: str, size: int) -> None:
        (self.source / name).write_bytes(self.chance.randbytes(size))

    def back_up(self, kind: str = "incremental") -> None:
        snapshot = back_up(self.open(0), self.source, kind)
        self.stood_for[snapshot.id] = state_of(self.source)

    def copy(self, tier: int, kind: str = "incremental") -> None:
        first = self.open(0)
        target = make_repository(self.stores[tier], tier=TIERS[tier], like=first)
        copied = copy_over(first, first.snapshots()[-1], target, kind)
        assert copied.origin is not None
        self.stood_for[copied.id] = self.stood_for[copied.origin["snapshot"]]

    def open(self, tier: int) -> Repository:
        return open_repository(self.stores[tier])

    def names(self, tier: int, what: str) -> list[str]:
        return [one.name for one in self.stores[tier].list(self.open(tier).prefix + what)]

    def damage(self, tier: int, name: str, how: str = "flip", at: float = 0.5) -> None:
        content = bytearray(self.stores[tier].get(name))
        place = min(int(len(content) * at), max(0, len(content) - 1))
        if how == "delete":
            self.stores[tier].delete(name)
        elif how == "truncate":
            self.stores[tier].heal(name, bytes(content[:place]))
        elif content:
            content[place] ^= 1
            self.stores[tier].heal(name, bytes(content))

    def donors(self, repository: Repository, *siblings: int) -> Donors:
        return Donors(repository, lambda: [self.open(tier) for tier in siblings])

    def repair(
        self, tier: int, *siblings: int, apply: bool = True, source: bool = False
    ) -> RepairReport:
        repository = self.open(tier)
        opens = (lambda: FilesSource(self.source)) if source else None
        donors = self.donors(repository, *siblings)
        return repair(repository, donors=donors, source=opens, apply=apply)

    def restores(self, tier: int, snapshot: str) -> set[bytes] | None:
        """The files that a snapshot does not give back; None where it gives nothing back."""
        target = Path(tempfile.mkdtemp(dir=self.root))
        try:
            repository = self.open(tier)
            report = restore(repository, repository.snapshot(snapshot), target / "out")
            wanted, found = self.stood_for[snapshot], state_of(target / "out")
            lost = {path for path in wanted if path not in found}
            assert len(lost) == report.damage_count
            assert all(found[path] == one for path, one in wanted.items() if path not in lost)
            return lost
        except BackupError:
            return None
        finally:
            shutil.rmtree(target)


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    """Three days in the first tier, two in the second, one in the third."""
    made = Scene(tmp_path)
    for number in range(12):
        made.write(f"small {number:02}", 20_000)
    made.write("large", 2_500_000)
    made.back_up()
    made.copy(1)
    made.write("small 03", 30_000)
    (made.source / "small 04").unlink()
    made.back_up()
    made.write("medium", 500_000)
    made.back_up()
    made.copy(1)
    made.copy(2, "full")
    return made


@contextmanager
def everything_restores(scene: Scene, tier: int) -> Iterator[None]:
    yield
    for snapshot in scene.open(tier).snapshots():
        assert scene.restores(tier, snapshot.id) == set(), snapshot
    report = verify(scene.open(tier))
    assert report.ok, report.damage


def test_a_sound_tier_is_left_alone(scene: Scene) -> None:
    before = dict(scene.stores[0]._stored)
    report = scene.repair(0, 1, 2)
    assert report.ok and not report.damage_count
    assert scene.stores[0]._stored == before


@pytest.mark.parametrize("what", ["log/", "twin/", "keys/"])
@pytest.mark.parametrize("how", ["flip", "truncate", "delete"])
def test_copies_of_records_and_documents_heal_from_their_twins(
    scene: Scene, what: str, how: str
) -> None:
    names = [name for name in scene.names(0, what) if what != "keys/" or name.endswith(".twin")]
    before = {name: bytes(scene.stores[0].get(name)) for name in names}
    for name in (*names, "store"):
        before[name] = bytes(scene.stores[0].get(name))
        scene.damage(0, name, how)
    dry = scene.repair(0, apply=False)
    assert not dry.ok and dry.mended_count == dry.damage_count == len(before)
    with everything_restores(scene, 0):
        report = scene.repair(0)
        assert report.ok and not report.left_count
    assert {name: bytes(scene.stores[0].get(name)) for name in before} == before


@pytest.mark.parametrize("how", ["flip", "truncate", "delete"])
def test_packs_that_a_sibling_has_byte_for_byte_are_healed_in_place(scene: Scene, how: str) -> None:
    packs = scene.names(0, "packs/")
    before = {name: bytes(scene.stores[0].get(name)) for name in packs}
    scene.damage(0, packs[0], how)
    assert not scene.repair(0, 1, 2, apply=False).ok
    assert not verify(scene.open(0)).ok, "a dry run changes nothing"
    with everything_restores(scene, 0):
        report = scene.repair(0, 1, 2)
        assert report.ok and not report.left_count and not report.lost_count
    assert bytes(scene.stores[0].get(packs[0])) == before[packs[0]]
    assert not scene.open(0).state.replacements


def test_packs_are_stored_anew_where_only_their_chunks_are_to_be_had(scene: Scene) -> None:
    for tier in (0, 1):  # the third has all in one full of its own
        for name in scene.names(tier, "packs/"):
            scene.damage(tier, name, "flip", 0.3)
    report = scene.repair(1, 2)
    assert report.mended_count
    newest = scene.open(1).snapshots()[-1]
    assert scene.restores(1, newest.id) == set()
    # What only older snapshots held is lost, and named as restores find it.
    told = {(one["path"], snapshot) for one in report.lost for snapshot in one["snapshots"]}
    found = {
        (path.decode(), snapshot.id)
        for snapshot in scene.open(1).snapshots()
        for path in scene.restores(1, snapshot.id) or ()
    }
    assert told == found
    # A second repair changes nothing more; a later backup builds on what was stored anew.
    before = dict(scene.stores[1]._stored)
    assert scene.repair(1, 2).left_count == report.left_count
    assert scene.stores[1]._stored == before
    scene.copy(1)
    assert scene.restores(1, scene.open(1).snapshots()[-1].id) == set()


@pytest.mark.parametrize("at", [0.2, 0.999], ids=["frame", "index"])
def test_another_chain_or_the_source_gives_back_what_no_tier_has(scene: Scene, at: float) -> None:
    packs = scene.names(0, "packs/")
    for name in packs:
        scene.damage(0, name, "delete")
    assert scene.repair(0).lost_count
    assert scene.restores(0, scene.open(0).snapshots()[-1].id)
    report = scene.repair(0, source=True)
    assert report.from_source_bytes > 2_900_000
    assert {one["path"] for one in report.lost} == {"small 03", "small 04"}
    assert scene.restores(0, scene.open(0).snapshots()[-1].id) == set()
    scene.back_up("full")
    chain = scene.open(0).snapshots()[-1].chain
    for run, body in scene.open(0).state.runs.items():
        if body["chain"] != chain:
            for name in scene.names(0, f"packs/{run}/"):
                scene.damage(0, name, "flip", at)
    for elsewhere in (["one"], []):
        report = scene.repair(0)
        assert {one["path"] for one in report.lost} == {"small 03", "small 04"}
        assert list(report.elsewhere) == elsewhere
    first, *later = scene.open(0).snapshots()
    assert scene.restores(0, first.id) == {b"small 03", b"small 04"}
    assert [scene.restores(0, one.id) for one in later] == [set()] * 3


@pytest.mark.parametrize("how", ["flip", "truncate", "delete"])
def test_manifests_are_written_anew_from_the_same_snapshot_of_a_sibling(
    scene: Scene, how: str
) -> None:
    for name in scene.names(1, "manifests/"):
        scene.damage(1, name, how)
    assert not scene.repair(1, 0, 2, apply=False).lost_snapshots
    with everything_restores(scene, 1):
        assert scene.repair(1, 0, 2).ok
    scene.write("more", 10_000)
    scene.back_up()
    scene.copy(1)
    with everything_restores(scene, 1):
        pass


def test_a_manifest_that_was_written_anew_can_be_so_again(scene: Scene) -> None:
    for _ in range(3):
        for name in scene.names(1, "manifests/"):
            scene.damage(1, name)
        assert scene.repair(1, 0, 2, apply=False).damage_count
        with everything_restores(scene, 1):
            assert scene.repair(1, 0, 2).ok


def test_a_manifest_that_nobody_can_vouch_for_stays_refused(scene: Scene) -> None:
    first = scene.open(0)
    shared = first.snapshots()[0].segments[0].name
    scene.damage(0, first.segment_path(shared))
    report = scene.repair(0, 2)
    lost = {one["snapshot"] for one in report.lost_snapshots}
    assert not report.ok and lost == {one.id for one in first.snapshots()[:2]}
    assert all(scene.restores(0, snapshot.id) is None for snapshot in first.snapshots())
    assert not scene.open(0).state.replacements
    # The second tier knows the first day too: then all rows of the segment are known.
    with everything_restores(scene, 0):
        assert scene.repair(0, 1, 2).ok


def test_a_lost_manifest_and_lost_packs_are_mended_in_one_go(scene: Scene) -> None:
    for name in (*scene.names(1, "manifests/"), *scene.names(1, "packs/")):
        scene.damage(1, name, "delete")
    with everything_restores(scene, 1):
        assert scene.repair(1, 0).ok


def test_what_was_condemned_is_not_brought_back(scene: Scene) -> None:
    pack = scene.names(0, "packs/")[0]
    scene.damage(0, pack, "delete")
    repository = scene.open(0)
    repository.log.append(
        {
            "type": "condemn",
            "names": [pack.removeprefix(repository.prefix)],
            "reason": "a test",
            "not_before": "2026-11-22T00:00:00Z",
            "at": "2026-11-22T00:00:00Z",
        }
    )
    with pytest.raises(Conflict):
        scene.repair(0, 1, 2)
    assert not scene.stores[0].exists(pack)
    assert not scene.open(0).state.replacements


damages = st.lists(
    st.tuples(
        st.integers(0, 2),
        st.sampled_from(["packs/", "packs/", "manifests/", "log/", "twin/", "keys/"]),
        st.integers(0, 99),
        st.sampled_from(["flip", "truncate", "delete"]),
        st.floats(0, 0.999),
    ),
    min_size=1,
    max_size=12,
)


@pytest.mark.promise("repair")
def test_repair_gives_back_what_any_tier_holds_and_never_makes_things_worse(cases: Cases) -> None:
    @seed(cases.seed)
    @settings(max_examples=cases.scaled(15), deadline=None, suppress_health_check=list(HealthCheck))
    @given(damages, st.integers(0, 1000), st.booleans())
    def holds(harm: list[tuple[int, str, int, str, float]], number: int, source: bool) -> None:
        cases.add()
        with tempfile.TemporaryDirectory() as folder:
            scene = Scene(Path(folder), number)
            _some_days(scene)
            for tier, what, which, how, at in harm:
                names = _names_even_if_damaged(scene, tier, what)
                if names:
                    scene.damage(tier, names[which % len(names)], how, at)
            _repair_all_and_compare(scene, source)

    holds()


def _some_days(scene: Scene) -> None:
    chance = scene.chance
    for number in range(6):
        scene.write(f"file {number}", chance.choice((3_000, 40_000, 400_000, 1_500_000)))
    for day in range(3):
        scene.back_up("full" if day == 2 and chance.random() < 0.5 else "incremental")
        for tier in (1, 2):
            if chance.random() < 0.6:
                scene.copy(tier, chance.choice(("full", "incremental")))
        scene.write(f"file {chance.randrange(6)}", chance.choice((5_000, 500_000)))
        if chance.random() < 0.5 and len(list(scene.source.iterdir())) > 2:
            min(scene.source.iterdir()).unlink()


def _names_even_if_damaged(scene: Scene, tier: int, what: str) -> list[str]:
    # In the order they were written: their names are another's in each run.
    return [name for name in scene.stores[tier]._stored if f"/{what}" in name]


def _opens(scene: Scene, tier: int) -> bool:
    try:
        scene.open(tier)
    except BackupError:
        return False
    return True


def _repair_all_and_compare(scene: Scene, source: bool) -> None:
    tiers = [tier for tier in range(3) if _opens(scene, tier)]
    before = {
        (tier, one.id): scene.restores(tier, one.id)
        for tier in tiers
        for one in scene.open(tier).snapshots()
    }
    for tier in tiers:
        siblings = [other for other in tiers if other != tier]
        could = _could_be_restored(scene, tier, siblings)
        report = scene.repair(tier, *siblings, source=source)
        lost_snapshots = {one["snapshot"] for one in report.lost_snapshots}
        told = {(one["path"], key) for one in report.lost for key in one["snapshots"]}
        repository = scene.open(tier)
        for snapshot in repository.snapshots():
            after = scene.restores(tier, snapshot.id)
            earlier = before[tier, snapshot.id]
            assert earlier is None or (after is not None and after <= earlier), "made worse"
            if after is None:  # the manifest: nobody could list it, or not all who share it
                assert snapshot.id in lost_snapshots or report.left_count
                continue
            assert snapshot.id not in lost_snapshots
            lost = {(path.decode(), snapshot.id) for path in after}
            named = {one for one in told if one[1] == snapshot.id}
            # What others have is no loss, but stays where a log cannot be written to.
            assert lost == named or (repository.log.lost and report.left_count and lost > named)
            if not repository.log.lost and could.get(snapshot.id) is not None:
                assert after <= could[snapshot.id], "someone had it"
        if report.ok:
            assert verify(repository).ok


def _could_be_restored(
    scene: Scene, tier: int, siblings: list[int]
) -> dict[str, set[bytes] | None]:
    """What a restore with the help of all tiers cannot give back, by snapshot."""
    found: dict[str, set[bytes] | None] = {}
    repository = scene.open(tier)
    for number, snapshot in enumerate(repository.snapshots()):
        target = scene.root / f"could {number}"
        try:
            report = restore(
                repository, snapshot, target, donors=scene.donors(repository, *siblings)
            )
            found[snapshot.id] = {one["path"].encode() for one in report.damage}
        except BackupError:
            found[snapshot.id] = None
        finally:
            shutil.rmtree(target, ignore_errors=True)
    return found


def test_what_expires_during_a_repair_and_is_forgotten_does_not_stop_it(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint leaves the snapshot out whose pack is being repaired."""
    scene.back_up("full")
    repository, other = scene.open(0), scene.open(0)
    old = [one for one in repository.snapshots() if one.chain != repository.snapshots()[-1].chain]
    packs = [name for name in scene.names(0, "packs/") if old[0].run in name]
    for name in packs:
        scene.damage(0, name)
    heal = PackRepair._heal_pack

    def meanwhile(repair: PackRepair, name: bytes) -> bool:
        if other.state.live()[0].id == old[0].id:
            expire(other, lambda _: {one.id: "test" for one in old})
            monkeypatch.setattr(log, "EPOCH_RECORDS", other.log.next_sequence)
            pin(other, other.snapshots()[0].id, pinned=True, reason="a record more")
        repository.refresh()
        return heal(repair, name)

    monkeypatch.setattr(PackRepair, "_heal_pack", meanwhile)
    report = repair(repository, apply=True)
    assert old[0].id not in repository.state.snapshots
    assert report.ok and report.mended_count == len(packs)


def test_a_file_that_grew_at_the_source_gives_back_what_it_still_begins_with(
    tmp_path: Path,
) -> None:
    scene = Scene(tmp_path)
    scene.write("log", 3 << 20)
    scene.back_up("full")
    for name in scene.names(0, "packs/"):
        scene.damage(0, name, "delete")
    with (scene.source / "log").open("ab") as file:
        file.write(scene.chance.randbytes(1000))
    report = scene.repair(0, source=True)
    assert (report.from_source_bytes, report.lost_count) == (3 << 20, 0)
    assert scene.restores(0, scene.open(0).snapshots()[-1].id) == set()

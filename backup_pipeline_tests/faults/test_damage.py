"""Every kind of stored object, damaged in every way: named, never restored, nothing else lost."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from backup_pipeline_tests.faults.everything import Everything, make_everything
from backup_pipeline_tests.promises import Cases

pytestmark = pytest.mark.promise("damage")

PARITY = "parity"  # nothing refers to it: where it is gone, there is less to heal with
KINDS = {
    *("store", "key set of the store", "key set", "manifest", "pack", PARITY),
    *(f"{kind} record" for kind in ("keys", "run", "snapshot", "expire", "pin", "condemn")),
    *(f"{kind} record" for kind in ("replacement", "note", "checkpoint")),
}
ONLY_ONCE = {"manifest", "pack"}


@pytest.fixture(scope="module", params=[True, False], ids=["encrypted", "plaintext"])
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Everything:
    return make_everything(tmp_path_factory.mktemp("everything"), encrypted=request.param)


@pytest.fixture(scope="module")
def elsewhere(whole: Everything, tmp_path_factory: pytest.TempPathFactory) -> Everything:
    """Another store, made with the same key and of the same datasets."""
    return make_everything(tmp_path_factory.mktemp("elsewhere"), encrypted=whole.encrypted)


def looked_at(whole: Everything) -> list[str]:
    """The objects that a verification is about, a few of each kind."""
    found: dict[str, list[str]] = {}
    for name in sorted(whole.names):
        kind = whole.kinds[name]
        if kind.split(" ")[0] in ONLY_ONCE and name not in whole.needs:
            continue  # nobody needs it any more
        found.setdefault(kind, []).append(name)
    return [name for names in found.values() for name in (*names[:4], names[-1])]


def bits(content: bytes, chance: random.Random, some: int) -> Iterator[int]:
    """Bits of a header, of what is behind it, of a tag, of what lies before it, and anywhere."""
    size = len(content)
    for place in (0, 4, 5, 6, 9, 15, 16, 40, 64, 104, size // 2, size - 30, size - 17, size - 1):
        if 0 <= place < size:
            yield 8 * place + chance.randrange(8)
    for _ in range(some):
        yield chance.randrange(8 * size)


def flipped(content: bytes, bit: int) -> bytes:
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def changes(
    whole: Everything, name: str, chance: random.Random, some: int
) -> Iterator[tuple[str, bytes | None]]:
    """All that may happen to one object: what, and its bytes then."""
    content = whole.names[name]
    for bit in bits(content, chance, some):
        yield f"bit {bit}", flipped(content, bit)
    for size in {len(content) - 1, len(content) // 2, 48, 16, 1, 0}:
        if size < len(content):
            yield f"cut to {size}", content[:size]
    yield "longer", content + b"\0"
    yield "zeros", bytes(len(content))
    yield "deleted", None
    same = [one for one in sorted(whole.names) if whole.kinds[one] == whole.kinds[name]]
    before = [one for one in same if one < name and whole.names[one] != content]
    if before:
        yield "an older one of its kind", whole.names[before[-1]]
    older = earlier_record(whole, name)
    if older is not None:
        yield "the record before", whole.names[older]


def earlier_record(whole: Everything, name: str) -> str | None:
    folder, _, number = name.rpartition("/")
    if "record" not in whole.kinds[name] or int(number) == 0:
        return None
    top, _, epoch = folder.rpartition("/")
    before = int(number) - 1
    assert int(epoch) == int(number) // 128
    return f"{top}/{before // 128:06d}/{before:08d}"


def check(
    whole: Everything,
    scratch: Path,
    what: str,
    damage: dict[str, bytes | None],
    *,
    may_do: bool = False,
) -> None:
    """That damage to some objects is named and costs the snapshots that need them, and no more.

    Args:
        whole: The store.
        scratch: An empty folder.
        what: What is done, for messages.
        damage: Names, and the bytes that are there then.
        may_do: Whether a restore may do without what is damaged.
    """
    with whole.damaged(damage):
        named = {one for one in damage if damage[one] is not None or whole.kinds[one] != PARITY}
        assert named <= whole.named() <= named | whole.stood_for(damage), what
        kept = whole.restorable(scratch)
        gone = {one for name in damage for one in whole.needs.get(name, ())}
        assert kept >= whole.trees.keys() - gone, what
        # Without encryption another pack may be read in a pack's place, and hold the same chunks.
        if whole.encrypted and not may_do:
            assert kept == whole.trees.keys() - gone, what


def test_a_store_that_nobody_touched_is_whole(whole: Everything, tmp_path: Path) -> None:
    assert whole.named() == set()
    assert whole.restorable(tmp_path) == whole.trees.keys() and len(whole.trees) == 4
    found = {kind.removesuffix(" twin") for kind in whole.kinds.values()}
    assert found == (KINDS if "keys/00000000" in whole.names else KINDS - {"key set of the store"})
    assert {whole.kinds[name].removesuffix(" twin") for name in looked_at(whole)} == found


def one_by_one(
    whole: Everything, tmp_path: Path, cases: Cases, names: Sequence[str], some: int, share: float
) -> None:
    """Damage objects; of what all have to read, only a share is done, as each takes long."""
    chance = random.Random(cases.seed)
    for name in names:
        for what, content in changes(whole, name, chance, some):
            if name in whole.needs or whole.kinds[name] == PARITY or chance.random() < share:
                healed = name.replace("/packs/", "/parity/") in whole.names
                may_do = healed or what.startswith(("bit", "cut", "longer"))
                check(whole, tmp_path, f"{name}: {what}", {name: content}, may_do=may_do)
                cases.add()


def test_an_object_that_is_damaged_is_named_and_costs_no_more_than_must_be(
    whole: Everything, tmp_path: Path, cases: Cases
) -> None:
    chance = random.Random(cases.seed)
    some: list[str] = []
    for kind in sorted(set(whole.kinds.values())):
        names = [name for name in looked_at(whole) if whole.kinds[name] == kind]
        some += chance.sample(names, min(len(names), cases.scaled(1)))
    one_by_one(whole, tmp_path, cases, some, 1, 0.2)


@pytest.mark.faults
def test_every_object_that_is_damaged_is_named_and_costs_no_more_than_must_be(
    whole: Everything, tmp_path: Path, cases: Cases
) -> None:
    one_by_one(whole, tmp_path, cases, looked_at(whole), cases.scaled(2), 0.2)


def swaps(whole: Everything, chance: random.Random) -> Iterator[tuple[str, str]]:
    """Two of each kind, and one of each kind with one of each other, the other dataset's too."""
    of: dict[str, list[str]] = {}
    for name in looked_at(whole):
        of.setdefault(whole.kinds[name], []).append(name)
    for names in of.values():
        if len(names) > 1:
            yield names[0], names[-1]
    kinds = sorted(of)
    for number, kind in enumerate(kinds):
        other = kinds[(number + 1 + chance.randrange(len(kinds) - 1)) % len(kinds)]
        yield chance.choice(of[kind]), chance.choice(of[other])
        theirs = [name for name in sorted(whole.others) if whole.kinds[name] == kind]
        if theirs:
            yield of[kind][-1], theirs[-1]


def test_objects_that_changed_places_are_named(
    whole: Everything, tmp_path: Path, cases: Cases
) -> None:
    for first, second in swaps(whole, random.Random(cases.seed)):
        if whole.stored(first) == whole.stored(second):
            continue  # a record and its twin
        damage = {first: whole.stored(second), second: whole.stored(first)}
        with whole.damaged(damage):
            ours = {name for name in damage if name in whole.names}
            manifests = [one for one in ours if whole.kinds[one] == "manifest"]
            unseen = {  # a pack that only a manifest tells of which is damaged as well
                one
                for one in ours.difference(manifests)
                for manifest in manifests
                if whole.needs.get(one, {manifest}) <= whole.needs[manifest]
            }
            may = ours | whole.stood_for(ours)
            assert ours - unseen <= whole.named() <= may, f"{first} and {second}"
            gone = {one for name in ours for one in whole.needs.get(name, ())}
            kept = whole.restorable(tmp_path)
            assert kept >= whole.trees.keys() - gone
            assert kept == whole.trees.keys() - gone or not whole.encrypted
        cases.add()


def test_objects_of_another_store_with_the_same_key_are_named(
    whole: Everything, elsewhere: Everything, tmp_path: Path, cases: Cases
) -> None:
    here = {whole.kinds[name]: name for name in looked_at(whole)}
    there = {elsewhere.kinds[name]: name for name in looked_at(elsewhere)}
    for kind, name in here.items():
        check(
            whole,
            tmp_path,
            f"{name} of another store",
            {name: elsewhere.names[there[kind]]},
        )
        cases.add()


def test_the_loss_of_the_newest_record_with_its_twin_does_not_show_in_one_store(
    whole: Everything,
) -> None:
    """As docs/threat-model.md says; whoever keeps a snapshot's digest elsewhere can tell."""
    repository = whole.open()
    newest = max(repository.snapshots(), key=lambda one: one.sequence)
    number = repository.log.next_sequence - 1
    assert newest.sequence == number
    with whole.damaged({repository.log.name(number, twin=twin): None for twin in (False, True)}):
        assert whole.named() == set()
        left = {one.digest for one in whole.open().snapshots()}
        assert len(left) == len(whole.trees) - 1 and newest.digest not in left

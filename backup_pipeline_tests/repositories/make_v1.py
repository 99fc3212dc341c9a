"""Makes the golden repositories of format version 1; they were made once, by version 0.1.0.

    python -m backup_pipeline_tests.repositories.make_v1 FOLDER

``v1-encrypted``: two stores of one dataset (``local`` and, copied from it, ``cloud``).
``v1-plaintext``: one store without encryption. ``v1-kept``: one that expired, was pruned and has
parity, made later than the others by the same version. What is there already is left as it is. Keys
and ids are random: running it again makes others, which say the same.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa

from backup_pipeline.engine.chunk_index import ChunkIndex
from backup_pipeline.engine.crypto import identifier, sha256_hex
from backup_pipeline.engine.documents import STORE_NAME, key_set_name, put_twice, read_either
from backup_pipeline.engine.format.document import (
    KeySet,
    decode_descriptor,
    decode_key_set,
    encode_key_set,
)
from backup_pipeline.engine.format.pack import FRAMES_START, frame_binding
from backup_pipeline.engine.format.record import Snapshot, pack_name, to_iso
from backup_pipeline.engine.judgement import Gate
from backup_pipeline.engine.keys import (
    PLAINTEXT,
    KeyEncryptionKey,
    KeyFile,
    Passphrase,
    Secret,
    wrap,
)
from backup_pipeline.engine.log import EPOCH_RECORDS
from backup_pipeline.engine.operations.backup import backup
from backup_pipeline.engine.operations.copy import copy
from backup_pipeline.engine.operations.expire import expire, pin
from backup_pipeline.engine.operations.packing import Packer
from backup_pipeline.engine.operations.prune import PRUNE_GRACE, prune
from backup_pipeline.engine.repository import (
    Repository,
    UnlockedStore,
    unlock_store,
)
from backup_pipeline.engine.store import Store, open_store
from backup_pipeline.engine.store.wrappers import WrappedStore
from backup_pipeline.sources.base import Details, Reader, Unreadable, scan_schema
from backup_pipeline.sources.files import FilesSource
from backup_pipeline_tests.repositories.trees_v1 import DAYS, digest_of, listing, make_tree

PASSPHRASE = "golden repositories have no secrets"
KEY_FILE = KeyFile(b"golden key files have no secrets")
IMAGES, OBJECTS = "vision/train_images", "lake/objects"
EXECUTABLE = b"folder/executable"
XATTR = (b"user.comment", b"kept \xff too")


class Clock:
    """A minute later whenever it is asked."""

    def __init__(self) -> None:
        self.moment = datetime(2026, 11, 16, 1, 0, tzinfo=UTC)

    def __call__(self) -> datetime:
        self.moment += timedelta(minutes=1)
        return self.moment


class PartlyReadable(FilesSource):
    """A tree with one file that cannot be read."""

    def open(self, path: bytes, type: str, *, etag: str | None = None) -> Any:
        if path == b"cannot be read":
            raise Unreadable("unreadable", "Input/output error")
        return super().open(path, type, etag=etag)

    def read_whole(self, path: bytes, *_: object) -> None:
        """Nothing that way: ``open`` has its say about every file."""


class FewObjects(FilesSource):
    """Two objects, as a bucket has them."""

    def __init__(self) -> None:
        super().__init__("/nowhere")

    clock_granularity_ns = 0

    def describe(self) -> str:
        return "s3://lake/objects"

    def scan(self) -> Iterator[pa.RecordBatch]:
        rows = [
            {
                "path": path,
                "type": "object",
                "state": "good",
                "size": 20,
                "mtime_ns": 1_700_000_000_000_000_000,
                "etag": f'"{path.hex()}"',
                "version_id": "v1",
            }
            for path in (b"day=1/part-0", b"day=1/part-1")
        ]
        yield pa.RecordBatch.from_pylist(rows, schema=scan_schema())

    def open(self, path: bytes, type: str, *, etag: str | None = None) -> Any:
        return _ObjectReader(path)


class _ObjectReader(Reader):
    def __init__(self, path: bytes) -> None:
        self.left = path.rjust(20, b"\n")

    def read_into(self, buffer: memoryview) -> int:
        count = min(len(buffer), len(self.left))
        buffer[:count], self.left = self.left[:count], self.left[count:]
        return count

    def finish(self) -> Details:
        return Details(
            size=20, content_type="text/plain", metadata=[("owner", "größe"), ("empty", "")]
        )


class TimedStore(WrappedStore):
    """A store that keeps time by the clock of the repositories' records."""

    def __init__(self, inner: Store, clock: Clock) -> None:
        super().__init__(inner)
        self.clock = clock

    def now(self) -> datetime:
        return self.clock.moment


class Maker:
    """Makes one repository's snapshots and notes what they must restore to."""

    def __init__(self, repository: Repository, clock: Clock, trees: Path) -> None:
        self.repository = repository
        self.clock = clock
        self.trees = trees
        self.contents: dict[str, str] = {}

    def backup(self, day: int, kind: str, **chain: Snapshot) -> Snapshot:
        root = self.trees / str(day)
        source = PartlyReadable(root)
        made = backup(
            self.repository,
            source,
            day=date.fromisoformat(DAYS[day]),
            kind=kind,
            gate=Gate(off=True),  # these trees lead no normal life
            clock=self.clock,
            **chain,
        )
        self._note(made, root)
        return made

    def _note(self, snapshot: Snapshot, root: Path) -> None:
        lost = {bytes.fromhex(str(e[0])) for e in listing(root)} & {b"cannot be read", b"pipe"}
        kept = [e for e in listing(root) if bytes.fromhex(str(e[0])) not in lost]
        self.contents[snapshot.id] = digest_of(kept)

    def append(self, type: str, **body: Any) -> None:
        self.repository.log.append({"type": type, "at": to_iso(self.clock()), **body})

    def expected(self) -> dict[str, Any]:
        """What a reader must find."""
        names = ("id", "kind", "chain", "timing", "status", "entries", "files", "bytes", "digest")
        snapshots = [
            {
                **{name: getattr(one, name) for name in names},
                "day": one.day.isoformat(),
                "sequence": one.sequence,
                "content": self.contents.get(one.id),
            }
            for one in self.repository.snapshots()
        ]
        state = self.repository.state
        return {
            "tier": self.repository.tier,
            "records": self.repository.log.next_sequence,
            "snapshots": snapshots,
            "expired": state.expired,
            "pinned": state.pinned,
            "condemned": sorted(state.condemned),
            "replaced": sorted(state.replacements),
        }


def _run_record(repository: Repository, operation: str, clock: Clock) -> tuple[bytes, bytes]:
    """Begin a run of another kind than backup and copy; its id and content key."""
    run, key = os.urandom(16), os.urandom(32)
    body = {
        "type": "run",
        "run": run.hex(),
        "operation": operation,
        "kind": None,
        "chain": run.hex(),
        "parent": None,
        "base": None,
        "day": DAYS[0],
        "started_at": to_iso(clock()),
        "wraps": repository.keys.wrap_run_key(run, key),
    }
    repository.log.append(body)
    return run, key


def _packs(repository: Repository, run: str) -> list[str]:
    return [one.name for one in repository.store.list(f"{repository.prefix}packs/{run}/")]


def _condemn_an_orphan(maker: Maker) -> None:
    """A run that was interrupted left a pack; a prune announced its deletion and deleted it."""
    repository = maker.repository
    run, key = _run_record(repository, "backup", maker.clock)
    packer = Packer(repository, run, key, ChunkIndex(), lambda: None)
    packer.frame([(6, identifier(repository.keys.identity)(b"orphan"))], b"orphan", 6)
    packer.close()
    (path,) = _packs(repository, run.hex())
    name = path.removeprefix(repository.prefix)
    after = maker.clock() + timedelta(days=1)
    maker.append("condemn", names=[name], reason="no snapshot needs it", not_before=to_iso(after))
    repository.store.delete(path)


def _replace_a_pack(maker: Maker, snapshot: Snapshot) -> None:
    """A pack was damaged beyond healing: its chunks were sealed anew, and it is gone."""
    repository = maker.repository
    (path,) = [
        one.name for one in repository.store.list(f"{repository.prefix}packs/{snapshot.run}/")
    ]
    old = pack_name(path.removeprefix(repository.prefix))
    index = repository.pack_index(old)
    content = memoryview(repository.store.get(path))
    box = repository.pack_sealer(old, content[:FRAMES_START])
    run, key = _run_record(repository, "repair", maker.clock)
    packer = Packer(repository, run, key, ChunkIndex(), lambda: None)
    for frame in reversed(index.frames):  # so that places differ
        bound = frame_binding(repository.keys.dataset_id, frame.ordinal)
        sealed = content[frame.offset : frame.offset + frame.stored]
        packer.frame(frame.members, box.open(frame.ordinal, sealed, bound), frame.raw)
    packer.close()
    new = [one.removeprefix(repository.prefix) for one in _packs(repository, run.hex())]
    maker.append(
        "replacement", replacements={path.removeprefix(repository.prefix): new}, reason="damaged"
    )
    repository.store.delete(path)


def _replace_a_segment(maker: Maker, snapshot: Snapshot) -> None:
    """A segment was damaged: another tier had its rows, and it is gone."""
    repository, old = maker.repository, snapshot.segments[0]
    new = repository.put_segment(repository.segment(old))
    name = f"manifests/{old.name}"
    maker.append("replacement", replacements={name: [new.to_json()]}, reason="damaged")
    repository.store.delete(repository.segment_path(old.name))


def _wrap_anew(maker: Maker, unlocked: UnlockedStore) -> None:
    """A second set of wraps: for a key file, and of a kind that version 1 does not know."""
    repository, store = maker.repository, unlocked.store
    descriptor = read_either(store, STORE_NAME, decode_descriptor)
    assert descriptor.kdf is not None
    keks = [KeyEncryptionKey.from_secret(KEY_FILE, descriptor.kdf)]
    later = {"kind": "of a later version", "purpose": "index", "recipient": "someone"}
    own = [later, wrap(keks[0], "store", descriptor.store, unlocked.name_key)]
    name = key_set_name("keys/", 1)
    content = encode_key_set(KeySet(name, descriptor.store, descriptor.kdf, None, own))
    put_twice(store, name, content, decode_key_set)
    name = key_set_name(f"{repository.prefix}keys/", 1)
    wraps = [later, *repository.keys.wrap(keks)]
    content = encode_key_set(
        KeySet(name, descriptor.store, descriptor.kdf, repository.keys.dataset_id, wraps)
    )
    put_twice(store, name, content, decode_key_set)
    maker.append("keys", key_set=sha256_hex(content))


def make_encrypted(folder: Path, trees: Path) -> dict[str, Any]:
    """The stores ``local`` and ``cloud``."""
    clock = Clock()
    secrets: Sequence[Secret] = [Passphrase(PASSPHRASE.encode())]
    local = _repository(folder / "local", secrets, IMAGES, "local", clock)
    unlocked = unlock_store(local.store, secrets)
    maker = Maker(local, clock, trees)
    full = maker.backup(0, "full")
    second = maker.backup(1, "incremental", parent=full, base=full)
    third = maker.backup(2, "differential", base=full)
    fourth = maker.backup(3, "incremental", parent=third, base=full)
    assert fourth.status == "incomplete"
    maker.append("pin", snapshot=third.id, pinned=True, reason="before the migration")
    maker.append("expire", snapshots=[{"id": second.id, "reason": "not kept by daily: 3"}])
    maker.append("expire", snapshots=[{"id": third.id, "reason": "void: it is pinned"}])
    _condemn_an_orphan(maker)
    _replace_a_pack(maker, third)
    _replace_a_segment(maker, full)
    _wrap_anew(maker, unlocked)
    maker.append("note", optional=True, text="of a type that version 1 does not know")
    while local.log.next_sequence < EPOCH_RECORDS:
        maker.append("pin", snapshot=full.id, pinned=local.log.next_sequence % 2 == 0, reason="")
    fifth = maker.backup(4, "incremental", parent=fourth, base=full)
    assert local.log.next_sequence > EPOCH_RECORDS
    local = unlock_store(local.store, secrets).repository(IMAGES)  # by way of the checkpoint
    maker.repository = local
    maker.backup(4, "incremental", parent=fifth, base=full)  # nothing has changed
    maker.backup(5, "full")

    cloud = _repository(folder / "cloud", secrets, IMAGES, "cloud", clock, keys=local.keys)
    other = Maker(cloud, clock, trees)
    first: Snapshot | None = None
    for snapshot in (third, local.snapshot(fifth.id)):
        chain = {} if first is None else {"parent": first, "base": first}
        kind = "full" if first is None else "incremental"
        made = copy(local, snapshot, cloud, kind=kind, clock=clock, timing="exact", **chain)
        other.contents[made.id] = maker.contents[snapshot.id]
        first = first or made
    found = {"local": maker.expected(), "cloud": other.expected()}
    return {"passphrase": PASSPHRASE, "key_file": KEY_FILE.content.hex(), IMAGES: found}


def make_kept(folder: Path, trees: Path) -> dict[str, Any]:
    """The store ``local`` of a dataset whose first chain expired and was pruned, with parity."""
    clock = Clock()
    secrets: Sequence[Secret] = [Passphrase(PASSPHRASE.encode())]
    repository = _repository(folder / "local", secrets, IMAGES, "local", clock)
    store = repository.store = TimedStore(repository.store, clock)
    repository.parity = 0.1
    maker = Maker(repository, clock, trees)
    first = maker.backup(0, "full")
    second = maker.backup(1, "incremental", parent=first, base=first)
    third = maker.backup(2, "full")
    fourth = maker.backup(4, "incremental", parent=third, base=third)
    fifth = maker.backup(5, "incremental", parent=fourth, base=third)
    pin(repository, third.id, pinned=True, reason="the release", clock=clock)
    gone = {one.id: "beyond keep: last 2" for one in (first, second, fourth)}
    expire(repository, lambda _: gone, clock=clock)
    condemned = prune(repository, apply=True, clock=clock)
    assert condemned.condemned_objects and f"packs/{first.run}" in repository.state.condemned
    clock.moment += PRUNE_GRACE
    assert prune(repository, apply=True, clock=clock).deleted_objects == condemned.condemned_objects
    while repository.log.next_sequence < EPOCH_RECORDS:
        pin(repository, fifth.id, pinned=True, reason="again and again", clock=clock)
    maker.backup(5, "incremental", parent=fifth, base=third)
    repository = unlock_store(store.inner, secrets).repository(IMAGES)  # by way of the checkpoint
    assert repository.state.expired_days and repository.state.runs[first.run]["finished"]
    maker.repository = repository
    found = {**maker.expected(), "expired_days": sorted(repository.state.expired_days)}
    return {"passphrase": PASSPHRASE, IMAGES: {"local": found}}


def make_plaintext(folder: Path, trees: Path) -> dict[str, Any]:
    """The store without encryption."""
    clock = Clock()
    images = Maker(_repository(folder / "local", [PLAINTEXT], IMAGES, "local", clock), clock, trees)
    full = images.backup(4, "full")
    images.backup(1, "incremental", parent=full, base=full)
    objects = Maker(
        _repository(folder / "local", [PLAINTEXT], OBJECTS, "local", clock), clock, trees
    )
    backup(
        objects.repository,
        FewObjects(),
        day=date.fromisoformat(DAYS[0]),
        kind="full",
        timing="exact",
        clock=clock,
    )
    return {IMAGES: {"local": images.expected()}, OBJECTS: {"local": objects.expected()}}


def _repository(
    folder: Path, secrets: Sequence[Secret], dataset: str, tier: str, clock: Clock, keys: Any = None
) -> Repository:
    unlocked = unlock_store(open_store(str(folder)), secrets, create=True)
    return unlocked.create(dataset, tier=tier, deployment="golden", keys=keys, now=clock)


MADE = {"v1-encrypted": make_encrypted, "v1-plaintext": make_plaintext, "v1-kept": make_kept}


def main(target: Path) -> None:
    """Make below a folder those that it lacks."""
    with tempfile.TemporaryDirectory() as scratch:
        trees = Path(scratch)
        for day in range(len(DAYS)):
            make_tree(trees / str(day), day)
            os.setxattr(os.fsencode(trees / str(day)) + b"/" + EXECUTABLE, *XATTR)
        for name, make in MADE.items():
            folder = target / name
            if folder.exists():
                print(f"{folder} is there already")
                continue
            try:
                expected = make(folder, trees)
            except BaseException:
                shutil.rmtree(folder, ignore_errors=True)
                raise
            text = json.dumps(expected, indent=1, ensure_ascii=False)
            (folder / "expected.json").write_text(text + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""A reader of repositories, written from docs/format-v1.md alone; shares no code with the engine.

    python reader.py STORE_FOLDER DATASET TARGET [SNAPSHOT]      passphrase in BACKUP_PASSPHRASE

It is small rather than fast: stores are directories, and every file is put together in memory.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
import struct
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard
from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

PUBLIC = b"backup_pipeline: no encryption. "
HEADER, RECORD_HEAD, SEGMENT_HEAD, PACK_HEAD = 16, 104, 48, 64
FRAME, TAG, EPOCH = 1 << 20, 16, 128


class Damage(Exception):
    """Stored bytes are not what the format says."""


class Later(Exception):
    """A later version wrote this."""


class NoKey(Exception):
    """The secret opens none of the wraps."""


# -- primitives


def keyed(key: bytes, content: bytes) -> bytes:
    """BLAKE3(key, content)."""
    return blake3(content, key=key).digest()


def derive(key: bytes, context: str, salt: bytes = b"") -> bytes:
    """derive(key, context, salt)."""
    return keyed(key, context.encode() + b"\0" + salt)


def canonical(value: Any) -> bytes:
    """Canonical JSON."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


def check_header(content: bytes, kind: bytes) -> None:
    """Refuse what does not begin as a thing of this kind."""
    start = content[:HEADER]
    if len(start) < HEADER or start[:4] != b"BKPL" or start[4:5] != kind:
        raise Damage("no header of this kind")
    (check,) = struct.unpack_from("<H", start, 6)
    if check != binascii.crc_hqx(start[:6] + start[8:], 0):
        raise Damage("the header's check is wrong")
    if start[5] != 1 or struct.unpack_from("<I", start, 8) != (0,):
        raise Later(f"version {start[5]}")


@dataclass
class Seal:
    """The sealing key of one stored thing."""

    key: bytes
    encrypted: bool

    def open(self, number: int, sealed: bytes, binding: bytes) -> bytes:
        """The content of a frame."""
        nonce = number.to_bytes(12, "big")
        if len(sealed) < TAG:
            raise Damage("shorter than a tag")
        if self.encrypted:
            try:
                return AESGCM(self.key).decrypt(nonce, sealed, binding)
            except InvalidTag:
                raise Damage("a frame does not open") from None
        content, tag = sealed[:-TAG], sealed[-TAG:]
        bound = nonce + struct.pack("<I", len(binding)) + binding + content
        if keyed(self.key, bound)[:TAG] != tag:
            raise Damage("a frame's checksum is wrong")
        return content


def unfold(packed: bytes, size: int) -> bytes:
    """Content that is compressed exactly if its size differs."""
    if len(packed) == size:
        return packed
    if len(packed) > size or size > 256 << 20:
        raise Damage("impossible sizes")
    try:
        if zstandard.frame_content_size(packed) != size:
            raise Damage("unfolds to another size")
        return zstandard.ZstdDecompressor().decompress(packed)
    except zstandard.ZstdError as error:
        raise Damage(str(error)) from None


# -- documents and keys


def decode_document(content: bytes, kind: bytes) -> dict[str, Any]:
    """The JSON of a descriptor or key set."""
    check_header(content, kind)
    start, digest, text = content[:16], content[16:48], content[48:]
    if hashlib.sha256(start + text).digest() != digest:
        raise Damage("the document's digest is wrong")
    return json.loads(text)


def kek_of_passphrase(passphrase: bytes, kdf: dict[str, Any]) -> bytes:
    """The key-encryption key of a passphrase."""
    if kdf["name"] != "argon2id":
        raise Later(kdf["name"])
    if not (8 << 10 <= kdf["memory_kib"] <= 1 << 20):
        raise Damage("unbounded key derivation")
    if not (1 <= kdf["iterations"] <= 16 and 1 <= kdf["lanes"] <= 16):
        raise Damage("unbounded key derivation")
    return Argon2id(
        salt=bytes.fromhex(kdf["salt"]),
        length=32,
        iterations=kdf["iterations"],
        lanes=kdf["lanes"],
        memory_cost=kdf["memory_kib"],
    ).derive(passphrase)


def kek_of_key_file(text: str, kdf: dict[str, Any]) -> bytes:
    """The key-encryption key of a key file."""
    prefix, _, encoded = text.strip().partition(":")
    assert prefix == "backup-pipeline-key-1"
    return derive(base64.b64decode(encoded), "key file", bytes.fromhex(kdf["salt"]))


def unwrap(kek: bytes, purpose: str, subject: bytes, wraps: Sequence[dict[str, Any]]) -> bytes:
    """The key in the first wrap that is for us."""
    name = derive(kek, "key name")[:8].hex()
    for wrap in wraps:
        if wrap.get("kind") != "symmetric" or wrap.get("purpose") != purpose:
            continue
        if wrap.get("key") != name:
            continue
        nonce, sealed = bytes.fromhex(wrap["nonce"]), bytes.fromhex(wrap["sealed"])
        if derive(kek, "commitment", nonce + sealed).hex() != wrap["commitment"]:
            raise Damage("a wrap's commitment is wrong")
        binding = purpose.encode() + b"\0" + subject
        try:
            return AESGCM(derive(kek, "wrap")).decrypt(nonce, sealed, binding)
        except InvalidTag:
            raise Damage("a wrap does not open") from None
    raise NoKey(purpose)


# -- the store


class Store:
    """A directory with a store in it, unlocked."""

    def __init__(self, root: Path, secret: bytes | str | None) -> None:
        self.root = root
        self.descriptor = self.document("store", b"S")
        self.kek = b""
        if self.descriptor["encryption"] == "none":
            self.name_key = derive(PUBLIC, "public name key")
            return
        if self.descriptor["encryption"] != "aes-256-gcm":
            raise Later(self.descriptor["encryption"])
        kdf = self.descriptor["kdf"]
        if isinstance(secret, bytes):
            self.kek = kek_of_passphrase(secret, kdf)
        else:
            self.kek = kek_of_key_file(str(secret), kdf)
        subject = bytes.fromhex(self.descriptor["store"])
        self.name_key = self.newest(
            "keys", lambda s: unwrap(self.kek, "store", subject, s["wraps"])
        )

    @property
    def encrypted(self) -> bool:
        return self.descriptor["encryption"] != "none"

    def get(self, name: str) -> bytes:
        """All bytes of a stored thing."""
        try:
            return (self.root / name).read_bytes()
        except OSError:
            raise Damage(f"{name} is missing") from None

    def names(self, folder: str, digits: int) -> list[str]:
        """Names of so many digits in a folder."""
        path = self.root / folder
        found = os.listdir(path) if path.is_dir() else []
        return sorted(n for n in found if len(n) == digits and n.isascii() and n.isdigit())

    def document(self, name: str, kind: bytes) -> dict[str, Any]:
        """A document from either copy."""
        try:
            return self._document(name, name, kind)
        except Damage:
            return self._document(name, name + ".twin", kind)

    def _document(self, name: str, place: str, kind: bytes) -> dict[str, Any]:
        said = decode_document(self.get(place), kind)
        if kind == b"K" and said["name"] != name:
            raise Damage("another key set's place")
        return said

    def newest(self, folder: str, open_one: Any) -> Any:
        """What the newest key set gives that our key opens."""
        path = self.root / folder
        names = {n.removesuffix(".twin") for n in os.listdir(path)} if path.is_dir() else set()
        for name in sorted(names, reverse=True):
            if len(name) == 8 and name.isdigit():
                try:
                    return open_one(self.document(f"{folder}/{name}", b"K"))
                except NoKey:
                    continue
        raise NoKey(folder)

    def prefix(self, dataset: str) -> str:
        """The folder of a dataset's repository."""
        return "repositories/" + derive(self.name_key, "prefix", dataset.encode())[:16].hex()

    def repository(self, dataset: str) -> Repository:
        """A dataset's repository."""
        return Repository(self, self.prefix(dataset))

    def repositories(self) -> list[Repository]:
        """All of them."""
        folders = sorted(os.listdir(self.root / "repositories"))
        return [Repository(self, f"repositories/{name}") for name in folders]


@dataclass
class State:
    """What a log adds up to."""

    dataset: str = ""
    tier: str = ""
    runs: dict[str, Any] = field(default_factory=dict)
    snapshots: dict[str, Any] = field(default_factory=dict)
    expired: dict[str, str] = field(default_factory=dict)
    pinned: dict[str, str] = field(default_factory=dict)
    condemned: dict[str, int] = field(default_factory=dict)
    replacements: dict[str, list[str]] = field(default_factory=dict)
    unknown: list[Any] = field(default_factory=list)

    def add(self, sequence: int, said: dict[str, Any]) -> None:
        """Take the next record."""
        match said["type"]:
            case "keys":
                self.dataset = said.get("dataset", self.dataset)
                self.tier = said.get("tier", self.tier)
            case "run":
                self.runs[said["run"]] = {k: v for k, v in said.items() if k != "foreign"}
                for run, wraps in said.get("foreign", {}).items():
                    other = {"run": run, "wraps": wraps, "foreign_run": True}
                    self.runs.setdefault(run, other)
            case "snapshot":
                self.snapshots.setdefault(said["id"], (sequence, said))
            case "expire":
                for one in said["snapshots"]:
                    if one["id"] not in self.pinned:
                        self.expired[one["id"]] = one["reason"]
            case "pin":
                if said["pinned"]:
                    self.pinned[said["snapshot"]] = said["reason"]
                else:
                    self.pinned.pop(said["snapshot"], None)
            case "condemn":
                self.condemned.update(dict.fromkeys(said["names"], sequence))
            case "replacement":
                self.replacements.update(said["replacements"])
            case "checkpoint":
                state = said["state"]
                for name in self.__dataclass_fields__:
                    setattr(self, name, state[name])
                self.snapshots = {one["id"]: (at, one) for at, one in state["snapshots"]}
                self.unknown = [tuple(one) for one in state["unknown"]]
            case other:
                if said.get("optional") is not True:
                    raise Later(f"record type {other}")
                self.unknown.append((sequence, said))


class Repository:
    """All of one dataset in one tier."""

    def __init__(self, store: Store, folder: str) -> None:
        self.store = store
        self.folder = folder
        self.encrypted = store.encrypted
        if self.encrypted:
            self.index_key, self.content_root, stated = store.newest(f"{folder}/keys", self._keys)
        else:
            self.index_key = derive(PUBLIC, "public index key")
            self.content_root = derive(PUBLIC, "public content key")
            stated = self.dataset_id
        if stated != self.dataset_id:
            raise Damage("the key set holds another dataset's keys")
        self.state = State()
        self.lost: list[int] = []
        self.last = self._read_log()
        if self.state.dataset and store.prefix(self.state.dataset) != folder:
            raise Damage(f"{self.state.dataset} lies under another's prefix")

    def _keys(self, key_set: dict[str, Any]) -> tuple[bytes, bytes, bytes]:
        subject, wraps, kek = bytes.fromhex(key_set["dataset"]), key_set["wraps"], self.store.kek
        return (
            unwrap(kek, "index", subject, wraps),
            unwrap(kek, "content", subject, wraps),
            subject,
        )

    @property
    def dataset_id(self) -> bytes:
        return derive(self.index_key, "dataset id")[:16]

    def _seal(self, secret: bytes, context: str, head: bytes) -> Seal:
        return Seal(derive(secret, context, head), self.encrypted)

    # -- the log

    def record(self, sequence: int, folder: str) -> tuple[str, str, dict[str, Any]]:
        """Digest, digest of the one before, and JSON of one copy of a record."""
        content = self.store.get(f"{self.folder}/{folder}/{sequence // EPOCH:06d}/{sequence:08d}")
        check_header(content, b"R")
        head = content[:RECORD_HEAD]
        if len(head) < RECORD_HEAD:
            raise Damage("cut short")
        _, dataset, number, before, _ = struct.unpack("<16s16sQ32s32s", head)
        if dataset != self.dataset_id or number != sequence:
            raise Damage("another record's place")
        seal = self._seal(self.index_key, "record", head)
        plain = seal.open(0, content[RECORD_HEAD:], b"record" + dataset)
        length, stored = struct.unpack_from("<II", plain)
        said = json.loads(unfold(plain[8 : 8 + stored], length))
        return hashlib.sha256(content).hexdigest(), before.hex(), said

    def copies(self, sequence: int) -> list[tuple[str, str, dict[str, Any]]]:
        """The copies of a record that open."""
        found = []
        for folder in ("log", "twin"):
            try:
                found.append(self.record(sequence, folder))
            except Damage:
                continue
        return found

    def _read_log(self, *, whole: bool = False) -> int:
        """Add the log up; its newest sequence."""
        names = self.store.names
        epochs = {n for f in ("log", "twin") for n in names(f"{self.folder}/{f}", 6)}
        records: dict[int, list[Any]] = {}
        for epoch in sorted(epochs, reverse=True):
            first = int(epoch) * EPOCH
            listed = {
                int(n) for f in ("log", "twin") for n in names(f"{self.folder}/{f}/{epoch}", 8)
            }
            for number in listed & set(range(first, first + EPOCH)) | {first}:
                records[number] = self.copies(number)
            if records[first] and not whole:
                break
        newest = max(records)
        wanted: str | None = None
        chosen: dict[int, Any] = {}
        for number in range(newest, min(records) - 1, -1):
            copies = records.get(number, [])
            if not copies:
                self.lost.append(number)
                wanted = None
                continue
            right = [one for one in copies if wanted in (None, one[0])]
            if not right:
                raise Damage(f"record {number} is not the one that the next names")
            chosen[number], wanted = right[0], right[0][1]
        for number in sorted(chosen):
            said = chosen[number][2]
            if (said["type"] == "checkpoint") != (number > 0 and number % EPOCH == 0):
                raise Damage("a checkpoint out of place")
            self.state.add(number, said)
        return newest

    def added_up_from_the_first(self) -> State:
        """The state by way of all records, to hold checkpoints against."""
        kept, self.state = self.state, State()
        try:
            for number in range(self.last + 1):
                said = self.copies(number)[0][2]
                if said["type"] != "checkpoint":
                    self.state.add(number, said)
            return self.state
        finally:
            self.state = kept

    def snapshots(self) -> list[dict[str, Any]]:
        """Snapshots that are not expired, in order of their records."""
        live = [
            one for one in self.state.snapshots.values() if one[1]["id"] not in self.state.expired
        ]
        return [said for _, said in sorted(live, key=lambda one: one[0])]

    # -- manifest

    def segment(
        self, listed: dict[str, Any], seen: frozenset[str] = frozenset()
    ) -> list[dict[str, Any]]:
        """The rows of a segment, or of what stands for it."""
        others = self.state.replacements.get(f"manifests/{listed['name']}")
        if others is not None and listed["name"] not in seen:
            merged: dict[bytes, dict[str, Any]] = {}
            for other in others:
                rows = self.segment(other, seen | {listed["name"]})
                merged.update((row["path"], row) for row in rows)
            return list(merged.values())
        stored = self.store.get(f"{self.folder}/manifests/{listed['name']}")
        if hashlib.sha256(stored).hexdigest() != listed["name"]:
            raise Damage("a segment does not match its name")
        content = stored
        if self.encrypted:
            check_header(stored, b"M")
            head, rest, step = stored[:SEGMENT_HEAD], stored[SEGMENT_HEAD:], FRAME + TAG
            seal = self._seal(self.index_key, "manifest", head)
            pieces = [rest[at : at + step] for at in range(0, len(rest), step)]
            opened = [
                seal.open(
                    number,
                    piece,
                    b"manif1"
                    + self.dataset_id
                    + struct.pack("<IB", number, number == len(pieces) - 1),
                )
                for number, piece in enumerate(pieces)
            ]
            content = b"".join(opened)[: listed["length"]]
        file = pq.ParquetFile(pa.BufferReader(content))
        said = json.loads(file.metadata.metadata[b"backup_pipeline"])
        if said["format"] != 1 or said["read"]:
            raise Later("segment")
        # Threads of pyarrow that still run when the interpreter ends may abort it.
        return file.read(use_threads=False).to_pylist()

    def entries(self, snapshot: dict[str, Any]) -> list[dict[str, Any]]:
        """The entries of a snapshot, by path."""
        entries: dict[bytes, dict[str, Any]] = {}
        for listed in snapshot["segments"]:
            for row in self.segment(listed):
                parts = row["path"].split(b"/")
                if b"\0" in row["path"] or set(parts) & {b"", b".", b".."}:
                    raise Damage("an impossible path")
                entries[row["path"]] = row
        return [entries[path] for path in sorted(entries) if entries[path]["type"] != "deleted"]

    # -- packs

    def _pack(self, name: bytes) -> tuple[bytes, bytes]:
        """All bytes of a pack, and its head."""
        content = self.store.get(f"{self.folder}/packs/{name[:16].hex()}/{name[16:].hex()}")
        check_header(content, b"P")
        return content, content[:PACK_HEAD]

    def index(self, name: bytes) -> Iterator[dict[str, Any]]:
        """Every chunk in a pack, as a manifest would place it."""
        content, head = self._pack(name)
        if content[-4:] != b"KPBX":
            raise Damage("no pack's end")
        seal = self._seal(self.index_key, "pack index", head)
        (size,) = struct.unpack("<I", seal.open(1, content[-24:-4], b"trail1" + self.dataset_id))
        sealed = content[-24 - size : -24]
        plain = seal.open(0, sealed, b"index1" + self.dataset_id)
        frames, members = struct.unpack_from("<II", plain)
        numbers = struct.unpack_from(f"<{3 * frames + members}I", plain, 8)
        stored, raw = numbers[:frames], numbers[frames : 2 * frames]
        counts, sizes = numbers[2 * frames : 3 * frames], numbers[3 * frames :]
        ids = 8 + 4 * len(numbers)
        offset, member = PACK_HEAD, 0
        for ordinal in range(frames):
            inner = 0
            for _ in range(counts[ordinal]):
                yield {
                    "pack": name,
                    "ordinal": ordinal,
                    "offset": offset,
                    "stored": stored[ordinal],
                    "raw": raw[ordinal],
                    "inner": inner,
                    "size": sizes[member],
                    "id": plain[ids + 32 * member : ids + 32 * member + 32],
                }
                inner += sizes[member]
                member += 1
            offset += stored[ordinal]

    def _standing(self, name: bytes, seen: set[bytes]) -> Iterator[bytes]:
        seen.add(name)
        text = f"packs/{name[:16].hex()}/{name[16:].hex()}"
        if text not in self.state.replacements:
            yield name
            return
        for other in self.state.replacements[text]:
            _, run, digest = other.split("/")
            if bytes.fromhex(run + digest) not in seen:
                yield from self._standing(bytes.fromhex(run + digest), seen)

    def chunk(self, place: dict[str, Any]) -> bytes:
        """The content of a chunk."""
        for name in self._standing(place["pack"], set()):
            if name != place["pack"]:
                found = [one for one in self.index(name) if one["id"] == place["id"]]
                if found:
                    place = found[0]
                    break
        content, head = self._pack(place["pack"])
        run = head[16:32]
        wraps = self.state.runs[run.hex()]["wraps"]
        key = unwrap(self.content_root, "run", self.dataset_id + run, wraps)
        seal = self._seal(key, "pack frames", head)
        sealed = content[place["offset"] : place["offset"] + place["stored"]]
        binding = b"frame1" + self.dataset_id + struct.pack("<I", place["ordinal"])
        frame = unfold(seal.open(place["ordinal"], sealed, binding), place["raw"])
        chunk = frame[place["inner"] : place["inner"] + place["size"]]
        if keyed(derive(self.index_key, "identity"), chunk) != place["id"]:
            raise Damage("a chunk has another id")
        return chunk

    # -- restore

    def restore(self, snapshot: dict[str, Any], target: Path) -> list[bytes]:
        """Write a snapshot's files below an empty folder; paths that could not be."""
        entries, lost = self.entries(snapshot), []
        first_of: dict[tuple[int, int], bytes] = {}
        where = os.fsencode(target) + b"/"
        os.makedirs(where, exist_ok=True)
        for row in entries:
            path = where + row["path"]
            if row["type"] == "directory":
                os.makedirs(path, exist_ok=True)
                continue
            os.makedirs(os.path.dirname(path), exist_ok=True)
            if row["type"] == "symlink":
                os.symlink(row["link_target"], path)
            elif row["type"] in ("file", "object") and row["state"] in ("good", "torn"):
                same = (row["device"], row["inode"]) if (row["links"] or 0) > 1 else None
                if same in first_of:
                    os.link(where + first_of[same], path)
                    continue
                try:
                    self._write(row, path)
                except Damage:
                    lost.append(row["path"])
                    continue
                if same is not None:
                    first_of[same] = row["path"]
            elif row["state"] != "skipped":
                lost.append(row["path"])
        for row in reversed(entries):
            path = where + row["path"]
            if os.path.lexists(path) and row["mtime_ns"] is not None:
                if row["type"] != "symlink" and row["mode"] is not None:
                    os.chmod(path, row["mode"])
                os.utime(path, ns=(row["mtime_ns"],) * 2, follow_symlinks=False)
        return lost

    def _write(self, row: dict[str, Any], path: bytes) -> None:
        content = b"".join(self.chunk(place) for place in row["chunks"] or ())
        at = done = 0
        holes = [(hole["offset"], hole["length"]) for hole in row["holes"] or ()]
        if len(content) + sum(length for _, length in holes) != row["size"]:
            raise Damage("chunks and holes do not add up")
        with open(path, "wb") as file:
            file.truncate(row["size"])
            for offset, length in [*holes, (row["size"], 0)]:
                file.seek(at)
                file.write(content[done : done + offset - at])
                done += offset - at
                at = offset + length
        for pair in row["xattrs"] or ():
            try:
                os.setxattr(path, pair["name"], pair["value"])
            except OSError:
                continue  # not every file system has them


def main(arguments: Sequence[str]) -> None:
    """Restore a snapshot, by default the newest."""
    root, dataset, target, *wanted = arguments
    store = Store(Path(root), os.environb.get(b"BACKUP_PASSPHRASE"))
    repository = store.repository(dataset)
    snapshots = [one for one in repository.snapshots() if one["id"].startswith("".join(wanted))]
    lost = repository.restore(snapshots[-1], Path(target))
    for path in lost:
        print("lost:", path, file=sys.stderr)
    sys.exit(1 if lost or repository.lost else 0)


if __name__ == "__main__":
    main(sys.argv[1:])

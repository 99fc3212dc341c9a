"""Records of the log: sealed JSON that names its predecessor, and the snapshot it may commit.

    header 16 | dataset id 16 | sequence u64 | SHA-256 of the last record 32 | salt 32 | sealed body
    body: length of the JSON u32 | length as it is stored u32 | JSON, or its zstd frame | zeros

The sealing key comes from these first 104 bytes and the index key, so a record that is moved or
whose head is changed does not open.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, date, datetime
from typing import Any, cast

from backup_pipeline.engine.crypto import (
    TAG_BYTES,
    Buffer,
    new_salt,
    sealer,
    sha256_hex,
)
from backup_pipeline.engine.errors import DamageError
from backup_pipeline.engine.format.header import (
    RECORD,
    canonical_json,
    check_header,
    decode_json,
    header,
)
from backup_pipeline.engine.keys import DatasetKeys

__all__ = [
    "RECORD_TYPES",
    "SEGMENT_FIELDS",
    "Record",
    "Segment",
    "Snapshot",
    "decode_record",
    "encode_record",
    "from_iso",
    "is_hex",
    "pack_name",
    "pack_name_text",
    "to_iso",
]

# checkpoint: the state after all earlier records. The rest are events, newest last.
RECORD_TYPES = (
    "keys",
    "run",
    "snapshot",
    "expire",
    "pin",
    "condemn",
    "replacement",
    "clear",
    "checkpoint",
)
PADDING_BYTES = 256
DIGEST_BYTES = 32
ID_BYTES = 16  # of datasets, snapshots, runs and chains
MOST_BODY_BYTES = 256 * 1024 * 1024  # a reader refuses to unfold more
LEAST_COMPRESSED_BYTES = 512
_HEAD, _LENGTHS = struct.Struct("<16s16sQ32s32s"), struct.Struct("<II")
HEAD_BYTES = _HEAD.size


_HEX = re.compile("[0-9a-f]*")


def is_hex(value: object, size_bytes: int) -> bool:
    """Whether a value is so many bytes in lowercase hex."""
    return (
        isinstance(value, str)
        and len(value) == 2 * size_bytes
        and _HEX.fullmatch(value) is not None
    )


def pack_name_text(name: bytes) -> str:
    """A pack's 48-byte name as records say it: ``packs/<run>/<sha256>``, below the prefix."""
    return f"packs/{name[:ID_BYTES].hex()}/{name[ID_BYTES:].hex()}"


def pack_name(text: str) -> bytes:
    """The 48-byte name of a pack that a record names.

    Raises:
        DamageError: It names none.
    """
    folder, run, digest = text.split("/") if text.count("/") == 2 else ("", "", "")
    if folder != "packs" or not is_hex(run, ID_BYTES) or not is_hex(digest, DIGEST_BYTES):
        raise DamageError(f"a record names {text!r}, which is no pack")
    return bytes.fromhex(run + digest)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63


_COUNTS = (
    "entries",
    "good_entries",
    "files",
    "bytes",
    "read_bytes",
    "stored_bytes",
    "deduplicated_bytes",
    "problem_count",
    "scan_started_ns",
)
_TEXTS = ("kind", "timing", "status", "fingerprint")
_LISTS = ("problems", "segments")


def _check_types(body: Mapping[str, Any]) -> None:
    """Refuse a snapshot's body that does not say what it must, or says it in other types.

    Raises:
        KeyError, ValueError: See above.
    """
    wrong = [name for name in ("id", "chain") if not is_hex(body[name], ID_BYTES)]
    wrong += [name for name in _COUNTS if not _is_count(body[name])]
    wrong += [name for name in _TEXTS if not isinstance(body[name], str)]
    wrong += [name for name in _LISTS if not isinstance(body[name], list)]
    for name in ("parent", "base"):
        if body[name] is not None and not is_hex(body[name], ID_BYTES):
            wrong.append(name)
    if body["run"] != "" and not is_hex(body["run"], ID_BYTES):
        wrong.append("run")
    if not isinstance(body["changes"], dict):
        wrong.append("changes")
    if wrong:
        raise ValueError(f"unusable {', '.join(wrong)}")


def _cut(value: object) -> Mapping[str, Any] | None:
    """What a record says of its cut; None where it says nothing that could be used.

    It is optional: a snapshot whose cut makes no sense is an ordinary snapshot, not a damaged one.
    """
    if not isinstance(value, dict):
        return None
    cut = cast("dict[str, Any]", value)
    members = cut.get("members")
    if not is_hex(cut.get("id"), ID_BYTES) or not isinstance(members, list):
        return None
    texts = [cut.get("set"), cut.get("proof"), *cast("list[object]", members)]
    return cut if members and all(isinstance(text, str) for text in texts) else None


def to_iso(moment: datetime) -> str:
    """A UTC time as ``2026-11-22T02:00:00.123456Z``."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def from_iso(text: str) -> datetime:
    """The aware UTC time of ``to_iso``."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"{text} has no time zone")
    return moment.astimezone(UTC)


@dataclass(frozen=True, slots=True)
class Record:
    """One entry of the log.

    Attributes:
        sequence: Its number, from 0.
        previous: SHA-256 (hex) of the record before it; empty for the first.
        body: What it says; ``type`` is one of RECORD_TYPES.
        digest: SHA-256 (hex) of its own stored bytes.
    """

    sequence: int
    previous: str
    body: Mapping[str, Any]
    digest: str

    @property
    def type(self) -> str:
        """Which kind of record this is."""
        return str(self.body.get("type"))


def encode_record(
    keys: DatasetKeys,
    sequence: int,
    previous: str,
    body: Mapping[str, Any],
    salt: bytes | None = None,
) -> bytes:
    """The stored bytes of a record."""
    salt = new_salt() if salt is None else salt
    before = bytes.fromhex(previous) if previous else bytes(DIGEST_BYTES)
    head = _HEAD.pack(header(RECORD), keys.dataset_id, sequence, before, salt)
    plain = _pack_body(canonical_json(body))
    out = bytearray(HEAD_BYTES + len(plain) + TAG_BYTES)
    out[:HEAD_BYTES] = head
    box = sealer(keys.index, "record", head, encrypted=keys.encrypted)
    box.seal_into(0, plain, b"record" + keys.dataset_id, memoryview(out)[HEAD_BYTES:])
    return bytes(out)


def _pack_body(text: bytes) -> bytes:
    packed = text
    if len(text) >= LEAST_COMPRESSED_BYTES:
        import zstandard

        packed = min(text, zstandard.ZstdCompressor(level=3).compress(text), key=len)
    plain = _LENGTHS.pack(len(text), len(packed)) + packed
    return plain + bytes(-len(plain) % PADDING_BYTES)


def _unpack_body(plain: bytes, name: str) -> bytes:
    if len(plain) < _LENGTHS.size:
        raise DamageError(f"{name} holds no body")
    length, stored = _LENGTHS.unpack_from(plain)
    packed = plain[_LENGTHS.size : _LENGTHS.size + stored]
    if len(packed) != stored or not stored <= length <= MOST_BODY_BYTES:
        raise DamageError(f"{name} holds a body of impossible length")
    if stored == length:
        return packed
    import zstandard

    try:
        if zstandard.frame_content_size(packed) != length:
            raise DamageError(f"{name} holds a body of another length than it says")
        return zstandard.ZstdDecompressor().decompress(packed)
    except zstandard.ZstdError as error:
        raise DamageError(f"{name} does not unfold: {error}") from None


def decode_record(keys: DatasetKeys, content: Buffer, sequence: int, name: str) -> Record:
    """Open and check a record that was found under this sequence number.

    Raises:
        DamageError: It is not the record that was written there.
        UsageError: A later version wrote it.
    """
    check_header(content, RECORD, name)
    view = memoryview(content)
    if len(view) < HEAD_BYTES:
        raise DamageError(f"{name} is cut short")
    head = bytes(view[:HEAD_BYTES])
    _, dataset, found, before, _ = _HEAD.unpack(head)
    if found != sequence or dataset != keys.dataset_id:
        raise DamageError(
            f"{name} is record {found} of dataset {dataset.hex()}, put in the place of another",
            "its twin under twin/ may be right; restore works from either",
        )
    box = sealer(keys.index, "record", head, encrypted=keys.encrypted)
    try:
        plain = bytes(box.open(0, view[HEAD_BYTES:], b"record" + keys.dataset_id))
    except DamageError as error:
        raise DamageError(f"{name}: {error.message}") from None
    body = decode_json(_unpack_body(plain, name), name)
    previous = before.hex() if any(before) else ""
    return Record(sequence, previous, body, sha256_hex(content))


@dataclass(frozen=True, slots=True)
class Segment:
    """One segment in a snapshot's list.

    Attributes:
        name: SHA-256 (hex) of the stored object.
        length: Bytes of the Parquet file in it.
        stored: Bytes of the stored object.
        rows: Rows in it.
        merkle: Reserved for a root over its rows; None in version 1 writers.
        origin: Name of the segment it was copied from, if it was.
    """

    name: str
    length: int
    stored: int
    rows: int
    merkle: str | None = None
    origin: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Fields by name."""
        return {name: getattr(self, name) for name in SEGMENT_FIELDS}

    @staticmethod
    def from_json(entry: Mapping[str, Any]) -> Segment:
        """Read one entry of a snapshot's list; fields of later versions are passed over.

        Raises:
            ValueError, KeyError, AttributeError: It is none.
        """
        name, length, stored, rows = (entry[field] for field in _SEGMENT_NEEDS)
        sizes = _is_count(length) and _is_count(stored) and _is_count(rows)
        if not sizes or not is_hex(name, DIGEST_BYTES):
            raise ValueError("a segment without name or sizes")
        return Segment(name, length, stored, rows, entry.get("merkle"), entry.get("origin"))


SEGMENT_FIELDS = tuple(field.name for field in fields(Segment))
_SEGMENT_NEEDS = ("name", "length", "stored", "rows")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One committed backup.

    Attributes:
        id: 32 hex digits.
        dataset: The dataset's key.
        tier: The tier's name.
        day: The day it stands for.
        kind: ``full``, ``incremental`` or ``differential``.
        chain: Id of the chain: the id of the run that began it with a full.
        parent: Id of the snapshot whose entries were compared, if any.
        base: Id of the full that its chain began with; None for a full.
        sequence: Number of its record in the log.
        run: Id of the run that wrote its packs; empty where nothing was written.
        started_at: When the run began (UTC).
        captured_at: When the source began to be read (UTC); a copy keeps its origin's.
        finished_at: When all was durable and the record was about to be appended (UTC).
        timing: ``exact``, ``on-time`` or ``late``.
        status: ``complete`` or ``incomplete``.
        entries: Entries listed.
        good_entries: Entries whose bytes are all there.
        files: Regular files or objects among them.
        bytes: Logical bytes of the files.
        read_bytes: Bytes read from the source or from the tier copied from.
        stored_bytes: Bytes that this run added to the store's packs and segments.
        deduplicated_bytes: Logical bytes that were stored already.
        problems: The first 100 entries that are not good, each with path and reason.
        problem_count: How many there are.
        fingerprint: The source's at this snapshot (hex).
        segments: The manifest.
        digest: SHA-256 (hex) over the manifest list and what the snapshot stands for.
        origin: Tier, id and digest of the snapshot it was copied from.
        synthetic: Whether a full was assembled from another tier's snapshot, not read anew.
        changes: Counts of entries added, changed and deleted, and the ten largest.
        scan_started_ns: Source clock at the start of the scan; entries modified after this,
            less the clock's granularity, are read again next time.
        deployment: The deployment that wrote it.
        writer: Version of the writing package.
        cut: Of a member of a consistent set: ``id`` of the cut, name of the ``set``, its
            ``members``, and the ``proof`` that they were read as one; None for any other.
        anomaly: What changed, and what is suspicious of it; None where nothing was measured.
    """

    id: str
    dataset: str
    tier: str
    day: date
    kind: str
    chain: str
    parent: str | None
    base: str | None
    run: str
    started_at: datetime
    captured_at: datetime
    finished_at: datetime
    timing: str
    status: str
    entries: int
    good_entries: int
    files: int
    bytes: int
    read_bytes: int
    stored_bytes: int
    deduplicated_bytes: int
    problems: Sequence[Mapping[str, str]]
    problem_count: int
    fingerprint: str
    segments: Sequence[Segment]
    changes: Mapping[str, Any]
    scan_started_ns: int
    origin: Mapping[str, str] | None = None
    synthetic: bool = False
    deployment: str | None = None
    writer: str = ""
    cut: Mapping[str, Any] | None = None
    anomaly: Mapping[str, Any] | None = None
    sequence: int = -1
    digest: str = ""

    @property
    def duration_s(self) -> float:
        """Seconds from the run's start to its end."""
        return max(0.0, (self.finished_at - self.started_at).total_seconds())

    @property
    def speed_bytes_per_s(self) -> float:
        """S = D / T: logical bytes protected, by the run's seconds."""
        return self.bytes / self.duration_s if self.duration_s else 0.0

    @property
    def integrity(self) -> float:
        """I = N_good / N_total over the entries; 1 for an empty dataset."""
        return self.good_entries / self.entries if self.entries else 1.0

    def record_body(self) -> dict[str, Any]:
        """The body of the record that commits this snapshot."""
        body: dict[str, Any] = {"type": "snapshot"}
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in {"sequence", "digest", "dataset", "tier"}:
                continue
            if field.name in {"anomaly", "cut"} and value is None:
                continue  # optional: most snapshots are no member's
            if isinstance(value, datetime):
                value = to_iso(value)
            elif isinstance(value, date):
                value = value.isoformat()
            elif field.name == "segments":
                value = [segment.to_json() for segment in self.segments]
            body[field.name] = value
        return body

    @staticmethod
    def from_body(body: Mapping[str, Any], sequence: int, *, dataset: str, tier: str) -> Snapshot:
        """Read a snapshot record's body.

        Raises:
            DamageError: It lacks what a snapshot record must say.
        """
        values = {name: value for name, value in body.items() if name in _SNAPSHOT_FIELDS}
        try:
            _check_types(body)
            for name in ("started_at", "captured_at", "finished_at"):
                values[name] = from_iso(values[name])
            values["day"] = date.fromisoformat(values["day"])
            values["segments"] = [Segment.from_json(entry) for entry in values["segments"]]
            values["cut"] = _cut(values.get("cut"))
            values.update(
                dataset=dataset, tier=tier, sequence=sequence, digest=snapshot_digest(body)
            )
            return Snapshot(**values)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise DamageError(f"snapshot record {sequence} is unreadable: {error!r}") from None

    def to_json(self) -> dict[str, Any]:
        """What front ends show of it."""
        value = {k: v for k, v in self.record_body().items() if k not in {"type", "segments"}}
        value.update(
            dataset=self.dataset,
            tier=self.tier,
            sequence=self.sequence,
            digest=self.digest,
            segments=len(self.segments),
            duration_s=self.duration_s,
            speed_bytes_per_s=self.speed_bytes_per_s,
            integrity=self.integrity,
        )
        return value


_SNAPSHOT_FIELDS = frozenset(field.name for field in fields(Snapshot)) - {"sequence", "digest"}


def snapshot_digest(body: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of what a snapshot stands for: its id, day, times, status and manifest."""
    covered = ("id", "day", "captured_at", "timing", "status", "entries", "bytes", "segments")
    return sha256_hex(canonical_json({name: body.get(name) for name in covered}))

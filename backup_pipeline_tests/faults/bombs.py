"""What is small to store and claims, or is, gigabytes; run as a program, it decodes them in little
memory and says what came of each.

    python -m backup_pipeline_tests.faults.bombs FILE BYTES
"""

from __future__ import annotations

import json
import pickle
import resource
import struct
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from backup_pipeline.engine.chunker import decompress
from backup_pipeline.engine.crypto import TAG_BYTES, sealer
from backup_pipeline.engine.errors import BackupError
from backup_pipeline.engine.format import pack
from backup_pipeline.engine.format import record as record_module
from backup_pipeline.engine.format.document import decode_descriptor, decode_key_set
from backup_pipeline.engine.format.header import KEY_SET, STORE, header
from backup_pipeline.engine.format.manifest import SegmentFile, encode_segment, manifest_schema
from backup_pipeline.engine.format.record import decode_record, encode_record
from backup_pipeline.engine.format.sealed import open_sealed
from backup_pipeline.engine.keys import DatasetKeys, parse_key_file
from backup_pipeline.plan.loading import load_plan

KEYS = DatasetKeys(bytes(32), bytes(range(32)))
START = pack.pack_header(bytes(16), bytes(32))
LARGE_BYTES = 640 << 20
Bomb = tuple[str, str, Any]
"""What it is, which decoder it is for, and the bytes."""


def _packed(content: bytes) -> bytes:
    return zstandard.ZstdCompressor(level=3).compress(content)


def _record(plain: bytes) -> bytes:
    head = encode_record(KEYS, 0, "", {}, bytes(32))[: record_module.HEAD_BYTES]
    out = bytearray(len(plain) + TAG_BYTES)
    box = sealer(KEYS.index, "record", head, encrypted=True)
    box.seal_into(0, plain, b"record" + KEYS.dataset_id, memoryview(out))
    return head + bytes(out)


def _record_of(text: bytes) -> bytes:
    packed = _packed(text)
    return _record(struct.pack("<II", len(text), len(packed)) + packed)


def records() -> list[Bomb]:
    """Records that unfold to more than they say, or to what takes more memory than its text."""
    many = b'{"a":[' + b"[]," * (80 << 20) + b"[]]}"
    members = b"{" + b",".join(b'"%d":{}' % number for number in range(9_000_000)) + b"}"
    deep = b'{"a":' + b"[" * 1_000_000 + b"]" * 1_000_000 + b"}"
    zeros = _packed(bytes(300 << 20))
    long = b'{"a":' + b"9" * 10_000_000 + b"}"
    texts = {"many lists": many, "many members": members, "deep lists": deep, "a long number": long}
    found: list[Bomb] = [(name, "record", _record_of(text)) for name, text in texts.items()]
    for name, length in (("too much", 300 << 20), ("more than it says", 1000)):
        plain = struct.pack("<II", length, len(zeros)) + zeros
        found.append((name, "record", _record(plain)))
    return found


def documents() -> list[Bomb]:
    """Documents of the largest size, full of the smallest values."""
    import hashlib

    found: list[Bomb] = []
    for kind, decoder in ((STORE, "descriptor"), (KEY_SET, "key set")):
        for name, text in (
            ("many lists", b'{"wraps":[' + b"[]," * 1_300_000 + b"[]]}"),
            ("deep lists", b'{"wraps":' + b"[" * 2_000_000),
            ("much", b'{"wraps":"' + b"x" * (200 << 20) + b'"}'),
        ):
            start = header(kind)
            digest = hashlib.sha256(start + text).digest()
            found.append((name, decoder, start + digest + text))
    return found


def frames() -> list[Bomb]:
    """Frames of a pack that unfold to more than they say, or want a large window."""
    big = _packed(bytes(1 << 30))
    params = zstandard.ZstdCompressionParameters(window_log=31, compression_level=1)
    one = zstandard.ZstdCompressor(compression_params=params).compressobj()
    unknown = one.compress(bytes(16 << 20)) + one.flush()
    return [
        ("more than it says", "frame", (big, 1000)),
        ("more than a frame", "frame", (big, 16 << 20)),
        ("no size", "frame", (unknown, 16 << 20)),
    ]


def indexes() -> list[Bomb]:
    """Indexes of more than there is, and that point out of the pack."""

    def sealed(plain: bytes) -> bytes:
        out = bytearray(len(plain) + TAG_BYTES)
        box = sealer(KEYS.index, "pack index", START, encrypted=True)
        box.seal_into(0, plain, b"index1" + KEYS.dataset_id, memoryview(out))
        return bytes(out)

    most = (1 << 32) - 1
    some = 4_000_000
    return [
        ("claims frames", "index", sealed(struct.pack("<II", most, 0))),
        ("claims members", "index", sealed(struct.pack("<II", 0, most))),
        ("claims both", "index", sealed(struct.pack("<II", most, most))),
        ("empty frames", "index", sealed(struct.pack("<II", some, 0) + bytes(12 * some))),
        (
            "frames outside",
            "index",
            sealed(struct.pack("<II", 2, 0) + struct.pack("<6I", most, most, most, most, 0, 0)),
        ),
    ]


def _rows(count: int, columns: dict[str, Any]) -> pa.Table:
    said = {
        "type": pa.array(["file"]).take(pa.array([0] * count)),
        "state": pa.array(["good"]).take(pa.array([0] * count)),
        "size": pa.array([0]).take(pa.array([0] * count)),
        **columns,
    }
    schema = manifest_schema()
    return pa.Table.from_arrays(
        [said[f.name] if f.name in said else pa.nulls(count, f.type) for f in schema],
        schema=schema,
    )


def _varint(value: int, size: int = 0) -> bytes:
    """A number as Parquet's headers have it, drawn out to so many bytes."""
    value, out = value << 1, bytearray()
    while value > 127 or len(out) + 1 < size:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def understated(file: bytes, claims: int, instead: int) -> bytes:
    """A Parquet file whose summary says something else than it did."""
    begin = len(file) - 8 - int.from_bytes(file[-8:-4], "little")
    told = _varint(claims)
    assert told in file[begin:]
    return file[:begin] + file[begin:].replace(told, _varint(instead, len(told)))


def segments() -> list[Bomb]:
    """Parquet of many rows, long values and words, and many chunks; in few bytes."""
    path = pa.array([b"a"])
    large = pa.array([bytes(LARGE_BYTES)], pa.binary())
    one = bytes(encode_segment(_rows(1, {"path": path, "link_target": large})))
    metadata = pq.ParquetFile(pa.BufferReader(one)).metadata.row_group(0)
    column = next(
        metadata.column(n)
        for n in range(metadata.num_columns)
        if metadata.column(n).path_in_schema == "link_target"
    )
    quiet = understated(one, column.total_uncompressed_size, 100)
    count = 3_000_000
    rows = _rows(count, {"path": pa.array([b"a"]).take(pa.array([0] * count))})
    many = pa.BufferOutputStream()
    said = b'{"format":1}'
    with pq.ParquetWriter(many, manifest_schema(), compression="zstd") as writer:
        writer.write_table(rows, row_group_size=count)
        writer.add_key_value_metadata({"backup_pipeline": said})
    wordy = pa.BufferOutputStream()
    words = pa.array(["w" * LARGE_BYTES], pa.string())
    with pq.ParquetWriter(wordy, manifest_schema(), compression="zstd") as writer:
        writer.write_table(_rows(1, {"path": path, "reason": words}))
        writer.add_key_value_metadata({"backup_pipeline": said})
    few = bytes(encode_segment(_rows(1000, {"path": pa.array([b"%03d" % n for n in range(1000)])})))
    return [
        ("a long value", "segment", one),
        ("a long value that the summary hides", "segment", quiet),
        ("a long word", "segment", bytes(wordy.getvalue())),
        ("many rows in few bytes", "segment", bytes(many.getvalue())),
        ("fewer rows than it says", "segment", understated(few, 1000, 8000)),
        ("many chunks in few bytes", "segment", _many_chunks(4_000_000)),
    ]


def _many_chunks(count: int) -> bytes:
    """One row of so many chunks that are the same."""
    chunk = manifest_schema().field("chunks").type.value_type
    nothing = pa.array([0] * count, pa.uint32())
    fields = [
        pa.array([b"p" * field.type.byte_width], field.type).take(nothing)
        if pa.types.is_fixed_size_binary(field.type)
        else nothing
        for field in chunk
    ]
    flat = pa.StructArray.from_arrays(fields, fields=list(chunk))
    lists = pa.ListArray.from_arrays(
        pa.array([0, count], pa.int32()), flat, type=manifest_schema().field("chunks").type
    )
    out = pa.BufferOutputStream()
    with pq.ParquetWriter(out, manifest_schema(), compression="zstd") as writer:
        writer.write_table(_rows(1, {"path": pa.array([b"a"]), "chunks": lists}))
        writer.add_key_value_metadata({"backup_pipeline": b'{"format":1}'})
    return bytes(out.getvalue())


def plans() -> list[Bomb]:
    """Plans that unfold, that merge without end, and that are long or deep."""
    aliases = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    merges = ["a0: &a0 {x: 1}"]
    for n in range(1, 12):
        aliases.append(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]")
        merges.append(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 10)}]}}")
    return [
        ("aliases", "plan", "\n".join(aliases).encode()),
        ("merges", "plan", "\n".join(merges).encode()),
        ("deep", "plan", b"a: " + b"[" * 100_000),
        ("deep mappings", "plan", b"{a: " * 50_000),
        ("many lists", "plan", b"a: [" + b"[]," * 1_000_000 + b"[]]"),
        ("long", "plan", b"a: " + b"x" * (64 << 20)),
        ("a long key", "plan", b"? " + b"x" * (2 << 20) + b"\n: 1"),
        ("a cycle", "plan", b"a: &a [*a]\nb: &b {<<: *b}"),
    ]


def all_bombs() -> list[Bomb]:
    """All of them, and key files and sealed content of no use."""
    sized = header(b"M") + bytes(32)
    rest: list[Bomb] = [
        ("long", "key file", b"backup-pipeline-key-1:" + b"A" * (64 << 20)),
        ("short", "sealed", sized),
        ("zeros", "sealed", sized + bytes(64 << 20)),
    ]
    return [*records(), *documents(), *frames(), *indexes(), *segments(), *plans(), *rest]


def _plan(content: bytes) -> None:
    path = Path(sys.argv[1]).with_suffix(".yaml")
    path.write_bytes(content)
    load_plan(path, environ={})


DECODERS: dict[str, Callable[[Any], object]] = {
    "record": lambda content: decode_record(KEYS, content, 0, "it"),
    "descriptor": lambda content: decode_descriptor(content, "store"),
    "key set": lambda content: decode_key_set(content, "keys/00000000"),
    "frame": lambda content: decompress(*content, zstandard.ZstdDecompressor()),
    "index": lambda content: pack.decode_index(KEYS, START, content, 1000, "it"),
    "segment": lambda content: SegmentFile(content, "it").read(),
    "plan": _plan,
    "key file": parse_key_file,
    "sealed": lambda content: open_sealed(KEYS, content, "it"),
}


def _used_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def main() -> None:
    """Decode each bomb of a file with so many bytes of address space more than without."""
    with open(sys.argv[1], "rb") as file:
        bombs: list[Bomb] = pickle.load(file)
    for decoder in DECODERS:  # what is loaded or begun once does not count
        with suppress(BackupError):
            DECODERS[decoder]((b"", 1) if decoder == "frame" else b"")
    pa.set_cpu_count(1)
    SegmentFile(encode_segment(manifest_schema().empty_table()), "it").read()
    limit = _used_bytes() + int(sys.argv[2])
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    told: list[tuple[str, str, str]] = []
    for name, decoder, content in bombs:
        try:
            DECODERS[decoder](content)
            end = "decoded"
        except BackupError as error:
            end = f"refused: {error.message[:200]}"
        except BaseException as error:
            end = f"{type(error).__name__}: {str(error)[:200]}"
        told.append((decoder, name, end))
    print(json.dumps(told))


if __name__ == "__main__":
    main()
